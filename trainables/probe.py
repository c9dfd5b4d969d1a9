"""What are frozen features worth to a component? Multinomial logistic regression on them, solved to convergence.

The probe minimises, over the training split, mean cross-entropy + (l2 / 2) ||W||_F^2, where W acts on features
standardised with the mean and standard deviation of the training split, and the bias goes unpenalised. That is
scikit-learn's LogisticRegression(C=1 / (l2 * N)) on standardised features; with two classes, where scikit-learn has
one weight vector in place of two, C=2 / (l2 * N).

The objective is convex and has one minimum, up to a constant added to every bias; here the biases of the classes that
occur have mean 0. So a probe is a property of the features: there is no learning rate, no number of epochs and no seed
in it. One L2 is chosen on the validation split. The test split is read once, after that.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TOLERANCE = 1e-6  # a probe's objective is within this share of its minimum
MAX_ITERATIONS = 20_000  # per L2; the most seen on principal axes is 543
HISTORY = 20  # steps that L-BFGS remembers; 50 saved a twentieth to a fifth of the passes over the data, but no time

# Above this many entries (2 GiB) the standardised features are kept in float32. Loss and gradient are then accurate to
# seven digits, which for accuracies does not matter.
MAX_FLOAT64_ENTRIES = 2**28

# The principal axes are found for at most this many dimensions: their cost grows with the cube. At 2048 dimensions
# they take 2 s on one core of a CPU and so does their Gram matrix over 10,000 examples, as long as 50 passes.
MAX_AXES = 4096

# On a CPU the loss and its gradient are computed on blocks of so many entries (4 MiB), which are still in the cache
# when they are read for the second time: 20,000 x 256 features took 16 to 21 ms, against 24 to 56 ms in one piece.
BLOCK_ENTRIES = 2**19

Split = tuple[Tensor, Tensor]  # (N, D) features, (N,) labels


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
    _check("validation", *validation, num_classes)
    candidates = []
    for probe in fit_path(*train, num_classes, l2s):
        correct, loss = _evaluate(probe, *validation)
        candidates.append((_share(correct), -loss, probe.l2, probe))
    validation_accuracy, _, l2, probe = max(candidates, key=lambda candidate: candidate[:3])
    _check("test", *test, num_classes)
    test_correct, test_loss = _evaluate(probe, *test)
    return ProbeResult(
        l2=l2,
        validation_accuracy=validation_accuracy,
        test_accuracy=_share(test_correct),
        test_loss=test_loss,
        train_accuracy=_share(_evaluate(probe, *train)[0]),
        path=tuple((l2, accuracy) for accuracy, _, l2, _ in candidates),
        probe=probe,
        test_correct=test_correct,
    )


def fit_path(features: Tensor, labels: Tensor, num_classes: int, l2s: Sequence[float]) -> list[Probe]:
    """The probe for every L2, in the order given. Each starts from the next stronger one.

    A class without training examples is never predicted: its weights are 0, where the penalty leaves them, and its
    bias, for which the objective has no minimum, is -log(N + 1), below the largest logit of every example.

    Args:
        features: (N, D), finite. They are solved for on the device they are on.
        labels: (N,) integers in [0, num_classes).
        num_classes: C, the classes seen here or not.
        l2s: positive.

    Raises:
        ValueError: an argument is not as above.
    """
    _check("training", features, labels, num_classes)
    if not l2s or not all(math.isfinite(l2) and l2 > 0 for l2 in l2s):
        raise ValueError(f"the probe's l2 is {list(l2s)}; give one or more positive numbers")
    mean, scale = _standardisation(features)
    classes, targets = torch.unique(labels.long(), return_inverse=True)
    problem = _pose(features, mean, scale, targets)
    absent_bias = -math.log(len(labels) + 1)
    probes = {}
    weight = problem.frequencies(len(classes))
    for l2 in sorted(l2s, reverse=True):
        weight = _minimise(problem, weight, l2)
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
    modes = {module: module.training for module in features.modules()}
    features.eval()
    try:
        found = [features(batch.to(device)).flatten(1).float() for batch in batches]
    finally:
        for module, training in modes.items():
            module.training = training
    if not found:
        raise ValueError("there are no examples to extract features of")
    return torch.cat(found)


def _check(split: str, features: Tensor, labels: Tensor, num_classes: int) -> None:
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


def _evaluate(probe: Probe, features: Tensor, labels: Tensor) -> tuple[Tensor, float]:
    """(N,) whether each prediction is right, and the mean cross-entropy."""
    logits = probe.logits(features)
    return logits.argmax(1) == labels, float(F.cross_entropy(logits, labels.long()))


def _share(correct: Tensor) -> float:
    return int(correct.sum()) / len(correct)


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
    """

    design: Tensor  # (N, R + 1) the examples' coordinates, and a last column of ones, whose weights are the bias
    axes: Tensor | None  # (D, R) orthonormal axes of the coordinates; None: the features themselves
    targets: Tensor  # (N,) in [0, C), C here the classes that occur

    def frequencies(self, num_classes: int) -> Tensor:
        """(C, R + 1) weights that predict the classes' frequencies for every example: the minimum for infinite L2."""
        weight = self.design.new_zeros(num_classes, self.design.shape[1])
        bias = torch.bincount(self.targets, minlength=num_classes).to(weight).log()
        weight[:, -1] = bias - bias.mean()
        return weight

    def loss(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The mean cross-entropy of (C, R + 1) weights and, from the same pass over the data, its gradient."""
        size = len(self.design)
        if self.design.device.type == "cpu":
            size = max(1, BLOCK_ENTRIES // self.design.shape[1])
        loss, gradient = weight.new_zeros(()), torch.zeros_like(weight)
        for rows, targets in zip(torch.split(self.design, size), torch.split(self.targets, size), strict=True):
            log_probability = (weight @ rows.T).log_softmax(0)  # (C, n)
            target = targets[None]
            loss -= log_probability.gather(0, target).sum()
            residual = log_probability.exp_()
            residual.scatter_add_(0, target, -torch.ones_like(residual[:1]))
            gradient.addmm_(residual, rows)
        return loss / len(self.design), gradient / len(self.design)

    def curvature(self, weight: Tensor) -> Tensor:
        """(R + 1,) the diagonal of the Hessian of the loss, with the classes' and examples' p (1 - p) averaged."""
        probability = (self.design @ weight.T).softmax(1)
        average = (probability * (1 - probability)).mean().clamp_min(1e-10)
        return average * self.design.square().mean(0)


def _pose(features: Tensor, mean: Tensor, scale: Tensor, targets: Tensor) -> _Problem:
    standard = (features.to(mean.dtype) - mean).div_(scale)
    axes = _principal_axes(standard) if min(standard.shape) <= MAX_AXES else None
    coordinates = standard if axes is None else standard @ axes
    return _Problem(F.pad(coordinates, (0, 1), value=1.0), axes, targets)


def _principal_axes(standard: Tensor) -> Tensor:
    """(D, R) orthonormal; they span all (N, D) examples, and R is the smaller of N and D."""
    axes: Tensor
    if len(standard) >= standard.shape[1]:
        _, axes = torch.linalg.eigh(standard.T @ standard)
    else:
        span, coordinates = torch.linalg.qr(standard.T)  # (D, N), (N, N)
        axes = span @ torch.linalg.eigh(coordinates @ coordinates.T)[1]
    return axes


# --- Its solution: L-BFGS (Nocedal & Wright, Numerical Optimization, algorithm 7.5). ---


def _minimise(problem: _Problem, start: Tensor, l2: float) -> Tensor:
    """(C, R + 1) weights whose objective is within TOLERANCE of the minimum, relative to it.

    Minimised over the bias, the objective is l2-strongly convex, so it is at most ||gradient||^2 / (2 l2) above its
    minimum; the bias's gradient counts with the curvature there in place of l2, if that is lower. In float32 rounding
    can keep the gradient from falling that low; the end is then when the next step promises less than the rounding
    error of the objective.
    """
    penalty = torch.full_like(start[0], l2)
    penalty[-1] = 0  # the bias

    def evaluate(weight: Tensor) -> tuple[float, Tensor]:
        loss, gradient = problem.loss(weight)
        return float(loss + (penalty * weight.square()).sum() / 2), gradient.addcmul_(penalty, weight)

    rounding = torch.finfo(start.dtype).eps
    curvature = problem.curvature(start)
    scaling = 1 / (curvature + penalty)
    convexity = torch.full_like(penalty, l2)
    convexity[-1].clamp_(max=curvature[-1])
    history: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=HISTORY)
    weight, (value, gradient) = start, evaluate(start)
    for _ in range(MAX_ITERATIONS):
        if (gradient.square() / convexity).sum() / 2 <= TOLERANCE * value:
            return weight
        direction = _quasi_newton(gradient, history, scaling)
        slope = float(_inner(gradient, direction))
        if -slope <= rounding * value:
            return weight
        found = _line_search(evaluate, weight, direction, value, slope, 4 * rounding * value)
        if found is None:
            return weight
        step, value, next_gradient = found
        change = next_gradient - gradient
        product = _inner(step, change)
        if product > 0:
            history.append((step, change, 1 / product))
        weight, gradient = weight + step, next_gradient
    warnings.warn(f"a probe with l2 {l2:g} has not converged in {MAX_ITERATIONS} steps", stacklevel=3)
    return weight


def _quasi_newton(gradient: Tensor, history: Sequence[tuple[Tensor, Tensor, Tensor]], scaling: Tensor) -> Tensor:
    """The direction of descent, from past steps, the changes of the gradient over them, and 1 / their products."""
    direction = -gradient
    shares = []
    for step, change, inverse in reversed(history):
        share = inverse * _inner(step, direction)
        direction.sub_(share * change)
        shares.append(share)
    direction.mul_(scaling)
    if history:
        _, change, inverse = history[-1]
        direction.div_(inverse * _inner(change, scaling * change))
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
