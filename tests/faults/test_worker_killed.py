"""A worker is killed: its trial goes on in another one, and what was finished is not computed again."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
from tiny_sweep import assert_undisturbed, kill, wait_for

from orchestrator.journal import Journal
from trainables.store import Store


@pytest.mark.slow
def test_workers_killed_amid_a_pretraining_and_amid_a_probe_leave_no_trace(tiny, undisturbed):
    with tiny.driver() as driver:
        for kind in ("pretrain", "probe"):
            wait_for(lambda kind=kind: tiny.workers(kind), driver)
            done = set(tiny.computed())
            victim = next(iter(tiny.workers(kind).values()), None)
            if victim:
                kill(victim)
            wait_for(lambda done=done: set(tiny.computed()) > done, driver)
        _, err = driver.communicate(timeout=600)
    assert driver.returncode == 0, err
    assert_undisturbed(tiny, undisturbed, unrecorded=2)


class Heard:
    """What the reporter says of trials."""

    def __init__(self):
        self.ended = []

    def trial_started(self, digest): ...
    def trial_progress(self, digest, report): ...

    def trial_ended(self, digest, end):
        self.ended.append((digest, end.error))


def trial(failures=0, error_file=None):
    return SimpleNamespace(
        config={"trial": "ab" * 32, "spec": SimpleNamespace(take=lambda: None)},
        run_metadata=SimpleNamespace(num_failures=failures),
        error_file=error_file,
        last_result=None,
    )


@pytest.fixture
def reporter(tmp_path):
    from orchestrator.launch import _Reporter

    heard = Heard()
    journal = Journal(Store(tmp_path), "tiny")
    return _Reporter(heard, threading.Event(), journal, "now"), heard, journal


def test_deaths_count_only_until_a_trial_has_got_further_than_ever(reporter):
    """So a trial of weeks may lose a worker a day, and one that kills its worker at the same place ends."""
    told, _, _ = reporter
    lost = trial(failures=3)
    told.on_trial_result(0, [], lost, {"stages_done": 2, "step": 100})
    assert lost.run_metadata.num_failures == 0
    for failures, result in ((1, {"stages_done": 2, "step": 100}), (2, {"stages_done": 2, "step": 50}), (3, {})):
        lost.run_metadata.num_failures = failures
        told.on_trial_result(0, [], lost, result)
        assert lost.run_metadata.num_failures == failures
    told.on_trial_result(0, [], lost, {"stages_done": 2, "step": 101})
    assert lost.run_metadata.num_failures == 0


def test_a_trial_that_was_given_up_says_what_its_workers_died_of(reporter, tmp_path):
    told, heard, journal = reporter
    log = tmp_path / "error.txt"
    log.write_text("Failure # 4\nThe actor died unexpectedly\n")
    told.on_trial_error(0, [], trial(4, str(log)))
    for launched, place in (("now", "load"), ("earlier", "save")):
        error = f"it hung in {place}, at data.py:3, for the 5 minutes"
        journal.write("stalled", trial="ab" * 32, launched=launched, error=error, log="File data.py")
    told.on_trial_error(0, [], trial(4, str(log)))
    dead, hung = (error for _, error in heard.ended)
    assert dead == "its worker died 4 times without getting any further, the last time: The actor died unexpectedly"
    assert hung.endswith("the last time: it hung in load, at data.py:3, for the 5 minutes")
