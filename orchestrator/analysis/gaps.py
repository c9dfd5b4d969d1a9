"""How much does each component lose, and how sure is that? Transfer gaps over seeds with 95 % intervals.

A seed is the unit of replication: rows of a group that share a seed are averaged first, then the interval is
taken over seeds. Differences are taken within a seed before anything is averaged. Rows that are not ok never
enter a mean and are counted beside it. Gaps are fractions here, points (hundredths) where people read them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

AXES = {  # what a sweep may vary, and its plural
    "mixture": "mixtures",
    "ordering": "orderings",
    "architecture": "architectures",
    "width": "widths",
    "depth": "depths",
    "representation": "representations",
    "steps": "numbers of steps",
    "train_examples": "pool sizes",
    "training": "trainings",
}
ACCURACIES = ("transfer_accuracy", "direct_probe_accuracy", "direct_accuracy", "random_init_accuracy")
REASONS = {  # why a row has no gap: columns of a summary, and how people say them
    "failed": "failed",
    "diverged": "diverged",
    "stopped": "stopped early",
    "pending": "pending",
    "invalid": "invalid",
    "no_baseline": "without a baseline",
}


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its 95 % interval."""

    mean: float
    low: float | None  # None: one seed says nothing about other seeds
    high: float | None
    n: int  # number of seeds

    @property
    def positive(self) -> bool:
        """Whether the whole interval lies above 0."""
        return self.low is not None and self.low > 0 and not contains_zero(self.low, self.high)


def estimate(values: Iterable[float | None]) -> Estimate:
    """The mean of one value per seed, absent ones left out, and a two-sided Student t interval.

    Raises:
        ValueError: no value is there.
    """
    known = np.array([value for value in values if not pd.isna(value)], dtype=float)
    n = len(known)
    if n == 0:
        raise ValueError("there is no value to estimate from; count the missing rows instead")
    mean = math.fsum(known) / n
    if n == 1:
        return Estimate(mean, None, None, 1)
    half = float(_half_width(np.std(known, ddof=1), n))
    return Estimate(mean, mean - half, mean + half, n)


def _half_width(deviation: Any, n: Any) -> Any:
    """Half of the 95 % t interval of a mean, from the sample standard deviation of n > 1 values."""
    return stdtrit(n - 1, 0.975) * deviation / n**0.5


def primary(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the protocol that answers the sweep's question; all rows where the table does not say."""
    return table[table["primary"].fillna(True)]


def per_component(table: pd.DataFrame) -> pd.DataFrame:
    """`summarise` over everything that was varied: one row per component."""
    return summarise(table, ["component"])


def by_weight(table: pd.DataFrame) -> pd.DataFrame:
    """`summarise` by component, its weight, and the axes that vary.

    Mixtures in which a component weighs the same are one group. Rows run through the weights from small to
    large, everything else in the order of the plan.
    """
    axes = other_axes(table)
    found = summarise(table, ["component", "weight", *axes])
    in_plan_order = [_codes(found[name]) for name in ("component", *axes)]
    weight = found["weight"].to_numpy(dtype=float, na_value=np.nan)
    return found.iloc[np.lexsort((weight, *reversed(in_plan_order)))].reset_index(drop=True)


def by_design(table: pd.DataFrame) -> pd.DataFrame:
    """`summarise` with one row per trial and component, and the axes that vary as columns."""
    return summarise(table, ["trial", *varying_axes(table), "component", "weight"])


def varying_axes(table: pd.DataFrame) -> list[str]:
    """Which of AXES have more than one value; an absent value (an architecture's own depth) counts as one."""
    return [axis for axis in AXES if table[axis].nunique(dropna=False) > 1]


def other_axes(table: pd.DataFrame) -> list[str]:
    """`varying_axes` without the mixture."""
    return [axis for axis in varying_axes(table) if axis != "mixture"]


def summarise(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Mean gap, interval and accuracies of every group, in order of appearance.

    Args:
        table: a results table (`results.COLUMNS`).
        by: the columns that define a group, at least one; an absent value is a value like any other.

    Returns:
        One row per group: the columns of `by`, and

        gap, low, high: fractions; mean over seeds and 95 % interval, absent where there is none.
        n: seeds with a gap.
        trials: designs with a gap, averaged within each seed.
        uneven: some of these seeds lack a gap for some of these designs, so the seeds are not alike.
        transfer_accuracy, direct_probe_accuracy, direct_accuracy, random_init_accuracy: means over seeds.
        rows: in the group. failed, diverged, stopped, pending, invalid, no_baseline: of them, without a gap by reason.
    """
    numbered, found = _numbered(table, by)
    reason = reasons(numbered)
    measured = numbered[reason == ""].drop_duplicates(["group", "trial", "seed"]).groupby("group")
    over = _over_seeds(numbered, ["gap", *ACCURACIES], found.index)
    found[["gap", "low", "high", "n"]] = over["gap"]
    found["trials"] = _counts(measured["trial"].nunique(), found.index)
    found["uneven"] = _counts(measured.size(), found.index) != found["trials"] * found["n"]
    for name in ACCURACIES:
        found[name] = over[name]["mean"]
    found["rows"] = _counts(numbered.groupby("group").size(), found.index)
    for name in REASONS:
        found[name] = _counts((reason == name).groupby(numbered["group"]).sum(), found.index)
    return found


def over_seeds(table: pd.DataFrame, by: Sequence[str], column: str) -> pd.DataFrame:
    """The columns of `by`, then mean, low, high and n of a column's ok rows, for the groups of `summarise`."""
    numbered, found = _numbered(table, by)
    return found.join(_over_seeds(numbered, [column], found.index)[column])


def seed_means(table: pd.DataFrame, by: Sequence[str], column: str) -> pd.DataFrame:
    """One row per group and seed with the mean of a column's ok rows: what intervals are taken over."""
    return _seed_means(table, by, [column]).dropna(subset=column).reset_index()


def _numbered(table: pd.DataFrame, by: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table with the number of each row's group, in order of appearance, and the groups by number."""
    numbered = table.assign(group=_group(table, by))
    groups = numbered.drop_duplicates("group").set_index("group")[list(by)]
    return numbered, groups.rename_axis(index=None)


def _over_seeds(numbered: pd.DataFrame, columns: Sequence[str], groups: pd.Index[Any]) -> dict[str, pd.DataFrame]:
    over = _seed_means(numbered, ["group"], columns).groupby("group")
    mean, deviation = (values.reindex(groups).astype("Float64") for values in (over.mean(), over.std()))
    n = _counts(over.count(), groups)
    at_least_two = n.clip(lower=2).to_numpy(dtype=float)  # one seed has no deviation, so no interval either
    half = _half_width(deviation, at_least_two)
    of = {"mean": mean, "low": mean - half, "high": mean + half, "n": n}
    return {name: pd.DataFrame({key: values[name] for key, values in of.items()}) for name in columns}


def _seed_means(table: pd.DataFrame, by: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    known = table[(table["status"] == "ok").fillna(False)]
    return known.groupby([*by, "seed"], dropna=False, sort=False)[list(columns)].mean()


def reasons(table: pd.DataFrame) -> pd.Series[str]:
    """Why each row has no gap: one of REASONS, or empty where it has one. Without a status it is pending."""
    status = table["status"].fillna("pending")
    ok = status == "ok"
    found = status.mask(ok, "no_baseline").mask(ok & table["invalid"].notna(), "invalid")
    return found.mask(ok & table["gap"].notna(), "")


def missing(table: pd.DataFrame) -> str:
    """How many rows have no gap, and why: for example `2 failed, 3 pending`; empty if all have one."""
    counts = reasons(table).value_counts()
    return ", ".join(f"{counts[name]} {spoken}" for name, spoken in REASONS.items() if name in counts)


def _group(table: pd.DataFrame, by: Sequence[str]) -> pd.Series[int]:
    """The number of every row's group, groups counted in order of appearance."""
    codes = pd.DataFrame({name: _codes(table[name]) for name in by}, index=table.index)
    return codes.groupby(list(by), sort=False).ngroup()


def _codes(values: pd.Series[Any]) -> Any:
    """(N,) number of each distinct value, absent included, in order of appearance."""
    return pd.factorize(values, use_na_sentinel=False)[0]


def _counts(counts: Any, groups: pd.Index[Any]) -> Any:
    return counts.reindex(groups, fill_value=0).astype("Int64")


# Numbers as people read them


def points(fraction: Any) -> str:
    """A fraction in points, for example `43.7`; a dash where it is absent."""
    return "-" if pd.isna(fraction) else f"{round(100 * float(fraction), 1) + 0.0:.1f}"  # + 0.0: never -0.0


def interval(low: Any, high: Any, n: int) -> str:
    """A 95 % interval in points, for example `[41.2, 46.1]`, or why there is none."""
    if n == 1:
        return "one seed"
    return "-" if pd.isna(low) else f"[{points(low)}, {points(high)}]"


def contains_zero(low: Any, high: Any) -> bool:
    """Whether an interval contains 0 as it is printed, so that `[0.0, 0.3]` does; without an interval, no."""
    return not pd.isna(low) and float(points(low)) <= 0 <= float(points(high))


def level(axis: str, value: Any) -> str:
    """One value of an axis, or a weight, as it stands in a column of that name."""
    if pd.isna(value):
        return {"depth": "own", "train_examples": "all", "training": "as given"}.get(axis, "-")
    match axis:
        case "weight":
            return f"{value:.3g}"
        case "width":
            return f"{value:.4g}"
        case "depth" | "steps" | "train_examples":
            return f"{int(value):,}"
        case _:
            return str(value)


def listed(words: Sequence[str]) -> str:
    """For example `a, b and c`."""
    return " and ".join([*([", ".join(words[:-1])] if words[:-1] else []), *words[-1:]])


def summary_rows(table: pd.DataFrame) -> list[tuple[str, ...]]:
    """`by_weight` as text for a terminal, the header first.

    Gaps are in points and accuracies in %. A star at n marks seeds that do not hold the same designs; columns
    with the reasons of missing rows follow where there are any.
    """
    found = by_weight(table)
    axes = other_axes(table)
    gone = [name for name in REASONS if found[name].sum()]
    accuracies = ("transfer, %", "direct, %", "random init, %")
    header = ("component", "weight", *axes, "gap, points", "95 % interval", "n", *accuracies)
    rows = [
        (
            str(row["component"]),
            *(level(name, row[name]) for name in ("weight", *axes)),
            points(row["gap"]),
            interval(row["low"], row["high"], row["n"]),
            f"{row['n']}{'*' if row['uneven'] else ''}",
            *(points(row[f"{name}_accuracy"]) for name in ("transfer", "direct_probe", "random_init")),
            *(str(row[name]) for name in gone),
        )
        for row in found.to_dict("records")
    ]
    return [tuple(_spoken(name) for name in (*header, *gone)), *rows]


def _spoken(name: str) -> str:
    return REASONS.get(name, name).replace("_", " ")
