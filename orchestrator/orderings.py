"""Which orderings may a sweep ask for? The kinds that `vary.ordering` lists: when the examples of a mixture come.

Every kind is a class in one visible table, found by the word that a sweep file uses for it; a new kind is one
class beside its siblings. A kind names components as the sweep does and becomes the `Ordering` of a trial, which
names them by content. The stream of examples is made by `trainables/ordering.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, Field

from orchestrator.model import (
    Choose,
    Count,
    Listed,
    Loc,
    Model,
    Name,
    OneOf,
    PlugIn,
    Problem,
    Share,
    Unkeyed,
    Weights,
    show,
)
from trainables import plugins
from trainables.mixture import shares_of
from trainables.spec import SHUFFLED, Ordering


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


class Shuffled(OrderingKind, Unkeyed):
    """Every example at any time."""

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


class OrderingCode(OrderingKind, PlugIn):
    """An ordering of the user's: code that returns arrival times."""

    plugin = "ordering"

    @property
    def label(self) -> str:
        return self.root

    def among(self, contents: Mapping[str, str]) -> Ordering:
        """Raises PluginError if the code is not there."""
        path = plugins.resolve("ordering", self.root, ORDERINGS)
        return Ordering(kind=path, sequence=tuple(contents.values()), code=plugins.code("ordering", path))


ORDERINGS: Mapping[str, type[BaseModel]] = {
    "shuffled": Shuffled,
    "sequential": Sequential,
    "blocked": Blocked,
    "annealed": Annealed,
    "curriculum": Curriculum,
    "withheld": Withheld,
}

OrderingChoice: TypeAlias = Annotated[
    Shuffled | Sequential | Blocked | Annealed | Curriculum | Withheld | OrderingCode,
    Choose(ORDERINGS, code=OrderingCode),
]


def _rates(weights: Mapping[str, float], contents: Mapping[str, str]) -> tuple[tuple[str, float], ...]:
    """Content and share of the components that are there, sorted, without those of weight 0."""
    present = {contents[name]: weight for name, weight in weights.items() if name in contents and weight > 0}
    return tuple(sorted((content, float(share)) for content, share in shares_of(present).items())) if present else ()
