"""What a search looks for, from scores and from a plan's cells, against answers worked out by hand."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator.objectives import WORDS, Constraint, Objective, Score, scores

FOUND = [Score(0, "a", 0.5, 0.7), Score(1, "a", 0.6, 0.7), Score(0, "b", 0.8, 0.7), Score(1, "b", 0.8, 0.8)]
ALL = [*WORDS, {"gap": "a"}, {"accuracy": "b"}]


def value(written, found=FOUND, compute=3e9):
    return Objective.model_validate(written).value(found, compute)


@pytest.mark.parametrize(
    ("written", "expected", "label", "minimised"),
    [
        ("worst_gap", 0.15, "worst_gap", True),  # of a: 0.2 and 0.1; of b: -0.1 and 0
        ("mean_gap", 0.05, "mean_gap", True),
        ("accuracy", 0.675, "accuracy", False),
        ("worst_accuracy", 0.55, "worst_accuracy", False),
        ("compute", 3e9, "compute", True),
        ({"gap": "b"}, -0.05, "gap:b", True),
        ({"accuracy": "b"}, 0.8, "accuracy:b", False),
    ],
)
def test_an_objective_is_a_mean_over_seeds_and_then_over_components(written, expected, label, minimised):
    objective = Objective.model_validate(written)
    assert objective.value(FOUND, 3e9) == pytest.approx(expected)
    assert (objective.label, objective.minimised) == (label, minimised)


@pytest.mark.parametrize("written", ["worst_gap", "mean_gap", {"gap": "a"}])
def test_a_gap_without_a_baseline_cannot_be_computed(written):
    assert value(written, [*FOUND, Score(2, "a", 0.5, None)]) is None


def test_accuracies_need_no_baseline():
    assert value("accuracy", [Score(0, "a", 0.5, None)]) == 0.5


@pytest.mark.parametrize("written", [w for w in ALL if w != "compute"])
def test_nothing_can_be_computed_from_no_scores(written):
    assert value(written, []) is None


def test_the_number_of_a_component_that_was_not_measured_cannot_be_computed():
    assert value({"gap": "c"}) is None


def test_an_unknown_price_is_none():
    assert value("compute", compute=None) is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1), st.floats(0, 1)), min_size=1))
def test_the_worst_component_is_never_better_than_the_mean(drawn):
    found = [Score(0, name, accuracy, direct) for name, accuracy, direct in drawn]
    assert value("worst_gap", found) >= value("mean_gap", found) - 1e-12
    assert value("worst_accuracy", found) <= value("accuracy", found) + 1e-12


@pytest.mark.parametrize("written", ALL)
def test_an_objective_can_be_written_down_and_read_again(written):
    objective = Objective.model_validate(written)
    assert Objective.model_validate(objective.model_dump(mode="json")) == objective
    assert hash(Objective.model_validate(written)) == hash(objective)


@pytest.mark.parametrize("written", ["worst", {"loss": "a"}, {"gap": 3}, {"gap": "a", "accuracy": "a"}, 3, None, []])
def test_what_is_no_objective_is_refused_with_all_that_are(written):
    with pytest.raises(ValidationError, match=r"worst_gap, .*, compute, \{gap: COMPONENT\} or \{accuracy: COMPONENT\}"):
        Objective.model_validate(written)


def test_a_constraint_is_violated_by_how_far_the_number_is_beyond_its_bound():
    at_least = Constraint.model_validate({"objective": {"accuracy": "b"}, "at_least": 0.9})
    at_most = Constraint.model_validate({"objective": "worst_gap", "at_most": 0.2})
    assert at_least.violation(FOUND, None) == pytest.approx(0.1)
    assert at_most.violation(FOUND, None) == pytest.approx(-0.05)
    assert Constraint.model_validate({"objective": "accuracy", "at_least": 0}).violation(FOUND, None) < 0


def test_a_constraint_on_what_cannot_be_computed_is_violated_without_end():
    assert Constraint.model_validate({"objective": "compute", "at_most": 1}).violation(FOUND, None) == math.inf


@pytest.mark.parametrize("bounds", [{}, {"at_most": 1, "at_least": 0}])
def test_a_constraint_has_one_bound(bounds):
    with pytest.raises(ValidationError, match=r"neither|both"):
        Constraint.model_validate({"objective": "accuracy", **bounds})


# From results ---------------------------------------------------------------------------------------------------------


def cell(component="a", primary=True, baselines=("d",)):
    listed = [{"probe": f"probe of {name}", "pretrain": f"run of {name}"} for name in baselines]
    return {"seed": 0, "component": component, "primary": primary, "transfer": "t", "baselines": listed}


def lookup(**accuracies):
    """A store where a probe of that name reached this validation accuracy; what is not named is not there."""
    found = {
        f"probe of {name}": {"status": "ok", "validation_accuracy": a, "test_accuracy": 1.0}
        for name, a in accuracies.items()
    }
    found["t"] = found.pop("probe of t", None)
    found |= {f"run of {name}": {"status": "ok"} for name in accuracies}
    return lambda kind, digest: found.get(digest)


def test_scores_are_validation_accuracies_and_never_those_of_the_test_split():
    assert scores([cell()], lookup(t=0.5, d=0.75)) == [Score(0, "a", 0.5, 0.75)]


def test_only_the_primary_protocol_counts():
    assert scores([cell(), cell("b", primary=False)], lookup(t=0.5, d=0.75)) == [Score(0, "a", 0.5, 0.75)]


def test_of_several_baselines_the_one_counts_that_validation_prefers():
    assert scores([cell(baselines=("d", "e"))], lookup(t=0.5, d=0.75, e=0.875)) == [Score(0, "a", 0.5, 0.875)]


def test_there_are_no_scores_while_a_probe_is_missing():
    assert scores([cell()], lookup(d=0.75)) is None
    assert scores([cell()], lookup(t=0.5)) is None
    assert scores([cell(baselines=("d", "e"))], lookup(t=0.5, d=0.75)) is None


def test_there_are_no_scores_where_a_baseline_diverged_or_features_could_not_be_read():
    diverged = {"run of d": {"status": "diverged", "diverged_at": 3}, "t": {"status": "ok", "validation_accuracy": 0.5}}
    assert scores([cell()], lambda kind, digest: diverged.get(digest)) is None
    impossible = {"t": {"status": "impossible", "reason": "not finite"}}
    assert scores([cell(baselines=())], lambda kind, digest: impossible.get(digest)) is None


def test_a_trial_without_a_baseline_has_accuracies_alone():
    assert scores([cell(baselines=())], lookup(t=0.5)) == [Score(0, "a", 0.5, None)]


def test_importing_objectives_imports_nothing_heavy():
    program = "import sys, orchestrator.objectives; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "ray", "mlflow", "pandas", "scipy", "optuna", "numpy"} & set(done.stdout.split())
