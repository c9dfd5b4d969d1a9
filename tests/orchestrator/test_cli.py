"""The command as people type it: what it prints, how it ends, and how soon it answers."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.sweep import canonical, json_schema

MALFORMED = Path(__file__).parents[1] / "malformed"
GOOD = """
name: good
question: What is kept?
components:
  digits: {dataset: digits}
  odd: {dataset: digits, classes: [1, 3, 5, 7, 9]}
vary: {mixture: [{digits: 1, odd: 1}], architecture: mlp}
seeds: 1
pretrain: {steps: 5, batch_size: 16}
"""


def bottleneck(*arguments, environment=None, cwd=None):
    command = [sys.executable, "-m", "orchestrator.cli", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **(environment or {})}, cwd=cwd, check=False
    )


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    return path


# Every file goes through the whole command, in one process that at its end must not have begun to load Ray.
ALL_MALFORMED = """
import contextlib, io, json, sys
from pathlib import Path
from orchestrator import cli
found = {}
for path in sorted(Path(sys.argv[1]).glob("*.yaml")):
    sys.argv = ["bottleneck", "run", str(path), "--storage", sys.argv[1] + "/never"]
    err, out = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
    found[path.name] = [code, err.getvalue(), out.getvalue()]
    sys.argv = ["x", str(path.parent)]
print(json.dumps({"found": found, "heavy": [m for m in ("ray", "torch", "mlflow", "pandas") if m in sys.modules]}))
"""


def test_every_malformed_sweep_is_one_line_and_exit_2_before_anything_heavy_is_loaded():
    done = subprocess.run(
        [sys.executable, "-c", ALL_MALFORMED, str(MALFORMED)], capture_output=True, text=True, check=True
    )
    answer = json.loads(done.stdout)
    assert len(answer["found"]) >= 40
    for name, (code, err, out) in answer["found"].items():
        assert code == 2, name
        assert out == "", name
        assert len(err.splitlines()) == 1, (name, err)
        assert name in err, err
        expected = (MALFORMED / name).read_bytes().splitlines()[0].decode(errors="replace")
        assert re.search(expected.partition("expect:")[2].strip(), err), (name, err)
    assert answer["heavy"] == []
    assert not (MALFORMED / "never").exists()


def one_line(done, *parts):
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for part in parts:
        assert part in done.stderr


def test_missing_data_is_one_line_that_says_where_and_how(tmp_path, good):
    good.write_text(GOOD.replace("odd: {dataset: digits, classes: [1, 3, 5, 7, 9]}", "odd: {dataset: mnist}"))
    empty = {"BOTTLENECK_DATA": str(tmp_path)}
    one_line(bottleneck("run", good, environment=empty), f"{good}:6: components.odd:", str(tmp_path), "download=True")
    unset = {k: v for k, v in os.environ.items() if k != "BOTTLENECK_DATA"}
    command = [sys.executable, "-m", "orchestrator.cli", "plan", str(good)]
    one_line(
        subprocess.run(command, capture_output=True, text=True, env=unset, check=False), "BOTTLENECK_DATA is not set"
    )


def test_damaged_data_is_one_line(tmp_path, good):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images", "train-labels", "t10k-images", "t10k-labels"):
        kind = "idx3-ubyte" if "images" in name else "idx1-ubyte"
        (raw / f"{name}-{kind}").write_bytes(b"\x00\x00\x08\x03 cut short")
    good.write_text(GOOD.replace("odd: {dataset: digits, classes: [1, 3, 5, 7, 9]}", "odd: {dataset: mnist}"))
    done = bottleneck("validate", good, environment={"BOTTLENECK_DATA": str(tmp_path)})
    assert done.returncode == 2
    assert "components.odd" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_store_that_cannot_be_reached_is_one_line(tmp_path, good):
    (tmp_path / "file").write_text("")
    one_line(bottleneck("run", good, "--storage", tmp_path / "file"), "cannot be written")
    one_line(bottleneck("run", good, "--storage", "nonsense://bucket"), "nonsense://bucket", "cannot be opened")
    readonly = bottleneck("run", good, "--storage", "/proc/nothing")
    one_line(readonly, "cannot be written")
    one_line(bottleneck("results", "good", "--storage", tmp_path / "file"), "cannot be read")
    refused = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_EC2_METADATA_DISABLED": "true"}
    closed = "s3://bucket/runs?endpoint_override=127.0.0.1:9&scheme=http&region=x"
    bottleneck("validate", good)  # so that nothing is left to prepare, and said
    one_line(bottleneck("plan", good, "--storage", closed, environment=refused), "cannot be read")


def test_a_cluster_that_does_not_answer_or_has_no_room_is_one_line_and_leaves_nothing_running(tmp_path, good):
    absent = bottleneck("run", good, "--storage", tmp_path / "a", environment={"RAY_ADDRESS": "127.0.0.1:9"})
    assert absent.returncode == 2, absent.stderr
    assert absent.stderr.splitlines()[-1].startswith("RAY_ADDRESS: no cluster answers at 127.0.0.1:9")
    small = bottleneck("run", good, "--storage", tmp_path / "b", "--set", "resources.gpu=1")
    assert small.returncode == 2, small.stderr
    assert "a trial asks for 1 GPU and this machine has 0" in small.stderr.splitlines()[-1]
    for name in ("a", "b"):
        (status,) = json.loads(bottleneck("status", "--json", "--storage", tmp_path / name).stdout)
        assert status["state"] == "interrupted"


def test_an_unknown_network_is_one_line_with_the_nearest_name(good):
    done = bottleneck("validate", good, "--set", "vary.architecture=resnet81")
    assert done.returncode == 2
    assert re.search(r"vary\.architecture: .*resnet81.*resnet18", done.stderr.splitlines()[-1])


def test_an_unknown_sweep_or_option_is_said_plainly(tmp_path):
    one_line(bottleneck("run", "quickstrat"), "quickstart")
    one_line(bottleneck("run", tmp_path / "none.yaml"), "no such file")
    one_line(bottleneck("results", "none", "--storage", tmp_path), "has no sweep 'none'")
    assert bottleneck("run").returncode == 2


def test_validate_and_plan_of_a_good_sweep(tmp_path, good):
    done = bottleneck("validate", good)
    assert (done.returncode, done.stdout) == (0, f"{good}: fine, 1 trials with 1 seed each\n")
    planned = bottleneck("plan", good, "--json", "--storage", tmp_path / "runs")
    found = json.loads(planned.stdout)
    assert found["trials"] == 1
    assert (found["pretrainings"], found["baselines"], found["initialisations"], found["probes"]) == (1, 2, 2, 8)
    assert found["examples"] == 3 * 5 * 16
    assert not (tmp_path / "runs").exists()
    shown = bottleneck("plan", good, "--trials", "--storage", tmp_path / "runs").stdout
    header, _, first = shown.splitlines()[-3:]
    assert header.split() == ["trial", "pretrainings", "probes", "FLOPs", "design"]
    assert first.split()[1:3] == ["5", "8"]
    assert first.endswith("digits 50 % + odd 50 %, shuffled, mlp x1, single, 5 steps")
    assert "1 pretrainings, 2 direct baselines" in shown
    assert f"{tmp_path}/runs  (from: --storage)" in shown


def test_set_replaces_a_value(good):
    found = json.loads(bottleneck("plan", good, "--json", "--set", "seeds=4", "--set", "pretrain.steps=7").stdout)
    assert (found["replicates"], found["examples"]) == (4, 4 * 3 * 7 * 16)
    assert "--set pretrain.steps" in bottleneck("plan", good, "--set", "pretrain.steps=none").stderr


def test_plan_says_where_settings_come_from(tmp_path, good):
    environment = {"BOTTLENECK_STORAGE": str(tmp_path / "s"), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    shown = bottleneck("plan", good, environment=environment).stdout
    assert f"{tmp_path}/s  (from: BOTTLENECK_STORAGE)" in shown
    assert "http://127.0.0.1:9  (from: MLFLOW_TRACKING_URI)" in shown


def test_resolved_and_schema_are_for_programs(good):
    resolved = bottleneck("validate", good, "--resolved").stdout
    assert "momentum: 0.9" in resolved
    assert json.loads(bottleneck("validate", "--schema").stdout) == json_schema()


def test_the_sweeps_that_ship_are_found_by_name_and_validate():
    assert {"quickstart", "clothes-digits-kana"} <= set(canonical())
    assert bottleneck("validate", "quickstart").returncode == 0


def test_status_of_an_empty_store_is_not_an_error(tmp_path):
    done = bottleneck("status", "--storage", tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert json.loads(bottleneck("status", "--json", "--storage", tmp_path).stdout) == []


def completed(typed, position, **environment):
    words = {"_BOTTLENECK_COMPLETE": "bash_complete", "COMP_WORDS": f"bottleneck {typed}", "COMP_CWORD": str(position)}
    command = [
        sys.executable,
        "-c",
        "import sys; sys.argv[0] = 'bottleneck'; from orchestrator.cli import main; main()",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, **words, **environment}
    )
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_a_shell_completes_commands_options_and_the_names_of_sweeps(tmp_path):
    for name in ("mine", "my-other", "else", "not a\x1bname"):
        (tmp_path / "sweeps" / name).mkdir(parents=True)
    assert "status" in completed("sta", 1)
    assert "--watch" in completed("status --wa", 2)
    assert completed("run quick", 2) == ["quickstart"]
    assert completed("status m", 2, BOTTLENECK_STORAGE=str(tmp_path)) == ["mine", "my-other"]
    assert completed(f"compare --storage {tmp_path} mine e", 5) == ["else"]
    assert completed("status n", 2, BOTTLENECK_STORAGE=str(tmp_path)) == ["n"], "a file, which the shell looks for"
    assert completed("status m", 2, BOTTLENECK_STORAGE="s3://bucket/runs") == ["m"], "and no server is asked"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_of_a_shell_calls_the_command(shell):
    named = bottleneck("completion", shell)
    assert (named.returncode, named.stderr) == (0, "")
    assert "_BOTTLENECK_COMPLETE" in named.stdout
    assert bottleneck("completion", environment={"SHELL": f"/usr/bin/{shell}"}).stdout == named.stdout


def test_a_shell_that_is_not_known_is_said():
    done = bottleneck("completion", environment={"SHELL": "/bin/tcsh"})
    assert done.returncode == 2
    assert "found 'tcsh'" in done.stderr


LOADED = """
import sys
from orchestrator import cli
sys.argv = ["bottleneck", *sys.argv[1:]]
try:
    cli.main()
finally:
    unused = {"numpy", "pyarrow", "pandas", "torch", "ray", "mlflow", "ssl", "filelock", "concurrent", "subprocess"}
    print(unused & {*sys.modules})
"""


@pytest.mark.parametrize("arguments", [("--help",), ("validate", "quickstart"), ("plan", "quickstart"), ("status",)])
def test_what_only_looks_at_a_sweep_loads_no_library_for_data(tmp_path, arguments):
    bottleneck("validate", "quickstart")  # so that nothing is left to prepare
    (tmp_path / "sweeps").mkdir()
    environment = {**os.environ, "BOTTLENECK_STORAGE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("--help",), ("validate", "quickstart"), ("plan", "quickstart")])
def test_the_command_answers_at_once_when_warm(arguments):
    """In a few times what its libraries take to be imported; in processor time, since tests share the machine."""

    def seconds(command):
        before = os.times()
        subprocess.run(command, check=True, capture_output=True)
        after = os.times()
        return after.children_user - before.children_user + after.children_system - before.children_system

    libraries = [sys.executable, "-c", "import click, numpy, pydantic, yaml; pydantic.BaseModel"]
    ours = [sys.executable, "-m", "orchestrator.cli", *arguments]
    spent = [(seconds(libraries), seconds(ours)) for _ in range(5)]
    theirs, own = map(min, zip(*spent, strict=True))
    assert own < 3 * theirs, spent
