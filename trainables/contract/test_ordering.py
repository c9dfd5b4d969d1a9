"""The contract of an ordering: it says when examples come, and changes nothing of which."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from trainables.contract.randomness import reseed, untouched
from trainables.mixture import mixture_of
from trainables.ordering import ORDERINGS, Stream, index_stream
from trainables.plugins import code, is_code, resolve
from trainables.spec import Component, Mixture, Ordering, Source


def component(name: str) -> Component:
    """A component that exists on paper only."""
    return Component(
        source=Source(dataset=name),
        content=name,
        num_classes=3,
        num_train=70,
        num_validation=5,
        num_test=5,
        image_shape=(1, 8, 8),
    )


def mixture(**weights: float) -> Mixture:
    known = {name: component(name) for name in weights}
    return mixture_of(weights, known, num_examples=500, train_examples=None, label_space="joint")


BOTH = {"clothes": 3.0, "digits": 1.0}
SETTINGS = {
    "blocked": {"repeats": 3},
    "annealed": {"start": (("clothes", 1.0),), "end": (("digits", 1.0),)},
    "withheld": {"component": "digits", "window": (0.2, 0.5)},
}  # of our own kinds, which need some


@pytest.fixture
def asked(ordering: str) -> Ordering:
    path = resolve("ordering", ordering, ORDERINGS)
    if is_code(path):
        return Ordering(kind=path, sequence=tuple(BOTH), code=code("ordering", path))
    sequence = tuple(BOTH) if path in ("sequential", "blocked") else ()
    return Ordering(kind=path, sequence=sequence, **SETTINGS.get(path, {}))  # type: ignore[arg-type]


def stream(asked: Ordering, seed: int = 0, **weights: float) -> Stream:
    shown = mixture(**(weights or BOTH))
    difficulties = [np.linspace(0, 1, share.component.num_train) for share in shown.shares]
    return index_stream(shown, asked, seed, difficulties)


def examples(found: Stream) -> list[tuple[int, int]]:
    return list(zip(found.component.tolist(), found.example.tolist(), strict=True))


def test_every_example_has_a_time_and_the_same_ones_come_as_in_any_order(asked: Ordering) -> None:
    assert Counter(examples(stream(asked))) == Counter(examples(stream(Ordering())))


def test_the_seed_alone_decides_the_order(asked: Ordering) -> None:
    first = examples(stream(asked))
    reseed(12345)
    assert examples(stream(asked)) == first
    assert examples(stream(asked, seed=1)) != first


def test_a_component_alone_can_be_ordered_too(asked: Ordering) -> None:
    assert Counter(examples(stream(asked, clothes=1.0))) == Counter(examples(stream(Ordering(), clothes=1.0)))


def test_it_leaves_the_global_generators_alone(asked: Ordering) -> None:
    with untouched():
        stream(asked)
