"""Which mixtures lie within bounds on their shares and on sums of shares, and how does a search walk among them?

All in whole multiples of 1/resolution, so that shares are exact fractions, zero and one among them. The sums nest, so
they make a tree: a total is split among the parts of the tree, and what a part is given among its own parts. The ways
of every split are counted, and that gives the rest: how many mixtures there are, a list of them, and coordinates from 0
to 1 of which uniform draws make every mixture equally likely, whatever the bounds. Nothing is drawn and thrown away.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

Bounds = tuple[int, int]  # lowest and highest, both included

MAX_CORNERS = 12  # of a region, that a search tries before anything else
MAX_COUNTED = 2**50  # mixtures that coordinates can tell apart, which are floats


class Region:
    """The mixtures within bounds, as multiples that sum to `resolution`. There may be none."""

    def __init__(
        self, resolution: int, bounds: Mapping[str, Bounds], sums: Sequence[tuple[frozenset[str], Bounds]] = ()
    ) -> None:
        """
        Args:
            resolution: what the multiples of every mixture sum to.
            bounds: of the share of each component.
            sums: groups of components with the bounds of their summed share; any two groups are apart, or one is inside
                the other.
        """
        self.resolution, self.names = resolution, tuple(bounds)
        parts = [_Part(low, high, (name,)) for name, (low, high) in bounds.items()]
        for members, (low, high) in sorted(sums, key=lambda group: len(group[0])):
            inside = tuple(part for part in parts if members.issuperset(part.names))
            names = tuple(name for part in inside for name in part.names)
            assert len(names) == len(members), "sums that overlap were refused"
            parts = [*(part for part in parts if part not in inside), _Part(low, high, names, inside)]
        self._loose = _Part(resolution, resolution, self.names, tuple(parts))
        self._tree = _tightened(self._loose, {})

    @cached_property
    def size(self) -> int:
        """How many mixtures there are, counted without making them."""
        return self._tree.ways[self.resolution] if self._tree else 0

    @cached_property
    def coordinates(self) -> tuple[str, ...]:
        """A name for each coordinate, after the component or the sum whose share it decides."""
        return tuple(part.name for part in _undecided(self._tree)) if self._tree else ()

    @cached_property
    def support(self) -> frozenset[str]:
        """The components that have weight in at least one of the mixtures."""
        return frozenset(part.name for part in _leaves(self._tree) if part.high > 0) if self._tree else frozenset()

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        """(K,) multiples of every mixture, in lexicographic order."""
        return iter(sorted(map(self._ordered, _splits(self._tree, self.resolution)))) if self._tree else iter(())

    def at(self, coordinates: Mapping[str, float]) -> tuple[int, ...]:
        """(K,) multiples of the mixture at coordinates in [0, 1]. Low coordinates are high shares."""

        def choose(part: _Part, options: _Options) -> int:
            target, passed = coordinates[part.name] * sum(ways for _, ways in options), 0
            for share, ways in options:
                passed += ways
                if target < passed:
                    return share
            return options[-1][0]  # at 1

        return self._ordered(_split(self._root, self.resolution, choose))

    def locate(self, multiples: Sequence[int]) -> dict[str, float]:
        """The coordinates of a mixture of the region: the middle of those that `at` takes to it."""
        shares, found = dict(zip(self.names, multiples, strict=True)), {}

        def choose(part: _Part, options: _Options) -> int:
            wanted = sum(shares[name] for name in part.names)
            above = sum(ways for share, ways in options if share > wanted)
            here = sum(ways for share, ways in options if share == wanted)
            found[part.name] = (above + here / 2) / sum(ways for _, ways in options)
            return wanted

        _split(self._root, self.resolution, choose)
        return found

    def nearest(self, shares: Sequence[float]) -> tuple[int, ...] | None:
        """(K,) multiples of a mixture by largest remainder; None if its shares lie outside of the bounds."""
        exact = {name: share * self.resolution for name, share in zip(self.names, shares, strict=True)}
        found = _rounded(self._root, self.resolution, exact)
        excluded = [part.name for part in _leaves(self._root) if part.high == 0]
        if any(abs(exact[name] - found[name]) >= 1 for name in found) or any(exact[name] > 1e-9 for name in excluded):
            return None
        return self._ordered(found)

    def centroid(self) -> tuple[int, ...]:
        """(K,) multiples of the mixture next to the mean of all."""
        totals = _totals(self._root)
        exact = {name: totals[name][self.resolution] / self.size for name in self.names}
        return self._ordered(_rounded(self._root, self.resolution, exact))

    def corners(self, limit: int) -> list[tuple[int, ...]]:
        """(K,) multiples of every vertex, those of the first components first; none if there are more than `limit`.

        What may be moved from one share to another is bounded by nested sums alone, so that the mixtures are the whole
        points of a base polyhedron, and giving component after component all that it may have, in any order, leads to
        all of its vertices and to nothing else.

        Source: the greedy algorithm of Edmonds (1970), "Submodular functions, matroids, and certain polyhedra".
        """
        found: dict[tuple[int, ...], None] = {}
        seen: set[frozenset[tuple[str, int]]] = set()
        orders: list[dict[str, int]] = [{}]
        while orders and len(found) <= limit:
            given = orders.pop()
            tree = _tightened(self._loose, {name: (share, share) for name, share in given.items()})
            assert tree, "what a part may be given was possible"
            leaves = list(_leaves(tree))
            fixed = {part.name: part.low for part in leaves if part.low == part.high}
            if len(fixed) == len(leaves):
                found[self._ordered(fixed)] = None
            elif frozenset(fixed.items()) not in seen:
                seen.add(frozenset(fixed.items()))
                open_ = {part.name: part.high for part in leaves if part.low < part.high}
                orders += [{**fixed, name: open_[name]} for name in reversed(self.names) if name in open_]
        return list(found) if len(found) <= limit else []

    @property
    def _root(self) -> _Part:
        assert self._tree, "an empty region has no mixture"
        return self._tree

    def _ordered(self, shares: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(shares[name] for name in self.names)


# The tree of sums -----------------------------------------------------------------------------------------------------

_Options = list[tuple[int, int]]  # what a part may be given, highest first, and in how many ways the rest then follows


@dataclass(frozen=True)
class _Part:
    """A component, or a sum with its parts."""

    low: int
    high: int
    names: tuple[str, ...]
    parts: tuple[_Part, ...] = ()

    @property
    def name(self) -> str:
        return "+".join(self.names)

    @cached_property
    def ways(self) -> list[int]:
        """By what the part is given, up to its highest, in how many ways it can be split."""
        whole = self.rests[0] if self.parts else [1] * (self.high + 1)
        return [ways if given >= self.low else 0 for given, ways in enumerate(whole)]

    @cached_property
    def rests(self) -> list[list[int]]:
        """For each part and for none, by what is left for it and those after it, in how many ways that can be split."""
        rests = [[1] + [0] * self.high]
        for part in reversed(self.parts):
            rests.append(_added(part, rests[-1]))
        return rests[::-1]

    def options(self, index: int, left: int) -> _Options:
        """What a part of this part may be given of what is left."""
        part, rest = self.parts[index], self.rests[index + 1]
        possible = range(min(part.high, left), part.low - 1, -1)
        return [(given, ways) for given in possible if (ways := part.ways[given] * rest[left - given])]


def _added(part: _Part, rest: Sequence[int]) -> list[int]:
    """The ways of a part together with those of the parts after it."""
    if not part.parts:  # each way once, so that sums of a window do
        upto = [0, *itertools.accumulate(rest)]
        return [upto[max(t - part.low + 1, 0)] - upto[max(t - part.high, 0)] for t in range(len(rest))]
    found = [0] * len(rest)
    for given, ways in enumerate(part.ways):
        if ways:
            for left in range(len(rest) - given):
                found[given + left] += ways * rest[left]
    return found


def _tightened(tree: _Part, fixed: Mapping[str, Bounds]) -> _Part | None:
    """The tree with these bounds of components, each bound then as tight as all others make it; None if it is empty.

    Parts that have no choice come first, so that the last part of a sum is one that takes what is left.
    """
    shrunk = _shrunk(tree, fixed)
    return _spread(shrunk, shrunk.low, shrunk.high) if shrunk else None


def _shrunk(part: _Part, fixed: Mapping[str, Bounds]) -> _Part | None:
    """Upwards: a sum has no more than its parts may have, and no less than they must."""
    parts = []
    for inner in part.parts:
        shrunk = _shrunk(inner, fixed)
        if shrunk is None:
            return None
        parts.append(shrunk)
    low, high = fixed.get(part.name, (part.low, part.high))
    if parts:
        low, high = max(low, sum(p.low for p in parts)), min(high, sum(p.high for p in parts))
    return replace(part, low=low, high=high, parts=tuple(parts)) if low <= high else None


def _spread(part: _Part, low: int, high: int) -> _Part:
    """Downwards: a part has no more than the others leave, and no less than they cannot take."""
    least, most = sum(p.low for p in part.parts), sum(p.high for p in part.parts)
    parts = [_spread(p, max(p.low, low - (most - p.high)), min(p.high, high - (least - p.low))) for p in part.parts]
    return replace(part, low=low, high=high, parts=tuple(sorted(parts, key=lambda p: p.low < p.high)))


def _leaves(part: _Part) -> Iterator[_Part]:
    if not part.parts:
        yield part
    for inner in part.parts:
        yield from _leaves(inner)


def _undecided(part: _Part) -> Iterator[_Part]:
    """The parts whose share is a choice: not those that are fixed, and not the last of a sum."""
    for inner in part.parts:
        if inner.low < inner.high and inner is not part.parts[-1]:
            yield inner
        yield from _undecided(inner)


def _split(part: _Part, given: int, choose: Callable[[_Part, _Options], int]) -> dict[str, int]:
    """What each component is given where `choose` decides for every part that has a choice."""
    if not part.parts:
        return {part.name: given}
    shares: dict[str, int] = {}
    for index, inner in enumerate(part.parts):
        options = part.options(index, given)
        decided = inner.low == inner.high or index == len(part.parts) - 1
        chosen = options[0][0] if decided else choose(inner, options)
        shares |= _split(inner, chosen, choose)
        given -= chosen
    return shares


def _splits(part: _Part, given: int) -> Iterator[dict[str, int]]:
    """Every way to split what a part is given."""
    if not part.parts:
        yield {part.name: given}
        return

    def among(index: int, left: int) -> Iterator[dict[str, int]]:
        if index == len(part.parts):
            yield {}
            return
        for chosen, _ in part.options(index, left):
            for shares in _splits(part.parts[index], chosen):
                for others in among(index + 1, left - chosen):
                    yield shares | others

    yield from among(0, given)


def _rounded(part: _Part, given: int, exact: Mapping[str, float]) -> dict[str, int]:
    """Whole shares next to exact ones, by largest remainder among those that have room."""
    if not part.parts:
        return {part.name: given}
    wanted = [sum(exact[name] for name in inner.names) for inner in part.parts]
    shares = [min(max(int(w), inner.low), inner.high) for w, inner in zip(wanted, part.parts, strict=True)]
    while (missing := given - sum(shares)) != 0:
        step = 1 if missing > 0 else -1
        room = [i for i, p in enumerate(part.parts) if (shares[i] < p.high if step > 0 else shares[i] > p.low)]
        shares[max(room, key=lambda i: step * (wanted[i] - shares[i]))] += step
    found: dict[str, int] = {}
    for inner, share in zip(part.parts, shares, strict=True):
        found |= _rounded(inner, share, exact)
    return found


def _totals(part: _Part) -> dict[str, list[int]]:
    """By component and by what the part is given, the sum of the component's share over all ways to split it."""
    if not part.parts:
        return {part.name: [given * ways for given, ways in enumerate(part.ways)]}
    found = {}
    for inner in part.parts:
        others = [1] + [0] * part.high
        for other in part.parts:
            if other is not inner:
                others = _added(other, others)
        for name, totals in _totals(inner).items():
            sums = [0] * (part.high + 1)
            for share, total in enumerate(totals):
                if total:
                    for left in range(part.high + 1 - share):
                        sums[share + left] += total * others[left]
            found[name] = [total if given >= part.low else 0 for given, total in enumerate(sums)]
    return found
