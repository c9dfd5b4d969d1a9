"""What exactly is to be computed? Frozen specs of stages and trials, and the digests that name their results.

A stage is one computation whose result is kept: one pretraining, one probe. Its digest covers everything that
determines the result (its fields, the content of its data, the number of the recipe that computes it) and nothing
else: neither a component's name nor the sweep, trial or person that asked. Equal digests are the same work, done once.

The direct baseline of a component is a pretraining whose mixture is that component alone, and a network at its random
initialisation is a pretraining of zero steps, so one kind of stage serves all three.

Digests are built bottom up from the cached digests of their parts: naming 700,000 stages takes seconds, not minutes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from typing import Any, ClassVar

# Raised whenever the computation changes in a way that moves results: old entries of the store then no longer match.
PRETRAIN_RECIPE = 1
PROBE_RECIPE = 1


def derive_seed(root: int, *purpose: str) -> int:
    """A 32-bit seed for one purpose; named, not counted, so that a new purpose leaves the others' seeds alone."""
    digest = hashlib.sha256(repr((root, *purpose)).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def digest_of(*parts: object) -> str:
    """64 hexadecimal digits that name the sequence `parts`, which consists of strings, numbers, booleans and None."""
    return hashlib.sha256(json.dumps(parts, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


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

    kind: str = "shuffled"  # a key of ORDERINGS in ordering.py
    sequence: tuple[str, ...] = ()  # sequential, blocked: components in order
    repeats: int = 1  # blocked: how often the sequence comes round
    start: tuple[tuple[str, float], ...] = ()  # annealed: relative weights at time 0
    end: tuple[tuple[str, float], ...] = ()  # annealed: relative weights at time 1
    easy_first: bool = True  # curriculum; False: hard first
    component: str = ""  # withheld: the component left out
    window: tuple[float, float] = (0.0, 0.0)  # withheld: from and until, as shares of the run

    @cached_property
    def digest(self) -> str:
        return digest_of("ordering", *(as_json(getattr(self, f.name)) for f in fields(self)))


SHUFFLED = Ordering()


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A network by name, at some width and depth, for images of one shape."""

    name: str  # a key of ARCHITECTURES in architectures.py, or a torchvision classification model
    width: float = 1.0  # multiplies the number of channels or units of every layer
    depth: int | None = None  # hidden layers (mlp), convolutions (cnn), blocks per stage (resnet), blocks (vit)
    image_shape: tuple[int, int, int]  # (channels, height, width)

    @cached_property
    def digest(self) -> str:
        return digest_of("architecture", *(as_json(getattr(self, f.name)) for f in fields(self)))


@dataclass(frozen=True, kw_only=True)
class Training:
    """The optimisation of one pretraining run."""

    steps: int
    batch_size: int = 128
    optimizer: str = "sgd"  # sgd (Nesterov momentum), adamw
    learning_rate: float = 0.1  # at its peak
    momentum: float = 0.9  # sgd; the first beta of adamw
    weight_decay: float = 0.0
    schedule: str = "cosine"  # constant, cosine, one_cycle
    warmup_share: float = 0.0  # of the steps, linear from zero; one_cycle has its own
    label_smoothing: float = 0.0
    precision: str = "float32"  # of the forward and backward passes; bfloat16: mixed, the weights stay float32
    augment: tuple[str, ...] = ()  # keys of AUGMENTATIONS in pretrain.py, in order of application

    @cached_property
    def digest(self) -> str:
        return digest_of("training", *(as_json(getattr(self, f.name)) for f in fields(self)))


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """How features are turned into a prediction for a component."""

    protocol: str = "linear_probe"
    l2: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # on the mean loss; one is chosen on validation
    train_examples: int | None = None  # the first so many training examples of the component; None: all

    @cached_property
    def digest(self) -> str:
        return digest_of("transfer", *(as_json(getattr(self, f.name)) for f in fields(self)))


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

    @cached_property
    def digest(self) -> str:
        parts = (self.mixture.digest, self.ordering.digest, self.architecture.digest, self.training.digest)
        pool = "" if self.pool_seed in (None, self.seed) else f":{self.pool_seed}"
        name = f"{self.kind}/{PRETRAIN_RECIPE}:{':'.join(parts)}:{self.seed}{pool}"
        return hashlib.sha256(name.encode()).hexdigest()

    @property
    def requires(self) -> tuple[PretrainSpec, ...]:
        return ()


@dataclass(frozen=True, kw_only=True)
class ProbeSpec:
    """One measurement of what frozen features are worth to a component. Its result: accuracies and the chosen L2."""

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
        """The stages whose results this one reads."""
        return self.members


StageSpec = PretrainSpec | ProbeSpec


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
            f"{self.representation}, {self.steps} steps"
        )


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row of the results table: what one seed's features are worth to one component, and what to compare with."""

    seed: int
    component: str  # its name in the sweep
    weight: float  # its share of the mixture, in [0, 1]
    transfer: ProbeSpec
    direct: ProbeSpec | None  # None: no baseline exists, as with `same_examples` for an unseen component
    random_init: ProbeSpec  # the same representation at its initialisation


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """One point of the design with all its seeds and components."""

    design: Design
    cells: tuple[Cell, ...]

    @cached_property
    def digest(self) -> str:
        cells = [
            (
                c.seed,
                c.component,
                c.transfer.digest,
                c.direct.digest if c.direct else None,
                c.random_init.digest,
            )
            for c in self.cells
        ]
        return digest_of("trial", as_json(self.design), cells)

    def stages(self) -> Iterator[StageSpec]:
        """Every stage of the trial once, what it reads before it, direct baselines before everything else."""
        seen: set[str] = set()
        probes = [c.direct for c in self.cells if c.direct]
        probes += [c.transfer for c in self.cells] + [c.random_init for c in self.cells]
        for probe in probes:
            needed: tuple[StageSpec, ...] = (*probe.requires, probe)
            for stage in needed:
                if stage.digest not in seen:
                    seen.add(stage.digest)
                    yield stage
