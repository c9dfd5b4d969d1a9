"""When did a run gain a feature, and when did it lose it? What follows from the curves of trainables' trajectories.

Peak, drop and time to threshold for one run, what was forgotten over the phases of an ordering, and what the claim C2
says of them: the residual signal for a component that has a gap collapses before its features are retained, and
they then stay where they are. Absent points of a curve are left out; a number that cannot be computed is None, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr

from orchestrator.analysis.gaps import estimate

Curve = Sequence[float | None]

HALF = 0.5  # of what direct training adds to a random network: when a component counts as learnt, or as retained
SATURATED = 0.05  # of the residual signal at step 0
FLAT = 0.05  # retention that rises by no more than this has stayed flat
LEAST_SPAN = 0.01  # ratios over a smaller difference of accuracies or of R2 would be noise

OUTCOMES = {  # of one seed: columns of `collapse`, and what they say
    "collapsed": "the signal fell below 5 % first, and retention then stayed flat or declined",
    "recovered": "the signal fell below 5 % first, and retention rose all the same",
    "retained": "retention reached one half first, or the signal never fell",
    "open": "neither happened within the run",
    "unmeasured": "a number is missing",
}


def summarise(
    curves: Mapping[str, Any],
    direct_accuracy: float | None,
    *,
    random_init: float | None = None,
    ceiling: float | None = None,
) -> dict[str, float | int | bool | None]:
    """What a trajectory comes to, as numbers.

    Args:
        curves: the result of a trajectory: `step`, and lists of equal length with None where a point is absent.
        direct_accuracy: of the direct baseline's features; None: the trajectory's own, of the same probe.
        random_init: the same of a network at its initialisation; None: the curve's own first point.
        ceiling: R2 between two direct networks; None: 1.

    Returns:
        peak_accuracy, peak_step: the highest point of the probe curve, the first of equals.
        drop_from_peak: the peak minus the last point, 0 or more.
        threshold_step: the first step whose recovered fraction, (accuracy - random) / (direct - random), is 0.5.
        threshold_censored: whether it was never reached. None where direct training adds less than a point.
        final_saturation: the residual signal at the end, in units of that at step 0.
        saturation_step: the first step at which that is below 0.05; None: never.
        retention_step: the first step at which retention is 0.5; None: never. Retention is
            (R2 - floor) / (ceiling - floor), with the R2 from the network at step 0 for a floor.
        final_retention, retention_after: at the end, and how much it has changed since the saturation step.
    """
    step = list(curves["step"])
    accuracy, saturation = curves.get("accuracy", []), curves.get("saturation", [])
    retained = retention_curve(curves.get("predictability", []), ceiling)
    known = _points(step, accuracy)
    # The highest, and of equals the first.
    peak = max(known, key=lambda point: (point[1], -point[0])) if known else None
    start = random_init if random_init is not None else next(iter(accuracy), None)
    direct = curves.get("direct_accuracy") if direct_accuracy is None else direct_accuracy
    recovered = recovered_fraction(accuracy, direct, start)
    threshold_step = _first(step, recovered, lambda fraction: fraction >= HALF)
    saturation_step = _first(step, saturation, lambda signal: signal < SATURATED)
    final_retention = _last(step, retained)
    at_saturation = dict(_points(step, retained)).get(saturation_step) if saturation_step is not None else None
    return {
        "peak_accuracy": peak[1] if peak else None,
        "peak_step": peak[0] if peak else None,
        "drop_from_peak": peak[1] - known[-1][1] if peak else None,
        "threshold_step": threshold_step,
        "threshold_censored": threshold_step is None if _points(step, recovered) else None,
        "final_saturation": _last(step, saturation),
        "saturation_step": saturation_step,
        "retention_step": _first(step, retained, lambda share: share >= HALF),
        "final_retention": final_retention,
        "retention_after": None
        if final_retention is None or at_saturation is None
        else final_retention - at_saturation,
    }


def recovered_fraction(accuracy: Curve, direct: float | None, random_init: float | None) -> list[float | None]:
    """(T,) (accuracy - random) / (direct - random): 1 is all that direct training adds, below 0 is suppression."""
    return _between(accuracy, random_init, direct)


def retention_curve(predictability: Curve, ceiling: float | None = None) -> list[float | None]:
    """(T,) where R2 lies between that of the first point, 0, and the ceiling, 1; the ceiling is 1 if it is None."""
    return _between(predictability, next(iter(predictability), None), 1.0 if ceiling is None else ceiling)


@dataclass(frozen=True, kw_only=True)
class Forgetting:
    """What the phases after a component's own did to it. Accuracies are fractions, so these are in [-1, 1]."""

    per_component: tuple[float, ...]  # (K,) F_j: the best accuracy before the last phase minus that after it
    mean: float | None  # over the components that the last phase did not train; None: there are none
    backward_transfer: (
        float | None
    )  # accuracy at the end minus that right after the last own phase; negative: forgotten
    forward_transfer: float | None  # accuracy right before the first own phase minus that of a random network


def forgetting(
    phase_accuracies: ArrayLike,
    *,
    trained: Sequence[int] | None = None,
    random_init: Sequence[float] | None = None,
) -> Forgetting:
    """What a run that trains on one component after the other forgets of them.

    Args:
        phase_accuracies: (T, K), row t after phase t, for two phases or more.
        trained: (T,) the component of each phase, which may return; None: phase t trains component t.
        random_init: (K,) accuracies of the network before the first phase; None: there is no forward transfer.

    Raises:
        ValueError: there are fewer than two phases, or shapes that do not fit together.

    Source: F_j is Chaudhry et al. (2018), arXiv:1801.10112; the transfers are Lopez-Paz & Ranzato (2017),
        arXiv:1706.08840.
    """
    after: NDArray[np.float64] = np.asarray(phase_accuracies, dtype=float)
    order = list(range(len(after))) if trained is None else list(trained)
    if after.ndim != 2 or len(after) < 2:
        raise ValueError(f"accuracies of shape {after.shape}; give one row for each of two or more phases")
    phases, components = after.shape
    if len(order) != phases or not set(order) <= set(range(components)):
        raise ValueError(f"phases that train components {order}, and accuracies of shape {after.shape}")
    if random_init is not None and len(random_init) != components:
        raise ValueError(f"{len(random_init)} accuracies at random for {components} components")
    lost = after[:-1].max(axis=0) - after[-1]
    first = {component: order.index(component) for component in order}
    last = {component: phase for phase, component in enumerate(order)}
    earlier = [j for j in first if last[j] < phases - 1]
    later = [j for j in first if first[j] > 0] if random_init is not None else []
    return Forgetting(
        per_component=tuple(float(value) for value in lost),
        mean=_mean(lost[j] for j in earlier),
        backward_transfer=_mean(after[-1, j] - after[last[j], j] for j in earlier),
        forward_transfer=_mean(after[first[j] - 1, j] - random_init[j] for j in later) if random_init else None,
    )


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """The median time to an event over seeds, some of which never saw it."""

    median: float | None  # None: beyond the end of the run, as for half of the seeds or more
    low: float | None  # an interval for the median
    high: float | None  # None: beyond the end of the run, or one seed only
    coverage: float  # chance that such an interval holds the median: 0.95 or more from 6 seeds on
    n: int  # seeds, censored ones included
    censored: int  # of these, seeds that never saw the event


def time_to_threshold(steps: Iterable[float | None]) -> Waiting:
    """The median of one step per seed, None for a seed that never got there, with an interval by order statistics.

    The interval runs from the k-th smallest to the k-th largest, for the largest k with a chance of 95 % or more, by
    the binomial distribution; it assumes nothing about the times, and only that all runs are equally long. With fewer
    than 6 seeds it is the whole range, and `coverage` says what that is worth.

    Raises:
        ValueError: there is no seed.
    """
    times = sorted(math.inf if _absent(step) else float(step) for step in steps)  # type: ignore[arg-type]
    n = len(times)
    if not n:
        raise ValueError("there is no seed to take a median of")
    k = max((k for k in range(1, n // 2 + 1) if _coverage(k, n) >= 0.95), default=1)
    median = (times[(n - 1) // 2] + times[n // 2]) / 2
    return Waiting(
        median=_finite(median),
        low=_finite(times[k - 1]) if n > 1 else None,
        high=_finite(times[n - k]) if n > 1 else None,
        coverage=_coverage(k, n) if n > 1 else 0.0,
        n=n,
        censored=times.count(math.inf),
    )


def collapse(table: pd.DataFrame, by: Sequence[str] = ("component",)) -> pd.DataFrame:
    """What C2 says happens, counted over seeds: where there is a gap, does the signal go before the features come?

    Args:
        table: a row per seed and trajectory, with the columns of `by` and `seed`, `gap` (a fraction),
            `final_saturation`, `saturation_step`, `final_retention`, `retention_step` and `retention_after`, the last
            five as `summarise` gives them.
        by: the columns that define a group.

    Returns:
        One row per group, in order of appearance: the columns of `by`, and

        n, gap, low, high: seeds with a gap, its mean and 95 % interval.
        role: "gap" if the interval lies above 0: C2 is about these. "control" if it does not: in these, the signal
            is not to collapse first. "unknown" with fewer than two seeds.
        collapsed, recovered, retained, open, unmeasured: numbers of seeds, see OUTCOMES.
    """
    rows = []
    for key, group in table.groupby(list(by), dropna=False, sort=False):
        gaps = group["gap"].dropna()
        found = estimate(gaps) if len(gaps) else None
        outcomes = [_outcome(row) for row in group.to_dict("records")]
        rows.append(
            dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))
            | {
                "n": found.n if found else 0,
                "gap": found.mean if found else None,
                "low": found.low if found else None,
                "high": found.high if found else None,
                "role": "unknown" if found is None or found.low is None else "gap" if found.positive else "control",
            }
            | {name: outcomes.count(name) for name in OUTCOMES}
        )
    return pd.DataFrame(rows, columns=[*by, "n", "gap", "low", "high", "role", *OUTCOMES])


def _outcome(row: Mapping[Any, Any]) -> str:
    """One of OUTCOMES."""
    if any(_absent(row[name]) for name in ("gap", "final_saturation", "final_retention")):
        return "unmeasured"
    saturated, retained = (math.inf if _absent(row[f"{what}_step"]) else row[f"{what}_step"] for what in EVENTS)
    if saturated == retained == math.inf:
        return "open"
    if retained <= saturated:
        return "retained"
    if _absent(row["retention_after"]):
        return "unmeasured"
    return "collapsed" if row["retention_after"] <= FLAT else "recovered"


EVENTS = ("saturation", "retention")


def _between(curve: Curve, low: float | None, high: float | None) -> list[float | None]:
    """(T,) where the points lie between 0, at `low`, and 1, at `high`."""
    if _absent(low) or _absent(high) or high - low < LEAST_SPAN:  # type: ignore[operator]
        return [None] * len(curve)
    return [None if _absent(value) else (value - low) / (high - low) for value in curve]  # type: ignore[operator]


def _points(step: Sequence[int], curve: Curve) -> list[tuple[int, float]]:
    """The points of a curve that are there."""
    assert not curve or len(curve) == len(step), "a curve has a value, or None, for every step"
    return [(at, float(value)) for at, value in zip(step, curve, strict=False) if not _absent(value)]  # type: ignore[arg-type]


def _first(step: Sequence[int], curve: Curve, holds: Any) -> int | None:
    return next((at for at, value in _points(step, curve) if holds(value)), None)


def _last(step: Sequence[int], curve: Curve) -> float | None:
    known = _points(step, curve)
    return known[-1][1] if known else None


def _absent(value: Any) -> bool:
    return value is None or value is pd.NA or not math.isfinite(value)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _mean(values: Iterable[float]) -> float | None:
    known = [float(value) for value in values]
    return math.fsum(known) / len(known) if known else None


def _coverage(k: int, n: int) -> float:
    """Chance that the median lies between the k-th smallest and the k-th largest of n independent values."""
    return float(1 - 2 * bdtr(k - 1, n, 0.5))
