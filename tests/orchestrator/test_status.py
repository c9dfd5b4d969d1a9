"""What a driver writes of a sweep's state, and what is read where it has not."""

import json
import subprocess
import sys
import time

import pytest
from made_up_sweeps import TEXT, made_up

from orchestrator import status as statuses
from orchestrator.forecast import Speed
from orchestrator.journal import Journal
from orchestrator.progress import State
from orchestrator.status import DIED, Published, Snapshot, in_numbers, snapshot, speeds, speeds_elsewhere, trial_lines
from trainables.store import Store


@pytest.fixture
def journal(tmp_path):
    """A sweep of three trials that was planned, and of which the store has nothing."""
    kept = Journal(Store(tmp_path), "made-up")
    kept.write_plan(TEXT, made_up("made-up", trials=3).plan)
    return kept


def state(journal, **changes):
    trials = [trial["digest"][:12] for trial in journal.plan()["trials"]]
    known = {"trials": 3, "stages": 12, "stored": 4, "started": 0.0}
    return State(**known | {"outcomes": dict.fromkeys(trials, "pending")} | changes)


def status(journal):
    return in_numbers(journal, snapshot(journal), time.time())


def test_a_sweep_that_was_only_planned_is_read_from_the_store(journal):
    found = status(journal)
    assert (found["state"], found["trials"], found["stages_stored"]) == ("planned", {"pending": 3}, 0)


def test_what_a_driver_knows_is_what_is_shown(journal):
    known = state(journal)
    first = next(iter(known.outcomes))
    with journal.only_driver(), Published(journal, known) as published:
        known.measured(first + "and the rest of it", "diverged", [])
        published.write("running")
        found = status(journal)
        assert found["state"] == "running"
        assert found["trials"] == {"pending": 2, "diverged": 1}
        assert (found["stages"], found["stages_stored"]) == (12, 4)
        assert dict(line[:2] for line in trial_lines(journal, snapshot(journal)))[first] == "diverged"
    published.write("finished")
    assert snapshot(journal).state == "finished"


def test_while_a_sweep_runs_its_snapshot_follows_it(journal, monkeypatch):
    monkeypatch.setattr(statuses, "EVERY_S", 0.01)
    known = state(journal)
    with journal.only_driver(), Published(journal, known):
        known.measured(next(iter(known.outcomes)), "failed", [])
        deadline = time.monotonic() + 30
        while status(journal)["trials"] != {"pending": 2, "failed": 1}:
            assert time.monotonic() < deadline


def test_a_driver_that_died_leaves_what_it_wrote_and_nothing_that_runs(journal):
    Published(journal, state(journal)).write("running")
    assert snapshot(journal).state == DIED


def test_an_error_leaves_an_interrupted_sweep(journal):
    with pytest.raises(KeyboardInterrupt), Published(journal, state(journal)):
        raise KeyboardInterrupt
    assert snapshot(journal).state == "interrupted"


def test_another_plan_is_not_described_by_the_snapshot_of_the_one_before(journal):
    Published(journal, state(journal)).write("finished")
    journal.write_plan(TEXT, made_up("made-up", trials=2).plan)
    assert status(journal)["trials"] == {"pending": 2}


def test_everything_that_is_shown_comes_back_as_it_was_written(journal):
    known = state(journal, to_do={"p": ("pretrain mlp", 100.0), "q": ("pretrain mlp", 50.0)}, place="here")
    trial = journal.plan()["trials"][0]["digest"]
    use = {"gpu": "GPU-1", "name": "H200", "used_bytes": 5, "total_bytes": 9, "busy": 0.25}
    known.trial_started(trial)
    known.trial_progress(
        trial,
        {"doing": "p", "examples_per_second": 7.0, "gpu": use, "warnings": ["slow"]}
        | {"events": [{"event": "stage", "digest": "p", "seconds": 20.0}]},
    )
    gap = {"component": "odd", "mixture": "all", "primary": True, "pretrain_digest": "m", "direct_digest": "d"}
    known.measured("another", "ok", [{"gap": 0.25} | gap, {"gap": 0.5} | gap | {"component": "even"}])
    with journal.only_driver():
        before = time.time()
        Published(journal, known).write("running")
        found = status(journal)
    assert found.pop("seconds") > 0
    assert 0 <= found.pop("age_seconds") <= time.time() - before
    assert found["warnings"][0].pop("seconds_ago") >= 0
    mean = {"trial": "another", "mixture": "all", "low": None, "high": None, "n": 1}
    assert found == {
        "sweep": "made-up", "state": "running", "trials": {"running": 1, "pending": 2, "ok": 1},
        "stages": 12, "stages_stored": 5, "stages_reused": 4, "stages_computed": 1, "stages_left": 1,
        "best_gap": mean | {"component": "odd", "mean": 0.25}, "worst_gap": mean | {"component": "even", "mean": 0.5},
        "examples_per_second": 7.0, "gpus": [use],
        "running": [{"trial": trial[:12], "doing": "p", "examples_per_second": 7.0}],
        "seconds_left": 10.0, "seconds_left_from": "1 stage of this run", "warnings": [{"text": "slow"}],
    }  # fmt: skip
    died = status(journal)
    assert (died["state"], died["trials"], died["running"]) == (DIED, {"pending": 3, "ok": 1}, [])
    assert died["seconds_left"] is None


def test_what_stages_cost_is_kept_for_later_runs_in_the_same_place(journal):
    def ran(name, place, seconds):
        other = Journal(journal.store, name)
        known = state(journal, to_do={"p": ("pretrain mlp", 100.0)}, place=place)
        known.trial_progress("t", {"events": [{"event": "stage", "digest": "p", "seconds": seconds}]})
        Published(other, known).write("finished")

    for name, place, seconds in (("made-up", "here", 1.0), ("b", "here", 2.0), ("c", "here", 4.0), ("d", "there", 8.0)):
        ran(name, place, seconds)
    journal.store.write("sweeps/e/status.json", b"{")
    assert speeds(journal, "here") == {"pretrain mlp": Speed(1.0, 100.0, 1)}
    assert speeds(journal, "there") == {}
    assert speeds_elsewhere(journal, "here") == {"pretrain mlp": Speed(6.0, 200.0, 2)}


def test_a_run_hears_of_earlier_sweeps_while_it_runs(journal):
    other = state(journal, earlier={"pretrain mlp": Speed(50.0, 100.0, 9)}, place="here")
    Published(Journal(journal.store, "other"), other).write("finished")
    known = state(journal, to_do={"p": ("pretrain mlp", 10.0)}, place="here")
    known.trial_started(journal.plan()["trials"][0]["digest"])
    assert known.left() is None
    with Published(journal, known):
        deadline = time.monotonic() + 30
        while known.left() is None:
            assert time.monotonic() < deadline
    assert known.left().seconds == pytest.approx(5.0)
    assert known.left().basis == "9 stages of earlier runs on this machine"


def test_a_snapshot_of_an_earlier_version_is_read(journal):
    content = {"state": "finished", "outcomes": {"a": "ok"}, "stages": 1, "stages_stored": 1}
    assert Snapshot.of_json(json.dumps(content).encode()) == Snapshot(**content)


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "null", '{"state": "finished"}',
        json.dumps({"state": "finished", "outcomes": {"a": 7}, "stages": 1, "stages_stored": 1}),
        json.dumps({"state": "finished", "outcomes": {}, "stages": "many", "stages_stored": True}),
        json.dumps({"state": "finished", "outcomes": {}, "stages": 1, "stages_stored": 1, "more": 1}),
        json.dumps({"state": "finished", "outcomes": {}, "stages": 1, "stages_stored": 1, "seconds": float("nan")}),
        json.dumps({"state": "finished", "outcomes": {}, "stages": 1, "stages_stored": 1, "running": [{"trial": "a"}]}),
        "[" * 100_000,
    ],
)  # fmt: skip
def test_what_no_driver_wrote_is_passed_over(journal, content):
    journal.store.write("sweeps/made-up/status.json", content.encode())
    assert status(journal)["trials"] == {"pending": 3}


def test_a_glance_needs_no_tables_and_no_statistics(journal):
    Published(journal, state(journal)).write("finished")
    code = (
        "import sys; from orchestrator.cli import bottleneck; bottleneck(sys.argv[1:], standalone_mode=False); "
        "assert not {'pandas', 'scipy', 'torch', 'ray', 'mlflow'} & set(sys.modules), sorted(sys.modules)"
    )
    shown = [sys.executable, "-c", code, "status", "--storage", journal.store.location]
    assert "3 pending" in subprocess.run(shown, check=True, capture_output=True, text=True).stdout
