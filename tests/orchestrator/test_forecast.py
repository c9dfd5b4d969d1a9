"""How long the rest takes: the best speed that is known, what it rests on, and nothing where nothing is known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.forecast import Pace, Speed, forecast

CNN, PROBE = "pretrain cnn", "linear_probe cnn"
LEFT = {CNN: 400.0, PROBE: 10.0}
FINISHED = {CNN: Speed(10.0, 100.0, 2), PROBE: Speed(1.0, 10.0, 1)}  # 10 FLOPs a second each


def test_finished_stages_of_this_run_give_the_speed_of_each_workload():
    found = forecast(LEFT, [], FINISHED, {}, 2)
    assert found.seconds == pytest.approx((100 + 300 + 10) / 10 / 2)
    assert found.basis == "3 stages of this run"


def test_a_workload_of_which_nothing_is_known_leaves_the_whole_unknown():
    assert forecast(LEFT, [], {CNN: FINISHED[CNN]}, {}, 2) is None
    assert forecast(LEFT, [], {}, {}, 2) is None
    assert forecast(LEFT, [], FINISHED, {}, 0) is None, "and so does a run that has not started a trial"


def test_earlier_runs_speak_until_this_one_does():
    earlier = {CNN: Speed(50.0, 100.0, 7), PROBE: Speed(2.0, 10.0, 3)}  # 2 and 5 FLOPs a second
    found = forecast(LEFT, [], {}, earlier, 1)
    assert found.seconds == pytest.approx(400 / 2 + 10 / 5)
    assert found.basis == "10 stages of earlier runs on this machine"
    found = forecast(LEFT, [], {CNN: FINISHED[CNN]}, earlier, 1)
    assert found.seconds == pytest.approx(400 / 10 + 10 / 5)
    assert found.basis == "2 stages of this run and 3 stages of earlier runs on this machine"


def test_a_pretraining_under_way_tells_its_own_rest_and_the_speed_of_those_like_it():
    probe = {PROBE: FINISHED[PROBE]}
    begun = [Pace(CNN, 100.0, 0.75, 0.05)]  # 5 s left of it; 5 FLOPs a second
    found = forecast(LEFT, begun, probe, {CNN: Speed(1.0, 1000.0, 9)}, 1)
    assert found.seconds == pytest.approx(5 + 300 / 5 + 1)
    assert found.basis == "1 stage of this run and the pretraining under way"
    assert forecast(LEFT, begun, FINISHED, {}, 1).seconds == pytest.approx(5 + 300 / 10 + 1)
    alone = forecast({CNN: 100.0}, begun, {}, {}, 1)
    assert (alone.seconds, alone.basis) == (pytest.approx(5), "the pretraining under way")


def test_a_pretraining_that_was_left_half_done_costs_its_other_half():
    found = forecast({CNN: 300.0}, [Pace(CNN, 300.0, 0.5, 0.0)], FINISHED, {}, 1)
    assert found.seconds == pytest.approx(150 / 10)


def test_a_probe_of_another_architecture_is_a_guide_and_the_training_of_one_is_none():
    here = FINISHED | {"linear_probe mlp": Speed(3.0, 10.0, 1)}  # together 20 FLOPs in 4 s
    found = forecast({"linear_probe raw": 50.0}, [], here, {}, 1)
    assert (found.seconds, found.basis) == (pytest.approx(50 * 4 / 20), "2 stages of this run")
    assert forecast({"knn raw": 50.0}, [], here, {}, 1) is None
    assert forecast({"pretrain mlp": 50.0}, [], here, {}, 1) is None
    earlier = {"linear_probe raw": Speed(1.0, 50.0, 4)}
    assert forecast({"linear_probe raw": 50.0}, [], here, earlier, 1).seconds == pytest.approx(1)


def test_what_takes_no_arithmetic_takes_no_time_and_nothing_needs_no_speed():
    assert forecast({}, [], {}, {}, 0).seconds == 0
    assert forecast({CNN: 0.0}, [], {}, {}, 0).seconds == 0
    assert forecast({"pretrain mlp": 0.0, **LEFT}, [], FINISHED, {}, 1).basis == "3 stages of this run"


@given(st.floats(0.1, 1e3), st.integers(1, 50), st.floats(1.0, 1e15))
def test_a_machine_twice_as_fast_or_twice_the_trials_at_once_halve_the_time(seconds, at_once, flops):
    once = forecast({CNN: flops}, [], {CNN: Speed(seconds, 100.0, 1)}, {}, at_once).seconds
    faster = forecast({CNN: flops}, [], {CNN: Speed(seconds / 2, 100.0, 1)}, {}, at_once)
    assert faster.seconds == pytest.approx(once / 2)
    assert forecast({CNN: flops}, [], {CNN: Speed(seconds, 100.0, 1)}, {}, 2 * at_once).seconds == pytest.approx(
        once / 2
    )
