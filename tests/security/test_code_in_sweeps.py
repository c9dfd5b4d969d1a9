"""A sweep file from a stranger: what it may name, what is imported of that, and when."""

import os
import subprocess
import sys

import pytest

from orchestrator import sweep as sweeps

SWEEP = """
name: named
question: What does a name run?
components: {digits: {dataset: digits}, strange: COMPONENT}
vary: {mixture: [{digits: 1, strange: 1}], architecture: mlp}
seeds: 1
pretrain: {steps: 2, batch_size: 16}
"""
MARKS = "from pathlib import Path\nPath(__file__).with_name('imported').write_text('')\n"


def bottleneck(folder, *arguments, **variables):
    """The command as an installed script runs it: the folder that it is typed in is not on Python's path."""
    path = os.pathsep.join([*variables.pop("path", ()), *(p for p in sys.path if p)])
    return subprocess.run(
        [sys.executable, "-P", "-m", "orchestrator.cli", *map(str, arguments)],
        cwd=folder, env={**os.environ, "PYTHONPATH": path, **variables}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def module(folder, *names):
    """Modules that leave a mark when they are imported."""
    for name in names:
        (folder / f"{name}.py").write_text(MARKS)
    return folder


def write(folder, component):
    path = folder / "named.yaml"
    path.write_text(SWEEP.replace("COMPONENT", component))
    return path


def test_nothing_that_lies_beside_a_sweep_file_is_imported(tmp_path):
    module(tmp_path, "json", "hashlib", "torch", "numpy", "trainables", "sitecustomize")
    path = write(tmp_path, "{dataset: digits, classes: [1, 2]}")
    # An empty cache: the data is prepared in a process of its own.
    done = bottleneck(tmp_path, "validate", path, BOTTLENECK_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "imported").exists()


def test_code_of_the_current_folder_is_no_installed_package(tmp_path):
    module(tmp_path, "strange_data")
    done = bottleneck(tmp_path, "plan", write(tmp_path, "{dataset: 'python:strange_data:data'}"))
    assert done.returncode == 2, done.stderr
    assert "strange_data" in done.stderr
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize(
    "component", ["{dataset: 'python:strange_data:x'}", "{dataset: colored, options: {base: 'python:strange_data:x'}}"]
)
def test_validate_names_the_code_of_a_sweep_without_importing_it_and_plan_says_so_first(tmp_path, component):
    module(tmp_path, "strange_data")
    path = write(tmp_path, component)
    done = bottleneck("/", "validate", path, path=[str(tmp_path)])
    assert "python:strange_data:x" in done.stdout, done.stderr
    assert not (tmp_path / "imported").exists()
    planned = bottleneck("/", "plan", path, path=[str(tmp_path)])
    assert "importing python:strange_data:x, which the sweep names" in planned.stderr.splitlines()


@pytest.mark.parametrize("name", ["subprocess:run", "os:system", "builtins:eval", "pickle:loads", "os.path:join"])
def test_pythons_own_functions_are_no_datasets(name):
    text = SWEEP.replace("COMPONENT", f"{{dataset: 'python:{name}', options: {{args: 'touch owned'}}}}")
    with pytest.raises(sweeps.SweepError, match=r"^named.yaml:4: components.strange.dataset: .*names Python's own"):
        sweeps.parse(text, "named.yaml")
