"""What the driver gives out: the trials in their order and, when they run out, trials under way once more."""

from types import SimpleNamespace

import pytest
from made_up_sweeps import made_up

from orchestrator.driver import Driver
from orchestrator.journal import Journal
from orchestrator.launch import End
from orchestrator.progress import State
from trainables.store import Store


@pytest.fixture
def driven(tmp_path):
    """A driver of two trials on two slots, whose results are in the store when they end."""
    sweep = made_up("helped", trials=2)
    needs = {trial["digest"]: [digest for _, digest in trial["stages"]] for trial in sweep.plan["trials"]}
    state = State(
        trials=2,
        stages=20,
        stored=0,
        started=0.0,
        to_do={digest: ("pretrain cnn", 1.0) for digests in needs.values() for digest in digests},
        needs=needs,
    )
    driver = Driver(
        sweep.plan,
        lookup=sweep.lookup,
        journal=Journal(Store(tmp_path), "helped"),
        state=state,
        tracker=SimpleNamespace(log=lambda digest, record: None),
        work=None,
        search=None,
        early_stopping=None,
    )
    trials = [SimpleNamespace(digest=digest) for digest in needs]
    driver.begin(trials, trials, {})
    driver.room(2, 2)
    return driver, state, [trial.digest for trial in trials]


def compute(state, trial, count):
    """Let a worker say that it has computed so many stages of a trial."""
    done = [digest for digest in state.needs[trial] if digest in state.to_do][:count]
    events = [{"event": "stage", "digest": digest, "seconds": 1.0} for digest in done]
    state.trial_progress(trial, {"events": events})


def test_a_slot_that_would_be_idle_helps_the_trial_that_has_most_left(driven):
    driver, state, (first, second) = driven
    assert [driver.next()[0] for _ in range(2)] == [first, second]
    assert driver.next() is None, "both slots are taken"
    assert driver.exhausted()
    with driver:
        driver.trial_ended(first, End())
        name, trial = driver.next()
        assert (name, trial.digest) == (f"{second}+1", second)
        assert driver.next() is None
        driver.trial_started(name)
        assert [one.trial for one in state.snapshot().running] == [second[:12]]
        driver.trial_ended(second, End())
        driver.trial_ended(name, End())
    assert state.snapshot().counts() == {"ok": 2}
    assert state.snapshot().running == ()
    events = [event for event in driver._journal.events() if event["event"] == "trial"]
    assert [event["trial"] for event in events] == [first, second], "a helper's end is not a trial's"


def test_a_trial_with_one_stage_left_needs_no_help(driven):
    driver, state, (first, second) = driven
    driver.next(), driver.next()
    with driver:
        driver.trial_ended(first, End())
        compute(state, second, state.missing(second) - 1)
        assert state.missing(second) == 1
        assert driver.next() is None


def test_a_helper_that_has_ended_is_not_sent_again(driven):
    driver, _, (first, _) = driven
    driver.next(), driver.next()
    with driver:
        driver.trial_ended(first, End())
        name, _ = driver.next()
        driver.trial_ended(name, End(error="it does not fit into memory"))
        assert driver.next() is None


@pytest.mark.parametrize("what", ["_rule", "_more"])
def test_nobody_helps_under_early_stopping_or_while_a_search_may_ask_for_trials(driven, what):
    driver, _, (first, _) = driven
    driver.next(), driver.next()
    with driver:
        driver.trial_ended(first, End())
        setattr(driver, what, "asha")
        assert driver.next() is None
        setattr(driver, what, "")
        assert driver.next() is not None


def test_helpers_are_shared_out_between_the_trials_that_are_left(driven):
    driver, _, (first, second) = driven
    driver.room(8, 5)
    driver.next(), driver.next()
    with driver:
        names = [driver.next()[0] for _ in range(3)]
        assert sorted(names) == sorted([f"{first}+1", f"{second}+1", names[2]])
        assert driver.next() is None, "helpers take the slots that are there, not those that an autoscaler could make"
