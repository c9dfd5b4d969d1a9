"""The index stream: what is shown, and when."""

import hashlib
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import component, mixtures, orderings

from trainables.mixture import mixture_of
from trainables.ordering import draw, index_stream
from trainables.spec import SHUFFLED, Ordering, Share

TWO = mixture_of(
    {"a": 3, "b": 1},
    {"a": component("a", 30), "b": component("b", 7)},
    num_examples=400,
    train_examples=None,
    label_space="joint",
)


def shown(stream):
    return Counter(zip(stream.component.tolist(), stream.example.tolist(), strict=True))


@given(st.data(), mixtures(), st.integers(0, 5))
@settings(max_examples=60)
def test_every_ordering_shows_the_same_multiset_of_examples(data, mixture, seed):
    ordering = data.draw(orderings(mixture))
    assert shown(index_stream(mixture, ordering, seed)) == shown(index_stream(mixture, SHUFFLED, seed))


@given(mixtures(), st.integers(0, 5))
@settings(max_examples=40)
def test_each_component_is_shown_exactly_its_count_and_only_from_its_pool(mixture, seed):
    stream = index_stream(mixture, SHUFFLED, seed)
    counts = np.bincount(stream.component, minlength=len(mixture.shares))
    assert counts.tolist() == [share.shown for share in mixture.shares]
    for position, share in enumerate(mixture.shares):
        examples = stream.example[stream.component == position]
        assert examples.min() >= 0
        assert examples.max() < share.component.num_train
        assert len(np.unique(examples)) == min(share.pool, share.shown)


def share(num_train, pool, shown, distinct=None):
    return Share(component=component("c", num_train), shown=shown, pool=pool, distinct=distinct or min(pool, shown))


@given(st.integers(1, 50), st.data())
def test_a_pool_is_shown_evenly_and_lies_inside_every_larger_pool(num_train, data):
    pool = data.draw(st.integers(1, num_train))
    times = Counter(draw(share(num_train, pool, data.draw(st.integers(1, 200))), 3, 3).tolist())
    assert max(times.values()) - min(times.values()) <= 1
    whole = set(draw(share(num_train, pool, pool), 3, 3).tolist())
    larger = set(draw(share(num_train, min(pool + 1, num_train), num_train), 3, 3).tolist())
    assert set(times) <= whole <= larger


@given(st.integers(1, 50), st.data())
def test_a_share_limited_to_what_another_drew_draws_the_same_examples(num_train, data):
    """So a baseline of `same_examples` sees what the mixture saw of its component, however long it trains."""
    pool = data.draw(st.integers(1, num_train))
    mixture = share(num_train, pool, data.draw(st.integers(1, 60)))
    baseline = share(num_train, pool, 300, mixture.distinct)
    assert set(draw(baseline, 5, 5).tolist()) == set(draw(mixture, 5, 5).tolist())


def test_seeds_that_share_a_pool_draw_from_the_same_examples_in_other_orders():
    one, other = (draw(share(50, 10, 10), seed, 7).tolist() for seed in (1, 2))
    assert sorted(one) == sorted(other)
    assert one != other
    assert sorted(draw(share(50, 10, 10), 1, 8).tolist()) != sorted(one)


def test_another_seed_gives_another_stream():
    assert index_stream(TWO, SHUFFLED, 0).example.tolist() != index_stream(TWO, SHUFFLED, 1).example.tolist()


def test_what_a_component_shows_does_not_depend_on_the_others():
    alone = mixture_of({"b": 1}, {"b": component("b", 7)}, num_examples=100, train_examples=None, label_space="joint")
    together = index_stream(TWO, SHUFFLED, 0)
    of_b = Counter(together.example[together.component == 1].tolist())
    assert of_b == Counter(index_stream(alone, SHUFFLED, 0).example.tolist())


def test_sequential_shows_one_component_after_the_other():
    stream = index_stream(TWO, Ordering(kind="sequential", sequence=("b", "a")), 0)
    assert stream.component.tolist() == [1] * 100 + [0] * 300


def test_blocked_repeats_equal_blocks():
    stream = index_stream(TWO, Ordering(kind="blocked", sequence=("a", "b"), repeats=2), 0)
    assert stream.component.tolist() == ([0] * 150 + [1] * 50) * 2


def test_annealed_moves_from_one_component_to_the_other_in_a_straight_line():
    half = mixture_of(
        {"a": 1, "b": 1},
        {"a": component("a"), "b": component("b")},
        num_examples=40_000,
        train_examples=None,
        label_space="joint",
    )
    stream = index_stream(half, Ordering(kind="annealed", start=(("a", 1.0),), end=(("b", 1.0),)), 0)
    share_of_b = stream.component.reshape(10, 4000).mean(axis=1)
    assert share_of_b == pytest.approx(np.arange(0.05, 1, 0.1), abs=0.03)  # the middle of each tenth


def test_curriculum_shows_easy_examples_first_and_hard_ones_first_when_asked():
    one = mixture_of({"a": 1}, {"a": component("a", 30)}, num_examples=30, train_examples=None, label_space="joint")
    difficulty = [np.arange(30)[::-1].astype(float)]  # example 29 is the easiest
    easy = index_stream(one, Ordering(kind="curriculum"), 0, difficulty)
    hard = index_stream(one, Ordering(kind="curriculum", easy_first=False), 0, difficulty)
    assert easy.example.tolist() == list(range(29, -1, -1))
    assert hard.example.tolist() == list(range(30))


def test_withheld_keeps_a_component_out_of_its_window():
    stream = index_stream(TWO, Ordering(kind="withheld", component="b", window=(0.25, 0.75)), 0)
    places = np.flatnonzero(stream.component == 1) / len(stream)
    before, after = places[places < 0.5], places[places >= 0.5]
    assert len(before) + len(after) == 100
    assert before.max() < 0.36  # of the stream: without b, time runs 300 examples to the unit, not 400
    assert after.min() > 0.64
    assert abs(len(before) - 50) < 20


def test_an_ordering_that_misses_a_component_is_an_error():
    with pytest.raises(ValueError, match="lacks one that has weight"):
        index_stream(TWO, Ordering(kind="sequential", sequence=("a",)), 0)


def test_an_empty_mixture_shows_nothing():
    from trainables.spec import Mixture

    assert len(index_stream(Mixture(shares=()), SHUFFLED, 0)) == 0


STREAM = """
import sys, hashlib
sys.path.insert(0, {tests!r})
from test_ordering import TWO
from trainables.ordering import index_stream
from trainables.spec import Ordering
s = index_stream(TWO, Ordering(kind="annealed", start=(("a", 1.0),), end=(("b", 2.0), ("a", 1.0))), 5)
print(hashlib.sha256(s.component.tobytes() + s.example.tobytes()).hexdigest())
"""


def test_streams_are_the_same_in_every_process_and_on_every_platform():
    """The digest was written down once; it may change only together with PRETRAIN_RECIPE."""
    stream = index_stream(TWO, Ordering(kind="annealed", start=(("a", 1.0),), end=(("b", 2.0), ("a", 1.0))), 5)
    here = hashlib.sha256(stream.component.tobytes() + stream.example.tobytes()).hexdigest()
    code = f"import sys; sys.path[:0] = {sys.path!r}\n" + STREAM.format(tests=__file__.rsplit("/", 1)[0])
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here
    assert here == "6cbef9663f556f1bf30963304aabc8cbab44009d2f93d5161ad075327ae23d07"
