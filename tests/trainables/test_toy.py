"""Toys A and B: every number that was worked out for them, and the laws behind the numbers."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from trainables import toy
from trainables.toy import (
    ORDERINGS,
    Phase,
    Population,
    accuracies,
    accuracy,
    cat_gain,
    deficit,
    diluted,
    gradient_descent,
    ordered,
    population,
    probe_accuracy,
    retained,
    solve,
    threshold,
    threshold_by_bisection,
)

MU = 0.02
weights = st.floats(0, 1)
rates = st.floats(0.55, 0.97)
penalties = st.floats(0.005, 0.2)


def rare(weight: float, **rates: float) -> Population:
    """A background and one rare component of this weight."""
    return population([1 - weight, weight], **rates)


def descend(schedule: list[Phase], start: float) -> toy.Descent:
    size = schedule[0][0].features.shape[1]
    return gradient_descent([start] * size, [start] * size, schedule, learning_rate=0.5, mu=MU)


# The population


def test_the_population_of_one_shared_and_one_private_feature_is_the_one_written_down_by_hand():
    found = rare(0.25, q=0.9, p=0.8)
    chance = {
        (y, s, r, c): probability
        for y, (s, r), c, probability in zip(
            found.label, found.features, found.component, found.probability, strict=True
        )
    }
    assert len(chance) == 16
    assert chance[1, 1, 1, 0] == pytest.approx(0.75 * 0.5 * 0.9 * 0.5)
    assert chance[1, -1, -1, 0] == pytest.approx(0.75 * 0.5 * 0.1 * 0.5)
    assert chance[1, 1, 1, 1] == pytest.approx(0.25 * 0.5 * 0.9 * 0.8)
    assert chance[-1, -1, 1, 1] == pytest.approx(0.25 * 0.5 * 0.9 * 0.2)


@settings(max_examples=20)
@given(st.lists(weights, min_size=2, max_size=4).filter(sum), rates, rates, st.integers(0, 3))
def test_probabilities_add_up_and_features_agree_at_the_rates_asked_for(shares, q, p, competitors):
    found = population(np.array(shares) / sum(shares), q=q, p=p, competitors=competitors)
    assert found.probability.sum() == pytest.approx(1)
    for component in range(len(shares)):
        one = found.only(component)
        agreement = one.probability @ (one.features == one.label[:, None])
        expected = [q] * competitors + [p if k == component else 0.5 for k in range(1, len(shares))]
        assert agreement == pytest.approx(expected)
        assert one.probability @ one.label == pytest.approx(0, abs=1e-12)


@settings(max_examples=20)
@given(weights, st.integers(0, 3), st.lists(st.floats(-3, 3), min_size=4, max_size=4))
def test_the_margins_hold_everything_that_the_loss_depends_on(weight, competitors, w):
    found = population([1 - weight, weight], competitors=competitors)
    w = np.array(w[: competitors + 1])
    patterns, probability = found.margins()
    one_by_one = found.probability @ np.logaddexp(0, -found.label * (found.features @ w))
    assert probability @ np.logaddexp(0, -patterns @ w) == pytest.approx(one_by_one, abs=1e-12)
    assert len(patterns) == 2 ** (competitors + 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": [0.5, 0.6]}, "sum 1"),
        ({"weights": [-0.1, 1.1]}, "sum 1"),
        ({"weights": [1.0]}, "one per rare component"),
        ({"weights": [0.5, 0.5], "q": 1.0}, "q is 1"),
        ({"weights": [0.5, 0.5], "p": 0.5}, "p is 0.5"),
        ({"weights": [0.5, 0.5], "competitors": -1}, "-1 shared"),
        ({"weights": [0.5, 0.5], "competitors": 14}, "at most 14"),
    ],
)
def test_a_population_that_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        population(**arguments)


# Toy A: thresholds


@pytest.mark.parametrize(
    ("mu", "competing", "alone"), [(0.01, 0.05428, 0.0204), (0.02, 0.10412, 0.0408), (0.05, 0.23191, 0.1020)]
)
def test_the_threshold_is_the_closed_form_and_bisection_finds_it(mu, competing, alone):
    found = threshold(0.9, 0.99, mu)
    assert found.competing == pytest.approx(competing, abs=5e-6)
    assert found.alone == pytest.approx(alone, abs=5e-5)
    assert threshold_by_bisection(0.9, 0.99, mu) == pytest.approx(competing, abs=5e-6)
    assert threshold_by_bisection(0.9, 0.99, mu, competitors=0) == pytest.approx(alone, abs=5e-5)


def test_a_competitor_raises_the_threshold_by_the_saturation_factor():
    assert threshold(0.9, 0.99, 0.02).saturation == pytest.approx(1 / (4 * 0.9 * 0.1 + 2 * 0.02 * 0.8))
    assert threshold(0.9, 0.99, 0.02).saturation == pytest.approx(2.6, abs=0.05)


@pytest.mark.parametrize(
    ("competitors", "weight", "shared", "gap"),
    [(0, 0.0408, 0.5, 0.49), (1, 0.1041, 0.9, 0.09), (2, 0.1579, 0.9, 0.09), (3, 0.2444, 0.972, 0.018),
     (4, 0.3211, 0.972, 0.018)],
)  # fmt: skip
def test_more_competitors_make_the_loss_likelier_and_cheaper(competitors, weight, shared, gap):
    assert threshold_by_bisection(0.9, 0.99, MU, competitors) == pytest.approx(weight, abs=5e-5)
    just_below = population([1 - weight + 1e-3, weight - 1e-3], competitors=competitors)
    found = accuracies(just_below, 1, MU)
    assert found.transfer == pytest.approx(shared, abs=1e-9)
    assert found.direct == pytest.approx(0.99, abs=1e-9)
    assert found.gap == pytest.approx(gap, abs=1e-9)


def test_with_three_competitors_a_probe_on_the_direct_features_beats_the_private_feature_alone():
    # All three s together outvote r: wrong if they all are, or if r is wrong and not all of them are right.
    found = accuracies(population([0.9, 0.1], competitors=3), 1, MU)
    assert found.direct_probe == pytest.approx(0.99 * (1 - 0.1**3) + 0.01 * 0.9**3)
    assert found.direct == pytest.approx(0.99)


@settings(max_examples=15)
@given(rates, rates, penalties)
def test_bisection_agrees_with_the_closed_form_everywhere(q, p, mu):
    found = threshold(q, p, mu)
    if found.competing > 1:
        with pytest.raises(ValueError, match="at every weight"):
            threshold_by_bisection(q, p, mu)
    else:
        assert threshold_by_bisection(q, p, mu) == pytest.approx(found.competing, abs=3e-5)


@given(rates, rates, penalties)
def test_a_competitor_never_lowers_the_threshold(q, p, mu):
    found = threshold(q, p, mu)
    assert found.competing >= found.alone * (1 - 1e-12)


def test_a_shared_feature_too_weak_for_the_weight_decay_does_not_compete():
    assert threshold(0.55, 0.99, 0.06).saturation == 1
    assert not retained(solve(rare(0.0, q=0.55), 0.06))[0]


def test_without_weight_decay_there_is_no_threshold():
    with pytest.raises(ValueError, match="mu is 0"):
        threshold(0.9, 0.99, 0.0)


# Toy A: the minimum


@settings(max_examples=25)
@given(weights, rates, rates, penalties, st.integers(0, 3))
def test_no_direction_leads_down_from_the_solution(weight, q, p, mu, competitors):
    shown = population([1 - weight, weight], q=q, p=p, competitors=competitors)
    w = solve(shown, mu)
    margin = shown.label * (shown.features @ w)
    gradient = -(shown.probability / (1 + np.exp(margin)) * shown.label) @ shown.features
    kept = w != 0
    assert gradient[kept] == pytest.approx(-mu * np.sign(w[kept]), abs=1e-11)
    assert (np.abs(gradient[~kept]) <= mu + 1e-11).all()


@pytest.mark.parametrize("weight", [0.05, 0.15, 0.6])
def test_scikit_learn_finds_the_same_weights(weight):
    shown = population([1 - weight, weight], competitors=2)
    scale = 1e4  # C is the inverse of mu relative to a sum over examples
    model = LogisticRegression(
        C=1 / MU / scale, l1_ratio=1.0, solver="liblinear", fit_intercept=False, tol=1e-9, random_state=0
    )
    model.fit(shown.features, shown.label, sample_weight=shown.probability * scale)
    assert solve(shown, MU) == pytest.approx(model.coef_[0], abs=1e-4)


@settings(max_examples=15)
@given(rates, rates, st.integers(0, 3))
def test_without_a_penalty_the_weights_are_the_log_odds_of_the_features(q, p, competitors):
    # Given the label the features are independent, so logistic regression is naive Bayes.
    target = population([0.5, 0.5], q=q, p=p, competitors=competitors).only(1)
    half_log_odds = [math.log(a / (1 - a)) for a in [q] * competitors + [p]]
    assert solve(target, 0.0) == pytest.approx(half_log_odds, abs=1e-9)


@pytest.mark.parametrize(("weight", "transfer"), [(0.0, 0.9), (0.05, 0.9), (0.104, 0.9), (0.1045, 0.99), (0.5, 0.99)])
def test_the_gap_is_nine_points_below_the_threshold_and_none_above(weight, transfer):
    found = accuracies(rare(weight), 1, MU)
    assert found.transfer == pytest.approx(transfer, abs=1e-12)
    assert (found.direct, found.direct_probe) == pytest.approx((0.99, 0.99), abs=1e-12)
    assert found.gap == pytest.approx(0.99 - transfer, abs=1e-12)


@pytest.mark.parametrize(("num_components", "private"), [(8, 0.041), (9, 0.014), (10, 0.0)])
def test_equal_components_lose_their_private_features_once_there_are_ten(num_components, private):
    mixture = diluted(num_components)
    w = solve(mixture, MU)
    assert w[1:] == pytest.approx([private] * num_components, abs=5e-4)
    assert (w[1:] == 0).all() == (num_components == 10)
    target = mixture.only(num_components)
    gap = accuracy(solve(target, MU), target) - probe_accuracy(target, retained(w))
    assert gap == pytest.approx(0.09 if num_components == 10 else 0, abs=1e-12)


def test_a_negative_penalty_is_refused():
    with pytest.raises(ValueError, match="mu is -1"):
        solve(rare(0.5), -1.0)


# Gradient descent


@pytest.mark.parametrize(("weight", "private"), [(0.10, 0.0), (0.11, 0.011), (0.12, 0.029), (0.20, 0.176)])
def test_gradient_descent_ends_where_the_convex_problem_has_its_minimum(weight, private):
    shown = rare(weight)
    found = descend([(shown, 20_000)], 0.01)
    assert found.w[1] == pytest.approx(private, abs=5e-4)
    assert found.w == pytest.approx(solve(shown, MU), abs=1e-6)


@pytest.mark.parametrize("weight", [0.05, 0.2])
def test_concatenating_seeds_gains_exactly_nothing(weight):
    shown = rare(weight)
    starts = np.random.default_rng(0).normal(0, 0.3, (4, 2, 2))
    members = [gradient_descent(u, v, [(shown, 4000)], learning_rate=0.5, mu=MU).w for u, v in starts]
    for w in members:
        assert w == pytest.approx(solve(shown, MU), abs=1e-6)
    assert cat_gain(members, shown.only(1)) == 0.0


def test_concatenating_networks_that_retain_different_features_gains_what_these_are_worth_together():
    target = population([0.5, 0.5], competitors=3).only(1)
    members = [np.array([1.0, 0, 0, 0]), np.array([0, 1.0, 1.0, 0])]
    assert cat_gain(members, target) == pytest.approx(0.972 - 0.9)


def test_one_step_is_the_one_worked_out_by_hand():
    # at w = 0 every error is 1/2, so the signal is (E[y s] / 2, E[y r] / 2) = (0.4, 0.2 * 0.98 / 2)
    found = gradient_descent([0.0, 0.1], [0.5, 0.0], [(rare(0.2), 1)], learning_rate=0.5, mu=0.1)
    assert found.u == pytest.approx([0.5 * 0.4 * 0.5, 0.1 - 0.5 * 0.1 * 0.1])
    assert found.v == pytest.approx([0.5 - 0.5 * 0.1 * 0.5, 0.5 * 0.098 * 0.1])
    assert found.trajectory.shape == (2, 2)
    assert (found.trajectory[0] == 0).all()
    assert (found.w == found.u * found.v).all()


def test_the_origin_is_a_saddle_that_gradient_descent_never_leaves():
    assert (descend([(rare(0.5), 50)], 0.0).trajectory == 0).all()


def test_a_learning_rate_that_is_too_large_is_refused():
    with pytest.raises(ValueError, match="diverged"):
        gradient_descent([1.0, 1.0], [1.0, 1.0], [(rare(0.5), 3000)], learning_rate=10.0, mu=1.0)


# Toy B


@pytest.mark.parametrize(("length", "private"), [(0, 0.0841), (200, 0.0838), (400, 0.0706), (800, 0.0001), (1200, 0.0)])
def test_a_feature_that_is_missing_for_long_enough_does_not_come_back_in_time(length, private):
    schedule = deficit(rare(0.15), 1, onset=0, length=length, steps=length + 1500)
    assert descend(schedule, 0.05).w[1] == pytest.approx(private, abs=5e-5)


@pytest.mark.parametrize("onset", [0, 200, 400, 800])
def test_the_onset_of_a_short_deficit_leaves_no_trace(onset):
    schedule = deficit(rare(0.15), 1, onset=onset, length=400, steps=3000)
    assert descend(schedule, 0.05).w[1] == pytest.approx(0.0841, abs=5e-5)


@pytest.mark.parametrize(
    ("ordering", "w"),
    [("shuffled", (1.985, 0.084)), ("rare_first", (1.992, 0.0)), ("background_first", (0.878, 2.952))],
)
def test_the_last_component_decides_what_is_retained(ordering, w):
    assert descend(ordered(rare(0.15), ordering, 2000), 0.05).w == pytest.approx(w, abs=5e-4)


@settings(max_examples=20)
@given(st.lists(weights, min_size=2, max_size=4).filter(sum), st.integers(0, 500))
def test_every_ordering_shows_each_component_as_often(shares, steps):
    mixture = population(np.array(shares) / sum(shares))
    for ordering in ORDERINGS:
        schedule = ordered(mixture, ordering, steps)
        assert sum(length for _, length in schedule) == steps
        shown = sum(one.weights * length for one, length in schedule)
        assert shown == pytest.approx(mixture.weights * steps, abs=1)


def test_an_unknown_ordering_error_lists_the_known_ones():
    with pytest.raises(ValueError, match="rare_first"):
        ordered(rare(0.15), "sorted", 10)


def test_a_deficit_that_outlasts_the_run_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        deficit(rare(0.15), 1, onset=50, length=60, steps=100)


def test_the_toy_needs_numpy_and_nothing_heavier():
    code = "import sys, trainables.toy; print([m for m in ('torch', 'scipy', 'pandas', 'ray') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
