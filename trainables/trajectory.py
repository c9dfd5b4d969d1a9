"""When does a run gain or lose what a component needs? Its checkpoints, measured after the run.

Accuracy, drift, saturation, gradients, Fisher trace and plasticity at every checkpoint, from the weights that were
kept there. What follows from the curves (peaks, times to a threshold, forgetting) is the analysis' matter. Networks
are in evaluation mode, with the running statistics of their batch norms, as probes find them. Images are shown as
they are: neither augmented nor impaired.

One L2 serves all checkpoints of the accuracy curve. It is chosen on the validation split at the end of the run, so
that a curve moves with the features and not with the choice.

What it costs is measured by `benchmarks/trajectory.py`, and docs/performance.md has the figures. Components of one run
share what is of the run.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from trainables.architectures import Network, build, folded
from trainables.components import ComponentData, Split
from trainables.feed import Feed, to_float
from trainables.optimizers import OPTIMIZERS
from trainables.ordering import Indices, Stream, index_stream
from trainables.pretrain import learning_rate
from trainables.probe import choose, evaluate, evaluating, extract, fit_path, share
from trainables.retention import debiased_cka, effective_rank, joint_moments, predictability, principal_variances
from trainables.spec import SHUFFLED, Mixture, PretrainSpec, Share, TrajectorySpec, derive_seed

BATCH = 128  # examples in a forward pass

L2S = (1e-3, 1e-2, 1e-1)  # of the probes; 1e-3 is scikit-learn's C=1 for 1000 examples
FOLDS = 5  # of the mixture's examples: three to fit the residual, one to choose the ridge penalty, one held out

GRADIENT_EXAMPLES = 128
GRADIENT_GROUPS = 8  # whose means tell the variance of single examples' gradients
FISHER_DRAWS = 1  # random directions per example in place of a sum over classes: 5 % off on 128 images
# Gradients of single examples are held for so many examples at a time, in half a gigabyte at most. 128 of a `cnn` take
# 60 ms of a core of a CPU at once, 70 to 79 by 32 at a time, and the numbers are the same to the last bit.
GRADIENT_CHUNK = 128
MAX_GRADIENT_ENTRIES = 2**27
NO_GRADIENT: dict[str, float | None] = dict.fromkeys(("gradient_norm", "gradient_cosine", "gradient_snr"))

Features = tuple[Tensor, Tensor]  # (N, D) of the component's training examples, and of its test examples


def measure(
    spec: TrajectorySpec,
    checkpoints: Sequence[Network],
    direct: Network | None,
    component: ComponentData,
    mixture: Sequence[ComponentData],
    device: torch.device,
) -> dict[str, Any]:
    """The curves of one component over the checkpoints of one run, ready for JSON.

    Args:
        spec: what the checkpoints are of.
        checkpoints: (T,) their networks. That of step 0 may lack a head: it is then the one the run started with.
        direct: the component's direct baseline; None: what refers to it is None.
        component: the component that is probed, in the mixture or not.
        mixture: the components of the run's mixture, in its order.
        device: where everything is computed; the networks are moved there.

    Returns:
        `step`, and per checkpoint a number, or None where there is none:

        accuracy, loss: T1, of a linear probe, on the test split; the loss in nats.
        head_accuracy: of the run's own head among the component's classes. None outside of the mixture, as the
            gradient of the component is.
        predictability: T5, R4: test R2 of the direct features from these.
        cka_direct, cka_final: T5: debiased CKA with the direct features and with those of the last checkpoint.
        effective_rank: T5.
        signal: T6, `residual_signal` on examples of the mixture as the run is shown them.
        saturation: T6, the signal in units of that at step 0.
        residual_r2: T6, R2 of the residual from the direct features on held-out examples of the mixture, every class
            counting alike; negative where what was fitted is worse than the mean.
        gradient_norm: T7, of the mean loss of the component's examples, as the run is shown them, over all weights.
        gradient_cosine: T7, between that gradient and the mixture's, which is the mean of its components', weighted
            by their shares. 1 where the mixture is this component alone.
        gradient_snr: T7, the squared norm of that gradient by the variance of single examples' gradients, summed over
            weights. Where examples agree about nothing it is 1 / GRADIENT_EXAMPLES.
        fisher: T8, `fisher_trace` on images of the mixture: the same for every component of a run.
        plasticity: T9, test accuracy after `spec.plasticity_steps` of direct training on the component from these
            features, minus the same from the run's own initialisation: at step 0 it is 0.

        And `direct_accuracy`, of the same probe on the direct features, or None; the numbers of examples of the test
            split and of the mixture, `num_examples` and `num_mixture_examples`; and the probes' `l2`.

    Raises:
        ValueError: a checkpoint's features are not finite.
    """
    assert len(checkpoints) == len(spec.checkpoints), "a network for every checkpoint"
    networks = [_complete(network, spec.run).to(device) for network in checkpoints]
    course = _course(spec, networks, mixture, device)
    sample = _Sample.of(spec, component, device)
    reference = _Reference.of(sample, course, networks[-1], None if direct is None else direct.to(device))
    weights = np.array([part.shown for part in spec.run.mixture.shares]) / spec.run.mixture.num_examples
    points = []
    for t, network in enumerate(networks):
        features = reference.final if network is networks[-1] else _read(network, sample)
        gradients = course.gradients[t].curves(sample.place, weights) if sample.place is not None else NO_GRADIENT
        points.append(
            _component_curves(network, features, sample, reference)
            | _residual_curves(course.logits[t], course, reference)
            | gradients
            | {"fisher": course.fisher[t]}
        )
    curves = {name: [point[name] for point in points] for name in points[0]}
    start = curves["signal"][0]
    return {
        "step": list(spec.steps),
        **curves,
        "saturation": [signal / start if signal is not None and start else None for signal in curves["signal"]],
        "plasticity": _plasticity(spec, networks, component, sample.test, device),
        "direct_accuracy": reference.direct_accuracy,
        "num_examples": len(sample.test.labels),
        "num_mixture_examples": len(course.examples.labels),
        "l2": reference.l2,
    }


def residual_signal(residual: Tensor, features: Tensor) -> float:
    """||(1/N) sum_x r(x) z(x)^T||_F: how much of the features the loss still asks for.

    Args:
        residual: (N, C) one-hot label minus predicted probabilities.
        features: (N, D) of a direct network for the same examples, standardised here; constant ones count nothing.
    """
    z = features.double()
    variance, mean = torch.var_mean(z, 0, correction=0)
    varies = (features.amax(0) > features.amin(0)) & (variance > 0)
    standard = (z[:, varies] - mean[varies]) / variance[varies].sqrt()
    return float(torch.linalg.matrix_norm(residual.double().T @ standard)) / len(z)


def mean_gradient(network: Network, images: Tensor, labels: Tensor, groups: int) -> tuple[Tensor, float | None]:
    """(P,) the gradient of the mean cross-entropy over all weights, and the variance of single examples' gradients.

    The variance is summed over weights, and is that among the means of `groups` groups of equal size, times their
    size: right on average, and without a gradient for every example. Up to groups - 1 examples are left out. None
    where there are fewer than two groups.

    Args:
        network: in evaluation mode.
        images: (B, channels, height, width).
        labels: (B,) outputs of the head.
    """
    groups = min(groups, len(labels))
    weights, means = list(network.parameters()), []
    with torch.enable_grad():
        for group in torch.arange(len(labels) // groups * groups, device=labels.device).view(-1, groups).unbind(1):
            loss = F.cross_entropy(network(images[group]), labels[group])
            found = torch.autograd.grad(loss, weights, materialize_grads=True)
            means.append(torch.cat([gradient.flatten() for gradient in found]))
    mean = torch.stack(means).mean(0)
    if groups < 2:
        return mean, None
    spread = sum(float((each - mean).square().sum()) for each in means) / (groups - 1)
    return mean, spread * (len(labels) // groups)


def squared_gradient_norms(
    network: Network, images: Tensor, given: Tensor, cotangents: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """(B, M) squared norms, over all weights, of the gradients of <cotangent, logits> of single examples.

    Args:
        network: in evaluation mode.
        images: (B, channels, height, width).
        given: (B, ...) what the cotangents are made of beside the logits.
        cotangents: from the (C,) logits of one example and what is given for it to (M, C). Softmax minus one-hot label
            gives the gradient of the loss.
    """
    weights = {name: weight.detach() for name, weight in network.named_parameters()}
    buffers = dict(network.named_buffers())

    def of_one(image: Tensor, its_own: Tensor) -> Tensor:
        def output(weights: dict[str, Tensor]) -> Tensor:
            return functional_call(network, (weights, buffers), (image[None],))[0]  # type: ignore[no-any-return]

        logits, pull_back = vjp(output, weights)[:2]
        gradients = [pull_back(cotangent)[0].values() for cotangent in cotangents(logits, its_own).unbind()]
        return torch.stack([sum(gradient.square().sum() for gradient in each) for each in gradients])

    entries = sum(weight.numel() for weight in weights.values())
    chunk = max(1, min(GRADIENT_CHUNK, MAX_GRADIENT_ENTRIES // entries))
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no rule for a batch of gradients
        found: Tensor = vmap(of_one, chunk_size=chunk)(images, given)
    return found


def fisher_trace(network: Network, images: Tensor, draws: int | None, generator: torch.Generator) -> float:
    """The trace of the Fisher information: mean squared norm of grad log p(y | x) over images and the model's own y.

    With J the Jacobian of the logits, an image's trace is that of J^T (diag p - p p^T) J, and diag p - p p^T is L L^T
    with L = (I - p 1^T) diag(sqrt p). Its columns are the classes, weighted. Random signs s in place of them give
    ||J^T L s||^2, which is right on average, and varies far less than one drawn label where the model is confident.

    Args:
        network: in evaluation mode.
        images: (B, channels, height, width).
        draws: how many signs; None, or at least the number of classes: the exact sum over classes.
        generator: of the signs, on the CPU.

    Source: Achille, Rovere & Soatto (2019), arXiv:1711.08856; the estimator is Hutchinson's.
    """
    assert network.head is not None, "only a network with a head predicts"
    num_classes = network.head.out_features
    if draws is None or draws >= num_classes:
        columns, average = torch.eye(num_classes).expand(len(images), -1, -1), 1.0  # (B, C, M)
    else:
        columns = torch.randint(2, (len(images), num_classes, draws), generator=generator).float() * 2 - 1
        average = 1 / draws

    def directions(logits: Tensor, its_columns: Tensor) -> Tensor:
        p = logits.softmax(0)
        root = p.sqrt()
        return (root[:, None] * its_columns - torch.outer(p, root @ its_columns)).mT  # (M, C), transposed L times them

    norms = squared_gradient_norms(network, images, columns.to(images), directions)
    return float(norms.double().sum(1).mean()) * average


# --- What is measured on. ---


@dataclass(frozen=True, kw_only=True, eq=False)
class _Examples:
    """Images and labels on the device."""

    parts: tuple[tuple[Tensor, tuple[float, float]], ...]  # (n, C, H, W) uint8, and the range that its bytes stand for
    labels: Tensor  # (N,)

    @staticmethod
    def first(data: ComponentData, split: Split, count: int, device: torch.device) -> _Examples:
        """The first of a component's split, whose order is random."""
        images, labels = split.gather(torch.arange(min(count, len(split))))
        return _Examples(parts=((images.to(device), data.value_range),), labels=labels.to(device))

    def batches(self) -> Iterator[Tensor]:
        for images, value_range in self.parts:
            for batch in torch.split(images, BATCH):
                yield to_float(batch, value_range)

    def images(self) -> Tensor:
        """(N, C, H, W) floats."""
        return torch.cat(list(self.batches()))


@dataclass(frozen=True, eq=False)
class _Shown:
    """The examples that a run is shown."""

    stream: Stream
    run: PretrainSpec
    data: Sequence[ComponentData]
    device: torch.device

    @staticmethod
    def to(run: PretrainSpec, data: Sequence[ComponentData], device: torch.device) -> _Shown:
        difficulties = [each.difficulty() for each in data] if run.ordering.kind == "curriculum" else None
        return _Shown(index_stream(run.mixture, run.ordering, run.seed, difficulties, run.pool_seed), run, data, device)

    def at(self, positions: Indices) -> _Examples:
        """The examples at these positions of the stream, by component; the labels are those of the head."""
        parts, labels = [], []
        for k, (data, offset) in enumerate(zip(self.data, self.run.mixture.label_offsets, strict=True)):
            images, found = data.train.gather(self._of(k, positions))
            parts.append((images.to(self.device), data.value_range))
            labels.append(found + offset)
        return _Examples(parts=tuple(parts), labels=torch.cat(labels).to(self.device))

    def folds(self, positions: Indices) -> Tensor:
        """(N,) in [0, FOLDS), in the order of `at`: an example that is shown more than once is in one fold."""
        places = [np.unique(self._of(k, positions), return_inverse=True)[1] for k in range(len(self.data))]
        return torch.from_numpy(np.concatenate(places) % FOLDS).to(self.device)

    def _of(self, component: int, positions: Indices) -> Indices:
        chosen: Indices = self.stream.example[positions[self.stream.component[positions] == component]]
        return chosen


def _spread(positions: Indices, count: int) -> Indices:
    """At most `count` of the positions, evenly spaced."""
    count = min(count, len(positions))
    chosen: Indices = positions[np.arange(count) * len(positions) // count]
    return chosen


@dataclass(frozen=True, kw_only=True, eq=False)
class _Course:
    """What is measured of a run, whichever component is asked about."""

    shown: _Shown
    examples: _Examples  # as the run is shown them, all components
    folds: Tensor  # (N,)
    logits: tuple[Tensor, ...]  # (T,) of (N, C)
    gradients: tuple[_Gradients, ...]  # (T,)
    fisher: tuple[float, ...]  # (T,)


_COURSES: WeakKeyDictionary[Network, tuple[object, _Course]] = WeakKeyDictionary()  # by the last checkpoint


def _course(
    spec: TrajectorySpec, networks: Sequence[Network], mixture: Sequence[ComponentData], device: torch.device
) -> _Course:
    """Kept for the run's other components as long as the last network is: three of them then cost two fifths less."""
    key = [checkpoint.digest for checkpoint in spec.checkpoints], spec.examples, device
    kept = _COURSES.get(networks[-1])
    if kept is None or kept[0] != key:
        kept = _COURSES[networks[-1]] = key, _read_course(spec, networks, mixture, device)
    return kept[1]


def _read_course(
    spec: TrajectorySpec, networks: Sequence[Network], mixture: Sequence[ComponentData], device: torch.device
) -> _Course:
    shown = _Shown.to(spec.run, mixture, device)
    everything = np.arange(len(shown.stream))
    examples, few = (shown.at(_spread(everything, count)) for count in (spec.examples, GRADIENT_EXAMPLES))
    by_component = [
        shown.at(_spread(np.flatnonzero(shown.stream.component == k), GRADIENT_EXAMPLES)) for k in range(len(mixture))
    ]
    logits, gradients, fisher = [], [], []
    for network in networks:
        with evaluating(network):
            with torch.no_grad():
                logits.append(network.logits(_features(network, examples)))
            gradients.append(_Gradients.of(network, by_component))
            generator = torch.Generator().manual_seed(0)  # the same draws for every checkpoint
            fisher.append(fisher_trace(network, few.images(), FISHER_DRAWS, generator))
    return _Course(
        shown=shown,
        examples=examples,
        folds=shown.folds(_spread(everything, spec.examples)),
        logits=tuple(logits),
        gradients=tuple(gradients),
        fisher=tuple(fisher),
    )


@dataclass(frozen=True, eq=False)
class _Gradients:
    """Of the loss of every component of the mixture, at one checkpoint."""

    products: NDArray[np.float64]  # (K, K) of the mean gradients
    variances: tuple[float | None, ...]  # (K,) of single examples' gradients, summed over weights

    @staticmethod
    def of(network: Network, components: Sequence[_Examples]) -> _Gradients:
        found = [mean_gradient(network, each.images(), each.labels, GRADIENT_GROUPS) for each in components]
        means = torch.stack([mean for mean, _ in found])  # (K, P)
        products = (means @ means.T).double().cpu().numpy()
        return _Gradients(products, tuple(variance for _, variance in found))

    def curves(self, component: int, weights: NDArray[np.float64]) -> dict[str, float | None]:
        """What `measure` says of a component's gradient; weights are the (K,) shares of the mixture."""
        squared, variance = float(self.products[component, component]), self.variances[component]
        lengths = math.sqrt(squared * float(weights @ self.products @ weights))
        return {
            "gradient_norm": math.sqrt(squared),
            "gradient_cosine": float(self.products[component] @ weights) / lengths if lengths > 0 else None,
            "gradient_snr": squared / variance if variance else None,
        }


def _complete(network: Network, run: PretrainSpec) -> Network:
    """The network with a head: one that is only its initialisation may come without that of the run."""
    if network.head is not None:
        return network
    started = build(run.architecture, run.mixture.num_classes, run.seed)
    return Network(network.features, started.head, network.num_features)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sample:
    """The component, as every checkpoint sees it."""

    train: _Examples
    validation: _Examples
    test: _Examples
    num_classes: int
    place: int | None  # in the mixture; None: the component is not in it
    first_output: int  # of the head, for the component's classes

    @staticmethod
    def of(spec: TrajectorySpec, data: ComponentData, device: torch.device) -> _Sample:
        train, validation, test = (
            _Examples.first(data, split, spec.examples, device) for split in (data.train, data.validation, data.test)
        )
        mixture = spec.run.mixture
        contents = [part.component.content for part in mixture.shares]
        place = contents.index(spec.component.content) if spec.component.content in contents else None
        return _Sample(
            train=train,
            validation=validation,
            test=test,
            num_classes=data.component.num_classes,
            place=place,
            first_output=0 if place is None else mixture.label_offsets[place],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Reference:
    """What every checkpoint is compared with, and the probes' L2."""

    l2: float
    final: Features  # of the last checkpoint
    direct: tuple[Features, Tensor] | None  # direct features, and (N, D) of the mixture's examples
    direct_accuracy: float | None

    @staticmethod
    def of(sample: _Sample, course: _Course, final: Network, direct: Network | None) -> _Reference:
        features, validation = _read(final, sample), _features(final, sample.validation)
        probes = fit_path(features[0], sample.train.labels, sample.num_classes, L2S)
        chosen = choose(((p.l2, p) for p in probes), lambda p: p.logits(validation), sample.validation.labels)
        l2 = chosen.setting
        if direct is None:
            return _Reference(l2=l2, final=features, direct=None, direct_accuracy=None)
        of_component = _read(direct, sample)
        return _Reference(
            l2=l2,
            final=features,
            direct=(of_component, _features(direct, course.examples)),
            direct_accuracy=_probe(of_component, sample, l2)[0],
        )


def _read(network: Network, sample: _Sample) -> Features:
    return _features(network, sample.train), _features(network, sample.test)


def _features(network: Network, examples: _Examples) -> Tensor:
    return extract(folded(network.features), examples.batches())


# --- What is measured of one checkpoint. ---


@torch.no_grad()
def _component_curves(
    network: Network, features: Features, sample: _Sample, reference: _Reference
) -> dict[str, float | None]:
    """Of the component's own examples."""
    train, test = features
    accuracy, loss = _probe(features, sample, reference.l2)
    head_accuracy = r2 = cka_direct = None
    if sample.place is not None:
        outputs = slice(sample.first_output, sample.first_output + sample.num_classes)
        head_accuracy = share(network.logits(test)[:, outputs].argmax(1) == sample.test.labels)
    if reference.direct is not None:
        (to_train, to_test), _ = reference.direct
        kept = len(train) - len(train) // FOLDS  # the others choose the ridge penalty
        r2 = predictability(train[:kept], to_train[:kept], train[kept:], to_train[kept:], test, to_test)
        cka_direct = debiased_cka(joint_moments([(to_test, test)]))
    return {
        "accuracy": accuracy,
        "loss": loss,
        "head_accuracy": head_accuracy,
        "predictability": r2,
        "cka_direct": cka_direct,
        "cka_final": debiased_cka(joint_moments([(reference.final[1], test)])),
        "effective_rank": effective_rank(principal_variances(test)),
    }


def _probe(features: Features, sample: _Sample, l2: float) -> tuple[float, float]:
    """Test accuracy and loss of a linear probe."""
    train, test = features
    (probe,) = fit_path(train, sample.train.labels, sample.num_classes, [l2])
    correct, loss = evaluate(probe.logits(test), sample.test.labels)
    return share(correct), loss


def _residual_curves(logits: Tensor, course: _Course, reference: _Reference) -> dict[str, float | None]:
    """Of the mixture's examples, seen with the component's direct features."""
    if reference.direct is None:
        return {"signal": None, "residual_r2": None}
    residual = F.one_hot(course.examples.labels, logits.shape[1]) - logits.double().softmax(1)
    z, folds = reference.direct[1], course.folds
    fitted, choosing, held_out = folds < FOLDS - 2, folds == FOLDS - 2, folds == FOLDS - 1
    parts = [side[fold] for fold in (fitted, choosing, held_out) for side in (z, residual)]
    return {
        "signal": residual_signal(residual, z),
        "residual_r2": predictability(*parts) if bool(held_out.any()) else None,
    }


# --- T9: training on from a checkpoint. ---


def _plasticity(
    spec: TrajectorySpec, networks: Sequence[Network], data: ComponentData, test: _Examples, device: torch.device
) -> list[float | None]:
    if not spec.plasticity_steps:
        return [None] * len(networks)
    fresh = build(spec.run.architecture, spec.component.num_classes, spec.run.seed)
    reached = []
    for features in (fresh.features, *(network.features for network in networks)):
        network = Network(copy.deepcopy(features), copy.deepcopy(fresh.head), fresh.num_features).to(device)
        _train_directly(network, spec, data, device)
        reached.append(_accuracy(network, test))
    return [None if found is None or reached[0] is None else found - reached[0] for found in reached[1:]]


def _train_directly(network: Network, spec: TrajectorySpec, data: ComponentData, device: torch.device) -> None:
    """Train on the component alone with the run's settings, but for augmentation and deficit, over so many steps.

    Every network is shown the same batches.
    """
    training = replace(spec.run.training, steps=spec.plasticity_steps)
    shown, pool = training.steps * training.batch_size, spec.component.num_train
    mixture = Mixture(shares=(Share(component=spec.component, shown=shown, pool=pool, distinct=min(shown, pool)),))
    seed = derive_seed(spec.run.seed, "plasticity")
    feed = Feed(index_stream(mixture, SHUFFLED, seed), mixture, [data], training.batch_size, device)
    optimizer = OPTIMIZERS[training.optimizer](network, training)
    network.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)  # for dropout inside of the network
        for step, (x, y, _) in enumerate(feed.batches(0)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(training, step)
            loss = F.cross_entropy(network(x), y, label_smoothing=training.label_smoothing)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()


@torch.no_grad()
def _accuracy(network: Network, test: _Examples) -> float | None:
    """None if training has diverged."""
    logits = extract(network, test.batches())
    return share(logits.argmax(1) == test.labels) if bool(logits.isfinite().all()) else None
