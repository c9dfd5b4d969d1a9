"""The store: what is in it is whole, or it is not in it."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from strategies import component
from test_spec import pretraining

from trainables.spec import ProbeSpec
from trainables.store import DamagedEntry, Store, StoreError

STAGE = pretraining()
RESULT = {"status": "ok", "loss_curve": [[1, 0.1 + 0.2]], "seconds": 1e-17, "none": None}
WEIGHTS = {"weights": {"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3)}}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


def folder(store, stage=STAGE):
    return Path(store.path(f"stages/{stage.kind}/{stage.digest[:2]}/{stage.digest}"))


def test_a_result_comes_back_to_the_last_bit(store):
    store.put(STAGE, RESULT, WEIGHTS)
    assert store.get("pretrain", STAGE.digest) == RESULT
    tensors = store.tensors("pretrain", STAGE.digest, "weights")
    assert torch.equal(tensors["w"], WEIGHTS["weights"]["w"])
    assert json.loads((folder(store) / "spec.json").read_text())["spec"]["seed"] == 0


def test_what_was_never_put_is_none_and_removal_forgets(store):
    assert store.get("pretrain", STAGE.digest) is None
    store.put(STAGE, RESULT)
    store.remove("pretrain", STAGE.digest)
    assert store.get("pretrain", STAGE.digest) is None


def test_existing_tells_which_of_many_are_there(store):
    probe = ProbeSpec(members=(STAGE,), component=component("a"))
    wanted = [("pretrain", STAGE.digest), ("probe", probe.digest)]
    assert store.existing(wanted) == set()
    store.put(STAGE, RESULT)
    assert store.existing(wanted) == {STAGE.digest}


def test_an_entry_without_its_result_does_not_exist(store):
    store.put(STAGE, RESULT, WEIGHTS)
    (folder(store) / "result.json").unlink()
    assert store.get("pretrain", STAGE.digest) is None
    assert store.existing([("pretrain", STAGE.digest)]) == set()


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_damaged_result_is_set_aside_and_counts_as_not_computed(store, damage, caplog):
    store.put(STAGE, RESULT, WEIGHTS)
    _damage(folder(store) / "result.json", damage)
    assert store.get("pretrain", STAGE.digest) is None
    assert not folder(store).exists()
    assert len(store.names("damaged")) == 1
    assert "set aside" in caplog.text
    store.put(STAGE, RESULT, WEIGHTS)
    assert store.get("pretrain", STAGE.digest) == RESULT


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "missing"])
def test_damaged_weights_are_noticed_when_they_are_read(store, damage):
    store.put(STAGE, RESULT, WEIGHTS)
    _damage(folder(store) / "weights.safetensors", damage)
    with pytest.raises(DamagedEntry):
        store.tensors("pretrain", STAGE.digest, "weights")
    assert store.get("pretrain", STAGE.digest) is None


def _damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
        return
    content[len(content) // 2] ^= 1
    path.write_bytes({"flip": bytes(content), "truncate": bytes(content[:-7]), "empty": b""}[how])


def test_state_is_replaced_and_dropped_and_damage_to_it_means_a_fresh_start(store):
    assert store.load_state("d" * 64) is None
    store.save_state("d" * 64, {"x": torch.ones(2)}, {"step": "1"})
    store.save_state("d" * 64, {"x": torch.zeros(2)}, {"step": "2"})
    tensors, meta = store.load_state("d" * 64)
    assert (tensors["x"].tolist(), meta) == ([0.0, 0.0], {"step": "2"})
    _damage(Path(store.path(f"state/{'d' * 64}.safetensors")), "truncate")
    assert store.load_state("d" * 64) is None
    store.drop_state("d" * 64)
    store.drop_state("d" * 64)


def test_only_one_holds_a_claim(store):
    with store.claim("x") as mine, store.claim("x") as theirs:
        assert (mine, theirs) == (True, False)
    with store.claim("x") as again:
        assert again


def _hold(location, ready):
    with Store(location).claim("x") as mine:
        ready.put(mine)
        time.sleep(60)


def test_a_claim_is_free_as_soon_as_its_owner_is_killed(store):
    context = multiprocessing.get_context("spawn")
    ready = context.Queue()
    owner = context.Process(target=_hold, args=(store.location, ready))
    owner.start()
    assert ready.get(timeout=60)
    with store.claim("x") as mine:
        assert not mine
    os.kill(owner.pid, signal.SIGKILL)
    owner.join()
    with store.claim("x") as mine:
        assert mine


def test_readers_never_see_a_file_in_part(store):
    store.write("f", b"a" * 10)
    store.write("f", b"b" * 20)
    assert store.read("f") == b"b" * 20
    assert store.names("") == ["f"]


def test_a_location_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match=r"storage .*file.* cannot be written: ") as caught:
        Store(tmp_path / "file").check()
    assert "\n" not in str(caught.value)
    with pytest.raises(StoreError, match="cannot be opened"):
        Store("nonsense://bucket/x")


def test_nothing_is_unpickled(store):
    """A poisoned file where weights should be is refused by its checksum, and would not be read as a pickle anyway."""
    store.put(STAGE, RESULT, WEIGHTS)
    (folder(store) / "weights.safetensors").write_bytes(b"\x80\x04cos\nsystem\n(S'touch /tmp/poisoned'\ntR.")
    with pytest.raises(DamagedEntry):
        store.tensors("pretrain", STAGE.digest, "weights")
