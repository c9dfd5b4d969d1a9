"""What is known of a run: trials, stages, gaps, speed, warnings and time left, replayed with a clock of our own."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.forecast import Speed
from orchestrator.progress import Listener, State

TO_DO = {"p1": ("pretrain mlp", 100.0), "p2": ("pretrain mlp", 300.0), "q1": ("linear_probe mlp", 10.0)}
NEEDS = {"a": ("p1", "q1"), "b": ("p1", "p2"), "c": ("p2",), "d": ()}


class Clock:
    """Shows what it is set to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def state(clock):
    return State(
        trials=4, stages=5, stored=2, started=0.0, to_do=dict(TO_DO), needs=dict(NEEDS),
        outcomes=dict.fromkeys("abcd", "pending"), clock=clock,
    )  # fmt: skip


def computed(digest, seconds, **more):
    return {"events": [{"event": "stage", "digest": digest, "seconds": seconds, **more}]}


def training(run, share, share_per_second, rate=100.0):
    return {
        "doing": f"{run} under way", "examples_per_second": rate,
        "run": run, "share": share, "share_per_second": share_per_second,
    }  # fmt: skip


def row(gap, seed=0, component="odd", pretrain="m", direct="d"):
    return {
        "gap": gap, "seed": seed, "component": component, "mixture": "even 50 % + odd 50 %",
        "pretrain_digest": pretrain, "direct_digest": direct, "primary": True,
    }  # fmt: skip


def test_trials_are_counted_as_they_start_end_fail_and_diverge(state):
    state.trial_started("a")
    state.trial_started("b")
    assert state.snapshot().counts() == {"running": 2, "pending": 2}
    state.trial_ended("a", "ok")
    state.trial_ended("b", "failed", "no such file")
    state.trial_started("c")
    state.trial_ended("d", "stopped")
    assert state.snapshot().counts() == {"ok": 1, "failed": 1, "running": 1, "stopped": 1}
    state.measured("a", "diverged", [])
    assert state.snapshot("interrupted").counts() == {"diverged": 1, "failed": 1, "pending": 1, "stopped": 1}


def test_trials_that_a_search_has_still_to_ask_for_are_pending(clock):
    state = State(trials=20, stages=0, stored=0, started=0.0, clock=clock)
    state.add_trial("a", {"p": ("pretrain mlp", 1.0)}, 3, 2, ["p", "q", "r"])
    state.trial_started("a")
    found = state.snapshot()
    assert (found.counts(), found.stages, found.reused, found.left) == ({"running": 1, "pending": 19}, 3, 2, 1)


def test_stages_are_computed_here_or_reused_and_what_comes_at_rungs_is_neither(state):
    state.trial_progress("a", computed("p1", 10.0))
    state.trial_progress("a", computed("at a rung", 1.0))
    found = state.snapshot()
    assert (found.stages, found.stages_stored, found.reused, found.left, state.computed) == (5, 3, 2, 2, 2)


def test_stages_that_only_trials_at_their_end_needed_are_not_left_to_do(state):
    state.trial_ended("a", "failed")
    assert set(state.to_do) == {"p1", "p2"}, "q1 was its own; p1 is what another needs as well"
    state.trial_ended("b", "stopped")
    assert set(state.to_do) == {"p2"}
    state.trial_ended("c", "ok")
    assert state.snapshot().left == 0


def test_a_stage_is_heard_of_after_the_trial_that_alone_needed_it(state):
    """Two workers share its stages out: the one that saw the last of them in the store may report first."""
    state.trial_ended("a", "ok")
    state.trial_progress("a+1", computed("q1", 1.0))
    found = state.snapshot()
    assert (found.stages_stored, found.left) == (3, 2)


def test_time_left_is_unknown_then_from_what_trains_then_from_what_is_finished(state, clock):
    state.trial_started("a")
    state.trial_started("b")
    assert state.left() is None
    state.earlier = {"linear_probe mlp": Speed(4.0, 10.0, 6)}
    clock.now = 5.0
    state.trial_progress("a", training("p1", 0.5, 0.1))  # 5 s left, 10 FLOPs a second
    found = state.snapshot()
    assert found.seconds == 5.0
    assert found.examples_per_second == 100.0
    assert found.forecast.seconds == pytest.approx((5 + 300 / 10 + 10 * 0.4) / 2)
    assert found.forecast.basis == "the pretraining under way and 6 stages of earlier runs on this machine"
    state.trial_progress("a", computed("p1", 20.0) | {"doing": "p1", "examples_per_second": 0.0})
    found = state.snapshot()
    assert found.forecast.seconds == pytest.approx((300 * 0.2 + 4) / 2)
    assert found.forecast.basis == "1 stage of this run and 6 stages of earlier runs on this machine"
    assert found.speeds == {"pretrain mlp": Speed(20.0, 100.0, 1), "linear_probe mlp": Speed(4.0, 10.0, 6)}


@given(st.permutations(range(6)), st.lists(st.floats(0, 1e18), min_size=6, max_size=6))
def test_in_whatever_order_stages_end_nothing_is_left_after_the_last(order, flops):
    to_do = {str(i): ("pretrain mlp", cost) for i, cost in enumerate(flops)}
    state = State(trials=1, stages=6, stored=0, started=0.0, to_do=to_do, clock=Clock())
    state.trial_started("a")
    for position, stage in enumerate(order):
        state.trial_progress("a", computed(str(stage), 1.0))
        assert state.snapshot().left == 5 - position
    assert state.left().seconds == 0


def test_a_run_that_was_taken_up_again_counts_with_all_its_time(state):
    state.trial_started("a")
    state.trial_progress("a", computed("p1", 2.0, seconds_in_all=10.0))
    state.trial_progress("a", computed("q1", 1.0, seconds_in_all=1.0))
    assert state.left().seconds == pytest.approx(300 * 0.1)


def test_a_trial_that_is_gone_has_no_pace_and_what_it_trained_is_not_lost(state):
    state.trial_started("b")
    state.trial_started("c")
    state.trial_progress("b", training("p2", 0.9, 0.1))
    state.trial_ended("b", "failed")
    state.trial_progress("a", computed("p1", 10.0))
    state.trial_progress("a", computed("q1", 10.0))
    assert state.left().seconds == pytest.approx((1 - 0.9) * 300 * 0.1)
    assert state.snapshot().examples_per_second == 0


def test_the_best_and_the_worst_gap_have_their_interval_and_a_mixture_is_not_compared_with_itself(state):
    state.measured("a", "ok", [row(0.0, pretrain="d")])
    assert state.snapshot().worst is None
    state.measured("b", "ok", [row(0.10, 0), row(0.14, 1), row(0.12, 2), row(0.01, component="even")])
    state.measured("c", "diverged", [row(None)])
    found = state.snapshot()
    worst, best = found.worst, found.best
    assert (worst.component, worst.mixture, worst.n, worst.trial) == ("odd", "even 50 % + odd 50 %", 3, "b")
    half = 4.302653 * 0.02 / 3**0.5  # t(2 degrees of freedom, 97.5 %) x deviation / root of n
    assert (worst.mean, worst.low, worst.high) == pytest.approx((0.12, 0.12 - half, 0.12 + half))
    assert (best.component, best.mean, best.low, best.n) == ("even", 0.01, None, 1)


def test_the_last_three_warnings_say_how_long_ago_they_were(state, clock):
    for clock.now, said in enumerate(["one", "two", "three"]):
        state.trial_progress("a", {"warnings": [said]})
    clock.now = 10.0
    state.trial_ended("b", "failed", "no memory")
    clock.now = 12.0
    shown = [(one.seconds_ago, one.text) for one in state.snapshot().warnings]
    assert shown == [(11.0, "two"), (10.0, "three"), (2.0, "trial b failed: no memory")]


def test_a_gpu_that_two_trials_share_is_one_and_on_a_cpu_there_is_none(state):
    use = {"gpu": "GPU-1", "name": "H200", "used_bytes": 2**30, "total_bytes": 2**37, "busy": 0.5}
    for trial, gpu in (("a", use), ("b", use | {"busy": None}), ("c", use | {"gpu": "GPU-2"}), ("d", None)):
        state.trial_progress(trial, {"doing": "it", "examples_per_second": 0.0, "gpu": gpu})
    assert [(one.gpu, one.busy) for one in state.snapshot().gpus] == [("GPU-1", None), ("GPU-2", 0.5)]
    state._running.clear()
    assert state.snapshot().gpus == ()


def test_what_our_modules_warn_of_is_heard_and_still_printed(state, capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with Listener(state):
        logging.getLogger("orchestrator.tracking").warning("MLflow is away: http://me:pass@word@host/")
        logging.getLogger("someone.else").warning("not ours")
    logging.getLogger("orchestrator.tracking").warning("after it")
    assert [one.text for one in state.snapshot().warnings] == ["MLflow is away: http://host/"]
    err = capsys.readouterr().err
    assert err.count("MLflow is away") == err.count("not ours") == err.count("after it") == 1
