"""What gc removes, and above all what it does not: real sweeps that share stages, and every way of asking."""

import json
import os
import shutil
import threading
import time
import uuid
from pathlib import Path

import pandas as pd
import pytest
from buckets import bucket
from command_line import bottleneck
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator import collect
from orchestrator.collect import CannotCollect, choose, remove
from orchestrator.journal import GC_CLAIM, Journal, UnknownSweep
from orchestrator.plan import schedule
from orchestrator.prepare import prepare
from orchestrator.results import load
from orchestrator.sweep import read
from trainables.store import Store
from trainables.trial import run_trial

SWEEP = """
name: NAME
question: What is kept?
components:
  low: {dataset: digits, classes: [0, 1, 2, 3, 4]}
  odd: {dataset: digits, classes: [1, 3, 5, 7, 9]}
vary: {mixture: [MIXTURES], architecture: mlp, width: 0.25}
seeds: 1
pretrain: {steps: 4, batch_size: 16}
transfer: {train_examples: 60}
"""
MIXTURES = {"first": "{low: 1, odd: 1}, {low: 3, odd: 1}", "second": "{low: 1, odd: 1}", "third": "{low: 1, odd: 2}"}
DAY = 86_400.0


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A store in which three sweeps have run that share stages; and their plans with the sizes of their networks."""
    folder = tmp_path_factory.mktemp("swept")
    store, plans = Store(folder / "runs"), {}
    for name, mixtures in MIXTURES.items():
        path = folder / f"{name}.yaml"
        path.write_text(SWEEP.replace("NAME", name).replace("MIXTURES", mixtures))
        plans[name] = prepare(read(path, ()), lambda line: None)
        Journal(store, name).write_plan(path.read_text(), plans[name][0].as_json())
        for trial in plans[name][0].trials:
            run_trial(trial, store, device="cpu")
    return folder / "runs", plans


@pytest.fixture
def copy(swept, tmp_path):
    shutil.copytree(swept[0], tmp_path / "runs")
    return Store(tmp_path / "runs")


def entries(store):
    return {file.name.split("/")[3] for file in store.files("stages") if file.name.endswith("result.json")}


def needed(store, *sweeps):
    return {digest for name in sweeps for t in Journal(store, name).plan()["trials"] for _, digest in t["stages"]}


def collected(store, **how):
    choice = choose(store, now=time.time(), **how)
    remove(store, choice)
    return choice


def aged(store, digests, days):
    then = time.time() - days * DAY
    for file in store.files(""):
        if any(digest in file.name for digest in digests):
            os.utime(store.path(file.name), (then, then))


def put_aside(store):
    """What faults leave: a finished stage's state, a dead owner's lock, damage, a half-written file, a rest."""
    done = min(entries(store))
    store.write(f"state/{done}.safetensors", b"state")
    store.write("damaged/probe-1/result.json", b"{")
    store.write(f"stages/probe/ab/{'ab' * 32}/weights-0.safetensors", b"no result beside it")
    store.write(f"stages/probe/ab/{'ab' * 32}/.result.json.1.a", b"half")
    with store.claim("dead"):
        pass
    aged(store, ["ab" * 32], 1)
    return done


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_after_any_gc_the_results_of_every_kept_sweep_are_unchanged_and_nothing_is_missing(swept, tmp_path, data):
    folder, plans = swept
    store = Store(tmp_path / uuid.uuid4().hex)
    shutil.copytree(folder, store.location)
    put_aside(store)
    forgotten = data.draw(st.sets(st.sampled_from(sorted(plans))))
    for digest in data.draw(st.lists(st.sampled_from(sorted(entries(store))))):
        aged(store, [digest], data.draw(st.integers(0, 60)))
    before = {name: load(name, storage=store.location) for name in set(plans) - forgotten}
    choice = collected(
        store,
        sweeps=forgotten,
        older_than_s=data.draw(st.none() | st.floats(0, 60 * DAY)),
        keep_bytes=data.draw(st.none() | st.integers(0, 10**7)),
    )
    for name, table in before.items():
        pd.testing.assert_frame_equal(load(name, storage=store.location), table)
        plan, sizes = plans[name]
        stages = {(stage.kind, stage.digest) for trial in plan.trials for stage in trial.stages()}
        assert schedule(plan, sizes, store.existing(stages)) == []
        for kind, digest in stages:
            if kind == "pretrain":
                store.tensors(kind, digest, "weights")
    assert entries(store) == needed(store, *before)
    assert set(store.names("sweeps")) == set(before)
    assert choice.kept_bytes == sum(file.bytes for file in store.files(""))
    assert choose(store, now=time.time()).items == ()


def test_without_a_wish_only_what_faults_have_left_goes(copy):
    before = entries(copy)
    done = put_aside(copy)
    copy.write(f"state/{'cd' * 32}.safetensors", b"of a run that has still to end")
    choice = collected(copy)
    assert entries(copy) == before
    assert set(choice.by_what()) == {
        "saved states",
        "damaged entries",
        "stages without a result",
        "files half written",
        "stale claims",
    }
    assert copy.names("state") == [f"{'cd' * 32}.safetensors"]
    assert done in entries(copy)
    assert copy.claims() == []
    assert copy.names("damaged") == []


def test_a_forgotten_sweep_takes_with_it_what_only_it_needs(copy):
    alone = needed(copy, "third") - needed(copy, "first", "second")
    assert alone
    choice = collected(copy, sweeps=["third"])
    assert {item.name for item in choice.items if item.what.startswith("stages")} == alone
    assert copy.names("sweeps") == ["first", "second"]
    with pytest.raises(UnknownSweep, match="it has: first, second"):
        choose(copy, now=time.time(), sweeps=["third"])


def test_age_and_size_choose_among_what_no_sweep_needs_the_least_recently_used_first(copy):
    copy.delete_tree("sweeps/third")  # its stages are left: no plan names those that only it needed
    kept = needed(copy, "first", "second")
    loose = sorted(entries(copy) - kept)
    for age, digest in enumerate(loose):
        aged(copy, [digest], 10 + age)
    aged(copy, kept, 100)
    now = time.time()

    def chosen(**how):
        return [i.name for i in choose(copy, now=now, **how).items if i.what.startswith("stages")]

    assert set(chosen(older_than_s=(10 + 2.5) * DAY)) == set(loose[3:])
    whole = sum(file.bytes for file in copy.files(""))
    assert chosen(keep_bytes=whole - 1)[0] == loose[-1]
    impossible = choose(copy, now=now, keep_bytes=1)
    assert {i.name for i in impossible.items if i.what.startswith("stages")} == set(loose)
    assert impossible.too_much == impossible.kept_bytes - 1 > 0


def test_what_is_claimed_stays(copy):
    copy.delete_tree("sweeps/third")
    loose = sorted(entries(copy) - needed(copy, "first", "second"))
    with copy.claim(loose[0]):
        collected(copy, older_than_s=0)
        assert loose[0] in copy.claims()
    assert entries(copy) - needed(copy, "first", "second") == {loose[0]}


def test_a_sweep_that_is_being_run_is_not_forgotten(copy):
    with Journal(copy, "third").only_driver(), pytest.raises(CannotCollect, match="'third' is being run"):
        choose(copy, now=time.time(), sweeps=["third"])


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"trials": [{}]}', None])
def test_a_kept_sweep_without_a_plan_stops_gc(copy, content):
    if content is None:
        copy.delete("sweeps/third/plan.json")
    else:
        copy.write("sweeps/third/plan.json", content)
    with pytest.raises(CannotCollect, match="--sweep third"):
        choose(copy, now=time.time())
    collected(copy, sweeps=["third"])
    assert copy.names("sweeps") == ["first", "second"]


def test_a_driver_that_begins_during_gc_waits_for_its_end(copy, caplog):
    with copy.claim(GC_CLAIM):
        driver = threading.Thread(target=Journal(copy, "fourth").write_plan, args=("", {"trials": []}))
        driver.start()
        deadline = time.monotonic() + 30
        while "being cleaned" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.05)
        assert driver.is_alive()
    driver.join(timeout=30)
    assert not driver.is_alive()
    with copy.claim(GC_CLAIM), pytest.raises(CannotCollect, match="another"), collect.alone(copy):
        pass


def test_a_kill_in_the_middle_leaves_whole_stages_and_rests_for_the_next_time(copy, monkeypatch):
    choice = choose(copy, now=time.time(), sweeps=["third"])
    delete, count = copy.delete, 0

    def killed(name):
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        delete(name)

    monkeypatch.setattr(copy, "delete", killed)
    with pytest.raises(KeyboardInterrupt):
        remove(copy, choice)
    monkeypatch.undo()
    assert entries(copy) >= needed(copy, "first", "second")
    for digest in entries(copy):
        kind = next(f.name.split("/")[1] for f in copy.files("stages") if digest in f.name)
        assert copy.get(kind, digest) is not None
    later = choose(copy, now=time.time() + 2 * collect.LEFTOVER_S, older_than_s=0)
    remove(copy, later)
    assert {f.name.split("/")[3] for f in copy.files("stages")} == needed(copy, "first", "second")


@pytest.mark.server
def test_on_s3_it_is_the_same(swept):
    with bucket() as made:
        store = Store(made.location("runs"))
        local = Store(swept[0])
        for file in local.files(""):
            if not file.name.startswith("locks/"):
                made.client.put_object(Bucket=made.name, Key=f"runs/{file.name}", Body=local.read(file.name))
        store.write("leases/dead", json.dumps({"process": "x/1/1", "expiry_s": -10}).encode())
        choice = collected(store, sweeps=["second", "third"])
        assert choice.by_what()["stale claims"][0] == 1
        assert store.claims() == []
        assert store.names("sweeps") == ["first"]
        assert entries(store) == needed(store, "first")
        pd.testing.assert_frame_equal(load("first", storage=store.location), load("first", storage=local.location))


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_shows_first_and_removes_only_when_told(copy):
    before = {file.name for file in copy.files("")}
    shown = bottleneck("gc", "--storage", copy.location, "--sweep", "third", "--dry-run")
    assert "would go" in shown.stdout
    assert {file.name for file in copy.files("")} - before <= {"locks/gc.lock"}
    refused = bottleneck("gc", "--storage", copy.location, "--sweep", "third", expect=2)
    assert "--yes" in refused.stderr
    found = json.loads(bottleneck("gc", "--storage", copy.location, "--sweep", "third", "--yes", "--json").stdout)
    assert found["removed"]
    assert found["bytes"] == sum(item["bytes"] for item in found["items"]) > 0
    assert not Path(copy.path("sweeps/third")).exists()
    assert bottleneck("gc", "--storage", copy.location, "--older-than", "soon", "--dry-run", expect=2).stderr == (
        "'soon' is not an age; write one as 30d, in s, m, h, d, w\n"
    )


def test_quantities_are_read_as_people_write_them():
    assert (collect.age("30d"), collect.age("1.5 h")) == (30 * DAY, 5400)
    assert (collect.size("50GB"), collect.size("1 kib"), collect.size("10 b")) == (50 * 10**9, 1024, 10)
    assert [collect.readable(n) for n in (0, 999, 1500, 2 * 10**9)] == ["0 B", "999 B", "1.5 kB", "2 GB"]
