"""Which mixtures may a sweep ask for? The kinds that `vary.mixture` lists, and the shares that each one makes.

Every kind is a class in one visible table, found by the word that a sweep file uses for it; a new kind is one
class beside its siblings. How many examples a share comes to is `trainables/mixture.py`, and when they come is
`orderings.py`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, Field, model_validator

from orchestrator.model import (
    MAX_POINTS,
    Choose,
    Listed,
    Loc,
    Model,
    Name,
    Problem,
    SeedNumber,
    Share,
    Unkeyed,
    Weights,
    expect,
    impossible,
    listing,
    mapping,
    show,
)
from orchestrator.simplex import MAX_CORNERS, Region
from trainables.mixture import shares_of

Mixtures: TypeAlias = Iterator[tuple[float, ...]]  # (K,) shares

Alpha = Annotated[float, Field(ge=0.001, le=1e6, allow_inf_nan=False)]
Shares = Annotated[Mapping[Name, Share], mapping("of components to shares")]


class MixtureKind:
    """What `vary.mixture` may list: one or more mixtures of the sweep's components."""

    def mentions(self) -> Iterator[tuple[Loc, str]]:
        """Every name of a component in it, and where."""
        yield from ()

    def support(self, names: Sequence[str]) -> set[str]:
        """The components that have weight in at least one of the mixtures."""
        return set(names)

    def count(self, names: Sequence[str]) -> int:
        """How many mixtures, before any that is equal to another one is dropped."""
        return 1

    def mixtures(self, names: Sequence[str], sizes: Mapping[str, int]) -> Mixtures:
        """(K,) shares of each. Shares are ratios rounded once, so that equal mixtures are equal."""
        raise NotImplementedError

    def problems_among(self, names: Sequence[str]) -> Iterator[Problem]:
        """What is impossible with these components, all those mentioned being among them."""
        yield from ()


class Weighted(MixtureKind, Unkeyed):
    """One mixture by its weights, which are relative. A component that is not named has none."""

    root: Weights

    @model_validator(mode="after")
    def _has_weight(self) -> Weighted:
        if not any(self.root.values()):
            raise impossible(self.root, "at least one component needs a weight above 0")
        return self

    def mentions(self) -> Iterator[tuple[Loc, str]]:
        yield from (((name,), name) for name in self.root)

    def support(self, names: Sequence[str]) -> set[str]:
        return {name for name, weight in self.root.items() if weight > 0}

    def mixtures(self, names: Sequence[str], sizes: Mapping[str, int]) -> Mixtures:
        shares = shares_of(self.root)
        yield tuple(float(shares.get(name, 0)) for name in names)


class SumBounds(Model):
    """Bounds on the summed share of a group of components."""

    components: Annotated[tuple[Name, ...], Listed(Name)] = Field(description="the components whose shares are summed")
    min: Share = Field(0.0, description="lowest sum")
    max: Share = Field(1.0, description="highest sum")

    def problems(self) -> Iterator[Problem]:
        if self.min > self.max:
            yield Problem(("min",), f"found {self.min:g}; its max is {self.max:g}, which is lower")


class SimplexGrid(Model):
    """Every mixture whose shares are multiples of 1/resolution, corners included, within the bounds."""

    resolution: Annotated[int, Field(ge=1, le=1000), expect("a whole number from 1 to 1000")] = Field(
        description="shares are multiples of 1/resolution"
    )
    min: Shares = Field({}, description="lowest share of a component; 0 for the others")
    max: Shares = Field({}, description="highest share of a component; 1 for the others")
    components: Annotated[tuple[Name, ...], Listed(Name)] | None = Field(
        None, description="the components that have weight; by default all"
    )
    sums: Annotated[tuple[SumBounds, ...], Listed(SumBounds, empty=True)] = Field(
        (), description="bounds on summed shares; two groups are apart, or one is inside the other"
    )
    corners: Annotated[bool, expect("true or false")] = Field(
        True,
        description="begin a search (optuna, sobol) with the centroid and the corners of the region; the corners only "
        f"where there are at most {MAX_CORNERS}",
    )

    def region(self, names: Sequence[str]) -> Region:
        """The mixtures of these components, as multiples of 1/resolution."""
        chosen = names if self.components is None else self.components
        bounds = {
            name: self._multiples(self.min.get(name, 0.0), self.max.get(name, 1.0)) if name in chosen else (0, 0)
            for name in names
        }
        sums = [(frozenset(group.components), self._multiples(group.min, group.max)) for group in self.sums]
        return Region(self.resolution, bounds, sums)

    def _multiples(self, low: float, high: float) -> tuple[int, int]:
        return math.ceil(exact(low) * self.resolution), math.floor(exact(high) * self.resolution)

    def problems(self) -> Iterator[Problem]:
        for name, low in self.min.items():
            if low > self.max.get(name, 1.0):
                yield Problem(("min", name), f"found {low:g}; its max is {self.max[name]:g}, which is lower")
        for key, bounds in (("min", self.min), ("max", self.max)):
            for name in bounds:
                if self.components is not None and name not in self.components:
                    yield Problem((key, name), f"found {name!r}, which `components` leaves out; remove it from one")
        for position, group in enumerate(self.sums):
            for earlier in self.sums[:position]:
                one, other = set(group.components), set(earlier.components)
                if one & other and not (one <= other or other <= one):
                    message = (
                        f"found {show(group.components)}, which overlaps {show(earlier.components)}; groups that are "
                        "apart, or one inside the other, are possible"
                    )
                    yield Problem(("sums", position, "components"), message)


class Simplex(MixtureKind, Model):
    """The mixtures of a bounded simplex: a lattice in a grid, a region in a search."""

    simplex: SimplexGrid = Field(description="a lattice over the simplex of mixtures")

    def mentions(self) -> Iterator[tuple[Loc, str]]:
        for key in ("min", "max"):
            yield from ((("simplex", key, name), name) for name in getattr(self.simplex, key))
        for position, name in enumerate(self.simplex.components or ()):
            yield ("simplex", "components", position), name
        for position, group in enumerate(self.simplex.sums):
            for place, name in enumerate(group.components):
                yield ("simplex", "sums", position, "components", place), name

    def support(self, names: Sequence[str]) -> set[str]:
        return set(self.simplex.region(names).support)

    def count(self, names: Sequence[str]) -> int:
        return self.simplex.region(names).size

    def mixtures(self, names: Sequence[str], sizes: Mapping[str, int]) -> Mixtures:
        resolution = self.simplex.resolution
        for multiples in self.simplex.region(names):
            yield tuple(multiple / resolution for multiple in multiples)

    def problems_among(self, names: Sequence[str]) -> Iterator[Problem]:
        if self.count(names) == 0:
            bounds = [f"{key} {show(value)}" for key in ("min", "max", "sums") if (value := getattr(self.simplex, key))]
            yield Problem(
                ("simplex",),
                f"found no mixture of multiples of 1/{self.simplex.resolution} within "
                f"{listing(bounds)}; widen the bounds or raise the resolution",
            )


class DirichletDraws(Model):
    """Mixtures drawn from a Dirichlet distribution."""

    alpha: Annotated[
        Alpha | Mapping[Name, Alpha],
        expect("a number from 0.001 to 1e6, or a mapping of components to such numbers"),
    ] = Field(1.0, description="concentration, of all components or of each; one that is not named has no weight")
    samples: Annotated[int, Field(ge=1, le=MAX_POINTS), expect(f"a whole number from 1 to {MAX_POINTS}")] = Field(
        description="how many mixtures"
    )
    seed: SeedNumber = Field(0, description="names the draws; other samples of the same seed begin alike")

    def problems(self) -> Iterator[Problem]:
        if isinstance(self.alpha, Mapping) and not self.alpha:
            yield Problem(("alpha",), "found no component; name at least one")


class Dirichlet(MixtureKind, Model):
    """Mixtures drawn from a Dirichlet distribution."""

    dirichlet: DirichletDraws = Field(description="mixtures drawn from a Dirichlet distribution")

    def mentions(self) -> Iterator[tuple[Loc, str]]:
        alpha = self.dirichlet.alpha
        yield from ((("dirichlet", "alpha", name), name) for name in (alpha if isinstance(alpha, Mapping) else ()))

    def support(self, names: Sequence[str]) -> set[str]:
        alpha = self.dirichlet.alpha
        return set(alpha) if isinstance(alpha, Mapping) else set(names)

    def count(self, names: Sequence[str]) -> int:
        return self.dirichlet.samples

    def mixtures(self, names: Sequence[str], sizes: Mapping[str, int]) -> Mixtures:
        """Normalised gamma variates of Python's Mersenne twister, in millionths.

        The twister is the same everywhere. The logarithms inside the variates may differ in their last bit
        between machines, and rounding hides that.
        """
        alpha, rng = self.dirichlet.alpha, random.Random(self.dirichlet.seed)
        alphas = [alpha.get(name, 0.0) if isinstance(alpha, Mapping) else alpha for name in names]
        for _ in range(self.dirichlet.samples):
            total = 0.0
            while total == 0.0:  # a tiny alpha may underflow in every component at once
                variates = [rng.gammavariate(a, 1.0) if a else 0.0 for a in alphas]
                total = sum(variates)
            millionths = [round(1e6 * variate / total) for variate in variates]
            whole = sum(millionths)
            yield tuple(part / whole for part in millionths)


class LeaveOneOut(MixtureKind, Unkeyed):
    """One mixture for each component, of all the others in equal parts."""

    root: Literal["leave_one_out"] = "leave_one_out"

    def count(self, names: Sequence[str]) -> int:
        return len(names)

    def mixtures(self, names: Sequence[str], sizes: Mapping[str, int]) -> Mixtures:
        for left_out in names:
            yield tuple((name != left_out) / (len(names) - 1) for name in names)

    def problems_among(self, names: Sequence[str]) -> Iterator[Problem]:
        if len(names) < 2:
            yield Problem((), f"found leave_one_out with the one component {names[0]!r}; it needs at least two")


class Proportional(MixtureKind, Unkeyed):
    """The union of the components: each weighs as much as it has training examples."""

    root: Literal["proportional"] = "proportional"

    def mixtures(self, names: Sequence[str], sizes: Mapping[str, int]) -> Mixtures:
        total = sum(sizes[name] for name in names)
        yield tuple(sizes[name] / total for name in names)


class Temperature(MixtureKind, Model):
    """Between equal and proportional: a component weighs its number of training examples to a power."""

    temperature: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False), expect("a number from 0 to 10")] = Field(
        description="the power: 0 weighs all components alike, 1 is proportional"
    )

    def mixtures(self, names: Sequence[str], sizes: Mapping[str, int]) -> Mixtures:
        # Twelve digits: powers may differ in their last bit between machines.
        powers = [float(f"{sizes[name] ** self.temperature:.12g}") for name in names]
        yield tuple(power / math.fsum(powers) for power in powers)


MIXTURES: Mapping[str, type[BaseModel]] = {
    "simplex": Simplex,
    "dirichlet": Dirichlet,
    "leave_one_out": LeaveOneOut,
    "proportional": Proportional,
    "temperature": Temperature,
}

MixtureChoice: TypeAlias = Annotated[
    Weighted | Simplex | Dirichlet | LeaveOneOut | Proportional | Temperature,
    Choose(MIXTURES, Weighted, "a mapping of components to relative weights"),
]


def exact(value: float) -> Fraction:
    """The decimal that was written: 0.1 is a tenth."""
    return Fraction(repr(value))
