"""Which trial comes next in a search? What an optimiser asks for becomes trials; what these reach is told to it.

A search has no state of its own: its points are kept in the sweep's folder when they are asked for, and what they
reached is in the store. A search that is run again tells its optimiser everything once more and goes on from there;
a point whose trial is known is told and not run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator import objectives
from orchestrator.journal import Journal, UnknownSweep
from orchestrator.plan import Plan, Planner, trial_json
from orchestrator.results import Lookup
from orchestrator.search import Optimiser, Proposal
from orchestrator.space import Optuna, point_of
from orchestrator.sweep import Sweep
from orchestrator.work import Work
from trainables.spec import TrialSpec

MOST_REPEATS = 100  # proposals in a row that are known already, before the space is taken for exhausted


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A trial that a search asked for."""

    trial: TrialSpec
    proposal: Proposal

    def as_json(self) -> dict[str, Any]:
        """The trial as the sweep's folder keeps it, and what brings the proposal back."""
        kept = {"params": dict(self.proposal.params), "attributes": dict(self.proposal.attributes)}
        return trial_json(self.trial) | {"proposal": kept}


class Proposals:
    """The trials of one search, those of its earlier runs first."""

    def __init__(self, plan: Plan, journal: Journal, lookup: Lookup, work: Work) -> None:
        """
        Args:
            plan: of the sweep; its trials stand for those that the search will ask for, and are not used.
            journal: the sweep's folder in its store.
            lookup: the results of stages.

        Raises:
            UnknownSweep: the search starts from what a sweep found that the store does not have.
        """
        assert isinstance(plan.sweep.search, Optuna), "only a search with an optimiser proposes"
        self._asked = plan.sweep.search.optuna
        self._plan, self._planner = plan, Planner(plan.sweep, plan.components)
        self._optimiser = Optimiser(plan.sweep, {name: c.num_train for name, c in plan.components.items()})
        self._journal, self._lookup, self._work = journal, lookup, work
        self._open: dict[str, list[Proposal]] = {}  # trial -> its proposals that have not been told
        self._told: dict[str, Callable[[Proposal], None]] = {}  # trial -> how a proposal of it is told
        self.warm = {name: self._warmed(name) for name in self._asked.warm_start}  # trials that each sweep gave
        self.earlier = [self._restored(kept) for kept in _history(journal, plan.sweep)]

    @property
    def wanted(self) -> int:
        """How many trials the sweep wants."""
        return self._asked.samples

    @property
    def trials(self) -> tuple[TrialSpec, ...]:
        """What earlier runs of the search asked for."""
        return tuple(asked.trial for asked in self.earlier)

    def as_json(self) -> dict[str, Any]:
        """What the sweep's plan says of the search."""
        return {"search": _identity(self._plan.sweep), "trials": [asked.as_json() for asked in self.earlier]}

    def next(self) -> Asked | None:
        """The next trial that is not known yet; None: there is none any more."""
        for _ in range(MOST_REPEATS):
            if len(self._open) + len(self._told) >= self.wanted:
                return None
            proposal = self._optimiser.ask()
            if proposal is None:
                return None
            trial = self._planner.trial(proposal.point)
            if trial.digest in self._told:
                self._told[trial.digest](proposal)
            elif trial.digest in self._open:
                self._open[trial.digest].append(proposal)
            else:
                self._open[trial.digest] = [proposal]
                return Asked(trial=trial, proposal=proposal)
        return None

    def ended(self, trial: TrialSpec, status: Mapping[str, Any]) -> None:
        """A trial has all the results that it will have.

        Args:
            status: the journal's event of its end.
        """
        steps, reached = status.get("steps"), status.get("objective")
        if status["status"] == "stopped" and steps is not None and reached is not None:
            self._tell(trial, lambda proposal: self._optimiser.stopped(proposal, steps, reached))
        else:
            values, violations = self._reached(trial, trial_json(trial)["cells"])
            self._tell(trial, lambda proposal: self._optimiser.tell(proposal, values, violations))

    def _reached(self, trial: TrialSpec, cells: list[Mapping[str, Any]]) -> tuple[list[float] | None, list[float]]:
        """What an optimiser is told of a trial: the objectives, None where it has none, and the constraints."""
        scores = objectives.scores(cells, self._lookup)
        if scores is None:
            return None, []
        compute = self._work.training_flops(trial)
        found = [objective.value(scores, compute) for objective in self._asked.objective]
        values = [value for value in found if value is not None]
        violations = [constraint.violation(scores, compute) for constraint in self._asked.constraints]
        return (values if len(values) == len(found) else None), violations

    def _tell(self, trial: TrialSpec, how: Callable[[Proposal], None]) -> None:
        self._told[trial.digest] = how
        for proposal in self._open.pop(trial.digest, ()):
            how(proposal)

    def _restored(self, kept: Mapping[str, Any]) -> Asked:
        proposal = self._optimiser.restore(kept["proposal"]["params"], kept["proposal"]["attributes"])
        trial = self._planner.trial(proposal.point)
        self._open.setdefault(trial.digest, []).append(proposal)
        return Asked(trial=trial, proposal=proposal)

    def _warmed(self, sweep: str) -> int:
        """Tell the optimiser what a sweep found, as far as it lies in this space; returns how many trials that is."""
        plan = Journal(self._journal.store, sweep).plan()
        contents = {name: component["content"] for name, component in plan["components"].items()}
        if contents != {name: component.content for name, component in self._plan.components.items()}:
            return 0
        count = 0
        for kept in plan["trials"]:
            point = point_of(self._plan.sweep, kept["design"])
            if point is not None:
                values, violations = self._reached(self._planner.trial(point), kept["cells"])
                count += values is not None and self._optimiser.warm(point, values, violations)
        return count


def _history(journal: Journal, sweep: Sweep) -> list[dict[str, Any]]:
    """The trials that this search asked for in earlier runs; none if it was another search."""
    try:
        plan = journal.plan()
    except UnknownSweep:
        return []
    same = plan.get("search") == _identity(sweep)
    return [trial for trial in plan["trials"] if same and "proposal" in trial]


def _identity(sweep: Sweep) -> str:
    """Names the space and the optimiser of a search: to another one, earlier proposals mean nothing."""
    told = sweep.model_dump(mode="json", exclude={"name", "question", "early_stopping", "resources"})
    told["search"]["optuna"].pop("samples")
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
