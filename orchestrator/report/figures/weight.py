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

from orchestrator.analysis import gaps
from orchestrator.report.figures.kind import Evidence, Facets, Refused, averaged, facets, in_units, intervals, measured
from orchestrator.report.figures.style import (
    INK,
    LINE_STYLES,
    MUTED,
    RULE,
    add_legend,
    add_title,
    component_keys,
    distinct,
    dodged,
    draw_means,
    floats,
    label_left,
    line_keys,
    look_of,
    mark,
    matching,
    panel_grid,
    room_for,
    styled,
)

GAP = ("gap_points", "low_points", "high_points")
ACCURACY = ("accuracy_percent", "low_percent", "high_percent")
FEATURES: dict[str, tuple[str, dict[str, Any]]] = {  # what a probe reads, its column, and how it is drawn
    "transfer": ("transfer_accuracy", {"linestyle": "-", "marker": "o", "color": INK}),
    "direct": ("direct_probe_accuracy", {"linestyle": "--", "marker": "s", "markersize": 3, "color": INK}),
    "random init": ("random_init_accuracy", {"linestyle": ":", "marker": "D", "markersize": 3, "color": MUTED}),
    "chance": ("chance_accuracy", {"linestyle": (0, (1, 5)), "marker": "", "color": MUTED}),
}


# The gap


def gap_data(found: Evidence) -> pd.DataFrame:
    """A row per panel, line, component and weight, and one for each of its seeds, which has `seed`."""
    table = measured(found)
    chosen = facets(table)
    table = chosen.place(table)
    by = ["panel", "line", "component", "weight"]
    seeds = gaps.seed_means(table, by, "gap").rename(columns={"gap": "mean"}).assign(n=1)
    both = pd.concat([gaps.over_seeds(table, by, "gap"), seeds], ignore_index=True)
    found_points = in_units(both.assign(seed=both["seed"].astype("Int64")), "gap", "points")
    return found_points[[*by, "seed", *GAP, "n"]].assign(averaged=chosen.remark)


def draw_gap(data: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """The gap of each component against its weight: mean, 95 % interval, and the seeds as faint points."""
    means, seeds = data[data["seed"].isna()], data[data["seed"].notna()]
    scale = WeightScale.of(means["weight"])
    panels, components, lines = (distinct(data, name) for name in ("panel", "component", "line"))
    drawn = [(component, line) for line in lines for component in components]
    with styled():
        figure, grid = panel_grid(len(panels), narrow=narrow)
        for axes, panel in zip(grid, panels, strict=True):
            axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
            add_title(axes, panel, narrow=narrow, panels=len(panels))
            for number, (component, line) in enumerate(drawn):
                wanted = {"component": component, "panel": panel, "line": line}
                look = look_of(components.index(component)) | {"linestyle": LINE_STYLES[lines.index(line)]}
                shift = dodged(axes, number, len(drawn))
                dots, rows = matching(seeds, wanted), matching(means, wanted).sort_values("weight")
                axes.plot(
                    *(scale.position(floats(dots["weight"])), floats(dots["gap_points"])),
                    *(".",),
                    **{"markersize": 4, "alpha": 0.4, "color": look["color"], "transform": shift, "zorder": 2},
                )
                x = scale.position(floats(rows["weight"]))
                draw_means(axes, x, rows, GAP, look, shift)
                mark(axes, x, floats(rows["gap_points"]), rows.index, shift)
        limit_gaps(grid[0], data)
        _label(figure, grid, scale, "gap, points")
        add_legend(figure, [*component_keys(components), *line_keys(lines)], narrow=narrow)
    return figure


def gap_caption(data: pd.DataFrame) -> str:
    return (
        "Each point is the mean gap of a component, direct minus transfer accuracy in points, at one weight in the "
        "mixture; the faint points are single seeds. Above 0 the mixture lost something. Lines join means and are no "
        f"fit. {intervals(data[data['seed'].isna()])}" + averaged(data)
    )


# The accuracies behind it


def accuracy_data(found: Evidence) -> pd.DataFrame:
    """A row per component, weight and kind of features; everything else is averaged within each seed."""
    table = measured(found, "transfer_accuracy")
    by = ["component", "weight"]
    others = Facets(None, None, tuple(gaps.other_axes(table)))
    if others.averaged and not table.drop_duplicates(by)["component"].duplicated().any():
        raise Refused("every component has one weight, and what else varies would be averaged: vary mixture")
    parts = [
        gaps.over_seeds(table, by, column).assign(features=kind, panel=lambda rows: rows["component"].astype(object))
        for kind, (column, _) in FEATURES.items()
    ]
    whole = in_units(pd.concat(parts, ignore_index=True), "accuracy", "percent")
    columns = ["panel", "component", "weight", "features", *ACCURACY, "n"]
    return whole[whole["n"] > 0].reset_index(drop=True)[columns].assign(averaged=others.remark)


def draw_accuracies(data: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """Per component, what a probe reaches on the mixture's, on direct and on random features, against weight."""
    scale = WeightScale.of(data.loc[data["features"] == "transfer", "weight"])
    panels, components = distinct(data, "panel"), distinct(data, "component")
    with styled():
        figure, grid = panel_grid(len(panels), narrow=narrow)
        for axes, panel in zip(grid, panels, strict=True):
            here = matching(data, {"panel": panel}).sort_values("weight")
            colour = look_of(components.index(here["component"].iloc[0]))["color"]
            rows = {kind: here[here["features"] == kind] for kind in FEATURES}
            _shade(axes, scale, rows["transfer"], rows["direct"])
            add_title(axes, panel, narrow=narrow, panels=len(panels))
            for kind, (_, how) in FEATURES.items():
                look = {**how, "color": colour if kind == "transfer" else how["color"]}
                draw_means(axes, scale.position(floats(rows[kind]["weight"])), rows[kind], ACCURACY, look)
        _label(figure, grid, scale, "test accuracy, %")
        shown = [kind for kind in FEATURES if (data["features"] == kind).any()]
        add_legend(figure, [Line2D([], [], label=kind, **FEATURES[kind][1]) for kind in shown], narrow=narrow)
    return figure


def accuracy_caption(data: pd.DataFrame) -> str:
    return (
        "Test accuracy in % of the same probe on the mixture's features (transfer), on those of direct training, and "
        "on the features at their random initialisation. The shaded distance from direct down to transfer is the gap; "
        "where transfer lies below random init, the mixture suppressed what the component needs. "
        f"{intervals(data)}" + averaged(data)
    )


# Axes


@dataclass(frozen=True)
class WeightScale:
    """Where weights stand on the x axis: at their square roots if some are much smaller than others."""

    rooted: bool
    low: float
    high: float

    @classmethod
    def of(cls, weights: pd.Series[Any]) -> WeightScale:
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


def limit_gaps(axes: Axes, data: pd.DataFrame) -> None:
    """Room for every mean and seed and for 0, and for whiskers up to as much again."""
    axes.set_ylim(*room_for(data, GAP, beyond=1.0, zero=True))


def _shade(axes: Axes, scale: WeightScale, transfer: pd.DataFrame, direct: pd.DataFrame) -> None:
    both = transfer.merge(direct, on="weight", suffixes=("", "_direct"))
    x = scale.position(floats(both["weight"]))
    reached, possible = (floats(both[f"accuracy_percent{which}"]) for which in ("", "_direct"))
    axes.fill_between(x, reached, possible, color=RULE, alpha=0.55, linewidth=0)


def _label(figure: Figure, grid: Sequence[Axes], scale: WeightScale, y: str) -> None:
    for axes in grid:
        scale.label_ticks(axes)
        label_left(axes, y)
    figure.supxlabel(scale.label, fontsize=9)
