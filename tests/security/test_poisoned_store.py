"""A store that someone else can write to: what lies there is data, and never runs."""

import hashlib
import io
import json
import shutil
from pathlib import Path

import pytest
import torch

from orchestrator import results
from orchestrator import sweep as sweeps
from orchestrator.plan import Plan
from orchestrator.prepare import prepare
from trainables.store import DamagedEntry, Store
from trainables.trial import run_trial

SWEEP = """
name: poisoned
question: What does a file run?
components: {digits: {dataset: digits}, odd: {dataset: digits, classes: [1, 3, 5]}}
vary: {mixture: [{digits: 1, odd: 1}], architecture: mlp, width: 0.25}
seeds: 1
pretrain: {steps: 2, batch_size: 16}
transfer: {train_examples: 100}
"""


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def pickled(mark: Path) -> bytes:
    file = io.BytesIO()
    torch.save({"w": Bomb(mark)}, file)
    return file.getvalue()


def header(content: dict) -> bytes:
    text = json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.fixture(scope="module")
def computed(tmp_path_factory) -> tuple[Path, Plan]:
    """A store with one trial in it, and its plan."""
    folder = tmp_path_factory.mktemp("computed")
    plan, _ = prepare(sweeps.parse(SWEEP, "poisoned.yaml"), lambda line: None)
    run_trial(plan.trials[0], Store(folder), device="cpu")
    return folder, plan


@pytest.fixture
def poisoned(computed, tmp_path) -> tuple[Store, Plan]:
    """A copy of it, to be poisoned."""
    shutil.copytree(computed[0], tmp_path / "runs")
    return Store(tmp_path / "runs"), computed[1]


def mixture_network(plan: Plan):
    return plan.trials[0].cells[0].transfer.members[0]


def entry(store: Store, stage) -> Path:
    return Path(store.path(f"stages/{stage.kind}/{stage.digest[:2]}/{stage.digest}"))


def weights(folder: Path) -> Path:
    (file,) = folder.glob("weights-*.safetensors")
    return file


def reseal(folder: Path, change=lambda found: None) -> None:
    """Mend an entry's checksums after a change, as someone does who knows how they are made."""
    found = json.loads((folder / "result.json").read_text())
    change(found["result"])
    found["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in found["files"]}
    del found["sha256"]
    checksum = hashlib.sha256(json.dumps(found, indent=1, sort_keys=True).encode()).hexdigest()
    (folder / "result.json").write_text(json.dumps({**found, "sha256": checksum}, indent=1, sort_keys=True))


@pytest.mark.parametrize("mended", [False, True], ids=["checksum left", "checksum mended"])
def test_a_pickle_in_place_of_weights_is_set_aside_unread_and_the_network_trained_again(poisoned, tmp_path, mended):
    store, plan = poisoned
    stage = mixture_network(plan)
    folder = entry(store, stage)
    good = weights(folder).read_bytes()
    weights(folder).write_bytes(pickled(tmp_path / "owned"))
    if mended:
        reseal(folder)
    for cell in plan.trials[0].cells:
        store.remove("probe", cell.transfer.digest)  # so that the network is needed
    run_trial(plan.trials[0], store, device="cpu")
    assert not (tmp_path / "owned").exists()
    assert weights(folder).read_bytes() == good
    (aside,) = (name for name in store.names("damaged"))
    assert aside.startswith(f"pretrain-{stage.digest[:16]}")


@pytest.mark.parametrize(
    "content",
    [
        (2**60).to_bytes(8, "little") + b"{}",
        header({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}) + b"0000",
        header({"w": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 2**63]}}),
        header({"w": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}) + b"0000",
        header({"w": {"dtype": "object", "shape": [1], "data_offsets": [0, 4]}}) + b"0000",
        b"",
    ],
    ids=["endless header", "shape beyond the data", "overflowing shape", "negative offset", "unknown type", "nothing"],
)
def test_a_file_that_is_no_safetensors_file_is_set_aside_though_its_checksum_is_right(poisoned, content):
    store, plan = poisoned
    stage = mixture_network(plan)
    weights(entry(store, stage)).write_bytes(content)
    reseal(entry(store, stage))
    with pytest.raises(DamagedEntry, match=r"weights-.*\.safetensors"):
        store.tensors(stage.kind, stage.digest, "weights")
    assert store.get(stage.kind, stage.digest) is None
    assert len(store.names("damaged")) == 1


def test_weights_of_another_shape_end_the_trial_with_one_clear_error(poisoned):
    store, plan = poisoned
    stage = mixture_network(plan)
    from safetensors.torch import load, save

    file = weights(entry(store, stage))
    file.write_bytes(save({name: torch.zeros(3) for name in load(file.read_bytes())}))
    reseal(file.parent)
    for cell in plan.trials[0].cells:
        store.remove("probe", cell.transfer.digest)
    with pytest.raises(RuntimeError, match="size mismatch"):
        run_trial(plan.trials[0], store, device="cpu")


@pytest.mark.parametrize("sealed", [False, True], ids=["checksum wrong", "checksum right"])
def test_a_pickle_in_place_of_a_saved_state_is_unread_and_the_run_starts_afresh(poisoned, tmp_path, sealed):
    store, plan = poisoned
    digest = mixture_network(plan).digest
    content = pickled(tmp_path / "owned")
    checksum = hashlib.sha256(content).digest() if sealed else bytes(32)
    store.write(f"state/{digest}.safetensors", checksum + content)
    assert store.load_state(digest) is None
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "text", ["[" * 200_000, '{"result": 3, "files": {}}', "null", '"x"', '{"result": {}}', "\udcff"]
)
def test_a_result_that_is_no_result_is_set_aside(poisoned, text):
    store, plan = poisoned
    stage = mixture_network(plan)
    (entry(store, stage) / "result.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert store.get(stage.kind, stage.digest) is None
    assert len(store.names("damaged")) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"test_accuracy": "<script>alert(1)</script>"},
        {"test_accuracy": [0.5]},
        {"device": {"__class__": "os.system"}},
        {"status": 7},
        {"num_test": True},
        {"seconds": "\x1b]0;owned\x07"},
    ],
    ids=str,
)
def test_values_that_no_stage_writes_are_one_line_though_their_checksum_is_right(poisoned, change):
    store, plan = poisoned
    stage = plan.trials[0].cells[0].transfer
    reseal(entry(store, stage), lambda found: found.update(change))
    with pytest.raises(results.ResultsError, match=f"{next(iter(change))} of probe {stage.digest[:12]} is") as error:
        results.rows(plan.as_json(), results.store_lookup(store), {})
    assert "\n" not in str(error.value)
    assert str(entry(store, stage)) in str(error.value)


def test_a_spec_beside_a_result_is_for_people_and_is_not_read(poisoned):
    store, plan = poisoned
    before = results.rows(plan.as_json(), results.store_lookup(store), {})
    for file in Path(store.path("stages")).rglob("spec.json"):
        file.write_text('{"kind": "../../../etc", "spec": {"__reduce__": "os.system"}}')
    assert results.rows(plan.as_json(), results.store_lookup(store), {}) == before
    assert run_trial(plan.trials[0], store, device="cpu").computed == 0
