"""What else do the gaps of a table say?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from claim_tables import Planted, row
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from orchestrator import results
from orchestrator.analysis import measures
from orchestrator.analysis.gaps import estimate

numbers = st.floats(-1, 1, allow_nan=False).map(lambda value: round(value, 3))


def table(*gaps_of: tuple[str, float, list[float]], **columns: Any) -> pd.DataFrame:
    """(component, weight, gap of every seed) as rows of one design."""
    return results.table(
        row(component=component, weight=weight, seed=seed, transfer=0.9 - gap, **columns)
        for component, weight, gaps in gaps_of
        for seed, gap in enumerate(gaps)
    )


# Indices


def test_the_indices_are_those_worked_out_by_hand():
    found = measures.indices(table(("a", 0.75, [0.02, 0.04]), ("b", 0.25, [0.10, 0.12]))).iloc[0]
    # By seed: mean .06, .08; weighted .75 * .02 + .25 * .10 = .04, .75 * .04 + .25 * .12 = .06; largest mean gap .11
    assert (found["mean"], found["weighted"], found["worst"]) == pytest.approx((0.07, 0.05, 0.11))
    assert found["worst_component"] == "b"
    expected = estimate([0.06, 0.08])
    assert (found["mean_low"], found["mean_high"]) == pytest.approx((expected.low, expected.high))


def test_the_share_of_losing_components_counts_intervals_above_0():
    found = measures.indices(table(("a", 0.5, [0.10, 0.11, 0.12]), ("b", 0.5, [-0.01, 0.0, 0.012]))).iloc[0]
    assert found["losing"] == 0.5


def test_the_interval_of_the_worst_gap_is_the_ordinary_one_for_a_single_component():
    gaps = [0.10, 0.12, 0.11]
    found, expected = measures.indices(table(("a", 1.0, gaps))).iloc[0], estimate(gaps)
    assert (found["worst_low"], found["worst_high"]) == pytest.approx((expected.low, expected.high))


def test_the_key_of_a_row_has_pythons_own_values_and_none_for_what_is_absent():
    table = results.table(
        [row(transfer=0.5), {**row(transfer=0.5), "depth": None, "gap": None}, {**row(transfer=1.0), "shots": 5}]
    )
    by = ["trial", "seed", "width", "depth", "shots", "gap", "primary"]
    found = measures.keys(table, by)
    columns = zip(*(table[name].tolist() for name in by), strict=True)
    one_by_one = [tuple(None if pd.isna(value) else value for value in values) for values in columns]
    assert found == one_by_one
    assert [[type(value) for value in key] for key in found] == [[type(value) for value in key] for key in one_by_one]
    assert None in found[1]


@given(st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=2, max_size=4))
@settings(max_examples=20)
def test_the_worst_gap_lies_in_its_interval_and_no_mean_of_gaps_lies_above_it(gaps):
    rows = [(f"c{k}", 1 / len(gaps), values) for k, values in enumerate(gaps)]
    found = measures.indices(table(*rows)).iloc[0]
    assert found["worst_low"] - 1e-9 <= found["worst"] <= found["worst_high"] + 1e-9
    assert found["mean"] <= found["worst"] + 1e-9


def test_the_interval_of_the_worst_gap_holds_it_as_often_as_it_says():
    draws, truth, inside = np.random.default_rng(1), np.array([0.05, 0.05, 0.03]), 0
    for _ in range(1000):
        low, high = measures._bounds_of_largest(truth + 0.01 * draws.normal(size=(4, 3)))
        assert low is not None
        assert high is not None
        inside += low <= 0.05 <= high
    assert inside >= 940


def test_seeds_that_lack_a_component_are_counted_and_not_used():
    found = measures.indices(table(("a", 0.5, [0.1, 0.1, 0.1]), ("b", 0.5, [0.2, 0.2]))).iloc[0]
    assert (found["n"], found["incomplete"], found["mean"]) == (2, 1, pytest.approx(0.15))


def test_an_invalid_row_is_counted_and_its_numbers_are_not_used():
    good = table(("a", 1.0, [0.1, 0.1, 0.1]))
    bad = results.table([row(component="a", weight=1.0, seed=9, transfer=0.0, invalid="the network is dead")])
    found = measures.indices(pd.concat([good, bad], ignore_index=True)).iloc[0]
    assert (found["invalid"], found["n"], found["worst"]) == (1, 3, pytest.approx(0.1))


def test_without_a_gap_of_every_component_that_is_shown_there_is_no_weighted_index():
    bad = [row(component="b", weight=0.5, seed=s, transfer=0.1, invalid="dead") for s in range(2)]
    good = [row(component="a", weight=0.5, seed=s, transfer=0.8) for s in range(2)]
    found = measures.indices(results.table([*good, *bad])).iloc[0]
    assert found["mean"] == pytest.approx(0.1)
    assert found.get("weighted") is None
    assert (found["missing"], found["invalid"]) == (1, 2)


def test_designs_have_indices_of_their_own_with_the_axes_that_tell_them_apart():
    found = measures.indices(
        pd.concat([table(("a", 1.0, [0.1, 0.2])), table(("a", 1.0, [0.3, 0.4]), width=2.0)], ignore_index=True)
    )
    assert found["width"].tolist() == [1.0, 2.0]
    assert found["mean"].tolist() == pytest.approx([0.15, 0.35])


def test_rows_of_a_protocol_that_does_not_answer_the_question_are_no_part_of_an_index():
    probes = table(("a", 1.0, [0.1, 0.1]))
    knn = table(("a", 1.0, [0.5, 0.5]), protocol="knn", primary=False)
    assert measures.indices(pd.concat([probes, knn], ignore_index=True))["mean"].tolist() == pytest.approx([0.1])


# Error ratios


def test_the_error_ratio_is_the_geometric_mean_of_the_published_ones():
    # CAT5 against CAT1 of arXiv:2506.18221: accuracies .462 and .337, .771 and .710, .928 and .904
    accuracies = {"inat": (0.462, 0.337), "c100": (0.771, 0.710), "c10": (0.928, 0.904)}
    rows = [row(component=name, transfer=t, direct=d) for name, (t, d) in accuracies.items()]
    found = measures.error_ratio(results.table(rows)).iloc[0]
    assert found["ratio"] == pytest.approx((0.811 * 0.790 * 0.750) ** (1 / 3), abs=5e-4)
    assert (found["n"], found["components"]) == (1, 3)


def test_a_component_without_errors_has_no_error_ratio():
    rows = [row(component="a", transfer=0.8), row(component="b", transfer=1.0)]
    found = measures.error_ratio(results.table(rows)).iloc[0]
    assert (found["components"], found["ratio"]) == (1, pytest.approx(2.0))


# Gap closure


def closing(share: float, gap: float = 0.10, **planted: Any) -> pd.DataFrame:
    """`cat:4` closes a share of the gap of `single`."""
    found = Planted(**planted).add(transfer=0.9 - gap)
    return found.add(transfer=0.9 - (1 - share) * gap, representation="cat:4").table()


def test_the_closure_is_the_share_of_the_gap_that_was_planted():
    found = measures.gap_closure(closing(0.6)).iloc[0]
    assert (found["representation"], found["n"]) == ("cat:4", 5)
    assert found["low"] < 0.6 < found["high"]
    assert found["high"] - found["low"] < 0.15


def test_there_is_no_closure_of_a_gap_that_is_not_distinguishable_from_0():
    found = measures.gap_closure(closing(0.6, gap=0.001)).iloc[0]
    assert pd.isna(found["closure"])
    assert "not distinguishable" in found["reason"]


def test_a_closure_needs_single_networks_of_the_same_design():
    rows = Planted().add(transfer=0.8).add(transfer=0.85, representation="cat:4", width=2.0)
    found = measures.gap_closure(rows.table()).iloc[0]
    assert (found["n"], pd.isna(found["closure"])) == (0, True)


def test_protocols_close_the_gap_of_their_own_single_network():
    rows = Planted(noise=1e-4)
    for protocol, single in (("linear_probe", 0.8), ("knn", 0.7)):
        rows.add(transfer=single, protocol=protocol).add(transfer=0.85, protocol=protocol, representation="cat:2")
    found = measures.gap_closure(rows.table()).set_index("protocol")["closure"]
    assert found["linear_probe"] == pytest.approx(0.5, abs=0.01)
    assert found["knn"] == pytest.approx(0.75, abs=0.01)


@given(
    st.lists(numbers, min_size=4, max_size=4),
    st.lists(st.floats(0.3, 0.4).map(lambda value: round(value, 3)), min_size=4, max_size=4),
)
@example([0.1] * 4, [0.375] * 4)
def test_fiellers_interval_holds_just_the_ratios_that_a_t_test_does_not_reject(numerator, denominator):
    low, high = measures.fieller(numerator, denominator)
    top, bottom = np.array(numerator), np.array(denominator)
    assert low <= top.mean() / bottom.mean() <= high
    for end in (low, high):
        rest = top - end * bottom
        assert abs(rest.mean()) == pytest.approx(
            stats.t.ppf(0.975, 3) * rest.std(ddof=1) / math.sqrt(4), rel=1e-6, abs=1e-7
        )


def test_fiellers_interval_holds_the_ratio_in_95_percent():
    draws, inside = np.random.default_rng(3), 0
    for _ in range(1000):
        shared = draws.normal(size=5)
        low, high = measures.fieller(
            0.06 + 0.01 * (shared + draws.normal(size=5)), 0.1 + 0.01 * (shared + draws.normal(size=5))
        )
        inside += low <= 0.6 <= high
    assert 930 <= inside <= 968


def test_a_ratio_to_what_may_be_0_has_no_interval():
    with pytest.raises(ValueError, match="may be anything"):
        measures.fieller([1, 2, 3], [-1, 0, 1])


# Bias and variance


def test_bias_is_the_mean_gap_and_variance_that_of_the_accuracy():
    gaps = [0.10, 0.12, 0.17]
    found = measures.bias_variance(table(("a", 1.0, gaps))).iloc[0]
    assert found["bias"] == pytest.approx(0.13)
    assert found["variance"] == pytest.approx(np.var(gaps, ddof=1))
    assert found["direct_deviation"] == pytest.approx(0)


@given(st.lists(numbers, min_size=2, max_size=8))
def test_the_interval_of_a_deviation_is_the_one_of_the_chi_squared_distribution(values):
    found, n = measures.deviation(values), len(values)
    assert found is not None
    squares = (n - 1) * np.var(values, ddof=1)
    expected = [math.sqrt(squares / stats.chi2.ppf(q, n - 1)) for q in (0.975, 0.025)]
    assert [found.low, found.high] == pytest.approx(expected)


def test_one_seed_has_no_variance():
    found = measures.bias_variance(table(("a", 1.0, [0.1]))).iloc[0]
    assert pd.isna(found["variance"])
    assert (found["bias"], found["n"]) == (pytest.approx(0.1), 1)


# The size of the target


def by_size(*gap_of: tuple[int, float], noise: float = 0.0) -> pd.DataFrame:
    """(shots, gap); 10 classes."""
    rows = Planted(noise=noise)
    for shots, gap in gap_of:
        rows.add(transfer=0.9 - gap, shots=shots, num_train=10 * shots)
    return rows.table()


def test_the_gap_by_target_size_runs_from_few_to_all_and_is_compared_with_all():
    rows = Planted(noise=1e-3)
    for shots, gap in ((None, 0.10), (100, 0.06), (10, -0.02)):
        rows.add(transfer=0.9 - gap, shots=shots, num_train=5000 if shots is None else 10 * shots)
    found = measures.by_target_size(rows.table())
    assert found["examples"].tolist() == [100, 1000, 5000]
    assert found["gap"].tolist() == pytest.approx([-0.02, 0.06, 0.10], abs=3e-3)
    assert found["change"].tolist()[:2] == pytest.approx([-0.12, -0.04], abs=3e-3)
    assert pd.isna(found["change"].iloc[-1])


def test_the_crossing_lies_where_a_straight_line_in_the_logarithm_is_0():
    found = measures.crossing(by_size((10, -0.02), (100, 0.02), (1000, 0.05))).iloc[0]
    assert found["outcome"] == "direct is better from here on"
    assert found["crossing"] == pytest.approx(math.sqrt(100 * 1000))


def test_the_interval_of_the_crossing_holds_it_and_is_open_where_it_leaves_the_sizes():
    found = measures.crossing(by_size((10, -0.02), (100, 0.02), (1000, 0.05), noise=0.004)).iloc[0]
    assert found["low"] < found["crossing"] < found["high"]
    wide = measures.crossing(by_size((10, -0.002), (100, 0.002), noise=0.02)).iloc[0]
    assert pd.isna(wide["low"]) or pd.isna(wide["high"]) or pd.isna(wide["crossing"])


@pytest.mark.parametrize(
    ("gaps", "outcome"),
    [
        (((10, 0.01), (100, 0.02)), "direct is better at every size"),
        (((10, -0.02), (100, -0.01)), "transfer is better at every size"),
        (((10, 0.02), (100, -0.01)), "transfer is better from here on"),
        (((10, 0.02), (100, -0.01), (1000, 0.03)), "crosses several times"),
    ],
)
def test_a_curve_that_does_not_cross_once_says_so(gaps, outcome):
    assert measures.crossing(by_size(*gaps)).iloc[0]["outcome"] == outcome


# Pairing


def test_balanced_means_leave_out_what_lacks_a_seed_that_others_have():
    found, used = measures.balanced([{1: 0.1, 2: 0.2}, {1: 0.3, 2: 0.4}, {1: 9.0}])
    assert (found, used) == ({1: pytest.approx(0.2), 2: pytest.approx(0.3)}, 2)


def test_balanced_means_of_groups_without_a_common_seed_are_those_of_one_group():
    assert measures.balanced([{1: 0.1}, {2: 0.2}]) == ({1: 0.1}, 1)
    assert measures.balanced([{}]) == ({}, 0)


def test_differences_are_taken_within_seeds():
    assert measures.paired({1: 0.5, 2: 0.7, 3: 0.1}, {2: 0.5, 1: 0.4}) == {1: pytest.approx(0.1), 2: pytest.approx(0.2)}


@pytest.mark.parametrize("measure", ["indices", "error_ratio", "gap_closure", "bias_variance", "by_target_size"])
def test_an_empty_table_has_no_rows_of_a_measure(measure):
    assert getattr(measures, measure)(results.table([])).empty
