"""The store: what is in it is whole, or it is not in it. One suite for every kind of place, seen from two hosts."""

import contextlib
import fcntl
import itertools
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import dataclass, replace

import pytest
import torch
from buckets import bucket
from hypothesis import given
from hypothesis import strategies as st
from strategies import component
from test_spec import pretraining

from trainables import lease
from trainables import store as stores
from trainables.errors import without_password
from trainables.spec import ProbeSpec
from trainables.store import DamagedEntry, Store, StoreError

STAGE = pretraining()
RESULT = {"status": "ok", "loss_curve": [[1, 0.1 + 0.2]], "seconds": 1e-17, "none": None}
WEIGHTS = {"weights": {"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3)}}
FOLDER = f"stages/{STAGE.kind}/{STAGE.digest[:2]}/{STAGE.digest}"
EXPIRY_S = 3.0


@dataclass
class Place:
    """One store, as two hosts name it."""

    here: str
    there: str
    kind: str

    def store(self):
        return Store(self.here, lease_expiry_s=EXPIRY_S)

    def other(self):
        return Store(self.there, lease_expiry_s=EXPIRY_S)


@pytest.fixture(scope="module")
def s3():
    with bucket() as made:
        yield made


@pytest.fixture(params=["folder", "link", "mount", pytest.param("s3", marks=pytest.mark.server)])
def place(request, tmp_path):
    runs, elsewhere = tmp_path / "runs", tmp_path / "elsewhere"
    if request.param == "s3":
        made = request.getfixturevalue("s3")
        folder = uuid.uuid4().hex
        yield Place(made.location(folder), made.location(folder, "key:s3cret@"), "s3")
    elif request.param == "mount":
        runs.mkdir()
        with _mounted(runs, elsewhere):
            yield Place(str(runs), str(elsewhere), "mount")
    else:
        if request.param == "link":
            runs.mkdir()
            elsewhere.symlink_to(runs)
        yield Place(str(runs), str(elsewhere if request.param == "link" else runs), request.param)


@contextlib.contextmanager
def _mounted(source, target, options=()):
    target.mkdir()
    done = subprocess.run(["mount", "--bind", source, target], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no bind mounts here: {done.stderr.strip()}")
    try:
        if options:
            subprocess.run(["mount", "-o", f"remount,bind,{options}", target], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", target], check=True)


@pytest.fixture
def store(place):
    return place.store()


@pytest.fixture
def other(place):
    return place.other()


# What is put comes back -----------------------------------------------------------------------------------------------


def test_a_result_comes_back_to_the_last_bit(store, other):
    store.put(STAGE, RESULT, WEIGHTS)
    assert other.get("pretrain", STAGE.digest) == RESULT
    tensors = other.tensors("pretrain", STAGE.digest, "weights")
    assert torch.equal(tensors["w"], WEIGHTS["weights"]["w"])
    assert json.loads(store.read(f"{FOLDER}/spec.json"))["spec"]["seed"] == 0


def test_what_was_never_put_is_none_and_removal_forgets(store, other):
    assert store.get("pretrain", STAGE.digest) is None
    with pytest.raises(FileNotFoundError):
        store.tensors("pretrain", STAGE.digest, "weights")
    store.put(STAGE, RESULT, WEIGHTS)
    other.remove("pretrain", STAGE.digest)
    assert store.get("pretrain", STAGE.digest) is None
    assert store.files("stages") == []


def test_existing_tells_which_of_many_are_there(store):
    probe = ProbeSpec(members=(STAGE,), component=component("a"))
    wanted = [("pretrain", STAGE.digest), ("probe", probe.digest)]
    assert store.existing([]) == set()
    assert store.existing(wanted) == set()
    store.put(STAGE, RESULT)
    assert store.existing(wanted) == {STAGE.digest}


def test_the_stages_that_exist_are_found_one_by_one_and_by_listing_their_shelf(store):
    stages = [ProbeSpec(members=(STAGE,), component=component(f"part {n}")) for n in range(40)]
    put = [stage for stage in stages if stage.digest[0] < "8"]
    shelf = "ab"  # of many: digests of which none is there but one
    many = [replace(pretraining(), seed=seed) for seed in range(4000)]
    many = [stage for stage in many if stage.digest.startswith(shelf)]
    assert 0 < len(put) < len(stages)
    assert len(many) > stores.LISTED_FROM
    for stage in (*put, many[0]):
        store.put(stage, RESULT)
    store.write(f"stages/pretrain/{shelf}/{many[1].digest}/spec.json", b"{}")
    wanted = [(stage.kind, stage.digest) for stage in (*stages, *many)]
    assert store.existing(iter(wanted)) == {stage.digest for stage in (*put, many[0])}
    assert store.existing([("retention", many[0].digest)]) == set()


def test_an_entry_without_its_result_does_not_exist(store):
    store.put(STAGE, RESULT, WEIGHTS)
    store.delete(f"{FOLDER}/result.json")
    assert store.get("pretrain", STAGE.digest) is None
    assert store.existing([("pretrain", STAGE.digest)]) == set()


def test_tensors_put_by_an_earlier_version_are_read(store):
    store.put(STAGE, RESULT, WEIGHTS)
    entry = json.loads(store.read(f"{FOLDER}/result.json"))
    ((file, checksum),) = entry["files"].items()
    store.write(f"{FOLDER}/weights.safetensors", store.read(f"{FOLDER}/{file}"))
    store.delete(f"{FOLDER}/{file}")
    old = {"result": entry["result"], "files": {"weights.safetensors": checksum}}
    store.write(f"{FOLDER}/result.json", stores._sealed(old))
    assert torch.equal(store.tensors("pretrain", STAGE.digest, "weights")["w"], WEIGHTS["weights"]["w"])


def test_what_is_kept_beside_the_stages_has_names_and_sizes(store):
    store.write("sweeps/one/plan.json", b"{}")
    store.write("sweeps/two/plan.json", b"{...}")
    assert store.names("sweeps") == ["one", "two"]
    assert store.names("sweeps/three") == []
    assert {(file.name, file.bytes) for file in store.files("sweeps")} == {
        ("sweeps/one/plan.json", 2),
        ("sweeps/two/plan.json", 5),
    }
    assert all(abs(file.used - time.time()) < 60 for file in store.files("sweeps"))
    store.delete_tree("sweeps/one")
    store.delete_tree("sweeps/one")
    assert store.names("sweeps") == ["two"]


def test_check_says_nothing_and_leaves_nothing_where_all_is_well(store):
    store.check()
    assert store.files("") == []


# Damage ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_damaged_result_is_set_aside_and_counts_as_not_computed(store, other, damage, caplog):
    store.put(STAGE, RESULT, WEIGHTS)
    _damage(store, f"{FOLDER}/result.json", damage)
    assert other.get("pretrain", STAGE.digest) is None
    assert store.existing([("pretrain", STAGE.digest)]) == set()
    assert len(store.names("damaged")) == 1
    assert "set aside" in caplog.text
    store.put(STAGE, RESULT, WEIGHTS)
    assert store.get("pretrain", STAGE.digest) == RESULT


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "missing", "poison"])
def test_damaged_weights_are_noticed_when_they_are_read(store, damage):
    """Poison is a pickle where tensors should be: refused by its checksum, and nothing would unpickle it anyway."""
    store.put(STAGE, RESULT, WEIGHTS)
    (weights,) = (name for name in store.names(FOLDER) if name.startswith("weights"))
    _damage(store, f"{FOLDER}/{weights}", damage)
    with pytest.raises(DamagedEntry):
        store.tensors("pretrain", STAGE.digest, "weights")
    assert store.get("pretrain", STAGE.digest) is None


def _damage(store, name, how):
    content = bytearray(store.read(name))
    if how == "missing":
        store.delete(name)
        return
    content[len(content) // 2] ^= 1
    poison = b"\x80\x04cos\nsystem\n(S'touch /tmp/poisoned'\ntR."
    store.write(name, {"flip": bytes(content), "truncate": bytes(content[:-7]), "empty": b"", "poison": poison}[how])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON), st.dictionaries(st.text(), st.text()), st.data())
def test_the_checksum_of_an_entry_as_it_lies_there_is_right_where_writing_it_again_gives_the_same_bytes(
    result, files, data
):
    content = stores._sealed({"result": result, "files": files})
    assert stores._unsealed(content) == (result, files)
    place = data.draw(st.integers(0, len(content) - 1))
    what = data.draw(st.binary(max_size=3))
    changed = content[:place] + what + content[place + data.draw(st.integers(0, 3)) :]
    try:
        entry = json.loads(changed)
        same = changed == stores._sealed({"result": entry["result"], "files": entry["files"]})
    except (ValueError, LookupError, TypeError):
        same = False
    if same:
        assert stores._unsealed(changed) == (result, files)
    else:
        with pytest.raises(ValueError):
            stores._unsealed(changed)


def test_an_entry_with_more_in_it_than_ours_have_is_damaged_though_its_checksum_is_right(store):
    store.put(STAGE, RESULT)
    store.write(f"{FOLDER}/result.json", stores._sealed({"result": RESULT, "files": {}, "more": 1}))
    assert store.get("pretrain", STAGE.digest) is None


def test_state_is_replaced_and_dropped_and_damage_to_it_means_a_fresh_start(store, other):
    assert store.load_state("d" * 64) is None
    store.save_state("d" * 64, {"x": torch.ones(2)}, {"step": "1"})
    store.save_state("d" * 64, {"x": torch.zeros(2)}, {"step": "2"})
    tensors, meta = other.load_state("d" * 64)
    assert (tensors["x"].tolist(), meta) == ([0.0, 0.0], {"step": "2"})
    _damage(store, f"state/{'d' * 64}.safetensors", "truncate")
    assert store.load_state("d" * 64) is None
    store.drop_state("d" * 64)
    store.drop_state("d" * 64)
    assert other.names("state") == []


# Several at the same time ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def run_beside(code, *arguments, count=1):
    """Python programs that run beside the test, each with its number as the last argument."""
    with contextlib.ExitStack() as stack:
        programs = []
        for number in range(count):
            command = [sys.executable, "-c", code, *map(str, arguments), str(number)]
            programs.append(stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)))
            stack.callback(programs[-1].kill)
        yield programs


def test_a_file_that_has_grown_since_it_was_opened_is_read_whole(tmp_path, monkeypatch):
    (tmp_path / "lines").write_bytes(b"first\n")
    fstat = os.fstat

    def overtaken(file):
        seen = fstat(file)
        with (tmp_path / "lines").open("ab") as lines:
            lines.write(b"second\n" * 1000)
        return seen

    monkeypatch.setattr(stores.os, "fstat", overtaken)
    assert Store(tmp_path).read("lines") == b"first\n" + b"second\n" * 1000


def test_readers_never_see_a_file_in_part(store, other):
    """On S3 pyarrow alone would show the bytes of one version cut to the length of another."""
    store.write("f", b"000000")
    stop = threading.Event()

    def write():
        for number in itertools.count():
            store.write("f", b"%06d" % number * (10_000 + 10_000 * (number % 2)))
            if stop.is_set():
                return

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(30):
        seen = other.read("f")
        assert seen == seen[:6] * (len(seen) // 6)
    stop.set()
    writer.join()
    assert store.names("") == ["f"]


def test_of_two_hosts_that_put_different_numbers_at_once_one_leaves_a_whole_entry(store, other, caplog):
    def put(where, number):
        for _ in range(8):
            where.put(STAGE, {"by": number}, {"weights": {"w": torch.full((10_000,), float(number))}})

    writers = [threading.Thread(target=put, args=pair) for pair in ((store, 0), (other, 1))]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        with contextlib.suppress(FileNotFoundError):
            assert len(store.tensors("pretrain", STAGE.digest, "weights")["w"].unique()) == 1
    for writer in writers:
        writer.join()
    winner = store.get("pretrain", STAGE.digest)["by"]
    assert set(store.tensors("pretrain", STAGE.digest, "weights")["w"].tolist()) == {float(winner)}
    assert "set aside" not in caplog.text


def test_only_one_holds_a_claim(store, other):
    assert not store.is_claimed("x")
    with store.claim("x") as mine, store.claim("x") as same_host, other.claim("x") as theirs:
        assert (mine, same_host, theirs) == (True, False, False)
        assert other.is_claimed("x")
        assert not other.is_claimed("y")
    assert not other.is_claimed("x")
    with other.claim("x") as again:
        assert again


def test_a_claim_is_given_back_when_what_it_was_for_fails(store):
    with pytest.raises(ZeroDivisionError), store.claim("x"):
        raise ZeroDivisionError
    with store.claim("x") as mine:
        assert mine


def test_of_many_threads_at_once_one_gets_the_claim(store):
    together, got = threading.Barrier(6), []
    asked = threading.Barrier(6)

    def ask():
        together.wait()
        with store.claim("x") as mine:
            got.append(mine)
            asked.wait()  # held until all have asked

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [False] * 5 + [True]


TURNS = """
import os, sys, time
from trainables.store import Store
number = int(sys.argv[-1])
store, turns = Store(sys.argv[1 + number % 2]), 0
deadline = time.monotonic() + 60
while turns < 3:
    with store.claim("x") as mine:
        if mine:
            os.close(os.open(sys.argv[3], os.O_CREAT | os.O_EXCL))
            turns += 1
            time.sleep(0.02)
            os.unlink(sys.argv[3])
    assert time.monotonic() < deadline
    time.sleep(0.01)
"""


def test_a_claim_is_never_held_by_two_processes(place, tmp_path):
    with run_beside(TURNS, place.here, place.there, tmp_path / "held", count=3) as processes:
        assert [process.wait() for process in processes] == [0, 0, 0]


HOLD = """
import sys, time
from trainables.store import Store
with Store(sys.argv[1]).claim("x") as mine:
    print(mine, flush=True)
    time.sleep(600)
"""


def test_a_claim_is_free_as_soon_as_its_owner_is_killed(place, store):
    with run_beside(HOLD, place.there) as (owner,):
        assert owner.stdout.readline() == "True\n"
        with store.claim("x") as mine:
            assert not mine
        assert not store.remove_claim("x")
    assert not store.is_claimed("x")
    assert store.claims() == ["x"]
    with store.claim("x") as mine:
        assert mine
        assert not store.remove_claim("x")


def test_what_a_dead_owner_left_of_its_claim_can_be_removed(place, store):
    with run_beside(HOLD, place.there) as (owner,):
        assert owner.stdout.readline() == "True\n"
    assert store.remove_claim("x")
    assert store.claims() == []
    with store.claim("x") as mine:
        assert mine


# Lines ----------------------------------------------------------------------------------------------------------------


def test_appended_lines_come_back_in_order_while_another_reads(store, other):
    for number in range(20):
        store.append("journal/a.jsonl", b"%d\n" % number)
        assert other.lines("journal/a.jsonl") == [b"%d" % n for n in range(number + 1)]
    assert other.names("journal") == ["a.jsonl"]
    with pytest.raises(FileNotFoundError):
        store.lines("journal/b.jsonl")


@pytest.mark.server
def test_a_long_journal_on_s3_is_few_objects_and_few_bytes(s3, monkeypatch):
    store = Store(s3.location(uuid.uuid4().hex))
    written, files = [], {}
    monkeypatch.setattr(
        store, "write", lambda name, content: (written.append(len(content)), files.update({name: content}))
    )
    monkeypatch.setattr(store, "read", lambda name: files[name])
    monkeypatch.setattr(store, "delete", files.pop)
    monkeypatch.setattr(store, "names", lambda folder: [name.removeprefix(f"{folder}/") for name in files])
    line = b"x" * 99 + b"\n"
    for count in range(1, 5001):
        store.append("journal", line)
        if count % 997 == 0:
            assert len(store.lines("journal")) == count
            assert len(files) <= 48  # 16 of each of three levels
    assert sum(written) <= 11 * 5000 * len(line)
    assert len(written) <= 1.1 * 5000


def test_a_kill_between_writing_a_long_segment_and_removing_the_short_ones_repeats_no_line():
    from trainables import segments

    short = [f"{n:09d}.1" for n in range(0, 256, 16)]
    assert segments.readable([*short[5:], "000000000.2", "000000256.1"]) == ["000000000.2", "000000256.1"]


# Places that do not do as asked ---------------------------------------------------------------------------------------


def test_a_store_that_may_only_be_read_is_read_and_says_so_in_one_line(place, tmp_path, request, caplog):
    store = place.store()
    store.put(STAGE, RESULT, WEIGHTS)
    with contextlib.ExitStack() as stack:
        if place.kind == "s3":
            s3 = request.getfixturevalue("s3")
            s3.read_only = True
            stack.callback(setattr, s3, "read_only", False)
        else:
            stack.enter_context(_mounted(tmp_path / "runs", tmp_path / "readonly", "ro"))
            store = Store(tmp_path / "readonly")
        assert store.get("pretrain", STAGE.digest) == RESULT
        for change in (
            store.check,
            lambda: store.put(STAGE, RESULT),
            lambda: store.append("journal", b"\n"),
            lambda: store.save_state("d", {}, {}),
            lambda: store.remove("pretrain", STAGE.digest),
            lambda: store.claim("x").__enter__(),
        ):
            with pytest.raises(StoreError, match=r"^storage '.*' cannot be (written|claimed): ") as caught:
                change()
            assert "\n" not in str(caught.value)
        if place.kind != "s3":
            assert not store.is_claimed("x")
    (weights,) = (name for name in place.store().names(FOLDER) if name.startswith("weights"))
    assert weights


def test_damage_in_a_store_that_may_only_be_read_is_said_and_counts_as_not_computed(tmp_path, caplog):
    store = Store(tmp_path / "runs")
    store.put(STAGE, RESULT)
    _damage(store, f"{FOLDER}/result.json", "flip")
    with _mounted(tmp_path / "runs", tmp_path / "readonly", "ro"):
        assert Store(tmp_path / "readonly").get("pretrain", STAGE.digest) is None
    assert "cannot be set aside" in caplog.text


def test_a_location_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match=r"storage .*file.* cannot be written: ") as caught:
        Store(tmp_path / "file").check()
    assert "\n" not in str(caught.value)
    with pytest.raises(StoreError, match="cannot be opened"):
        Store("nonsense://bucket/x")


def test_a_folder_whose_server_has_no_locks_is_used_after_one_warning(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(stores, "_warned", set())
    store = Store(tmp_path)
    for _ in range(2):
        with store.claim("x") as mine, store.claim("x") as theirs:
            assert mine
            assert theirs
        assert not store.is_claimed("x")
    assert caplog.text.count("without locks (No locks available)") == 1


def test_a_lock_file_that_was_removed_while_one_waited_for_it_is_not_a_lock(tmp_path, monkeypatch):
    store, lock = Store(tmp_path), tmp_path / "locks/x.lock"
    taken = fcntl.flock

    def remove_first(*arguments):
        monkeypatch.setattr(fcntl, "flock", taken)
        lock.unlink()
        return taken(*arguments)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with store.claim("x") as mine, store.claim("x") as theirs:
        assert (mine, theirs) == (True, False)
        assert lock.exists()


@pytest.mark.parametrize("password", ["s3cr%2Fet", "s3cr/et"])
def test_a_password_in_a_location_is_never_shown(password):
    location = f"s3://KEY:{password}@bucket/runs?endpoint_override=127.0.0.1:9&scheme=gopher"
    with pytest.raises(StoreError) as caught:
        Store(location).check()
    assert "s3cr" not in str(caught.value)
    assert "KEY" not in str(caught.value)
    assert caught.value.__cause__ is None or "s3cr" not in str(caught.value.__cause__)


def test_a_path_for_people_has_no_password_and_keeps_the_endpoint():
    store = Store("s3://KEY:s3cret@bucket/runs?endpoint_override=127.0.0.1:9&scheme=http")
    assert store.path("a/b") == "s3://bucket/runs/a/b?endpoint_override=127.0.0.1:9&scheme=http"
    assert without_password("http://127.0.0.1:5000/#/a@b") == "http://127.0.0.1:5000/#/a@b"


# Leases ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def leased(s3, monkeypatch):
    """A store on S3 and the server below it, which fails as the test says and is mended afterwards."""
    monkeypatch.setattr(stores, "_warned", set())
    yield Store(s3.location(uuid.uuid4().hex), lease_expiry_s=EXPIRY_S), s3
    s3.conditions, s3.clock_ahead_s, s3.date_ahead_s = "decided", 0, 0


def _lease_of_another_machine(store, name="x"):
    content = {"owner": "someone", "process": "far away/1/1", "expiry_s": 60, "renewal": 1}
    store.write(f"leases/{name}", json.dumps(content).encode())


@pytest.mark.server
def test_a_lease_of_another_machine_holds_until_its_expiry_by_the_clock_of_the_server(leased):
    store, s3 = leased
    _lease_of_another_machine(store)
    s3.clock_ahead_s = 86_400  # ours is a day behind, or has jumped
    assert store.is_claimed("x")
    with store.claim("x") as mine:
        assert not mine
    s3.clock_ahead_s = -86_400
    with store.claim("x") as mine:
        assert not mine
    s3.date_ahead_s = 55
    assert store.is_claimed("x")
    s3.date_ahead_s = 65
    assert not store.is_claimed("x")
    with store.claim("x") as mine:
        assert mine


@pytest.mark.server
def test_of_many_who_take_over_a_dead_lease_one_gets_it(leased):
    store, s3 = leased
    _lease_of_another_machine(store)
    s3.age("leases/x", 65)
    together, asked, got = threading.Barrier(5), threading.Barrier(5), []

    def ask():
        together.wait()
        with store.claim("x") as mine:
            got.append(mine)
            asked.wait()

    assert store.is_claimed("y") is False  # its client is made
    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got.count(True) == 1


@pytest.mark.server
def test_a_lease_is_renewed_for_as_long_as_it_is_held(leased):
    store, _ = leased
    with store.claim("x") as mine:
        assert mine
        renewals = set()
        deadline = time.monotonic() + 30
        while len(renewals) < 3 and time.monotonic() < deadline:
            renewals.add(json.loads(store.read("leases/x"))["renewal"])
            time.sleep(0.1)
        assert len(renewals) == 3
    assert store.claims() == []


@pytest.mark.server
def test_an_owner_that_was_stalled_says_so_and_leaves_the_lease_to_who_took_it(leased, caplog):
    store, _ = leased
    with store.claim("x") as mine:
        assert mine
        _lease_of_another_machine(store)
        deadline = time.monotonic() + 30
        while "was lost" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.05)
    assert "both write the same entry" in caplog.text
    assert json.loads(store.read("leases/x"))["owner"] == "someone"


@pytest.mark.server
def test_a_lease_taken_over_since_the_last_renewal_is_not_deleted_on_release(leased):
    store, _ = leased
    with store.claim("x"):
        _lease_of_another_machine(store)
    assert json.loads(store.read("leases/x"))["owner"] == "someone"


@pytest.mark.server
def test_a_write_that_was_repeated_because_its_answer_was_lost_is_recognised(leased, monkeypatch):
    store, _ = leased
    assert not store.is_claimed("x")
    client = store._leases._client
    put = client.put_object

    def twice(**request):
        put(**request)
        return put(**request)

    monkeypatch.setattr(client, "put_object", twice)
    with store.claim("x") as mine:
        assert mine
        assert store.is_claimed("x")
    assert store.claims() == []


@pytest.mark.server
@pytest.mark.parametrize("conditions", ["ignored", "refused"])
def test_an_endpoint_without_conditions_is_used_after_one_warning(leased, conditions, caplog):
    store, s3 = leased
    s3.conditions = conditions
    for opened in (store, Store(store.location)):
        with opened.claim("x") as mine, opened.claim("x") as theirs:
            assert mine
            assert theirs
        assert not opened.is_claimed("x")
        assert opened.claims() == []
    assert caplog.text.count("has no leases") == 1
    assert "costs time and nothing else" in caplog.text
    assert store.files("") == []


@pytest.mark.server
def test_without_boto3_s3_is_read_and_written_and_has_no_leases(leased, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "boto3", None)
    store, _ = leased
    store.put(STAGE, RESULT)
    assert store.get("pretrain", STAGE.digest) == RESULT
    with store.claim("x") as mine:
        assert mine
    assert "install transfer-bottleneck[cluster]" in caplog.text


@pytest.mark.server
def test_the_endpoint_may_come_from_the_environment(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{s3.endpoint}")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    store = Store(f"s3://{s3.name}/{uuid.uuid4().hex}")
    store.check()
    with store.claim("x") as mine, Store(store.location).claim("x") as theirs:
        assert (mine, theirs) == (True, False)
    assert store._leases._client.meta.region_name == "eu-central-1"


@pytest.mark.parametrize(
    ("uri", "endpoint", "keys"),
    [
        ("s3://A%2BB:C%2FD@bucket/x?region=eu-west-1", "https://s3.eu-west-1.amazonaws.com", ("A+B", "C/D")),
        ("s3://bucket/x?endpoint_override=store.example:9000&region=r", "https://store.example:9000", None),
        ("s3://bucket/x?endpoint_override=store.example&scheme=http&region=r", "http://store.example", None),
    ],
)
def test_boto3_is_asked_for_what_the_uri_says(uri, endpoint, keys, monkeypatch):
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    client = lease._client(uri, Store(uri)._remote.region)
    assert client.meta.endpoint_url == endpoint
    assert client.meta.config.s3["addressing_style"] == ("path" if "override" in uri else "auto")
    if keys:
        credentials = client._request_signer._credentials
        assert (credentials.access_key, credentials.secret_key) == keys


def test_a_process_is_known_to_be_dead_only_on_the_machine_that_it_ran_on():
    code = "import time; from trainables.lease import this_process; print(this_process(), flush=True); time.sleep(600)"
    with run_beside(code) as (ended,):
        name = ended.stdout.readline().strip()
        assert not lease.is_dead(name)
    assert lease.is_dead(name)
    assert not lease.is_dead(lease.this_process())
    assert not lease.is_dead("another kernel/1/1")
    assert not lease.is_dead("")
