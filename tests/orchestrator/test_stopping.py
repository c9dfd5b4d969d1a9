"""Early stopping: where trials are looked at, what they are compared by, and which of them go on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import stopping
from orchestrator.launch import OBJECTIVE, TIME, _scheduler
from orchestrator.objectives import Objective
from orchestrator.stopping import Stopping
from orchestrator.sweep import parse
from trainables.spec import Rung, RungCell

SWEEP = """
name: small
question: Which?
components:
  low: {dataset: digits, classes: [0, 1, 2, 3, 4]}
  high: {dataset: digits, classes: [5, 6, 7, 8, 9]}
pretrain: {steps: 270}
early_stopping: {RULE}
"""


def rule(text):
    return parse(SWEEP.replace("{RULE}", text), "small.yaml").early_stopping


def stopper(text="{asha: {grace_steps: 10}}", objective="worst_gap", history=()):
    return Stopping(rule=rule(text), objective=Objective(objective), most_steps=270, history=history)


class Trial:
    def __init__(self, name):
        self.trial_id = name

    def __hash__(self):
        return hash(self.trial_id)


def told(scheduler, trial, steps, value, unit=10):
    return scheduler.on_trial_result(None, trial, {TIME: steps / unit, OBJECTIVE: value})


def test_rungs_grow_by_the_factor_or_come_regularly_and_the_end_is_none():
    assert stopping.settings(rule("{asha: {grace_steps: 10}}")).rungs(270) == (10, 30, 90)
    assert stopping.settings(rule("{hyperband: {grace_steps: 10, reduction_factor: 2}}")).rungs(81) == (10, 20, 40, 80)
    assert stopping.settings(rule("{median: {grace_steps: 100}}")).rungs(270) == (100, 200)


@given(st.integers(1, 50), st.integers(2, 5), st.integers(1, 5000))
def test_every_rung_lies_inside_the_trial(grace, factor, steps):
    found = stopping.settings(rule(f"{{asha: {{grace_steps: {grace}, reduction_factor: {factor}}}}}")).rungs(steps)
    assert all(0 < at < steps for at in found)
    assert list(found) == sorted(set(found))


def test_what_is_compared_is_the_gap_on_validation_examples_and_absent_where_a_network_diverged():
    class Stage:
        def __init__(self, digest):
            self.digest = digest

    reached = {"a0": 0.7, "a1": 0.9, "b0": 0.5, "b1": 0.5, "da": 0.9, "db": 0.9}

    def lookup(kind, digest):
        return {"validation_accuracy": reached[digest], "test_accuracy": 0.0} if digest in reached else None

    cells = tuple(
        RungCell(seed=seed, component=name, transfer=Stage(f"{name}{seed}"), direct=Stage(f"d{name}"))
        for seed in (0, 1)
        for name in ("a", "b")
    )
    rung = Rung(steps=10, cells=cells)
    assert stopper().objective_at(rung, lookup) == pytest.approx(0.4)  # b loses 0.4, a 0.1
    assert stopper(objective="mean_gap").objective_at(rung, lookup) == pytest.approx(0.25)
    del reached["b1"]
    assert stopper().objective_at(rung, lookup) is None


def test_successive_halving_stops_what_is_not_among_the_best_at_its_rung():
    scheduler = _scheduler(stopper())
    trials = [Trial(str(i)) for i in range(4)]
    for trial in trials:
        scheduler.on_trial_add(None, trial)
    assert [told(scheduler, t, 10, v) for t, v in zip(trials, (0.3, 0.1, 0.2, 0.05), strict=True)] == [
        "CONTINUE", "CONTINUE", "STOP", "CONTINUE",
    ]  # fmt: skip


def test_an_accuracy_is_better_the_higher_it_is():
    scheduler = _scheduler(stopper(objective="accuracy"))
    first, second = Trial("a"), Trial("b")
    for trial in (first, second):
        scheduler.on_trial_add(None, trial)
    assert told(scheduler, first, 10, 0.9) == "CONTINUE"
    assert told(scheduler, second, 10, 0.5) == "STOP"


def test_a_trial_that_comes_by_a_rung_again_is_not_judged_twice_and_reports_between_rungs_say_nothing():
    scheduler = _scheduler(stopper("{median: {grace_steps: 10, min_trials: 1}}"))
    good, bad = Trial("good"), Trial("bad")
    for trial in (good, bad):
        scheduler.on_trial_add(None, trial)
    assert told(scheduler, bad, 10, 0.5) == "CONTINUE"  # the first of all
    assert told(scheduler, good, 10, 0.1) == "CONTINUE"
    assert told(scheduler, bad, 10, 0.5) == "CONTINUE"  # its worker was lost, and it comes by again
    assert scheduler.on_trial_result(None, bad, {"doing": "training"}) == "CONTINUE"
    assert told(scheduler, bad, 20, 0.5) == "CONTINUE"  # nobody else is as far
    assert told(scheduler, good, 20, 0.1) == "CONTINUE"
    scheduler.on_trial_complete(None, bad, {"error": "its last report has no objective"})


@pytest.mark.parametrize("text", ["{asha: {grace_steps: 10}}", "{median: {grace_steps: 10, min_trials: 2}}"])
def test_what_earlier_runs_of_the_sweep_found_is_compared_with(text):
    scheduler = _scheduler(stopper(text, history=(("x", 10, 0.1), ("y", 10, 0.1), ("z", 10, 0.1))))
    trial = Trial("late")
    scheduler.on_trial_add(None, trial)
    assert told(scheduler, trial, 10, 0.4) == "STOP"


def test_a_trial_that_runs_again_is_not_compared_with_itself():
    history = (("x", 10, 0.1), ("y", 10, 0.2))
    assert stopper(history=history).without({"x"}).history == (("y", 10, 0.2),)


def test_another_rule_or_objective_has_another_name():
    names = [
        stopper().name,
        stopper("{asha: {grace_steps: 20}}").name,
        stopper("{median: {grace_steps: 10}}").name,
        stopper(objective="mean_gap").name,
    ]
    assert len(set(names)) == len(names)
    assert stopper(history=(("x", 10, 0.1),)).name == names[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("early_stopping: {asha: {grace_steps: 270}}", "the shortest pretraining has 270 steps"),
        ("early_stopping: {asha: {grace_steps: 9, objective: compute}}", "the same for all at a rung"),
        ("early_stopping: {asha: {grace_steps: 9, objective: {gap: middle}}}", "unknown component 'middle'"),
        ("early_stopping: {asha: {grace_steps: 9, reduction_factor: 1}}", "a whole number from 2 to 100"),
        ("early_stopping: {asha: {grace_steps: 9}}\ndirect: {kind: same_examples}", "has no baseline"),
        ("early_stopping: {asha: {grace_steps: 9}}\nvary: {representation: {bonsai: 2}}", "trained side by side"),
        ("early_stopping: {hyperband: {grace_steps: 9}}\nsearch: {optuna: {samples: 4}}", "asha or median is possible"),
    ],
)
def test_what_cannot_be_stopped_early_is_one_line(change, message):
    with pytest.raises(ValueError, match=message):
        parse(SWEEP.replace("early_stopping: {RULE}", change), "small.yaml")
