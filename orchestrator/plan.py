"""What is there to do? A sweep becomes trials, trials become unique stages, and these have a price.

Pure: what is known about data and networks, and what the store has, comes in as arguments. No torch, no Ray.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter
from typing import Any, NamedTuple

from orchestrator import space, stopping, transfer
from orchestrator.memory import no_collections
from orchestrator.model import PlugIn
from orchestrator.orderings import ORDERINGS
from orchestrator.space import Point
from orchestrator.sweep import Image, Sweep
from trainables import checkpoints, plugins, representation
from trainables.facts import NetworkSize
from trainables.mixture import mixture_of
from trainables.spec import (
    BACKWARD,
    Architecture,
    Cell,
    Component,
    Design,
    Mixture,
    Ordering,
    PretrainSpec,
    ProbeSpec,
    RetentionSpec,
    Rung,
    RungCell,
    Source,
    StageSpec,
    Training,
    TrajectorySpec,
    Transfer,
    TrialSpec,
    as_json,
    by_digest,
    in_order,
)

MAX_RAW_INPUTS = (
    4096  # values of an image up to which a probe of the raw input is a control: 32 x 32 in colour and less
)
PURPOSES = ("direct", "transfer", "random_init", "untrained", "raw", "retention", "trajectory")  # of a cell's stages
SOLVER_PASSES = 60  # passes over the features for one L2: about what L-BFGS takes, with gradients


class Needs(NamedTuple):
    """The stages of a trial once, by digest, as `TrialSpec.stages` has them but in another order."""

    shared: Mapping[str, StageSpec]  # what its rows are compared with; one object for all trials that have the same
    own: Mapping[str, StageSpec]  # the others


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The trials of a sweep in the order of its axes."""

    sweep: Sweep
    components: Mapping[str, Component]
    trials: tuple[TrialSpec, ...]

    @cached_property
    def stages(self) -> Mapping[str, StageSpec]:
        """Every stage once, by digest, in no order that says anything."""
        found: dict[str, StageSpec] = {}
        for needed in self.needs:
            found.update(needed.shared)
            found.update(needed.own)
        return found

    @cached_property
    def needs(self) -> Sequence[Needs]:
        """The stages of every trial, in the order of the trials."""
        with no_collections():
            return _needs(self.trials)

    def as_json(self) -> dict[str, Any]:
        """What the sweep's folder keeps: enough to read its results without planning it again."""
        return {
            "sweep": self.sweep.name,
            "question": self.sweep.question,
            "direct_kind": self.sweep.direct.kind,
            "label_space": self.sweep.label_space,
            "protocol": transfer.label(self.sweep.transfer.specs()[0]),
            "components": {
                name: {
                    "dataset": c.source.dataset,
                    "content": c.content,
                    "num_classes": c.num_classes,
                    "num_train": c.num_train,
                    "num_validation": c.num_validation,
                    "num_test": c.num_test,
                    "image_shape": list(c.image_shape),
                }
                for name, c in self.components.items()
            },
            "trials": [trial_json(trial) for trial in self.trials],
        }


def trial_json(trial: TrialSpec) -> dict[str, Any]:
    """A trial as the sweep's folder and MLflow keep it: its design, and the digests that each row rests on."""
    return {
        "digest": trial.digest,
        "design": {
            **as_json(trial.design),
            "mixture": dict(trial.design.mixture),
            "mixture_label": trial.design.mixture_label,
            "label": trial.design.label,
        },
        "cells": [_cell_json(cell) for cell in trial.cells],
        "stages": [(stage.kind, stage.digest) for stage in trial.stages()],
    }


def _cell_json(cell: Cell) -> dict[str, Any]:
    return {
        "seed": cell.seed,
        "component": cell.component,
        "weight": cell.weight,
        "protocol": transfer.label(cell.transfer.transfer),
        "shots": cell.transfer.transfer.shots,
        "primary": cell.primary,
        "tunes": cell.transfer.transfer.protocol in transfer.FINE_TUNING,
        **{name: stage.digest if stage else None for name, stage in zip(PURPOSES, cell.stages, strict=True)},
        "baselines": [
            {"probe": probe.digest, "pretrain": probe.members[0].digest, "steps": probe.members[0].steps}
            for probe in (cell.direct, *cell.budgets)
            if probe
        ],
        "pretrain": [member.digest for member in cell.transfer.members],
        # Of the members that lie in one run only the last is paid for.
        "paid": sorted({member.run.digest: member.digest for member in cell.transfer.members}.values()),
        "teachers": sorted(
            {stage.digest for stage in in_order(cell.transfer.requires)} - {m.digest for m in cell.transfer.members}
        ),
    }


# From the sweep to its trials -------------------------------------------------------------------------------------


def sources(sweep: Sweep, native: Mapping[str, tuple[int, int, int]]) -> dict[str, Source]:
    """How to read each component, all of them in the sweep's common image shape.

    Args:
        native: the (channels, height, width) that each component has of itself; the largest is the default.
    """
    largest = max(shape[1] for shape in native.values()), max(shape[2] for shape in native.values())
    image = Image(
        size=sweep.image.size or largest,
        channels=sweep.image.channels or (3 if any(shape[0] == 3 for shape in native.values()) else 1),
    )
    return {name: component.source(image) for name, component in sweep.components.items()}


def architectures(plan: Plan) -> list[Architecture]:
    """Every network of a plan once. The cells of a trial have the same ones, and so have teachers and checkpoints."""
    first = (trial.cells[0] for trial in plan.trials)
    probes = (probe for c in first for probe in (c.transfer, c.direct, c.random_init, c.raw) if probe)
    found = {probe.members[0].architecture for probe in probes}
    return sorted(found, key=lambda architecture: architecture.digest)


def plan(sweep: Sweep, components: Mapping[str, Component]) -> Plan:
    """The trials of a sweep.

    Raises:
        SweepError: two components have the same examples, or a weight is too small for a single example.
    """
    _require_distinct(sweep, components)
    planner = Planner(sweep, components)
    sizes = {name: component.num_train for name, component in components.items()}
    with no_collections():
        trials = tuple(planner.trial(point) for point in space.points(sweep, sizes))
    return Plan(sweep=sweep, components=components, trials=trials)


def _require_distinct(sweep: Sweep, components: Mapping[str, Component]) -> None:
    names: dict[str, str] = {}
    for name, component in components.items():
        twin = names.setdefault(component.content, name)
        if twin != name:
            raise sweep.error(
                f"components.{name}",
                f"found the same examples as in {twin!r}; components that differ are possible",
            )


# The direct baselines that a row is compared with, one for every budget, and its random initialisation.
Compared = tuple[tuple[ProbeSpec, ...], ProbeSpec]


class Planner:
    """Makes the trials of a sweep; parts that trials share are made once, so that their digests are computed once."""

    def __init__(self, sweep: Sweep, components: Mapping[str, Component]) -> None:
        self.sweep, self._components = sweep, components
        self._contents = {name: c.content for name, c in components.items()}
        self._transfers = sweep.transfer.specs()
        self._image_shape = next(iter(components.values())).image_shape
        self._memo: dict[Any, Any] = {}

    def trial(self, point: Point) -> TrialSpec:
        """The trial at a point of the design. Raises SweepError: a weight is too small for a single example."""
        design = Design(
            mixture=point.weights,
            ordering=point.ordering.label,
            architecture=point.architecture,
            width=point.width,
            depth=point.depth,
            representation=point.representation,
            steps=point.steps,
            train_examples=point.train_examples,
            training=point.training.label,
        )
        weights = dict(point.weights)
        comparisons = self._comparisons(point)
        readings = self._readings(point)
        raw = {name: self._raw(name) for name in self._components}
        untrained, first = self._untrained(point), self._transfers[0]
        pretraining = self._pretraining(point)
        cells = []
        with self._blaming("vary.representation"):
            networks = [representation.members(point.representation, pretraining(seed)) for seed in self.sweep.seeds]
        for seed, members in zip(self.sweep.seeds, networks, strict=True):
            for name, component in self._components.items():
                compared = comparisons[seed, name]
                retention = self._retention(point, seed, name, members, compared[0]) if self.sweep.retention else None
                trajectory = self._trajectory(members, component, compared[0]) if self.sweep.trajectory else None
                for (asked, reading), (directs, random_init) in zip(readings, compared, strict=True):
                    primary = asked is first
                    cells.append(
                        Cell(
                            seed=seed,
                            component=name,
                            weight=weights[name],
                            primary=primary,
                            transfer=ProbeSpec(members=members, component=component, transfer=reading),
                            direct=directs[0] if directs else None,
                            budgets=directs[1:],
                            random_init=random_init,
                            untrained=untrained[seed, name] if primary and directs else None,
                            raw=raw[name] if primary else None,
                            retention=retention if primary else None,
                            trajectory=trajectory if primary else None,
                        )
                    )
        return TrialSpec(design=design, cells=tuple(cells), rungs=self._rungs(point, cells))

    def _rungs(self, point: Point, cells: Sequence[Cell]) -> tuple[Rung, ...]:
        """Where a trial is looked at on its way. Networks that share its steps are as far along, each of its own."""
        asked = self.sweep.early_stopping
        if asked is None:
            return ()

        def until(member: PretrainSpec, steps: int) -> PretrainSpec:
            own = max(1, steps * member.training.steps // point.steps)
            return replace(member, until=own) if own < member.training.steps else member

        def at(cell: Cell, steps: int) -> RungCell:
            transfer = ProbeSpec(
                members=tuple(until(member, steps) for member in cell.transfer.members),
                component=cell.transfer.component,
                transfer=_of_baseline(cell.transfer.transfer),
            )
            direct = cell.direct if self.sweep.objective.compares else None
            return RungCell(seed=cell.seed, component=cell.component, transfer=transfer, direct=direct)

        return tuple(
            Rung(steps=steps, cells=tuple(at(cell, steps) for cell in cells if cell.primary))
            for steps in stopping.settings(asked).rungs(point.steps)
        )

    def _pretraining(self, point: Point) -> Callable[[int], representation.Pretraining]:
        """How the networks of a point are pretrained, by the seed of the replicate."""
        ordering, architecture = self._ordering(point), self._architecture(point)
        mixtures: dict[int, Mixture] = {}
        trainings: dict[int, Training] = {}

        def mixture(steps: int) -> Mixture:
            if steps not in mixtures:
                mixtures[steps] = self._mixture(point.weights, steps, point.train_examples)
            return mixtures[steps]

        def training(steps: int) -> Training:
            if steps not in trainings:
                trainings[steps] = self._training(point, steps)
            return trainings[steps]

        def of(seed: int) -> representation.Pretraining:
            # A limit on the examples holds for all members together: they draw from one pool.
            pool_seed = None if point.train_examples is None else seed

            def run(shown: Mixture, network: Architecture, optimised: Training, run_seed: int) -> PretrainSpec:
                return PretrainSpec(
                    mixture=shown,
                    ordering=ordering,
                    architecture=network,
                    training=optimised,
                    seed=run_seed,
                    pool_seed=pool_seed,
                )

            return representation.Pretraining(
                mixture=mixture, run=run, architecture=architecture, training=training, steps=point.steps, seed=seed
            )

        return of

    def _readings(self, point: Point) -> tuple[tuple[Transfer, Transfer], ...]:
        """Every protocol and number of shots: as the sweep has it, and as this representation is read."""
        key = ("readings", point.representation)
        if key not in self._memo:
            both = ((asked, _read_as(asked, point.representation)) for asked in self._transfers)
            self._memo[key] = tuple((asked, reading) for asked, reading in both if reading)
        return self._memo[key]  # type: ignore[no-any-return]

    def _mixture(self, weights: tuple[tuple[str, float], ...], steps: int, train_examples: int | None) -> Mixture:
        key = ("mixture", weights, steps, train_examples)
        if key not in self._memo:
            try:
                self._memo[key] = mixture_of(
                    dict(weights),
                    self._components,
                    num_examples=steps * self.sweep.pretrain.batch_size,
                    train_examples=train_examples,
                    label_space=self.sweep.label_space,
                )
            except ValueError as error:
                raise self.sweep.error("vary.mixture", str(error)) from error
        return self._memo[key]  # type: ignore[no-any-return]

    def _ordering(self, point: Point) -> Ordering:
        shown = tuple(name for name, weight in point.weights if weight > 0)
        key = ("ordering", point.ordering, shown)
        if key not in self._memo:
            with self._blaming("vary.ordering"):
                self._memo[key] = space.ordering_of(point, self._contents)
        return self._memo[key]  # type: ignore[no-any-return]

    def _architecture(self, point: Point) -> Architecture:
        key = ("architecture", point.architecture, point.width, point.depth)
        if key not in self._memo:
            with self._blaming("vary.architecture"):
                name = plugins.resolve("architecture", point.architecture, space.ARCHITECTURES)
                self._memo[key] = Architecture(
                    name=name,
                    width=point.width,
                    depth=point.depth,
                    image_shape=self._image_shape,
                    code=plugins.code("architecture", name) if plugins.is_code(name) else "",
                )
        return self._memo[key]  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def _blaming(self, path: str) -> Iterator[None]:
        """What is wrong with code of the user's becomes an error about the value that names it."""
        try:
            yield
        except plugins.PluginError as error:
            raise self.sweep.error(path, str(error)) from error

    def _training(self, point: Point, steps: int, *, deficit: bool = True) -> Training:
        key = ("training", point.training.label, steps, deficit)
        if key not in self._memo:
            training = point.training.of(self.sweep.pretrain).training(steps, gpu=bool(self.sweep.resources.gpu))
            if not deficit:
                training = replace(training, deficit=Training.deficit, deficit_window=Training.deficit_window)
            self._memo[key] = training
        return self._memo[key]  # type: ignore[no-any-return]

    def _comparisons(self, point: Point) -> Mapping[tuple[int, str], tuple[Compared, ...]]:
        """By (seed, component), for every protocol, what its rows are compared with; most points share them."""
        architecture = self._architecture(point)
        drawn = (point.weights, point.train_examples) if self.sweep.direct.kind == "same_examples" else None
        key = ("comparisons", point.steps, point.representation, architecture.digest, point.training.label, drawn)
        if key not in self._memo:
            self._memo[key] = {
                (seed, name): tuple(
                    (self._directs(point, name, seed, asked), self._random_init(point, seed, name, reading))
                    for asked, reading in self._readings(point)
                )
                for seed in self.sweep.seeds
                for name in self._components
            }
        return self._memo[key]  # type: ignore[no-any-return]

    def _directs(self, point: Point, name: str, seed: int, asked: Transfer) -> tuple[ProbeSpec, ...]:
        """The direct baseline of a component, read by the same protocol, with every budget that is tried.

        Fine-tuning is compared with a linear probe of the direct features: these are what it should make up for.
        """
        asked = _of_baseline(asked)
        found = []
        for steps in self.sweep.direct.budgets(point.steps):
            baseline = self._baseline(point, name, seed, steps)
            if baseline is not None:
                found.append(self._probe(("direct", baseline.digest), (baseline,), name, asked))
        return tuple(found)

    def _baseline(self, point: Point, name: str, seed: int, steps: int) -> PretrainSpec | None:
        """The direct baseline of a component: a pretraining whose mixture is the component alone.

        `same_steps`: as many steps, all its examples. `same_examples`: as many steps, only the examples that the
        mixture drew from it; None if it drew none. `full`: all its examples, as many steps as serve it best.
        """
        drawn = self._drawn(point, name) if self.sweep.direct.kind == "same_examples" else None
        if self.sweep.direct.kind == "same_examples" and drawn is None:
            return None
        architecture = self._architecture(point)
        key = ("baseline", name, steps, drawn, architecture.digest, point.training.label, seed)
        if key not in self._memo:
            (share,) = self._mixture(((name, 1.0),), steps, None).shares
            if drawn is not None:
                share = replace(share, pool=drawn[0], distinct=drawn[1])
            self._memo[key] = PretrainSpec(
                mixture=Mixture(shares=(share,)),
                architecture=architecture,
                training=self._training(point, steps, deficit=False),
                seed=seed,
            )
        return self._memo[key]  # type: ignore[no-any-return]

    def _drawn(self, point: Point, name: str) -> tuple[int, int] | None:
        """(pool, distinct) of a component in a mixture of all the steps; None: the mixture has none of it."""
        content = self._contents[name]
        shares = self._mixture(point.weights, point.steps, point.train_examples).shares
        return next(((s.pool, s.distinct) for s in shares if s.component.content == content), None)

    def _random_init(self, point: Point, seed: int, name: str, reading: Transfer) -> ProbeSpec:
        key = ("random", point.representation, self._architecture(point).digest, seed)
        if key not in self._memo:
            with self._blaming("vary.representation"):
                self._memo[key] = representation.untrained(point.representation, self._pretraining(point)(seed))
        return self._probe(key, self._memo[key], name, reading)

    def _untrained(self, point: Point) -> Mapping[tuple[int, str], ProbeSpec]:
        """By (seed, component), the baseline's network at its initialisation, read as it is: what validates it."""
        architecture, asked = self._architecture(point), _of_baseline(self._transfers[0])
        key = ("untrained", architecture.digest)
        if key not in self._memo:
            self._memo[key] = {
                (seed, name): self._probe(
                    ("random", "single", architecture.digest, seed),  # the same probe as that of `single` at random
                    (representation.initialisation(architecture, seed),),
                    name,
                    asked,
                )
                for seed in self.sweep.seeds
                for name in self._components
            }
        return self._memo[key]  # type: ignore[no-any-return]

    def _raw(self, name: str) -> ProbeSpec | None:
        """A linear probe of the pixels themselves; None where they are too many."""
        key = ("raw", name)
        if key not in self._memo:
            asked, small = self._transfers[0], math.prod(self._image_shape) <= MAX_RAW_INPUTS
            architecture = Architecture(name="raw", image_shape=self._image_shape)
            members = (representation.initialisation(architecture, 0),)
            self._memo[key] = self._probe(key, members, name, _linear(asked)) if small else None
        return self._memo[key]  # type: ignore[no-any-return]

    def _probe(
        self, what: tuple[Any, ...], members: tuple[PretrainSpec, ...], name: str, reading: Transfer
    ) -> ProbeSpec:
        key = ("probe", *what, name, reading)
        if key not in self._memo:
            self._memo[key] = ProbeSpec(members=members, component=self._components[name], transfer=reading)
        return self._memo[key]  # type: ignore[no-any-return]

    def _retention(
        self, point: Point, seed: int, name: str, members: tuple[PretrainSpec, ...], compared: Compared
    ) -> RetentionSpec:
        asked = self.sweep.retention
        assert asked, "nothing is measured that is not asked for"
        seeds = self.sweep.seeds
        other = seeds[(seeds.index(seed) + 1) % len(seeds)]
        directs, random_init = compared
        direct = directs[0].members[0] if directs else None
        return RetentionSpec(
            members=members,
            component=self._components[name],
            direct=direct,
            ceiling=self._baseline(point, name, other, direct.training.steps) if direct and other != seed else None,
            floor=random_init.members,
            examples=asked.examples,
            layers=asked.layers,
        )

    def _trajectory(
        self, members: tuple[PretrainSpec, ...], component: Component, compared: Compared
    ) -> TrajectorySpec | None:
        """Of the first member, from its initialisation to its end; None for a network that is not trained."""
        asked, run = self.sweep.trajectory, members[0].run
        assert asked, "nothing is measured that is not asked for"
        if not run.mixture.shares:
            return None
        steps = checkpoints.schedule(run.steps, asked.points)
        start = representation.initialisation(run.architecture, run.seed)
        between = [replace(run, until=step) for step in steps[1:-1]]
        return TrajectorySpec(
            checkpoints=(start, *between, run),
            component=component,
            direct=compared[0][0].members[0] if compared[0] else None,
            examples=asked.examples,
            plasticity_steps=asked.plasticity_steps,
        )


def _of_baseline(asked: Transfer) -> Transfer:
    """How a baseline is read: as the protocol asks, and for fine-tuning by a linear probe."""
    return _linear(asked) if asked.protocol in transfer.FINE_TUNING else asked


def _linear(asked: Transfer) -> Transfer:
    """A linear probe of the same examples."""
    return Transfer(l2=asked.l2, train_examples=asked.train_examples, shots=asked.shots)


def _read_as(asked: Transfer, label: str) -> Transfer | None:
    """How a protocol reads a representation; None: not at all: the controls of a concatenation are for linear ones."""
    kind, count = representation.parse(label)
    if kind in representation.LINEAR and asked.protocol not in transfer.LINEAR:
        return None
    if kind == "cat_average":
        return replace(asked, combine="average")
    if kind == "cat_pca":
        return replace(asked, compression=count)
    return asked


# What it costs ----------------------------------------------------------------------------------------------------


# What the stages of a plan are counted as, and how people call them.
STAGE_COUNTS = {
    "pretrainings": "pretrainings",
    "baselines": "direct baselines",
    "initialisations": "random initialisations",
    "checkpoints": "checkpoints",
    "probes": "probes",
    "retentions": "retention measurements",
    "trajectories": "trajectories",
}


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a plan costs, before and after sharing. Counts are of unique stages."""

    trials: int
    replicates: int  # trials times seeds
    pretrainings: int  # on mixtures; a mixture that is one component alone counts under baselines if one is needed
    baselines: int
    initialisations: int
    checkpoints: int
    probes: int
    retentions: int
    trajectories: int
    stored: int  # of all these stages, already in the store
    alone: int  # stages if every trial ran alone, with nothing shared
    examples: int  # shown in pretraining that is still to do
    flops: float  # of pretraining and probes still to do, an estimate
    flops_alone: float  # of everything, if every trial ran alone

    @property
    def stages(self) -> int:
        return sum(getattr(self, name) for name in STAGE_COUNTS)

    @property
    def share_saved(self) -> float:
        """Of the arithmetic of running every trial alone on an empty store, what sharing and the store save."""
        return 1 - self.flops / self.flops_alone if self.flops_alone else 0.0


@dataclass(frozen=True)
class Assignment:
    """A trial and the stages that it is the first to need, in its own order. The longest trial comes first."""

    trial: TrialSpec
    first_needs: tuple[StageSpec, ...]
    flops: float  # of `first_needs`


# `orchestrator.analysis.statistics.smallest_detectable(1.0, n)` for 2 to 20 seeds, which a test holds it against: a
# plan is shown in less time than importing the function takes.
DETECTABLE = (
    11.55, 3.264, 2.128, 1.682, 1.435, 1.273, 1.156, 1.067, 0.996, 0.938,
    0.889, 0.847, 0.810, 0.778, 0.749, 0.724, 0.701, 0.680, 0.660,
)  # fmt: skip


def detectable(seeds: int) -> float | None:
    """The smallest gap that so many seeds tell from 0 with 80 % power at two-sided 5 %, in standard deviations of the
    gap over seeds. None: one seed tells nothing. Beyond 20 seeds the normal approximation is within 1 %."""
    if seeds < 2:
        return None
    if seeds < len(DETECTABLE) + 2:
        return DETECTABLE[seeds - 2]
    normal = 1.95996 + 0.84162  # quantiles of the normal distribution at 97.5 % and 80 %
    return normal * math.sqrt((1 + 1.95996**2 / (2 * seeds)) / seeds)


def _needs(trials: Iterable[TrialSpec]) -> list[Needs]:
    """What rows are compared with is made once for many trials: it is known again by its identity, looked at once."""
    known: dict[tuple[int, ...], dict[str, StageSpec]] = {}
    found = []
    for trial in trials:
        compared: list[ProbeSpec | None] = []
        own: list[StageSpec | None] = []
        for cell in trial.cells:
            compared += cell.direct, cell.random_init, cell.untrained, cell.raw, *cell.budgets
            own += cell.transfer, cell.retention, cell.trajectory
        key = tuple(map(id, compared))  # the trials keep them, so that no other object gets their identity
        if key not in known:
            known[key] = by_digest(filter(None, compared))
        found.append(Needs(known[key], by_digest(filter(None, own), known[key])))
    return found


def price(plan: Plan, sizes: Mapping[str, NetworkSize], stored: Collection[str]) -> Price:
    """What is still to do, and what sharing saves."""
    with no_collections():
        return _price(plan, _Cost(sizes), stored)


def _price(plan: Plan, cost: _Cost, stored: Collection[str]) -> Price:
    flops = {digest: cost.flops(stage) for digest, stage in plan.stages.items()}
    alone, flops_alone = 0, 0.0
    shared: dict[int, float] = {}
    baselines: set[str] = set()
    for trial, needs in zip(plan.trials, plan.needs, strict=True):
        key = id(needs.shared)
        if key not in shared:
            shared[key] = sum(map(flops.__getitem__, needs.shared))
            direct = (probe for cell in trial.cells for probe in (cell.direct, *cell.budgets) if probe)
            baselines.update(probe.members[0].digest for probe in direct)
        alone += len(needs.shared) + len(needs.own)
        flops_alone += sum(map(flops.__getitem__, needs.own), shared[key])
    kinds = Counter(map(attrgetter("kind"), plan.stages.values()))
    runs = [stage for stage in plan.stages.values() if isinstance(stage, PretrainSpec)]
    initialisations = sum(not stage.mixture.shares for stage in runs)
    between = sum(stage.until is not None for stage in runs)
    to_do = [digest for digest in flops if digest not in stored]
    return Price(
        trials=len(plan.trials),
        replicates=len(plan.trials) * len(plan.sweep.seeds),
        pretrainings=len(runs) - initialisations - between - len(baselines),
        baselines=len(baselines),
        initialisations=initialisations,
        checkpoints=between,
        probes=kinds["probe"],
        retentions=kinds["retention"],
        trajectories=kinds["trajectory"],
        stored=len(flops) - len(to_do),
        alone=alone,
        examples=sum(run.mixture.num_examples for run in runs if run.until is None and run.digest not in stored),
        flops=sum(map(flops.__getitem__, to_do)),
        flops_alone=flops_alone,
    )


def schedule(plan: Plan, sizes: Mapping[str, NetworkSize], stored: Collection[str]) -> list[Assignment]:
    """The trials that still have something to compute, the longest first, so that no long one is left for the end.

    Every missing stage is assigned to the first trial that needs it. This orders the work and estimates it; who
    computes a stage in the end is whoever claims it first.
    """
    cost = _Cost(sizes)
    missing = {trial.digest: [stage for stage in trial.stages() if stage.digest not in stored] for trial in plan.trials}
    by_cost = sorted(plan.trials, key=lambda t: -sum(map(cost.flops, missing[t.digest])))
    taken: set[str] = set()
    assigned = []
    for trial in by_cost:
        needs = tuple(stage for stage in missing[trial.digest] if stage.digest not in taken)
        taken.update(stage.digest for stage in needs)
        if missing[trial.digest]:
            assigned.append(Assignment(trial, needs, sum(map(cost.flops, needs))))
    return assigned


def costs(plan: Plan, sizes: Mapping[str, NetworkSize]) -> dict[str, tuple[StageSpec, float]]:
    """Every stage of a plan by digest, with its price in FLOPs."""
    cost = _Cost(sizes)
    return {digest: (stage, cost.flops(stage)) for digest, stage in plan.stages.items()}


def workload(stage: StageSpec) -> str:
    """What a stage has in common with those that take time in the same proportion to their FLOPs."""
    if isinstance(stage, PretrainSpec):
        return f"{stage.kind} {stage.architecture.name}"
    network = stage.run if isinstance(stage, TrajectorySpec) else stage.members[0]
    what = stage.transfer.protocol if isinstance(stage, ProbeSpec) else stage.kind
    return f"{what} {network.architecture.name}"


def training_flops(trial: TrialSpec, sizes: Mapping[str, NetworkSize]) -> float:
    """Floating point operations of the pretrainings that a trial's representations need, for one seed."""
    cost = _Cost(sizes)
    runs = {run.digest: run for cell in trial.cells for run in in_order(cell.transfer.requires)}
    return sum(map(cost.flops, runs.values())) / len({cell.seed for cell in trial.cells})


class _Cost:
    """FLOPs of stages: exact for forward passes, backward taken as twice that; solvers by a usual number of passes."""

    def __init__(self, sizes: Mapping[str, NetworkSize]) -> None:
        self._sizes = sizes
        self._memo: dict[tuple[object, ...], float] = {}  # stages of all seeds cost the same

    def flops(self, stage: StageSpec) -> float:
        if isinstance(stage, PretrainSpec):
            if stage.until is not None or not stage.mixture.shares:  # kept on the way of its run, or not trained
                return 0.0
            examples = (1 + BACKWARD) * stage.mixture.num_examples + stage.guided_examples
            return float(examples) * self._forward(stage)
        key: tuple[object, ...]
        if isinstance(stage, ProbeSpec):
            # Members are of one architecture. Keyed by identity where digests would take longer than the rest.
            first = stage.members[0].architecture
            key = (id(first), len(stage.members), id(stage.component), id(stage.transfer))
            if key not in self._memo:
                self._memo[key] = self._probe(stage)
            return self._memo[key]
        if isinstance(stage, RetentionSpec):
            examples = 2 * min(stage.examples, stage.component.num_train) + stage.component.num_validation
            return float(examples) * sum(map(self._forward, stage.requires))
        mixture = stage.examples + min(stage.examples, stage.component.num_train)
        examples = mixture + min(stage.examples, stage.component.num_test)
        return float(examples) * sum(map(self._forward, stage.requires))

    def _forward(self, stage: PretrainSpec) -> float:
        """FLOPs of one forward pass of one example."""
        return float(self._sizes[stage.architecture.digest].flops)

    def _probe(self, stage: ProbeSpec) -> float:
        component, asked = stage.component, stage.transfer
        train = min(asked.train_examples or component.num_train, component.num_train)
        train = min(train, (asked.shots or train) * component.num_classes)
        examples = train + component.num_validation + component.num_test
        forward = sum(map(self._forward, stage.members))
        if asked.protocol in transfer.FINE_TUNING:
            moved = (1 + BACKWARD) * asked.steps * asked.batch_size * len(asked.learning_rates)
            return float(examples + moved) * forward
        features = sum(self._sizes[member.architecture.digest].num_features for member in stage.members)
        solving = 4.0 * train * features * component.num_classes * SOLVER_PASSES * len(asked.l2)
        return float(examples) * forward + solving


def imports(sweep: Sweep) -> list[str]:
    """The installed code that a sweep names, for a dataset or what one is made from, or on an axis, and that is run."""
    sources = [component.source(Image()) for component in sweep.components.values()]
    named = [name for source in sources for name in (source.dataset, *json.loads(source.options).values())]
    vary = sweep.vary
    named += [plugins.resolve("architecture", name, space.ARCHITECTURES) for name in vary.architecture]
    for choice in (*vary.ordering, *vary.representation):
        if isinstance(choice, PlugIn):
            known = space.REPRESENTATIONS if choice.plugin == "representation" else ORDERINGS
            named.append(plugins.resolve(choice.plugin, choice.root, known))
    return sorted({name for name in named if isinstance(name, str) and plugins.is_code(name)})
