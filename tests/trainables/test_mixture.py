"""Weights to exact counts."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import component, weights

from trainables.mixture import apportion, mixture_of, shares_of


@given(weights(), st.integers(0, 100_000))
def test_apportioned_counts_add_up_and_are_within_one_of_the_exact_share(mixture, total):
    counts = apportion(mixture, total)
    assert sum(counts.values()) == total
    for name, share in shares_of(mixture).items():
        assert abs(counts[name] - share * total) < 1


@given(weights(), st.integers(0, 10_000))
def test_doubling_every_weight_changes_nothing(mixture, total):
    assert apportion({n: 2 * w for n, w in mixture.items()}, total) == apportion(mixture, total)


@given(weights(), st.integers(0, 10_000))
def test_a_component_of_weight_zero_gets_nothing(mixture, total):
    counts = apportion(mixture, total)
    assert all(counts[name] == 0 for name, weight in mixture.items() if weight == 0)


def test_thirds_of_a_hundred_go_by_largest_remainder_and_ties_to_the_first_named():
    assert apportion({"a": 1, "b": 1, "c": 1}, 100) == {"a": 34, "b": 33, "c": 33}
    assert apportion({"a": 0.55, "b": 0.35, "c": 0.1}, 10) == {"a": 6, "b": 3, "c": 1}


@given(st.lists(st.floats(0, 1e300, exclude_min=True), min_size=1, max_size=4))
def test_shares_are_exactly_those_of_the_shortest_decimals(values):
    exact = [Fraction(repr(value)) for value in values]
    assert [*shares_of(dict(enumerate(values))).values()] == [value / sum(exact) for value in exact]


def test_decimal_weights_mean_what_they_say():
    assert apportion({"a": 0.1, "b": 0.2, "c": 0.7}, 10) == {"a": 1, "b": 2, "c": 7}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"a": -0.5}, "'a' has weight -0.5"),
        ({"a": math.nan}, "'a' has weight nan"),
        ({"a": math.inf, "b": 1}, "'a' has weight inf"),
        ({"a": 0, "b": 0}, "every weight is 0"),
        ({}, "every weight is 0"),
    ],
)
def test_impossible_weights_are_named(bad, message):
    with pytest.raises(ValueError, match=message):
        apportion(bad, 10)


COMPONENTS = {"a": component("a", 100), "b": component("b", 40)}


def _mixture(weights, **options):
    given = {"num_examples": 1000, "train_examples": None, "label_space": "joint", **options}
    return mixture_of(weights, COMPONENTS, **given)


def test_a_mixture_does_not_depend_on_the_order_or_scale_of_its_weights():
    assert _mixture({"a": 1, "b": 3}) == _mixture({"b": 6, "a": 2})
    assert _mixture({"a": 1, "b": 3}).digest == _mixture({"b": 6, "a": 2}).digest


def test_a_component_without_weight_leaves_no_trace_in_a_mixture():
    assert _mixture({"a": 1, "b": 0}).digest == _mixture({"a": 1}).digest
    assert _mixture({"a": 1, "b": 0}).num_classes == 3


def test_distinct_examples_are_shared_out_by_weight_up_to_what_a_component_has():
    shares = {s.component.content: s for s in _mixture({"a": 1, "b": 1}, train_examples=120).shares}
    assert (shares["a"].pool, shares["b"].pool) == (60, 40)
    assert (shares["a"].shown, shares["b"].shown) == (500, 500)


def test_a_joint_head_holds_every_component_and_a_shared_one_the_largest():
    joint, shared = _mixture({"a": 1, "b": 1}), _mixture({"a": 1, "b": 1}, label_space="shared")
    assert (joint.num_classes, joint.label_offsets) == (6, (0, 3))
    assert (shared.num_classes, shared.label_offsets) == (3, (0, 0))
    assert joint.digest != shared.digest


def test_a_weight_too_small_to_be_shown_once_is_an_error():
    with pytest.raises(ValueError, match=r"'b' has weight 1e-06, less than one example"):
        _mixture({"a": 1, "b": 1e-6})
