"""What follows from curves: peaks, thresholds, forgetting and collapse, worked by hand."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.analysis.trajectories import (
    OUTCOMES,
    collapse,
    forgetting,
    recovered_fraction,
    retention_curve,
    summarise,
    time_to_threshold,
)

STEP = [0, 10, 25, 50, 100, 200, 500, 2000]
# The hard view at weight 0, and what 0.912 of direct training and a ceiling of 0.914 make of it.
TOY_C = {
    "step": STEP,
    "accuracy": [0.612, 0.714, 0.738, 0.586, 0.518, 0.521, 0.524, 0.529],
    "saturation": [s / 1.87 for s in (1.87, 1.70, 0.308, 0.104, 0.108, 0.025, 0.015, 0.0085)],
    "predictability": [0.44, 0.55, 0.57, 0.40, 0.35, 0.35, 0.34, 0.36],
}


def test_toy_c_peaks_at_step_25_never_gets_half_way_and_saturates_at_step_200():
    found = summarise(TOY_C, 0.912, ceiling=0.914)
    assert (found["peak_accuracy"], found["peak_step"]) == (0.738, 25)
    assert found["drop_from_peak"] == pytest.approx(0.209)
    assert (found["threshold_step"], found["threshold_censored"]) == (None, True), "half way is at 0.762"
    assert found["saturation_step"] == 200
    assert found["final_saturation"] == pytest.approx(0.0085 / 1.87)
    assert found["retention_step"] is None, "the most is (0.57 - 0.44) / (0.914 - 0.44) = 0.27"
    assert found["final_retention"] == pytest.approx(-0.08 / 0.474)
    assert found["retention_after"] == pytest.approx((0.36 - 0.35) / 0.474)


def test_a_feature_that_is_learnt_reaches_its_threshold_and_its_retention():
    curves = {
        "step": [0, 10, 100],
        "accuracy": [0.5, 0.75, 0.9],
        "saturation": [1, 0.5, 0.1],
        "predictability": [0.4, 0.75, 0.9],
    }
    found = summarise(curves, 0.9)
    assert (found["threshold_step"], found["threshold_censored"]) == (10, False)
    assert (found["peak_step"], found["drop_from_peak"]) == (100, 0)
    assert (found["retention_step"], found["saturation_step"], found["retention_after"]) == (10, None, None)
    assert summarise(curves, 0.9, random_init=0.65)["threshold_step"] == 100
    assert summarise(curves, None)["threshold_censored"] is None
    assert summarise(curves | {"direct_accuracy": 0.9}, None)["threshold_step"] == 10
    assert summarise(curves, 0.505)["threshold_censored"] is None, "direct training adds nothing to speak of"


def test_absent_points_are_left_out_and_absent_curves_give_absent_numbers():
    found = summarise({"step": [0, 10, 20], "accuracy": [None, 0.8, 0.6]}, 0.9, random_init=0.5)
    assert (found["peak_accuracy"], found["peak_step"], found["threshold_step"]) == (0.8, 10, 10)
    assert found["drop_from_peak"] == pytest.approx(0.2)
    rest = ("final_saturation", "saturation_step", "retention_step", "final_retention", "retention_after")
    assert all(found[name] is None for name in rest)
    nothing = summarise({"step": [0, 10], "accuracy": [None, None]}, 0.9)
    assert set(nothing.values()) == {None}


curves = st.lists(st.floats(0, 1), min_size=1, max_size=10)


@given(accuracy=curves, direct=st.floats(0, 1))
def test_no_point_is_above_the_peak_and_the_drop_from_it_is_never_negative(accuracy, direct):
    found = summarise({"step": list(range(len(accuracy))), "accuracy": accuracy}, direct)
    assert found["peak_accuracy"] == max(accuracy)
    assert accuracy.index(found["peak_accuracy"]) == found["peak_step"]
    assert found["drop_from_peak"] == max(accuracy) - accuracy[-1] >= 0


@given(accuracy=curves, scale=st.floats(0.1, 10), shift=st.floats(-1, 1))
def test_recovered_fractions_do_not_depend_on_the_unit_of_accuracy(accuracy, scale, shift):
    moved = [scale * value + shift for value in accuracy]
    before, after = (
        recovered_fraction(accuracy, 0.9, 0.4),
        recovered_fraction(moved, scale * 0.9 + shift, scale * 0.4 + shift),
    )
    assert after == pytest.approx(before, abs=1e-6)


def test_retention_is_measured_from_the_first_point_to_the_ceiling():
    assert retention_curve([0.2, 0.6, None, 0.1], 1.0) == pytest.approx([0, 0.5, None, -0.125])
    assert retention_curve([0.2, 0.6]) == retention_curve([0.2, 0.6], 1.0)
    assert retention_curve([0.2, 0.6], 0.2) == [None, None], "there is nothing to retain"
    assert retention_curve([]) == []


# --- Phases. ---


def test_forgetting_and_transfer_are_those_of_three_phases_by_hand():
    accuracies = [[0.9, 0.3, 0.2], [0.6, 0.8, 0.4], [0.5, 0.7, 0.9]]
    found = forgetting(accuracies, random_init=[0.1, 0.1, 0.1])
    assert found.per_component == pytest.approx((0.4, 0.1, -0.5))
    assert found.mean == pytest.approx((0.4 + 0.1) / 2)
    assert found.backward_transfer == pytest.approx(((0.5 - 0.9) + (0.7 - 0.8)) / 2)
    assert found.forward_transfer == pytest.approx(((0.3 - 0.1) + (0.4 - 0.1)) / 2)
    assert forgetting(accuracies).forward_transfer is None


def test_a_component_that_returns_is_judged_by_its_last_phase():
    accuracies = [[0.9, 0.2], [0.6, 0.8], [0.95, 0.5]]
    found = forgetting(accuracies, trained=[0, 1, 0], random_init=[0.1, 0.1])
    assert found.mean == found.per_component[1] == pytest.approx(0.3)
    assert found.backward_transfer == pytest.approx(-0.3)
    assert found.forward_transfer == pytest.approx(0.1)
    alone = forgetting([[0.5], [0.7]], trained=[0, 0], random_init=[0.1])
    assert (alone.mean, alone.backward_transfer, alone.forward_transfer) == (None, None, None)


@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=3, max_size=3))
def test_in_a_sequence_nothing_is_forgotten_by_less_than_it_went_down_since_its_own_phase(accuracies):
    found = forgetting(accuracies)
    assert found.mean >= -found.backward_transfer - 1e-12
    for j, lost in enumerate(found.per_component):
        assert all(row[j] - accuracies[-1][j] <= lost + 1e-12 for row in accuracies[:-1])


@pytest.mark.parametrize(
    ("accuracies", "options", "message"),
    [
        ([[0.5, 0.5]], {}, "two or more phases"),
        ([0.5, 0.5], {}, "two or more phases"),
        ([[0.5], [0.5]], {}, r"train components \[0, 1\]"),
        ([[0.5, 0.5]] * 2, {"trained": [0]}, r"train components \[0\]"),
        ([[0.5, 0.5]] * 2, {"random_init": [0.1]}, "1 accuracies at random for 2"),
    ],
)
def test_phases_that_do_not_fit_together_are_refused(accuracies, options, message):
    with pytest.raises(ValueError, match=message):
        forgetting(accuracies, **options)


# --- Times to an event. ---


def test_the_median_time_counts_seeds_that_never_got_there_as_late():
    found = time_to_threshold([50, 10, None, 25, 100])
    assert (found.median, found.low, found.high, found.n, found.censored) == (50, 10, None, 5, 1)
    assert found.coverage == pytest.approx(1 - 2 / 2**5)
    assert time_to_threshold([10, 20]).median == 15
    late = time_to_threshold([10, None])
    assert (late.median, late.low, late.high, late.censored) == (None, 10, None, 1)
    assert time_to_threshold([None, None, None]).low is None
    alone = time_to_threshold([30])
    assert (alone.median, alone.low, alone.high, alone.coverage) == (30, None, None, 0)
    with pytest.raises(ValueError, match="no seed"):
        time_to_threshold([])


def test_ten_seeds_have_the_second_smallest_and_largest_for_an_interval():
    found = time_to_threshold(range(1, 11))
    assert (found.median, found.low, found.high) == (5.5, 2, 9)
    assert found.coverage == pytest.approx(1 - 2 * (1 + 10) / 2**10)


@pytest.mark.parametrize("n", [3, 6, 9])
def test_the_coverage_of_the_interval_is_that_of_all_equally_likely_signs(n):
    """A value lies below the true median or above it, each with chance one half."""
    found = time_to_threshold(range(1, n + 1))
    k = int(found.low)
    held = sum(k <= sum(below) <= n - k for below in itertools.product((0, 1), repeat=n))
    assert found.coverage == pytest.approx(held / 2**n)
    assert found.coverage >= 0.95 or (n < 6 and k == 1)


@given(st.lists(st.one_of(st.none(), st.integers(0, 1000)), min_size=1, max_size=12))
def test_the_median_lies_in_its_interval(steps):
    found = time_to_threshold(steps)
    median, low, high = (math.inf if value is None else value for value in (found.median, found.low, found.high))
    assert found.censored == steps.count(None)
    if found.n > 1:
        assert low <= median <= high


# --- Collapse. ---


def row(component, seed, gap, saturation, retention, after, **changes):
    return {
        "component": component,
        "seed": seed,
        "gap": gap,
        "final_saturation": 0.01 if saturation is not None else 0.3,
        "saturation_step": saturation,
        "final_retention": 0.1,
        "retention_step": retention,
        "retention_after": after,
    } | changes


def test_collapse_counts_what_happened_first_in_every_seed():
    table = pd.DataFrame(
        [
            row("hard", 0, 0.40, 50, None, -0.1),
            row("hard", 1, 0.44, 50, 200, 0.02),
            row("hard", 2, 0.42, 50, 200, 0.4),
            row("hard", 3, 0.43, 50, 50, 0.0),
            row("hard", 4, 0.41, None, None, None),
            row("hard", 5, 0.41, 50, None, -0.1, final_retention=None),
            row("easy", 0, 0.01, None, 10, None),
            row("easy", 1, -0.01, 200, 10, 0.1),
            row("new", 0, 0.2, 50, None, None),
        ]
    )
    found = collapse(table).set_index("component")
    assert list(found.index) == ["hard", "easy", "new"]
    assert found.loc["hard", list(OUTCOMES)].tolist() == [2, 1, 1, 1, 1]
    assert found.loc["easy", list(OUTCOMES)].tolist() == [0, 0, 2, 0, 0]
    assert found.loc["new", list(OUTCOMES)].tolist() == [0, 0, 0, 0, 1]
    assert found["role"].tolist() == ["gap", "control", "unknown"]
    assert found.loc["hard", "gap"] == pytest.approx(np.mean([0.40, 0.44, 0.42, 0.43, 0.41, 0.41]))
    assert found["n"].tolist() == [6, 2, 1]


def test_collapse_reads_nullable_columns_and_groups_by_what_is_asked():
    table = pd.DataFrame([row("hard", s, 0.4 + s / 100, 50, None, -0.1, weight=w) for w in (0.0, 0.1) for s in (0, 1)])
    nullable = table.convert_dtypes()
    found = collapse(nullable, by=("component", "weight"))
    assert found[["component", "weight"]].values.tolist() == [["hard", 0.0], ["hard", 0.1]]
    assert found["collapsed"].tolist() == [2, 2]
    assert collapse(table.assign(gap=None))["unmeasured"].tolist() == [4]
    assert collapse(table.iloc[:0]).empty


@settings(max_examples=40)
@given(
    st.lists(st.tuples(*[st.one_of(st.none(), st.floats(-1, 1))] * 3, *[st.one_of(st.none(), st.integers(0, 99))] * 2))
)
def test_every_seed_has_exactly_one_outcome(values):
    rows = [row("a", i, g, s, r, a, final_saturation=f) for i, (g, f, a, s, r) in enumerate(values)]
    table = pd.DataFrame(rows, columns=list(row("a", 0, 0, 0, 0, 0)))
    assert int(collapse(table)[list(OUTCOMES)].to_numpy().sum()) == len(values)


def test_the_analysis_of_trajectories_needs_no_torch():
    program = (
        "import sys, orchestrator.analysis.trajectories;"
        "print([name for name in ('torch', 'ray', 'mlflow') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
