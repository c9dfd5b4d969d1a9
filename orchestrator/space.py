"""Which points does a sweep visit? What may stand on each axis of its design, and the product of the axes.

Every kind of mixture, ordering and representation is a class in one visible table, found by the word that a
sweep file uses for it; a new kind is one class beside its siblings. The words for "impossible" live here too,
because each model of a sweep file is built from them. Where a value stood in a file is `sweep.py`.
"""

from __future__ import annotations

import difflib
import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from types import GenericAlias
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    RootModel,
    TypeAdapter,
    ValidationError,
    WrapValidator,
    model_validator,
)
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from trainables.mixture import shares_of
from trainables.spec import SHUFFLED, Ordering

if TYPE_CHECKING:
    from orchestrator.sweep import Sweep

MAX_POINTS = 1_000_000  # of one sweep; a grid beyond it is a slip of the pen, and planning it would hang
MAX_REPEATED_DRAWS = 10_000  # in a row, before random search takes the space for exhausted

Loc: TypeAlias = tuple[int | str, ...]
Mixtures: TypeAlias = Iterator[tuple[str, tuple[float, ...]]]  # label, (K,) shares


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
    mixture: str = field(default="weights", compare=False)  # where the weights come from, e.g. "simplex"


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
        yield from map(_point, itertools.product(*axes))


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
    """The values or the range of each axis, in the order of `_point`."""
    vary, names = sweep.vary, tuple(sweep.components)
    mixtures: dict[tuple[tuple[str, float], ...], str] = {}
    for choice in vary.mixture:
        for label, shares in choice.mixtures(names, sizes):
            mixtures.setdefault(tuple(zip(names, shares, strict=True)), label)
    return [
        list(mixtures.items()),
        vary.ordering,
        vary.architecture,
        vary.width,
        vary.depth,
        [choice.label for choice in vary.representation],
        (sweep.pretrain.steps,) if vary.steps is None else vary.steps,
        vary.train_examples,
    ]


def _point(values: Sequence[Any]) -> Point:
    (weights, mixture), ordering, architecture, width, depth, representation, steps, train_examples = values
    return Point(weights, ordering, architecture, width, depth, representation, steps, train_examples, mixture)


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
            yield _point([d if isinstance(a, Range) else a[d] for a, d in zip(axes, draw, strict=True)])


def _place(length: int) -> Callable[[float], int]:
    """The position in a list of that length at a uniform draw from [0, 1)."""
    return lambda uniform: int(uniform * length)


# What is possible, in words -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Problem:
    """Something impossible, at a place inside the value that reports it."""

    loc: Loc
    message: str


def show(value: object, length: int = 60) -> str:
    """A value as a sweep file would have it, shortened."""
    text = _flow(value)
    return text if len(text) <= length else text[: length - 1] + "…"


def impossible(found: object, possible: str) -> PydanticCustomError:
    """The error of one value: what was found and what is possible."""
    return _custom(f"found {show(found)}; {possible}")


def known(found: object, names: Sequence[str]) -> str:
    """What is possible where a name is expected, with the nearest one."""
    hint = nearest(found, names)
    return f"{listing(names)} {'is' if len(names) == 1 else 'are'} possible" + (f"; {hint}" if hint else "")


def nearest(found: object, names: Sequence[str]) -> str:
    """`did you mean 'x'?`, or nothing where no name is near."""
    written = str(found).lower()[:100]
    lowered = {name.lower(): name for name in names}
    near = difflib.get_close_matches(written, lowered, n=1, cutoff=0.6)
    near = near or [name for name in lowered if len(written) > 1 and name.startswith(written)][:1]
    return f"did you mean {lowered[near[0]]!r}?" if near and lowered[near[0]] != found else ""


def listing(names: Sequence[str], last: str = "and") -> str:
    return " ".join([", ".join(names[:-1]), last, names[-1]] if len(names) > 1 else names)


def rejection(problems: Sequence[Problem]) -> ValidationError:
    """The problems as one error of pydantic, which adds where the value is."""
    details = [InitErrorDetails(type=_custom(p.message), loc=p.loc, input=None) for p in problems]
    return ValidationError.from_exception_data("sweep", details)


def expect(possible: str) -> WrapValidator:
    """One message instead of what pydantic says about a value that is not `possible`."""

    def check(value: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise impossible(value, f"{possible} is possible") from None

    return WrapValidator(check)


def mapping(contents: str) -> BeforeValidator:
    """One message for a value that is no mapping, before its contents are looked at."""

    def check(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise impossible(value, f"a mapping {contents} is possible")
        return value

    return BeforeValidator(check)


# The lists of a sweep file, as the tuples that the models hold.
as_tuple = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)


class OneOf:
    """Marks a Literal: an unknown word lists the known ones."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        names = get_args(source)

        def check(value: Any) -> Any:
            if not (isinstance(value, str) and value in names):
                raise impossible(value, known(value, names))
            return value

        return core_schema.no_info_before_validator_function(check, handler(source))


class Listed:
    """Marks a tuple: a list of distinct values, or one value alone, or a range where there is one."""

    def __init__(self, item: Any, *, range: type[Range] | None = None, empty: bool = False, unique: bool = True):
        self.item, self.range, self.empty, self.unique = item, range, empty, unique

    @cached_property
    def adapter(self) -> TypeAdapter[tuple[Any, ...]]:
        items: Any = GenericAlias(tuple, (self.item, ...))
        return TypeAdapter(items, config=ConfigDict(strict=True))

    def check(self, value: Any) -> Any:
        if self.range and isinstance(value, (Mapping, self.range)):
            return self.range.model_validate(value)
        if value is None or (not self.empty and value in ([], ())):
            found = "nothing" if value is None else "an empty list"
            raise _custom(f"found {found}; at least one value is needed")
        values = self.adapter.validate_python(tuple(value) if isinstance(value, (list, tuple)) else (value,))
        repeated = _repeated(values) if self.unique else None
        if repeated is not None:
            message = f"found {show(values[repeated])} twice; list each value once"
            raise rejection([Problem((repeated,), message)])
        return values

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        written = handler(schema)
        forms = written.get("anyOf", [written])
        array = next(form for form in forms if form.get("type") == "array")
        if not self.empty:
            array["minItems"] = 1
        if self.unique:
            array["uniqueItems"] = True
        return {"anyOf": [array["items"], *forms]}


class Choose:
    """Marks a union of kinds: the word or the mapping's key says which, so an error is one message."""

    def __init__(
        self,
        kinds: Mapping[str, type[BaseModel]],
        otherwise: type[BaseModel] | None = None,
        written: str = "",
    ):
        self.kinds, self.otherwise = kinds, otherwise
        forms = [word if _is_word(kind) else f"{{{word}: …}}" for word, kind in kinds.items()]
        self.possible = f"{listing([*([written] if written else []), *forms], 'or')} is possible"

    def check(self, value: Any) -> Any:
        if isinstance(value, BaseModel):
            return value
        kind = self._kind(value)
        if kind is None:
            first = next(iter(value), "") if isinstance(value, Mapping) else value
            hint = nearest(first, [*self.kinds])
            raise impossible(value, self.possible + (f"; {hint}" if hint else ""))
        return kind.model_validate(value)

    def _kind(self, value: Any) -> type[BaseModel] | None:
        if isinstance(value, str):
            kind = self.kinds.get(value)
            return kind if kind and _is_word(kind) else None
        if not isinstance(value, Mapping):
            return None
        for word, kind in self.kinds.items():
            if word in value and not _is_word(kind):
                return kind
        # A misspelt kind has settings below it, which no weight has.
        return None if any(isinstance(v, (Mapping, list)) for v in value.values()) else self.otherwise

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.check, handler(source))


WORD = ConfigDict(strict=True, frozen=True, defer_build=True)  # of a kind that has no settings


class Model(BaseModel):
    """A mapping of a sweep file. One that exists is valid."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _has_its_keys(cls, data: Any) -> Any:
        if isinstance(data, cls):
            return data
        keys = {info.alias or name: info for name, info in cls.model_fields.items()}
        if not isinstance(data, Mapping):
            raise impossible(data, f"a mapping with {_keys(keys)} is possible")
        unknown = [
            Problem((key,), f"found an unknown key {show(key)}; {known(key, [*keys])}")
            for key in data
            if key not in keys
        ]
        missing = [
            Problem((), f"found no {key!r}, which is required: {info.description}")
            for key, info in keys.items()
            if info.is_required() and key not in data
        ]
        if unknown or missing:
            raise rejection(unknown or missing)
        return data

    @model_validator(mode="after")
    def _is_consistent(self) -> Any:
        problems = list(self.problems())
        if problems:
            raise rejection(problems)
        return self

    def problems(self) -> Iterator[Problem]:
        """What is impossible about the values together, each of them being possible."""
        yield from ()


def _custom(message: str) -> PydanticCustomError:
    return PydanticCustomError("sweep", "{message}", {"message": message})


def _is_word(kind: type[BaseModel]) -> bool:
    return issubclass(kind, RootModel)


def _keys(keys: Mapping[str, Any]) -> str:
    return f"the key {next(iter(keys))}" if len(keys) == 1 else f"the keys {listing([*keys])}"


def _repeated(values: Sequence[object]) -> int | None:
    """The position of the first value that was there before. By representation: mappings have no hash."""
    seen: set[str] = set()
    for position, value in enumerate(values):
        if repr(value) in seen:
            return position
        seen.add(repr(value))
    return None


def _flow(value: object) -> str:
    if isinstance(value, BaseModel):
        return _flow(value.model_dump(mode="json", by_alias=True, exclude_unset=True))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(v)}" for key, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:.12g}" if math.isfinite(value) else f"{value:g}".replace("inf", ".inf").replace("nan", ".nan")
    return repr(value)


# Values ---------------------------------------------------------------------------------------------------------------

MAX_COUNT = 1_000_000_000

_count = f"a whole number from 1 to {MAX_COUNT}"

Count = Annotated[int, Field(ge=1, le=MAX_COUNT), expect(_count)]  # of steps, examples, layers
SeedNumber = Annotated[int, Field(ge=0, lt=2**32), expect("a whole number from 0 to 4294967295")]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), expect("a number from 0 to 1")]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False), expect("a finite number of at least 0")]
Width = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False), expect("a number above 0 and up to 1000")]
Alpha = Annotated[float, Field(ge=0.001, le=1e6, allow_inf_nan=False)]
Name = Annotated[
    str,
    Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$"),
    expect("a name of up to 64 letters, digits, _ and - that begins with a letter"),
]
Weights = Annotated[Mapping[Name, Weight], mapping("of components to relative weights")]
Shares = Annotated[Mapping[Name, Share], mapping("of components to shares")]

# Where None means "as many as there are" or "as the architecture has it", a sweep file has a word for it.
Examples = Annotated[
    Count | None,
    BeforeValidator(lambda v: None if v == "all" else v, json_schema_input_type=Count | Literal["all"] | None),
    expect(f"{_count} or the word all"),
    PlainSerializer(lambda v: "all" if v is None else v, return_type=int | str),
]
Depth = Annotated[
    Count | None,
    BeforeValidator(lambda v: None if v == "default" else v, json_schema_input_type=Count | Literal["default"] | None),
    expect(f"{_count} or the word default"),
    PlainSerializer(lambda v: "default" if v is None else v, return_type=int | str),
]

ARCHITECTURES = ("mlp", "cnn", "resnet18", "resnet34", "resnet50", "vit_tiny", "vit_small")

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


# Mixtures -------------------------------------------------------------------------------------------------------------


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
        """Label and (K,) shares of each. Shares are ratios rounded once, so that equal mixtures are equal."""
        raise NotImplementedError

    def problems_among(self, names: Sequence[str]) -> Iterator[Problem]:
        """What is impossible with these components, all those mentioned being among them."""
        yield from ()


class Weighted(MixtureKind, RootModel[Weights]):
    """One mixture by its weights, which are relative. A component that is not named has none."""

    model_config = WORD

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
        yield "weights", tuple(float(shares.get(name, 0)) for name in names)


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

    def bounds(self, names: Sequence[str]) -> list[tuple[int, int]]:
        """(K, 2) lowest and highest share of each component, in multiples of 1/resolution."""
        chosen = names if self.components is None else self.components
        return [
            (
                math.ceil(exact(self.min.get(name, 0.0)) * self.resolution),
                math.floor(exact(self.max.get(name, 1.0)) * self.resolution),
            )
            if name in chosen
            else (0, 0)
            for name in names
        ]

    def problems(self) -> Iterator[Problem]:
        for name, low in self.min.items():
            if low > self.max.get(name, 1.0):
                yield Problem(("min", name), f"found {low:g}; its max is {self.max[name]:g}, which is lower")
        for key, bounds in (("min", self.min), ("max", self.max)):
            for name in bounds:
                if self.components is not None and name not in self.components:
                    yield Problem((key, name), f"found {name!r}, which `components` leaves out; remove it from one")


class Simplex(MixtureKind, Model):
    """A lattice over the simplex of mixtures."""

    simplex: SimplexGrid = Field(description="a lattice over the simplex of mixtures")

    def mentions(self) -> Iterator[tuple[Loc, str]]:
        for key in ("min", "max"):
            yield from ((("simplex", key, name), name) for name in getattr(self.simplex, key))
        for position, name in enumerate(self.simplex.components or ()):
            yield ("simplex", "components", position), name

    def support(self, names: Sequence[str]) -> set[str]:
        bounds = self.simplex.bounds(names)
        spare = self.simplex.resolution - sum(low for low, _ in bounds)
        return {name for name, (low, high) in zip(names, bounds, strict=True) if min(high, low + spare) > 0}

    def count(self, names: Sequence[str]) -> int:
        return lattice_size(self.simplex.resolution, self.simplex.bounds(names))

    def mixtures(self, names: Sequence[str], sizes: Mapping[str, int]) -> Mixtures:
        resolution = self.simplex.resolution
        for multiples in lattice(resolution, self.simplex.bounds(names)):
            yield "simplex", tuple(multiple / resolution for multiple in multiples)

    def problems_among(self, names: Sequence[str]) -> Iterator[Problem]:
        if self.count(names) == 0:
            bounds = [f"{key} {show(value)}" for key in ("min", "max") if (value := getattr(self.simplex, key))]
            yield Problem(
                ("simplex",),
                f"found no mixture of multiples of 1/{self.simplex.resolution} within "
                f"{' and '.join(bounds)}; widen the bounds or raise the resolution",
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
            yield "dirichlet", tuple(part / whole for part in millionths)


class LeaveOneOut(MixtureKind, RootModel[Literal["leave_one_out"]]):
    """One mixture for each component, of all the others in equal parts."""

    model_config = WORD
    root: Literal["leave_one_out"] = "leave_one_out"

    def count(self, names: Sequence[str]) -> int:
        return len(names)

    def mixtures(self, names: Sequence[str], sizes: Mapping[str, int]) -> Mixtures:
        for left_out in names:
            yield f"leave_one_out:{left_out}", tuple((name != left_out) / (len(names) - 1) for name in names)

    def problems_among(self, names: Sequence[str]) -> Iterator[Problem]:
        if len(names) < 2:
            yield Problem((), f"found leave_one_out with the one component {names[0]!r}; it needs at least two")


class Proportional(MixtureKind, RootModel[Literal["proportional"]]):
    """The union of the components: each weighs as much as it has training examples."""

    model_config = WORD
    root: Literal["proportional"] = "proportional"

    def mixtures(self, names: Sequence[str], sizes: Mapping[str, int]) -> Mixtures:
        total = sum(sizes[name] for name in names)
        yield "proportional", tuple(sizes[name] / total for name in names)


class Temperature(MixtureKind, Model):
    """Between equal and proportional: a component weighs its number of training examples to a power."""

    temperature: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False), expect("a number from 0 to 10")] = Field(
        description="the power: 0 weighs all components alike, 1 is proportional"
    )

    def mixtures(self, names: Sequence[str], sizes: Mapping[str, int]) -> Mixtures:
        # Twelve digits: powers may differ in their last bit between machines.
        powers = [float(f"{sizes[name] ** self.temperature:.12g}") for name in names]
        yield f"temperature:{self.temperature:g}", tuple(power / math.fsum(powers) for power in powers)


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


def lattice(total: int, bounds: Sequence[tuple[int, int]]) -> Iterator[tuple[int, ...]]:
    """Every tuple of whole numbers with that sum, each within its (low, high), in lexicographic order."""
    if not bounds:
        if total == 0:
            yield ()
        return
    (low, high), rest = bounds[0], bounds[1:]
    least, most = sum(low for low, _ in rest), sum(high for _, high in rest)
    for first in range(max(low, total - most), min(high, total - least) + 1):
        for others in lattice(total - first, rest):
            yield (first, *others)


def lattice_size(total: int, bounds: Sequence[tuple[int, int]]) -> int:
    """How many tuples `lattice` has, counted without making them."""
    ways = [1] + [0] * total  # ways[t]: tuples over the components so far that sum to t
    for low, high in bounds:
        upto = [0, *itertools.accumulate(ways)]
        ways = [upto[max(t - low + 1, 0)] - upto[max(t - max(high, low - 1), 0)] for t in range(total + 1)]
    return ways[total]


def exact(value: float) -> Fraction:
    """The decimal that was written: 0.1 is a tenth."""
    return Fraction(repr(value))


# Orderings ------------------------------------------------------------------------------------------------------------


class OrderingKind:
    """What `vary.ordering` may list. A function of the same name in trainables/ordering.py makes the stream."""

    @property
    def sequence(self) -> tuple[str, ...] | None:
        """The components one after the other, where an ordering must name every one that has weight."""
        return None

    @property
    def label(self) -> str:
        """The ordering in one word, as the results table has it."""
        raise NotImplementedError

    def mentions(self) -> Iterator[tuple[Loc, str]]:
        """Every name of a component in it, and where."""
        yield from ()

    def among(self, contents: Mapping[str, str]) -> Ordering:
        """The ordering of these components: name to digest of the content."""
        raise NotImplementedError


class Shuffled(OrderingKind, RootModel[Literal["shuffled"]]):
    """Every example at any time."""

    model_config = WORD
    root: Literal["shuffled"] = "shuffled"

    @property
    def label(self) -> str:
        return "shuffled"

    def among(self, contents: Mapping[str, str]) -> Ordering:
        return SHUFFLED


class Sequential(OrderingKind, Model):
    """One component after the other."""

    sequential: Annotated[tuple[Name, ...], Listed(Name)] = Field(description="the components in order")

    @property
    def sequence(self) -> tuple[str, ...]:
        return self.sequential

    @property
    def label(self) -> str:
        return f"sequential:{','.join(self.sequential)}"

    def mentions(self) -> Iterator[tuple[Loc, str]]:
        yield from ((("sequential", position), name) for position, name in enumerate(self.sequential))

    def among(self, contents: Mapping[str, str]) -> Ordering:
        present = tuple(contents[name] for name in self.sequential if name in contents)
        return Ordering(kind="sequential", sequence=present) if len(present) > 1 else SHUFFLED


class Blocks(Model):
    """A sequence of components that comes round again and again."""

    sequence: Annotated[tuple[Name, ...], Listed(Name)] = Field(description="the components in order")
    repeats: Count = Field(description="how often the sequence comes round")


class Blocked(OrderingKind, Model):
    """A sequence of components again and again."""

    blocked: Blocks = Field(description="a sequence of components that comes round again and again")

    @property
    def sequence(self) -> tuple[str, ...]:
        return self.blocked.sequence

    @property
    def label(self) -> str:
        return f"blocked:{','.join(self.blocked.sequence)}:{self.blocked.repeats}"

    def mentions(self) -> Iterator[tuple[Loc, str]]:
        yield from ((("blocked", "sequence", position), name) for position, name in enumerate(self.blocked.sequence))

    def among(self, contents: Mapping[str, str]) -> Ordering:
        once = Sequential(sequential=self.blocked.sequence).among(contents)
        if once == SHUFFLED or self.blocked.repeats == 1:
            return once
        return Ordering(kind="blocked", sequence=once.sequence, repeats=self.blocked.repeats)


class Annealing(Model):
    """Rates that move in a straight line."""

    start: Weights = Field(alias="from", description="relative weights at the start")
    end: Weights = Field(alias="to", description="relative weights at the end")

    def __hash__(self) -> int:
        return hash(repr(self))  # the mappings have no hash

    def problems(self) -> Iterator[Problem]:
        for key, weights in (("from", self.start), ("to", self.end)):
            if not any(weights.values()):
                yield Problem((key,), f"found {show(weights)}; at least one component needs a weight above 0")


class Annealed(OrderingKind, Model):
    """The rate of each component moves from its weight at the start to its weight at the end.

    A component in neither list keeps a constant rate. How many examples of it come is the mixture's business.
    """

    annealed: Annealing = Field(description="rates that move in a straight line")

    @property
    def label(self) -> str:
        ends = (self.annealed.start, self.annealed.end)
        return "annealed:" + ":".join(",".join(f"{name}={w:.12g}" for name, w in end.items()) for end in ends)

    def mentions(self) -> Iterator[tuple[Loc, str]]:
        for key, weights in (("from", self.annealed.start), ("to", self.annealed.end)):
            yield from ((("annealed", key, name), name) for name in weights)

    def among(self, contents: Mapping[str, str]) -> Ordering:
        start, end = (_rates(weights, contents) for weights in (self.annealed.start, self.annealed.end))
        if len(contents) < 2 or start == end:
            return SHUFFLED
        return Ordering(kind="annealed", start=start, end=end)


class Curriculum(OrderingKind, Model):
    """By difficulty within each component, the components side by side."""

    curriculum: Annotated[Literal["easy_first", "hard_first"], OneOf()] = Field(description="which end comes first")

    @property
    def label(self) -> str:
        return f"curriculum:{self.curriculum}"

    def among(self, contents: Mapping[str, str]) -> Ordering:
        return Ordering(kind="curriculum", easy_first=self.curriculum == "easy_first")


class Window(Model):
    """A component, and the part of the run without it."""

    component: Name = Field(description="the component that is left out")
    start: Share = Field(0.0, alias="from", description="where the window begins, as a share of the run")
    until: Share = Field(description="where the window ends, as a share of the run")

    def problems(self) -> Iterator[Problem]:
        if self.start >= self.until:
            yield Problem(
                ("until",),
                f"found {self.until:g}; a share above `from`, which is {self.start:g}, is possible",
            )
        elif self.until - self.start == 1:
            yield Problem(("until",), "found 1; a window over the whole run leaves its examples no time to come")


class Withheld(OrderingKind, Model):
    """One component is absent from a window of the run; its examples come outside of it."""

    withheld: Window = Field(description="a component, and the part of the run without it")

    @property
    def label(self) -> str:
        window = self.withheld
        return f"withheld:{window.component}:{window.start:.12g}-{window.until:.12g}"

    def mentions(self) -> Iterator[tuple[Loc, str]]:
        yield ("withheld", "component"), self.withheld.component

    def among(self, contents: Mapping[str, str]) -> Ordering:
        window = self.withheld
        if len(contents) < 2 or window.component not in contents:
            return SHUFFLED
        return Ordering(kind="withheld", component=contents[window.component], window=(window.start, window.until))


ORDERINGS: Mapping[str, type[BaseModel]] = {
    "shuffled": Shuffled,
    "sequential": Sequential,
    "blocked": Blocked,
    "annealed": Annealed,
    "curriculum": Curriculum,
    "withheld": Withheld,
}

OrderingChoice: TypeAlias = Annotated[
    Shuffled | Sequential | Blocked | Annealed | Curriculum | Withheld, Choose(ORDERINGS)
]


def _rates(weights: Mapping[str, float], contents: Mapping[str, str]) -> tuple[tuple[str, float], ...]:
    """Content and share of the components that are there, sorted, without those of weight 0."""
    present = {contents[name]: weight for name, weight in weights.items() if name in contents and weight > 0}
    return tuple(sorted((content, float(share)) for content, share in shares_of(present).items())) if present else ()


# Representations ------------------------------------------------------------------------------------------------------


class RepresentationKind:
    """What `vary.representation` may list: what a probe reads."""

    splits_steps: ClassVar[bool] = False  # whether the members share the steps of one pretraining

    @property
    def members(self) -> int:
        """Networks whose features are side by side."""
        return 1

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
        return "single"


Members = Annotated[int, Field(ge=2, le=1000), expect("a whole number from 2 to 1000")]


class Cat(RepresentationKind, Model):
    """The features of several networks side by side, each pretrained for all the steps."""

    cat: Members = Field(description="how many networks")

    @property
    def members(self) -> int:
        return self.cat

    @property
    def label(self) -> str:
        return f"cat:{self.cat}"


class TimeCat(RepresentationKind, Model):
    """The features of several networks side by side, which share the steps of one."""

    time_cat: Members = Field(description="how many networks")
    splits_steps: ClassVar[bool] = True

    @property
    def members(self) -> int:
        return self.time_cat

    @property
    def label(self) -> str:
        return f"time_cat:{self.time_cat}"


REPRESENTATIONS: Mapping[str, type[BaseModel]] = {"single": Single, "cat": Cat, "time_cat": TimeCat}

RepresentationChoice: TypeAlias = Annotated[Single | Cat | TimeCat, Choose(REPRESENTATIONS)]


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
        )
        return math.prod(len(axis) for axis in (*axes, self.steps or (None,)) if isinstance(axis, tuple))

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
