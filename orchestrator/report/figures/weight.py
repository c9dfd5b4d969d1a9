"""How do gaps and accuracies depend on the weight of a component in the mixture?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter
from matplotlib.transforms import ScaledTranslation

from orchestrator.analysis import gaps
from orchestrator.report.figures.style import (
    INK,
    LINE_STYLES,
    MOST_PANELS,
    MUTED,
    RULE,
    add_legend,
    distinct,
    floats,
    level_name,
    look_of,
    matching,
    panel_grid,
    shortened,
    styled,
    title_room,
)


@dataclass(frozen=True)
class Facets:
    """Where `gap_by_weight` shows the axes that vary besides the mixture."""

    panel: str | None  # a panel per value
    line: str | None  # a line style per value
    averaged: tuple[str, ...]  # nowhere: averaged within each seed


def facets(table: pd.DataFrame) -> Facets:
    """Panels for the axis with most values that still fit, line styles for the next one that has few."""
    axes = gaps.other_axes(table)
    count = {axis: len(distinct(table, axis)) for axis in axes}
    panel = max((axis for axis in axes if count[axis] <= MOST_PANELS), key=count.__getitem__, default=None)
    line = next((axis for axis in axes if axis != panel and count[axis] <= len(LINE_STYLES)), None)
    return Facets(panel, line, tuple(axis for axis in axes if axis not in (panel, line)))


def gap_by_weight(table: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """The gap of each component against its weight: mean, 95 % interval, and the seeds as faint points."""
    chosen = facets(table)
    by = ["component", "weight", *(axis for axis in (chosen.panel, chosen.line) if axis)]
    found = gaps.summarise(table, by).rename(columns={"gap": "mean"})
    found = found[found["n"] > 0].sort_values("weight")
    seeds = gaps.seed_means(table, by, "gap").rename(columns={"gap": "mean"})
    scale = _WeightScale.of(found["weight"])
    components = distinct(table, "component")
    lines = [(c, v) for v in distinct(table, chosen.line) for c in components]
    panels = distinct(table, chosen.panel)
    with styled():
        figure, grid = panel_grid(len(panels), narrow=narrow)
        for axes, panel in zip(grid, panels, strict=True):
            axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
            if chosen.panel:
                axes.set_title(shortened(level_name(chosen.panel, panel), title_room(narrow, len(panels))))
            for number, (component, line) in enumerate(lines):
                wanted = {"component": component, chosen.panel: panel, chosen.line: line}
                look = look_of(components.index(component)) | {"linestyle": _line_style(table, chosen.line, line)}
                # Beside each other, not on top of each other: many components have the same few weights.
                shift = axes.transData + ScaledTranslation(
                    3 * (number - (len(lines) - 1) / 2) / 72, 0, figure.dpi_scale_trans
                )
                _draw_seeds(axes, scale, matching(seeds, wanted), shift, look)
                _draw_means(axes, scale, matching(found, wanted), shift, look)
        _limit_gaps(grid[0], found, seeds)
        _label(figure, grid, scale, "gap, points")
        add_legend(figure, [*_component_keys(components), *_line_keys(table, chosen.line)], narrow=narrow)
    return figure


def accuracies(table: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """Per component, what a probe reaches on the mixture's, on direct and on random features, against weight.

    The shaded distance from direct to transfer is the gap. Everything but the weight is averaged within each seed.
    """
    by = ["component", "weight"]
    looks: dict[str, tuple[str, dict[str, Any]]] = {
        "transfer": ("transfer_accuracy", {"linestyle": "-", "marker": "o", "color": INK}),
        "direct": ("direct_probe_accuracy", {"linestyle": "--", "marker": "s", "markersize": 3, "color": INK}),
        "random init": ("random_init_accuracy", {"linestyle": ":", "marker": "D", "markersize": 3, "color": MUTED}),
        "chance": ("chance_accuracy", {"linestyle": (0, (1, 5)), "marker": "", "color": MUTED}),
    }
    found = {kind: gaps.over_seeds(table, by, column) for kind, (column, _) in looks.items()}
    found = {kind: rows[rows["n"] > 0].sort_values("weight") for kind, rows in found.items()}
    components = distinct(table, "component")
    scale = _WeightScale.of(found["transfer"]["weight"])
    with styled():
        figure, grid = panel_grid(len(components), narrow=narrow)
        for number, (axes, component) in enumerate(zip(grid, components, strict=True)):
            rows = {kind: matching(found[kind], {"component": component}) for kind in looks}
            _shade(axes, scale, rows["transfer"], rows["direct"])
            axes.set_title(shortened(component))
            for kind, (_, look) in looks.items():
                colour = look_of(number)["color"] if kind == "transfer" else look["color"]
                _draw_means(axes, scale, rows[kind], axes.transData, look | {"color": colour})
        _label(figure, grid, scale, "test accuracy, %")
        shown = {kind: look for kind, (_, look) in looks.items() if not found[kind].empty}
        add_legend(figure, [Line2D([], [], label=kind, **look) for kind, look in shown.items()], narrow=narrow)
    return figure


@dataclass(frozen=True)
class _WeightScale:
    """Where weights stand on the x axis: at their square roots if some are much smaller than others."""

    rooted: bool
    low: float
    high: float

    @classmethod
    def of(cls, weights: pd.Series[Any]) -> _WeightScale:
        known = floats(weights.dropna())
        if not len(known):
            return cls(False, 0.0, 1.0)
        positive = known[known > 0]
        rooted = bool(len(positive)) and positive.min() < 0.08 * positive.max()
        return cls(rooted, known.min(), known.max())

    def position(self, weight: Any) -> Any:
        return np.sqrt(weight) if self.rooted else weight

    @property
    def label(self) -> str:
        return "weight in the mixture" + (", square-root scale" if self.rooted else "")

    def label_ticks(self, axes: Axes) -> None:
        ticks = (0, 0.02, 0.1, 0.25, 0.5, 1) if self.rooted else (0, 0.25, 0.5, 0.75, 1)
        axes.xaxis.set_major_locator(FixedLocator([float(self.position(tick)) for tick in ticks]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x * x if self.rooted else x:.3g}"))
        low, high = float(self.position(self.low)), float(self.position(self.high))
        margin = 0.07 * (high - low) or 0.1
        axes.set_xlim(low - margin, high + margin)


def _draw_means(axes: Axes, scale: _WeightScale, rows: pd.DataFrame, shift: Any, look: dict[str, Any]) -> None:
    """Means joined by a line, with whiskers. Fractions come in percent."""
    x = scale.position(floats(rows["weight"]))
    mean, low, high = (100 * floats(rows[name]) for name in ("mean", "low", "high"))
    axes.plot(x, mean, transform=shift, zorder=4, **look)
    axes.vlines(x, low, high, transform=shift, color=look["color"], linewidth=1.2, zorder=3)


def _draw_seeds(axes: Axes, scale: _WeightScale, rows: pd.DataFrame, shift: Any, look: dict[str, Any]) -> None:
    x, y = scale.position(floats(rows["weight"])), 100 * floats(rows["mean"])
    axes.plot(x, y, ".", markersize=4, alpha=0.4, color=look["color"], transform=shift, zorder=2)


def _shade(axes: Axes, scale: _WeightScale, transfer: pd.DataFrame, direct: pd.DataFrame) -> None:
    both = transfer.merge(direct, on=["component", "weight"], suffixes=("", "_direct"))
    x = scale.position(floats(both["weight"]))
    axes.fill_between(
        x, 100 * floats(both["mean"]), 100 * floats(both["mean_direct"]), color=RULE, alpha=0.55, linewidth=0
    )


def _limit_gaps(axes: Axes, found: pd.DataFrame, seeds: pd.DataFrame) -> None:
    """Room for every mean and seed, and for whiskers up to as much again: of two seeds they can be endless."""
    values = np.append(100 * floats(pd.concat([found["mean"], seeds["mean"]])), 0.0)
    low, high = values.min(), values.max()
    room = max(high - low, 1.0)
    ends = np.append(100 * floats(pd.concat([found["low"], found["high"]]).dropna()), values)
    axes.set_ylim(max(ends.min(), low - room) - 0.06 * room, min(ends.max(), high + room) + 0.06 * room)


def _label(figure: Figure, grid: Sequence[Axes], scale: _WeightScale, y: str) -> None:
    for axes in grid:
        scale.label_ticks(axes)
        if axes.get_subplotspec().is_first_col():  # type: ignore[union-attr]  # it is in a grid
            axes.set_ylabel(y)
    figure.supxlabel(scale.label, fontsize=9)


def _component_keys(components: Sequence[str]) -> list[Line2D]:
    return [Line2D([], [], label=shortened(name), **look_of(number)) for number, name in enumerate(components)]


def _line_keys(table: pd.DataFrame, axis: str | None) -> list[Line2D]:
    return [
        Line2D([], [], color=INK, linestyle=_line_style(table, axis, value), label=shortened(level_name(axis, value)))
        for value in distinct(table, axis)
        if axis
    ]


def _line_style(table: pd.DataFrame, axis: str | None, value: Any) -> Any:
    named = [gaps.level(axis, v) for v in distinct(table, axis)] if axis else []
    return LINE_STYLES[named.index(gaps.level(axis, value))] if axis else LINE_STYLES[0]
