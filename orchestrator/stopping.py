"""Which trials are not worth going on with? The rules of early stopping that a sweep file may ask for.

A trial is looked at on its way, at its rungs: all its seeds are trained as far, what the features are worth by then is
measured on validation examples, and a rule compares that with what other trials had reached there. A trial that is
stopped keeps what it has done in the store, and goes on from there when a later sweep asks for the whole of it. The
rules themselves are Ray Tune's; `launch.py` sets them up.

Sources: Li et al. (2020), arXiv:1810.05934 (ASHA); Golovin et al. (2017), the median stopping rule of Vizier; Li et al.
(2018), arXiv:1603.06560 (Hyperband).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, Field

from orchestrator.model import Choose, Count, Model, Problem, expect
from orchestrator.objectives import Objective, Score, validation_accuracy
from trainables.spec import Rung

FOLLOWED = ("single", "cat", "time_cat", "wide")  # representations whose networks are trained side by side, unguided

GraceSteps = Annotated[Count, Field(description="steps of a trial before its first rung")]
Factor = Annotated[int, Field(ge=2, le=100), expect("a whole number from 2 to 100")]


class Rule(Model):
    """How trials are compared on their way."""

    grace_steps: GraceSteps
    objective: Objective | None = Field(
        None, description="what is compared, on validation examples; by default what the search looks for, or worst_gap"
    )

    def problems(self) -> Iterator[Problem]:
        if self.objective is not None and self.objective.label == "compute":
            message = "found compute, which is the same for all at a rung; a gap or an accuracy is possible"
            yield Problem(("objective",), message)

    def rungs(self, steps: int) -> tuple[int, ...]:
        """The steps after which a trial of so many steps is looked at, the last left out."""
        raise NotImplementedError


class Geometric(Rule):
    """Rungs at the first one's steps times powers of a factor."""

    reduction_factor: Factor = Field(3, description="one in so many goes on, to so many times the steps")

    def rungs(self, steps: int) -> tuple[int, ...]:
        found = []
        at = self.grace_steps
        while at < steps:
            found.append(at)
            at *= self.reduction_factor
        return tuple(found)


class Regular(Rule):
    """Rungs at multiples of the first one's steps."""

    min_trials: Count = Field(4, description="trials that have come as far, before one is stopped")

    def rungs(self, steps: int) -> tuple[int, ...]:
        return tuple(range(self.grace_steps, steps, self.grace_steps))


class Asha(Model):
    """Asynchronous successive halving: a trial goes on if it is among the best at its rung so far."""

    asha: Geometric = Field(description="asynchronous successive halving")


class Median(Model):
    """A trial goes on if its best is not worse than the median of the others' running means."""

    median: Regular = Field(description="the median stopping rule")


class HyperBand(Model):
    """Brackets of trials that wait for each other at rungs, where one in so many goes on."""

    hyperband: Geometric = Field(description="brackets of successive halving")


RULES: Mapping[str, type[BaseModel]] = {"asha": Asha, "median": Median, "hyperband": HyperBand}

EarlyStopping: TypeAlias = Annotated[Asha | Median | HyperBand, Choose(RULES)]


def settings(choice: Asha | Median | HyperBand) -> Rule:
    """What is set of a rule."""
    ((_, rule),) = list(choice)
    return rule  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """Early stopping as one sweep has it."""

    rule: Asha | Median | HyperBand
    objective: Objective
    most_steps: int  # of the sweep's longest trial
    history: tuple[tuple[str, int, float], ...] = ()  # (trial, steps, objective) at rungs in earlier runs of the sweep

    @property
    def name(self) -> str:
        """Names what decides: what another rule has stopped means nothing to this one."""
        return json.dumps([self.rule.model_dump(mode="json"), self.objective.label], sort_keys=True)

    def without(self, trials: Collection[str]) -> Stopping:
        """The same, without the history of these trials: they come by their rungs again."""
        return replace(self, history=tuple(found for found in self.history if found[0] not in trials))

    @property
    def unit(self) -> int:
        """Steps to the first rung: schedulers count in them."""
        return settings(self.rule).grace_steps

    @property
    def longest(self) -> int:
        """The longest trial, in units."""
        return max(1, math.ceil(self.most_steps / self.unit))

    def objective_at(self, rung: Rung, lookup: Callable[[str, str], Mapping[str, Any] | None]) -> float | None:
        """What a trial has reached at a rung; None: it cannot be computed, because a network diverged."""
        found = []
        for cell in rung.cells:
            accuracy = validation_accuracy(lookup("probe", cell.transfer.digest))
            direct = validation_accuracy(lookup("probe", cell.direct.digest)) if cell.direct else None
            if accuracy is None or (cell.direct and direct is None):
                return None
            found.append(Score(seed=cell.seed, component=cell.component, accuracy=accuracy, direct=direct))
        return self.objective.value(found, None)
