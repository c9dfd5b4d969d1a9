"""Which example comes when? The index stream: the whole sequence of examples that a pretraining run is shown.

Two independent draws. What is shown: each component's examples are drawn from its pool, pass after pass, from a seed
that knows neither the ordering nor the other components. When it is shown: every drawn example gets an arrival time,
and the stream is sorted by it. So all orderings of one mixture and seed show the same multiset of examples, and an
ordering is nothing but a function that returns times. A new one is a function in ORDERINGS.

Streams are the same on every platform and numpy release: they use raw 64-bit draws (whose sequence numpy guarantees),
sorting, and arithmetic that IEEE 754 rounds one way.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainables import plugins
from trainables.draws import permutation, uniform
from trainables.spec import Mixture, Ordering, Share, derive_seed

Indices = NDArray[np.int64]
Times = NDArray[np.float64]


@dataclass(frozen=True)
class Stream:
    """The examples of one run in order. (N,) each: position of the component in the mixture, index of the example."""

    component: NDArray[np.int16]
    example: Indices

    def __len__(self) -> int:
        return len(self.component)


@dataclass(frozen=True)
class Arrivals:
    """What an ordering sees of one component."""

    content: str  # the component's name in an Ordering
    position: int  # its place in the mixture
    num_examples: int
    uniform: Times  # (N,) in [0, 1), independent draws
    difficulty: Times  # (N,) rank of the shown example among the shown, in [0, 1); only for `curriculum`


def index_stream(
    mixture: Mixture,
    ordering: Ordering,
    seed: int,
    difficulties: Sequence[NDArray[np.floating]] | None = None,
    pool_seed: int | None = None,
) -> Stream:
    """The whole sequence of examples of a run, `mixture.num_examples` long.

    Args:
        mixture: how many examples of each component, out of how many.
        ordering: when they come.
        seed: the replicate's; draws and times have streams of their own.
        difficulties: for `curriculum`, per component of the mixture (num_train,), larger is harder.
        pool_seed: decides which examples are in the pools; None: `seed`.

    Raises:
        ValueError: the ordering does not know a component of the mixture, or difficulties are missing.
    """
    examples, times = [], []
    arrive = _arrive(ordering)
    for position, share in enumerate(mixture.shares):
        content = share.component.content
        drawn = draw(share, seed, seed if pool_seed is None else pool_seed)
        drawn_times = uniform(derive_seed(seed, "arrival", content), share.shown)
        if ordering.kind == "curriculum":
            if difficulties is None:
                raise ValueError("the ordering `curriculum` needs the difficulty of every example")
            difficulty = _ranks(np.asarray(difficulties[position])[drawn], drawn_times)
        else:
            difficulty = drawn_times
        arrivals = Arrivals(content, position, share.shown, drawn_times, difficulty)
        examples.append(drawn)
        times.append(arrive(ordering, arrivals))
    if not examples:
        return Stream(np.zeros(0, np.int16), np.zeros(0, np.int64))
    component = np.repeat(np.arange(len(examples), dtype=np.int16), [len(e) for e in examples])
    order = np.argsort(np.concatenate(times), kind="stable")
    return Stream(component[order], np.concatenate(examples)[order])


def _arrive(ordering: Ordering) -> Callable[[Ordering, Arrivals], Times]:
    """The function that gives arrival times."""
    return functools.partial(_of_code, _code(ordering)) if plugins.is_code(ordering.kind) else ORDERINGS[ordering.kind]


def _code(ordering: Ordering) -> Callable[..., object]:
    if ordering.code:
        plugins.require_same_code("ordering", ordering.kind, ordering.code)
    return plugins.load("ordering", ordering.kind)  # type: ignore[no-any-return]


def _of_code(function: Callable[..., object], ordering: Ordering, arrivals: Arrivals) -> Times:
    """What code of the user's returns as times. Raises PluginError if it raises, or returns something else."""
    try:
        times = np.array(function(ordering, arrivals), np.float64)
    except Exception as error:  # the code is not ours and may raise anything
        raise plugins.PluginError(f"{ordering.kind}: {plugins.said(error)}") from error
    if times.shape != (arrivals.num_examples,) or not ((times >= 0) & (times <= 1)).all():
        within = f" from {times.min():g} to {times.max():g}" if times.size else ""
        raise plugins.PluginError(
            f"{ordering.kind} returned times of shape {times.shape}{within}; expected one in [0, 1] for each of "
            f"{arrivals.num_examples} examples"
        )
    return times


def draw(share: Share, seed: int, pool_seed: int) -> Indices:
    """(shown,) indices of the component's training examples, in the order of their draw.

    The pool is the first `pool` of one permutation that `pool_seed` gives, so a smaller pool is a part of every larger
    one. The first pass goes through it in an order of the seed's own, as far as `distinct`; every further pass shows
    the same examples in a new order. Each is shown `shown // distinct` times or once more.
    """
    component, content = share.component, share.component.content
    pool = permutation(derive_seed(pool_seed, "pool", content), component.num_train)[: share.pool]
    drawn = pool[permutation(derive_seed(seed, "pass", content, "0"), share.pool)][: share.distinct]
    orders = [np.arange(share.distinct)]
    for number in range(1, -(-share.shown // share.distinct)):
        orders.append(permutation(derive_seed(seed, "pass", content, str(number)), share.distinct))
    return drawn[np.concatenate(orders)[: share.shown]]


# Orderings: each returns the (N,) arrival times of one component's examples ---------------------------------------


def shuffled(ordering: Ordering, arrivals: Arrivals) -> Times:
    """At any time, independently."""
    return arrivals.uniform


def sequential(ordering: Ordering, arrivals: Arrivals) -> Times:
    """One component after the other."""
    return _place(ordering.sequence, arrivals) + arrivals.uniform


def blocked(ordering: Ordering, arrivals: Arrivals) -> Times:
    """The sequence of components again and again: `repeats` blocks of each, equal to within one example."""
    place = _place(ordering.sequence, arrivals)
    block = np.arange(arrivals.num_examples) * ordering.repeats // arrivals.num_examples
    return block * len(ordering.sequence) + place + arrivals.uniform


def annealed(ordering: Ordering, arrivals: Arrivals) -> Times:
    """A component's rate moves in a straight line from its weight at the start to its weight at the end.

    Density a + (b - a) t with a and b the weights at the start and the end, so its distribution function is
    (a t + (b - a) t² / 2) / ((a + b) / 2), inverted here at a uniform draw. A component in neither list keeps a
    constant rate. How many examples of it come is the mixture's business.
    """
    start, end = dict(ordering.start), dict(ordering.end)
    a = start.get(arrivals.content, 0.0) / (sum(start.values()) or 1.0)
    b = end.get(arrivals.content, 0.0) / (sum(end.values()) or 1.0)
    if a == b:
        return arrivals.uniform
    # The root of (b - a) t² / 2 + a t - u (a + b) / 2 = 0 in the form that does not cancel.
    u = np.maximum(arrivals.uniform, 2.0**-54)  # with a = 0 the formula is 0 / 0 at u = 0
    times: Times = u * (a + b) / (a + np.sqrt(a * a + (b - a) * (a + b) * u))
    return times


def curriculum(ordering: Ordering, arrivals: Arrivals) -> Times:
    """By difficulty within each component, the components side by side at constant rates."""
    return arrivals.difficulty if ordering.easy_first else 1.0 - arrivals.difficulty


def withheld(ordering: Ordering, arrivals: Arrivals) -> Times:
    """One component is absent from a window of the run; its examples come at a constant rate outside of it."""
    if arrivals.content != ordering.component:
        return arrivals.uniform
    begin, until = ordering.window
    times = arrivals.uniform * (1.0 - (until - begin))
    return np.where(times < begin, times, times + (until - begin))


ORDERINGS: Mapping[str, Callable[[Ordering, Arrivals], Times]] = {
    "shuffled": shuffled,
    "sequential": sequential,
    "blocked": blocked,
    "annealed": annealed,
    "curriculum": curriculum,
    "withheld": withheld,
}


def _place(sequence: tuple[str, ...], arrivals: Arrivals) -> int:
    if arrivals.content not in sequence:
        raise ValueError(f"the ordering's sequence of {len(sequence)} components lacks one that has weight")
    return sequence.index(arrivals.content)


def _ranks(values: NDArray[np.floating], ties: Times) -> Times:
    """(N,) rank of each value divided by N; equal values in the order of `ties`."""
    order = np.lexsort((ties, values))
    ranks = np.empty(len(values), np.float64)
    ranks[order] = np.arange(len(values))
    shares: Times = ranks / max(len(values), 1)
    return shares
