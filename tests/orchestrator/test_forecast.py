"""How long the rest takes: the best speed that is known, what it rests on, and nothing where nothing is known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.forecast import Pace, Speed, forecast

CNN, PROBE = "pretrain cnn", "linear_probe cnn"
TO_DO = {"a": (CNN, 100.0), "b": (CNN, 300.0), "c": (PROBE, 10.0)}
FINISHED = {CNN: Speed(10.0, 100.0, 2), PROBE: Speed(1.0, 10.0, 1)}  # 10 FLOPs a second each


def test_finished_stages_of_this_run_give_the_speed_of_each_workload():
    found = forecast(TO_DO, {}, FINISHED, {}, 2)
    assert found.seconds == pytest.approx((100 + 300 + 10) / 10 / 2)
    assert found.basis == "3 stages of this run"


def test_a_workload_of_which_nothing_is_known_leaves_the_whole_unknown():
    assert forecast(TO_DO, {}, {CNN: FINISHED[CNN]}, {}, 2) is None
    assert forecast(TO_DO, {}, {}, {}, 2) is None
    assert forecast(TO_DO, {}, FINISHED, {}, 0) is None, "and so does a run that has not started a trial"


def test_earlier_runs_speak_until_this_one_does():
    earlier = {CNN: Speed(50.0, 100.0, 7), PROBE: Speed(2.0, 10.0, 3)}  # 2 and 5 FLOPs a second
    found = forecast(TO_DO, {}, {}, earlier, 1)
    assert found.seconds == pytest.approx(400 / 2 + 10 / 5)
    assert found.basis == "10 stages of earlier runs on this machine"
    found = forecast(TO_DO, {}, {CNN: FINISHED[CNN]}, earlier, 1)
    assert found.seconds == pytest.approx(400 / 10 + 10 / 5)
    assert found.basis == "2 stages of this run and 3 stages of earlier runs on this machine"


def test_a_pretraining_under_way_tells_its_own_rest_and_the_speed_of_those_like_it():
    probe = {PROBE: FINISHED[PROBE]}
    paces = {"a": Pace(0.75, 0.05)}  # 5 s left of it; 5 FLOPs a second
    found = forecast(TO_DO, paces, probe, {CNN: Speed(1.0, 1000.0, 9)}, 1)
    assert found.seconds == pytest.approx(5 + 300 / 5 + 1)
    assert found.basis == "1 stage of this run and the pretraining under way"


def test_a_pretraining_that_was_left_half_done_costs_its_other_half():
    found = forecast({"b": (CNN, 300.0)}, {"b": Pace(0.5, 0.0)}, FINISHED, {}, 1)
    assert found.seconds == pytest.approx(150 / 10)


def test_what_takes_no_arithmetic_takes_no_time_and_nothing_needs_no_speed():
    assert forecast({}, {}, {}, {}, 0).seconds == 0
    assert forecast({"i": (CNN, 0.0)}, {}, {}, {}, 0).seconds == 0
    assert forecast({"i": ("pretrain mlp", 0.0), **TO_DO}, {}, FINISHED, {}, 1).basis == "3 stages of this run"


@given(st.floats(0.1, 1e3), st.integers(1, 50), st.lists(st.floats(1.0, 1e9), min_size=1, max_size=20))
def test_a_machine_twice_as_fast_or_twice_the_trials_at_once_halve_the_time(seconds, at_once, flops):
    to_do = {str(i): (CNN, f) for i, f in enumerate(flops)}
    once = forecast(to_do, {}, {CNN: Speed(seconds, 100.0, 1)}, {}, at_once).seconds
    assert forecast(to_do, {}, {CNN: Speed(seconds / 2, 100.0, 1)}, {}, at_once).seconds == pytest.approx(once / 2)
    assert forecast(to_do, {}, {CNN: Speed(seconds, 100.0, 1)}, {}, 2 * at_once).seconds == pytest.approx(once / 2)
