"""Code of the user's: by import path and by entry point, as docs/your-own.md has it, and through its contract."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from strategies import component

from orchestrator import sweep as sweeps
from orchestrator.plan import imports
from orchestrator.prepare import prepare
from trainables import ordering as orderings
from trainables import plugins
from trainables.architectures import build, measure
from trainables.contract.test_representation import pretraining
from trainables.mixture import mixture_of
from trainables.plugins import PluginError
from trainables.representation import members
from trainables.spec import Architecture, Ordering
from trainables.store import Store
from trainables.trial import run_trial

PAGE = (Path(__file__).parents[2] / "docs" / "your-own.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def install(site, name, entry_points):
    """A distribution with entry points, as an installer leaves it."""
    folder = site / f"{name}-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(entry_points)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Where the package of docs/your-own.md is installed, as it is written there."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "my_plugins.py").write_text("\n\n".join(blocks("python")))
    (ini,) = blocks("ini")
    install(folder, "my-plugins", ini.replace('[project.entry-points."', "[").replace('"]', "]").replace('"', ""))
    return folder


@pytest.fixture(autouse=True)
def _looked_up_anew(monkeypatch):
    plugins.installed.cache_clear()
    yield
    plugins.installed.cache_clear()
    plugins.code.cache_clear()


@pytest.fixture
def installed(site, monkeypatch):
    monkeypatch.syspath_prepend(str(site))


def contract(site, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "trainables.contract", "--pyargs", "trainables.contract", "-q", "-rsf",
         "-p", "no:cacheprovider", *arguments],
        cwd=site, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *(p for p in sys.path if p)])},
    )  # fmt: skip


def test_the_sweep_of_the_page_runs_with_all_four_and_both_ways_to_name_them_are_the_same_stages(installed, tmp_path):
    text = blocks("yaml")[0]
    said = []
    plan, _ = prepare(sweeps.parse(text, "my.yaml"), said.append)
    paths = [f"python:my_plugins:{name}" for name in ("early_and_late", "slow_start", "stripes", "two_layers")]
    assert imports(plan.sweep) == paths
    assert [line for line in said if line.startswith("importing")] == [
        f"importing {path}, which the sweep names" for path in paths
    ]
    by_name, by_path = (
        [trial for trial in plan.trials if trial.design.architecture == name]
        for name in ("two_layers", "python:my_plugins:two_layers")
    )
    assert len(by_name) == 4
    for one, other in zip(by_name, by_path, strict=True):
        assert [s.digest for s in one.stages()] == [s.digest for s in other.stages()]
    last = by_name[-1]
    assert (last.design.ordering, last.design.representation) == ("slow_start", "early_and_late")
    run_trial(last, Store(tmp_path), device="cpu")
    for cell in last.cells:
        assert [member.steps for member in cell.transfer.members] == [10, 40]
        result = Store(tmp_path).get("probe", cell.transfer.digest)
        assert result["status"] == "ok"
        assert result["num_features"] == 2 * 24
    assert result["test_accuracy"] > result["chance_accuracy"]


# Of our own, each kind that stands for itself: what differs from it by a number or in size goes the same way.
OURS = {
    "--component": ["digits"],
    "--architecture": ["mlp", "cnn", "cnn_plain", "raw", "diagonal"],
    "--ordering": list(orderings.ORDERINGS),
    "--representation": ["single", "cat:3", "time_cat:2", "complement:2", "snapshots:2", "wide:2", "bonsai:2"],
}


def test_the_plug_ins_of_the_page_and_our_own_keep_their_contract(site):
    (command,) = [block for block in blocks("bash") if block.startswith("pytest")]
    options = command.replace("\\\n", " ").split("trainables.contract", 2)[2].split()
    ours = [f"{option}={name}" for option, names in OURS.items() for name in names]
    done = contract(site, *options, *ours, "--image-shape", "1,16,16")
    assert done.returncode == 0, done.stdout
    skipped = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert all("it has one width, and says so" in line for line in skipped), "raw and diagonal"


BROKEN = """
import random
import numpy as np
import torch
from torch import nn


def data():
    images = np.random.randint(0, 255, (20, 1, 8, 8)).astype(np.uint8)
    return {"train": (images, np.arange(20) % 2), "test": (images[:4], np.arange(4) % 2)}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(64, 4), nn.Linear(2, 2)

    def forward(self, x):
        return self.used(x.flatten(1)) + torch.rand(1, device=x.device)


def net(architecture):
    return Net()


def order(ordering, arrivals):
    return np.random.random(arrivals.num_examples)


def networks(pretraining):
    return (pretraining.plain(pretraining.steps * 2, random.randrange(2**31)),)


def late(ordering, arrivals):
    return arrivals.uniform + 1


def raises(*arguments):
    raise KeyError("a key of mine")


def nothing(*arguments):
    return None


def images(architecture):
    return nn.Identity()


def twice(pretraining):
    return (pretraining.plain(1, 0), pretraining.plain(1, 0))
"""


@pytest.fixture
def broken(tmp_path, monkeypatch):
    (tmp_path / "broken_plugins.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("broken_plugins", None)


def test_a_plug_in_that_breaks_its_contract_is_told_which_promise(broken):
    given = {"--component": "data", "--architecture": "net", "--ordering": "order", "--representation": "networks"}
    done = contract(broken, "--image-shape", "1,8,8", *(f"{k}=broken_plugins:{name}" for k, name in given.items()))
    assert done.returncode == 1
    failed = set(re.findall(r"^FAILED .*::(test_\w+)\[", done.stdout, flags=re.MULTILINE))
    assert failed >= {
        "test_no_test_image_is_a_training_image",
        "test_reading_it_again_gives_the_same_examples_whatever_the_global_seeds_are",
        "test_reading_it_leaves_the_global_generators_alone",
        "test_gradients_reach_every_parameter",
        "test_in_evaluation_an_image_has_the_same_features_in_any_company",
        "test_a_greater_width_is_a_greater_network_or_is_refused",
        "test_building_and_running_it_leaves_the_global_generators_alone",
        "test_the_seed_alone_decides_the_order",
        "test_it_leaves_the_global_generators_alone",
        "test_the_replicates_seed_alone_decides_it_and_replicates_share_no_network",
        "test_no_network_is_trained_for_longer_than_the_trial",
    }
    skipped = contract(broken, "--ordering", "shuffled")
    assert skipped.returncode == 0
    assert "no --architecture is given" in skipped.stdout


# What they return -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("raises", r"broken_plugins:raises: KeyError: 'a key of mine' \(.*broken_plugins.py:\d+\)"),
        ("nothing", "broken_plugins:nothing returned a NoneType; expected a torch.nn.Module"),
        ("images", r"broken_plugins:images gave features of shape \(1, 1, 8, 8\) for one image; expected \(B, D\)"),
        ("absent", "broken_plugins:absent: AttributeError"),
    ],
)
def test_what_is_no_network_is_one_line(broken, name, said):
    architecture = Architecture(name=f"python:broken_plugins:{name}", image_shape=(1, 8, 8))
    with pytest.raises(PluginError, match=said) as caught:
        measure(architecture)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "late",
            r"returned times of shape \(\d+,\) from 1\.\d+ to .*; expected one in \[0, 1\] for each of 40 examples",
        ),
        ("nothing", r"returned times of shape \(\); expected one|returned times of shape \(\) from nan"),
        ("raises", "KeyError: 'a key of mine'"),
    ],
)
def test_what_are_no_times_is_one_line(broken, name, said):
    mixture = mixture_of({"clothes": 1}, {"clothes": component("clothes")}, num_examples=40, train_examples=None,
                         label_space="joint")  # fmt: skip
    with pytest.raises(PluginError, match=said):
        orderings.index_stream(mixture, Ordering(kind=f"python:broken_plugins:{name}", sequence=("clothes",)), 0)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "returned None; expected a tuple of one PretrainSpec or more"),
        ("twice", "returned one network twice"),
        ("raises", "KeyError: 'a key of mine'"),
    ],
)
def test_what_are_no_networks_is_one_line(broken, name, said):
    with pytest.raises(PluginError, match=said):
        members(f"python:broken_plugins:{name}", pretraining())


# Identity -------------------------------------------------------------------------------------------------------------


def test_the_file_of_a_plug_in_is_part_of_the_digest_and_another_file_is_refused(broken):
    name = "python:broken_plugins:net"
    planned = Architecture(name=name, image_shape=(1, 8, 8), code=plugins.code("architecture", name))
    assert build(planned, 0, 0).num_features == 4
    (broken / "broken_plugins.py").write_text(BROKEN + "\n# another one\n")
    plugins.code.cache_clear()
    assert replace(planned, code=plugins.code("architecture", name)).digest != planned.digest
    with pytest.raises(PluginError, match="the code of python:broken_plugins:net on this machine is not what was"):
        build(replace(planned, width=2.0), 0, 0)
    stale = Ordering(kind="python:broken_plugins:order", code=planned.code)
    with pytest.raises(PluginError, match="install the same version here, or plan again"):
        orderings.index_stream(
            mixture_of({"clothes": 1}, {"clothes": component("clothes")}, num_examples=40, train_examples=None,
                       label_space="joint"), stale, 0)  # fmt: skip


# Names ----------------------------------------------------------------------------------------------------------------

SWEEP = """
name: named
question: Which code does a name stand for?
components: {digits: {dataset: DATASET}}
vary: {mixture: {digits: 1}, architecture: mlp, ordering: ORDERING, representation: REPRESENTATION}
"""


def parse(dataset="digits", ordering="shuffled", representation="single"):
    named = {"DATASET": dataset, "ORDERING": ordering, "REPRESENTATION": representation}
    return sweeps.parse(re.sub("|".join(named), lambda word: named[word[0]], SWEEP), "named.yaml")


def test_installed_names_are_possible_and_listed_where_another_is_written(installed):
    parse("stripes", "slow_start", "early_and_late")
    for axis, wrong, near in (
        ("dataset", "strips", "stripes"),
        ("ordering", "slow_stat", "slow_start"),
        ("representation", "early_and_latte", "early_and_late"),
    ):
        with pytest.raises(sweeps.SweepError, match=f"did you mean '{near}'"):
            parse(**{axis: wrong})


@pytest.mark.parametrize(("group", "sweep"), [("datasets", {"dataset": "x"}), ("orderings", {"ordering": "x"})])
def test_a_name_of_two_packages_or_of_ours_is_an_error_that_names_both(tmp_path, monkeypatch, group, sweep):
    monkeypatch.syspath_prepend(str(tmp_path))
    install(tmp_path, "first-pack", f"[bottleneck.{group}]\nx = first_pack:x\n")
    parse(**sweep)
    install(tmp_path, "second-pack", f"[bottleneck.{group}]\nx = second_pack:x\n")
    plugins.installed.cache_clear()
    with pytest.raises(sweeps.SweepError, match=r"'x' is a name of (first|second)-pack and of (first|second)-pack"):
        parse(**sweep)


def test_a_name_of_ours_in_a_package_is_an_error_where_packages_are_looked_at(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    install(tmp_path, "thief", "[bottleneck.orderings]\nshuffled = thief:x\n")
    parse()  # our own name is ours
    with pytest.raises(sweeps.SweepError, match="'shuffled' is a name of transfer-bottleneck and of thief"):
        parse(ordering="mine")


@pytest.mark.parametrize("axis", ["ordering", "representation"])
@pytest.mark.parametrize("name", ["python:subprocess:run", "python:os.path:join"])
def test_pythons_own_functions_are_no_plug_ins(axis, name):
    with pytest.raises(sweeps.SweepError, match="names Python's own"):
        parse(**{axis: f'"{name}"'})


def test_packages_are_looked_through_only_for_a_name_that_is_not_ours():
    code = (
        "import os, sys\nos.environ['PYDANTIC_DISABLE_PLUGINS'] = '__all__'  # as the command has it\n"
        "from importlib import metadata\n"
        "def never(**group): raise AssertionError(group)\nmetadata.entry_points = never\n"
        "from orchestrator import sweep\nsweep.read(sweep.locate('quickstart'))\n"
        "print([m for m in ('torch', 'ray', 'pytest') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_times_of_a_plug_in_are_a_copy(site, installed):
    """What it returns may be what it was given; the stream does not write to it."""
    given = np.linspace(0, 1, 5)
    arrivals = orderings.Arrivals("clothes", 0, 5, given, given)
    times = orderings._of_code(lambda ordering, arrivals: arrivals.uniform, Ordering(), arrivals)
    times[0] = 9
    assert given[0] == 0
    assert torch.equal(torch.from_numpy(given), torch.linspace(0, 1, 5, dtype=torch.float64))
