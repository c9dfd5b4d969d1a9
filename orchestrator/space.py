"""Which points does a sweep visit? What may stand on each axis of its design, and the product of the axes.

The kinds of mixtures are in `mixtures.py` and those of orderings in `orderings.py`; representations, ranges, conditions
and searches are here, each kind a class in one visible table, found by the word that a sweep file uses for it. A search
walks a `Space`: the same axes as coordinates. What a point costs and which trials it needs is for the planner, and what
Optuna asks for next is `search.py`.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, get_args

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, model_serializer

from orchestrator.mixtures import MixtureChoice, Proportional, Simplex
from orchestrator.model import (
    MAX_POINTS,
    Choose,
    Count,
    Depth,
    Examples,
    Listed,
    Loc,
    Model,
    OneOf,
    PlugIn,
    Problem,
    SeedNumber,
    Unkeyed,
    as_tuple,
    expect,
    listing,
    mapping,
    show,
)
from orchestrator.objectives import Constraint, Objective
from orchestrator.orderings import OrderingChoice, Shuffled
from orchestrator.simplex import MAX_CORNERS
from orchestrator.training import TrainingChange
from trainables.spec import Ordering

if TYPE_CHECKING:
    from orchestrator.sweep import Sweep

MAX_REPEATED_DRAWS = 10_000  # in a row, before random search takes the space for exhausted


# Points ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Point:
    """One point of the design: everything that a trial is made of, except its seeds."""

    weights: tuple[tuple[str, float], ...]  # share of every component in the order of the sweep; they sum to 1
    ordering: OrderingChoice
    architecture: str
    width: float
    depth: int | None  # None: the architecture's own
    representation: str  # "single", "cat:4", "time_cat:4"
    steps: int
    train_examples: int | None  # distinct examples over the whole mixture; None: all
    training: TrainingChange


def points(sweep: Sweep, sizes: Mapping[str, int]) -> Iterator[Point]:
    """Every point of the sweep once: the product of its axes, the mixture slowest, or a seeded sample of it.

    A search with more samples begins with the points of the one with fewer, so raising `samples` keeps what has been
    computed. It is shorter than asked where the space has no more points. What `optuna` will try is not known before
    its trials are: its points are the starting points and then random ones, which cost about as much.

    Args:
        sweep: its axes and its search.
        sizes: component to number of training examples, for `proportional` and `temperature`.
    """
    search = sweep.search
    if isinstance(search, Sobol):
        space = Space(sweep, sizes)
        yield from _distinct(space, search.sobol.samples, sobol(len(space.coordinates), search.sobol.seed))
    elif isinstance(search, Optuna):
        space = Space(sweep, sizes)
        uniform = random.Random(search.optuna.seed).random
        draws = ([uniform() for _ in space.coordinates] for _ in itertools.count())
        yield from _distinct(space, search.optuna.samples, draws)
    elif isinstance(search, Random):
        yield from _sample(_axes(sweep, sizes), search.random, _Conditions(sweep))
    else:
        yield from _product(_axes(sweep, sizes), _Conditions(sweep))


def point_of(sweep: Sweep, design: Mapping[str, Any]) -> Point | None:
    """A design as a plan keeps it, as a point of a sweep; None: the sweep has no such ordering or training."""
    # The defaults are those of an axis whose condition does not hold.
    orderings, trainings = (*sweep.vary.ordering, Shuffled()), (*sweep.vary.training, TrainingChange())
    ordering = next((choice for choice in orderings if choice.label == design["ordering"]), None)
    training = next((change for change in trainings if change.label == design["training"]), None)
    if ordering is None or training is None:
        return None
    same = {name: design[name] for name in ("architecture", "width", "depth", "representation", "steps")}
    return Point(
        weights=tuple((name, design["mixture"][name]) for name in sweep.components),
        ordering=ordering,
        training=training,
        train_examples=design["train_examples"],
        **same,
    )


def ordering_of(point: Point | OrderingChoice, contents: Mapping[str, str]) -> Ordering:
    """When the examples of a mixture arrive, with components named by content.

    Two ways to write the same stream give the same ordering: relative weights become shares, one block is
    `sequential`, and an ordering of components is `shuffled` where there is only one. So a mixture of one
    component is the same stage as its direct baseline.

    Args:
        point: a point of the design, or its ordering alone.
        contents: component to digest of its content; with an ordering alone, of those that have weight.
            Components without weight are dropped from the ordering, which says nothing about them.
    """
    if isinstance(point, Point):
        contents = {name: contents[name] for name, share in point.weights if share > 0}
        point = point.ordering
    return point.among(contents)


def key(point: Point) -> tuple[Any, ...]:
    """What equal points share and others do not. Not every part of a point has a hash of its own."""
    return (
        point.weights,
        point.ordering.label,
        point.architecture,
        point.width,
        point.depth,
        point.representation,
        point.steps,
        point.train_examples,
        point.training.label,
    )


def _axes(sweep: Sweep, sizes: Mapping[str, int]) -> list[Any]:
    """The values or the range of each axis, in the order of the fields of `Point`."""
    names = tuple(sweep.components)
    mixtures = dict.fromkeys(shares for choice in sweep.vary.mixture for shares in choice.mixtures(names, sizes))
    return [[tuple(zip(names, shares, strict=True)) for shares in mixtures], *_other_axes(sweep).values()]


def _other_axes(sweep: Sweep) -> dict[str, Any]:
    """The values or the range of each axis but the mixture."""
    vary = sweep.vary
    return {
        "ordering": vary.ordering,
        "architecture": vary.architecture,
        "width": vary.width,
        "depth": vary.depth,
        "representation": [choice.label for choice in vary.representation],
        "steps": (sweep.pretrain.steps,) if vary.steps is None else vary.steps,
        "train_examples": vary.train_examples,
        "training": vary.training,
    }


class _Conditions:
    """`vary.when`: which axes have their values, and what the others have."""

    def __init__(self, sweep: Sweep) -> None:
        self._where: dict[str, dict[str, list[Any]]] = {
            axis: {other: _as_points_have(other, values) for other, values in where.conditions.items()}
            for axis, where in sweep.vary.when.items()
        }
        self._defaults = {
            axis: sweep.pretrain.steps if axis == "steps" else _as_points_have(axis, Vary.model_fields[axis].default)[0]
            for axis in CONDITIONED
        }
        # An axis comes after those that its condition names; there are no cycles.
        self.order = sorted(CONDITIONED, key=self._depth)

    def _depth(self, axis: str) -> int:
        return 1 + max(map(self._depth, self._where[axis])) if axis in self._where else 0

    def holds(self, axis: str, values: Mapping[str, Any]) -> bool:
        """Whether an axis has its own values, given those of the axes before it in `order`."""
        return all(values[other] in possible for other, possible in self._where.get(axis, {}).items())

    def default(self, axis: str) -> Any:
        return self._defaults[axis]

    def settle(self, values: Sequence[Any]) -> tuple[list[Any], set[int]]:
        """Values in the order of `Point`, with the default where an axis has no values, and the positions of these."""
        if not self._where:
            return list(values), set()
        named = dict(zip(("mixture", *CONDITIONED), values, strict=True))
        without = [axis for axis in self.order if not self._settle(axis, named)]
        return list(named.values()), {1 + CONDITIONED.index(axis) for axis in without}

    def _settle(self, axis: str, values: dict[str, Any]) -> bool:
        holds = self.holds(axis, values)
        if not holds:
            values[axis] = self.default(axis)
        return holds


def _as_points_have(axis: str, values: Sequence[Any]) -> list[Any]:
    return [choice.label for choice in values] if axis == "representation" else list(values)


def _product(axes: Sequence[Any], conditions: _Conditions) -> Iterator[Point]:
    """Every point of the grid, once."""
    seen: set[tuple[int | None, ...]] = set()
    for places in itertools.product(*(range(len(axis)) for axis in axes)):
        values, without = conditions.settle([axis[place] for axis, place in zip(axes, places, strict=True)])
        if without:
            kept = tuple(None if position in without else place for position, place in enumerate(places))
            if kept in seen:
                continue
            seen.add(kept)
        yield Point(*values)


def _sample(axes: Sequence[Any], search: RandomSearch, conditions: _Conditions) -> Iterator[Point]:
    """Distinct points, each axis drawn independently of the others."""
    # Only random() is used: its sequence is the same in every Python release.
    uniform = random.Random(search.seed).random
    places = [axis.at if isinstance(axis, Range) else _place(len(axis)) for axis in axes]
    wanted = min(search.samples, math.prod(axis.size if isinstance(axis, Range) else len(axis) for axis in axes))
    seen: set[tuple[float | None, ...]] = set()
    repeated = 0
    while len(seen) < wanted and repeated < MAX_REPEATED_DRAWS:
        draw = [place(uniform()) for place in places]
        drawn = [d if isinstance(a, Range) else a[d] for a, d in zip(axes, draw, strict=True)]
        values, without = conditions.settle(drawn)
        kept = tuple(None if position in without else d for position, d in enumerate(draw))
        repeated = repeated + 1 if kept in seen else 0
        if not repeated:
            seen.add(kept)
            yield Point(*values)


def _distinct(space: Space, samples: int, draws: Iterator[Sequence[float]]) -> Iterator[Point]:
    """The starting points, then those of the draws, each once."""
    seen: set[tuple[Any, ...]] = set()
    repeated, wanted = 0, min(samples, space.size)
    for point in itertools.chain(space.start(), (space.point(space.at(draw)) for draw in draws)):
        if len(seen) == wanted or repeated == MAX_REPEATED_DRAWS:
            return
        repeated = repeated + 1 if key(point) in seen else 0
        if not repeated:
            seen.add(key(point))
            yield point


def _place(length: int) -> Callable[[float], int]:
    """The position in a list of that length at a uniform draw from [0, 1)."""
    return lambda uniform: int(uniform * length)


# The space of a search ------------------------------------------------------------------------------------------------

Value: TypeAlias = float | int | str | None  # of a parameter: what JSON can hold


@dataclass(frozen=True)
class Coordinate:
    """One parameter of a search."""

    name: str  # "mixture.digits", "width", "ordering"
    values: Range | tuple[Value, ...] | None  # None: a number from 0 to 1

    def at(self, uniform: float) -> Value:
        """The value at a uniform draw from [0, 1)."""
        if self.values is None:
            return uniform
        return (
            self.values.at(uniform) if isinstance(self.values, Range) else self.values[int(uniform * len(self.values))]
        )


class Space:
    """The axes of a sweep as coordinates, and back. Both ways lead through `params`: values by coordinate.

    With a simplex in `vary.mixture` the mixture is a region with coordinates of its own; the mixtures beside it are
    starting points. Otherwise the mixtures are one choice. An axis of one value has no coordinate, and one with a
    condition only where it holds.
    """

    def __init__(self, sweep: Sweep, sizes: Mapping[str, int]) -> None:
        """
        Raises:
            SweepError: a mixture that a search is to begin with lies outside of its region.
        """
        self._sweep, self._names = sweep, tuple(sweep.components)
        self._conditions, self._axes = _Conditions(sweep), _other_axes(sweep)
        grid = next((choice.simplex for choice in sweep.vary.mixture if isinstance(choice, Simplex)), None)
        self._grid, self._region = grid, grid.region(self._names) if grid else None
        listed = [choice for choice in sweep.vary.mixture if not isinstance(choice, Simplex)]
        self._listed = dict.fromkeys(shares for choice in listed for shares in choice.mixtures(self._names, sizes))
        if self._region:
            mixture = [Coordinate(f"mixture.{name}", None) for name in self._region.coordinates]
        else:
            mixture = _choice("mixture", [_mixture_label(self._names, shares) for shares in self._listed])
        others = (
            [Coordinate(axis, values)] if isinstance(values, Range) else _choice(axis, [_json(v) for v in values])
            for axis, values in self._axes.items()
        )
        self._by_axis = dict(zip(("mixture", *self._axes), [mixture, *others], strict=True))

    @property
    def coordinates(self) -> tuple[Coordinate, ...]:
        """All of them, in the order in which `at` takes its draws."""
        return tuple(itertools.chain.from_iterable(self._by_axis.values()))

    @property
    def size(self) -> float:
        """How many points there are; with conditions, at most."""
        listed = (c.values for c in self.coordinates if c.values is not None)
        others = math.prod(values.size if isinstance(values, Range) else len(values) for values in listed)
        return others * (self._region.size if self._region else 1)

    def draw(self, suggest: Callable[[Coordinate], Value]) -> dict[str, Value]:
        """Params, one coordinate suggested after the other, but only those that count where the earlier ones lead."""
        params = {c.name: suggest(c) for c in self._by_axis["mixture"]}
        values: dict[str, Any] = {}
        for axis in self._conditions.order:
            holds = self._conditions.holds(axis, values)
            if holds:
                params |= {c.name: suggest(c) for c in self._by_axis[axis]}
            values[axis] = self._value(axis, params) if holds else self._conditions.default(axis)
        return params

    def at(self, uniforms: Sequence[float]) -> dict[str, Value]:
        """The params at one draw from [0, 1) for each coordinate."""
        draws = dict(zip((c.name for c in self.coordinates), uniforms, strict=True))
        return self.draw(lambda coordinate: coordinate.at(draws[coordinate.name]))

    def point(self, params: Mapping[str, Value]) -> Point:
        """
        Raises:
            SweepError: the params are not of this space: a value is missing or impossible.
        """
        values: dict[str, Any] = {}
        for axis in self._conditions.order:
            holds = self._conditions.holds(axis, values)
            values[axis] = self._value(axis, params) if holds else self._conditions.default(axis)
        return Point(self._mixture(params), *(values[axis] for axis in CONDITIONED))

    def params(self, point: Point) -> dict[str, Value] | None:
        """Params of which `point` makes this point, or one whose mixture is rounded to the resolution. None: there are
        none."""
        values = {axis: getattr(point, axis) for axis in CONDITIONED}
        params = self._params_of_mixture(point.weights)
        if params is None:
            return None
        for axis in CONDITIONED:
            found = self._params_of(axis, values)
            if found is None:
                return None
            params |= found
        return params

    def start(self) -> list[Point]:
        """What a search tries first: the mixtures beside a simplex, its centroid and its corners, each once.

        Other axes have their first value, and ranges their middle.
        """
        if self._region is None or self._grid is None:
            return []
        multiples = [self._rounded(shares) for shares in self._listed]
        if self._grid.corners:
            multiples += [self._region.centroid(), *self._region.corners(MAX_CORNERS)]
        first = [axis.at(0.5) if isinstance(axis, Range) else axis[0] for axis in self._axes.values()]
        return [Point(*self._conditions.settle([self._weights(m), *first])[0]) for m in dict.fromkeys(multiples)]

    def _value(self, axis: str, params: Mapping[str, Value]) -> Any:
        """The value of an axis whose condition holds."""
        values, coordinates = self._axes[axis], self._by_axis[axis]
        if not coordinates:
            return values[0]
        given = self._given(coordinates[0], params)
        if isinstance(values, Range):
            return values.rounded(given)
        assert isinstance(coordinates[0].values, tuple)
        return values[coordinates[0].values.index(given)]

    def _mixture(self, params: Mapping[str, Value]) -> tuple[tuple[str, float], ...]:
        coordinates = self._by_axis["mixture"]
        if self._region:
            return self._weights(
                self._region.at({c.name.removeprefix("mixture."): self._given(c, params) for c in coordinates})
            )
        listed = list(self._listed)
        if not coordinates:
            return tuple(zip(self._names, listed[0], strict=True))
        assert isinstance(coordinates[0].values, tuple)
        place = coordinates[0].values.index(self._given(coordinates[0], params))
        return tuple(zip(self._names, listed[place], strict=True))

    def _given(self, coordinate: Coordinate, params: Mapping[str, Value]) -> Any:
        """A param that the coordinate may have."""
        if coordinate.name not in params:
            raise self._sweep.error("vary", f"found a proposal without {coordinate.name}: {show(dict(params))}")
        value = params[coordinate.name]
        if not _possible(value, coordinate.values):
            message = f"found a proposal with {coordinate.name} {show(value)}, which is not possible"
            raise self._sweep.error("vary", message)
        return value

    def _params_of(self, axis: str, values: Mapping[str, Any]) -> dict[str, Value] | None:
        value, possible, coordinates = values[axis], self._axes[axis], self._by_axis[axis]
        if not self._conditions.holds(axis, values):
            return {} if value == self._conditions.default(axis) else None
        if isinstance(possible, Range):
            return {axis: value} if _possible(value, possible) else None
        if value not in possible:
            return None
        return {coordinate.name: _json(value) for coordinate in coordinates}

    def _params_of_mixture(self, weights: Sequence[tuple[str, float]]) -> dict[str, Value] | None:
        given = {name: share for name, share in weights if share > 0}
        if not given.keys() <= set(self._names):
            return None
        shares = tuple(given.get(name, 0.0) for name in self._names)
        if self._region:
            multiples = self._region.nearest(shares)
            if multiples is None:
                return None
            return {f"mixture.{name}": value for name, value in self._region.locate(multiples).items()}
        label = _mixture_label(self._names, shares)
        return {c.name: label for c in self._by_axis["mixture"]} if shares in self._listed else None

    def _rounded(self, shares: tuple[float, ...]) -> tuple[int, ...]:
        assert self._region
        multiples = self._region.nearest(shares)
        if multiples is None:
            written = ", ".join(
                f"{name}: {share:.4g}" for name, share in zip(self._names, shares, strict=True) if share
            )
            raise self._sweep.error(
                "vary.mixture",
                f"found {{{written}}} to begin with, which lies outside of the simplex beside it; widen its bounds or "
                "remove the mixture",
            )
        return multiples

    def _weights(self, multiples: Sequence[int]) -> tuple[tuple[str, float], ...]:
        assert self._grid
        resolution = self._grid.resolution
        return tuple((name, share / resolution) for name, share in zip(self._names, multiples, strict=True))


def sobol(dimensions: int, seed: int, skip: int = 0) -> Iterator[list[float]]:
    """Draws from [0, 1) that fill it evenly, for ever: the scrambled sequence of Sobol, from draw `skip` on."""
    from scipy.stats import qmc

    engine = qmc.Sobol(max(dimensions, 1), scramble=True, seed=seed)
    if skip:
        engine.fast_forward(skip)
    while True:
        yield engine.random(1)[0].tolist()[:dimensions]


def _choice(name: str, values: Sequence[Value]) -> list[Coordinate]:
    return [Coordinate(name, tuple(values))] if len(values) > 1 else []


def _possible(value: Value, values: Range | tuple[Value, ...] | None) -> bool:
    if isinstance(values, tuple):
        return value in values
    low, high = values.ends if values else (0.0, 1.0)
    return isinstance(value, (int, float)) and low <= value <= high


def _json(value: Any) -> Value:
    """A value of an axis as JSON can hold it; distinct values stay distinct."""
    label = getattr(value, "label", value)
    assert label is None or isinstance(label, (int, float, str))
    return label


def _mixture_label(names: Sequence[str], shares: Sequence[float]) -> str:
    return " ".join(f"{name}={share!r}" for name, share in zip(names, shares, strict=True) if share)


# Values on an axis ----------------------------------------------------------------------------------------------------

Width = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False), expect("a number above 0 and up to 1000")]

ARCHITECTURES = ("mlp", "cnn", "cnn_plain", "resnet18", "resnet34", "resnet50", "vit_tiny", "vit_small", "diagonal")

ArchitectureName = Annotated[
    str,
    Field(pattern=r"^([A-Za-z0-9_-]{1,64}|python:[A-Za-z0-9_.]+:[A-Za-z0-9_.]+)$"),
    expect(
        f"{', '.join(ARCHITECTURES)}, the name of a torchvision classification model or of an installed package's "
        "network, or python:module:attribute"
    ),
]


class Range(Model):
    """All numbers between two, for random search."""

    log: Annotated[bool, expect("true or false")] = Field(
        False, description="draw uniformly over the logarithm instead of the value"
    )

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest value."""
        raise NotImplementedError

    @property
    def size(self) -> float:
        """How many values there are."""
        raise NotImplementedError

    def at(self, uniform: float) -> float:
        """The value at a uniform draw from [0, 1)."""
        raise NotImplementedError

    def rounded(self, value: float) -> float:
        """The value of the range that stands for a number between its ends."""
        raise NotImplementedError

    def problems(self) -> Iterator[Problem]:
        low, high = self.ends
        if low >= high:
            yield Problem(("range",), f"found {show([low, high])}; the first number is below the second")

    def _between(self, low: float, high: float, uniform: float) -> float:
        if self.log:
            return math.exp(math.log(low) + uniform * (math.log(high) - math.log(low)))
        return low + uniform * (high - low)


class WidthRange(Range):
    """Any width between two."""

    range: Annotated[tuple[Width, Width], as_tuple, expect("[low, high], two numbers above 0 and up to 1000")] = Field(
        description="the lowest and the highest value"
    )

    @property
    def ends(self) -> tuple[float, float]:
        return self.range

    @property
    def size(self) -> float:
        return math.inf

    def at(self, uniform: float) -> float:
        return self.rounded(self._between(*self.range, uniform))

    def rounded(self, value: float) -> float:
        low, high = self.range
        # Six digits can be written down, and the last bits of a logarithm differ between machines.
        return min(max(float(f"{value:.6g}"), low), high)


class CountRange(Range):
    """Any whole number between two, both included."""

    range: Annotated[tuple[Count, Count], as_tuple, expect("[low, high], two whole numbers of at least 1")] = Field(
        description="the lowest and the highest value, both included"
    )

    @property
    def ends(self) -> tuple[int, int]:
        return self.range

    @property
    def size(self) -> int:
        low, high = self.range
        return high - low + 1

    def at(self, uniform: float) -> int:
        low, high = self.range
        return self.rounded(self._between(low, high + 1, uniform))

    def rounded(self, value: float) -> int:
        return min(int(value), self.range[1])


# Representations ------------------------------------------------------------------------------------------------------


class RepresentationKind:
    """What `vary.representation` may list: what a probe reads. What each means is in `trainables.representation`."""

    @property
    def label(self) -> str:
        """The representation in one word, as the results table has it."""
        raise NotImplementedError


class Single(RepresentationKind, Unkeyed):
    """The features of one network."""

    root: Literal["single"] = "single"

    @property
    def label(self) -> str:
        return self.root


class RandomInit(RepresentationKind, Unkeyed):
    """The features of a network that was never trained."""

    root: Literal["random_init"] = "random_init"

    @property
    def label(self) -> str:
        return self.root


Members = Annotated[int, Field(ge=2, le=1000), expect("a whole number from 2 to 1000")]


class Counted(RepresentationKind, Model):
    """A representation with a number."""

    @property
    def label(self) -> str:
        ((kind, count),) = self.model_dump().items()
        return f"{kind}:{count}"


class Cat(Counted):
    """The features of several networks side by side, each pretrained for all the steps."""

    cat: Members = Field(description="how many networks")


class TimeCat(Counted):
    """The features of several networks side by side, which share the steps of one."""

    time_cat: Members = Field(description="how many networks")


class Complement(Counted):
    """The same, each network told to find what those before it do not have."""

    complement: Members = Field(description="how many networks")


class Snapshots(Counted):
    """The features of several snapshots of one network, at the ends of the cycles of its learning rate."""

    snapshots: Members = Field(description="how many snapshots")


class Wide(Counted):
    """The features of one network several times as wide."""

    wide: Members = Field(description="how many times as wide")


class Distilled(Counted):
    """The features of one network that learns to predict what several networks predict."""

    distilled: Members = Field(description="how many networks it learns from")


class Bonsai(Counted):
    """The features of one network that learns what several rounds of discovery predict; all share the steps of one."""

    bonsai: Members = Field(description="how many rounds")


class CatPca(Counted):
    """The control of `cat`: as many principal components of its features as one network has."""

    cat_pca: Members = Field(description="how many networks")


class CatAverage(Counted):
    """The control of `cat`: each network's own probe, their probabilities averaged."""

    cat_average: Members = Field(description="how many networks")


class RepresentationCode(RepresentationKind, PlugIn):
    """A representation of the user's: code that returns the networks that the probe reads."""

    plugin = "representation"

    @property
    def label(self) -> str:
        return self.root


REPRESENTATIONS: Mapping[str, type[BaseModel]] = {
    "single": Single,
    "random_init": RandomInit,
    "cat": Cat,
    "time_cat": TimeCat,
    "complement": Complement,
    "snapshots": Snapshots,
    "wide": Wide,
    "distilled": Distilled,
    "bonsai": Bonsai,
    "cat_pca": CatPca,
    "cat_average": CatAverage,
}

RepresentationChoice: TypeAlias = Annotated[
    Single
    | RandomInit
    | Cat
    | TimeCat
    | Complement
    | Snapshots
    | Wide
    | Distilled
    | Bonsai
    | CatPca
    | CatAverage
    | RepresentationCode,
    Choose(REPRESENTATIONS, code=RepresentationCode),
]


# Axes and searches ----------------------------------------------------------------------------------------------------

Axis = Literal["ordering", "architecture", "width", "depth", "representation", "steps", "train_examples", "training"]
CONDITIONED: tuple[str, ...] = get_args(Axis)  # the axes that may have a condition, or be one, as `Point` orders them


class Where(Model):
    """The values of other axes with which an axis has its own."""

    ordering: Annotated[tuple[OrderingChoice, ...], Listed(OrderingChoice)] | None = Field(
        None, description="one of these orderings"
    )
    architecture: Annotated[tuple[ArchitectureName, ...], Listed(ArchitectureName)] | None = Field(
        None, description="one of these networks"
    )
    width: Annotated[tuple[Width, ...], Listed(Width)] | None = Field(None, description="one of these widths")
    depth: Annotated[tuple[Depth, ...], Listed(Depth)] | None = Field(None, description="one of these depths")
    representation: Annotated[tuple[RepresentationChoice, ...], Listed(RepresentationChoice)] | None = Field(
        None, description="one of these representations"
    )
    steps: Annotated[tuple[Count, ...], Listed(Count)] | None = Field(None, description="one of these numbers of steps")
    train_examples: Annotated[tuple[Examples, ...], Listed(Examples)] | None = Field(
        None, description="one of these numbers of examples"
    )
    training: Annotated[tuple[TrainingChange, ...], Listed(TrainingChange)] | None = Field(
        None, description="one of these changes of the training"
    )

    @property
    def conditions(self) -> dict[str, tuple[Any, ...]]:
        """Axis to the values with which the condition holds."""
        return {axis: values for axis in CONDITIONED if (values := getattr(self, axis)) is not None}

    @model_serializer(mode="wrap")
    def _written(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """An axis that is no condition is not written out."""
        return {axis: values for axis, values in serialize(self).items() if values is not None}

    def problems(self) -> Iterator[Problem]:
        if not self.conditions:
            yield Problem((), f"found no condition; name at least one axis: {listing(CONDITIONED, 'or')}")


class Vary(Model):
    """The axes of the design: each one value or a list; the numeric ones may be ranges in random search."""

    mixture: Annotated[tuple[MixtureChoice, ...], Listed(MixtureChoice)] = Field(
        (Proportional(),), description="how much of each component the network is pretrained on"
    )
    ordering: Annotated[tuple[OrderingChoice, ...], Listed(OrderingChoice)] = Field(
        (Shuffled(),), description="when the examples of a mixture come"
    )
    architecture: Annotated[tuple[ArchitectureName, ...], Listed(ArchitectureName)] = Field(
        ("cnn",),
        description=f"the network: {', '.join(ARCHITECTURES)}, or a torchvision classification model",
    )
    width: Annotated[tuple[Width, ...] | WidthRange, Listed(Width, range=WidthRange)] = Field(
        (1.0,), description="multiplies the channels or units of every layer"
    )
    depth: Annotated[tuple[Depth, ...] | CountRange, Listed(Depth, range=CountRange)] = Field(
        (None,), description="layers, or blocks per stage; default: the architecture's own"
    )
    representation: Annotated[tuple[RepresentationChoice, ...], Listed(RepresentationChoice)] = Field(
        (Single(),),
        description="what the probe reads: the features of one network, or of several side by side",
    )
    steps: Annotated[tuple[Count, ...] | CountRange, Listed(Count, range=CountRange)] | None = Field(
        None, description="steps of pretraining; by default those of `pretrain`"
    )
    train_examples: Annotated[tuple[Examples, ...] | CountRange, Listed(Examples, range=CountRange)] = Field(
        (None,),
        description="distinct examples over the whole mixture, shared out by weight; by default all",
    )

    training: Annotated[tuple[TrainingChange, ...], Listed(TrainingChange)] = Field(
        (TrainingChange(),),
        description="what differs from `pretrain`, for example {weight_decay: 0.001}; {} is `pretrain` itself. Direct "
        "baselines follow, but for the deficit",
    )
    when: Annotated[
        Mapping[Annotated[Axis, OneOf()], Where], mapping("of axes to the values of others with which they have theirs")
    ] = Field({}, description="an axis has its values only where others have these, and its default elsewhere")

    def problems(self) -> Iterator[Problem]:
        for axis, where in self.when.items():
            for other, values in where.conditions.items():
                for position, value in enumerate(values):
                    if problem := self._never(other, value):
                        yield Problem(("when", axis, other, position), problem)
        for axis in self.when:
            if axis in self._behind(axis):
                message = f"found a condition of {axis} that depends on {axis} itself; remove one of the conditions"
                yield Problem(("when", axis), message)

    def _never(self, axis: str, value: Any) -> str | None:
        """What is wrong with a value as a condition."""
        axis_values = getattr(self, axis)
        if isinstance(axis_values, WidthRange):
            return f"found a condition on {axis}, which is a range; list the values of {axis}"
        if isinstance(axis_values, CountRange):
            low, high = axis_values.range
            occurs, possible = value is not None and low <= value <= high, f"{low} to {high}"
        else:
            occurs = axis_values is not None and value in axis_values
            possible = listing([show(v) for v in axis_values or ()]) or "nothing but the value of pretrain"
        default = Vary.model_fields[axis].default
        if occurs or (axis in self.when and default is not None and value == default[0]):
            return None
        return f"found {show(value)}, with which the condition never holds: {axis} has {possible}"

    def _behind(self, axis: str) -> set[str]:
        """Every axis that the condition of an axis depends on, directly or not."""
        named = {str(conditioned): set(where.conditions) for conditioned, where in self.when.items()}
        found: set[str] = set()
        new = {axis}
        while new:
            new = set().union(*(named.get(one, ()) for one in new)) - found
            found |= new
        return found

    @property
    def ranges(self) -> dict[str, Range]:
        """The axes that are ranges."""
        axes = {
            "width": self.width,
            "depth": self.depth,
            "steps": self.steps,
            "train_examples": self.train_examples,
        }
        return {name: axis for name, axis in axes.items() if isinstance(axis, Range)}

    @property
    def size(self) -> int:
        """Points for each mixture, there being no ranges."""
        axes = (
            self.ordering,
            self.architecture,
            self.width,
            self.depth,
            self.representation,
            self.train_examples,
            self.training,
        )
        return math.prod(len(axis) for axis in (*axes, self.steps or (None,)) if isinstance(axis, tuple))

    def most_steps(self, default: int) -> int:
        """The steps of the longest pretraining."""
        if self.steps is None:
            return default
        return self.steps.range[1] if isinstance(self.steps, CountRange) else max(self.steps)

    def fewest_steps(self, default: int) -> int:
        """The steps of the shortest pretraining."""
        if self.steps is None:
            return default
        fewest = self.steps.range[0] if isinstance(self.steps, CountRange) else min(self.steps)
        return min(fewest, default) if "steps" in self.when else fewest


class Grid(Unkeyed):
    """Every point of the product of the axes."""

    root: Literal["grid"] = "grid"


Samples = Annotated[int, Field(ge=1, le=MAX_POINTS), expect(f"a whole number from 1 to {MAX_POINTS}")]


class RandomSearch(Model):
    """Points drawn at random, each axis independently."""

    samples: Samples = Field(description="how many points")
    seed: SeedNumber = Field(0, description="names the draws; more samples of the same seed begin alike")


class Random(Model):
    """Points drawn at random."""

    random: RandomSearch = Field(description="points drawn at random")


class SobolSearch(Model):
    """Points that fill the space evenly: the scrambled sequence of Sobol."""

    samples: Samples = Field(description="how many points; a power of 2 fills most evenly")
    seed: SeedNumber = Field(0, description="names the scrambling; more samples of the same seed begin alike")


class Sobol(Model):
    """Points that fill the space evenly."""

    sobol: SobolSearch = Field(description="points that fill the space evenly")


SweepName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$"), expect("the name of a sweep")]


class OptunaSearch(Model):
    """Points that a sampler chooses by what the earlier ones reached."""

    samples: Samples = Field(description="how many points")
    sampler: Annotated[Literal["tpe", "gp", "nsga2", "qmc"], OneOf()] = Field(
        "tpe",
        description="tpe (Parzen estimators), gp (Gaussian process), nsga2 (genetic, for several objectives) or qmc "
        "(evenly, whatever was reached)",
    )
    objective: Annotated[tuple[Objective, ...], Listed(Objective)] = Field(
        (Objective("worst_gap"),), description="what is looked for; several: the best trade-offs between them"
    )
    constraints: Annotated[tuple[Constraint, ...], Listed(Constraint, empty=True)] = Field(
        (), description="bounds that a point has to keep to be a good one"
    )
    seed: SeedNumber = Field(0, description="names the draws of the sampler")
    warm_start: Annotated[tuple[SweepName, ...], Listed(SweepName, empty=True)] = Field(
        (), description="earlier sweeps of the same store whose trials the sampler is told of"
    )


class Optuna(Model):
    """Points that a sampler of Optuna chooses."""

    optuna: OptunaSearch = Field(description="points that a sampler chooses by what the earlier ones reached")

    def mentions(self) -> Iterator[tuple[Loc, str]]:
        """Every name of a component in it, and where."""
        for position, objective in enumerate(self.optuna.objective):
            yield from ((("objective", position, *loc), name) for loc, name in objective.mentions())
        for position, constraint in enumerate(self.optuna.constraints):
            mentioned = constraint.objective.mentions()
            yield from ((("constraints", position, "objective", *loc), name) for loc, name in mentioned)


SEARCHES: Mapping[str, type[BaseModel]] = {"grid": Grid, "random": Random, "sobol": Sobol, "optuna": Optuna}

Search: TypeAlias = Annotated[Grid | Random | Sobol | Optuna, Choose(SEARCHES)]
