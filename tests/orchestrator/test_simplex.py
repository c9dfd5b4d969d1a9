"""The bounded simplex against its definition: every tuple of whole numbers with the right sum, looked at one by one."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.simplex import Region


@st.composite
def regions(draw, nonempty=True):
    """A region, and the mixtures that it has by definition."""
    names, resolution = "abcd"[: draw(st.integers(1, 4))], draw(st.integers(1, 6))
    interval = st.tuples(st.integers(0, resolution), st.integers(0, resolution)).map(sorted).map(tuple)
    bounds = {name: draw(st.one_of(st.just((0, resolution)), interval)) for name in names}
    sums = []
    if draw(st.booleans()):
        outer = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
        sums.append((frozenset(outer), draw(interval)))
        if draw(st.booleans()):
            sums.append((frozenset(outer[: draw(st.integers(1, len(outer)))]), draw(interval)))
    found = [
        multiples
        for multiples in itertools.product(range(resolution + 1), repeat=len(names))
        if sum(multiples) == resolution
        and all(low <= m <= high for m, (low, high) in zip(multiples, bounds.values(), strict=True))
        and all(
            low <= sum(m for name, m in zip(names, multiples, strict=True) if name in group) <= high
            for group, (low, high) in sums
        )
    ]
    region = Region(resolution, bounds, sums)
    return (region, found) if found or not nonempty else draw(regions())


@settings(max_examples=60)
@given(regions(nonempty=False))
def test_a_region_has_exactly_the_mixtures_within_its_bounds_and_sums(drawn):
    region, mixtures = drawn
    assert list(region) == mixtures
    assert region.size == len(mixtures)
    assert region.support == {name for i, name in enumerate(region.names) if any(m[i] for m in mixtures)}


@settings(max_examples=60)
@given(regions())
def test_every_mixture_has_coordinates_that_lead_back_to_it(drawn):
    region, mixtures = drawn
    for multiples in mixtures:
        coordinates = region.locate(multiples)
        assert set(coordinates) <= set(region.coordinates)
        assert all(0 <= value <= 1 for value in coordinates.values())
        assert region.at({**dict.fromkeys(region.coordinates, 0.5), **coordinates}) == multiples


@settings(max_examples=60)
@given(regions(), st.randoms(use_true_random=False))
def test_all_coordinates_lead_to_a_mixture_of_the_region(drawn, rng):
    region, mixtures = drawn
    ends = itertools.product((0.0, 1.0), repeat=len(region.coordinates))
    draws = [[rng.random() for _ in region.coordinates] for _ in range(10)]
    for values in (*ends, *draws):
        assert region.at(dict(zip(region.coordinates, values, strict=True))) in mixtures


def test_uniform_coordinates_give_every_mixture_equally_often_whatever_the_bounds():
    region = Region(6, {"a": (1, 6), "b": (0, 3), "c": (0, 6)}, [(frozenset("bc"), (1, 4))])
    uniform = random.Random(0).random
    counts = dict.fromkeys(region, 0)
    for _ in range(200 * region.size):
        counts[region.at({name: uniform() for name in region.coordinates})] += 1
    assert all(abs(count - 200) < 5 * math.sqrt(200) for count in counts.values())


def test_a_coordinate_orders_the_shares_of_its_component():
    region = Region(10, dict.fromkeys("ab", (0, 10)))
    assert region.coordinates == ("a",)
    assert [region.at({"a": value})[0] for value in (0.0, 0.05, 0.5, 0.95, 1.0)] == [10, 10, 5, 0, 0]


def test_what_has_no_choice_has_no_coordinate():
    assert Region(4, {"a": (0, 4)}).coordinates == ()
    assert Region(4, {"a": (0, 4), "b": (1, 1), "c": (0, 4), "d": (0, 0)}).coordinates == ("a",)
    assert Region(4, dict.fromkeys("abc", (0, 4)), [(frozenset("bc"), (2, 2))]).coordinates == ("b",)


@settings(max_examples=60)
@given(regions())
def test_the_corners_are_the_mixtures_that_are_no_middle_of_two_others(drawn):
    region, mixtures = drawn
    inside = set(mixtures)
    mirrored = {m: {tuple(2 * x - y for x, y in zip(m, n, strict=True)) for n in mixtures if n != m} for m in mixtures}
    assert set(region.corners(1000)) == {m for m in mixtures if not mirrored[m] & inside}


def test_a_region_with_more_corners_than_asked_for_gives_none():
    region = Region(2, dict.fromkeys("abcd", (0, 1)))
    assert len(region.corners(6)) == math.comb(4, 2)
    assert region.corners(5) == []


def test_the_corners_of_a_whole_simplex_are_its_components_in_order():
    assert Region(3, dict.fromkeys("abc", (0, 3))).corners(12) == [(3, 0, 0), (0, 3, 0), (0, 0, 3)]


@pytest.mark.parametrize(
    ("resolution", "bounds", "centroid"),
    [
        (21, dict.fromkeys("abc", (0, 21)), (7, 7, 7)),
        (20, dict.fromkeys("abc", (0, 20)), (7, 7, 6)),
        (60, {"a": (30, 60), "b": (0, 60), "c": (0, 60)}, (40, 10, 10)),  # of a triangle, a third of its corners
    ],
)
def test_the_centroid_is_the_mean_of_all_mixtures(resolution, bounds, centroid):
    assert Region(resolution, bounds).centroid() == centroid


@settings(max_examples=60)
@given(regions())
def test_the_centroid_lies_in_the_region_less_than_a_multiple_from_the_mean(drawn):
    region, mixtures = drawn
    means = [sum(shares) / len(mixtures) for shares in zip(*mixtures, strict=True)]
    assert region.centroid() in mixtures
    assert all(abs(m - mean) < 1.001 for m, mean in zip(region.centroid(), means, strict=True))


@settings(max_examples=60)
@given(regions())
def test_a_mixture_of_the_lattice_is_its_own_nearest_and_one_outside_has_none(drawn):
    region, mixtures = drawn
    for multiples in Region(region.resolution, dict.fromkeys(region.names, (0, region.resolution))):
        nearest = region.nearest([m / region.resolution for m in multiples])
        assert nearest == (multiples if multiples in mixtures else None)


def test_shares_between_the_lines_are_rounded_by_largest_remainder():
    region = Region(10, dict.fromkeys("abc", (0, 10)))
    assert region.nearest([0.1, 0.27, 0.63]) == (1, 3, 6)
    assert region.nearest([1 / 3, 1 / 3, 1 / 3]) == (4, 3, 3)
    assert Region(10, {"a": (0, 3), "b": (0, 10), "c": (0, 10)}).nearest([1 / 3, 1 / 3, 1 / 3]) == (3, 4, 3)


def test_a_fine_region_of_many_components_is_counted_at_once():
    region = Region(100, {f"c{i}": (0, 100) for i in range(9)})
    assert region.size == math.comb(108, 8)
    assert region.at(region.locate((0, 0, 1, 0, 99, 0, 0, 0, 0))) == (0, 0, 1, 0, 99, 0, 0, 0, 0)
