"""Is a difference real, how large may it be, and how many seeds would show it? Paired by seed throughout.

A difference is one number per seed, direct minus transfer or one arm minus another, positive where something
is lost. Two populations stand behind it, and every interval says which it speaks of: other *seeds*, on this
test set (`compare`, `equivalence`, `iqm_interval`), or other seeds and other *test examples* of the same kind
(`paired_interval`, `hierarchical_bootstrap`). Where per-example answers are kept, `paired_interval` is the
interval to print. Which rows are paired, and the means over a table, are the business of `gaps`.

The calibration of all of this is simulated in `tests/orchestrator/test_statistics.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr, fdtrc, nctdtrinc, ndtr, ndtri, stdtr, stdtrit

from orchestrator.analysis.gaps import Estimate, estimate

Floats = npt.NDArray[np.float64]
Alternative = Literal["greater", "two-sided"]

MIN_SEEDS = 3  # fewer are not tested
MARGIN = 0.005  # of accuracy: a smaller loss, or effect, does not matter
MAX_EXACT_SEEDS = 15  # 2^15 sign patterns take milliseconds
_BLOCK = 2**21  # numbers held at a time while resampling


@dataclass(frozen=True)
class Comparison:
    """A mean difference over seeds, its 95 % t interval and its sign-flip p-value."""

    mean: float
    low: float | None  # None: one seed says nothing about other seeds
    high: float | None
    n: int  # number of seeds
    p: float


@dataclass(frozen=True)
class Interval:
    """A value and how far off it may be."""

    value: float
    low: float
    high: float
    n: int  # number of seeds
    seed_uncertainty: bool  # False: one seed, so the interval speaks of other test examples only

    @property
    def label(self) -> str:
        """What must be printed beside the interval; empty if nothing."""
        return "" if self.seed_uncertainty else "no seed uncertainty"


@dataclass(frozen=True)
class Equivalence:
    """Whether a loss larger than a margin can be ruled out, from two one-sided bounds of the mean difference."""

    mean: float
    low: float | None  # one-sided bounds; None with one seed
    high: float | None
    margin: float
    n: int  # number of seeds

    @property
    def no_loss(self) -> bool:
        """Whether a loss as large as the margin is ruled out."""
        return self.high is not None and self.high < self.margin

    @property
    def equivalent(self) -> bool:
        """Whether a gain as large as the margin is ruled out as well."""
        return self.no_loss and self.low is not None and self.low > -self.margin

    @property
    def verdict(self) -> str:
        """For example `no loss larger than 0.5 points`."""
        larger = f"larger than {100 * self.margin:.3g} points"
        if self.low is None:
            return f"one seed cannot rule out a loss {larger}"
        if self.no_loss:
            return f"no loss {larger}"
        return f"a loss {larger}" if self.low > self.margin else f"a loss {larger} is not ruled out"


# Tests


def compare(differences: npt.ArrayLike, alternative: Alternative = "greater") -> Comparison:
    """The mean of one difference per seed, with the interval of `gaps.estimate` and the p-value of `sign_flip_test`.

    The interval is two-sided whatever the alternative, so that it may exclude 0 where the test does not reject,
    and the other way round: the t interval trusts the Gaussian, the test does not.

    Raises:
        ValueError: there is no difference, or one of them is not finite.
    """
    known = _differences(differences)
    found = estimate(known.tolist())
    return Comparison(found.mean, found.low, found.high, found.n, sign_flip_test(known, alternative))


def t_test(
    found: Estimate,
    null: float = 0.0,
    alternative: Literal["less", "two-sided"] = "two-sided",
    *,
    least_deviation: float = 0.0,
) -> float:
    """The p-value of Student's t test that the mean over seeds is `null`; nan from one seed.

    It trusts the Gaussian and agrees with the interval of the estimate: two-sided it is below 5 % just where the
    interval leaves `null` out.

    Args:
        found: a mean over seeds with its 95 % interval, as `gaps.estimate` gives it.
        alternative: "less" asks whether the mean is below `null`.
        least_deviation: the standard deviation over seeds that is assumed where the seeds agree more than that.
            Accuracies on a small test set are easily equal by chance, and without it equal ones would be certain.
    """
    if found.low is None or found.high is None:
        return math.nan
    error = (found.high - found.low) / 2 / float(stdtrit(found.n - 1, 0.975))
    error = max(error, least_deviation / math.sqrt(found.n))
    below = found.mean - null if alternative == "less" else -abs(found.mean - null)
    if error == 0:
        return float(below >= 0)
    return float(stdtr(found.n - 1, below / error)) * (1 if alternative == "less" else 2)


def sign_flip_test(
    differences: npt.ArrayLike, alternative: Alternative = "greater", *, draws: int = 10_000, seed: int = 0
) -> float:
    """How often a mean this large arises when the sign of every seed's difference is a coin flip: a p-value.

    The null hypothesis is that differences are symmetric about 0, over seeds and on this test set. All 2^n sign
    patterns are gone through for up to MAX_EXACT_SEEDS seeds, which makes the test exact. Beyond, `draws`
    random ones are, and the observed pattern counts as one of them so that the test keeps its level.

    No p-value is below `smallest_p(n)`, and with 5 seeds the 5 % test in truth is a 3.1 % test: see there.

    Args:
        differences: (S,) one per seed.
        alternative: "greater" for a loss (mean above 0), "two-sided" for a difference either way.

    Raises:
        ValueError: there is no difference, or one of them is not finite.

    Source: Fisher (1935), The Design of Experiments, section 21; the +1 of random draws, Phipson & Smyth (2010).
    """
    known = _differences(differences)
    observed = _extremeness(known.sum(), alternative)
    tie = observed - 1e-9 * np.abs(known).sum()  # equal sums differ in their last digits when added in another order
    if len(known) <= MAX_EXACT_SEEDS:
        return float(np.mean(_extremeness(_sign_patterns(len(known)) @ known, alternative) >= tie))
    rng = np.random.default_rng(seed)
    flipped = (rng.choice((-1.0, 1.0), size=(count, len(known))) @ known for count in _blocks(draws, len(known)))
    as_extreme = sum(np.count_nonzero(_extremeness(sums, alternative) >= tie) for sums in flipped)
    return float((1 + as_extreme) / (1 + draws))


def smallest_p(n: int, alternative: Alternative = "greater") -> float:
    """The p-value of `sign_flip_test` when all n seeds agree: 2^-n, and twice that when two-sided.

    It is .125 for 3 seeds, .0625 for 4 and .031 for 5. So fewer than 5 seeds (6 when two-sided) never reach 5 %,
    whatever they show, and a family of K components needs `smallest_p(n) <= level / K` for Holm to pass even one.

    Raises:
        ValueError: n is not positive.
    """
    if n < 1:
        raise ValueError(f"{n} seeds cannot be tested; n is at least 1")
    return min(1.0, (1 if alternative == "greater" else 2) * 2.0**-n)


def mcnemar(first_correct: npt.ArrayLike, second_correct: npt.ArrayLike) -> float:
    """Two-sided exact p-value that two classifiers err equally often on one test set.

    It speaks of these two trained networks, on other examples; never of other seeds.

    Args:
        first_correct, second_correct: (N,) whether each is right about example n.

    Raises:
        ValueError: the lengths differ, there are no examples, or an entry is neither 0 nor 1.

    Source: McNemar (1947), in its exact binomial form.
    """
    first, second = (_zero_one(correct, ndim=1) for correct in (first_correct, second_correct))
    _same_shape(first, second)
    only_first = np.count_nonzero(first > second)
    only_second = np.count_nonzero(second > first)
    at_most = bdtr(min(only_first, only_second), only_first + only_second, 0.5)
    return float(min(1.0, 2 * at_most))


def omnibus(contrasts: Floats, freedom: int) -> float:
    """The p-value that the means of centred values are all 0: F test of repeated measures.

    Args:
        contrasts: (S, M) one row per seed, centred so that `freedom` of the columns are free.

    Source: degrees of freedom by Greenhouse & Geisser (1959), Psychometrika 24, which errs on the safe side with
        few seeds and does not need all levels to vary alike. With two levels it is the paired t test.
    """
    n, mean = len(contrasts), contrasts.mean(axis=0)
    between = n * float(mean @ mean) / freedom
    within = float(np.square(contrasts - mean).sum()) / ((n - 1) * freedom)
    if within <= 1e-20:
        return 0.0 if between > 1e-20 else 1.0
    covariance = np.cov(contrasts, rowvar=False)
    epsilon = min(1.0, np.trace(covariance) ** 2 / (freedom * np.square(covariance).sum()))
    return float(fdtrc(freedom * epsilon, (n - 1) * freedom * epsilon, between / within))


# Many tests at once


def holm(p_values: npt.ArrayLike) -> Floats:
    """p-values adjusted so that a family is wrong anywhere as rarely as the level says; for components.

    Args:
        p_values: (K,) in any order; nan where there is none, which then is no member of the family.

    Returns:
        (K,) in the same order, at least as large, at most 1; nan stays nan.

    Raises:
        ValueError: there are none, or one is outside [0, 1].

    Source: Holm (1979), Scandinavian Journal of Statistics 6(2).
    """
    adjusted, known, order = _ranked(p_values)
    remaining = np.arange(len(order), 0, -1)
    stepped = np.maximum.accumulate(remaining * adjusted[known][order])
    return _unranked(adjusted, known, order, stepped)


def benjamini_hochberg(p_values: npt.ArrayLike) -> Floats:
    """p-values adjusted so that the share of false discoveries is at most the level; for large grids.

    It holds for independent tests and for positively dependent ones, as tests that share seeds are.

    Args:
        p_values: (K,) in any order; nan where there is none, which then is no member of the grid.

    Returns:
        (K,) in the same order, at least as large, never above `holm`; nan stays nan.

    Raises:
        ValueError: there are none, or one is outside [0, 1].

    Source: Benjamini & Hochberg (1995), Journal of the Royal Statistical Society B 57(1).
    """
    adjusted, known, order = _ranked(p_values)
    rank = np.arange(1, len(order) + 1)
    scaled = len(order) / rank * adjusted[known][order]
    return _unranked(adjusted, known, order, np.minimum.accumulate(scaled[::-1])[::-1])


# Intervals over seeds and test examples


def paired_interval(direct_correct: npt.ArrayLike, transfer_correct: npt.ArrayLike, *, level: float = 0.05) -> Interval:
    """The gap (mean of direct minus transfer) and an interval for other seeds and other test examples.

    Seeds and examples are crossed random effects: every seed answers the same examples. With mean squares A of
    seeds, B of examples and E of what is left, the variance of the mean is estimated by (A + B - E) / (S N). A has
    S - 1 degrees of freedom and is all that a t interval over seeds knows; (B - E) is what the shared test set
    adds, the same for every seed, however many there are. The half-widths of the two, each with its own t
    quantile, are added in squares, so the interval is never narrower than the t interval over seeds.

    Measured on Gaussian seed and example effects, 4,000 sweeps in each of 7 to 15 settings from "only seeds
    matter" to "only examples do": it covers in 94.5 to 97.8 % with 3 seeds (above 97 % where only examples
    matter), 94.6 to 96.9 % with 4 or 5, 94.7 to 96.1 % with 10. The t interval over seeds covers in 94 to 95 %
    where examples have no gap of their own, and in 85, 71 and 52 % (3, 5 and 10 seeds) where they have little
    else. Two seeds: 93.6 to 98.7 %.

    Args:
        direct_correct, transfer_correct: (S, N) whether each arm is right, for seed s and test example n.
        level: the rate of intervals that miss; 0.1 gives one-sided 95 % bounds.

    Returns:
        The gap in [-1, 1]. With one seed it is an interval over examples that says so.

    Raises:
        ValueError: the shapes differ, there are fewer than two examples, or an entry is neither 0 nor 1.

    Source: crossed random effects, Cornfield & Tukey (1956); adding half-widths in squares, Howe (1974), Journal
        of the American Statistical Association 69.
    """
    return crossed_interval(_paired(direct_correct, transfer_correct), level=level)


def crossed_interval(differences: npt.ArrayLike, *, level: float = 0.05) -> Interval:
    """The mean of one difference per seed and test example, with the interval of `paired_interval`.

    Args:
        differences: (S, N) for seed s and test example n, for example one sweep's answers minus another's.
        level: the rate of intervals that miss.

    Raises:
        ValueError: there are fewer than two examples, or a difference is not finite.
    """
    difference = _finite(differences)
    if difference.ndim != 2 or difference.shape[1] < 2:
        raise ValueError(f"differences have shape {difference.shape}; pass (S, N) with at least 2 test examples")
    quantile = 1 - _tail(level)
    num_seeds, num_examples = difference.shape
    gap = float(difference.mean())
    of_seed, of_example = difference.mean(axis=1) - gap, difference.mean(axis=0) - gap
    t_examples = stdtrit(num_examples - 1, quantile)
    if num_seeds == 1:
        half = t_examples * np.std(of_example, ddof=1) / math.sqrt(num_examples)
        return Interval(gap, gap - half, gap + half, 1, seed_uncertainty=False)
    seeds = num_examples * (of_seed @ of_seed)  # sums of squares
    examples = num_seeds * (of_example @ of_example)
    rest = np.square(difference - gap).sum() - seeds - examples
    mean_square_seeds = seeds / (num_seeds - 1)
    mean_square_rest = rest / ((num_seeds - 1) * (num_examples - 1))
    shared = max(0.0, examples / (num_examples - 1) - mean_square_rest)
    t_seeds = stdtrit(num_seeds - 1, quantile)
    half = math.sqrt((t_seeds**2 * mean_square_seeds + t_examples**2 * shared) / difference.size)
    return Interval(gap, gap - half, gap + half, num_seeds, seed_uncertainty=True)


def hierarchical_bootstrap(
    direct_correct: npt.ArrayLike,
    transfer_correct: npt.ArrayLike,
    *,
    seed: int,
    draws: int = 10_000,
    method: Literal["bca", "percentile"] = "bca",
    level: float = 0.05,
) -> Interval:
    """The gap and its bootstrap interval: seeds are resampled, then test examples, the same for all seeds and arms.

    It speaks of other seeds and other test examples, but not at the promised rate while seeds are few: it is too
    narrow for the seeds, as sqrt((S - 1) / S) and the missing t quantile make it, and too wide for the chance in
    single answers, which is drawn again with the seeds and again with the examples. Measured over 1,000 simulated
    sweeps of 500 draws, "95 %" intervals of either method cover in 77, 85 and 90 % with 3, 5 and 10 seeds where
    nearly all spread is the seeds' own, in about 98 % where seeds and examples share it, and in over 99 % where it
    is chance alone. BCa mends skewness, not width, and is within a point of the percentiles. `paired_interval` keeps
    its promise; print this one beside it. A short version of the simulation is the test
    `test_a_bootstrap_over_few_seeds_misses_more_or_less_often_than_it_says`.

    The acceleration of BCa is that of two independent samples, seeds and examples, from their jackknife values
    together. Those of a mean are deviations from it: (gap of seed s - gap) / S and (gap of example n - gap) / N.

    Args:
        direct_correct, transfer_correct: (S, N) whether each arm is right, for seed s and test example n.
        seed: of the resampling.
        draws: how many resamples.
        level: the rate of intervals that miss, in theory.

    Returns:
        The gap in [-1, 1]. With one seed only examples are resampled, and the result says so.

    Raises:
        ValueError: the shapes differ, there are fewer than two examples, or an entry is neither 0 nor 1.

    Source: Efron (1987), Better Bootstrap Confidence Intervals; resampling rows and columns, Owen (2007), The
        pigeonhole bootstrap.
    """
    difference = _paired(direct_correct, transfer_correct)
    tails = np.array([_tail(level), 1 - _tail(level)])
    gap = float(difference.mean())
    resampled = _resampled_gaps(difference, draws, np.random.default_rng(seed))
    shares = tails if method == "percentile" else _bca_shares(resampled, difference, tails)
    low, high = np.quantile(resampled, shares)
    return Interval(gap, float(low), float(high), len(difference), seed_uncertainty=len(difference) > 1)


def _resampled_gaps(difference: Floats, draws: int, rng: np.random.Generator) -> Floats:
    """(draws,) mean gaps of resampled seeds and examples.

    Examples on which every seed has the same difference are alike, so it is drawn how often each kind of example
    comes, of which there are far fewer: 5 seeds of 5,000 examples have up to 243 kinds. 10,000 draws of those took
    0.3 s on one CPU core, and 2 s with 10 seeds that agree on little.
    """
    num_seeds, num_examples = difference.shape
    kinds, counts = np.unique(difference, axis=1, return_counts=True)  # (S, kinds)
    gaps = []
    for count in _blocks(draws, len(counts)):
        examples = rng.multinomial(num_examples, counts / num_examples, size=count)  # (count, kinds)
        seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=count)  # (count, S)
        gaps.append((seeds * (examples @ kinds.T)).sum(axis=1) / difference.size)
    return np.concatenate(gaps)


def _bca_shares(resampled: Floats, difference: Floats, tails: Floats) -> Floats:
    """Which quantiles of the resampled gaps are the ends of a bias-corrected and accelerated interval."""
    gap = difference.mean()
    values = [(difference.mean(axis=1) - gap) / len(difference), (difference.mean(axis=0) - gap) / difference.shape[1]]
    jackknife = np.concatenate(values)
    spread = np.square(jackknife).sum()
    if spread == 0:
        return tails
    acceleration = (jackknife**3).sum() / (6 * spread**1.5)
    tie = 1e-12  # far below one answer of one seed
    below = (np.mean(resampled < gap - tie) + np.mean(resampled <= gap + tie)) / 2
    bias = ndtri(np.clip(below, 0.5 / len(resampled), 1 - 0.5 / len(resampled)))
    moved = bias + ndtri(tails)
    shares: Floats = ndtr(bias + moved / (1 - acceleration * moved))
    return shares


# Many components at once


def iqm(values: npt.ArrayLike) -> float:
    """The mean of the middle half: a quarter of the values, rounded down, is left out at either end.

    Raises:
        ValueError: there is no value, or one is not finite.

    Source: Agarwal et al. (2021), Deep Reinforcement Learning at the Edge of the Statistical Precipice,
        arXiv:2108.13264; as in their rliable.
    """
    return float(_iqms(_finite(values).reshape(1, -1))[0])


def iqm_interval(
    values: npt.ArrayLike,
    *,
    seed: int,
    draws: int = 10_000,
    method: Literal["t", "stratified"] = "t",
    level: float = 0.05,
) -> Interval:
    """`iqm` over all seeds and components, and an interval for other seeds on these components and test sets.

    "t" resamples whole seeds, because the components of one mixture share a pretrained network, and takes a t
    quantile of S - 1 degrees of freedom times the standard deviation of the resampled, widened by
    sqrt(S / (S - 1)). It covers in 93 to 97 % with 3, 5 and 10 seeds of 4 or 10 components (1,000 sweeps each),
    whether seeds move the components together or apart, and in up to 98 % for a single component.

    "stratified" is rliable's: seeds are resampled for each component apart, percentiles are the ends. It assumes
    that components are trained apart and seeds are many. It covers in 80 to 89 % with 3 seeds and 91 to 94 %
    with 10 where the first holds, but in 43 to 70 % and 57 to 83 % where seeds move components together.

    Args:
        values: (S, K) for seed s and component k, for example gaps.
        seed: of the resampling.
        draws: how many resamples.
        level: the rate of intervals that miss.

    Raises:
        ValueError: there are fewer than two seeds, or a value is missing or not finite.
    """
    table = _finite(values)
    if table.ndim != 2 or len(table) < 2:
        raise ValueError(f"an interval needs values of shape (S, K) with 2 or more seeds, not {table.shape}; add seeds")
    value, num_seeds, tail = iqm(table), len(table), _tail(level)
    resampled = _resampled_iqms(table, draws, np.random.default_rng(seed), together=method == "t")
    if method == "stratified":
        low, high = np.quantile(resampled, [tail, 1 - tail])
        return Interval(value, float(low), float(high), num_seeds, seed_uncertainty=True)
    half = float(stdtrit(num_seeds - 1, 1 - tail) * np.std(resampled) * math.sqrt(num_seeds / (num_seeds - 1)))
    return Interval(value, value - half, value + half, num_seeds, seed_uncertainty=True)


def _resampled_iqms(table: Floats, draws: int, rng: np.random.Generator, *, together: bool) -> Floats:
    """(draws,) from resampled seeds, the same for all components or drawn for each component apart."""
    num_seeds, num_components = table.shape
    found = []
    for count in _blocks(draws, table.size):
        rows = rng.integers(num_seeds, size=(count, num_seeds, 1 if together else num_components))
        if together and num_seeds**num_seeds < count:  # few seeds are drawn in the same ways again and again
            ways = np.indices((num_seeds,) * num_seeds).reshape(num_seeds, -1).T[..., None]  # (S ** S, S, 1)
            drawn = np.ravel_multi_index(tuple(rows[..., 0].T), (num_seeds,) * num_seeds)  # (count,)
            found.append(_iqms_of(table, ways)[drawn])
        else:
            found.append(_iqms_of(table, rows))
    return np.concatenate(found)


def _iqms_of(table: Floats, rows: npt.NDArray[np.int64]) -> Floats:
    """(draws,) of the seeds that each draw has: (draws, S, 1), or for each component apart (draws, S, K)."""
    values = table[rows, np.arange(table.shape[1])]  # (draws, S, K)
    return _iqms(values.reshape(len(rows), -1))


def _iqms(values: Floats) -> Floats:
    """(draws, N) -> (draws,)"""
    num_values = values.shape[1]
    cut = num_values // 4
    middle: Floats = np.sort(values, axis=1)[:, cut : num_values - cut].mean(axis=1)
    return middle


# Verdicts and plans


def equivalence(differences: npt.ArrayLike, margin: float, level: float = 0.05) -> Equivalence:
    """Whether a loss larger than the margin is ruled out: two one-sided t tests over seeds, on this test set.

    For other test examples as well, ask whether `paired_interval(..., level=2 * level).high` is below the margin.

    Args:
        differences: (S,) one per seed, positive where something is lost.
        margin: the loss that would matter, in the unit of the differences; 0.005 is half a point.
        level: how often each bound may fail.

    Raises:
        ValueError: there is no difference, one is not finite, or the margin is not positive.

    Source: Schuirmann (1987), two one-sided tests.
    """
    known = _differences(differences)
    if not (math.isfinite(margin) and margin > 0):
        raise ValueError(f"margin is {margin:g}; it is the smallest loss that would matter, so above 0")
    n, mean = len(known), math.fsum(known) / len(known)
    quantile = 1 - 2 * _tail(level)
    if n == 1:
        return Equivalence(mean, None, None, margin, 1)
    half = float(stdtrit(n - 1, quantile) * np.std(known, ddof=1)) / math.sqrt(n)
    return Equivalence(mean, mean - half, mean + half, margin, n)


def smallest_detectable(
    deviation: float, n: int, power: float = 0.8, level: float = 0.05, alternative: Alternative = "two-sided"
) -> float:
    """The mean difference that a paired t test over n seeds finds with this power, in the unit of the deviation.

    Two-sided at 80 % power: 3.26 deviations with 3 seeds, 1.68 with 5 and 1.00 with 10; one-sided 2.30, 1.36 and
    .85. A two-sided rejection in the wrong direction is no detection. The deviation is the one over seeds, so the
    answer is about this test set.

    Args:
        deviation: standard deviation over seeds of the paired difference.
        n: number of seeds.

    Raises:
        ValueError: n is below 2, the deviation is negative, or a rate is out of range.
    """
    if n < 2:
        raise ValueError(f"{n} seeds have no spread, so nothing is detectable; plan at least 2, and 5 for a claim")
    if not (math.isfinite(deviation) and deviation >= 0):
        raise ValueError(f"deviation is {deviation:g}; it is a standard deviation, so finite and not negative")
    tail = _tail(level) if alternative == "two-sided" else 2 * _tail(level)
    if not level < power < 1:
        raise ValueError(f"power is {power:g}; choose it between the level, {level:g}, and 1")
    noncentrality = nctdtrinc(n - 1, 1 - power, stdtrit(n - 1, 1 - tail))
    return float(noncentrality * deviation / math.sqrt(n))


# What goes in


def _differences(values: npt.ArrayLike) -> Floats:
    known = _finite(values)
    if known.ndim != 1:
        raise ValueError(f"differences have shape {known.shape}; average within each seed and pass one per seed")
    return known


def _finite(values: npt.ArrayLike) -> Floats:
    try:
        known = np.asarray(values, dtype=float)
    except ValueError:
        raise ValueError("values are ragged or no numbers; pass as many for every seed") from None
    if known.size == 0:
        raise ValueError("there are no values; leave out what has not been measured, and call this when something has")
    if not np.isfinite(known).all():
        lost = np.count_nonzero(~np.isfinite(known))
        raise ValueError(f"{lost} of {known.size} values are not finite; leave those seeds out of both arms")
    return known


def _paired(direct_correct: npt.ArrayLike, transfer_correct: npt.ArrayLike) -> Floats:
    """(S, N) direct minus transfer, each -1, 0 or 1."""
    direct, transfer = (_zero_one(correct, ndim=2) for correct in (direct_correct, transfer_correct))
    _same_shape(direct, transfer)
    if direct.shape[1] < 2:
        raise ValueError("one test example has no spread; pass at least 2, the same for every seed")
    return direct - transfer


def _zero_one(correct: npt.ArrayLike, *, ndim: int) -> Floats:
    axes = "(S, N)" if ndim == 2 else "(N,)"
    try:
        found = np.asarray(correct, dtype=float)
    except ValueError:
        raise ValueError(f"answers are ragged; pass {axes}, all seeds on the same test examples") from None
    if found.ndim != ndim or found.size == 0:
        raise ValueError(f"answers have shape {found.shape}; pass {axes}, with at least one of each")
    if not ((found == 0) | (found == 1)).all():
        raise ValueError("answers are neither 0 nor 1; pass whether each prediction equals its label")
    return found


def _same_shape(first: Floats, second: Floats) -> None:
    if first.shape != second.shape:
        raise ValueError(
            f"the arms have shapes {first.shape} and {second.shape}; keep the seeds and test examples that both have"
        )


def _tail(level: float) -> float:
    """What lies beyond either end of a two-sided interval."""
    if not 0 < level < 0.5:
        raise ValueError(f"level is {level:g}; it is the error rate, so 0.05 for a 95 % interval or a 5 % test")
    return level / 2


def _ranked(p_values: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.bool_], npt.NDArray[np.intp]]:
    """A copy of the p-values, which of them are there, and the order of those from small to large."""
    found = np.array(p_values, dtype=float)
    if found.ndim != 1 or found.size == 0:
        raise ValueError(f"p-values have shape {found.shape}; pass one family as a list of at least one")
    known = ~np.isnan(found)
    if ((found[known] < 0) | (found[known] > 1)).any():
        raise ValueError("a p-value is outside [0, 1]; pass nan for a test that could not be made")
    return found, known, np.argsort(found[known], kind="stable")


def _unranked(p_values: Floats, known: npt.NDArray[np.bool_], order: npt.NDArray[np.intp], adjusted: Floats) -> Floats:
    p_values[np.flatnonzero(known)[order]] = np.minimum(adjusted, 1)
    return p_values


def _extremeness(sums: Floats, alternative: Alternative) -> Floats:
    return np.abs(sums) if alternative == "two-sided" else sums


@lru_cache
def _sign_patterns(n: int) -> Floats:
    """(2^n, n) every way to give n numbers a sign."""
    bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    return np.where(bits == 1, -1.0, 1.0)


def _blocks(draws: int, size: int) -> Iterator[int]:
    """How many resamples of this size to hold at a time, until there are enough."""
    if draws < 1:
        raise ValueError(f"{draws} resamples say nothing; draw at least 1,000")
    at_a_time = max(1, _BLOCK // size)
    for start in range(0, draws, at_a_time):
        yield min(at_a_time, draws - start)
