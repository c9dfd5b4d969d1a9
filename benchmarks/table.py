"""What is measured, and is the goal met? Lines of the table, their figures, and how they are printed.

A line is prepared once for a size, which gives a function that measures one repeat; what is printed of its figures is
the median with the smallest and the largest. A goal belongs to the line's full size: at another one the table says so.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Size = Mapping[str, float]
Measure = Callable[[bool], dict[str, float]]  # one repeat; True: the peer comes first this time


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A bound that a figure reaches or does not."""

    bound: float
    at_least: bool = False  # False: at most

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{'at least' if self.at_least else 'at most'} {self.bound:g}"


def at_least(bound: float) -> Goal:
    return Goal(bound=bound, at_least=True)


def at_most(bound: float) -> Goal:
    return Goal(bound=bound)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number that a line measures; `measure` returns it under this name, which ends in its unit."""

    name: str
    goal: Goal | None = None  # None: it is there to explain the others


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the table."""

    name: str  # what one types to measure it alone
    question: str
    prepare: Callable[..., Measure]  # called with a folder of its own that is empty, and the size as keywords
    figures: tuple[Figure, ...]
    full: Size  # that of the goal
    usual: Size = field(default_factory=dict)  # what differs, where the full one takes hours
    quick: Size  # what differs, for a look whether it runs
    repeats: int = 5  # at the usual size
    missing: Callable[[], str | None] = lambda: None  # why it cannot be measured on this machine

    def size(self, scale: str, changes: Size) -> dict[str, float]:
        """The size at a scale ("full", "usual" or "quick"), with changes to those keys that the line has."""
        own = {key: value for key, value in changes.items() if key in self.full}
        return {**self.full, **({} if scale == "full" else getattr(self, scale)), **own}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What came of a line."""

    line: Line
    size: Size
    values: Mapping[str, Sequence[float]] = field(default_factory=dict)  # by figure, one of each repeat
    unmeasured: str | None = None  # why there are none

    @property
    def scale(self) -> str:
        """At which size it was measured, in words."""
        full = self.line.full
        smaller = [f"{key} {value:g} of {full[key]:g}" for key, value in self.size.items() if value != full[key]]
        return ", ".join(smaller) or "full"

    def rows(self) -> list[tuple[str, ...]]:
        """The cells of the line's rows in the order of HEADINGS, those with a goal first."""
        figures = sorted(self.line.figures, key=lambda figure: figure.goal is None)
        return [self._row(figure) for figure in figures]

    def _row(self, figure: Figure) -> tuple[str, ...]:
        goal = str(figure.goal) if figure.goal else ""
        values = self.values.get(figure.name, ())
        if not values:
            why = self.unmeasured or "no value"
            return (self.line.name, figure.name, goal, f"unmeasured: {why}", "", "", "", "")
        middle = statistics.median(values)
        verdict = ""
        if figure.goal:
            verdict = "yes" if figure.goal.met(middle) else "no"
            if self.scale != "full":
                verdict += ", at this size"
        if self.unmeasured:
            verdict = "; ".join(filter(None, [verdict, self.unmeasured]))
        spread = f"{number(min(values))} to {number(max(values))}"
        return (self.line.name, figure.name, goal, number(middle), spread, str(len(values)), verdict, self.scale)

    def as_json(self) -> dict[str, Any]:
        return {
            "question": self.line.question,
            "size": dict(self.size),
            "scale": self.scale,
            "unmeasured": self.unmeasured,
            "goals": {f.name: str(f.goal) for f in self.line.figures if f.goal},
            "values": {name: list(values) for name, values in self.values.items()},
        }


HEADINGS = ("line", "figure", "goal", "median", "smallest to largest", "n", "met", "size")


def number(value: float) -> str:
    """Three digits, and no exponent for what people count."""
    if not math.isfinite(value):
        return str(value)
    if value and 1e-3 <= abs(value) < 100:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}"


def as_text(measured: Sequence[Measured]) -> str:
    """The table for a terminal."""
    rows = [HEADINGS, *(row for line in measured for row in line.rows())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def as_markdown(measured: Sequence[Measured]) -> str:
    """The table for a page."""
    rows = [HEADINGS, ("---",) * len(HEADINGS), *(row for line in measured for row in line.rows())]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
