"""What are pretrained networks worth to a component? Measured by a protocol: how their features become a prediction.

A protocol sees the training and the validation split only. It fits candidates to the first and chooses among them by
the second; `measure` then reads the test split, once. Protocols in FROZEN leave the features as they are, those in
FINETUNING move all weights, starting at the pretrained ones.

Together they form a ladder: the first rung that reaches the direct baseline says whether a feature was
unused (head_repair, linear_probe), entangled (mlp_probe, ntk_probe), recoverable (fine-tuning) or lost.

A new protocol is one function, entered in PROTOCOLS.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from trainables import probe
from trainables.architectures import Network
from trainables.components import ComponentData, Split
from trainables.feed import on_device, to_float
from trainables.finetune import fine_tuned, with_head, with_new_head
from trainables.finetune import two_stage as tuned_apart
from trainables.probe import Choice, Probe
from trainables.spec import ProbeSpec, Transfer
from trainables.tangent import tangent_features

FEATURE_BATCH = 512  # examples; features are the same for every size up to rounding
MAX_KEPT_FLOATS = 2**26  # of features in memory, 256 MiB: those used last


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What networks are worth to a component. Accuracies are in [0, 1]."""

    test_accuracy: float
    test_loss: float  # mean cross-entropy, in nats
    validation_accuracy: float  # of what was chosen, on the examples that chose it
    train_accuracy: float  # on the examples that it was fitted to
    chance_accuracy: float  # on the test split, of the most frequent class of the training examples
    num_features: int  # read by the classifier
    num_train: int  # examples that it was fitted to
    num_test: int
    chosen: Mapping[str, float]  # hyper-parameters that validation chose, by name
    path: tuple[tuple[float, float], ...]  # (setting, validation accuracy) of every candidate
    test_correct: Tensor  # (N,) bool, for paired comparisons on one test split
    head_accuracy: float | None  # of a single network's own head; None: that has no outputs for the component
    varying_features: int  # that are not the same for all training examples; 0: the networks are dead
    missing_classes: int  # without an example in one of the splits, as far as they were used


class FeatureCache:
    """The features of frozen networks that were read last, so that a network is run once for many measurements."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, ...], Tensor] = OrderedDict()
        self.floats = 0  # in all that is kept

    def get(self, key: tuple[str, ...], compute: Callable[[], Tensor]) -> Tensor:
        """What was kept under the key, which names the network, the examples and the device, or is computed now."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        features = compute()
        self._kept[key] = features
        self.floats += features.numel()
        while self.floats > MAX_KEPT_FLOATS:
            _, forgotten = self._kept.popitem(last=False)
            self.floats -= forgotten.numel()
        return features


def measure(
    stage: ProbeSpec,
    networks: Sequence[Network],
    data: ComponentData,
    device: torch.device,
    seed: int,
    cache: FeatureCache | None = None,
) -> Outcome:
    """What `stage.transfer` makes of the networks, whose weights stay as they are.

    Args:
        stage: its component and its transfer are measured; its members say what the networks were shown.
        networks: of `stage.members`, in their order, on the device.
        data: the examples of `stage.component`.
        seed: of initial weights, batches and projections; nothing in linear_probe, ridge and knn depends on it.
        cache: features that earlier measurements read, and where those of this one are left; None: none are kept.

    Raises:
        ValueError: the transfer is impossible, features are not finite, or fine-tuning diverges at every learning rate.
    """
    transfer, num_classes = stage.transfer, stage.component.num_classes
    _check(transfer)
    kept = FeatureCache() if cache is None else cache

    def view(name: str, split: Split, positions: Tensor) -> View:
        return View(
            name=name,
            split=split,
            positions=positions,
            networks=networks,
            sources=[(member.digest, stage.component.content) for member in stage.members],
            cache=kept,
            value_range=data.value_range,
            num_classes=num_classes,
            device=device,
        )

    material = Material(
        networks=networks,
        train=view("training", data.train, _positions(data.train.labels, transfer)),
        validation=view("validation", data.validation, torch.arange(len(data.validation))),
        num_classes=num_classes,
        transfer=transfer,
        device=device,
        seed=seed,
    )
    found = PROTOCOLS[transfer.protocol](material)
    train_correct, _ = probe.evaluate(found.logits(found.fitted), found.fitted.labels)
    most_frequent = int(torch.bincount(material.train.labels, minlength=num_classes).argmax())
    test = view("test", data.test, torch.arange(len(data.test)))
    test_correct, test_loss = probe.evaluate(found.logits(test), test.labels)
    return Outcome(
        test_accuracy=probe.share(test_correct),
        test_loss=test_loss,
        validation_accuracy=found.validation_accuracy,
        train_accuracy=probe.share(train_correct),
        chance_accuracy=float((test.labels == most_frequent).double().mean()),
        num_features=found.num_features,
        num_train=len(found.fitted.labels),
        num_test=len(test.labels),
        chosen=found.chosen,
        path=found.path,
        test_correct=test_correct,
        head_accuracy=_head_accuracy(stage, networks, test),
        varying_features=int((material.train.features.amax(0) > material.train.features.amin(0)).sum()),
        missing_classes=max(_missing(view) for view in (material.train, material.validation, test)),
    )


# --- What a protocol sees, and what it finds. ---


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """Some examples of a component, as images and as the features that the networks make of them."""

    name: str  # of the split, in errors
    split: Split
    positions: Tensor  # (N,) in the split, on the CPU
    networks: Sequence[Network]
    sources: Sequence[tuple[str, str]]  # digests of each network and of the component
    cache: FeatureCache
    value_range: tuple[float, float]
    num_classes: int
    device: torch.device

    @cached_property
    def labels(self) -> Tensor:
        """(N,), on the device."""
        return on_device(self.split.labels, self.device)[self.positions.to(self.device)]

    def images(self, positions: Tensor) -> Tensor:
        """(B, C, H, W) floats on the device, of the examples at these positions of the view."""
        images, _ = self.split.gather(self.positions[positions])
        return to_float(images.to(self.device), self.value_range)

    def batches(self) -> Iterator[Tensor]:
        """The images of all examples, FEATURE_BATCH at a time."""
        for positions in torch.split(torch.arange(len(self.positions)), FEATURE_BATCH):
            yield self.images(positions)

    @cached_property
    def features(self) -> Tensor:
        """(N, D) features of all networks side by side.

        Raises:
            ValueError: there are none, or they are not finite.
        """
        # Under their positions: other batches of the same examples would move the last bits.
        examples = hashlib.sha256(self.positions.numpy().tobytes()).hexdigest()
        # Each network reads the images anew: decoding is cheap beside a forward pass, and batches stay small.
        found = [
            self.cache.get(
                (*source, self.name, examples, str(self.device)),
                functools.partial(self._extracted, network),
            )
            for source, network in zip(self.sources, self.networks, strict=True)
        ]
        features = torch.cat(found, dim=1)
        probe.check(self.name, features, self.labels, self.num_classes)
        return features

    def _extracted(self, network: Network) -> Tensor:
        return probe.extract(network.features, self.batches())


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """All that a protocol may look at."""

    networks: Sequence[Network]
    train: View
    validation: View
    num_classes: int
    transfer: Transfer
    device: torch.device
    seed: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """What a protocol makes of its material."""

    logits: Callable[[View], Tensor]  # the prediction: (N, C)
    fitted: View  # the examples that it was fitted to
    num_features: int
    validation_accuracy: float
    chosen: Mapping[str, float]
    path: tuple[tuple[float, float], ...]


# --- The protocols on frozen features. ---


def linear_probe(material: Material) -> Found:
    """Logistic regression, solved to convergence."""
    transfer = material.transfer
    return _penalised(
        material,
        lambda train, _: probe.fit_path(*train, material.num_classes, transfer.l2, _read(train[0], transfer)),
    )


def ridge(material: Material) -> Found:
    """Ridge regression of the classes' indicators; its scores times a factor, fitted on validation, are the logits.

    The factor gives the loss its meaning and changes no prediction.
    """
    transfer = material.transfer

    def path(train: probe.Split, validation: probe.Split) -> list[Probe]:
        probes = probe.ridge_path(*train, material.num_classes, transfer.l2, _read(train[0], transfer))
        return [probe.sharpened(found, *validation) for found in probes]

    return _penalised(material, path)


def knn(material: Material) -> Found:
    """A majority of the nearest training examples by cosine similarity; a tie goes to the nearest."""
    train, validation, num_classes = material.train, material.validation, material.num_classes
    known, counts = (train.features, train.labels), material.transfer.neighbours
    nearest = probe.nearest_labels(known, validation.features, max(counts))
    found = probe.choose(
        ((count, count) for count in counts),
        lambda count: probe.vote(nearest[:, :count], num_classes),
        validation.labels,
    )

    def logits(view: View) -> Tensor:
        return probe.vote(probe.nearest_labels(known, view.features, found.model), num_classes)

    return _found(found, logits, train, train.features.shape[1], {"neighbours": found.setting})


def mlp_probe(material: Material) -> Found:
    """One hidden layer on the features; see `probe.fit_hidden`. The path has a learning rate once per weight decay."""
    train, validation = material.train, material.validation
    candidates = (
        (rate, probe.fit_hidden((train.features, train.labels), material.num_classes, rate, decay, material.seed))
        for rate in probe.HIDDEN_LEARNING_RATES
        for decay in probe.HIDDEN_WEIGHT_DECAYS
    )
    found = probe.choose(
        candidates, lambda model: model.logits(validation.features), validation.labels, prefer_small=True
    )
    chosen = {"learning_rate": found.model.learning_rate, "weight_decay": found.model.weight_decay}
    return _found(found, lambda view: found.model.logits(view.features), train, train.features.shape[1], chosen)


def ntk_probe(material: Material) -> Found:
    """Logistic regression on the features and, beside them, the tangent features of every network."""
    train, validation = material.train, material.validation

    @functools.cache
    def read(view: View) -> Tensor:
        tangents = [tangent_features(n, view.batches(), material.seed) for n in material.networks]
        features = torch.cat([view.features, *tangents], dim=1)
        probe.check(view.name, features, view.labels, material.num_classes)
        return features

    probes = probe.fit_path(read(train), train.labels, material.num_classes, material.transfer.l2)
    found = probe.choose(((p.l2, p) for p in probes), lambda p: p.logits(read(validation)), validation.labels)
    chosen = {"l2": found.setting}
    return _found(found, lambda view: found.model.logits(read(view)), train, read(train).shape[1], chosen)


def head_repair(material: Material) -> Found:
    """Heads fitted to balanced draws of held-out examples, averaged; see `probe.repair`.

    The validation split is what is held out: half of it chooses the penalty, and the training split is not read.
    """
    pool = material.validation
    found = probe.repair((pool.features, pool.labels), material.num_classes, material.transfer.l2, material.seed)
    chosen = {"l2": found.setting}
    return _found(found, lambda view: found.model.logits(view.features), pool, pool.features.shape[1], chosen)


# --- The protocols that move all weights. ---


def finetune(material: Material) -> Found:
    """All weights and a new head, all zeros; several networks are trained as one, their features side by side."""
    start = with_new_head(material.networks, material.num_classes, material.device)
    return _tuned(material, lambda rate: fine_tuned(start, material.train, material.transfer, rate, material.seed))


def lp_ft(material: Material) -> Found:
    """As `finetune`, but the head starts as the linear probe that validation chooses.

    The probe as it is is a candidate too, under learning rate 0, so that moving the weights counts only where it helps.
    """
    train, validation = material.train, material.validation
    probes = probe.fit_path(train.features, train.labels, material.num_classes, material.transfer.l2)
    head = probe.choose(((p.l2, p) for p in probes), lambda p: p.logits(validation.features), validation.labels)
    start = with_head(material.networks, *probe.on_raw_features(head.model))
    found = _tuned(
        material,
        lambda rate: fine_tuned(start, train, material.transfer, rate, material.seed),
        (0.0, start),
    )
    return replace(found, chosen={"l2": head.setting, **found.chosen})


def two_stage(material: Material) -> Found:
    """The networks fine-tuned apart and joined; see `finetune.two_stage`. One learning rate is chosen for all."""
    networks, num_classes, transfer = material.networks, material.num_classes, material.transfer
    return _tuned(
        material,
        lambda rate: tuned_apart(networks, num_classes, material.train, transfer, rate, material.seed),
    )


PROTOCOLS: Mapping[str, Callable[[Material], Found]] = {
    "linear_probe": linear_probe,
    "ridge": ridge,
    "knn": knn,
    "mlp_probe": mlp_probe,
    "ntk_probe": ntk_probe,
    "head_repair": head_repair,
    "finetune": finetune,
    "lp_ft": lp_ft,
    "two_stage": two_stage,
}
FROZEN = frozenset({"linear_probe", "ridge", "knn", "mlp_probe", "ntk_probe", "head_repair"})
FINETUNING = frozenset({"finetune", "lp_ft", "two_stage"})
LINEAR = frozenset({"linear_probe", "ridge"})  # these alone average members and read fewer dimensions


# --- What protocols have in common. ---


@dataclass(frozen=True, eq=False)
class _Ensemble:
    """Probes of one penalty, each of features of its own; their probabilities are averaged."""

    probes: tuple[Probe, ...]

    def logits(self, blocks: Sequence[Tensor]) -> Tensor:
        """(N, D) features for every probe -> (N, C)."""
        logits = [found.logits(block) for found, block in zip(self.probes, blocks, strict=True)]
        if len(logits) == 1:
            return logits[0]
        return torch.stack([each.log_softmax(1) for each in logits]).logsumexp(0) - math.log(len(logits))


def _penalised(material: Material, path: Callable[[probe.Split, probe.Split], list[Probe]]) -> Found:
    """Linear classifiers of all features, or of each member's; the penalty is one for all members."""
    train, validation, transfer = material.train, material.validation, material.transfer

    def blocks(view: View) -> Sequence[Tensor]:
        if transfer.combine == "concatenate":
            return (view.features,)
        return torch.split(view.features, [network.num_features for network in material.networks], dim=1)

    paths = [
        path((fitted, train.labels), (held_out, validation.labels))
        for fitted, held_out in zip(blocks(train), blocks(validation), strict=True)
    ]
    ensembles = [_Ensemble(probes) for probes in zip(*paths, strict=True)]
    found = probe.choose(
        zip(transfer.l2, ensembles, strict=True), lambda each: each.logits(blocks(validation)), validation.labels
    )
    num_features = sum(_read(block, transfer) for block in blocks(train))
    return _found(found, lambda view: found.model.logits(blocks(view)), train, num_features, {"l2": found.setting})


def _tuned(material: Material, tune: Callable[[float], Network], *others: tuple[float, Network]) -> Found:
    """The network fine-tuned at the learning rate that validation chooses, or one of the others, which come first."""
    tuned = ((rate, tune(rate)) for rate in material.transfer.learning_rates)
    found = probe.choose(
        itertools.chain(others, tuned),
        lambda network: probe.extract(network, material.validation.batches()),
        material.validation.labels,
        prefer_small=True,
    )
    return _found(
        found,
        lambda view: probe.extract(found.model, view.batches()),
        material.train,
        found.model.num_features,
        {"learning_rate": found.setting},
    )


def _found(
    choice: Choice[Any],
    logits: Callable[[View], Tensor],
    fitted: View,
    num_features: int,
    chosen: Mapping[str, float],
) -> Found:
    return Found(
        logits=logits,
        fitted=fitted,
        num_features=num_features,
        validation_accuracy=choice.validation_accuracy,
        chosen=chosen,
        path=choice.path,
    )


def _check(transfer: Transfer) -> None:
    name = transfer.protocol
    if name not in PROTOCOLS:
        raise ValueError(f"no protocol {name!r}; there are {', '.join(PROTOCOLS)}")
    if transfer.combine not in ("concatenate", "average"):
        raise ValueError(f"members cannot be combined by {transfer.combine!r}; choose concatenate or average")
    if transfer.compression < 1:
        raise ValueError(f"a compression of {transfer.compression}; 1 reads all dimensions")
    other_readings = (("combine: average", transfer.combine == "average"), ("compression", transfer.compression > 1))
    for setting, changed in other_readings:
        if changed and name not in LINEAR:
            raise ValueError(f"{setting} is not for {name}; leave it out, or choose one of {', '.join(sorted(LINEAR))}")


def _missing(view: View) -> int:
    """Classes without an example."""
    return int((torch.bincount(view.labels, minlength=view.num_classes) == 0).sum())


def _read(features: Tensor, transfer: Transfer) -> int:
    """How many leading principal components of (N, D) features are read."""
    return max(1, features.shape[1] // transfer.compression)


def _positions(labels: Tensor, transfer: Transfer) -> Tensor:
    """(N,) the first training examples of the component, and of those the first shots of each class, in order."""
    positions = torch.arange(min(transfer.train_examples or len(labels), len(labels)))
    if transfer.shots is None:
        return positions
    return positions[probe.rank_in_class(labels[positions]) < transfer.shots]


def _head_accuracy(stage: ProbeSpec, networks: Sequence[Network], test: View) -> float | None:
    """Test accuracy of a single network with its own head, among the component's classes; None without such outputs.

    Where all components share their labels, a head answers for one that it was not shown. A mixture of one component
    is the same work in every label space; who reads the result knows which it is.
    """
    if len(networks) != 1 or networks[0].head is None:
        return None
    mixture = stage.members[0].mixture
    contents = [share.component.content for share in mixture.shares]
    if stage.component.content in contents:
        offset = mixture.label_offsets[contents.index(stage.component.content)]
    elif mixture.num_classes >= stage.component.num_classes and (len(contents) == 1 or mixture.label_space == "shared"):
        offset = 0
    else:
        return None
    with torch.no_grad():
        logits = networks[0].logits(test.features)[:, offset : offset + stage.component.num_classes]
    return float((logits.argmax(dim=1) == test.labels).double().mean())
