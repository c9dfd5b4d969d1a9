"""What are frozen features worth to a component? Multinomial logistic regression on them, solved to convergence.

The probe minimises, over the training split, mean cross-entropy + (l2 / 2) ||W||_F^2, where W acts on features
standardised with the mean and standard deviation of the training split, and the bias goes unpenalised. That is
scikit-learn's LogisticRegression(C=1 / (l2 * N)) on standardised features; with two classes, where scikit-learn has
one weight vector in place of two, C=2 / (l2 * N).

The objective is convex and has one minimum, up to a constant added to every bias; here the biases of the classes that
occur have mean 0. So a probe is a property of the features: there is no learning rate, no number of epochs and no seed
in it. One L2 is chosen on the validation split. The test split is read once, after that.

Beside it stand other readings of the same features, which protocols.py chooses among: ridge regression, nearest
neighbours, a probe with a hidden layer, and a head repaired on balanced held-out examples.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.draws import permutation
from trainables.optimizers import AdamW
from trainables.spec import derive_seed

TOLERANCE = 1e-6  # a probe's objective is within this share of its minimum

# Where so many steps gain no more than this share, it is the end as well. Seen with 50,000 x 512 features and an L2 of
# 1e-6, where the objectives of two probes that differed by 1e-4 had validation accuracies 0.01 points apart.
SLOW, SLOW_STEPS = 1e-5, 100
MAX_ITERATIONS = 20_000  # per L2; the most seen on principal axes is 799
HISTORY = 40  # steps that L-BFGS remembers; with 20, 20,000 x 512 features of 5 classes took 397 passes in place of 300

# Above this many entries (2 GiB) the standardised features are kept in float32. Loss and gradient are then accurate to
# seven digits, which for accuracies does not matter.
MAX_FLOAT64_ENTRIES = 2**28

# The principal axes are found for at most this many dimensions: their cost grows with the cube. At 2048 dimensions
# they take 2 s on one core of a CPU and so does their Gram matrix over 10,000 examples, as long as 50 passes.
MAX_AXES = 4096

# Between the leading axes, for all classes together, the solver knows the curvature in full: for a few coordinates at
# first, for twice as many each time that steps have cost as much as the next block does, and for so many at most.
# For ten classes, 512 features of 50,000 examples and an L2 of 1e-4 that took 64 passes in place of 698.
FIRST_BLOCK = 660
MAX_BLOCK = 2560
BLOCK_EXAMPLES = 16384  # what a block is estimated on; with half as many 2.5 times the passes at an L2 of 1e-6
EVERY_EXAMPLE = 0.05  # of the mean chance to be drawn for the estimate is added to each example's
BLOCK_ROUNDING = 16  # times the rounding error of its entries is added to its diagonal, scaled to 1
BLOCK_FLOPS = 2  # of a block cost as much as one of a step, which waits for memory
STEP_FLOPS = 1e7  # what a step costs besides its passes over the data
STALE = 4  # times the steps that it costs, and the largest block is made anew

# FLOPs of a block, up to which every step has one. Of 28 paths of 2 to 10 classes, on one core of a CPU, those below
# took 0.81 to 0.93 of the time that they take without, but for 3000 x 16 of two classes, 1.54; those from there to
# 1.1e7 0.93 to 1.68, and those above 1.4 to 4.7 times as long.
FREE_BLOCK = 5e6

# So many entries are first solved in float32, where a pass over 50,000 x 512 features takes 0.4 of the time, and then
# in float64, which ends it: a tenth to a third less for 3000 x 256 to 20,000 x 256, and a tenth more for 1000 x 64.
SINGLE_ENTRIES = 2**18

# On a CPU the loss and its gradient are computed on blocks of so many entries (4 MiB), which are still in the cache
# when they are read for the second time: 20,000 x 256 features took 16 to 21 ms, against 24 to 56 ms in one piece.
BLOCK_ENTRIES = 2**19

# A ridge regression's scores become logits when they are multiplied by a factor between these. At the upper end a
# lead of 0.01 already counts for certain.
SHARPNESS = (1e-2, 1e3)

SIMILARITIES = 2**24  # of examples to training examples, held at a time: 64 MiB

HIDDEN_UNITS = 256
HIDDEN_STEPS = 600
HIDDEN_BATCH = 128
HIDDEN_LEARNING_RATES = (1e-3, 3e-3)  # of AdamW, falling along half a cosine
HIDDEN_WEIGHT_DECAYS = (3.0, 0.3, 0.0)  # decoupled: a step takes the share learning rate * weight decay off a weight

REPAIRS = 10  # balanced draws whose heads are averaged, as many as in Kirichenko et al. (2023)

Split = tuple[Tensor, Tensor]  # (N, D) features, (N,) labels
Model = TypeVar("Model")


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """A linear classifier of standardised features."""

    weight: Tensor  # (C, D), acts on standardised features
    bias: Tensor  # (C,)
    mean: Tensor  # (D,) of the training split
    scale: Tensor  # (D,) its standard deviations, 1 where a feature is constant
    l2: float

    def logits(self, features: Tensor) -> Tensor:
        """(N, D) features -> (N, C), in the probe's own precision."""
        # In slices, so that a large split is never held a second time in float64.
        slices = [
            (part.to(self.weight.dtype) - self.mean).div_(self.scale) @ self.weight.T + self.bias
            for part in torch.split(features, 8192)
        ]
        return torch.cat(slices)


@dataclass(frozen=True, kw_only=True, eq=False)
class ProbeResult:
    """What a component's features are worth to a linear classifier. Accuracies are in [0, 1]."""

    l2: float  # the chosen one
    validation_accuracy: float
    test_accuracy: float
    test_loss: float  # mean cross-entropy, in nats
    train_accuracy: float
    path: tuple[tuple[float, float], ...]  # (l2, validation accuracy) of every L2, in the order given
    probe: Probe
    test_correct: Tensor  # (N,) bool, for paired comparisons of two probes on one test split


def linear_probe(train: Split, validation: Split, test: Split, num_classes: int, l2s: Sequence[float]) -> ProbeResult:
    """The probe with the best validation accuracy; of equals, the lower validation loss, then the stronger L2.

    Raises:
        ValueError: a split is empty or malformed, its features are not finite, or its labels are not classes.
    """
    check("validation", *validation, num_classes)
    probes = fit_path(*train, num_classes, l2s)
    chosen = choose(((p.l2, p) for p in probes), lambda p: p.logits(validation[0]), validation[1])
    probe = chosen.model
    check("test", *test, num_classes)
    test_correct, test_loss = evaluate(probe.logits(test[0]), test[1])
    return ProbeResult(
        l2=probe.l2,
        validation_accuracy=chosen.validation_accuracy,
        test_accuracy=share(test_correct),
        test_loss=test_loss,
        train_accuracy=share(evaluate(probe.logits(train[0]), train[1])[0]),
        path=chosen.path,
        probe=probe,
        test_correct=test_correct,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice(Generic[Model]):
    """What a validation split made of several candidates."""

    model: Model
    setting: float
    validation_accuracy: float
    path: tuple[tuple[float, float], ...]  # (setting, validation accuracy) of every candidate, in the order given


def choose(
    candidates: Iterable[tuple[float, Model]],
    logits: Callable[[Model], Tensor],
    labels: Tensor,
    *,
    prefer_small: bool = False,
) -> Choice[Model]:
    """The candidate with the best validation accuracy; of equals, the lower loss, then the larger setting.

    A candidate whose loss is not finite has diverged: it is neither chosen nor in the path.

    Args:
        candidates: setting and model of each. No more than two of the models are kept at a time.
        logits: (N, C) of the validation examples by a model.
        labels: (N,) of the validation examples.
        prefer_small: of settings that are equal in accuracy and loss take the smaller one.

    Raises:
        ValueError: every candidate has diverged.
    """
    best: tuple[tuple[float, float, float], float, Model] | None = None
    path, settings = [], []
    for setting, model in candidates:
        settings.append(setting)
        correct, loss = evaluate(logits(model), labels)
        if not math.isfinite(loss):
            continue
        rank = (share(correct), -loss, -setting if prefer_small else setting)
        path.append((setting, rank[0]))
        if best is None or rank > best[0]:
            best = rank, setting, model
    if best is None:
        raise ValueError(f"training has diverged at every setting of {settings}; give lower learning rates")
    rank, setting, model = best
    return Choice(model=model, setting=setting, validation_accuracy=rank[0], path=tuple(path))


def fit_path(
    features: Tensor, labels: Tensor, num_classes: int, l2s: Sequence[float], dimensions: int | None = None
) -> list[Probe]:
    """The probe for every L2, in the order given. Each starts from the next stronger one.

    A class without training examples is never predicted: its weights are 0, where the penalty leaves them, and its
    bias, for which the objective has no minimum, is -log(N + 1), below the largest logit of every example.

    Args:
        features: (N, D), finite. They are solved for on the device they are on.
        labels: (N,) integers in [0, num_classes).
        num_classes: C, the classes seen here or not.
        l2s: positive.
        dimensions: how many leading principal axes of the standardised features may be read; None: all. With as many
            as there are features the probe is the same as with None.

    Raises:
        ValueError: an argument is not as above.
    """
    _check_fit(features, labels, num_classes, l2s, dimensions)
    mean, scale = _standardisation(features)
    classes, targets = torch.unique(labels.long(), return_inverse=True)
    problem = _pose(features, mean, scale, targets, len(classes), dimensions)
    rough = problem.design.numel() >= SINGLE_ENTRIES and problem.design.dtype == torch.float64
    stages = [problem.single(), problem] if rough else [problem]
    absent_bias = -math.log(len(labels) + 1)
    probes = {}
    weight = problem.frequencies()
    known = None
    for l2 in sorted(set(l2s), reverse=True):
        for stage in stages:
            weight, known = _minimise(stage, weight.to(stage.design), l2, known)
        on_features = weight[:, :-1] if problem.axes is None else weight[:, :-1] @ problem.axes.T
        probes[l2] = Probe(
            weight=_for_all(classes, num_classes, on_features, absent=0.0),
            bias=_for_all(classes, num_classes, weight[:, -1], absent=absent_bias),
            mean=mean,
            scale=scale,
            l2=l2,
        )
    return [probes[l2] for l2 in l2s]


@torch.no_grad()
def extract(features: nn.Module, batches: Iterable[Tensor]) -> Tensor:
    """The features of all batches in evaluation mode: (N, D) float32, on the module's device.

    Batches come from any device. What the module returns per example is flattened, so `nn.Identity` gives raw inputs.
    The mode of every submodule is afterwards what it was.

    Raises:
        ValueError: there is no batch.
    """
    device = next((p.device for p in features.parameters()), None)
    with evaluating(features):
        found = [features(batch.to(device)).flatten(1).float() for batch in batches]
    if not found:
        raise ValueError("there are no examples to extract features of")
    return torch.cat(found)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module is in evaluation mode meanwhile; the mode of every submodule is afterwards what it was."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


# --- Other readings of the same features. ---


def ridge_path(
    features: Tensor, labels: Tensor, num_classes: int, l2s: Sequence[float], dimensions: int | None = None
) -> list[Probe]:
    """The ridge regression of the classes' indicators for every L2, in the order given: one eigendecomposition.

    It minimises the mean of ||W z + b - onehot(y)||^2, + l2 ||W||_F^2, where z are standardised features. That is
    scikit-learn's RidgeClassifier(alpha=l2 * N). A class without training examples is never predicted: its score is 0,
    and those of the others have sum 1.

    The arguments, and what is raised, are those of `fit_path`.
    """
    _check_fit(features, labels, num_classes, l2s, dimensions)
    mean, scale = _standardisation(features)
    standard = (features.to(mean.dtype) - mean).div_(scale)
    axes = _principal_axes(standard, dimensions)
    coordinates = standard @ axes  # (N, R), uncorrelated
    variances = coordinates.square().mean(0)
    targets = F.one_hot(labels.long(), num_classes).to(mean.dtype)
    covariances = targets.T @ coordinates / len(labels)  # (C, R); the coordinates have mean 0
    return [
        Probe(weight=covariances / (variances + l2) @ axes.T, bias=targets.mean(0), mean=mean, scale=scale, l2=l2)
        for l2 in l2s
    ]


def sharpened(probe: Probe, features: Tensor, labels: Tensor) -> Probe:
    """The probe whose logits are `probe`'s times the factor with the least cross-entropy on these examples.

    The factor is within SHARPNESS, and the predictions stay the same. For scores that are no logits, as a ridge
    regression's. Source: temperature scaling, Guo et al. (2017), arXiv:1706.04599.
    """
    scores = probe.logits(features)
    right = scores.gather(1, labels.long()[:, None]).mean()
    low, high = (math.log(bound) for bound in SHARPNESS)
    for _ in range(40):  # the loss is convex in the factor: halve the interval in which its derivative vanishes
        middle = (low + high) / 2
        expected = ((math.exp(middle) * scores).softmax(1) * scores).sum(1).mean()
        low, high = (low, middle) if expected > right else (middle, high)
    factor = math.exp((low + high) / 2)
    return Probe(
        weight=factor * probe.weight, bias=factor * probe.bias, mean=probe.mean, scale=probe.scale, l2=probe.l2
    )


def nearest_labels(train: Split, features: Tensor, count: int) -> Tensor:
    """(N, count) labels of the training examples with the greatest cosine similarity to each example, nearest first.

    All of them, if there are fewer. A feature vector of 0 has similarity 0 to every other.
    """
    keys = F.normalize(train[0]).T
    size = max(1, SIMILARITIES // keys.shape[1])
    count = min(count, keys.shape[1])
    found = [(F.normalize(block) @ keys).topk(count).indices for block in torch.split(features, size)]
    return train[1][torch.cat(found)]


def vote(nearest: Tensor, num_classes: int) -> Tensor:
    """(N, C) logits of a majority vote of the neighbours' labels (N, k), nearest first; a tie goes to the nearest.

    The probabilities are those of Laplace's rule, (votes + 1) / (k + C), so that no class is impossible.
    """
    count = nearest.shape[1]
    places = torch.arange(count, 0, -1, device=nearest.device, dtype=torch.float64).expand(nearest.shape)
    votes = torch.zeros(len(nearest), num_classes, device=nearest.device, dtype=torch.float64)
    first = torch.zeros_like(votes).scatter_reduce_(1, nearest, places, "amax")  # k: has the nearest; 0: has none
    votes.scatter_add_(1, nearest, torch.ones_like(places))
    return (votes + 1 + 1e-6 * first / count).log()  # the last term decides ties, and nothing else


@dataclass(frozen=True, kw_only=True, eq=False)
class HiddenProbe:
    """A classifier of standardised features with one hidden layer."""

    learning_rate: float
    weight_decay: float
    layers: nn.Module
    mean: Tensor  # (D,) of the training split
    scale: Tensor

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        """(N, D) features -> (N, C)."""
        parts = torch.split(features, 8192)
        return torch.cat([self.layers(_standardised(part, self.mean, self.scale)) for part in parts])


def fit_hidden(train: Split, num_classes: int, learning_rate: float, weight_decay: float, seed: int) -> HiddenProbe:
    """HIDDEN_UNITS ReLU units on standardised features, and a linear layer: cross-entropy by HIDDEN_STEPS of AdamW.

    Its rate falls to 0 along a cosine. Initial weights and batches come from the seed. Each example comes once before
    any comes again.
    """
    features, labels = train
    check("training", features, labels, num_classes)
    mean, scale = _standardisation(features)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "mlp_probe", "init"))
        layers = nn.Sequential(
            nn.Linear(features.shape[1], HIDDEN_UNITS), nn.ReLU(), nn.Linear(HIDDEN_UNITS, num_classes)
        )
    layers.to(features.device)
    optimizer = AdamW(layers.parameters(), learning_rate, weight_decay=weight_decay)
    batches = shuffled_batches(len(labels), HIDDEN_BATCH, HIDDEN_STEPS, derive_seed(seed, "mlp_probe", "batches"))
    for step, positions in enumerate(batches):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 + math.cos(math.pi * step / HIDDEN_STEPS)) / 2
        chosen = positions.to(features.device)
        loss = F.cross_entropy(layers(_standardised(features[chosen], mean, scale)), labels[chosen].long())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return HiddenProbe(learning_rate=learning_rate, weight_decay=weight_decay, layers=layers, mean=mean, scale=scale)


def repair(pool: Split, num_classes: int, l2s: Sequence[float], seed: int) -> Choice[Probe]:
    """The mean of REPAIRS linear probes, each fitted on another draw of as many examples of each class.

    First every L2 is fitted on a balanced draw from one half of each class, and the other halves choose among them.
    Then the chosen one is fitted on balanced draws from the whole pool, and weights and biases are averaged. The
    accuracies in the result are those of the choice, on the half held back.

    Raises:
        ValueError: no class has two examples; or as for `fit_path`.

    Source: deep feature reweighting, Kirichenko, Izmailov & Wilson (2023), arXiv:2204.02937, with classes for groups
        and an L2 penalty.
    """
    features, labels = pool
    check("held-out", features, labels, num_classes)
    order = _permuted(len(labels), derive_seed(seed, "repair", "halves"), labels.device)
    kept = rank_in_class(labels[order]) % 2 == 0
    fitting, choosing = order[kept], order[~kept]
    if not len(choosing):
        raise ValueError(f"{len(labels)} held-out examples, no two of a class; one half fits a head, the other chooses")
    balanced = fitting[_balanced(labels[fitting])]
    probes = fit_path(features[balanced], labels[balanced], num_classes, l2s)
    chosen = choose(((p.l2, p) for p in probes), lambda p: p.logits(features[choosing]), labels[choosing])
    weights, biases = [], []
    for draw in range(REPAIRS):
        order = _permuted(len(labels), derive_seed(seed, "repair", str(draw)), labels.device)
        balanced = order[_balanced(labels[order])]
        (found,) = fit_path(features[balanced], labels[balanced], num_classes, [chosen.setting])
        weight, bias = on_raw_features(found)
        weights.append(weight)
        biases.append(bias)
    mean = Probe(
        weight=torch.stack(weights).mean(0),
        bias=torch.stack(biases).mean(0),
        mean=torch.zeros_like(weights[0][0]),
        scale=torch.ones_like(weights[0][0]),
        l2=chosen.setting,
    )
    return Choice(model=mean, setting=chosen.setting, validation_accuracy=chosen.validation_accuracy, path=chosen.path)


def on_raw_features(probe: Probe) -> tuple[Tensor, Tensor]:
    """(C, D) weight and (C,) bias of the same probe for features that are not standardised."""
    weight = probe.weight / probe.scale
    return weight, probe.bias - weight @ probe.mean


def shuffled_batches(num_examples: int, batch_size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """(B,) positions for every step, on the CPU. Each example comes once before any comes again.

    B is the batch size, or the number of examples if that is less.
    """
    size = min(batch_size, num_examples)
    waiting = torch.empty(0, dtype=torch.int64)
    epoch = 0
    for _ in range(steps):
        if len(waiting) < size:
            more = torch.from_numpy(permutation(derive_seed(seed, "epoch", str(epoch)), num_examples))
            waiting, epoch = torch.cat([waiting, more]), epoch + 1
        yield waiting[:size]
        waiting = waiting[size:]


def _permuted(count: int, seed: int, device: torch.device) -> Tensor:
    return torch.from_numpy(permutation(seed, count)).to(device)


def _balanced(labels: Tensor) -> Tensor:
    """(N,) bool: the first so many examples of each class that occurs, as many as the rarest of them has."""
    counts = torch.bincount(labels)
    return rank_in_class(labels) < counts[counts > 0].min()


def _standardised(features: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """(N, D) float32."""
    return ((features - mean) / scale).float()


# --- What all of them share. ---


def check(split: str, features: Tensor, labels: Tensor, num_classes: int) -> None:
    """Raises ValueError for features (N, D) that are none or not finite, and for labels (N,) that are not classes."""
    if features.ndim != 2 or labels.shape != features.shape[:1] or 0 in features.shape:
        raise ValueError(
            f"{split} features {tuple(features.shape)} and labels {tuple(labels.shape)}; "
            "they are (N, D) and (N,), neither N nor D zero"
        )
    finite = features.isfinite().all(1)
    if not finite.all():
        bad = (~finite).nonzero().flatten()
        raise ValueError(
            f"{split} features of {len(bad)} of {len(features)} examples are not finite, of example {int(bad[0])} "
            "first; the network has probably diverged"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(f"{split} labels reach from {low} to {high}; with {num_classes} classes, 0 comes first")


def evaluate(logits: Tensor, labels: Tensor) -> tuple[Tensor, float]:
    """(N,) whether each prediction is right, and the mean cross-entropy in nats, of (N, C) logits."""
    return logits.argmax(1) == labels, float(F.cross_entropy(logits, labels.long()))


def share(correct: Tensor) -> float:
    """The accuracy, in [0, 1]."""
    return int(correct.sum()) / len(correct)


def rank_in_class(labels: Tensor) -> Tensor:
    """(N,) how many examples of the same class come before each example."""
    order = labels.argsort(stable=True)
    counts = torch.bincount(labels)
    starts = counts.cumsum(0) - counts
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(labels), device=labels.device) - starts[labels[order]]
    return rank


def _check_fit(
    features: Tensor, labels: Tensor, num_classes: int, l2s: Sequence[float], dimensions: int | None
) -> None:
    check("training", features, labels, num_classes)
    if not l2s or not all(math.isfinite(l2) and l2 > 0 for l2 in l2s):
        raise ValueError(f"the probe's l2 is {list(l2s)}; give one or more positive numbers")
    if dimensions is not None and dimensions < 1:
        raise ValueError(f"a probe of {dimensions} dimensions; ask for one or more")


def _for_all(classes: Tensor, num_classes: int, values: Tensor, absent: float) -> Tensor:
    """(C, ...) the rows of `values` at `classes`, and `absent` for the other classes."""
    return values.new_full((num_classes, *values.shape[1:]), absent).index_copy_(0, classes, values)


def _standardisation(features: Tensor) -> tuple[Tensor, Tensor]:
    """(D,) means and scales. A feature that is constant, exactly, has scale 1, not the rounding error of its mean."""
    precise = features.numel() <= MAX_FLOAT64_ENTRIES
    variance, mean = torch.var_mean(features.to(torch.float64 if precise else torch.float32), 0, correction=0)
    varies = (features.amax(0) > features.amin(0)) & (variance > 0)
    return mean, torch.where(varies, variance, 1).sqrt()


# --- The optimisation problem. ---


@dataclass(frozen=True, eq=False)
class _Problem:
    """The objective in coordinates in which it is easy to minimise.

    A rotation of the features changes neither the loss nor the penalty. Along the principal axes the features are
    uncorrelated, so the curvature of the objective is nearly diagonal and scaling each axis makes L-BFGS fast: for
    3000 x 256 features whose principal deviations fall like 1 / k^2, L2s from 1e-1 to 1e-6 took 285 passes over the
    data in place of 10,704, and on 20,000 x 256 features of a random network, 1e-1 to 1e-5 took 461 in place of 811.
    Where that is not enough, the curvature between the leading axes and all classes is taken in full: see `curvature`.
    """

    design: Tensor  # (N, R + 1) the examples' coordinates, and a last column of ones, whose weights are the bias
    axes: Tensor | None  # (D, R) orthonormal axes of the coordinates; None: the features themselves
    targets: Tensor  # (N,) in [0, C)
    num_classes: int  # C, here the classes that occur

    def frequencies(self) -> Tensor:
        """(C, R + 1) weights that predict the classes' frequencies for every example: the minimum for infinite L2."""
        weight = self.design.new_zeros(self.num_classes, self.design.shape[1])
        bias = torch.bincount(self.targets, minlength=self.num_classes).to(weight).log()
        weight[:, -1] = bias - bias.mean()
        return weight

    def loss(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The mean cross-entropy of (C, R + 1) weights and, from the same pass over the data, its gradient."""
        loss, gradient = weight.new_zeros(()), torch.zeros_like(weight)
        blocks = torch.split(self.design, self.block_examples)
        for rows, targets in zip(blocks, torch.split(self.targets, self.block_examples), strict=True):
            log_probability = (weight @ rows.T).log_softmax(0)  # (C, n)
            target = targets[None]
            loss -= log_probability.gather(0, target).sum()
            residual = log_probability.exp_()
            residual.scatter_add_(0, target, -torch.ones_like(residual[:1]))
            gradient.addmm_(residual, rows)
        return loss / len(self.design), gradient / len(self.design)

    @property
    def block_examples(self) -> int:
        """How many examples a pass over the data takes at a time."""
        return max(1, BLOCK_ENTRIES // self.design.shape[1]) if self.design.device.type == "cpu" else len(self.design)

    def single(self) -> _Problem:
        """The same in float32."""
        return replace(self, design=self.design.float())

    def next_leading(self, leading: int) -> int:
        """The number of leading axes, the bias among them, of the block that comes after one of `leading`."""
        wanted = max(2 * leading, FIRST_BLOCK // self.num_classes)
        return min(wanted, self.design.shape[1], MAX_BLOCK // self.num_classes)

    def block_steps(self, leading: int) -> float:
        """How many steps cost as much as a block of so many leading axes."""
        examples, coordinates = self.design.shape
        block = _block_flops(min(examples, BLOCK_EXAMPLES), leading * self.num_classes)
        step = STEP_FLOPS + 4 * examples * coordinates * self.num_classes
        return block / BLOCK_FLOPS / (step * self.design.element_size() / 4)

    @property
    def is_small(self) -> bool:
        """Whether every step has the whole curvature, for it costs so little."""
        examples, coordinates = self.design.shape
        return _block_flops(examples, coordinates * self.num_classes) <= FREE_BLOCK

    def curvature(self, weight: Tensor, penalty: Tensor, leading: int) -> _Curvature:
        """The Hessian of the objective at (C, R + 1) weights, nearly; `penalty` (R + 1,) is the penalty's part of it.

        Between the last `leading` coordinates of all classes it is what BLOCK_EXAMPLES examples say: those that
        are not yet certain, most of all. For the others it is the diagonal.
        """
        rows, shares = self._sample(weight)
        probability = (weight @ rows.T).softmax(0)  # (C, n)
        diagonal = (shares * _uncertainty(probability)) @ rows.square() + penalty  # (C, R + 1)
        if not leading:
            return _Curvature(diagonal, None)
        precision = weight.dtype if self.is_small else torch.float32
        weighted = rows[:, -leading:].to(precision) * shares.sqrt().to(precision)[:, None]
        hessian = _hessian(weighted, probability.T.to(precision))
        hessian.diagonal().add_(penalty[-leading:].repeat(len(weight)))
        # What is added to all classes alike changes no probability, and no gradient has such a part: any curvature
        # will do there, but none at all would leave the matrix singular.
        blocks = hessian.view(len(weight), leading, len(weight), leading)
        blocks.diagonal(dim1=1, dim2=3).add_(diagonal[:, -leading:].mean(0))
        scale = hessian.diagonal().rsqrt()
        hessian.mul_(scale[:, None]).mul_(scale)
        hessian.diagonal().add_(BLOCK_ROUNDING * torch.finfo(precision).eps)
        factor, failed = torch.linalg.cholesky_ex(hessian)
        return _Curvature(diagonal, None if failed else factor.div_(scale[:, None]))

    def _sample(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(n, R + 1) examples, and (n,) what each counts in a mean over all of them: they have sum 1, nearly.

        All examples, or BLOCK_EXAMPLES in equal steps along the sum of their chances, which are as p (1 - p) summed
        over the classes, and EVERY_EXAMPLE. Each counts the inverse of its chance.
        """
        count = len(self.design)
        if count <= BLOCK_EXAMPLES:
            return self.design, weight.new_full((count,), 1 / count)
        blocks = torch.split(self.design, self.block_examples)
        uncertain = torch.cat([_uncertainty((weight @ rows.T).softmax(0)).sum(0) for rows in blocks])
        chance = uncertain.cpu().double()  # on the CPU, where a running sum is the same every time
        chance += EVERY_EXAMPLE * chance.mean()
        chance /= chance.sum()
        places = (torch.arange(BLOCK_EXAMPLES).to(chance) + 0.5) / BLOCK_EXAMPLES
        drawn = torch.searchsorted(chance.cumsum(0), places).clamp_(max=count - 1)
        counts = 1 / (BLOCK_EXAMPLES * count * chance[drawn])
        return self.design[drawn.to(weight.device)], counts.to(weight)


@dataclass(frozen=True, eq=False)
class _Curvature:
    """A symmetric positive matrix of (C, R + 1) weights: diagonal, but for the last coordinates of all classes."""

    diagonal: Tensor  # (C, R + 1)
    factor: Tensor | None  # (C K, C K) lower triangular, of the block of the last K coordinates; None: no block

    def solve(self, gradient: Tensor) -> Tensor:
        """(C, R + 1): the inverse times the gradient, less what is added to all classes alike.

        That changes no probability, and a gradient has no such part where the weights have none, as at the start.
        """
        found = gradient / self.diagonal
        if self.factor is not None:
            leading = len(self.factor) // len(gradient)
            part = gradient[:, -leading:].reshape(-1, 1).to(self.factor)
            # Not cholesky_solve, which takes 12 times as long for 5130 coordinates.
            part = torch.linalg.solve_triangular(self.factor, part, upper=False)
            part = torch.linalg.solve_triangular(self.factor.T, part, upper=True)
            found[:, -leading:] = part.view(len(gradient), leading)
        return found - found.mean(0)


def _block_flops(examples: int, size: int) -> float:
    """FLOPs of a block of `size` rows: of its product over the examples, half of which is taken, and of its factor."""
    return (examples + size / 3) * size**2


def _uncertainty(probability: Tensor) -> Tensor:
    """p (1 - p), and a little where there is none."""
    return (probability * (1 - probability)).clamp_min_(1e-10)


def _hessian(rows: Tensor, probability: Tensor) -> Tensor:
    """(C K, C K) sum over examples of the Hessian of the cross-entropy of (n, K) rows with (n, C) probabilities."""
    weighted = (probability[:, :, None] * rows[:, None]).flatten(1)  # (n, C K)
    hessian = rows.new_zeros(weighted.shape[1], weighted.shape[1])
    for start in range(0, len(hessian), 256):  # the lower half of it, in blocks wide enough for a fast product
        columns = slice(start, start + 256)
        below = -(weighted[:, start:].T @ weighted[:, columns])
        hessian[start:, columns] = below
        hessian[columns, start:] = below.T
    classes, size = probability.shape[1], rows.shape[1]
    own = hessian.view(classes, size, classes, size).diagonal(dim1=0, dim2=2)  # (K, K, C)
    own.add_((weighted.T @ rows).view(classes, size, size).movedim(0, 2))
    return hessian


def _pose(
    features: Tensor, mean: Tensor, scale: Tensor, targets: Tensor, num_classes: int, dimensions: int | None
) -> _Problem:
    standard = (features.to(mean.dtype) - mean).div_(scale)
    wanted = dimensions is not None or min(standard.shape) <= MAX_AXES
    axes = _principal_axes(standard, dimensions) if wanted else None
    coordinates = standard if axes is None else standard @ axes
    return _Problem(F.pad(coordinates, (0, 1), value=1.0), axes, targets, num_classes)


def _principal_axes(standard: Tensor, dimensions: int | None = None) -> Tensor:
    """(D, R) orthonormal, the one with the largest variance last; R is the least of N, D and `dimensions`.

    Unless there are fewer dimensions, they span all (N, D) examples.
    """
    axes: Tensor
    if len(standard) >= standard.shape[1]:
        _, axes = torch.linalg.eigh(standard.T @ standard)
    else:
        span, coordinates = torch.linalg.qr(standard.T)  # (D, N), (N, N)
        axes = span @ torch.linalg.eigh(coordinates @ coordinates.T)[1]
    return axes if dimensions is None else axes[:, -dimensions:]


# --- Its solution: L-BFGS (Nocedal & Wright, Numerical Optimization, algorithm 7.5), or Newton's steps. ---


@dataclass(eq=False)
class _Known:
    """What the solver has learned of the objective with one L2, in float32 or in float64."""

    l2: float
    curvature: _Curvature
    wanted: int  # the leading axes of its block, whether or not it has a factor
    age: int  # the steps since
    history: deque[tuple[Tensor, Tensor, Tensor]]  # steps, changes of the gradient over them, 1 / their products
    values: deque[float]  # of the objective before each of the last SLOW_STEPS steps


def _minimise(problem: _Problem, start: Tensor, l2: float, known: _Known | None) -> tuple[Tensor, _Known]:
    """(C, R + 1) weights whose objective is within TOLERANCE of the minimum, relative to it.

    Minimised over the bias, the objective is l2-strongly convex, so it is at most ||gradient||^2 / (2 l2) above its
    minimum; the bias's gradient counts with about the curvature there in place of l2, if that is lower. Under a weak
    penalty that can be a hundred times too much, and so it is the end as well when SLOW_STEPS have gained no more than
    SLOW. Rounding can keep the gradient from falling that low, in float32 above all; the end is then when the next step
    promises less than the rounding error of the objective, or none that is found keeps its promise.

    `known` is what it returned for the same problem in float32, or for the next stronger L2: what needs a block once
    needs it under a weaker L2 too.
    """
    penalty = torch.full_like(start[0], l2)
    penalty[-1] = 0  # the bias

    def evaluate(weight: Tensor) -> tuple[float, Tensor]:
        loss, gradient = problem.loss(weight)
        return float(loss + (penalty * weight.square()).sum() / 2), gradient.addcmul_(penalty, weight)

    def learn(weight: Tensor, leading: int) -> _Known:
        values = deque([math.inf] * SLOW_STEPS, maxlen=SLOW_STEPS)
        return _Known(l2, problem.curvature(weight, penalty, leading), leading, 0, deque(maxlen=HISTORY), values)

    newton = problem.is_small
    if known is None or known.l2 != l2:
        known = learn(start, known.wanted if known and not newton else 0)
    known.history = deque(((s.to(start), c.to(start), i.to(start)) for s, c, i in known.history), maxlen=HISTORY)
    convexity = torch.full_like(penalty, l2)
    convexity[-1].clamp_(max=known.curvature.diagonal[:, -1].min())
    rounding = torch.finfo(start.dtype).eps
    weight, (value, gradient) = start, evaluate(start)
    for _ in range(MAX_ITERATIONS):
        bound = (gradient.square() / convexity).sum() / 2
        if bound <= TOLERANCE * value or known.values[0] - value <= SLOW * value:
            return weight, known
        known.values.append(value)
        leading = problem.next_leading(known.wanted)
        patience = problem.block_steps(leading) * (1 if leading > known.wanted else STALE)
        if newton or known.age >= patience > 0:
            known.curvature, known.wanted, known.age = problem.curvature(weight, penalty, leading), leading, 0
            if newton:  # its own step is better than what was learned on the way
                known.history.clear()
        direction = _quasi_newton(gradient, known.history, known.curvature)
        slope = float(_inner(gradient, direction))
        if -slope <= rounding * value:
            return weight, known
        found = _line_search(evaluate, weight, direction, value, slope, 4 * rounding * value)
        if found is None:
            return weight, known
        step, value, next_gradient = found
        change = next_gradient - gradient
        product = _inner(step, change)
        if product > 0:
            known.history.append((step, change, 1 / product))
        weight, gradient = weight + step, next_gradient
        known.age += 1
    warnings.warn(f"a probe with l2 {l2:g} has not converged in {MAX_ITERATIONS} steps", stacklevel=3)
    return weight, known


def _quasi_newton(gradient: Tensor, history: Sequence[tuple[Tensor, Tensor, Tensor]], curvature: _Curvature) -> Tensor:
    """The direction of descent, from past steps, the changes of the gradient over them, and 1 / their products."""
    direction = -gradient
    shares = []
    for step, change, inverse in reversed(history):
        share = inverse * _inner(step, direction)
        direction.sub_(share * change)
        shares.append(share)
    direction = curvature.solve(direction)
    if history:
        _, change, inverse = history[-1]
        direction.div_(inverse * _inner(change, curvature.solve(change)))
    for (step, change, inverse), share in zip(history, reversed(shares), strict=True):
        direction.add_((share - inverse * _inner(change, direction)) * step)
    return direction


def _line_search(
    evaluate: Callable[[Tensor], tuple[float, Tensor]],
    weight: Tensor,
    direction: Tensor,
    value: float,
    slope: float,
    rounding: float,
) -> tuple[Tensor, float, Tensor] | None:
    """The first step found with sufficient decrease and flattening (weak Wolfe), its value and its gradient.

    By bisection: Lewis & Overton (2013), Nonsmooth optimization via quasi-Newton methods. None if there is no such
    step down to the rounding error.
    """
    length, low, high = 1.0, 0.0, math.inf
    for _ in range(50):
        step = length * direction
        reached, gradient = evaluate(weight + step)
        if reached > value + 1e-4 * length * slope + rounding:
            high = length
        elif _inner(gradient, direction) < 0.9 * slope:
            low = length
        else:
            return step, reached, gradient
        length = (low + high) / 2 if math.isfinite(high) else 2 * low
    return None


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a.flatten(), b.flatten())
