"""What does a search look for? The objectives and constraints of a sweep file, and what a finished trial is worth.

Validation selects, test reports: every number here is a validation accuracy, so that the test split stays out of the
choice. Which points are tried is `space.py` and `search.py`, and what a trial's pretrainings cost is for the planner.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Field, model_validator

from orchestrator.model import Loc, Model, Problem, Unkeyed, expect, impossible, listing, nearest

if TYPE_CHECKING:
    from orchestrator.results import Lookup


# What a trial reached -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Score:
    """One component of one seed: what probes reach on validation examples, in [0, 1]."""

    seed: int
    component: str
    accuracy: float  # of the mixture's features
    direct: float | None  # of the direct baseline's features; None: the trial has no such baseline


def scores(cells: Sequence[Mapping[str, Any]], lookup: Lookup) -> list[Score] | None:
    """What a trial reached, by its primary protocol.

    Args:
        cells: those of `plan.trial_json(trial)`.
        lookup: the results of stages.

    Returns:
        One score for each seed and component; None while a stage that they rest on is missing, and for good where one
        diverged or cannot be read.
    """
    found = []
    for cell in cells:
        if cell["primary"]:
            score = _score(cell, lookup)
            if score is None:
                return None
            found.append(score)
    return found


def _score(cell: Mapping[str, Any], lookup: Lookup) -> Score | None:
    from orchestrator.results import chosen_baseline

    accuracy = validation_accuracy(lookup("probe", cell["transfer"]))
    direct = validation_accuracy(chosen_baseline(cell["baselines"], lookup)[1])
    if accuracy is None or (direct is None and cell["baselines"]):
        return None
    return Score(seed=cell["seed"], component=cell["component"], accuracy=accuracy, direct=direct)


def validation_accuracy(probe: Mapping[str, Any] | None) -> float | None:
    """None for a probe that is not there, or could not be fitted."""
    accuracy = (probe or {}).get("validation_accuracy")
    return None if accuracy is None or not math.isfinite(accuracy) else float(accuracy)


# What is looked for ---------------------------------------------------------------------------------------------------

Over: TypeAlias = Callable[[Iterable[float]], float]

# What a word asks for, and how the components' numbers become one.
WORDS: Mapping[str, tuple[str, Over]] = {
    "worst_gap": ("gap", max),
    "mean_gap": ("gap", fmean),
    "accuracy": ("accuracy", fmean),
    "worst_accuracy": ("accuracy", min),
    "compute": ("compute", fmean),
}
KINDS = ("gap", "accuracy")  # what a mapping may ask for of one component


class Objective(Unkeyed):
    """One number of a trial: over all components, of one of them, or what it costs."""

    root: (
        Literal["worst_gap", "mean_gap", "accuracy", "worst_accuracy", "compute"]
        | Annotated[Mapping[Literal["gap", "accuracy"], str], Field(min_length=1, max_length=1)]
    )

    @model_validator(mode="before")
    @classmethod
    def _is_known(cls, data: Any) -> Any:
        if isinstance(data, str) and data in WORDS:
            return data
        if isinstance(data, Mapping) and len(data) == 1:
            ((kind, name),) = data.items()
            if kind in KINDS and isinstance(name, str):  # whether there is such a component is for the sweep
                return data
        possible = listing([*WORDS, *(f"{{{kind}: COMPONENT}}" for kind in KINDS)], "or")
        hint = nearest(next(iter(data), "") if isinstance(data, Mapping) else data, [*WORDS, "gap"])
        raise impossible(data, f"{possible} is possible" + (f"; {hint}" if hint else ""))

    def __hash__(self) -> int:
        return hash(self.label)  # a mapping has no hash

    @property
    def label(self) -> str:
        """The objective in one word: `worst_gap`, `gap:digits`."""
        return self.root if isinstance(self.root, str) else ":".join(next(iter(self.root.items())))

    @property
    def minimised(self) -> bool:
        """Whether less is better."""
        return self._asked[0] != "accuracy"

    @property
    def compares(self) -> bool:
        """Whether it compares with the direct baselines."""
        return self._asked[0] == "gap"

    def value(self, scores: Sequence[Score], compute: float | None) -> float | None:
        """The number, from means over seeds; None where it cannot be computed.

        Args:
            scores: what the trial reached.
            compute: floating point operations of the pretrainings that the trial needs.
        """
        kind, over = self._asked
        if kind == "compute":
            return compute
        values = _means(scores, kind)
        if not isinstance(self.root, str):
            return values.get(next(iter(self.root.values())))
        return over(values.values()) if values else None

    def mentions(self) -> Iterator[tuple[Loc, str]]:
        """Every name of a component in it, and where."""
        if not isinstance(self.root, str):
            yield from (((kind,), name) for kind, name in self.root.items())

    @property
    def _asked(self) -> tuple[str, Over]:
        return WORDS[self.root] if isinstance(self.root, str) else (next(iter(self.root)), fmean)


def _means(scores: Sequence[Score], kind: str) -> dict[str, float]:
    """By component, the mean over seeds; empty where a baseline that a gap needs is missing."""
    found: dict[str, list[float]] = {}
    for score in scores:
        if kind == "accuracy":
            value = score.accuracy
        elif score.direct is None:
            return {}
        else:
            value = score.direct - score.accuracy
        found.setdefault(score.component, []).append(value)
    return {component: fmean(values) for component, values in found.items()}


Bound = Annotated[float, Field(allow_inf_nan=False), expect("a finite number")]


class Constraint(Model):
    """A bound on one number of a trial."""

    objective: Objective = Field(description="the number that is bounded, one of those that a search may look for")
    at_most: Bound | None = Field(None, description="the number must not be above it")
    at_least: Bound | None = Field(None, description="the number must not be below it")

    def problems(self) -> Iterator[Problem]:
        if (self.at_most is None) == (self.at_least is None):
            found = "neither at_most nor at_least" if self.at_most is None else "both at_most and at_least"
            yield Problem((), f"found {found}; one of them is needed, and two constraints make an interval")

    def violation(self, scores: Sequence[Score], compute: float | None) -> float:
        """How far beyond the bound the number is; at most 0: it is kept. Infinite where it cannot be computed."""
        value = self.objective.value(scores, compute)
        if value is None:
            return math.inf
        return value - self.at_most if self.at_most is not None else (self.at_least or 0.0) - value
