"""Which law do the numbers follow? Planted laws are found again, and what cannot be known is refused."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from orchestrator.analysis.fits import (
    DataEquivalent,
    Parameter,
    Refused,
    cat_fit,
    data_equivalent,
    floor_fit,
    half_gap,
    mixing_law,
    ordering_effects,
    transfer_fit,
)

WIDTHS = np.array([64, 128, 256, 512, 1024, 2048])
WEIGHTS = np.array([0, 0.02, 0.05, 0.1, 0.2, 0.5, 1])


def noise(*shape: int, scale: float, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0, scale, shape)


def falling(floor: float = 0.05, exponent: float = 0.7) -> Any:
    """(6,) gaps at WIDTHS, 0.3 above the floor at the first."""
    return 0.3 * (WIDTHS / 64) ** -exponent + floor


def halving(middle: float = 0.03, steepness: float = 1.2) -> Any:
    """(7,) gaps at WEIGHTS, 0.4 at weight 0."""
    return 0.4 / (1 + (WEIGHTS / middle) ** steepness)


def within(found: Parameter, value: float) -> bool:
    assert found.low is not None
    assert found.high is not None
    return found.low <= value <= found.high


def refusal(found: Any) -> str:
    assert isinstance(found, Refused)
    return found.reason


# gap(N) = a N^-b + c


@settings(max_examples=15)
@given(st.floats(0, 0.3), st.floats(0.2, 3))
def test_a_floor_without_noise_is_found_exactly(floor, exponent):
    found = floor_fit(WIDTHS, [falling(floor, exponent)] * 3)
    assert found.c.value == pytest.approx(floor, abs=1e-6)
    assert found.b.value == pytest.approx(exponent, rel=1e-5)
    assert found.a == pytest.approx(0.3 * 64**exponent, rel=1e-4)
    assert found.residuals == pytest.approx([0] * 6, abs=1e-6)


@pytest.mark.parametrize(("seeds", "floor", "least"), [(3, 0.05, 31), (5, 0.02, 31), (5, 0.0, 31)])
def test_the_interval_covers_the_planted_floor(seeds, floor, least):
    covered = 0
    for repetition in range(35):
        shared = noise(seeds, 1, scale=0.005, seed=repetition)  # what a seed's runs have in common
        found = floor_fit(WIDTHS, falling(floor) + shared + noise(seeds, 6, scale=0.01, seed=1000 + repetition))
        covered += within(found.c, floor)
    assert covered >= least


def test_a_clear_floor_is_told_from_none_by_interval_and_criteria():
    with_floor = floor_fit(WIDTHS, falling(0.1) + noise(5, 6, scale=0.003))
    assert with_floor.has_floor
    assert with_floor.aic_difference > 10
    without = floor_fit(WIDTHS, falling(0.0) + noise(5, 6, scale=0.003))
    assert not without.has_floor
    assert without.c.low == 0
    assert without.aic_difference < 2


def test_the_criteria_are_those_of_two_fits_made_by_scipy():
    gaps = falling(0.1) + noise(4, 6, scale=0.01)
    mean, found = gaps.mean(axis=0), floor_fit(WIDTHS, gaps)
    squares = {}
    for start in ([0.3, 0.7, 0.1], [0.3, 0.7]):
        three = len(start) == 3
        fit = optimize.least_squares(
            lambda z, three=three: z[0] * (WIDTHS / 64) ** -z[1] + (z[2] if three else 0) - mean, start, xtol=1e-12
        )
        squares[three] = 2 * fit.cost
        if three:
            assert (found.a / 64**found.b.value, found.b.value, found.c.value) == pytest.approx(tuple(fit.x), rel=1e-4)
    gained = 6 * math.log(squares[False] / squares[True])
    assert found.aic_difference == pytest.approx(gained - 2, abs=1e-3)
    assert found.bic_difference == pytest.approx(gained - math.log(6), abs=1e-3)


@settings(max_examples=6)
@given(st.floats(1e-6, 1e9))
def test_the_unit_of_scale_does_not_matter_to_exponent_and_floor(unit):
    gaps = falling() + noise(3, 6, scale=0.005)
    before, after = floor_fit(WIDTHS, gaps), floor_fit(WIDTHS * unit, gaps)
    assert dataclasses.astuple(after.b) == pytest.approx(dataclasses.astuple(before.b), rel=1e-5)
    assert dataclasses.astuple(after.c) == pytest.approx(dataclasses.astuple(before.c), abs=1e-6)


@settings(max_examples=6)
@given(st.floats(1e-3, 1e3))
def test_the_unit_of_the_gap_is_the_unit_of_the_floor(unit):
    gaps = falling() + noise(3, 6, scale=0.005)
    before, after = floor_fit(WIDTHS, gaps), floor_fit(WIDTHS, unit * gaps)
    assert np.array(dataclasses.astuple(after.c)) / unit == pytest.approx(dataclasses.astuple(before.c), abs=1e-6)
    assert after.aic_difference == pytest.approx(before.aic_difference, abs=1e-3)


def test_scales_may_come_in_any_order():
    gaps, order = falling() + noise(3, 6, scale=0.005), [3, 0, 5, 1, 4, 2]
    before, after = floor_fit(WIDTHS, gaps), floor_fit(WIDTHS[order], gaps[:, order])
    assert after.c == before.c
    assert after.residuals == pytest.approx(np.array(before.residuals)[order])


@pytest.mark.parametrize(
    ("scale", "gaps", "reason"),
    [
        (WIDTHS[:4], [falling()[:4]] * 3, "4 scales are too few: it takes 5"),
        (WIDTHS, [falling()] * 2, "2 seeds are too few: it takes 3"),
        (range(10, 16), [falling()] * 3, "span a factor of 1.5"),
        (WIDTHS, [falling(), falling(), [math.nan, *falling()[1:]]], "missing"),
        (WIDTHS, -np.tile(falling(), (3, 1)), "not distinguishable from 0"),
        (WIDTHS, [falling()[::-1]] * 3, "does not fall with scale"),
        (WIDTHS, 0.2 + noise(3, 6, scale=0.02), "does not fall with scale by more than the seeds differ"),
        (WIDTHS, [[0.3, 0.1, 0.25, 0.1, 0.25, 0.2]] * 3, "goes back as far as it comes"),
        (WIDTHS, [[0.3, 0.1, 0.1, 0.1, 0.1, 0.1]] * 3, "falls only at the first step"),
        (WIDTHS, [0.3 - 1e-4 * np.arange(6)] * 3, "falls too slowly"),
    ],
)
def test_a_floor_that_the_data_do_not_determine_is_refused(scale, gaps, reason):
    assert reason in refusal(floor_fit(scale, gaps))


@pytest.mark.parametrize("scale", [WIDTHS[:5], WIDTHS * 0, [64] * 6, [math.inf, *WIDTHS[1:]]])
def test_scales_that_are_none_are_an_error(scale):
    with pytest.raises(ValueError, match="scale"):
        floor_fit(scale, [falling()] * 3)


# A(n) = A_inf - b n^-a

SIZES = np.array([1, 2, 4, 8])


def rising(limit: float = 0.83) -> Any:
    return limit - 0.08 * SIZES**-0.8


def test_the_limit_of_ever_more_networks_is_found_again():
    found = cat_fit(SIZES, [rising()] * 3, [0.9] * 3)
    assert (found.limit.value, found.a.value, found.b) == pytest.approx((0.83, 0.8, 0.08), abs=1e-5)
    assert found.remaining_gap.value == pytest.approx(0.07, abs=1e-6)
    assert found.residuals == pytest.approx([0] * 4, abs=1e-6)
    assert found.n == 3


@pytest.mark.parametrize(("direct", "verdict"), [(0.9, "open"), (0.83, "undecided"), (0.79, "closed")])
def test_the_verdict_follows_the_interval_of_what_remains(direct, verdict):
    found = cat_fit(SIZES, rising() + noise(6, 4, scale=0.002), direct + noise(6, scale=0.002, seed=1))
    assert found.verdict == verdict
    assert within(found.limit, 0.83)
    assert within(found.remaining_gap, direct - 0.83)


def test_what_a_seed_adds_to_both_arms_does_not_widen_what_remains():
    shared = noise(5, scale=0.03)
    alone = cat_fit(SIZES, [rising()] * 5, [0.9] * 5)
    found = cat_fit(SIZES, rising() + shared[:, None], 0.9 + shared)
    assert found.remaining_gap.low == pytest.approx(alone.remaining_gap.low, abs=1e-5)
    assert found.remaining_gap.high == pytest.approx(alone.remaining_gap.high, abs=1e-5)
    assert found.limit.high - found.limit.low > 0.02


@pytest.mark.parametrize(
    ("sizes", "accuracy", "direct", "reason"),
    [
        (SIZES[:3], [rising()[:3]] * 3, [0.9] * 3, "3 sizes are too few: it takes 4"),
        (SIZES, [rising()] * 2, [0.9] * 2, "2 seeds are too few"),
        (SIZES, [rising()] * 3, [0.9, 0.9, math.nan], "missing"),
        ([4, 5, 6, 7], [rising()] * 3, [0.9] * 3, "span a factor of 1.75"),
        (SIZES, [[0.9] * 4] * 3, [0.99] * 3, "does not rise with the number of members"),  # convex: no gain
        (SIZES, [rising()] * 3, [0.75] * 3, "no gap is there to close"),
        (SIZES, [[0.7, 0.8, 0.8, 0.8]] * 3, [0.9] * 3, "the error falls only at the first step"),
    ],
)
def test_a_limit_that_the_data_do_not_determine_is_refused(sizes, accuracy, direct, reason):
    assert reason in refusal(cat_fit(sizes, accuracy, direct))


@pytest.mark.parametrize(
    ("accuracy", "direct", "message"),
    [([rising()] * 3, [0.9] * 2, "one per seed"), ([rising() * 100] * 3, [90] * 3, "fractions")],
)
def test_accuracies_that_are_none_are_an_error(accuracy, direct, message):
    with pytest.raises(ValueError, match=message):
        cat_fit(SIZES, accuracy, direct)


# e_T = k e_S^alpha + e_IR

UPSTREAM = np.linspace(0.15, 0.6, 10)


@settings(max_examples=6)
@given(st.floats(0.3, 3), st.floats(0, 0.2))
def test_the_irreducible_error_without_noise_is_found_exactly(alpha, irreducible):
    found = transfer_fit(UPSTREAM, 0.7 * UPSTREAM**alpha + irreducible)
    assert (found.k, found.alpha.value) == pytest.approx((0.7, alpha), rel=1e-4)
    assert found.irreducible.value == pytest.approx(irreducible, abs=1e-5)


def test_the_interval_of_the_irreducible_error_covers_the_planted_one():
    covered = [
        within(transfer_fit(UPSTREAM, 0.7 * UPSTREAM**1.4 + 0.1 + noise(10, scale=0.01, seed=s)).irreducible, 0.1)
        for s in range(30)
    ]
    assert sum(covered) >= 27


def test_residuals_of_the_transfer_fit_stand_in_the_order_of_the_runs():
    transfer = 0.7 * UPSTREAM**1.4 + 0.1 + noise(10, scale=0.01)
    forwards, backwards = transfer_fit(UPSTREAM, transfer), transfer_fit(UPSTREAM[::-1], transfer[::-1])
    assert backwards.residuals[::-1] == pytest.approx(forwards.residuals, abs=1e-6)
    law = forwards.k * UPSTREAM**forwards.alpha.value + forwards.irreducible.value
    assert forwards.residuals == pytest.approx(transfer - law, abs=1e-9)


@pytest.mark.parametrize(
    ("upstream", "transfer", "reason"),
    [
        (UPSTREAM[:4], UPSTREAM[:4], "4 different upstream errors are too few"),
        ([0.2] * 10, UPSTREAM, "1 different upstream errors"),
        (0.4 + UPSTREAM / 4, UPSTREAM, "span a factor of 1.26"),
        (UPSTREAM, UPSTREAM[::-1], "does not rise with the upstream error"),
        (UPSTREAM, 0.3 + noise(10, scale=0.05), "does not rise with the upstream error"),
        (UPSTREAM, [math.nan, *UPSTREAM[1:]], "missing"),
    ],
)
def test_an_irreducible_error_that_the_runs_do_not_determine_is_refused(upstream, transfer, reason):
    assert reason in refusal(transfer_fit(upstream, transfer))


@pytest.mark.parametrize(
    ("upstream", "transfer", "message"),
    [
        (UPSTREAM, UPSTREAM[:4], "pairs"),
        (UPSTREAM - 0.15, UPSTREAM, r"\(0, 1\]"),
        (UPSTREAM, 100 * UPSTREAM, r"\[0, 1\]"),
    ],
)
def test_errors_that_are_none_are_an_error(upstream, transfer, message):
    with pytest.raises(ValueError, match=message):
        transfer_fit(upstream, transfer)


# L(lambda) = c + k exp(t . lambda)


def mixtures(count: int = 12, components: int = 3, seed: int = 0) -> Any:
    return np.random.default_rng(seed).dirichlet(np.ones(components), count)


def law(shares: Any, c: float, k: float, t: Any) -> Any:
    return c + k * np.exp(shares @ np.array(t))


@settings(max_examples=6)
@given(
    st.floats(0.2, 2),
    st.floats(0.5, 3),
    st.lists(st.floats(-3, 3), min_size=3, max_size=3).filter(lambda t: np.ptp(t) > 1),
)
def test_a_mixing_law_without_noise_is_found_exactly_up_to_what_cannot_be_told_apart(c, k, t):
    found = mixing_law(mixtures(), law(mixtures(), c, k, t))
    assert found.c.value == pytest.approx(c, abs=1e-4)
    assert found.k.value == pytest.approx(k * math.exp(np.mean(t)), rel=1e-3, abs=1e-4)
    assert [one.value for one in found.t] == pytest.approx(np.array(t) - np.mean(t), rel=1e-3, abs=1e-3)
    assert found.r2 == pytest.approx(1, abs=1e-6)
    assert found.c.low is None
    assert found(mixtures(seed=1)) == pytest.approx(law(mixtures(seed=1), c, k, t), rel=1e-3)


def test_a_mixing_law_in_noise_predicts_mixtures_that_it_has_not_seen():
    truth = {"c": 0.5, "k": 2, "t": [-3, 0.5, 1]}
    found = mixing_law(mixtures(), law(mixtures(), **truth) + noise(5, 12, scale=0.02))
    assert found.r2 > 0.98
    assert within(found.c, 0.5)
    assert within(found.t[0], -2.5)
    assert (found.mixtures, found.n) == (12, 5)
    unseen = mixtures(50, seed=1)
    assert found(unseen) == pytest.approx(law(unseen, **truth), abs=0.1)


def test_the_held_out_r2_is_that_of_fitting_again_without_each_mixture():
    shares = mixtures(7, components=2)
    loss = law(shares, 0.3, 1, [-2, 2]) + noise(7, scale=0.1)
    off, total = [], []
    for left_out in range(7):
        rest = np.arange(7) != left_out
        fit = mixing_law(shares[rest], loss[rest])
        off.append(float(loss[left_out] - fit(shares[left_out])))
        total.append(float(loss[left_out] - loss[rest].mean()))
    assert mixing_law(shares, loss).r2 == pytest.approx(1 - np.sum(np.square(off)) / np.sum(np.square(total)), abs=1e-4)


def test_of_thousands_of_mixtures_many_are_left_out_at_once():
    shares = mixtures(3000)
    found = mixing_law(shares, law(shares, 0.5, 2, [-3, 0.5, 1]) + noise(3000, scale=0.02))
    assert found.r2 > 0.98


@settings(max_examples=6)
@given(st.lists(st.floats(0.1, 10), min_size=12, max_size=12))
def test_weights_are_relative(factors):
    loss = law(mixtures(), 0.5, 2, [-3, 0.5, 1]) + noise(12, scale=0.02)
    before, after = mixing_law(mixtures(), loss), mixing_law(mixtures() * np.array(factors)[:, None], loss)
    assert after.c.value == pytest.approx(before.c.value, abs=1e-5)
    assert after.r2 == pytest.approx(before.r2, abs=1e-6)


@pytest.mark.parametrize(
    ("weights", "loss", "reason"),
    [
        (mixtures(4), [1, 2, 3, 4], "4 different mixtures are too few for 3 components: it takes 5"),
        (np.repeat(mixtures(4), 2, axis=0), range(8), "4 different mixtures"),
        (np.column_stack([mixtures(8, 2), np.zeros(8)]), range(8), "vary in only 1 directions"),
        (mixtures(), [1.0] * 12, "the same for all"),
        (mixtures(), [math.nan, *range(11)], "missing"),
        (mixtures(), noise(12, scale=1, seed=1), "left out no better"),
    ],
)
def test_a_mixing_law_that_the_mixtures_do_not_determine_is_refused(weights, loss, reason):
    assert reason in refusal(mixing_law(weights, loss))


@pytest.mark.parametrize(
    ("weights", "loss"), [(mixtures(), range(11)), (np.ones((12, 1)), range(12)), (-mixtures(), range(12))]
)
def test_mixtures_that_are_none_are_an_error(weights, loss):
    with pytest.raises(ValueError, match="weights"):
        mixing_law(weights, loss)


# The weight at which half of the gap is gone


@settings(max_examples=6)
@given(st.floats(0.015, 0.3), st.floats(0.6, 3))
def test_the_weight_of_half_the_gap_is_found_exactly_without_noise(middle, steepness):
    found = half_gap(WEIGHTS, [halving(middle, steepness)] * 3)
    assert (found.weight.value, found.steepness) == pytest.approx((middle, steepness), rel=1e-4)
    assert found.top == pytest.approx(0.4, rel=1e-5)
    assert found.reference == 0
    assert found.between[0] <= middle <= found.between[1]


def test_without_weight_0_half_is_counted_from_the_smallest_weight():
    # 0.4 / (1 + 0.02 / 0.03) = 0.24, and 0.12 = 0.4 / (1 + x / 0.03) at x = 0.07
    found = half_gap(WEIGHTS[1:], [halving(0.03, 1.0)[1:]] * 3)
    assert found.weight.value == pytest.approx(0.07, rel=1e-4)
    assert (found.reference, found.between) == (0.02, (0.05, 0.1))


def test_the_interval_covers_the_planted_weight():
    covered = [within(half_gap(WEIGHTS, halving() + noise(4, 7, scale=0.01, seed=s)).weight, 0.03) for s in range(40)]
    assert sum(covered) >= 36


def test_the_digits_dominoes_lose_half_of_their_gap_by_a_weight_of_one_percent():
    gaps = np.array([43.7, 15.6, 10.0, 7.4, 4.1, 1.3, 0.0]) + noise(3, 7, scale=0.5)
    found = half_gap(WEIGHTS, gaps)
    assert found.weight.value == pytest.approx(0.01, abs=0.003)
    assert found.between == (0, 0.02)


@settings(max_examples=6)
@given(st.floats(1e-3, 1e3))
def test_the_unit_of_the_gap_does_not_matter_to_the_weight(unit):
    gaps = halving() + noise(3, 7, scale=0.01)
    before, after = half_gap(WEIGHTS, gaps).weight, half_gap(WEIGHTS, unit * gaps).weight
    assert dataclasses.astuple(after) == pytest.approx(dataclasses.astuple(before), rel=1e-5)


@pytest.mark.parametrize(
    ("weights", "gaps", "reason"),
    [
        (WEIGHTS[:3], [halving()[:3]] * 3, "3 weights are too few"),
        (WEIGHTS, [halving()] * 2, "2 seeds are too few"),
        (WEIGHTS[3:], [halving()[3:]] * 3, "smallest weight is 0.1: it takes 0 or one of at most 0.05"),
        (WEIGHTS, [halving()[::-1]] * 3, "does not fall with the weight"),
        (WEIGHTS, 0.001 + noise(3, 7, scale=0.05), "not distinguishable from 0"),
        (WEIGHTS, [0.31 + halving()] * 3, "no logistic curve: it is halved between the weights 0.1 and 0.2"),
        (WEIGHTS, [0.6 + halving()] * 3, "at the largest weight, 1, more than half of the gap remains"),
        (WEIGHTS, [[0.09] * 4 + [0.0] * 3] * 3, "falls in one step, between the weights 0.1 and 0.2"),
        (WEIGHTS, [halving(0.001, 1)] * 3, "it takes smaller ones"),
    ],
)
def test_a_half_gap_that_the_data_do_not_determine_is_refused(weights, gaps, reason):
    assert reason in refusal(half_gap(weights, gaps))


def test_a_weight_above_1_is_an_error():
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        half_gap(WEIGHTS * 2, [halving()] * 3)


# Orderings


def runs(accuracy: dict[tuple[str, str], list[float]]) -> pd.DataFrame:
    """One row per component, ordering and seed."""
    return pd.DataFrame(
        [
            {"component": component, "ordering": ordering, "seed": seed, "transfer_accuracy": value}
            for (component, ordering), values in accuracy.items()
            for seed, value in enumerate(values)
        ]
    )


HAND = runs(
    {
        ("a", "shuffled"): [0.8, 0.6, 0.7],
        ("a", "rare_first"): [0.7, 0.4, 0.4],
        ("b", "shuffled"): [0.5, 0.5, 0.5],
        ("b", "rare_first"): [0.6, 0.6, 0.6],
    }
)


def test_the_effects_of_an_ordering_are_those_worked_out_by_hand():
    # a: -0.1, -0.2, -0.3 within seeds: mean -0.2, standard deviation 0.1; b: 0.1 each
    found = ordering_effects(HAND)
    on = {(one.component, one.ordering): one.difference for one in found.effects}
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert on["a", "rare_first"].mean == pytest.approx(-0.2)
    assert (on["a", "rare_first"].low, on["a", "rare_first"].high) == pytest.approx(
        (-0.2 - half, -0.2 + half), abs=1e-6
    )
    assert on["b", "rare_first"].mean == pytest.approx(0.1)
    assert [one.difference.mean for one in found.overall] == pytest.approx([-0.05])
    assert {one.component: one.difference.mean for one in found.interactions} == pytest.approx({"a": -0.3, "b": 0.3})
    assert found.n == 3


def many_runs(seeds: int = 6) -> pd.DataFrame:
    level = noise(seeds, scale=0.2)  # the random intercepts
    names = [(c, o) for c in ("a", "b", "c") for o in ("blocked", "shuffled", "rare_first")]
    return runs({name: list(level + noise(seeds, scale=0.02, seed=1 + i)) for i, name in enumerate(names)})


def test_intervals_are_those_of_paired_t_tests():
    table = many_runs()
    value = table.pivot(index="seed", columns=["component", "ordering"], values="transfer_accuracy")
    found = ordering_effects(table)
    assert len(found.effects) == len(found.interactions) == 6
    for one in found.effects:
        expected = stats.ttest_rel(value[one.component, one.ordering], value[one.component, "shuffled"])
        interval = expected.confidence_interval(0.95)
        assert (one.difference.low, one.difference.high) == pytest.approx((interval.low, interval.high))
    for one in found.interactions:
        change = {c: value[c, one.ordering] - value[c, "shuffled"] for c in "abc"}
        rest = [change[c] for c in "abc" if c != one.component]
        interval = stats.ttest_rel(change[one.component], sum(rest) / 2).confidence_interval(0.95)
        assert (one.difference.low, one.difference.high) == pytest.approx((interval.low, interval.high))


@settings(max_examples=15)
@given(st.lists(st.floats(-1, 1), min_size=6, max_size=6), st.randoms())
def test_what_a_seed_adds_to_all_its_runs_changes_nothing(intercepts, random):
    table = many_runs()
    moved = table.assign(transfer_accuracy=table["transfer_accuracy"] + table["seed"].map(dict(enumerate(intercepts))))
    rows = list(range(len(table)))
    random.shuffle(rows)
    before, after = ordering_effects(table), ordering_effects(moved.iloc[rows])

    def by_name(found: Any) -> dict[Any, float]:
        return {(one.component, one.ordering): one.difference.low for one in (*found.effects, *found.overall)}

    assert by_name(after) == pytest.approx(by_name(before), abs=1e-9)


def test_interactions_of_an_ordering_over_two_components_cancel_and_one_component_has_none():
    found = ordering_effects(HAND)
    assert sum(one.difference.mean for one in found.interactions) == pytest.approx(0)
    assert ordering_effects(HAND[HAND["component"] == "a"]).interactions == ()


def test_gaps_are_compared_like_accuracies():
    table = HAND.assign(gap=0.9 - HAND["transfer_accuracy"])
    accuracy, gap = ordering_effects(table).effects, ordering_effects(table, "gap").effects
    assert [one.difference.mean for one in gap] == pytest.approx([-one.difference.mean for one in accuracy])


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (HAND[:0], "no rows"),
        (HAND[HAND["seed"] == 0], "one seed"),
        (HAND[1:], "1 of 12 combinations of component, ordering and seed are missing"),
        (pd.concat([HAND, HAND[:1]]), "more rows than others"),
        (HAND.assign(transfer_accuracy=[None, *[0.5] * 11]), "1 of 12 rows have no transfer accuracy"),
        (HAND[HAND["ordering"] == "rare_first"], "it takes `shuffled` and another one"),
        (HAND[HAND["ordering"] == "shuffled"], "it takes `shuffled` and another one"),
    ],
)
def test_orderings_that_cannot_be_compared_within_seeds_are_refused(table, reason):
    assert reason in refusal(ordering_effects(table))


def test_a_table_without_seeds_is_an_error():
    with pytest.raises(ValueError, match="no seed and gap"):
        ordering_effects(HAND.drop(columns="seed"), "gap")


# Data-equivalents


def test_the_data_equivalent_is_interpolated_in_log_size():
    # 0.7 is halfway from 0.6 to 0.8, so the size is the geometric mean of 100 and 10,000
    found = data_equivalent([10_000, 1, 100], [0.8, 0.1, 0.6], 0.7)
    assert found.examples == pytest.approx(1000)
    assert found.censored == ""


def test_a_data_equivalent_outside_of_the_sizes_is_censored():
    sizes, direct = [10, 100, 1000], [0.5, 0.6, 0.7]
    assert data_equivalent(sizes, direct, 0.4) == DataEquivalent(10, "below")
    assert data_equivalent(sizes, direct, 0.71) == DataEquivalent(1000, "above")
    assert data_equivalent(sizes, direct, 0.7) == DataEquivalent(1000, "")


def test_the_first_size_that_is_enough_counts_even_if_a_larger_one_is_not():
    assert data_equivalent([1, 10, 100], [0.0, 0.8, 0.5], 0.4).examples == pytest.approx(10**0.5)


@settings(max_examples=30)
@given(st.lists(st.floats(0.01, 0.99), min_size=3, max_size=6, unique=True), st.floats(0, 1), st.floats(0, 1))
def test_better_transfer_is_worth_no_fewer_examples(direct, one, other):
    sizes, curve = 10.0 ** np.arange(len(direct)), sorted(direct)
    less, more = (data_equivalent(sizes, curve, value).examples for value in sorted([one, other]))
    assert less <= more * (1 + 1e-12)
    assert sizes[0] <= less * (1 + 1e-12)
    assert more <= sizes[-1] * (1 + 1e-12)


@pytest.mark.parametrize(
    ("sizes", "direct", "transfer", "reason"),
    [
        ([10], [0.5], 0.5, "one size"),
        ([10, 20], [0.5, math.nan], 0.5, "missing"),
        ([10, 20], [0.5, 0.6], math.nan, "missing"),
    ],
)
def test_a_data_equivalent_without_a_curve_is_refused(sizes, direct, transfer, reason):
    assert reason in refusal(data_equivalent(sizes, direct, transfer))


def test_direct_accuracies_by_seed_are_an_error():
    with pytest.raises(ValueError, match="one per size"):
        data_equivalent([10, 20], [[0.5, 0.6]], 0.5)


# All of them


@settings(max_examples=8)
@given(st.integers(0, 2**32 - 1), st.floats(-4, 0), st.integers(4, 7))
def test_whatever_the_numbers_a_fit_is_finite_or_refused(seed, log_noise, count):
    random, scale = np.random.default_rng(seed), 10**log_noise
    by_seed = noise(3, count, scale=scale, seed=seed)
    x = np.sort(random.uniform(0.01, 1, count))
    weights = np.array([0, *x[1:]])
    shares = random.dirichlet(np.ones(2), count)
    numbers = np.arange(1, count + 1)
    for found in (
        floor_fit(x, 0.3 * (x / x[0]) ** -random.uniform(0, 4) + by_seed),
        cat_fit(numbers, np.clip(0.8 - 0.2 / numbers + by_seed, 0, 1), [0.7, 0.8, 0.9]),
        transfer_fit(x, np.clip(x ** random.uniform(0, 4) + by_seed[0], 0, 1)),
        half_gap(weights, 1 / (1 + (weights / 0.1) ** random.uniform(0.2, 10)) + by_seed),
        mixing_law(shares, np.exp(shares @ random.normal(0, 3, 2)) + by_seed),
    ):
        assert finite(found) or refusal(found)


def finite(found: Any) -> bool:
    if isinstance(found, tuple):
        return all(map(finite, found))
    if dataclasses.is_dataclass(found):
        return all(finite(getattr(found, field.name)) for field in dataclasses.fields(found))
    return isinstance(found, int | float) and math.isfinite(found)


def test_fits_need_neither_torch_nor_ray():
    code = "import sys, orchestrator.analysis.fits; print([m for m in ('torch', 'ray', 'mlflow') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
