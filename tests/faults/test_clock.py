"""Clocks differ between machines, and are set back: nothing that decides anything asks them."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from tiny_sweep import assert_undisturbed, kill, wait_for

from orchestrator import journal as journals
from orchestrator.journal import Journal
from orchestrator.status import DIED, snapshot
from trainables.store import Store

DAY_S = 86_400.0
SHIM = Path(__file__).parent / "shim"


@pytest.fixture
def clock(monkeypatch):
    """A clock that can be set; it goes on by a second each time it is asked."""
    now = [1000.0]
    ticks = itertools.count()
    monkeypatch.setattr(journals.time, "time", lambda: now[0] + next(ticks))

    def put(seconds):
        now[0] = seconds

    return put


def test_what_failed_before_a_restart_is_forgotten_though_the_clock_was_set_back(tmp_path, clock):
    store = Store(tmp_path)
    first = Journal(store, "tiny")
    first.write_plan("", {"sweep": "tiny", "trials": []})
    first.start()
    first.write("trial", trial="a", status="failed", error="no", log=None)
    first.write("sweep", state="interrupted")
    assert first.trial_states()["a"]["status"] == "failed"
    clock(1000.0 - DAY_S)
    second = Journal(store, "tiny")
    second.start()
    assert second.trial_states() == {}
    assert snapshot(second).state == DIED
    second.write("trial", trial="a", status="ok", error=None, log=None)
    clock(1000.0 - 2 * DAY_S)
    second.write("trial", trial="a", status="failed", error="again", log=None)
    second.write("sweep", state="finished")
    assert Journal(store, "tiny").trial_states()["a"]["error"] == "again"
    assert snapshot(second).state == "finished"


@pytest.mark.slow
def test_a_worker_a_day_ahead_and_a_second_run_a_day_back_leave_no_trace(tiny, undisturbed, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(SHIM), prepend=":")
    with tiny.driver(environment={"SHIM_WORKER_CLOCK_S": str(DAY_S)}) as driver:
        wait_for(lambda: tiny.computed().total() >= 8, driver)
        kill(driver.pid)
        driver.wait()
    assert max(e["time"] for e in tiny.events("stage")) > min(e["time"] for e in tiny.events("sweep")) + DAY_S / 2
    tiny.run(environment={"SHIM_WORKER_CLOCK_S": str(-DAY_S), "SHIM_CLOCK_S": str(-DAY_S)})
    assert_undisturbed(tiny, undisturbed, unrecorded=1)
