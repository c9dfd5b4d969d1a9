"""Is a difference real, how large may it be, and how many seeds would show it?"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from orchestrator.analysis import gaps, statistics

NUM_SWEEPS = 2_000
AT_FIVE_PERCENT = (0.03, 0.07)
AT_95_PERCENT = (0.93, 0.97)

few_differences = st.lists(st.integers(-1000, 1000).map(float), min_size=1, max_size=8)
families = st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), min_size=1, max_size=12)


def within(rate: float, bounds: tuple[float, float]) -> bool:
    return bounds[0] <= rate <= bounds[1]


def simulated_answers(
    num_sweeps: int, num_seeds: int, *, seeds: float, examples: float, num_examples: int = 200
) -> tuple[np.ndarray, np.ndarray, float]:
    """(sweeps, S, N) answers of the direct and of the transfer arm, and the gap that they are drawn from.

    An answer is right with probability Phi(latent), a sum of Gaussians: how easy the example is for both arms, how
    much easier for this arm (sd `examples`), and how good the seed is in this arm (sd `seeds`). All seeds of a sweep
    share its examples. The mean of Phi over all of them is Phi(mean / sqrt(1 + variances)).
    """
    rng = np.random.default_rng([num_seeds, num_examples, int(100 * seeds), int(100 * examples)])
    easy = rng.standard_normal((num_sweeps, 1, num_examples))

    def arm(mean: float) -> np.ndarray:
        own = examples * rng.standard_normal((num_sweeps, 1, num_examples))
        good = seeds * rng.standard_normal((num_sweeps, num_seeds, 1))
        return rng.standard_normal((num_sweeps, num_seeds, num_examples)) < mean + easy + own + good

    direct, transfer = 1.0, 0.8
    spread = math.sqrt(1 + 1 + seeds**2 + examples**2)
    gap = float(stats.norm.cdf(direct / spread) - stats.norm.cdf(transfer / spread))
    return arm(direct), arm(transfer), gap


Answers = tuple[np.ndarray, np.ndarray, float]


def coverage(answers: Answers, interval: Callable[..., statistics.Interval]) -> float:
    *arms, gap = answers
    found = [interval(direct, transfer) for direct, transfer in zip(*arms, strict=True)]
    return float(np.mean([each.low <= gap <= each.high for each in found]))


# Sign flips


def test_the_sign_flip_test_of_three_seeds_is_the_one_worked_out_by_hand():
    # sums of (+-1, +-2, +-3): 6, 4, 2, 0, 0, -2, -4, -6. Only 6 is as large as 6
    assert statistics.sign_flip_test([1, 2, 3]) == 1 / 8
    assert statistics.sign_flip_test([1, 2, 3], "two-sided") == 2 / 8
    # -1 + 2 + 3 = 4, and two of eight are at least 4
    assert statistics.sign_flip_test([-1, 2, 3]) == 2 / 8


def test_sums_that_differ_in_their_last_digit_are_a_tie():
    # 0.1 + 0.2 - 0.3 is 5.6e-17 and 0 in another order; five of eight sums are at least 0
    assert [statistics.sign_flip_test(d) for d in ([0.1, 0.2, -0.3], [-0.3, 0.2, 0.1])] == [5 / 8, 5 / 8]


def test_differences_that_are_all_zero_are_no_evidence():
    assert statistics.sign_flip_test([0, 0, 0, 0, 0]) == 1


@pytest.mark.parametrize("alternative", ["greater", "two-sided"])
@pytest.mark.parametrize("n", [1, 4, 5, 6, 12, 15])
def test_seeds_that_all_agree_reach_the_smallest_p_and_no_less(n, alternative):
    assert statistics.sign_flip_test(np.linspace(1, 2, n), alternative) == statistics.smallest_p(n, alternative)


def test_five_seeds_are_the_fewest_that_reach_five_percent_and_six_when_two_sided():
    too_few = {a: [n for n in range(1, 9) if statistics.smallest_p(n, a) > 0.05] for a in ("greater", "two-sided")}
    assert too_few == {"greater": [1, 2, 3, 4], "two-sided": [1, 2, 3, 4, 5]}


@settings(max_examples=25)
@given(few_differences)
def test_the_sign_flip_test_is_scipys_permutation_of_pairs(differences):
    pair = (np.array(differences), np.zeros(len(differences)))
    for alternative in ("greater", "two-sided"):
        if len(differences) > 1:
            theirs = stats.permutation_test(
                pair, _difference_of_sums, permutation_type="samples", alternative=alternative, n_resamples=np.inf
            )
            ours = statistics.sign_flip_test(differences, alternative)
            # theirs doubles the smaller tail, ours counts both: the same, as the distribution is symmetric
            assert ours == pytest.approx(theirs.pvalue, abs=1e-9)


def _difference_of_sums(first, second, axis):
    return np.sum(first, axis=axis) - np.sum(second, axis=axis)


def _mean_difference(first, second, axis):
    return np.mean(first, axis=axis) - np.mean(second, axis=axis)


@given(few_differences)
def test_turning_every_sign_leaves_the_two_sided_test_alone_and_turns_the_other_round(differences):
    turned = [-d for d in differences]
    both = [statistics.sign_flip_test(d, "two-sided") for d in (differences, turned)]
    assert both[0] == both[1]
    # every sign pattern is at least as large as the observed one, or at most as large, or both
    assert statistics.sign_flip_test(differences) + statistics.sign_flip_test(turned) >= 1


def test_many_seeds_are_drawn_and_agree_with_the_normal_approximation():
    differences = np.random.default_rng(0).normal(0.3, 1, size=40)
    z = differences.sum() / np.sqrt(np.square(differences).sum())
    found = statistics.sign_flip_test(differences, draws=20_000)
    assert found == pytest.approx(stats.norm.sf(z), abs=0.01)
    assert found == statistics.sign_flip_test(differences, draws=20_000)
    assert statistics.sign_flip_test(np.ones(40), draws=999) == 1 / 1000  # never 0


@pytest.mark.parametrize("n", [6, 7, 8, 9, 10])
def test_without_an_effect_the_five_percent_test_rejects_in_five_percent_of_sweeps(n):
    sweeps = np.random.default_rng(n).normal(0, 0.01, size=(NUM_SWEEPS, n))
    p = np.array([[statistics.sign_flip_test(d, a) for a in ("greater", "two-sided")] for d in sweeps])
    rejects = (p <= 0.05).mean(axis=0)
    assert within(rejects[0], AT_FIVE_PERCENT)
    attainable = 2 * math.floor(0.025 * 2**n + 1e-9) / 2**n  # 3.1 % with 6 seeds, 4.9 % with 10
    assert rejects[1] == pytest.approx(attainable, abs=0.015)


def test_with_five_seeds_the_five_percent_test_rejects_in_one_of_32_sweeps_and_with_four_in_none():
    sweeps = np.random.default_rng(5).normal(0, 0.01, size=(NUM_SWEEPS, 5))
    rejects = np.mean([statistics.sign_flip_test(d) <= 0.05 for d in sweeps])
    assert rejects == pytest.approx(1 / 32, abs=0.012)  # three standard errors
    assert all(statistics.sign_flip_test(d[:4]) > 0.05 for d in sweeps)


def test_a_comparison_is_the_t_interval_and_the_sign_flip_test_together():
    found = statistics.compare([0.01, 0.02, 0.03])
    expected = gaps.estimate([0.01, 0.02, 0.03])
    assert (found.mean, found.low, found.high, found.n) == (expected.mean, expected.low, expected.high, 3)
    assert found.p == 1 / 8


def test_one_seed_is_compared_without_an_interval():
    found = statistics.compare([0.2])
    assert (found.mean, found.low, found.high, found.n, found.p) == (0.2, None, None, 1, 0.5)


@pytest.mark.parametrize("n", [3, 10])
def test_the_t_interval_of_a_comparison_covers_the_mean_over_seeds_in_95_percent_of_sweeps(n):
    found = [statistics.compare(d) for d in np.random.default_rng(n).normal(0.02, 0.01, size=(NUM_SWEEPS, n))]
    assert within(np.mean([each.low <= 0.02 <= each.high for each in found]), AT_95_PERCENT)


# Student's test, and its relative for several levels


@given(few_differences.filter(lambda values: len(set(values)) > 1), st.integers(-500, 500))
def test_the_t_test_is_the_one_of_scipy(differences, null):
    found = gaps.estimate(differences)
    for alternative in ("two-sided", "less"):
        expected = stats.ttest_1samp(differences, null, alternative=alternative).pvalue
        assert statistics.t_test(found, null, alternative) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_one_seed_has_no_t_test():
    assert math.isnan(statistics.t_test(gaps.estimate([0.1])))


def test_seeds_that_agree_are_certain_only_as_far_as_the_least_deviation():
    alike = gaps.estimate([0.01, 0.01, 0.01])
    assert statistics.t_test(alike) == pytest.approx(0, abs=1e-12)
    assert statistics.t_test(gaps.estimate([0.0, 0.0, 0.0])) == 1
    # 0.01 / (0.002 / sqrt(3)) = 8.66 with two degrees of freedom
    assert statistics.t_test(alike, least_deviation=0.002) == pytest.approx(2 * stats.t.sf(8.660254, 2))


def test_the_f_test_of_two_levels_is_the_paired_t_test():
    pairs = np.random.default_rng(0).normal(size=(6, 2))
    centred = pairs - pairs.mean(axis=1, keepdims=True)
    assert statistics.omnibus(centred, 1) == pytest.approx(stats.ttest_rel(pairs[:, 0], pairs[:, 1]).pvalue)


def test_the_f_test_rejects_levels_that_are_alike_but_unequally_noisy_in_5_percent_at_most():
    draws = np.random.default_rng(0).normal(size=(2000, 5, 4)) * (3, 1, 1, 1)
    rejected = [statistics.omnibus(cube - cube.mean(axis=1, keepdims=True), 3) <= 0.05 for cube in draws]
    assert np.mean(rejected) <= 0.06


# Two classifiers on one test set


def test_mcnemar_is_the_binomial_of_the_examples_that_only_one_gets_right():
    first, second = np.zeros((2, 30))
    first[:8], second[8:10] = 1, 1  # 8 against 2; the other 20 are wrong in both
    assert statistics.mcnemar(first, second) == pytest.approx(2 * (1 + 10 + 45) / 1024)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_mcnemar_is_symmetric_and_scipys_binomial_test(answers):
    first, second = np.array(answers).T
    only_first, only_second = np.sum(first & ~second), np.sum(second & ~first)
    found = statistics.mcnemar(first, second)
    assert found == statistics.mcnemar(second, first)
    if only_first + only_second:
        assert found == pytest.approx(stats.binomtest(only_first, only_first + only_second).pvalue)
    else:
        assert found == 1


# Families and grids


def test_holm_and_benjamini_hochberg_of_four_tests_are_those_worked_out_by_hand():
    p = [0.01, 0.04, 0.03, 0.005]
    # ranked .005 .01 .03 .04; times 4 3 2 1: .02 .03 .06 .04, and never below the one before
    assert statistics.holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    # times 4/1 4/2 4/3 4/4: .02 .02 .04 .04
    assert statistics.benjamini_hochberg(p) == pytest.approx([0.02, 0.04, 0.04, 0.02])


def test_the_fifteen_tests_of_benjamini_and_hochberg_give_their_answers():
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344]
    p += [0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0000]
    assert np.count_nonzero(statistics.holm(p) <= 0.05) == 3
    assert np.count_nonzero(statistics.benjamini_hochberg(p) <= 0.05) == 4


@pytest.mark.parametrize("adjust", [statistics.holm, statistics.benjamini_hochberg])
def test_an_absent_test_stays_absent_and_is_no_member_of_the_family(adjust):
    found = adjust(pd.Series([0.02, pd.NA, 0.03], dtype="Float64"))
    assert np.isnan(found).tolist() == [False, True, False]
    assert found[[0, 2]] == pytest.approx(adjust([0.02, 0.03]))
    assert np.isnan(adjust([math.nan])).all()


@given(families)
def test_holm_is_at_least_benjamini_hochberg_which_is_at_least_the_p_value(p):
    raw = np.array(p)
    known = ~np.isnan(raw)
    holm, hochberg = (adjust(p)[known] for adjust in (statistics.holm, statistics.benjamini_hochberg))
    raw = raw[known]
    assert (holm >= hochberg - 1e-12).all()
    assert (hochberg >= raw - 1e-12).all()
    assert (holm <= 1).all()
    order = np.argsort(raw)
    assert all((np.diff(adjusted[order]) >= 0).all() for adjusted in (holm, hochberg))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_benjamini_hochberg_is_scipys(p):
    assert statistics.benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p))


def test_holm_is_wrong_anywhere_in_a_family_of_true_nulls_in_five_percent_of_sweeps():
    p = np.random.default_rng(0).uniform(size=(NUM_SWEEPS, 6))
    assert np.mean(p.min(axis=1) <= 0.05) > 0.2
    assert within(np.mean([statistics.holm(family).min() <= 0.05 for family in p]), AT_FIVE_PERCENT)


def test_holm_keeps_its_level_for_components_that_share_their_seeds():
    rng = np.random.default_rng(1)
    shared = rng.normal(size=(NUM_SWEEPS // 2, 10, 1))
    sweeps = shared + rng.normal(size=(NUM_SWEEPS // 2, 10, 4))  # (sweeps, S, K)
    p = np.array([[statistics.sign_flip_test(d) for d in sweep.T] for sweep in sweeps])
    assert np.mean([statistics.holm(family).min() <= 0.05 for family in p]) <= 0.07


def test_benjamini_hochberg_keeps_the_share_of_false_discoveries():
    rng = np.random.default_rng(2)
    z = rng.normal(size=(NUM_SWEEPS, 40))
    z[:, 20:] += 3
    found = np.array([statistics.benjamini_hochberg(p) <= 0.05 for p in stats.norm.sf(z)])
    false, all_of_them = found[:, :20].sum(axis=1), found.sum(axis=1)
    assert np.mean(false / np.maximum(all_of_them, 1)) <= 0.03  # half of the hypotheses are true: at most .025
    assert found[:, 20:].mean() > 0.5


# Intervals over seeds and test examples


def test_the_paired_interval_of_two_seeds_and_two_examples_is_the_one_worked_out_by_hand():
    # differences (1, 1), (1, 0): mean 3/4, seeds 1 and 1/2, examples 1 and 1/2. Sums of squares are seeds 1/4,
    # examples 1/4, total 3/4, rest 1/4, each with one degree of freedom: nothing is left for examples alone
    found = statistics.paired_interval([[1, 1], [1, 0]], [[0, 0], [0, 0]])
    half = 12.7062047 * math.sqrt(0.25 / 4)
    assert (found.value, found.low, found.high) == pytest.approx((0.75, 0.75 - half, 0.75 + half))
    assert (found.n, found.seed_uncertainty, found.label) == (2, True, "")


def test_without_spread_over_examples_the_paired_interval_is_the_t_interval_over_seeds():
    rng = np.random.default_rng(0)
    direct, transfer = rng.random((2, 6, 400)) < 0.7
    transfer[:, :] = transfer[:, :1]  # a seed is right about everything or about nothing
    direct[:, :] = direct[:, :1]
    found = statistics.paired_interval(direct, transfer)
    expected = gaps.estimate((direct.mean(axis=1) - transfer.mean(axis=1)).tolist())
    assert (found.value, found.low, found.high) == pytest.approx((expected.mean, expected.low, expected.high))


def test_without_spread_over_seeds_the_paired_interval_is_the_t_interval_over_examples():
    direct, transfer = np.random.default_rng(0).random((2, 1, 400)) < 0.7
    one_seed = statistics.paired_interval(direct, transfer)
    expected = stats.ttest_rel(direct[0].astype(float), transfer[0].astype(float)).confidence_interval()
    assert (one_seed.low, one_seed.high) == pytest.approx((expected.low, expected.high))
    six_times_the_same = statistics.paired_interval(np.tile(direct, (6, 1)), np.tile(transfer, (6, 1)))
    assert (six_times_the_same.low, six_times_the_same.high) == pytest.approx((expected.low, expected.high))


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(2, 30), st.integers(0, 2**16), st.integers(-3, 3).filter(bool))
def test_the_crossed_interval_is_the_paired_one_of_any_differences_and_scales_with_them(n, size, seed, scale):
    direct, transfer = np.random.default_rng(seed).random((2, n, size)) < 0.6
    expected = statistics.paired_interval(direct, transfer)
    found = statistics.crossed_interval(scale * (direct.astype(float) - transfer))
    ends = sorted((scale * expected.low, scale * expected.high))
    assert (found.value, found.low, found.high) == pytest.approx((scale * expected.value, *ends))
    assert (found.n, found.seed_uncertainty) == (n, n > 1)


@pytest.mark.parametrize("interval", [statistics.paired_interval, statistics.hierarchical_bootstrap])
def test_one_seed_gets_an_interval_over_examples_that_says_so(interval):
    direct, transfer = np.random.default_rng(0).random((2, 1, 400)) < [[[0.9]], [[0.5]]]
    options = {} if interval is statistics.paired_interval else {"seed": 0, "draws": 500}
    found = interval(direct, transfer, **options)
    assert found.low < found.value < found.high
    assert (found.n, found.seed_uncertainty, found.label) == (1, False, "no seed uncertainty")


@settings(max_examples=30)
@given(st.integers(2, 6), st.integers(2, 30), st.integers(0, 2**16))
def test_the_paired_interval_is_never_narrower_than_the_t_interval_over_seeds_and_turns_with_the_arms(n, size, seed):
    direct, transfer = np.random.default_rng(seed).random((2, n, size)) < 0.6
    found = statistics.paired_interval(direct, transfer)
    alone = gaps.estimate((direct.mean(axis=1) - transfer.mean(axis=1)).tolist())
    assert found.high - found.low >= alone.high - alone.low - 1e-9
    turned = statistics.paired_interval(transfer, direct)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))


@pytest.mark.parametrize("num_seeds", [3, 5, 10])
@pytest.mark.parametrize("spread", [{"seeds": 0.3, "examples": 0}, {"seeds": 0.3, "examples": 0.5}], ids=str)
def test_the_paired_interval_covers_the_gap_in_95_percent_of_sweeps(num_seeds, spread):
    answers = simulated_answers(NUM_SWEEPS, num_seeds, **spread)
    assert within(coverage(answers, statistics.paired_interval), AT_95_PERCENT)


@pytest.mark.parametrize("num_seeds", [3, 5, 10])
def test_the_paired_interval_covers_where_the_shared_test_set_matters_most_and_the_t_interval_does_not(num_seeds):
    answers = simulated_answers(NUM_SWEEPS, num_seeds, seeds=0.02, examples=1)
    # with 3 seeds it is wider than it need be, see the docstring
    assert within(coverage(answers, statistics.paired_interval), (0.93, 0.97 if num_seeds > 3 else 0.985))
    direct, transfer, gap = answers
    by_seed = direct.mean(axis=2) - transfer.mean(axis=2)
    alone = stats.t.ppf(0.975, num_seeds - 1) * by_seed.std(axis=1, ddof=1) / math.sqrt(num_seeds)
    assert np.mean(np.abs(by_seed.mean(axis=1) - gap) <= alone) < 0.91


# The bootstrap


@pytest.mark.parametrize("method", ["BCa", "percentile"])
def test_the_bootstrap_of_arms_that_depend_on_one_thing_each_is_scipys_of_two_samples(method):
    rng = np.random.default_rng(0)
    by_seed, by_example = rng.random(20) < 0.8, rng.random(50) < 0.2
    direct = np.tile(by_seed[:, None], (1, 50))
    transfer = np.tile(by_example, (20, 1))
    theirs = stats.bootstrap(
        (by_seed.astype(float), by_example.astype(float)),
        _mean_difference,
        n_resamples=20_000,
        method=method,
        rng=rng,
    ).confidence_interval
    found = statistics.hierarchical_bootstrap(direct, transfer, seed=0, draws=20_000, method=method.lower())
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.011)  # steps are .01


def test_the_bootstrap_resamples_the_same_examples_for_every_seed_and_arm():
    rng = np.random.default_rng(0)
    direct, transfer = (rng.random((2, 4, 30)) + 0.4 * rng.random((2, 1, 30))) < [[[0.9]], [[0.6]]]
    seeds, examples = rng.integers(4, size=(20_000, 4)), rng.integers(30, size=(20_000, 30))
    difference = direct.astype(float) - transfer
    gathered = difference[seeds[:, :, None], examples[:, None, :]].mean(axis=(1, 2))
    found = statistics.hierarchical_bootstrap(direct, transfer, seed=1, draws=20_000, method="percentile")
    assert found.value == pytest.approx(difference.mean())
    assert (found.low, found.high) == pytest.approx(np.quantile(gathered, [0.025, 0.975]), abs=0.01)


def test_the_bootstrap_is_the_same_for_the_same_seed_and_has_no_width_where_nothing_varies():
    direct, transfer = np.random.default_rng(0).random((2, 3, 50)) < 0.6
    first, again, other = (statistics.hierarchical_bootstrap(direct, transfer, seed=s, draws=400) for s in (7, 7, 8))
    assert first == again != other
    ones = np.ones((3, 50))
    found = statistics.hierarchical_bootstrap(ones, 0 * ones, seed=0, draws=100)
    assert (found.value, found.low, found.high) == (1, 1, 1)


def test_bca_leans_towards_the_long_tail():
    lost = np.zeros((6, 300))
    lost[:, :6] = 1  # a rare loss: the mean of 0/1 values is skewed to the right
    both = {
        method: statistics.hierarchical_bootstrap(lost, 0 * lost, seed=0, method=method, draws=20_000)
        for method in ("bca", "percentile")
    }
    assert both["bca"].high > both["percentile"].high
    assert both["bca"].low >= both["percentile"].low


def test_a_bootstrap_over_few_seeds_misses_more_or_less_often_than_it_says():
    seeds_matter = simulated_answers(300, 5, seeds=1, examples=0)
    only_chance = simulated_answers(300, 5, seeds=0, examples=0)
    assert within(coverage(seeds_matter, short_bootstrap), (0.80, 0.90))
    assert coverage(only_chance, short_bootstrap) > 0.97


def short_bootstrap(direct: np.ndarray, transfer: np.ndarray) -> statistics.Interval:
    return statistics.hierarchical_bootstrap(direct, transfer, seed=0, draws=300)


# Interquartile means


def test_the_interquartile_mean_leaves_a_quarter_out_at_either_end():
    assert statistics.iqm([100, 1, 2, 3, 4, 5, 6, -100]) == (2 + 3 + 4 + 5) / 4
    assert statistics.iqm([9, 1, 2, 3, 4]) == 3  # a quarter of five, rounded down, is one
    assert statistics.iqm([1, 2, 6]) == 3


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30))
def test_the_interquartile_mean_is_scipys_trimmed_mean(values):
    assert statistics.iqm(values) == pytest.approx(stats.trim_mean(values, 0.25), abs=1e-12)


def test_the_interval_of_one_component_without_trimming_is_the_t_interval():
    values = [0.1, 0.2, 0.4]  # three values lose none to trimming, so this is their mean
    found = statistics.iqm_interval(np.array(values)[:, None], seed=0, draws=50_000)
    expected = gaps.estimate(values)
    assert (found.value, found.low, found.high) == pytest.approx((expected.mean, expected.low, expected.high), abs=0.01)


@given(st.integers(2, 5), st.integers(1, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_ways_to_draw_few_seeds_are_looked_at_once_and_the_resamples_are_the_same_bits(num_seeds, num_components, seed):
    table = np.random.default_rng(seed).normal(size=(num_seeds, num_components))
    draws = 4000  # 4 seeds are drawn in 256 ways, 5 in 3125
    found = statistics._resampled_iqms(table, draws, np.random.default_rng(seed), together=True)
    rows = np.random.default_rng(seed).integers(num_seeds, size=(draws, num_seeds, 1))
    assert (found == statistics._iqms_of(table, rows)).all()


def test_the_stratified_interval_resamples_seeds_for_each_component_apart():
    apart = np.array([[0.0, 1.0], [1.0, 0.0]] * 3)  # seeds that do well at one component do badly at the other
    together = statistics.iqm_interval(apart, seed=0, draws=500)
    stratified = statistics.iqm_interval(apart, seed=0, draws=500, method="stratified")
    assert together.high - together.low < 1e-12  # half of any such seeds are ones
    assert stratified.high - stratified.low > 0.3


@pytest.mark.parametrize("num_seeds", [3, 5, 10])
@pytest.mark.parametrize("together", [0.0, 0.02])
def test_the_interquartile_interval_covers_in_95_percent_of_sweeps(num_seeds, together):
    rng = np.random.default_rng([num_seeds, round(100 * together)])
    components = np.linspace(0, 0.4, 4)

    def drawn(*shape: int) -> np.ndarray:
        shared = together * rng.standard_normal((*shape, 1))
        return components + shared + 0.02 * rng.standard_normal((*shape, 4))

    truth = statistics.iqm(drawn(200_000))
    found = [statistics.iqm_interval(x, seed=k, draws=300) for k, x in enumerate(drawn(NUM_SWEEPS, num_seeds))]
    assert within(np.mean([each.low <= truth <= each.high for each in found]), AT_95_PERCENT)


# Verdicts


def test_the_verdict_is_the_one_worked_out_by_hand():
    # mean .002, deviation .001, t(2; .95) = 2.919986: bounds .002 -+ 2.919986 * .001 / sqrt(3)
    found = statistics.equivalence([0.001, 0.002, 0.003], 0.005)
    assert (found.low, found.high) == pytest.approx((0.000314145, 0.003685855), abs=1e-8)
    assert found.verdict == "no loss larger than 0.5 points"
    assert found.no_loss
    assert found.equivalent


def test_other_verdicts_are_a_loss_and_none():
    assert statistics.equivalence([0.03, 0.031, 0.032], 0.005).verdict == "a loss larger than 0.5 points"
    undecided = statistics.equivalence([-0.02, 0.0, 0.02], 0.005)
    assert (undecided.no_loss, undecided.verdict) == (False, "a loss larger than 0.5 points is not ruled out")
    one = statistics.equivalence([-0.3], 0.0025)
    assert (one.no_loss, one.verdict) == (False, "one seed cannot rule out a loss larger than 0.25 points")
    gain = statistics.equivalence([-0.03, -0.031, -0.032], 0.005)
    assert (gain.no_loss, gain.equivalent) == (True, False)


def test_the_bounds_are_scipys_two_one_sided_t_tests():
    differences = np.random.default_rng(0).normal(0.001, 0.004, size=6)
    bound = statistics.equivalence(differences, 1.0).high
    assert stats.ttest_1samp(differences, bound, alternative="less").pvalue == pytest.approx(0.05)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_a_loss_as_large_as_the_margin_is_ruled_out_in_five_percent_of_sweeps(n):
    sweeps = np.random.default_rng(n).normal(0.005, 0.004, size=(NUM_SWEEPS, n))
    assert within(np.mean([statistics.equivalence(d, 0.005).no_loss for d in sweeps]), AT_FIVE_PERCENT)


# Plans


def test_five_seeds_detect_1_7_deviations_two_sided_and_ten_detect_one():
    assert statistics.smallest_detectable(1, 5) == pytest.approx(1.68, abs=0.01)
    assert statistics.smallest_detectable(1, 10) == pytest.approx(1.00, abs=0.01)
    assert statistics.smallest_detectable(1, 3) == pytest.approx(3.26, abs=0.01)
    one_sided = [statistics.smallest_detectable(1, n, alternative="greater") for n in (3, 5, 10)]
    assert one_sided == pytest.approx([2.30, 1.36, 0.85], abs=0.01)


@pytest.mark.parametrize(
    ("n", "alternative", "power"), [(3, "greater", 0.8), (5, "two-sided", 0.8), (10, "greater", 0.9)]
)
def test_the_t_test_finds_the_smallest_detectable_gap_as_often_as_planned(n, alternative, power):
    gap = statistics.smallest_detectable(0.02, n, power=power, alternative=alternative)
    sweeps = np.random.default_rng(n).normal(gap, 0.02, size=(20_000, n))
    assert np.mean(stats.ttest_1samp(sweeps, 0, axis=1, alternative=alternative).pvalue <= 0.05) == pytest.approx(
        power, abs=0.012
    )


@given(st.floats(0, 1), st.integers(2, 40))
def test_the_smallest_detectable_gap_scales_with_the_deviation_and_falls_with_seeds(deviation, n):
    one, more = (statistics.smallest_detectable(deviation, m) for m in (n, n + 1))
    assert one == pytest.approx(deviation * statistics.smallest_detectable(1, n))
    assert more <= one


# What is refused


@pytest.mark.parametrize(
    ("call", "remedy"),
    [
        (lambda: statistics.sign_flip_test([]), "leave out what has not been measured"),
        (lambda: statistics.compare([0.1, math.nan]), "1 of 2 values are not finite; leave those seeds out"),
        (lambda: statistics.equivalence([math.inf], 0.005), "leave those seeds out of both arms"),
        (lambda: statistics.equivalence([0.1], 0), "margin is 0"),
        (lambda: statistics.sign_flip_test([[0.1, 0.2]]), "average within each seed"),
        (lambda: statistics.sign_flip_test(np.ones(20), draws=0), "draw at least 1,000"),
        (lambda: statistics.smallest_p(0), "n is at least 1"),
        (lambda: statistics.mcnemar([1, 0], [1]), "keep the seeds and test examples that both have"),
        (lambda: statistics.mcnemar([], []), "at least one of each"),
        (lambda: statistics.holm([]), "at least one"),
        (lambda: statistics.benjamini_hochberg([0.5, 1.2]), r"outside \[0, 1\]"),
        (lambda: statistics.paired_interval([[1, 0], [1]], [[1, 0], [1]]), "ragged"),
        (lambda: statistics.paired_interval([[1, 2]], [[0, 0]]), "equals its label"),
        (lambda: statistics.paired_interval([[1, math.nan]], [[0, 0]]), "equals its label"),
        (lambda: statistics.paired_interval([[1]], [[0]]), "at least 2"),
        (lambda: statistics.crossed_interval([[0.5], [0.25]]), "at least 2"),
        (lambda: statistics.crossed_interval([0.5, 0.25]), "at least 2"),
        (lambda: statistics.crossed_interval([[0.5, math.nan]]), "not finite"),
        (lambda: statistics.paired_interval([[1, 0]], [[0, 0]], level=0.95), "0.05 for a 95 % interval"),
        (lambda: statistics.hierarchical_bootstrap([[1, 0]], [[1, 0], [1, 0]], seed=0), "keep the seeds"),
        (lambda: statistics.hierarchical_bootstrap([], [], seed=0), "at least one of each"),
        (lambda: statistics.iqm([]), "leave out what has not been measured"),
        (lambda: statistics.iqm_interval([[1.0, 2.0]], seed=0), "add seeds"),
        (lambda: statistics.iqm_interval([[1.0, 2.0], [1.0]], seed=0), "as many for every seed"),
        (lambda: statistics.smallest_detectable(1, 1), "plan at least 2"),
        (lambda: statistics.smallest_detectable(-1, 5), "not negative"),
        (lambda: statistics.smallest_detectable(1, 5, power=0.01), "between the level"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_a_remedy(call, remedy):
    with pytest.raises(ValueError, match=remedy) as refusal:
        call()
    assert "\n" not in str(refusal.value)
