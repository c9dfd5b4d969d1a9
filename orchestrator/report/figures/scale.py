"""Does a gap vanish with scale, or stop at a floor? The gap against width, depth, steps or pool size, with its fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from orchestrator.analysis import fits, gaps
from orchestrator.analysis.measures import Key, by_seed, keys, matrix, nested, usable
from orchestrator.analysis.summary import SCALES
from orchestrator.report.figures.kind import Evidence, Refused, averaged, facets, in_units, intervals, measured
from orchestrator.report.figures.style import (
    INK,
    LINE_STYLES,
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
    matching,
    panel_grid,
    styled,
    typeset,
)
from orchestrator.report.figures.weight import GAP, limit_gaps

MOST_FITS_SAID = 6  # in the caption
CURVE = ("panel", "line", "component")
FIT = ("fit_a_points", "fit_b", "floor_points", "floor_low_points", "floor_high_points", "no_fit")
NAMES = {
    "width": "width, times the architecture's own",
    "depth": "depth, layers or blocks",
    "steps": "optimiser steps",
    "train_examples": "different examples in the pool",
}


def data(found: Evidence) -> pd.DataFrame:
    """A row per panel, line, component and scale; the fit of the curve, or why there is none, in each of its rows.

    The fit is gap = fit_a_points * scale^-fit_b + floor_points. Single networks only.
    """
    table = measured(found)
    table = table[(table["representation"] == "single").fillna(False)]
    count = {name: table[name].nunique() for name in SCALES}
    axis = max(SCALES, key=count.__getitem__)
    if count[axis] < 2:
        raise Refused("the table has one scale of single networks: vary width, depth, steps or train_examples")
    table = table[table[axis].notna()]
    chosen = facets(table, (axis,))
    table = chosen.place(table)
    means = in_units(gaps.over_seeds(table, [*CURVE, axis], "gap"), "gap", "points")
    fitted = {
        key: _fit(nested_by_scale)
        for key, nested_by_scale in nested(by_seed(usable(table), [*CURVE, axis], "gap")).items()
    }
    laws = [fitted.get(key, _no_fit("no gap has been measured")) for key in keys(means, CURVE)]
    means = means.join(pd.DataFrame(laws, index=means.index)).rename(columns={axis: "scale"})
    means = means.assign(scale=floats(means["scale"]), axis=axis)
    return means[[*CURVE, "axis", "scale", *GAP, "n", *FIT]].assign(averaged=chosen.remark)


def _fit(of_scale: dict[Key, dict[int, float]]) -> dict[str, Any]:
    scales = [float(scale) for (scale,) in of_scale]
    found = fits.floor_fit(scales, 100 * matrix(list(of_scale.values())))
    if isinstance(found, fits.Refused):
        return _no_fit(found.reason)
    floor = (found.c.value, found.c.low, found.c.high)
    return dict(zip(FIT, (found.a, found.b.value, *floor, ""), strict=True))


def _no_fit(reason: str) -> dict[str, Any]:
    return dict(zip(FIT, (*[None] * 5, reason), strict=True))


def draw(data: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """The mean gap at each scale, the fitted law dashed, and its floor with its interval at the far right."""
    panels, lines, components = (distinct(data, name) for name in ("panel", "line", "component"))
    drawn = [(component, line) for line in lines for component in components]
    one_axis = data["axis"].nunique() == 1
    with styled():
        figure, grid = panel_grid(len(panels), narrow=narrow, sharex=one_axis)
        for axes, panel in zip(grid, panels, strict=True):
            here = matching(data, {"panel": panel})
            axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
            add_title(axes, panel, narrow=narrow, panels=len(panels))
            ticks = _scale_axis(axes, here if not one_axis else data)
            for number, (component, line) in enumerate(drawn):
                rows = matching(here, {"component": component, "line": line}).sort_values("scale")
                style = LINE_STYLES[lines.index(line)]
                look = look_of(components.index(component)) | {"linestyle": style if style != "-" else ""}
                _draw_curve(axes, rows, look, dodged(axes, number, len(drawn)), ticks)
            axes.set_xlabel(NAMES[here["axis"].iloc[0]])
        for axes in grid:
            label_left(axes, "gap, points")
        limit_gaps(grid[0], data)
        add_legend(figure, [*component_keys(components), *line_keys(lines)], narrow=narrow)
    return figure


def _draw_curve(axes: Axes, rows: pd.DataFrame, look: dict[str, Any], shift: Any, end: float) -> None:
    """Points joined by a thin line, or by the fitted law and its floor at `end`."""
    if rows.empty:
        return
    fitted = pd.notna(rows["fit_b"].iloc[0])
    look = look | {"linestyle": "" if fitted else look["linestyle"] or "-", "linewidth": 0.9}
    draw_means(axes, floats(rows["scale"]), rows, GAP, look, shift)
    if not fitted:
        return
    a, b, floor, low, high = (float(rows[name].iloc[0]) for name in FIT[:5])
    x = np.geomspace(float(rows["scale"].min()), end / 1.35, 100)
    axes.plot(x, a * x**-b + floor, "--", color=look["color"], linewidth=1.2, zorder=2)
    ends = pd.DataFrame({"mean": [floor], "low": [low], "high": [high]})
    draw_means(axes, [end], ends, ("mean", "low", "high"), look | {"markerfacecolor": "white"}, shift)


def _scale_axis(axes: Axes, data: pd.DataFrame) -> float:
    """A logarithmic axis with a tick at every scale, and one at infinity if there is a fit; returns where that is."""
    scales = sorted(set(floats(data["scale"])))
    end = scales[-1] * (scales[-1] / scales[0]) ** 0.2
    fitted = data["fit_b"].notna().any()
    axes.set_xscale("log")
    ticks, labels = list(scales), [f"{scale:,.4g}" for scale in scales]
    if len(scales) > 7:
        ticks, labels = ticks[:: len(ticks) // 6 + 1], labels[:: len(labels) // 6 + 1]
    if fitted:
        ticks, labels = [*ticks, end], [*labels, "∞"]
        axes.axvline(end, color=RULE, linewidth=0.8, zorder=0)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels(labels)
    margin = (scales[-1] / scales[0]) ** 0.07
    axes.set_xlim(scales[0] / margin, (end if fitted else scales[-1]) * margin)
    return float(end)


def caption(data: pd.DataFrame) -> str:
    """With the fits of a few curves, and how many are refused for which reason."""
    curves = [(key, rows.iloc[0]) for key, rows in data.groupby(list(CURVE), sort=False)]
    said = [_fit_of(key, law) for key, law in curves if not law["no_fit"]]
    if len(said) > MOST_FITS_SAID:
        said = [f"The fits of {len(said)} curves are in the numbers of this figure."]
    for reason, count in Counter(law["no_fit"] for _, law in curves if law["no_fit"]).items():
        which = "" if count == len(curves) else f" of {count} of {len(curves)} curves"
        said.append(f"No fit{which}: {reason}.")
    return (
        "Gap in points of single networks against scale, on a logarithmic axis. Dashed: the fit of "
        "gap = a N^-b + c to the means; the hollow marker at ∞ is its floor c with the 95\u00a0% interval "
        f"from resampled seeds. {typeset(' '.join(said))} {intervals(data)}" + averaged(data)
    )


def _fit_of(curve: Sequence[Any], law: pd.Series[Any]) -> str:
    place = ", ".join(str(part) for part in (curve[2], curve[0], curve[1]) if part)
    ends = (gaps.points(law[name] / 100) for name in ("floor_low_points", "floor_high_points"))
    floor = f"{gaps.points(law['floor_points'] / 100)} [{', '.join(ends)}]"
    return f"{place}: b\u00a0=\u00a0{law['fit_b']:.2f}, floor c\u00a0=\u00a0{floor} points."
