"""What is known before planning: found once, in a process of its own."""

import os
import subprocess
import sys

import pytest

from trainables import facts
from trainables.facts import FactError
from trainables.spec import Architecture, Source

DIGITS = Source(dataset="digits", image_size=(8, 8), channels=1)


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BOTTLENECK_CACHE", str(tmp_path))


def test_components_are_prepared_once_and_then_known():
    said = []
    found = facts.components({"digits": DIGITS}, said.append)
    assert (found["digits"].num_train, found["digits"].num_test) == (1080, 597)
    assert facts.components({"digits": DIGITS}, said.append) == found
    assert said == ["preparing data of digits (once per machine)"]


def test_networks_are_measured_once():
    said = []
    mlp = Architecture(name="mlp", image_shape=(1, 8, 8))
    sizes = facts.network_sizes([mlp], said.append)
    assert sizes[mlp.digest].num_features == 64
    assert sizes[mlp.digest].parameters == 64 * 64 + 64 + 64 * 64 + 64
    assert facts.network_sizes([mlp], said.append) == sizes
    assert said == ["measuring networks mlp (once per machine)"]


def test_what_is_not_to_be_had_names_whose_it_is(monkeypatch):
    monkeypatch.delenv("BOTTLENECK_DATA", raising=False)
    with pytest.raises(FactError, match="BOTTLENECK_DATA") as missing:
        facts.components({"digits": DIGITS, "handwriting": Source(dataset="mnist")}, lambda line: None)
    assert missing.value.name == "handwriting"
    with pytest.raises(FactError, match="resnet18") as unknown:
        facts.network_sizes([Architecture(name="resnet81", image_shape=(1, 8, 8))], lambda line: None)
    assert unknown.value.name == "resnet81"


def test_preparing_does_not_import_torch_into_the_planner():
    code = (
        "import sys; from trainables import facts; from trainables.spec import Source\n"
        "facts.components({'d': Source(dataset='digits')}, lambda line: None)\n"
        "print('torch' in sys.modules, 'sklearn' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "False False"
