"""Can a feature be lost for a reason that fits on paper? Competing features, enumerated and solved exactly.

A label y in {-1, +1} is seen through shared features s_1 ... s_n, each of which agrees with it at rate q in every
component, and through one private feature r_j per rare component j, which agrees at rate p in component j and is a fair
coin elsewhere. Given label and component the features are independent. The network is two layers deep and diagonal,
f(x) = sum_k u_k v_k x_k, trained with the loss log(1 + exp(-y f)) and the weight decay mu / 2 (|u|^2 + |v|^2). Since
the smallest |u|^2 + |v|^2 with u v = w is 2 |w|, its minimisers are those of logistic regression with the penalty
mu |w|_1: weight decay selects features, and what s already explains no longer speaks for r.

Everything here is exact: the population is finite, so nothing is sampled, and a seed can only enter through the start
of gradient descent. `solve` finds the minimum (Toy A). `gradient_descent` follows the way there (Toy B), on which
order and interruptions can leave a mark although the objective in w is convex.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Phase = tuple["Population", int]  # what is shown, for how many steps

RETAINED = 1e-6  # a feature is retained if its |w| is larger
MAX_RATE = 0.9999  # above it features are so nearly copies of each other that the minimum is lost in rounding
MAX_FEATURES = 14  # the population has 2 ** (features + 1) members per component
TOLERANCE = 1e-12  # of `solve`: the largest violation of the conditions of a minimum


@dataclass(frozen=True, kw_only=True, eq=False)
class Population:
    """Every example that can occur, once. Component 0 is the background, component j has the j-th private feature."""

    weights: Array  # (K,) shares of the components, sum 1
    label: Array  # (N,) -1 or 1
    features: Array  # (N, D) -1 or 1, and 0 where masked: the shared ones first, then the private ones
    component: NDArray[np.int64]  # (N,)
    likelihood: Array  # (N,) P(label, features | component): for every component they sum to 1

    @property
    def probability(self) -> Array:
        """(N,) that sum to 1."""
        return self.weights[self.component] * self.likelihood

    def only(self, component: int) -> Population:
        """One component by itself, whatever its weight."""
        return replace(self, weights=np.eye(len(self.weights))[component])

    def masked(self, *features: int) -> Population:
        """The same with these features set to 0."""
        hidden = np.isin(np.arange(self.features.shape[1]), features)
        return replace(self, features=np.where(hidden, 0.0, self.features))

    def margins(self) -> tuple[Array, Array]:
        """(M, D) distinct values of y x, on which alone the loss depends, and their (M,) probabilities."""
        present = self.probability > 0
        signed = self.features[present] * self.label[present, None]
        code = (signed @ 3.0 ** np.arange(signed.shape[1])).astype(np.int64)  # entries are -1, 0 or 1
        _, first, group = np.unique(code, return_index=True, return_inverse=True)
        return signed[first], np.bincount(group, self.probability[present]).astype(np.float64)


def population(weights: ArrayLike, *, q: float = 0.9, p: float = 0.99, competitors: int = 1) -> Population:
    """Background and rare components in these shares, enumerated.

    Args:
        weights: (K,) share of the background, then of each rare component; at least 0, sum 1, one of each at least.
        q: rate at which a shared feature agrees with the label, in [0.5, MAX_RATE].
        p: the same for a private feature in its own component, in (0.5, MAX_RATE].
        competitors: how many shared features there are.

    Raises:
        ValueError: an argument is not as above, or there are more than MAX_FEATURES features.
    """
    shares = np.array(weights, dtype=np.float64)
    rare = len(shares) - 1
    _check_rates(q, p)
    if rare < 1 or not (shares >= 0).all() or abs(shares.sum() - 1) > 1e-9:
        raise ValueError(f"weights are {shares.tolist()}: one share for the background, one per rare component, sum 1")
    if competitors < 0 or competitors + rare > MAX_FEATURES:
        raise ValueError(
            f"{competitors} shared and {rare} private features: at least 0 and 1, at most {MAX_FEATURES} together"
        )
    agreement = np.full((rare + 1, competitors + rare), q)  # P(feature = label) by component and feature
    agreement[:, competitors:] = 0.5 + (p - 0.5) * np.eye(rare + 1, rare, -1)
    agrees = np.array(list(itertools.product([True, False], repeat=competitors + rare)))
    likelihood = np.where(agrees, agreement[:, None], 1 - agreement[:, None]).prod(axis=2) / 2
    signed = np.where(agrees, 1.0, -1.0)
    num_examples = 2 * len(signed)  # per component, both labels
    return Population(
        weights=shares,
        label=np.tile(np.repeat([1.0, -1.0], len(signed)), rare + 1),
        features=np.tile(np.concatenate([signed, -signed]), (rare + 1, 1)),
        component=np.repeat(np.arange(rare + 1), num_examples),
        likelihood=np.tile(likelihood, 2).ravel(),
    )


def diluted(num_components: int, *, q: float = 0.9, p: float = 0.99, competitors: int = 1) -> Population:
    """Equal components, each with a private feature of its own, and no background."""
    weights = [0.0, *[1 / num_components] * num_components]
    return population(weights, q=q, p=p, competitors=competitors)


def _check_rates(q: float, p: float) -> None:
    if not (0.5 <= q <= MAX_RATE and 0.5 < p <= MAX_RATE):
        raise ValueError(f"q is {q:g} and p is {p:g}: rates of agreement from 0.5, p above it, to {MAX_RATE:g}")


# Toy A: the minimum


@dataclass(frozen=True)
class Threshold:
    """The weight of a rare component below which its private feature is dropped."""

    competing: float  # with one shared feature; above 1: dropped at every weight
    alone: float  # without any

    @property
    def saturation(self) -> float:
        """How many times more of the component is needed because the shared feature is there."""
        return self.competing / self.alone


def threshold(q: float, p: float, mu: float) -> Threshold:
    """The closed form for one shared and one private feature.

    While only s is active, sigma(w_s) = q - mu, and the gradient on r is lambda (2p - 1) (2q (1 - q) + mu (2q - 1));
    r stays at 0 as long as that is at most mu. If mu >= q - 1/2, s is not active either and does not compete.

    Raises:
        ValueError: mu is not positive, or a rate is not as in `population`.
    """
    _check_rates(q, p)
    if not mu > 0:
        raise ValueError(f"mu is {mu:g}; without weight decay no feature is dropped, so it is positive")
    alone = 2 * mu / (2 * p - 1)
    signal = 2 * q * (1 - q) + mu * (2 * q - 1) if mu < q - 0.5 else 0.5
    return Threshold(competing=mu / ((2 * p - 1) * signal), alone=alone)


def threshold_by_bisection(q: float, p: float, mu: float, competitors: int = 1) -> float:
    """The same for any number of shared features: the weight, to 1e-7, at which `solve` begins to retain r.

    Raises:
        ValueError: r is dropped even when the rare component is everything.
    """

    def dropped(weight: float) -> bool:
        shown = population([1 - weight, weight], q=q, p=p, competitors=competitors)
        return not retained(solve(shown, mu))[-1]

    low, high = 0.0, 1.0
    if dropped(high):
        raise ValueError(f"with mu = {mu:g} the private feature is dropped at every weight")
    while high - low > 1e-7:
        middle = (low + high) / 2
        low, high = (middle, high) if dropped(middle) else (low, middle)
    return high


def solve(shown: Population, mu: float) -> Array:
    """(D,) the w with the smallest mean of log(1 + exp(-y w.x)) + mu |w|_1, exact zeros where a feature is dropped.

    Proximal Newton: the quadratic model plus the penalty is minimised by coordinates, then a step is taken that lowers
    the objective. A masked feature gets 0. With mu = 0 it is logistic regression without a penalty.

    Raises:
        ValueError: mu is negative.
    """
    if not mu >= 0:
        raise ValueError(f"mu is {mu:g}; a penalty is at least 0")
    patterns, probability = shown.margins()
    w = np.zeros(patterns.shape[1])
    for _ in range(100):
        error = probability * _sigmoid(-patterns @ w)
        gradient = -(error @ patterns)
        if _violation(w, gradient, mu) < TOLERANCE:
            return w
        curvature = (patterns.T * (error * _sigmoid(patterns @ w))) @ patterns
        w = _shorten(patterns, probability, mu, w, _minimise_model(w, gradient, curvature, mu))
    raise AssertionError("rates below 1 leave errors that no weights avoid, so there is a minimum")


def retained(w: Array) -> NDArray[np.bool_]:
    """(D,) which features the network keeps."""
    return np.abs(w) > RETAINED


def _sigmoid(x: Array) -> Array:
    found: Array = 0.5 * (1 + np.tanh(x / 2))  # never overflows
    return found


def _violation(w: Array, gradient: Array, mu: float) -> float:
    """How far w is from a minimum: the largest distance of -gradient from the subdifferential of mu |w|_1."""
    off = np.where(w == 0, np.maximum(np.abs(gradient) - mu, 0), np.abs(gradient + mu * np.sign(w)))
    return float(off.max())


def _minimise_model(w: Array, gradient: Array, curvature: Array, mu: float) -> Array:
    """The minimum, over z, of gradient.(z - w) + (z - w).curvature.(z - w) / 2 + mu |z|_1."""
    z = w.copy()
    seen = np.flatnonzero(curvature.diagonal() > 0)
    for _ in range(100):
        before = z.copy()
        for k in seen:
            slope = gradient[k] + curvature[k] @ (z - w) - curvature[k, k] * z[k]
            z[k] = -np.sign(slope) * max(abs(slope) - mu, 0.0) / curvature[k, k]
        if np.abs(z - before).max() <= 1e-15 * max(1.0, np.abs(z).max()):
            break
    active = np.flatnonzero(z)  # coordinates crawl where features nearly agree; with the signs known it is linear
    inside = np.ix_(active, active)
    right = curvature[active] @ w - gradient[active] - mu * np.sign(z[active])
    exact = np.zeros_like(z)
    exact[active] = np.linalg.lstsq(curvature[inside], right)[0]
    return exact if (np.sign(exact) == np.sign(z)).all() else z


def _shorten(patterns: Array, probability: Array, mu: float, w: Array, target: Array) -> Array:
    """The farthest of target, halfway to it, a quarter of the way ... at which the objective is no higher than at w."""

    def objective(w: Array) -> float:
        return float(probability @ np.logaddexp(0, -patterns @ w) + mu * np.abs(w).sum())

    here = objective(w) + 1e-15  # rounding: near the minimum all are equal
    steps = (w + 0.5**halvings * (target - w) if halvings else target for halvings in range(40))
    return next((step for step in steps if objective(step) <= here), w)


# What the features are worth


@dataclass(frozen=True)
class Accuracies:
    """What mixture and direct training are worth to one component. Exact, in [0, 1]; ties count half."""

    transfer: float  # an unpenalised probe, fitted on the component, on the features that the mixture retains
    direct: float  # the network trained on the component alone, as trained
    direct_probe: float  # a probe, as above, on the features that this network retains

    @property
    def gap(self) -> float:
        """Direct minus transfer."""
        return self.direct - self.transfer


def accuracies(mixture: Population, component: int, mu: float) -> Accuracies:
    """Both kinds of training at their minimum, evaluated on one component."""
    target = mixture.only(component)
    direct = solve(target, mu)
    return Accuracies(
        transfer=probe_accuracy(target, retained(solve(mixture, mu))),
        direct=accuracy(direct, target),
        direct_probe=probe_accuracy(target, retained(direct)),
    )


def accuracy(w: Array, shown: Population) -> float:
    """Probability that the sign of w.x is the label; where w.x is 0, it is with probability 1/2."""
    patterns, probability = shown.margins()
    margin = patterns @ w
    right = np.where(np.abs(margin) < 1e-9, 0.5, margin > 0)
    return float(probability @ right)


def probe_accuracy(target: Population, kept: NDArray[np.bool_]) -> float:
    """Accuracy of logistic regression without a penalty on the features kept, (D,); their size does not matter."""
    seen = target.masked(*np.flatnonzero(~kept))
    return accuracy(solve(seen, 0.0), seen)


def cat_gain(members: Sequence[Array], target: Population) -> float:
    """What concatenating networks adds to a probe's accuracy over the best of them alone.

    A probe on concatenated diagonal networks sees the features that any of them retains. In this toy all members find
    the same minimum, so it gains exactly 0: ensembling needs members that differ.

    Args:
        members: (D,) weights of each network, at least one.
        target: the component the probes are fitted and evaluated on.
    """
    kept = [retained(w) for w in members]
    return probe_accuracy(target, np.any(kept, axis=0)) - max(probe_accuracy(target, one) for one in kept)


# Toy B: the way there


@dataclass(frozen=True, eq=False)
class Descent:
    """A run of gradient descent: T steps from its start."""

    u: Array  # (D,) at the end
    v: Array  # (D,) at the end
    trajectory: Array  # (T + 1, D) of w = u v, the start first

    @property
    def w(self) -> Array:
        """(D,) at the end."""
        final: Array = self.trajectory[-1]
        return final


def gradient_descent(
    u0: ArrayLike, v0: ArrayLike, schedule: Sequence[Phase], *, learning_rate: float, mu: float
) -> Descent:
    """Full-batch gradient descent on u and v, through the phases of a schedule.

    u_k = v_k = 0 is a saddle of the objective from which it never moves, and near which it is slow.

    Args:
        u0, v0: (D,) where it starts.
        schedule: populations and for how many steps each is shown.
        learning_rate: constant.
        mu: the weight decay, coupled to the loss: it adds mu u and mu v to the gradients.

    Raises:
        ValueError: it diverged.
    """
    u, v = np.array(u0, dtype=np.float64), np.array(v0, dtype=np.float64)
    trajectory = [u * v]
    with np.errstate(over="ignore", invalid="ignore"):  # the result is looked at instead
        for shown, steps in schedule:
            patterns, probability = shown.margins()
            for _ in range(steps):
                error = probability * _sigmoid(-(patterns @ trajectory[-1]))
                signal = error @ patterns  # minus the gradient of the loss in w
                u, v = u + learning_rate * (signal * v - mu * u), v + learning_rate * (signal * u - mu * v)
                trajectory.append(u * v)
    if not np.isfinite(trajectory[-1]).all():
        raise ValueError(f"diverged with learning rate {learning_rate:g} and mu {mu:g}; take a smaller learning rate")
    return Descent(u, v, np.array(trajectory))


def deficit(shown: Population, feature: int, *, onset: int, length: int, steps: int) -> list[Phase]:
    """A run of so many steps in which a feature is masked for `length` steps from step `onset`.

    Raises:
        ValueError: the deficit is not within the run.
    """
    if not 0 <= onset <= onset + length <= steps:
        raise ValueError(f"a deficit of {length} steps from step {onset} does not fit into {steps} steps")
    return [(shown, onset), (shown.masked(feature), length), (shown, steps - onset - length)]


ORDERINGS: dict[str, Callable[[int], Sequence[int]]] = {  # of K components one after the other; none: all at once
    "shuffled": lambda num_components: (),
    "rare_first": lambda num_components: (*range(1, num_components), 0),
    "background_first": lambda num_components: range(num_components),
}


def ordered(mixture: Population, ordering: str, steps: int) -> list[Phase]:
    """A run of so many steps in an ordering: each component is shown as long as its weight, so all show the same.

    Args:
        ordering: a key of ORDERINGS; `shuffled` shows the mixture at every step.

    Raises:
        ValueError: there is no such ordering.
    """
    if ordering not in ORDERINGS:
        raise ValueError(f"there is no ordering {ordering!r}; known: {', '.join(ORDERINGS)}")
    sequence = list(ORDERINGS[ordering](len(mixture.weights)))
    if not sequence:
        return [(mixture, steps)]
    ends = np.rint(steps * np.cumsum(mixture.weights[sequence])).astype(int)
    lengths = np.diff(ends, prepend=0)
    return [(mixture.only(component), int(length)) for component, length in zip(sequence, lengths, strict=True)]
