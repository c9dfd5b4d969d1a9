"""What else do the gaps of a table say? Indices over components, the share of a gap that is closed, bias and variance.

Everything is computed within a seed first and then over seeds, from rows that are ok and valid. Rows that a
comparison marks invalid are counted beside the numbers and never enter one. A number that cannot be computed is
absent. Which gap belongs to which component and weight is the business of `gaps`, which failure it is of `ladder`.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import gammaincinv, stdtrit

from orchestrator.analysis.gaps import AXES, Estimate, estimate, primary

Key: TypeAlias = tuple[Any, ...]
BySeed: TypeAlias = dict[int, float]  # one number per seed
Floats: TypeAlias = npt.NDArray[np.float64]

# What two rows share that differ in nothing but component, seed, protocol and shots.
DESIGN = ("sweep", "direct_kind", *AXES)
CROSSINGS = (
    "direct is better at every size",
    "transfer is better at every size",
    "direct is better from here on",
    "transfer is better from here on",
    "crosses several times",
)
TAIL = 0.025  # beyond either end of a 95 % interval


# Which rows count


def usable(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that are ok and not marked invalid."""
    return table[_ok(table) & table["invalid"].isna()]


def invalid_by(table: pd.DataFrame, by: Sequence[str]) -> Counter[Key]:
    """By group, how many rows are measured and marked invalid."""
    return Counter(keys(table[_ok(table) & table["invalid"].notna()], by))


def _ok(table: pd.DataFrame) -> pd.Series[bool]:
    return (table["status"] == "ok").fillna(False).astype(bool)


def varied(table: pd.DataFrame) -> list[str]:
    """Which columns of DESIGN have more than one value; absent is a value."""
    return [name for name in DESIGN if table[name].nunique(dropna=False) > 1]


# Numbers per seed


def keys(table: pd.DataFrame, by: Sequence[str]) -> list[Key]:
    """(N,) the group of every row, in Python's own types; an absent value is None, and a value like any other."""
    return list(zip(*(_values(table[name]) for name in by), strict=True)) if by else [()] * len(table)


def _values(column: pd.Series[Any]) -> list[Any]:
    values, absent = column.tolist(), column.isna()
    return [None if no else value for value, no in zip(values, absent, strict=True)] if absent.any() else values


def by_seed(table: pd.DataFrame, by: Sequence[str], column: str) -> dict[Key, BySeed]:
    """For every group the column's mean within each seed, groups in order of appearance.

    Args:
        by: the columns that define a group, as in `keys`.
        column: rows without it are left out.
    """
    values = table[column].to_numpy(dtype=float, na_value=math.nan).tolist()
    collected: dict[Key, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for key, seed, value in zip(keys(table, by), table["seed"].tolist(), values, strict=True):
        if not math.isnan(value):
            collected[key][seed].append(value)
    return {key: {s: math.fsum(v) / len(v) for s, v in seeds.items()} for key, seeds in collected.items()}


def nested(found: Mapping[Key, BySeed], inner: int = 1) -> dict[Key, dict[Key, BySeed]]:
    """The groups of `by_seed` once more grouped, by all but the last `inner` parts of their keys."""
    outer: dict[Key, dict[Key, BySeed]] = defaultdict(dict)
    for key, seeds in found.items():
        outer[key[:-inner]][key[-inner:]] = seeds
    return dict(outer)


def shared_seeds(*groups: Mapping[int, float]) -> list[int]:
    """The seeds that all groups have, in order."""
    return sorted(set.intersection(*(set(group) for group in groups)))


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> BySeed:
    """First minus second, for the seeds that both have."""
    return {seed: first[seed] - second[seed] for seed in shared_seeds(first, second)}


def matrix(groups: Sequence[Mapping[int, float]]) -> Floats:
    """(S, len(groups)) for the seeds that all groups have."""
    seeds = shared_seeds(*groups)
    return np.array([[group[seed] for group in groups] for seed in seeds], dtype=float).reshape(-1, len(groups))


def balanced(groups: Iterable[BySeed]) -> tuple[BySeed, int]:
    """The mean over groups within each seed, and the number of groups in it.

    Every seed is the mean of the same groups: those that have the seeds of the largest group, of equals the commonest.
    The others are left out.
    """
    all_groups = list(groups)
    if not any(all_groups):
        return {}, 0
    common = Counter(frozenset(group) for group in all_groups)
    seeds = max(common, key=lambda found: (len(found), common[found]))
    kept = [group for group in all_groups if seeds <= group.keys()]
    return {seed: math.fsum(group[seed] for group in kept) / len(kept) for seed in sorted(seeds)}, len(kept)


def crossed(of_design: Mapping[Key, Mapping[Key, BySeed]]) -> tuple[list[Key], list[Key], Floats]:
    """The designs that share the most levels, these levels, and (S, L) their means over these designs."""
    most = max(map(len, of_design.values()))
    whole = {design: levels for design, levels in of_design.items() if len(levels) == most}
    names = list(next(iter(whole.values())))
    alike = {design: levels for design, levels in whole.items() if set(levels) == set(names)}
    flat = matrix([levels[name] for levels in alike.values() for name in names])
    return list(alike), names, flat.reshape(len(flat), len(alike), len(names)).mean(axis=1)


def maybe(values: Iterable[float]) -> Estimate | None:
    """The estimate, or None where there is no value."""
    known = list(values)
    return estimate(known) if known else None


def source_accuracy(table: pd.DataFrame, by: Sequence[str]) -> dict[Key, BySeed]:
    """For every group and seed, the accuracy with its own head on what pretraining showed, weighted by the shares."""
    shown = table[table["weight"].gt(0).fillna(False) & table["head_accuracy"].notna()]
    shown = shown.assign(part=shown["head_accuracy"] * shown["weight"])
    parts, shares = (by_seed(shown, by, name) for name in ("part", "weight"))
    return {key: {seed: part / shares[key][seed] for seed, part in seeds.items()} for key, seeds in parts.items()}


# The gap over all components


def indices(table: pd.DataFrame) -> pd.DataFrame:
    """The four bottleneck indices of every design, with 95 % intervals over seeds.

    Returns:
        One row per trial and, of the columns of DESIGN, those that vary; and

        mean, mean_low, mean_high: of the components' gaps.
        weighted, ...: their sum weighted by the shares of the mixture; absent if a share's component has no gap.
        worst, worst_low, worst_high, worst_component: the largest of the components' mean gaps. As the largest of
            several noisy numbers it is too large on average. Its interval is not: `low` is the largest of the
            components' lower bounds, each of which fails in 2.5 % / K, `high` the largest of their upper bounds, of
            which only that of the component that is worst in truth must hold.
        losing: share of components whose own 95 % interval lies above 0. It counts decisions and has no interval.
        n: seeds in which every component has a gap, which are all that is used.
        incomplete: seeds in which some component has none. components: with a gap in any seed. missing: components
        without. invalid: rows that are marked so.

    Source: docs/measurements.md; the interval of a maximum follows from the union bound.
    """
    axes = ["trial", *varied(table)]
    asked = primary(table)
    found = nested(by_seed(usable(asked), [*axes, "component"], "gap"))
    shares = _shares(asked, axes)
    marked = invalid_by(asked, axes)
    rows = []
    for design, of_component in shares.items():
        losses = {name: seeds for (name,), seeds in found.get(design, {}).items()}
        rows.append(
            dict(zip(axes, design, strict=True))
            | _indices(losses, of_component)
            | {"components": len(losses), "missing": len(of_component) - len(losses), "invalid": marked[design]}
        )
    return pd.DataFrame(rows)


def _indices(losses: Mapping[str, BySeed], shares: Mapping[str, float | None]) -> dict[str, Any]:
    if not losses:
        return {"n": 0, "incomplete": 0}
    names = list(losses)
    gap = matrix([losses[name] for name in names])  # (S, K)
    n = len(gap)
    incomplete = len(set().union(*losses.values())) - n
    if n == 0:
        return {"n": 0, "incomplete": incomplete}
    weights = np.array([shares[name] or 0.0 for name in names])
    whole = all(name in losses for name, share in shares.items() if share) and weights.any()
    means = gap.mean(axis=0)
    low, high = _bounds_of_largest(gap)
    return {
        **_spread("mean", estimate(gap.mean(axis=1))),
        **(_spread("weighted", estimate(gap @ weights)) if whole else {}),
        **_spread("worst", Estimate(float(means.max()), low, high, n)),
        "worst_component": names[int(means.argmax())],
        "losing": float(np.mean([estimate(gap[:, k]).positive for k in range(len(names))])) if n > 1 else None,
        "n": n,
        "incomplete": incomplete,
    }


def _bounds_of_largest(gap: Floats) -> tuple[float | None, float | None]:
    """A 95 % interval of the largest of K population means from (S, K) values."""
    n, num_components = gap.shape
    if n == 1:
        return None, None
    error = gap.std(axis=0, ddof=1) / math.sqrt(n)
    low = gap.mean(axis=0) - stdtrit(n - 1, 1 - TAIL / num_components) * error
    high = gap.mean(axis=0) + stdtrit(n - 1, 1 - TAIL) * error
    return float(low.max()), float(high.max())


def error_ratio(table: pd.DataFrame) -> pd.DataFrame:
    """How many times the errors of direct training the mixture makes: geometric mean over components.

    Returns:
        One row per trial, as in `indices`: ratio, low, high (95 % t interval of the mean logarithm over seeds), n,
        incomplete, components, invalid. A component without a single error has no logarithm and counts as missing.

    Source: docs/measurements.md, `error_ratio`.
    """
    axes = ["trial", *varied(table)]
    asked = primary(table)
    errors = usable(asked)
    ratios = errors["error_ratio"].to_numpy(dtype=float, na_value=math.nan)
    errors = errors.assign(log=np.log(np.where(ratios > 0, ratios, math.nan)))
    marked = invalid_by(asked, axes)
    rows = []
    for design, of_component in nested(by_seed(errors, [*axes, "component"], "log")).items():
        logs = matrix(list(of_component.values()))
        seeds = len(set().union(*of_component.values()))
        found = maybe(logs.mean(axis=1)) if len(logs) else None
        row = dict(zip(axes, design, strict=True)) | _spread("ratio", found, math.exp)
        row |= {"n": len(logs), "incomplete": seeds - len(logs), "components": len(of_component)}
        rows.append(row | {"invalid": marked[design]})
    columns = [*axes, "ratio", "ratio_low", "ratio_high", "n", "incomplete", "components", "invalid"]
    return pd.DataFrame(rows, columns=columns)


# How much of the gap something closes


def gap_closure(table: pd.DataFrame) -> pd.DataFrame:
    """Which share of a component's gap each representation closes: (A^M - A^T) / (A^D - A^T).

    M is any representation but `single`, T is `single` of the same design, component, seed, protocol and shots, D its
    direct baseline. 1: M is as good as direct training, 0: as `single`, above 1: better than direct training.

    It is a ratio of means over seeds with Fieller's 95 % interval, which is exact for Gaussian means at any number of
    seeds, uses that both share seeds, and need not be symmetric. It is bounded just where the gap is distinguishable
    from 0, and the ratio means nothing elsewhere, so there is none. A bootstrap would redraw 3 to 10 pairs, some of
    which have gaps near 0, and has no such boundary. Gaps that pass are somewhat too large, and the ratio too small.

    Returns:
        One row per design (the columns of DESIGN that vary), component, protocol, shots and representation: closure,
        low, high, the single gap with its interval (gap, gap_low, gap_high), gain (A^M - A^T), n, reason (why
        there is no closure; absent where there is one).

    Source: docs/measurements.md; Fieller (1954), Journal of the Royal Statistical Society B 16(2).
    """
    axes = [name for name in varied(table) if name != "representation"]
    by = [*axes, "component", "weight", "protocol", "shots", "representation"]
    good = usable(table)
    transfer, gap = (nested(by_seed(good, by, name)) for name in ("transfer_accuracy", "gap"))
    rows = []
    for design, of_kind in transfer.items():
        losses = gap.get(design, {}).get(("single",), {})
        for kind, accuracies in of_kind.items():
            if kind == ("single",):
                continue
            gains = paired(accuracies, of_kind.get(("single",), {}))
            pairs = matrix([gains, losses])  # (S, 2)
            rows.append(dict(zip(by, (*design, *kind), strict=True)) | _closure(pairs))
    columns = [*by, "closure", "low", "high", "gain", "gap", "gap_low", "gap_high", "n", "reason"]
    return pd.DataFrame(rows, columns=columns)


def _closure(pairs: Floats) -> dict[str, Any]:
    if not len(pairs):
        return {"n": 0, "reason": "no seed has both this representation and a gap of single"}
    gain, gap = float(pairs[:, 0].mean()), estimate(pairs[:, 1])
    found = {"gain": gain, **_spread("gap", gap), "n": gap.n}
    if not gap.positive:
        why = "one seed" if gap.n == 1 else "the gap of single is not distinguishable from 0"
        return found | {"reason": why}
    low, high = fieller(pairs[:, 0], pairs[:, 1])
    return found | {"closure": gain / gap.mean, "low": low, "high": high}


def fieller(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> tuple[float, float]:
    """The 95 % interval of a ratio of two means that were measured on the same seeds.

    Args:
        numerator, denominator: (S,) row s of both is of the same seed.

    Raises:
        ValueError: the denominator's mean is not distinguishable from 0, so the interval is not bounded.

    Source: Fieller (1954): all r for which the t interval of mean(numerator - r denominator) contains 0.
    """
    pairs = np.column_stack([np.asarray(numerator, dtype=float), np.asarray(denominator, dtype=float)])
    n = len(pairs)
    if n < 2:
        raise ValueError(f"{n} seeds have no spread; an interval needs 2 or more")
    top, bottom = pairs.mean(axis=0)
    covariance = np.cov(pairs, rowvar=False) / n * stdtrit(n - 1, 1 - TAIL) ** 2
    a, b, c = bottom**2 - covariance[1, 1], top * bottom - covariance[0, 1], top**2 - covariance[0, 0]
    if a <= 0:
        raise ValueError("the denominator is not distinguishable from 0, so the ratio may be anything; add seeds")
    root, ratio = math.sqrt(max(0.0, b**2 - a * c)), top / bottom
    return float(min((b - root) / a, ratio)), float(max((b + root) / a, ratio))  # which rounding may leave out


# Bias and variance


def bias_variance(table: pd.DataFrame) -> pd.DataFrame:
    """Per design and component: the mean gap over seeds, and how far apart the seeds' transfer accuracies lie.

    Returns:
        One row per trial, axis that varies, component and weight: bias, bias_low, bias_high (mean gap and its t
        interval); variance, deviation (of the transfer accuracy over seeds, from n - 1), deviation_low,
        deviation_high (95 %, from the chi-squared distribution, so it trusts the Gaussian); direct_deviation (the
        same of direct training); n, invalid. What another test set would change is no part of it.

    Source: docs/measurements.md, claim C8 of claims.py.
    """
    by = ["trial", *varied(table), "component", "weight"]
    asked = primary(table)
    good = usable(asked)
    gap, transfer, direct = (by_seed(good, by, name) for name in ("gap", "transfer_accuracy", "direct_probe_accuracy"))
    marked = invalid_by(asked, by)
    rows = []
    for key, accuracies in transfer.items():
        spread = deviation(accuracies.values())
        row = dict(zip(by, key, strict=True)) | _spread("bias", maybe(gap.get(key, {}).values()))
        if spread:
            row |= {"variance": spread.mean**2} | _spread("deviation", spread)
        if of_direct := deviation(direct.get(key, {}).values()):
            row["direct_deviation"] = of_direct.mean
        rows.append(row | {"n": len(accuracies), "invalid": marked[key]})
    columns = [*by, "bias", "bias_low", "bias_high", "variance", "deviation", "deviation_low", "deviation_high"]
    return pd.DataFrame(rows, columns=[*columns, "direct_deviation", "n", "invalid"])


def deviation(values: Iterable[float]) -> Estimate | None:
    """The standard deviation over seeds and its 95 % interval; None from fewer than two."""
    known = np.fromiter(values, dtype=float)
    n = len(known)
    if n < 2:
        return None
    found = float(known.std(ddof=1))
    smallest, largest = (2 * gammaincinv((n - 1) / 2, share) for share in (TAIL, 1 - TAIL))  # of chi-squared
    low, high = (found * math.sqrt((n - 1) / quantile) for quantile in (largest, smallest))
    return Estimate(found, low, high, n)


# The size of the target


def by_target_size(table: pd.DataFrame) -> pd.DataFrame:
    """The gap against the number of examples that the protocol is given.

    Returns:
        One row per axis that varies, component, weight, protocol and shots, from few to all: examples (that it was
        given, mean over seeds), gap, gap_low, gap_high, change, change_low, change_high (this gap minus the one
        with most examples, paired by seed), n.
    """
    by = [*varied(table), "component", "weight", "protocol", "shots"]
    good = usable(table)
    gap, sizes = nested(by_seed(good, by, "gap")), by_seed(good, by, "num_train")
    rows = []
    for curve, of_shots in gap.items():
        in_order = sorted(of_shots, key=lambda shots: math.inf if shots[0] is None else shots[0])
        most = of_shots[in_order[-1]]
        for shots in in_order:
            losses = of_shots[shots]
            given = maybe(sizes.get((*curve, *shots), {}).values())
            change = maybe(paired(losses, most).values()) if shots != in_order[-1] else None
            rows.append(
                dict(zip(by, (*curve, *shots), strict=True))
                | {"examples": given.mean if given else None, "n": len(losses)}
                | _spread("gap", estimate(losses.values()))
                | _spread("change", change)
            )
    columns = [*by, "examples", "gap", "gap_low", "gap_high", "change", "change_low", "change_high", "n"]
    return pd.DataFrame(rows, columns=columns)


def crossing(table: pd.DataFrame) -> pd.DataFrame:
    """From how many examples on direct features beat the mixture's: where the gap turns positive.

    Between the sizes that were measured the gap and the ends of its interval are straight in the logarithm of the
    number of examples. `low` is where the upper end of the interval crosses 0, `high` where the lower end does;
    absent where that is outside of what was measured.

    Returns:
        One row per axis that varies, component, weight and protocol with 2 sizes or more: crossing, low, high in
        examples, sizes, and outcome, which speaks of the mean gaps: one of CROSSINGS.
    """
    found = by_target_size(table)
    by = [*varied(table), "component", "weight", "protocol"]
    found = found[found["examples"].notna()].sort_values("examples", kind="stable").reset_index(drop=True)
    curves: dict[Key, list[int]] = defaultdict(list)
    for position, key in enumerate(keys(found, by)):
        curves[key].append(position)
    rows = []
    for key, at in curves.items():
        if len(at) < 2:
            continue
        size, gap, low, high = found.loc[at, ["examples", "gap", "gap_low", "gap_high"]].to_numpy(dtype=float).T
        size = np.log(size)
        row: dict[str, Any] = dict(zip(by, key, strict=True)) | {"sizes": len(at)}
        match np.count_nonzero(np.diff(gap > 0)), bool(gap[0] > 0):
            case 0, above:
                row["outcome"] = CROSSINGS[0] if above else CROSSINGS[1]
            case 1, False:
                row |= {"crossing": _rises_at(size, gap), "low": _rises_at(size, high), "high": _rises_at(size, low)}
                row["outcome"] = CROSSINGS[2]
            case 1, True:
                row |= {"crossing": _rises_at(size, -gap), "low": _rises_at(size, -low), "high": _rises_at(size, -high)}
                row["outcome"] = CROSSINGS[3]
            case _:
                row["outcome"] = CROSSINGS[4]
        rows.append(row)
    return pd.DataFrame(rows, columns=[*by, "crossing", "low", "high", "sizes", "outcome"])


def _rises_at(log_size: Floats, curve: Floats) -> float | None:
    """Where a piecewise straight curve rises above 0 for the last time, in examples; None if it does not do so."""
    rising = np.flatnonzero((curve[:-1] <= 0) & (curve[1:] > 0))
    if not len(rising):
        return None
    at = int(rising[-1])
    share = -curve[at] / (curve[at + 1] - curve[at])
    return float(np.exp(log_size[at] + share * (log_size[at + 1] - log_size[at])))


# What goes out


def _spread(name: str, found: Estimate | None, scale: Callable[[float], float] = float) -> dict[str, float | None]:
    """An estimate as three columns."""
    values = (found.mean, found.low, found.high) if found else (None, None, None)
    scaled = (None if value is None else float(scale(value)) for value in values)
    return dict(zip((name, f"{name}_low", f"{name}_high"), scaled, strict=True))


def _shares(table: pd.DataFrame, axes: Sequence[str]) -> dict[Key, dict[str, float | None]]:
    """By design, the share of each of its components."""
    found: dict[Key, dict[str, float | None]] = defaultdict(dict)
    for *design, component, weight in keys(table, [*axes, "component", "weight"]):
        found[tuple(design)][component] = weight
    return found
