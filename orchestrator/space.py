"""Which points does a sweep visit? What may stand on each axis of its design, and the product of the axes.

The kinds of mixtures are in `mixtures.py` and those of orderings in `orderings.py`; representations, ranges and
searches are here, each kind a class in one visible table, found by the word that a sweep file uses for it. What a
point costs and which trials it needs is for the planner.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, Field, RootModel

from orchestrator.mixtures import MixtureChoice, Proportional
from orchestrator.model import (
    MAX_POINTS,
    WORD,
    Choose,
    Count,
    Depth,
    Examples,
    Listed,
    Model,
    Problem,
    SeedNumber,
    as_tuple,
    expect,
    show,
)
from orchestrator.orderings import OrderingChoice, Shuffled
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

    A random search with more samples begins with the points of the one with fewer, so raising `samples` keeps
    what has been computed. It is shorter than asked where the space has no more points.

    Args:
        sweep: its axes and its search.
        sizes: component to number of training examples, for `proportional` and `temperature`.
    """
    axes = _axes(sweep, sizes)
    if isinstance(sweep.search, Random):
        yield from _sample(axes, sweep.search.random)
    else:
        yield from itertools.starmap(Point, itertools.product(*axes))


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


def _axes(sweep: Sweep, sizes: Mapping[str, int]) -> list[Any]:
    """The values or the range of each axis, in the order of the fields of `Point`."""
    vary, names = sweep.vary, tuple(sweep.components)
    mixtures = dict.fromkeys(shares for choice in vary.mixture for shares in choice.mixtures(names, sizes))
    return [
        [tuple(zip(names, shares, strict=True)) for shares in mixtures],
        vary.ordering,
        vary.architecture,
        vary.width,
        vary.depth,
        [choice.label for choice in vary.representation],
        (sweep.pretrain.steps,) if vary.steps is None else vary.steps,
        vary.train_examples,
        vary.training,
    ]


def _sample(axes: Sequence[Any], search: RandomSearch) -> Iterator[Point]:
    """Distinct points, each axis drawn independently of the others."""
    # Only random() is used: its sequence is the same in every Python release.
    uniform = random.Random(search.seed).random
    places = [axis.at if isinstance(axis, Range) else _place(len(axis)) for axis in axes]
    wanted = min(search.samples, math.prod(axis.size if isinstance(axis, Range) else len(axis) for axis in axes))
    seen: set[tuple[float, ...]] = set()
    repeated = 0
    while len(seen) < wanted and repeated < MAX_REPEATED_DRAWS:
        draw = tuple([place(uniform()) for place in places])
        repeated = repeated + 1 if draw in seen else 0
        if not repeated:
            seen.add(draw)
            values: list[Any] = [d if isinstance(a, Range) else a[d] for a, d in zip(axes, draw, strict=True)]
            yield Point(*values)


def _place(length: int) -> Callable[[float], int]:
    """The position in a list of that length at a uniform draw from [0, 1)."""
    return lambda uniform: int(uniform * length)


# Values on an axis ----------------------------------------------------------------------------------------------------

Width = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False), expect("a number above 0 and up to 1000")]

ARCHITECTURES = ("mlp", "cnn", "cnn_plain", "resnet18", "resnet34", "resnet50", "vit_tiny", "vit_small", "diagonal")

ArchitectureName = Annotated[
    str,
    Field(pattern=r"^[a-z0-9_]{1,64}$"),
    expect(f"{', '.join(ARCHITECTURES)} or the name of a torchvision classification model"),
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
        low, high = self.range
        # Six digits can be written down, and the last bits of a logarithm differ between machines.
        return min(max(float(f"{self._between(low, high, uniform):.6g}"), low), high)


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
        return min(int(self._between(low, high + 1, uniform)), high)


# Representations ------------------------------------------------------------------------------------------------------


class RepresentationKind:
    """What `vary.representation` may list: what a probe reads. What each means is in `trainables.representation`."""

    @property
    def label(self) -> str:
        """The representation in one word, as the results table has it."""
        raise NotImplementedError


class Single(RepresentationKind, RootModel[Literal["single"]]):
    """The features of one network."""

    model_config = WORD
    root: Literal["single"] = "single"

    @property
    def label(self) -> str:
        return self.root


class RandomInit(RepresentationKind, RootModel[Literal["random_init"]]):
    """The features of a network that was never trained."""

    model_config = WORD
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
    Single | RandomInit | Cat | TimeCat | Complement | Snapshots | Wide | Distilled | Bonsai | CatPca | CatAverage,
    Choose(REPRESENTATIONS),
]


# Axes and searches ----------------------------------------------------------------------------------------------------


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
        return self.steps.range[0] if isinstance(self.steps, CountRange) else min(self.steps)


class Grid(RootModel[Literal["grid"]]):
    """Every point of the product of the axes."""

    model_config = WORD
    root: Literal["grid"] = "grid"


class RandomSearch(Model):
    """Points drawn at random, each axis independently."""

    samples: Annotated[int, Field(ge=1, le=MAX_POINTS), expect(f"a whole number from 1 to {MAX_POINTS}")] = Field(
        description="how many points"
    )
    seed: SeedNumber = Field(0, description="names the draws; more samples of the same seed begin alike")


class Random(Model):
    """Points drawn at random."""

    random: RandomSearch = Field(description="points drawn at random")


SEARCHES: Mapping[str, type[BaseModel]] = {"grid": Grid, "random": Random}

Search: TypeAlias = Annotated[Grid | Random, Choose(SEARCHES)]
