"""What a driver writes of a sweep's state, and what is read where it has not."""

import json
import subprocess
import sys
import time

import pytest
from made_up_sweeps import TEXT, made_up

from orchestrator import status as statuses
from orchestrator.journal import Journal
from orchestrator.progress import State
from orchestrator.status import DIED, Published, in_numbers, snapshot, trial_lines
from trainables.store import Store


@pytest.fixture
def journal(tmp_path):
    """A sweep of three trials that was planned, and of which the store has nothing."""
    kept = Journal(Store(tmp_path), "made-up")
    kept.write_plan(TEXT, made_up("made-up", trials=3).plan)
    return kept


def state(journal, **changes):
    trials = [trial["digest"][:12] for trial in journal.plan()["trials"]]
    known = {"sweep": "made-up", "trials": 3, "stages": 12, "stored": 4, "started": 0.0}
    return State(**known | {"outcomes": dict.fromkeys(trials, "pending")} | changes)


def status(journal):
    return in_numbers(journal, snapshot(journal))


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


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "null", '{"state": "finished"}',
        json.dumps({"state": "finished", "outcomes": {"a": 7}, "stages": 1, "stages_stored": 1}),
        json.dumps({"state": "finished", "outcomes": {}, "stages": "many", "stages_stored": True}),
        json.dumps({"state": "finished", "outcomes": {}, "stages": 1, "stages_stored": 1, "more": 1}),
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
