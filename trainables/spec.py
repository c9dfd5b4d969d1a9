"""What exactly is to be computed? Frozen specs of stages and trials, and the digests that name their results.

A stage is one computation whose result is kept: one pretraining, one probe, one measurement of retention, one
trajectory. Its digest covers everything that determines the result (its fields, the content of its data, the number of
the recipe that computes it) and nothing else: neither a component's name nor the sweep, trial or person that asked.
Equal digests are the same work, done once.

The direct baseline of a component is a pretraining whose mixture is that component alone, a network at its random
initialisation is a pretraining of zero steps, and a checkpoint is a pretraining that stops early, so one kind of stage
serves them all.

Digests are built bottom up from the cached digests of their parts: naming 700,000 stages takes seconds, not minutes.
A field at its default is not part of a digest, so a new field leaves the results of all earlier versions in place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

# Raised whenever the computation changes in a way that moves results: old entries of the store then no longer match.
PRETRAIN_RECIPE = 3
PROBE_RECIPE = 4
RETENTION_RECIPE = 4
TRAJECTORY_RECIPE = 4

BACKWARD = 2  # a backward pass costs about twice a forward pass


def derive_seed(root: int, *purpose: str) -> int:
    """A 32-bit seed for one purpose; named, not counted, so that a new purpose leaves the others' seeds alone."""
    digest = hashlib.sha256(repr((root, *purpose)).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def digest_of(*parts: object) -> str:
    """64 hexadecimal digits that name the sequence `parts`, which consists of strings, numbers, booleans and None."""
    return hashlib.sha256(json.dumps(parts, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


def digest_of_settings(kind: str, value: Any) -> str:
    """`digest_of` the fields of a flat dataclass that are not at their default, by name."""
    changed = {f.name: as_json(getattr(value, f.name)) for f in fields(value) if getattr(value, f.name) != f.default}
    return digest_of(kind, *sorted(changed.items()))


def as_json(value: Any) -> Any:
    """A spec as JSON values: dataclasses become objects with their fields, tuples become arrays."""
    if is_dataclass(value):
        return {f.name: as_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): as_json(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [as_json(v) for v in value]
    return value


@dataclass(frozen=True, kw_only=True)
class Source:
    """How to read a component: a dataset, some of its classes, and the common image shape. Not its content."""

    dataset: str  # key in the catalogue of catalogue.py, or "python:module:attribute"
    options: str = "{}"  # the dataset's own options, canonical JSON: hashable and the same in every process
    classes: tuple[int, ...] | None = None  # kept labels of the dataset, in this order; None: all
    relabel: tuple[int, ...] | None = None  # new label of each kept class; None: its position
    train_examples: int | None = None  # at most this many; None: all that are left
    validation_examples: int | None = None  # taken from the training split; None: a tenth of it
    test_examples: int | None = None
    image_size: tuple[int, int] | None = None  # (height, width) in pixels; None: as stored
    channels: int | None = None  # 1 or 3; None: as stored

    @cached_property
    def digest(self) -> str:
        """Names how to read, for caches on this machine. What a result depends on is `Component.content`."""
        return digest_of("source", *(as_json(getattr(self, f.name)) for f in fields(self)))


@dataclass(frozen=True, kw_only=True)
class Component:
    """A component whose data has been seen on some machine: its source, and the facts that planning needs."""

    source: Source
    content: str  # digest of the decoded images, labels and splits: the component's identity
    num_classes: int
    num_train: int
    num_validation: int
    num_test: int
    image_shape: tuple[int, int, int]  # (channels, height, width)


@dataclass(frozen=True, kw_only=True)
class Share:
    """One component's part of a mixture."""

    component: Component
    shown: int  # examples shown in the whole run, repetitions counted
    pool: int  # examples that there are to draw from
    distinct: int  # of the pool, examples that are drawn: never more than are shown

    def __post_init__(self) -> None:
        assert 0 < self.distinct <= min(self.pool, self.shown), "what is drawn is in the pool, and is shown"
        if not 0 < self.pool <= self.component.num_train:
            raise ValueError(
                f"a pool of {self.pool} examples of {self.component.source.dataset!r}; it has "
                f"{self.component.num_train} training examples"
            )
        if self.shown <= 0:
            raise ValueError(f"{self.shown} examples shown; leave a component of weight 0 out")


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """How many examples of which components one pretraining is shown. Empty for a network at its initialisation."""

    shares: tuple[Share, ...]  # sorted by content, so that the order of a sweep file changes nothing
    label_space: str = "joint"  # "joint": each component has its own classes in one head; "shared": all label alike

    def __post_init__(self) -> None:
        contents = [share.component.content for share in self.shares]
        assert contents == sorted(set(contents)), "shares are sorted by content and distinct"

    @cached_property
    def digest(self) -> str:
        # With one component there is one label space: a baseline is the same stage under both settings.
        label_space = self.label_space if len(self.shares) > 1 else "joint"
        # Joined by hand, as further down: a plan has tens of thousands of mixtures.
        shares = [
            f"{s.component.content},{s.component.num_classes},{s.shown},{s.pool},{s.distinct}" for s in self.shares
        ]
        return hashlib.sha256(f"mixture:{label_space}:{':'.join(shares)}".encode()).hexdigest()

    @cached_property
    def num_examples(self) -> int:
        return sum(share.shown for share in self.shares)

    @property
    def num_classes(self) -> int:
        """Outputs of the head."""
        classes = [share.component.num_classes for share in self.shares]
        return (max(classes) if self.label_space == "shared" else sum(classes)) if classes else 0

    @property
    def label_offsets(self) -> tuple[int, ...]:
        """(K,) first output of each component in the head."""
        if self.label_space == "shared":
            return (0,) * len(self.shares)
        offsets, total = [], 0
        for share in self.shares:
            offsets.append(total)
            total += share.component.num_classes
        return tuple(offsets)


@dataclass(frozen=True, kw_only=True)
class Ordering:
    """When the examples of a mixture arrive. Components are named by content, as in `Mixture`."""

    kind: str = "shuffled"  # a key of ORDERINGS in ordering.py, or python:module:attribute
    sequence: tuple[str, ...] = ()  # sequential, blocked: components in order; of code: in that of the sweep
    repeats: int = 1  # blocked: how often the sequence comes round
    start: tuple[tuple[str, float], ...] = ()  # annealed: relative weights at time 0
    end: tuple[tuple[str, float], ...] = ()  # annealed: relative weights at time 1
    easy_first: bool = True  # curriculum; False: hard first
    component: str = ""  # withheld: the component left out
    window: tuple[float, float] = (0.0, 0.0)  # withheld: from and until, as shares of the run
    code: str = ""  # python:module:attribute: digest of the module's file

    @cached_property
    def digest(self) -> str:
        return digest_of_settings("ordering", self)


SHUFFLED = Ordering()


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A network by name, at some width and depth, for images of one shape."""

    name: str  # a key of ARCHITECTURES, a torchvision classification model, or python:module:attribute
    width: float = 1.0  # multiplies the number of channels or units of every layer
    depth: int | None = None  # hidden layers (mlp), convolutions (cnn), blocks per stage (resnet), blocks (vit)
    image_shape: tuple[int, int, int]  # (channels, height, width)
    code: str = ""  # python:module:attribute: digest of the module's file

    @cached_property
    def digest(self) -> str:
        return digest_of_settings("architecture", self)


@dataclass(frozen=True, kw_only=True)
class Training:
    """The optimisation of one pretraining run."""

    steps: int
    batch_size: int = 128
    optimizer: str = "sgd"  # sgd (Nesterov momentum), adamw
    learning_rate: float = 0.1  # at its peak
    momentum: float = 0.9  # sgd; the first beta of adamw
    weight_decay: float = 0.0
    schedule: str = "cosine"  # a key of SCHEDULES in pretrain.py
    warmup_share: float = 0.0  # of the steps, linear from zero; one_cycle has its own
    decay_share: float = 0.2  # trapezoid: of the steps, linear to zero at the end
    cycles: int = 1  # cosine: how often the learning rate starts again at its peak, the steps shared out equally
    label_smoothing: float = 0.0
    dropout: float = 0.0  # on the features that the head reads
    precision: str = "float32"  # of the forward and backward passes; bfloat16: mixed, the weights stay float32
    augment: tuple[str, ...] = ()  # keys of AUGMENTATIONS in pretrain.py, in order of application
    deficit: str = ""  # a key of DEFICITS in deficits.py, under which every image is shown during the window
    deficit_window: tuple[float, float] = (0.0, 0.0)  # from and until, as shares of the steps

    @cached_property
    def digest(self) -> str:
        return digest_of_settings("training", self)


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """How features are turned into a prediction for a component."""

    protocol: str = "linear_probe"  # a key of PROTOCOLS in protocols.py
    l2: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # on the mean loss; one is chosen on validation
    train_examples: int | None = None  # the first so many training examples of the component; None: all
    shots: int | None = None  # of those, the first so many of each class; None: all
    combine: str = "concatenate"  # members' features side by side; "average": their own probes' probabilities
    compression: int = 1  # so many times fewer leading principal components are read than there are features
    neighbours: tuple[int, ...] = (1, 5, 20, 50)  # knn: one is chosen on validation
    learning_rates: tuple[float, ...] = (0.01, 0.03, 0.1)  # fine-tuning: one is chosen on validation
    steps: int = 200  # optimiser steps of fine-tuning
    batch_size: int = 128  # of fine-tuning
    dropout: float = 0.0  # on the features that the head reads, while fine-tuning

    @cached_property
    def digest(self) -> str:
        return digest_of_settings("transfer", self)


@dataclass(frozen=True, kw_only=True)
class Guide:
    """What a pretraining run is told by networks that were trained before it."""

    kind: str  # a key of GUIDES in guides.py
    teachers: tuple[PretrainSpec, ...]
    strength: float = 1.0  # of what it adds to the loss

    @cached_property
    def digest(self) -> str:
        return digest_of("guide", self.kind, self.strength, *(teacher.digest for teacher in self.teachers))


@dataclass(frozen=True, kw_only=True)
class PretrainSpec:
    """One pretraining run. Its result: the weights, and how the loss went."""

    kind: ClassVar[str] = "pretrain"

    mixture: Mixture
    ordering: Ordering = SHUFFLED
    architecture: Architecture
    training: Training
    seed: int
    pool_seed: int | None = None  # decides which examples are in a pool; None: `seed`
    guide: Guide | None = None
    until: int | None = None  # a checkpoint: the weights after so many of the run's steps; None: after all

    def __post_init__(self) -> None:
        assert self.until is None or 0 < self.until < self.training.steps, "a checkpoint lies inside its run"

    @cached_property
    def digest(self) -> str:
        parts = (self.mixture.digest, self.ordering.digest, self.architecture.digest, self.training.digest)
        pool = "" if self.pool_seed in (None, self.seed) else f":{self.pool_seed}"
        more = (f":{self.guide.digest}" if self.guide else "") + (f":until {self.until}" if self.until else "")
        name = f"{self.kind}/{PRETRAIN_RECIPE}:{':'.join(parts)}:{self.seed}{pool}{more}"
        return hashlib.sha256(name.encode()).hexdigest()

    @cached_property
    def run(self) -> PretrainSpec:
        """The whole run that a checkpoint lies in; a run itself otherwise."""
        return self if self.until is None else replace(self, until=None)

    @property
    def steps(self) -> int:
        """Optimiser steps behind the weights."""
        return self.training.steps if self.until is None else self.until

    @property
    def num_examples(self) -> int:
        """Examples that the weights have been shown, repetitions counted."""
        return self.mixture.num_examples if self.until is None else self.until * self.training.batch_size

    @property
    def guided_examples(self) -> int:
        """Forward passes of one example through teachers: each sees every distinct example once."""
        if not self.guide:
            return 0
        return sum(share.distinct for share in self.mixture.shares) * len(self.guide.teachers)

    @property
    def requires(self) -> tuple[PretrainSpec, ...]:
        return self.guide.teachers if self.guide else ()


@dataclass(frozen=True, kw_only=True)
class ProbeSpec:
    """One measurement of what networks are worth to a component. Its result: accuracies and what validation chose."""

    kind: ClassVar[str] = "probe"

    members: tuple[PretrainSpec, ...]  # the networks whose features are concatenated, one for `single`
    component: Component
    transfer: Transfer = field(default_factory=Transfer)

    @cached_property
    def digest(self) -> str:
        members = ",".join([member.digest for member in self.members])
        return hashlib.sha256(
            f"{self.kind}/{PROBE_RECIPE}:{members}:{self.component.content}:{self.transfer.digest}".encode()
        ).hexdigest()

    @property
    def requires(self) -> tuple[PretrainSpec, ...]:
        """The stages whose results this one reads, the later ones of a run first: it leaves the others on its way."""
        return self.members if self.members[0].until is None else self.members[::-1]


@dataclass(frozen=True, kw_only=True)
class RetentionSpec:
    """How much of a component's direct features the features of a mixture still hold, and what these are like."""

    kind: ClassVar[str] = "retention"

    members: tuple[PretrainSpec, ...]
    component: Component
    direct: PretrainSpec | None  # the direct baseline of the same seed; None: only what needs no reference
    ceiling: PretrainSpec | None  # the direct baseline of another seed
    floor: tuple[PretrainSpec, ...]  # the members at their initialisation
    examples: int = 2000  # of each split
    layers: bool = False  # probes of every layer too

    @cached_property
    def digest(self) -> str:
        return digest_of(
            f"{self.kind}/{RETENTION_RECIPE}",
            [member.digest for member in self.members],
            self.component.content,
            self.direct and self.direct.digest,
            self.ceiling and self.ceiling.digest,
            [member.digest for member in self.floor],
            self.examples,
            self.layers,
        )

    @property
    def requires(self) -> tuple[PretrainSpec, ...]:
        references = tuple(stage for stage in (self.direct, self.ceiling) if stage)
        return (*self.members[::-1], *references, *self.floor)


@dataclass(frozen=True, kw_only=True)
class TrajectorySpec:
    """What the features of one run were worth to a component, and to each other, while it went on."""

    kind: ClassVar[str] = "trajectory"

    checkpoints: tuple[PretrainSpec, ...]  # from the initialisation to the end of one run
    component: Component
    direct: PretrainSpec | None  # the direct baseline of the same seed; None: only what needs no reference
    examples: int = 1000  # of each split, and of the mixture
    plasticity_steps: int = 0  # of direct training from every checkpoint; 0: not measured

    @cached_property
    def digest(self) -> str:
        return digest_of(
            f"{self.kind}/{TRAJECTORY_RECIPE}",
            [checkpoint.digest for checkpoint in self.checkpoints],
            self.component.content,
            self.direct and self.direct.digest,
            self.examples,
            self.plasticity_steps,
        )

    @property
    def run(self) -> PretrainSpec:
        return self.checkpoints[-1]

    @property
    def steps(self) -> tuple[int, ...]:
        """(T,) optimiser steps of each checkpoint."""
        return tuple(checkpoint.steps for checkpoint in self.checkpoints)

    @property
    def requires(self) -> tuple[PretrainSpec, ...]:
        """The run comes first, and leaves its checkpoints on the way; what of them is missing goes by the last one."""
        return (*reversed(self.checkpoints), *((self.direct,) if self.direct else ()))


StageSpec = PretrainSpec | ProbeSpec | RetentionSpec | TrajectorySpec


def in_order(stages: Iterable[StageSpec]) -> Iterable[StageSpec]:
    """The stages and all that they rest on, each once and after what it reads."""
    return by_digest(stages).values()


def by_digest(
    stages: Iterable[StageSpec], besides: Mapping[str, StageSpec] = MappingProxyType({})
) -> dict[str, StageSpec]:
    """`in_order` by digest, without what is known `besides`."""
    found: dict[str, StageSpec] = {}  # it keeps the order
    _add(stages, found, besides)
    return found


def _add(stages: Iterable[StageSpec], found: dict[str, StageSpec], besides: Mapping[str, StageSpec]) -> None:
    for stage in stages:
        digest = stage.digest
        if digest not in found and digest not in besides:
            required = stage.requires
            for each in required:
                if each.digest not in found and each.digest not in besides:
                    if each.requires:
                        _add(required, found, besides)
                        break
                    found[each.digest] = each
            found[digest] = stage


@dataclass(frozen=True, kw_only=True)
class Design:
    """One point of a sweep's design as its author named it: what a row of the results table says about itself."""

    mixture: tuple[tuple[str, float], ...]  # (component, share in [0, 1]) for every component of the sweep
    ordering: str
    architecture: str
    width: float
    depth: int | None
    representation: str  # "single", "cat:4", "time_cat:4"
    steps: int
    train_examples: int | None
    training: str = ""  # what differs from the sweep's own training, for example "weight_decay 0.0005"

    @property
    def mixture_label(self) -> str:
        """For example `clothes 50 % + digits 50 %`; components without weight are left out."""
        return " + ".join(f"{name} {100 * share:.3g} %" for name, share in self.mixture if share > 0)

    @property
    def label(self) -> str:
        """The design in one line, for people."""
        depth = "" if self.depth is None else f" depth {self.depth}"
        return (
            f"{self.mixture_label}, {self.ordering}, {self.architecture} x{self.width:g}{depth}, "
            f"{self.representation}, {self.steps} steps{', ' if self.training else ''}{self.training}"
        )


class Cell(NamedTuple):
    """One row of the results table: what one seed's networks are worth to one component, and what to compare with.

    A tuple, because a plan makes 100,000 of them: a frozen dataclass sets each field by a call.
    """

    seed: int
    component: str  # its name in the sweep
    weight: float  # its share of the mixture, in [0, 1]
    transfer: ProbeSpec
    direct: ProbeSpec | None  # None: no baseline exists, as with `same_examples` for an unseen component
    random_init: ProbeSpec  # the same representation at its initialisation
    primary: bool = True  # whether the protocol is the one that answers the sweep's question
    budgets: tuple[ProbeSpec, ...] = ()  # the baseline with other numbers of steps: validation chooses
    untrained: ProbeSpec | None = None  # the baseline's own network at its initialisation, read as the baseline is
    raw: ProbeSpec | None = None  # the raw input in place of features; None: it is too large
    retention: RetentionSpec | None = None
    trajectory: TrajectorySpec | None = None

    @property
    def stages(self) -> tuple[StageSpec | None, ...]:
        """What is measured for the row, the direct baseline first; its other budgets apart."""
        return (
            self.direct,
            self.transfer,
            self.random_init,
            self.untrained,
            self.raw,
            self.retention,
            self.trajectory,
        )


@dataclass(frozen=True, kw_only=True)
class RungCell:
    """What one seed's networks are worth to one component on the way, and what to compare with."""

    seed: int
    component: str  # its name in the sweep
    transfer: ProbeSpec  # of checkpoints
    direct: ProbeSpec | None  # None: the objective compares with nothing


@dataclass(frozen=True, kw_only=True)
class Rung:
    """A point on the way of a trial at which it may be stopped."""

    steps: int  # of the trial's, in [1, all of them)
    cells: tuple[RungCell, ...]

    def stages(self) -> Iterable[StageSpec]:
        """Every stage of the rung once, what it reads before it."""
        return in_order([s for cell in self.cells for s in (cell.direct, cell.transfer) if s])


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """One point of the design with all its seeds, components and protocols."""

    design: Design
    cells: tuple[Cell, ...]
    rungs: tuple[Rung, ...] = ()  # in the order of their steps

    @cached_property
    def digest(self) -> str:
        """Names what the trial measures at its end; rungs on the way change nothing of that."""
        cells = [
            (c.seed, c.component, [s and s.digest for s in c.stages], [b.digest for b in c.budgets]) for c in self.cells
        ]
        return digest_of("trial", as_json(self.design), cells)

    def stages(self) -> Iterable[StageSpec]:
        """Every stage of the trial once, what it reads before it, direct baselines before everything else."""
        wanted: list[StageSpec | None] = [budget for cell in self.cells for budget in cell.budgets]
        for stages in zip(*[cell.stages for cell in self.cells], strict=True):  # those of one purpose
            wanted += stages
        return in_order(filter(None, wanted))
