"""Which point should a search try next? Samplers of Optuna, asked and told, without anything that a restart could lose.

What a search knows is its history: what was proposed, and what came of it. Optuna holds none of it for longer than one
question. For each one the history is told to a new study in memory and a new sampler, whose seed is made from the seed
of the search and the number of the proposal. So the answer depends on the history alone, however often the process was
started again; the store keeps the history, and nothing is unpickled. Which values the points may have is `space.py`.
"""

from __future__ import annotations

import itertools
import math
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator.space import MAX_REPEATED_DRAWS, Coordinate, Optuna, Point, Space, Value, WidthRange, key, sobol
from trainables.spec import derive_seed

if TYPE_CHECKING:
    import optuna

    from orchestrator.sweep import Sweep

MIN_STARTUP = 8  # points told before a sampler is asked; more where there are more coordinates
MAX_POPULATION = 50  # of nsga2
GENERATION = "NSGAIISampler:generation"  # where Optuna keeps it; what no sampler chose is the first population
MAX_REASKED = 20  # times for one proposal, if the answers are points that were proposed before


@dataclass(frozen=True)
class Proposal:
    """A point that a search wants to be tried."""

    number: int  # from 0, in the order of asking
    point: Point
    params: Mapping[str, Value]  # of which a space makes the point
    attributes: Mapping[str, Any]  # what else a search has to be given back after a restart; JSON


@dataclass(frozen=True)
class _Outcome:
    """What came of a point."""

    state: str = "RUNNING"  # a name of Optuna's TrialState
    values: tuple[float, ...] | None = None
    violations: tuple[float, ...] = ()
    stopped_at: int | None = None  # step


class Optimiser:
    """Asks for points and is told what they reached."""

    def __init__(self, sweep: Sweep, sizes: Mapping[str, int]) -> None:
        """
        Args:
            sweep: one with the search `optuna`.
            sizes: component to number of training examples, as `space.points` takes it.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)  # else it announces every study and trial
        assert isinstance(sweep.search, Optuna), "only this search asks as it goes"
        self._asked = sweep.search.optuna
        self._space = Space(sweep, sizes)
        self._start = self._space.start()
        self._proposals: list[Proposal] = []
        self._outcomes: list[_Outcome] = []
        self._warm: list[tuple[dict[str, Value], _Outcome]] = []
        self._frozen: dict[int, optuna.trial.FrozenTrial] = {}
        self._seen: set[tuple[Any, ...]] = set()

    @property
    def startup(self) -> int:
        """How many points are told before the sampler chooses; until then they fill the space evenly."""
        least = max(MIN_STARTUP, 2 * (len(self._space.coordinates) + 1))
        if self._asked.sampler == "nsga2":  # the first population
            return max(least, min(self._asked.samples // 5, MAX_POPULATION))
        return least

    def ask(self) -> Proposal | None:
        """The next point to try, one that was not proposed before; None where the space has no more.

        The starting points come first, then an even design, then what the sampler chooses. What is still running
        counts: samplers keep away from it.
        """
        if len(self._seen) >= self._space.size:
            return None
        study = self._study()
        planned = next(self._planned(), None)
        if planned:
            study.enqueue_trial(planned[0])
        for _ in range(1 if planned else MAX_REASKED):
            # A point that was proposed before stays in this study as one that is running, so it is avoided.
            trial = study.ask()
            params = self._space.draw(partial(_suggest, trial))
            if self._is_new(params):
                return self._add(params, planned[1] if planned else _generation(study))
        by_chance = next(self._by_chance(), None)
        return None if by_chance is None else self._add(by_chance, _generation(study))

    def restore(self, params: Mapping[str, Value], attributes: Mapping[str, Any]) -> Proposal:
        """The proposal of an earlier process, to be told or finished; in the order in which they were asked for.

        Raises:
            SweepError: the params are not of this sweep's space.
        """
        self._space.point(params)
        return self._add(dict(params), attributes)

    def tell(self, proposal: Proposal, values: Sequence[float] | None, violations: Sequence[float] = ()) -> None:
        """What a proposal reached.

        Args:
            values: of each objective. None, or a number that is not finite: it failed, and says nothing about others.
            violations: of each constraint; at most 0 where it is kept.
        """
        self._end(proposal, _reached(values, violations))

    def stopped(self, proposal: Proposal, step: int, value: float) -> None:
        """A proposal that was ended early: the objective at that step. Of several objectives it says nothing."""
        known = len(self._asked.objective) == 1 and math.isfinite(value)
        self._end(proposal, _Outcome("PRUNED", (value,), stopped_at=step) if known else _Outcome("FAIL"))

    def warm(self, point: Point, values: Sequence[float], violations: Sequence[float] = ()) -> bool:
        """Tell of a point of another sweep. False: it lies outside of this space, or has no finite values."""
        params, outcome = self._space.params(point), _reached(values, violations)
        if params is None or outcome.state == "FAIL":
            return False
        self._warm.append((params, outcome))
        return True

    def _end(self, proposal: Proposal, outcome: _Outcome) -> None:
        assert self._outcomes[proposal.number].state == "RUNNING", "a proposal is told once"
        self._outcomes[proposal.number] = outcome
        self._frozen.pop(proposal.number, None)

    def _add(self, params: Mapping[str, Value], attributes: Mapping[str, Any]) -> Proposal:
        point = self._space.point(params)
        proposal = Proposal(len(self._proposals), point, params, attributes)
        self._proposals.append(proposal)
        self._outcomes.append(_Outcome())
        self._seen.add(key(point))
        return proposal

    def _is_new(self, params: Mapping[str, Value]) -> bool:
        return key(self._space.point(params)) not in self._seen

    # What is proposed -------------------------------------------------------------------------------------------------

    def _planned(self) -> Iterator[tuple[dict[str, Value], dict[str, Any]]]:
        """New points that no sampler has to choose: the starting points, then an even design until enough is told."""
        for point in self._start:
            params = self._space.params(point)
            if params is not None and self._is_new(params):
                yield params, {}
        told = ("COMPLETE", "PRUNED") if self._asked.sampler == "tpe" else ("COMPLETE",)
        outcomes = itertools.chain(self._outcomes, (outcome for _, outcome in self._warm))
        if self._asked.sampler == "qmc" or sum(o.state in told for o in outcomes) < self.startup:
            drawn = [proposal.attributes["draw"] for proposal in self._proposals if "draw" in proposal.attributes]
            first = max(drawn, default=-1) + 1
            draws = sobol(len(self._space.coordinates), self._asked.seed, first)
            for number, draw in enumerate(itertools.islice(draws, MAX_REPEATED_DRAWS), first):
                if self._is_new(params := self._space.at(draw)):
                    yield params, {"draw": number}

    def _by_chance(self) -> Iterator[dict[str, Value]]:
        """New points drawn at random, for a sampler that keeps to points that were proposed before."""
        uniform = random.Random(self._seed).random
        for _ in range(MAX_REPEATED_DRAWS):
            params = self._space.at([uniform() for _ in self._space.coordinates])
            if self._is_new(params):
                yield params

    # What Optuna is told ----------------------------------------------------------------------------------------------

    @property
    def _seed(self) -> int:
        return derive_seed(self._asked.seed, "proposal", str(len(self._proposals)))

    def _study(self) -> optuna.Study:
        """A new study that knows the history, with a new sampler."""
        import optuna

        directions = ["minimize" if objective.minimised else "maximize" for objective in self._asked.objective]
        study = optuna.create_study(sampler=self._sampler(), directions=directions)
        for number, (proposal, outcome) in enumerate(zip(self._proposals, self._outcomes, strict=True)):
            if number not in self._frozen:
                self._frozen[number] = _frozen(self._space, proposal.params, outcome, proposal.attributes)
            study.add_trial(self._frozen[number])
        for params, outcome in self._warm:
            study.add_trial(_frozen(self._space, params, outcome, {"generation": -1}))  # of no population
        return study

    def _sampler(self) -> optuna.samplers.BaseSampler:
        from optuna import samplers
        from optuna.exceptions import ExperimentalWarning

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            if self._asked.sampler == "tpe":
                return samplers.TPESampler(
                    n_startup_trials=self.startup,
                    multivariate=True,
                    group=True,  # of coordinates that have values together
                    constant_liar=True,
                    seed=self._seed,
                )
            if self._asked.sampler == "gp":
                return samplers.GPSampler(
                    n_startup_trials=self.startup, seed=self._seed, warn_independent_sampling=False
                )
            if self._asked.sampler == "nsga2":
                return samplers.NSGAIISampler(population_size=self.startup, seed=self._seed)
            return samplers.RandomSampler(seed=self._seed)  # of qmc all points are planned


def _reached(values: Sequence[float] | None, violations: Sequence[float]) -> _Outcome:
    if values is None or not all(map(math.isfinite, (*values, *violations))):
        return _Outcome("FAIL")
    return _Outcome("COMPLETE", tuple(map(float, values)), tuple(map(float, violations)))


def _generation(study: optuna.Study) -> dict[str, int]:
    """The generation of the last trial, for a sampler that has generations."""
    attributes = study.trials[-1].system_attrs
    return {"generation": attributes[GENERATION]} if GENERATION in attributes else {}


def _suggest(trial: Any, coordinate: Coordinate) -> Any:
    """What a trial of Optuna has at a coordinate."""
    name, values = coordinate.name, coordinate.values
    if values is None:
        return trial.suggest_float(name, 0.0, 1.0)
    if isinstance(values, tuple):
        return trial.suggest_categorical(name, values)
    suggest = trial.suggest_float if isinstance(values, WidthRange) else trial.suggest_int
    return suggest(name, *values.ends, log=values.log)


def _frozen(
    space: Space, params: Mapping[str, Value], outcome: _Outcome, attributes: Mapping[str, Any]
) -> optuna.trial.FrozenTrial:
    """A point and its outcome as Optuna has them."""
    import optuna

    fixed = optuna.trial.FixedTrial(dict(params))
    space.draw(partial(_suggest, fixed))
    stopped = {} if outcome.stopped_at is None or not outcome.values else {outcome.stopped_at: outcome.values[0]}
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState[outcome.state],
        values=outcome.values,
        params=fixed.params,
        distributions=fixed.distributions,
        system_attrs={GENERATION: attributes.get("generation", 0)},
        intermediate_values=stopped,
        constraints={str(place): violation for place, violation in enumerate(outcome.violations)},
    )
