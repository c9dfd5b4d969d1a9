"""Which designs are worth their price? Mean gap, worst gap and training FLOPs, with the designs that nothing beats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from orchestrator.analysis import gaps, measures
from orchestrator.report.figures.kind import Evidence, Refused, intervals, measured
from orchestrator.report.figures.style import (
    CHARACTERS_PER_INCH,
    MUTED,
    NARROW,
    RULE,
    SERIES,
    WIDE,
    add_legend,
    distinct,
    floats,
    level_name,
    panel_grid,
    room_for,
    styled,
    wrapped,
)

MOST_NAMED = 12  # designs of the front with a number and a name
MEAN, WORST = ("mean_gap_points", "mean_low", "mean_high"), ("worst_gap_points", "worst_low", "worst_high")
COST = ("training_flops",)
GOALS = ("mean_gap_points", "worst_gap_points", "training_flops")


def data(found: Evidence) -> pd.DataFrame:
    """A row per design, of `measures.indices`; `front`: no other is as good in all of GOALS and better in one."""
    table = measured(found)
    indices = measures.indices(table)
    whole = indices[(indices["n"] > 0) & (indices["missing"] == 0)] if "mean" in indices else indices.head(0)
    left_out, indices = len(indices) - len(whole), whole.reset_index(drop=True)
    if len(indices) < 2:
        raise Refused("fewer than two designs have a gap of every component in one seed; a front takes several")
    axes = [name for name in measures.varied(table) if name != "sweep"]
    flops = measures.by_seed(measures.usable(table), ["trial"], "training_flops")
    cost = [gaps.estimate(seeds.values()).mean if (seeds := flops.get((t,))) else None for t in indices["trial"]]
    records = indices.to_dict("records")
    named = [", ".join(level_name(name, row[name]) for name in axes) or str(row["trial"]) for row in records]
    columns = zip((*MEAN, *WORST), ("mean", "mean_low", "mean_high", "worst", "worst_low", "worst_high"), strict=True)
    rows = indices.assign(
        panel="",
        design=named,
        training_flops=pd.Series(cost, index=indices.index, dtype=float),
        **{new: 100 * floats(indices[old]) for new, old in columns},
    )
    goals = [goal for goal in GOALS if rows[goal].notna().all()]
    rows = rows.assign(front=front(rows[goals].to_numpy(dtype=float)))
    kept = ["panel", "design", *MEAN, *WORST, "worst_component", "training_flops", "front", "n"]
    return rows[kept].assign(designs_left_out=left_out)


def front(goals: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> list[bool]:
    """Which of (N, G) rows no other row beats: as small in every goal, and smaller in one."""
    return [not ((goals <= one).all(axis=1) & (goals < one).any(axis=1)).any() for one in goals]


def draw(data: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """The worst gap against the mean gap and, where it varies, against compute; numbers name the front."""
    data = data.assign(number=_numbers(data))
    cost = data["training_flops"]
    priced = bool(cost.notna().all() and cost.min() > 0 and cost.max() > 1.02 * cost.min())
    with styled():
        pairs: list[tuple[Sequence[str], Sequence[str], str, str]] = [
            (MEAN, WORST, "mean gap over components, points", "worst gap, points")
        ]
        if priced:
            pairs.append((COST, WORST, "training FLOPs", "worst gap, points"))
            pairs.append((COST, MEAN, "training FLOPs", "mean gap, points"))
        figure, grid = panel_grid(len(pairs), narrow=narrow, sharex=False, sharey=False, height=3.0)
        for axes, (x, y, across, up) in zip(grid, pairs, strict=True):
            _scatter(axes, data, x, y)
            axes.set_xlabel(across)
            axes.set_ylabel(up)
            if x[0] == "training_flops":
                _cost_axis(axes, data["training_flops"])
        add_legend(figure, _keys(data, narrow=narrow), narrow=narrow)
    return figure


def _numbers(data: pd.DataFrame) -> list[int]:
    """1, 2, ... of the front by its mean gap; 0 for what has no number."""
    order = data[data["front"]].sort_values("mean_gap_points").index[:MOST_NAMED]
    place = {index: number for number, index in enumerate(order, start=1)}
    return [place.get(index, 0) for index in data.index]


def _scatter(axes: Axes, data: pd.DataFrame, x: Sequence[str], y: Sequence[str]) -> None:
    sweeps = distinct(data, "panel")
    for front_row in (False, True):
        for number, panel in enumerate(sweeps):
            rows = data[(data["front"] == front_row) & (data["panel"] == panel)]
            colour = SERIES[number % len(SERIES)] if front_row else MUTED
            at, up = floats(rows[x[0]]), floats(rows[y[0]])
            faint: dict[str, Any] = {"color": colour if front_row else RULE, "linewidth": 0.9, "zorder": 1 + front_row}
            axes.vlines(at, floats(rows[y[1]]), floats(rows[y[2]]), **faint)
            if len(x) == 3:
                axes.hlines(up, floats(rows[x[1]]), floats(rows[x[2]]), **faint)
            size, face = (9.5, colour) if front_row else (4.0, "white")
            axes.plot(at, up, "o", color=colour, markerfacecolor=face, markersize=size, zorder=3 + front_row)
    for row in data[data["number"] > 0].to_dict("records"):
        where = (row[x[0]], row[y[0]])
        axes.annotate(str(row["number"]), where, ha="center", va="center", fontsize=7, color="white", zorder=6)
    axes.set_ylim(*room_for(data, y))
    if len(x) == 3:
        axes.set_xlim(*room_for(data, x))


def _cost_axis(axes: Axes, flops: pd.Series[Any]) -> None:
    """A logarithmic axis with a label at whole powers of ten, or at both ends where there are fewer than two."""
    low, high = float(flops.min()), float(flops.max())
    margin = (high / low) ** 0.08
    axes.set_xscale("log")
    axes.set_xlim(low / margin, high * margin)
    powers = [10.0**at for at in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    axes.xaxis.set_major_locator(FixedLocator(powers if len(powers) > 1 else [low, high]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}".replace("e+", "e")))
    axes.xaxis.set_minor_locator(NullLocator())


def _keys(data: pd.DataFrame, *, narrow: bool) -> list[Line2D]:
    most = int(CHARACTERS_PER_INCH * ((NARROW if narrow else WIDE) - 0.75))
    sweeps, keys = distinct(data, "panel"), []
    named = data[data["number"] > 0].sort_values("number")
    for row in named.to_dict("records"):
        said = ", ".join(part for part in (row["panel"], row["design"]) if part).split(", ")
        text = "\n".join(wrapped([f"{row['number']}  {said[0]}", *said[1:]], ", ", most))
        colour = SERIES[sweeps.index(row["panel"]) % len(SERIES)]
        keys.append(Line2D([], [], linestyle="", marker="o", color=colour, markersize=6, label=text))
    if not data["front"].all():
        keys.append(
            Line2D([], [], linestyle="", marker="o", color=MUTED, markerfacecolor="white", markersize=4, label="beaten")
        )
    return keys


def caption(data: pd.DataFrame) -> str:
    count, named = int(data["front"].sum()), min(int(data["front"].sum()), MOST_NAMED)
    incomplete = int(data["designs_left_out"].max())
    return (
        "Every design by the mean and by the largest of its components' gaps, in points, and by the FLOPs of its "
        "pretraining; smaller is better in all. Filled and numbered: designs that no other of their sweep beats in "
        "one of these and matches in the rest. The largest of several noisy gaps is too large on average; its interval "
        f"(union bound) is not. {intervals(data)}"
        + " Whiskers end at the frame."
        + (f" Of {count} designs on the front, {named} have a number." if named < count else "")
        + (f" {incomplete} designs in which some component has no gap are left out." if incomplete else "")
    )
