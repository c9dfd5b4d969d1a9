"""How much does each component lose, and how sure is that?"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pandas as pd
import pytest
from gap_tables import Row, row, three_components, two_views
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from orchestrator import results
from orchestrator.analysis import gaps

fractions = st.floats(-1, 1, allow_nan=False)


def table(*rows: Row) -> pd.DataFrame:
    return results.table(rows)


def seeds(*values: float, **columns: Any) -> list[Row]:
    return [row(gap=gap, seed=number, **columns) for number, gap in enumerate(values, start=1)]


# Estimates


def test_the_interval_of_three_seeds_is_the_one_worked_out_by_hand():
    # mean 2, standard deviation 1, t(2; 0.975) = 4.302653: 2 -+ 4.302653 / sqrt(3)
    found = gaps.estimate([1, 2, 3])
    assert (found.mean, found.n) == (2, 3)
    assert (found.low, found.high) == pytest.approx((-0.484138, 4.484138), abs=1e-6)


def test_one_seed_has_a_mean_and_no_interval():
    assert gaps.estimate([0.437]) == gaps.Estimate(0.437, None, None, 1)


def test_absent_values_are_left_out_and_not_counted():
    assert gaps.estimate([0.1, None, float("nan"), 0.3]).n == 2


def test_there_is_no_estimate_from_nothing():
    with pytest.raises(ValueError, match="no value"):
        gaps.estimate([None])


@given(st.lists(fractions, min_size=2, max_size=8).filter(lambda values: max(values) - min(values) > 1e-6))
def test_the_interval_is_the_one_of_scipy(values):
    found, expected = gaps.estimate(values), stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(st.lists(fractions, min_size=2, max_size=8))
def test_the_mean_lies_in_its_interval(values):
    found = gaps.estimate(values)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.mean <= found.high


@given(st.lists(fractions, min_size=2, max_size=8), fractions)
def test_adding_a_number_to_every_value_moves_the_interval_and_keeps_its_width(values, shift):
    before, after = gaps.estimate(values), gaps.estimate([value + shift for value in values])
    assert after.mean == pytest.approx(before.mean + shift, abs=1e-9)
    assert after.high - after.low == pytest.approx(before.high - before.low, abs=1e-9)


# Summaries


def test_rows_that_share_a_seed_are_one_observation():
    wide = {"trial": "b" * 12, "width": 2.0}
    found = gaps.per_component(table(*seeds(0.1, 0.2), *seeds(0.3, 0.6, **wide))).iloc[0]
    expected = gaps.estimate([0.2, 0.4])
    assert (found["gap"], found["low"], found["high"]) == pytest.approx((expected.mean, expected.low, expected.high))
    assert (found["n"], found["trials"], found["rows"], found["uneven"]) == (2, 2, 4, False)


def test_a_table_and_a_list_of_seeds_give_the_same_interval():
    values = (0.43, 0.44, 0.41, 0.45, 0.40)
    found, expected = gaps.per_component(table(*seeds(*values))).iloc[0], gaps.estimate(values)
    assert (found["gap"], found["low"], found["high"]) == pytest.approx((expected.mean, expected.low, expected.high))


@settings(max_examples=25)
@given(st.lists(st.floats(-0.5, 0.5), min_size=2, max_size=5), st.floats(-0.2, 0.2))
def test_losing_the_same_accuracy_everywhere_adds_it_to_every_gap(values, loss):
    before = gaps.summarise(table(*seeds(*values)), ["component"]).iloc[0]
    after = gaps.summarise(table(*seeds(*[value + loss for value in values])), ["component"]).iloc[0]
    assert after["transfer_accuracy"] == pytest.approx(before["transfer_accuracy"] - loss, abs=1e-9)
    for name in ("gap", "low", "high"):
        assert after[name] == pytest.approx(before[name] + loss, abs=1e-9)


@settings(max_examples=25)
@given(st.permutations(range(12)))
def test_the_order_of_rows_changes_no_number(order):
    rows = two_views()[:12]
    columns = ["component", "weight", "gap", "low", "high", "n"]
    found = [gaps.by_weight(table(*rows))[columns], gaps.by_weight(table(*(rows[i] for i in order)))[columns]]
    one, other = (frame.sort_values(["component", "weight"], ignore_index=True) for frame in found)
    pd.testing.assert_frame_equal(one, other, rtol=1e-12)


def test_rows_that_are_not_ok_enter_no_mean_and_are_counted():
    rows = seeds(0.1, 0.2)
    rows += [row(seed=3, status="failed"), row(seed=4, status="diverged"), row(seed=5, status="pending")]
    rows += [row(seed=6, gap=0.9, status="ok") | {"status": "pending"}, row(seed=7, gap=None)]
    rows.append(row(seed=8) | {"gap": None, "invalid": "the direct network is dead"})
    found = gaps.per_component(table(*rows)).iloc[0]
    assert found["gap"] == pytest.approx(0.15)
    assert [found[name] for name in ("n", "rows", *gaps.REASONS)] == [2, 8, 1, 1, 0, 2, 1, 1]


def test_a_group_without_a_gap_has_absent_numbers_and_no_zeros():
    found = gaps.per_component(table(row(status="failed"))).iloc[0]
    assert all(pd.isna(found[name]) for name in ("gap", "low", "high", *gaps.ACCURACIES))
    assert (found["n"], found["failed"]) == (0, 1)


def test_a_transfer_without_a_baseline_still_has_its_accuracy():
    found = gaps.per_component(table(row(gap=None, direct=0.8))).iloc[0]
    assert pd.isna(found["gap"])
    assert found["transfer_accuracy"] == pytest.approx(0.8)


def test_seeds_that_hold_different_designs_are_marked():
    wide = {"trial": "b" * 12, "width": 2.0}
    rows = [*seeds(0.1, 0.2), row(gap=0.3, seed=1, **wide), row(seed=2, status="failed", **wide)]
    assert gaps.per_component(table(*rows)).iloc[0]["uneven"]
    assert not gaps.by_design(table(*rows))["uneven"].any()


def test_weights_run_from_small_to_large_whatever_the_order_of_the_plan():
    found = gaps.by_weight(table(*reversed(two_views())))
    assert found[found["component"] == "hard"]["weight"].tolist() == [0, 0.02, 0.05, 0.1, 0.2, 0.5]


def test_mixtures_in_which_a_component_weighs_the_same_are_one_group():
    found = gaps.by_weight(table(*three_components()))
    clothes = found[(found["component"] == "clothes") & (found["weight"] == 0.5)]
    assert clothes["trials"].tolist() == [2] * 4  # orderings x widths, two mixtures in each


def test_axes_that_vary_are_found_and_an_absent_value_is_one():
    assert gaps.varying_axes(table(*two_views())) == ["mixture"]
    assert gaps.varying_axes(table(*three_components())) == ["mixture", "ordering", "width"]
    assert gaps.varying_axes(table(row(), row(train_examples=100))) == ["train_examples"]


def test_an_absent_value_of_an_axis_is_a_group_of_its_own():
    found = gaps.by_weight(table(row(gap=0.1), row(gap=0.3, trial="b" * 12, depth=4)))
    assert found["depth"].isna().tolist() == [True, False]
    assert found["gap"].tolist() == pytest.approx([0.1, 0.3])


def test_every_trial_and_component_has_a_row_with_the_axes_that_vary():
    found = gaps.by_design(table(*three_components()))
    assert len(found) == 12 * 3
    assert found.columns[:6].tolist() == ["trial", "mixture", "ordering", "width", "component", "weight"]


def test_empty_tables_give_empty_summaries():
    empty = results.table([])
    for summary in (gaps.per_component, gaps.by_weight, gaps.by_design):
        assert summary(empty).empty
    assert len(gaps.summary_rows(empty)) == 1


# What people read


def test_points_have_one_decimal_and_never_a_negative_zero():
    assert [gaps.points(x) for x in (0.4371, -0.0004, -0.0123, None, pd.NA)] == ["43.7", "0.0", "-1.2", "-", "-"]


def test_the_terminal_table_shows_the_gap_of_the_hard_view_falling():
    header, *rows = gaps.summary_rows(table(*two_views()))
    assert header[:5] == ("component", "weight", "gap, points", "95 % interval", "n")
    assert header[5:] == ("transfer, %", "direct, %", "random init, %")
    hard = [row for row in rows if row[0] == "hard"]
    values = [float(row[2]) for row in hard]
    assert values == sorted(values, reverse=True)
    assert values == pytest.approx([43.7, 15.6, 10.0, 7.4, 4.1, 1.3], abs=0.6)
    assert {row[4] for row in hard} == {"3"}


def test_the_terminal_table_has_the_axes_that_vary_and_the_reasons_of_missing_rows():
    rows = three_components()
    rows[0] |= {"status": "failed"}
    header, *lines = gaps.summary_rows(table(*rows))
    assert header[:5] == ("component", "weight", "ordering", "width", "gap, points")
    assert header[-1] == "failed"
    assert [line[-1] for line in lines].count("1") == 1
    assert any(line[6] == "3*" for line in lines)  # a seed that lacks one of two mixtures


def test_one_seed_is_said_where_the_interval_would_stand():
    assert gaps.summary_rows(table(row()))[1][3] == "one seed"


def test_analysis_and_report_load_neither_torch_nor_ray():
    program = (
        "import sys, orchestrator.analysis.gaps, orchestrator.report\n"
        "print([name for name in ('torch', 'ray', 'mlflow', 'matplotlib.pyplot') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
