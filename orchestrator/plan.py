"""What is there to do? A sweep becomes trials, trials become unique stages, and these have a price.

Pure: what is known about data and networks, and what the store has, comes in as arguments. No torch, no Ray.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator import space
from orchestrator.space import Point
from orchestrator.sweep import Image, Sweep
from trainables import representation
from trainables.facts import NetworkSize
from trainables.mixture import mixture_of
from trainables.spec import (
    Architecture,
    Cell,
    Component,
    Design,
    Mixture,
    Ordering,
    PretrainSpec,
    ProbeSpec,
    Source,
    StageSpec,
    Training,
    TrialSpec,
    as_json,
)

BACKWARD = 2  # a backward pass costs about twice a forward pass
SOLVER_PASSES = 60  # passes over the features for one L2: about what L-BFGS takes, with gradients
INITIALISATION = Training(steps=0)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The trials of a sweep in the order of its axes."""

    sweep: Sweep
    components: Mapping[str, Component]
    trials: tuple[TrialSpec, ...]

    def as_json(self) -> dict[str, Any]:
        """What the sweep's folder keeps: enough to read its results without planning it again."""
        return {
            "sweep": self.sweep.name,
            "question": self.sweep.question,
            "direct_kind": self.sweep.direct.kind,
            "protocol": self.trials[0].cells[0].transfer.transfer.protocol,
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
        "cells": [
            {
                "seed": cell.seed,
                "component": cell.component,
                "weight": cell.weight,
                "transfer": cell.transfer.digest,
                "direct": cell.direct.digest if cell.direct else None,
                "random_init": cell.random_init.digest,
                "pretrain": [member.digest for member in cell.transfer.members],
                "random_init_pretrain": [member.digest for member in cell.random_init.members],
                "direct_pretrain": cell.direct.members[0].digest if cell.direct else None,
            }
            for cell in trial.cells
        ],
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
    """Every network of a plan once."""
    found = {c.transfer.members[0].architecture for trial in plan.trials for c in trial.cells[:1]}
    return sorted(found, key=lambda architecture: architecture.digest)


def plan(sweep: Sweep, components: Mapping[str, Component]) -> Plan:
    """The trials of a sweep.

    Raises:
        SweepError: two components have the same examples, or a weight is too small for a single example.
    """
    _require_distinct(sweep, components)
    builder = _Builder(sweep, components)
    sizes = {name: component.num_train for name, component in components.items()}
    with _no_collections():
        trials = tuple(builder.trial(point) for point in space.points(sweep, sizes))
    return Plan(sweep=sweep, components=components, trials=trials)


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """Without searches for reference cycles: a plan makes millions of objects that all stay, and has no cycles."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _require_distinct(sweep: Sweep, components: Mapping[str, Component]) -> None:
    names: dict[str, str] = {}
    for name, component in components.items():
        twin = names.setdefault(component.content, name)
        if twin != name:
            raise sweep.error(
                f"components.{name}",
                f"found the same examples as in {twin!r}; components that differ are possible",
            )


class _Builder:
    """Makes trials; parts that trials share are made once, so that their digests are computed once."""

    def __init__(self, sweep: Sweep, components: Mapping[str, Component]) -> None:
        self._sweep, self._components = sweep, components
        self._contents = {name: c.content for name, c in components.items()}
        (self._transfer,) = sweep.transfer.specs()
        self._memo: dict[Any, Any] = {}

    def trial(self, point: Point) -> TrialSpec:
        design = Design(
            mixture=point.weights,
            ordering=point.ordering.label,
            architecture=point.architecture,
            width=point.width,
            depth=point.depth,
            representation=point.representation,
            steps=point.steps,
            train_examples=point.train_examples,
        )
        member_steps = representation.member_steps(point.representation, point.steps)
        mixture = self._mixture(point.weights, member_steps, point.train_examples)
        ordering = self._ordering(point)
        architecture = self._architecture(point)
        training = self._training(member_steps)
        weights = dict(point.weights)
        comparisons = self._comparisons(point, architecture)
        cells = []
        for seed in self._sweep.seeds:
            member_seeds = representation.member_seeds(point.representation, seed)
            members = tuple(
                PretrainSpec(
                    mixture=mixture,
                    ordering=ordering,
                    architecture=architecture,
                    training=training,
                    seed=s,
                    # A limit on the examples holds for all members together: they draw from one pool.
                    pool_seed=None if point.train_examples is None else seed,
                )
                for s in member_seeds
            )
            for name, component in self._components.items():
                direct, random_init = comparisons[seed, name]
                cells.append(
                    Cell(
                        seed=seed,
                        component=name,
                        weight=weights[name],
                        transfer=ProbeSpec(members=members, component=component, transfer=self._transfer),
                        direct=direct,
                        random_init=random_init,
                    )
                )
        return TrialSpec(design=design, cells=tuple(cells))

    def _mixture(self, weights: tuple[tuple[str, float], ...], steps: int, train_examples: int | None) -> Mixture:
        key = ("mixture", weights, steps, train_examples)
        if key not in self._memo:
            try:
                self._memo[key] = mixture_of(
                    dict(weights),
                    self._components,
                    num_examples=steps * self._sweep.pretrain.batch_size,
                    train_examples=train_examples,
                    label_space=self._sweep.label_space,
                )
            except ValueError as error:
                raise self._sweep.error("vary.mixture", str(error)) from error
        return self._memo[key]  # type: ignore[no-any-return]

    def _ordering(self, point: Point) -> Ordering:
        shown = tuple(name for name, weight in point.weights if weight > 0)
        key = ("ordering", point.ordering, shown)
        if key not in self._memo:
            self._memo[key] = space.ordering_of(point, self._contents)
        return self._memo[key]  # type: ignore[no-any-return]

    def _architecture(self, point: Point) -> Architecture:
        key = ("architecture", point.architecture, point.width, point.depth)
        if key not in self._memo:
            shape = next(iter(self._components.values())).image_shape
            self._memo[key] = Architecture(
                name=point.architecture, width=point.width, depth=point.depth, image_shape=shape
            )
        return self._memo[key]  # type: ignore[no-any-return]

    def _training(self, steps: int) -> Training:
        key = ("training", steps)
        if key not in self._memo:
            precision = "bfloat16" if self._sweep.resources.gpu else "float32"
            self._memo[key] = dataclasses.replace(self._sweep.pretrain.training(steps), precision=precision)
        return self._memo[key]  # type: ignore[no-any-return]

    def _comparisons(
        self, point: Point, architecture: Architecture
    ) -> Mapping[tuple[int, str], tuple[ProbeSpec | None, ProbeSpec]]:
        """By (seed, component) the direct baseline and the random initialisation; most points share them."""
        drawn = (point.weights, point.train_examples) if self._sweep.direct.kind == "same_examples" else None
        key = ("comparisons", point.steps, point.representation, architecture.digest, drawn)
        if key not in self._memo:
            self._memo[key] = {
                (seed, name): (
                    self._direct(point, name, architecture, seed),
                    self._random_init(architecture, representation.member_seeds(point.representation, seed), name),
                )
                for seed in self._sweep.seeds
                for name in self._components
            }
        return self._memo[key]  # type: ignore[no-any-return]

    def _direct(self, point: Point, name: str, architecture: Architecture, seed: int) -> ProbeSpec | None:
        """The direct baseline of a component: a pretraining whose mixture is the component alone.

        `same_steps`: as many steps, all its examples. `same_examples`: as many steps, only the examples that the
        mixture drew from it; None if it drew none. `full`: all its examples, `direct.steps` steps.
        """
        direct = self._sweep.direct
        steps = (direct.steps or 2 * point.steps) if direct.kind == "full" else point.steps
        drawn = self._drawn(point, name) if direct.kind == "same_examples" else None
        if direct.kind == "same_examples" and drawn is None:
            return None
        key = ("direct", name, steps, drawn, architecture.digest, seed)
        if key not in self._memo:
            (share,) = self._mixture(((name, 1.0),), steps, None).shares
            if drawn is not None:
                share = dataclasses.replace(share, pool=drawn[0], distinct=drawn[1])
            baseline = PretrainSpec(
                mixture=Mixture(shares=(share,)), architecture=architecture, training=self._training(steps), seed=seed
            )
            self._memo[key] = ProbeSpec(members=(baseline,), component=self._components[name], transfer=self._transfer)
        return self._memo[key]  # type: ignore[no-any-return]

    def _drawn(self, point: Point, name: str) -> tuple[int, int] | None:
        """(pool, distinct) of a component in its mixture, or of its first member; None: the mixture has none of it."""
        steps = representation.member_steps(point.representation, point.steps)
        content = self._contents[name]
        shares = self._mixture(point.weights, steps, point.train_examples).shares
        return next(((s.pool, s.distinct) for s in shares if s.component.content == content), None)

    def _random_init(self, architecture: Architecture, seeds: tuple[int, ...], name: str) -> ProbeSpec:
        key = ("random_init", architecture.digest, seeds, name)
        if key not in self._memo:
            members = tuple(
                PretrainSpec(mixture=Mixture(shares=()), architecture=architecture, training=INITIALISATION, seed=s)
                for s in seeds
            )
            self._memo[key] = ProbeSpec(members=members, component=self._components[name], transfer=self._transfer)
        return self._memo[key]  # type: ignore[no-any-return]


# What it costs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a plan costs, before and after sharing. Counts are of unique stages."""

    trials: int
    replicates: int  # trials times seeds
    pretrainings: int  # on mixtures; a mixture that is one component alone counts under baselines if one is needed
    baselines: int
    initialisations: int
    probes: int
    stored: int  # of all these stages, already in the store
    alone: int  # stages if every trial ran alone, with nothing shared
    examples: int  # shown in pretraining that is still to do
    flops: float  # of pretraining and probes still to do, an estimate
    flops_alone: float  # of everything, if every trial ran alone

    @property
    def stages(self) -> int:
        return self.pretrainings + self.baselines + self.initialisations + self.probes

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


def price(plan: Plan, sizes: Mapping[str, NetworkSize], stored: Collection[str]) -> Price:
    """What is still to do, and what sharing saves."""
    with _no_collections():
        return _price(plan, _Cost(sizes), stored)


def _price(plan: Plan, cost: _Cost, stored: Collection[str]) -> Price:
    unique: dict[str, tuple[StageSpec, float]] = {}
    baselines: set[str] = set()
    alone, flops_alone = 0, 0.0
    for trial in plan.trials:
        baselines.update(cell.direct.members[0].digest for cell in trial.cells if cell.direct)
        for stage in trial.stages():
            found = unique.get(stage.digest)
            if found is None:
                found = unique[stage.digest] = stage, cost.flops(stage)
            alone += 1
            flops_alone += found[1]
    runs = [stage for stage, _ in unique.values() if isinstance(stage, PretrainSpec)]
    initialisations = sum(not stage.mixture.shares for stage in runs)
    to_do = [found for digest, found in unique.items() if digest not in stored]
    return Price(
        trials=len(plan.trials),
        replicates=len(plan.trials) * len(plan.sweep.seeds),
        pretrainings=len(runs) - initialisations - len(baselines),
        baselines=len(baselines),
        initialisations=initialisations,
        probes=len(unique) - len(runs),
        stored=len(unique) - len(to_do),
        alone=alone,
        examples=sum(stage.mixture.num_examples for stage, _ in to_do if isinstance(stage, PretrainSpec)),
        flops=sum(flops for _, flops in to_do),
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
    unique = {stage.digest: stage for trial in plan.trials for stage in trial.stages()}
    return {digest: (stage, cost.flops(stage)) for digest, stage in unique.items()}


class _Cost:
    """FLOPs of stages: exact for forward passes, backward taken as twice that; solvers by a usual number of passes."""

    def __init__(self, sizes: Mapping[str, NetworkSize]) -> None:
        self._sizes = sizes
        self._memo: dict[tuple[object, ...], float] = {}  # stages of all seeds cost the same

    def flops(self, stage: StageSpec) -> float:
        if isinstance(stage, PretrainSpec):
            size = self._sizes[stage.architecture.digest]
            return float(stage.mixture.num_examples) * size.flops * (1 + BACKWARD)
        architecture = stage.members[0].architecture.digest
        key = (architecture, len(stage.members), stage.component.content, stage.transfer.digest)
        if key not in self._memo:
            self._memo[key] = self._probe(stage, self._sizes[architecture])
        return self._memo[key]

    def _probe(self, stage: ProbeSpec, size: NetworkSize) -> float:
        component = stage.component
        train = min(stage.transfer.train_examples or component.num_train, component.num_train)
        examples = train + component.num_validation + component.num_test
        features = size.num_features * len(stage.members)
        solving = 4.0 * train * features * component.num_classes * SOLVER_PASSES * len(stage.transfer.l2)
        return float(examples) * size.flops * len(stage.members) + solving


def imports(components: Iterable[Component]) -> list[str]:
    """The installed code that a sweep names and that its trials would import."""
    return sorted({c.source.dataset for c in components if c.source.dataset.startswith("python:")})
