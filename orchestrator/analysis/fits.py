"""Which law do the numbers follow, and how far can it be trusted? Floors, mixing laws, half-gaps, orderings.

Every fit says with 95 % intervals what it found, or is Refused with the reason: too few scales, mixtures or seeds,
a trend within the noise, a parameter at the end of its range. A seed is the unit of replication: fits are made to means
over seeds, and their intervals come from resampling whole seeds, so that what a seed's runs share stays together.

A bootstrap of S seeds is too narrow by sqrt((S - 1) / S), and its normal-like tails are too thin for few seeds. Means
are therefore resampled and then moved away from the observed ones by the factor that turns such an interval into
Student's; the fit to each of them gives the interval of a parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, stdtrit

from orchestrator.analysis.gaps import Estimate, estimate, listed

Array = NDArray[np.float64]

MIN_SEEDS = 3
MIN_SCALES = 5
MIN_MEMBERS = 4  # sizes of ensembles
MIN_WEIGHTS = 4
MIN_RUNS = 5  # of `transfer_fit`, where no run is repeated
MIN_SPAN = 4.0  # largest scale over smallest
MIN_ERROR_SPAN = 1.5  # largest upstream error over smallest
SMALL_WEIGHT = 0.05  # the smallest weight may stand for weight 0 up to here
EXPONENTS = (0.01, 10.0)  # that a power law may have; at either end the data do not determine one
MAX_EXTRAPOLATION = 4.0  # by this factor below the smallest positive weight a gap may be halved
MAX_MISFIT = 1.25  # by this factor the fitted half may lie outside of the weights between which the gap is halved
MAX_STEEPNESS = 20.0  # of a gap in log weight; above it, it falls between two weights
RESAMPLES = 1000
MOST_FITS = 50  # for the held-out R2 of a mixing law
BASELINE = "shuffled"  # the ordering that the others are compared with


@dataclass(frozen=True)
class Refused:
    """There is no fit. A refusal is an answer: it goes where the numbers would."""

    reason: str  # one sentence, without a full stop


@dataclass(frozen=True)
class Parameter:
    """A fitted number and its 95 % interval."""

    value: float
    low: float | None  # None: without repetitions there is no interval
    high: float | None


# Power laws with a floor


@dataclass(frozen=True, kw_only=True)
class FloorFit:
    """gap(N) = a N^-b + c: what remains of a gap when the scale N grows."""

    a: float  # in units of gap times N^b
    b: Parameter
    c: Parameter  # the floor, at least 0
    aic_difference: float  # of the law without a floor minus with; positive: the floor is worth its parameter
    bic_difference: float
    residuals: tuple[float, ...]  # (M,) mean gap minus fit, in the order of the scales
    n: int  # seeds

    @property
    def has_floor(self) -> bool:
        """Whether scale alone does not close the gap: the interval of the floor lies above 0."""
        return self.c.low is not None and self.c.low > 0


def floor_fit(scale: ArrayLike, gap_by_seed: ArrayLike, *, seed: int = 0) -> FloorFit | Refused:
    """Whether a gap vanishes with scale or stops at a floor.

    Args:
        scale: (M,) width, parameters, steps ... positive and distinct, in any order.
        gap_by_seed: (S, M) in any unit; row s shares its seed.
        seed: of the bootstrap.

    Returns:
        The least-squares fit to the mean gaps, in which a and c are at least 0; with the intervals of b and c. The
        information criteria count the M means as observations, with normal errors of one unknown variance.

    Raises:
        ValueError: a shape or a scale is not as above.

    Source: transfer error as a power law with a floor, Mikami et al. (2021), arXiv:2108.11018.
    """
    sizes, gaps, order = _sorted_columns(scale, gap_by_seed, "scale")
    if reason := (
        _too_few(gaps, sizes, MIN_SCALES, "scales")
        or _too_narrow(sizes, MIN_SPAN, "scales")
        or _no_gap(gaps, "scale")
        or _no_fall(gaps, "the gap does not fall with scale")
    ):
        return Refused(reason)
    mean = gaps.mean(axis=0)
    fit = _power_law(sizes, mean[None])
    if reason := _undetermined(fit, "the gap"):
        return Refused(reason)
    again = _power_law(sizes, _resampled_means(gaps, seed))
    without = _power_law(sizes, mean[None], floor=False)
    residuals = mean - fit.at(sizes)[0]
    gained = len(mean) * math.log(_scatter(mean - without.at(sizes)[0], mean) / _scatter(residuals, mean))
    return FloorFit(
        a=float(fit.a[0] * sizes[0] ** fit.b[0]),
        b=_parameter(fit.b[0], again.b),
        c=_parameter(fit.c[0], again.c),
        aic_difference=gained - 2,
        bic_difference=gained - math.log(len(mean)),
        residuals=tuple(residuals[np.argsort(order)].tolist()),
        n=len(gaps),
    )


@dataclass(frozen=True, kw_only=True)
class CatFit:
    """A(n) = A_inf - b n^-a: the accuracy of a probe on n concatenated networks."""

    limit: Parameter  # A_inf, at most 1
    a: Parameter
    b: float
    remaining_gap: Parameter  # direct accuracy minus A_inf, paired within seeds
    residuals: tuple[float, ...]  # (M,) mean accuracy minus fit, in the order of the sizes
    n: int  # seeds

    @property
    def verdict(self) -> Literal["open", "closed", "undecided"]:
        """Whether ever more networks leave the gap open or close it, if the interval says."""
        gap = self.remaining_gap
        assert gap.low is not None
        assert gap.high is not None
        if gap.low > 0:
            return "open"
        return "closed" if gap.high <= 0 else "undecided"


def cat_fit(
    members: ArrayLike, accuracy_by_seed: ArrayLike, direct_by_seed: ArrayLike, *, seed: int = 0
) -> CatFit | Refused:
    """Whether concatenating ever more networks closes the gap to direct training.

    Args:
        members: (M,) numbers of networks, distinct, in any order.
        accuracy_by_seed: (S, M) probe accuracy in [0, 1]; row s shares its seed.
        direct_by_seed: (S,) direct accuracy.
        seed: of the bootstrap.

    Raises:
        ValueError: a shape is not as above, or an accuracy is not a fraction.
    """
    sizes, accuracy, order = _sorted_columns(members, accuracy_by_seed, "number of members")
    direct = np.array(direct_by_seed, dtype=np.float64)
    if direct.shape != (len(accuracy),):
        raise ValueError(f"direct accuracies have shape {direct.shape}; one per seed makes ({len(accuracy)},)")
    both = np.column_stack([accuracy, direct])
    if (both < 0).any() or (both > 1).any():
        raise ValueError("accuracies are fractions in [0, 1]")
    if reason := (
        _too_few(both, sizes, MIN_MEMBERS, "sizes")
        or _too_narrow(sizes, MIN_SPAN, "sizes")
        or _no_fall(1 - accuracy, "the accuracy does not rise with the number of members")
    ):
        return Refused(reason)
    if not _above_zero(direct - accuracy[:, 0]):
        return Refused("the smallest ensemble is not distinguishable from direct training, so no gap is there to close")
    mean = both.mean(axis=0)
    fit = _power_law(sizes, 1 - mean[None, :-1])
    if reason := _undetermined(fit, "the error"):
        return Refused(reason)
    means = _resampled_means(both, seed)
    again = _power_law(sizes, 1 - means[:, :-1])
    return CatFit(
        limit=_parameter(1 - fit.c[0], 1 - again.c),
        a=_parameter(fit.b[0], again.b),
        b=float(fit.a[0] * sizes[0] ** fit.b[0]),
        remaining_gap=_parameter(mean[-1] - (1 - fit.c[0]), means[:, -1] - (1 - again.c)),
        residuals=tuple((mean[:-1] - 1 + fit.at(sizes)[0])[np.argsort(order)].tolist()),
        n=len(both),
    )


@dataclass(frozen=True, kw_only=True)
class TransferFit:
    """e_T = k e_S^alpha + e_IR: the error after transfer against the error upstream."""

    k: float
    alpha: Parameter
    irreducible: Parameter  # e_IR, at least 0: what no better upstream model removes
    residuals: tuple[float, ...]  # (M,) transfer error minus fit
    n: int  # runs


def transfer_fit(upstream_error: ArrayLike, transfer_error: ArrayLike, *, seed: int = 0) -> TransferFit | Refused:
    """What error would remain after transfer from a perfect upstream model.

    Args:
        upstream_error, transfer_error: (M,) one pair per run; upstream errors in (0, 1], transfer errors in [0, 1].
        seed: of the bootstrap. Runs are not repeated here, so it resamples residuals, widened for the three parameters.

    Raises:
        ValueError: a shape or an error is not as above.

    Source: Abnar et al. (2021), arXiv:2110.02095.
    """
    upstream, transfer = (np.array(errors, dtype=np.float64) for errors in (upstream_error, transfer_error))
    if upstream.ndim != 1 or upstream.shape != transfer.shape:
        raise ValueError(f"errors have shapes {upstream.shape} and {transfer.shape}; they are pairs, (M,) each")
    if np.isnan(upstream).any() or np.isnan(transfer).any():
        return Refused("an error is missing")
    if not ((upstream > 0) & (upstream <= 1) & (transfer >= 0) & (transfer <= 1)).all():
        raise ValueError("upstream errors are in (0, 1] and transfer errors in [0, 1]")
    runs = len(upstream)
    if (distinct := len(np.unique(upstream))) < MIN_RUNS:
        return Refused(f"{distinct} different upstream errors are too few: it takes {MIN_RUNS}")
    if reason := _too_narrow(np.sort(upstream), MIN_ERROR_SPAN, "upstream errors"):
        return Refused(reason)
    from scipy.stats import linregress  # takes longer to import than all of the analysis

    trend = linregress(np.log(upstream), transfer)
    if not trend.slope > stdtrit(runs - 2, 0.975) * trend.stderr:
        return Refused("the transfer error does not rise with the upstream error by more than the scatter of the runs")
    inverse = 1 / upstream  # the power law below falls
    fit = _power_law(inverse, transfer[None])
    if reason := _undetermined(fit, "the transfer error"):
        return Refused(reason)
    fitted = fit.at(inverse)[0]
    residuals = transfer - fitted
    free = runs - 3
    spread = math.sqrt(runs / free) * stdtrit(free, 0.975) / stdtrit(np.inf, 0.975)
    drawn = np.random.default_rng(seed).choice(residuals - residuals.mean(), (RESAMPLES, runs))
    again = _power_law(inverse, fitted + spread * drawn)
    return TransferFit(
        k=float(fit.a[0] * inverse.min() ** fit.b[0]),
        alpha=_parameter(fit.b[0], again.b),
        irreducible=_parameter(fit.c[0], again.c),
        residuals=tuple(residuals.tolist()),
        n=runs,
    )


@dataclass(frozen=True)
class _PowerLaws:
    """y = a (x / smallest x)^-b + c for each of B data sets; (B,) each."""

    a: Array
    b: Array
    c: Array

    def at(self, x: Array) -> Array:
        """(M,) -> (B, M)"""
        found: Array = self.a[:, None] * (x / x.min()) ** -self.b[:, None] + self.c[:, None]
        return found


def _power_law(x: Array, y: Array, floor: bool = True) -> _PowerLaws:
    """Least squares with a, c >= 0 and b in EXPONENTS, c = 0 without a floor, for (M,) x and each row of (B, M) y.

    With b given the rest is linear, so only b is searched: on a grid of logarithms that closes in on the best.
    """
    low, high = math.log(EXPONENTS[0]), math.log(EXPONENTS[1])
    step = (high - low) / 60
    log_b = np.linspace(low, high, 61)[None]  # (1 or B, G)
    rows = np.arange(len(y))
    for _ in range(6):
        basis = np.exp(-np.exp(log_b)[..., None] * np.log(x / x.min()))  # (1 or B, G, M)
        a, c, error = _nonnegative(basis, y, floor)
        best = error.argmin(axis=1)
        found = np.broadcast_to(log_b, error.shape)[rows, best]
        a, c = a[rows, best], c[rows, best]
        log_b = np.clip(found[:, None] + step * np.linspace(-1, 1, 21), low, high)
        step /= 10
    return _PowerLaws(a, np.exp(found), c)


def _nonnegative(basis: Array, y: Array, floor: bool) -> tuple[Array, Array, Array]:
    """The best y = a basis + c with a, c >= 0, and its error, for (1 or B, G, M) bases and (B, M) y; (B, G) each."""
    num = y.shape[1]
    total, squares = basis.sum(axis=-1), (basis**2).sum(axis=-1)
    level = y.sum(axis=-1)[:, None]
    product = y @ basis[0].T if len(basis) == 1 else (basis @ y[..., None])[..., 0]

    def error(a: Array, c: Array) -> Array:  # less the sum of y^2, which is the same for all
        rest: Array = a * (a * squares + 2 * c * total - 2 * product) + c * (num * c - 2 * level)
        return rest

    through_zero = np.maximum(product / squares, 0)
    if not floor:
        return through_zero, np.zeros_like(product), error(through_zero, np.zeros_like(product))
    slope = (product - level * total / num) / (squares - total**2 / num)
    intercept = (level - slope * total) / num
    flat = np.maximum(level / num, 0)
    only_a = error(through_zero, np.zeros_like(product)) < error(np.zeros_like(product), flat)
    inside = (slope >= 0) & (intercept >= 0)
    a = np.where(inside, slope, np.where(only_a, through_zero, 0))
    c = np.where(inside, intercept, np.where(only_a, 0, flat))
    return a, c, error(a, c)


def _undetermined(fit: _PowerLaws, what: str) -> str | None:
    low, high = EXPONENTS
    if fit.b[0] >= 0.999 * high:
        return f"{what} falls only at the first step and is flat after it, so no exponent describes it"
    if fit.b[0] <= 1.001 * low:
        return f"{what} falls too slowly for a power law to be told from a constant"
    return None


def _scatter(residuals: Array, values: Array) -> float:
    """Sum of squares, no smaller than rounding leaves of an exact fit."""
    return max(float(residuals @ residuals), 1e-24 * float(values @ values))


# Mixture weights


@dataclass(frozen=True, kw_only=True)
class MixingLaw:
    """L(lambda) = c + k exp(sum_j t_j lambda_j): a component's loss as a function of all shares."""

    c: Parameter  # at least 0
    k: Parameter  # positive
    t: tuple[Parameter, ...]  # (K,) sum 0: shares add up to 1, so a constant in t is a factor in k
    r2: float  # on mixtures left out one at a time (MOST_FITS groups of them), against the mean of the others
    residuals: tuple[float, ...]  # (M,) mean loss minus fit
    mixtures: int
    n: int  # seeds

    def __call__(self, weights: ArrayLike) -> Array:
        """(..., K) relative weights -> (...,) loss."""
        t = np.array([one.value for one in self.t])
        return np.asarray(self.c.value + self.k.value * np.exp(_shares(weights) @ t), dtype=np.float64)


def mixing_law(weights: ArrayLike, loss: ArrayLike, *, seed: int = 0) -> MixingLaw | Refused:
    """How one component's loss, or its gap, depends on the shares of all components.

    Args:
        weights: (M, K) relative weights of each mixture, K >= 2.
        loss: (S, M) with one row per seed, or (M,); fewer than MIN_SEEDS rows leave the intervals absent.
        seed: of the bootstrap.

    Returns:
        The least-squares fit to the mean losses. Refused as well where it predicts left-out mixtures no better than
        the mean of the others does.

    Raises:
        ValueError: a shape is not as above, or weights are negative or all 0.

    Source: Ye et al. (2024), arXiv:2403.16952.
    """
    shares, losses = _shares(weights), np.atleast_2d(np.array(loss, dtype=np.float64))
    if shares.ndim != 2 or shares.shape[1] < 2 or losses.ndim != 2 or losses.shape[1] != len(shares):
        raise ValueError(f"weights of shape {shares.shape} and losses of shape {np.shape(loss)} are not (M, K), (S, M)")
    if np.isnan(losses).any():
        return Refused("a loss is missing; every seed needs every mixture")
    mixtures, components = shares.shape
    needed = components + 2  # one more than there are parameters: c, and k with t up to the constant
    if (distinct := len(np.unique(shares.round(12), axis=0))) < needed:
        return Refused(f"{distinct} different mixtures are too few for {components} components: it takes {needed}")
    if (rank := np.linalg.matrix_rank(shares, tol=1e-6)) < components:
        return Refused(f"the shares of {components} components vary in only {rank - 1} directions")
    mean = losses.mean(axis=0)
    if np.ptp(mean) <= 1e-12 * np.abs(mean).max():
        return Refused("the loss is the same for all mixtures")
    fit = _fit_mixing(shares, mean)
    r2 = _held_out_r2(shares, mean)
    if not r2 > 0:
        return Refused("the law predicts mixtures that were left out no better than the mean of the others does")
    values = _mixing_parameters(fit[None])
    again = None
    if len(losses) >= MIN_SEEDS:
        means = _resampled_means(losses, seed)
        again = _mixing_parameters(_descend(_mixing(shares), np.tile(fit, (RESAMPLES, 1)), means)[0])
    c, k, *t = (_parameter(value, None if again is None else again[:, place]) for place, value in enumerate(values[0]))
    residuals = mean - _mixing(shares)(fit[None])[0][0]
    return MixingLaw(c=c, k=k, t=tuple(t), r2=r2, residuals=tuple(residuals.tolist()), mixtures=mixtures, n=len(losses))


def _shares(weights: ArrayLike) -> Array:
    found = np.array(weights, dtype=np.float64)
    total = found.sum(axis=-1, keepdims=True)
    if not ((found >= 0).all() and (total > 0).all()):
        raise ValueError("weights are relative: at least 0, and one of a mixture above 0")
    return np.asarray(found / total, dtype=np.float64)


Model = Callable[[Array], tuple[Array, Array]]  # (B, P) parameters -> (B, M) values, (B, M, P) their derivatives


def _mixing(shares: Array) -> Model:
    """Parameters are sqrt(c) and log k + t_j, which shares that sum to 1 allow: c stays at least 0 and k positive."""

    def model(parameters: Array) -> tuple[Array, Array]:
        root, exponents = parameters[:, :1], parameters[:, 1:]
        rise = np.exp(exponents @ shares.T)
        slope = np.concatenate([np.broadcast_to(2 * root, rise.shape)[..., None], rise[..., None] * shares], axis=-1)
        return root**2 + rise, slope

    return model


def _mixing_parameters(parameters: Array) -> Array:
    """(B, 1 + K) -> (B, 2 + K): c, k and t."""
    root, exponents = parameters[:, :1], parameters[:, 1:]
    constant = exponents.mean(axis=1, keepdims=True)
    return np.concatenate([root**2, np.exp(constant), exponents - constant], axis=1)


def _fit_mixing(shares: Array, loss: Array) -> Array:
    """The best of several starts: with c given, log(L - c) is linear in the shares."""
    lowest, spread = loss.min(), np.ptp(loss)
    floors = np.maximum(lowest - spread * np.array([0.01, 0.1, 0.5, 1.0, 2.0]), 0)
    rest = np.log(np.maximum(loss - floors[:, None], 1e-3 * spread))
    exponents = np.linalg.lstsq(shares, rest.T)[0].T
    starts = np.column_stack([np.sqrt(np.maximum(floors, 1e-3 * spread)), exponents])
    found, error = _descend(_mixing(shares), starts, np.tile(loss, (len(starts), 1)))
    return np.asarray(found[error.argmin()], dtype=np.float64)


def _held_out_r2(shares: Array, loss: Array) -> float:
    """Each mixture is predicted by a fit to the others that starts afresh: from the fit to all, it would remember.

    Of more than MOST_FITS mixtures every MOST_FITS-th is left out at the same time.
    """
    left_out = np.arange(len(loss)) % min(len(loss), MOST_FITS)
    off, total = np.empty_like(loss), np.empty_like(loss)
    for number in range(left_out.max() + 1):
        out = left_out == number
        fit = _fit_mixing(shares[~out], loss[~out])
        off[out] = loss[out] - _mixing(shares[out])(fit[None])[0][0]
        total[out] = loss[out] - loss[~out].mean()
    return float(1 - off @ off / (total @ total))


@dataclass(frozen=True, kw_only=True)
class HalfGap:
    """gap(lambda) = top / (1 + (lambda / middle)^steepness): a logistic curve in log lambda."""

    weight: Parameter  # at which the gap is half of what it is at the reference weight
    reference: float  # weight 0, or the smallest there is
    between: tuple[float, float]  # neighbouring weights between which the mean gap passes half of the first
    top: float
    middle: float
    steepness: float
    residuals: tuple[float, ...]  # (M,) mean gap minus fit, in the order of the weights
    n: int  # seeds


def half_gap(weight: ArrayLike, gap_by_seed: ArrayLike, *, seed: int = 0) -> HalfGap | Refused:
    """The weight that a component needs for half of its gap to go.

    Args:
        weight: (M,) shares of the component in [0, 1], distinct, in any order.
        gap_by_seed: (S, M) in any unit; row s shares its seed.
        seed: of the bootstrap.

    Raises:
        ValueError: a shape or a weight is not as above.
    """
    weights, gaps, order = _sorted_columns(weight, gap_by_seed, "weight", zero=True)
    if weights.max() > 1:
        raise ValueError("weights are shares of a mixture, in [0, 1]")
    if reason := _too_few(gaps, weights, MIN_WEIGHTS, "weights"):
        return Refused(reason)
    if weights[0] > SMALL_WEIGHT:
        return Refused(f"the smallest weight is {weights[0]:g}: it takes 0 or one of at most {SMALL_WEIGHT:g}")
    if reason := _no_gap(gaps, "weight") or _no_fall(gaps, "the gap does not fall with the weight"):
        return Refused(reason)
    mean = gaps.mean(axis=0)
    below = np.flatnonzero(mean <= mean[0] / 2)
    if not len(below):
        return Refused(f"at the largest weight, {weights[-1]:g}, more than half of the gap remains")
    between = (float(weights[below[0] - 1]), float(weights[below[0]]))
    fit = _fit_logistic(weights, mean)
    if fit[2] > math.log(MAX_STEEPNESS):
        return Refused(f"the gap falls in one step, between the weights {between[0]:g} and {between[1]:g}")
    again, _ = _descend(_logistic(weights), np.tile(fit, (RESAMPLES, 1)), _resampled_means(gaps, seed))
    half = _half_weight(fit[None], weights[0])[0]
    likely = _half_weight(again, weights[0])
    low, high = np.quantile(likely, [0.025, 0.975])
    if low > MAX_MISFIT * between[1] or MAX_MISFIT * high < between[0]:
        return Refused(
            f"the gap is no logistic curve: it is halved between the weights {between[0]:g} and {between[1]:g}, "
            f"and the fitted one at {half:.2g}"
        )
    if half > weights[-1]:
        return Refused(f"the fitted gap is halved only beyond the largest weight, {weights[-1]:g}")
    if half * MAX_EXTRAPOLATION < weights[weights > 0][0]:
        return Refused(
            f"most of the gap is gone at the smallest positive weight, {between[1]:g}: it takes smaller ones"
        )
    top, middle, steepness = np.exp(fit)
    residuals = mean - _logistic(weights)(fit[None])[0][0]
    return HalfGap(
        weight=_parameter(half, likely),
        reference=float(weights[0]),
        between=between,
        top=float(top),
        middle=float(middle),
        steepness=float(steepness),
        residuals=tuple(residuals[np.argsort(order)].tolist()),
        n=len(gaps),
    )


def _logistic(weights: Array) -> Model:
    """Parameters are the logarithms of top, middle and steepness."""
    positive = weights > 0
    log_weights = np.log(np.where(positive, weights, 1))

    def model(parameters: Array) -> tuple[Array, Array]:
        top, steepness = np.exp(parameters[:, :1]), np.exp(parameters[:, 2:])
        exponent = steepness * (log_weights - parameters[:, 1:2])
        remains = np.where(positive, expit(-exponent), 1)
        falls = np.where(positive, top * remains * (1 - remains), 0)
        return top * remains, np.stack([top * remains, steepness * falls, -exponent * falls], axis=-1)

    return model


def _fit_logistic(weights: Array, gap: Array) -> Array:
    """(3,) parameters: the best of a grid of starts."""
    positive = np.log(weights[weights > 0])
    middles, steepnesses = np.meshgrid(np.linspace(positive[0] - 3, positive[-1], 12), np.log([0.3, 0.6, 1, 2, 4, 8]))
    starts = np.column_stack([np.full(middles.size, np.log(gap.max())), middles.ravel(), steepnesses.ravel()])
    found, error = _descend(_logistic(weights), starts, np.tile(gap, (len(starts), 1)))
    return np.asarray(found[error.argmin()], dtype=np.float64)


def _half_weight(parameters: Array, reference: float) -> Array:
    """(B, 3) -> (B,) x in [0, 1] where 1 + (x / middle)^s is twice what it is at the reference weight."""
    log_middle, steepness = parameters[:, 1], np.exp(np.clip(parameters[:, 2], -50, 50))
    log_reference = math.log(reference) if reference else -math.inf
    beyond = np.logaddexp(0, math.log(2) + steepness * (log_reference - log_middle)) / steepness
    return np.asarray(np.exp(np.minimum(log_middle + beyond, 0)), dtype=np.float64)


def _descend(model: Model, start: Array, y: Array) -> tuple[Array, Array]:
    """(B, P) where least squares ends, (B,) sums of squares: Levenberg and Marquardt's method on B problems at once.

    Args:
        model: of the values that should be y.
        start: (B, P)
        y: (B, M)
    """
    found, damping, identity = start.copy(), np.full(len(start), 1e-2), np.eye(start.shape[1])
    going = np.arange(len(start))  # the problems that have not converged
    with np.errstate(all="ignore"):  # a step too far overflows and is not taken
        value, slope = model(found)
        error = ((y - value) ** 2).sum(axis=1)
        for _ in range(100):
            transposed = slope[going].swapaxes(1, 2)
            normal = transposed @ slope[going]
            right = transposed @ (y - value)[going, :, None]
            size = normal.diagonal(axis1=1, axis2=2)
            ridge = damping[going, None] * (size + 1e-12 * (1 + size.sum(axis=1, keepdims=True)))
            step = np.linalg.solve(normal + ridge[..., None] * identity, right)[..., 0]
            new_value, new_slope = model(found[going] + step)
            new_error = ((y[going] - new_value) ** 2).sum(axis=1)
            better, gained = new_error < error[going], error[going] - new_error
            arrived = np.abs(step).max(axis=1) < 1e-10 * (1 + np.abs(found[going]).max(axis=1))
            arrived |= better & (gained < 1e-9 * new_error)
            taken = going[better]
            found[taken] += step[better]
            value[taken], slope[taken], error[taken] = new_value[better], new_slope[better], new_error[better]
            damping[going] = np.clip(np.where(better, damping[going] / 4, damping[going] * 4), 1e-12, 1e12)
            going = going[~arrived]
            if not len(going):
                break
    return found, error


# Orderings


@dataclass(frozen=True, kw_only=True)
class OrderingEffect:
    """How much higher an ordering's accuracy (or gap) is than the baseline's, paired within seeds."""

    component: str | None  # None: the mean over components
    ordering: str
    difference: Estimate


@dataclass(frozen=True, kw_only=True)
class OrderingEffects:
    """What the order of the same examples does to each component."""

    effects: tuple[OrderingEffect, ...]  # of each ordering on each component
    overall: tuple[OrderingEffect, ...]  # of each ordering, over components
    interactions: tuple[OrderingEffect, ...]  # on a component minus the mean on all others; none for one component
    n: int  # seeds


def ordering_effects(
    table: pd.DataFrame, column: str = "transfer_accuracy", baseline: str = BASELINE
) -> OrderingEffects | Refused:
    """The analysis of accuracy ~ component x ordering with a random intercept per seed.

    In a balanced design the fixed effects of that model are means of differences within seeds. Their intervals are
    Student's over seeds, so that unlike in the model each contrast has a variance of its own.

    Args:
        table: one row per component, ordering and seed, or equally many, which are averaged.
        column: what is compared; rows without it make the table unbalanced.
        baseline: the ordering that the others are compared with.

    Raises:
        ValueError: the table lacks a column.
    """
    if absent := [name for name in ("component", "ordering", "seed", column) if name not in table]:
        raise ValueError(f"the table has no {listed(absent)}")
    if reason := _unbalanced(table, column, baseline):
        return Refused(reason)
    components, orderings, seeds = (list(dict.fromkeys(table[name])) for name in ("component", "ordering", "seed"))
    means = table.groupby(["component", "ordering", "seed"])[column].mean()
    every_cell = pd.MultiIndex.from_product([components, orderings, seeds])
    cells = means.reindex(every_cell).to_numpy(dtype=float).reshape(len(components), len(orderings), len(seeds))
    reference = cells[:, orderings.index(baseline)]
    effects, overall, interactions = [], [], []
    for position, ordering in enumerate(orderings):
        if ordering == baseline:
            continue
        change = cells[:, position] - reference  # (K, S)
        overall.append(_effect(None, ordering, change.mean(axis=0)))
        for k, component in enumerate(components):
            effects.append(_effect(component, ordering, change[k]))
            if len(components) > 1:
                others = np.delete(change, k, axis=0).mean(axis=0)
                interactions.append(_effect(component, ordering, change[k] - others))
    return OrderingEffects(
        effects=tuple(effects), overall=tuple(overall), interactions=tuple(interactions), n=len(seeds)
    )


def _unbalanced(table: pd.DataFrame, column: str, baseline: str) -> str | None:
    if table.empty:
        return "the table has no rows"
    if gone := int(table[column].isna().sum()):
        return f"{gone} of {len(table)} rows have no {column.replace('_', ' ')}"
    orderings, seeds = list(dict.fromkeys(table["ordering"])), table["seed"].nunique()
    if baseline not in orderings or len(orderings) < 2:
        return f"the orderings are {listed(orderings)}; it takes `{baseline}` and another one"
    if seeds < 2:
        return "one seed says nothing about other seeds"
    counts = table.groupby(["component", "ordering", "seed"]).size()
    cells = table["component"].nunique() * len(orderings) * seeds
    if len(counts) < cells:
        return f"{cells - len(counts)} of {cells} combinations of component, ordering and seed are missing"
    if counts.nunique() > 1:
        return "some combinations of component, ordering and seed have more rows than others"
    return None


def _effect(component: Any, ordering: Any, differences: Array) -> OrderingEffect:
    named = None if component is None else str(component)
    return OrderingEffect(component=named, ordering=str(ordering), difference=estimate(differences))


# Data-equivalents


@dataclass(frozen=True)
class DataEquivalent:
    """How many examples direct training needs to be as good as transfer."""

    examples: float  # interpolated; where censored, the size beyond which the number lies
    censored: Literal["", "below", "above"]  # below: the smallest size is enough; above: the largest is not


def data_equivalent(
    sizes: ArrayLike, direct_accuracy_by_size: ArrayLike, transfer_accuracy: float
) -> DataEquivalent | Refused:
    """The smallest n with direct(n) >= transfer, where direct is linear in log n between the sizes.

    Less the number of target examples that transfer used, it is the effective data transferred, D_T.

    Args:
        sizes: (M,) numbers of examples, positive and distinct, in any order.
        direct_accuracy_by_size: (M,)
        transfer_accuracy: with the number of target examples that it is compared at.

    Raises:
        ValueError: a shape or a size is not as above.

    Source: Hernandez et al. (2021), arXiv:2102.01293.
    """
    accuracy = np.array(direct_accuracy_by_size, dtype=np.float64)
    if accuracy.ndim != 1:
        raise ValueError(f"direct accuracies have shape {accuracy.shape}; one per size makes (M,)")
    size, direct, _ = _sorted_columns(sizes, accuracy[None], "size")
    direct = direct[0]
    if np.isnan(direct).any() or math.isnan(transfer_accuracy):
        return Refused("an accuracy is missing")
    if len(size) < 2:
        return Refused("one size is no curve: it takes two")
    enough = np.flatnonzero(direct >= transfer_accuracy)
    if not len(enough):
        return DataEquivalent(float(size[-1]), "above")
    after = enough[0]
    if after == 0:
        return DataEquivalent(float(size[0]), "below")
    share = (transfer_accuracy - direct[after - 1]) / (direct[after] - direct[after - 1])
    return DataEquivalent(float(size[after - 1] ** (1 - share) * size[after] ** share), "")


# What every fit asks first


def _sorted_columns(x: ArrayLike, y_by_seed: ArrayLike, what: str, zero: bool = False) -> tuple[Array, Array, Any]:
    """(M,) x in increasing order, (S, M) y likewise, and the (M,) order. Raises ValueError."""
    values, y = np.array(x, dtype=np.float64), np.array(y_by_seed, dtype=np.float64)
    if values.ndim != 1 or not len(values) or y.ndim != 2 or y.shape[1] != len(values):
        raise ValueError(f"{what}s of shape {values.shape} and values of shape {y.shape} are not (M,) and (S, M)")
    if not (np.isfinite(values).all() and (values >= 0).all() and (zero or (values > 0).all())):
        raise ValueError(f"every {what} is a finite number, {'at least' if zero else 'above'} 0")
    if len(np.unique(values)) < len(values):
        raise ValueError(f"every {what} has one column; average those that are equal first")
    order = np.argsort(values)
    return values[order], y[:, order], order


def _too_few(y_by_seed: Array, x: Array, least: int, what: str) -> str | None:
    if len(x) < least:
        return f"{len(x)} {what} are too few: it takes {least}"
    if len(y_by_seed) < MIN_SEEDS:
        return f"{len(y_by_seed)} seeds are too few: it takes {MIN_SEEDS}"
    if not np.isfinite(y_by_seed).all():
        return f"a number is missing; every seed needs all {what}"
    return None


def _too_narrow(x: Array, least: float, what: str) -> str | None:
    if x[-1] < least * x[0] * (1 - 1e-12):
        return f"the {what} span a factor of {x[-1] / x[0]:.3g}: it takes {least:g}"
    return None


def _no_fall(y_by_seed: Array, complaint: str) -> str | None:
    """Why (S, M) values do not fall along M: in trend, over seeds, or because their mean rises as far between."""
    ranks = np.arange(y_by_seed.shape[1]) - (y_by_seed.shape[1] - 1) / 2
    if not _above_zero(-(y_by_seed @ ranks)):
        return f"{complaint} by more than the seeds differ"
    mean = y_by_seed.mean(axis=0)
    rise = (mean - np.minimum.accumulate(mean)).max()
    if rise >= mean[0] - mean[-1]:
        return f"{complaint}: between its ends it goes back as far as it comes"
    return None


def _no_gap(gap_by_seed: Array, what: str) -> str | None:
    return None if _above_zero(gap_by_seed[:, 0]) else f"the gap at the smallest {what} is not distinguishable from 0"


def _above_zero(by_seed: Array) -> bool:
    found = estimate(by_seed)
    return found.low is not None and found.low > 0


def _resampled_means(by_seed: Array, seed: int) -> Array:
    """(S, M) -> (RESAMPLES, M): means over seeds drawn with replacement, spread as the module says."""
    seeds = len(by_seed)
    drawn = np.random.default_rng(seed).integers(seeds, size=(RESAMPLES, seeds))
    mean = by_seed.mean(axis=0)
    spread = math.sqrt(seeds / (seeds - 1)) * stdtrit(seeds - 1, 0.975) / stdtrit(np.inf, 0.975)
    return np.asarray(mean + spread * (by_seed[drawn].mean(axis=1) - mean), dtype=np.float64)


def _parameter(value: float, resampled: Array | None) -> Parameter:
    if resampled is None:
        return Parameter(float(value), None, None)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Parameter(float(value), float(low), float(high))
