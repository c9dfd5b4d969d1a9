"""Where on the simplex of three components is how much lost? The worst gap and every component's, by mixture."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.tri import Triangulation

from orchestrator.analysis import gaps, measures
from orchestrator.report.figures.kind import Evidence, Refused, averaged, facets, in_units, intervals, measured
from orchestrator.report.figures.style import (
    GAP_COLOURS,
    INK,
    MUTED,
    NARROW,
    RULE,
    WIDE,
    Drawing,
    add_title,
    distinct,
    floats,
    mark,
    matching,
    shortened,
    styled,
    typeset,
)
from orchestrator.report.figures.weight import GAP

CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]])
WORST = "worst gap"
FLAT = 1e-3  # area, of the unit simplex: mixtures on a line span no surface


def data(found: Evidence) -> pd.DataFrame:
    """A row per panel and mixture, with the shares of the three components, whose names are `corner_1` to 3.

    `of` is a component, or the worst gap by `measures.indices`.
    """
    table = measured(found)
    shares = _shares(table)
    corners = list(next(iter(shares.values()))) if shares else []
    if len(corners) != 3:
        raise Refused(f"the mixtures have {len(corners)} components, and a simplex of three is drawn")
    chosen = facets(table, panels=1, lines=0)
    table = table[table["mixture"].isin(shares)]
    each = in_units(gaps.over_seeds(table, ["component", "mixture"], "gap"), "gap", "points")
    rows = pd.concat([_worst(table, chosen.averaged), each.rename(columns={"component": "of"})], ignore_index=True)
    rows = rows[rows["n"] > 0]
    points = [[shares[mixture][name] for name in corners] for mixture in rows["mixture"]]
    if len({tuple(point) for point in points}) < 3 or not _spans(np.array(points)):
        raise Refused("the mixtures lie on a line or a point; a surface takes three or more that do not")
    named = {f"share_{at}": [point[at - 1] for point in points] for at in (1, 2, 3)}
    names = {f"corner_{at}": name for at, name in enumerate(corners, start=1)}
    rows = rows.assign(panel=rows["of"], **named, **names)
    columns = ["panel", "of", "mixture", *names, *named, *GAP, "n"]
    return rows[columns].reset_index(drop=True).assign(averaged=chosen.remark)


def _shares(table: pd.DataFrame) -> dict[Any, dict[Any, float]]:
    """By mixture, the share of each component, if there are three that make up all of it."""
    found: dict[Any, dict[Any, float]] = {}
    for mixture, component, weight in measures.keys(table, ["mixture", "component", "weight"]):
        if weight is not None:
            found.setdefault(mixture, {})[component] = float(weight)
    names = [name for name in distinct(table, "component") if any(shares.get(name) for shares in found.values())]
    whole = {mixture: {name: shares.get(name, 0.0) for name in names} for mixture, shares in found.items()}
    return {mixture: shares for mixture, shares in whole.items() if abs(sum(shares.values()) - 1) < 1e-6}


def _worst(table: pd.DataFrame, averaged_axes: tuple[str, ...]) -> pd.DataFrame:
    """The worst gap of every mixture; absent where other axes vary too, for there it is no mean."""
    if averaged_axes:
        return pd.DataFrame(columns=["of", "mixture", *GAP, "n"])
    indices = measures.indices(table)
    mixture_of = dict(zip(table["trial"], table["mixture"], strict=True))
    if "worst" not in indices:
        return pd.DataFrame(columns=["of", "mixture", *GAP, "n"])
    numbers = zip(GAP, ("worst", "worst_low", "worst_high"), strict=True)
    return pd.DataFrame(
        {"of": WORST, "mixture": [mixture_of[trial] for trial in indices["trial"]]}
        | {new: 100 * floats(indices[old]) for new, old in numbers}
        | {"n": indices["n"]}
    )


def _spans(points: Any) -> bool:
    flat = _place(points)
    hull = flat - flat.mean(axis=0)
    return bool(np.linalg.svd(hull, compute_uv=False)[-1] > math.sqrt(FLAT))


def _place(shares: Any) -> Any:
    """(N, 3) shares -> (N, 2) places in the triangle."""
    return np.asarray(shares, dtype=float) @ CORNERS


def draw(data: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """A triangle per panel: linear between the measured mixtures, which are points; nothing outside of them."""
    panels = distinct(data, "panel")
    columns = 1 if narrow else min(len(panels), 2 if len(panels) in (2, 4) else 3)
    lines = math.ceil(len(panels) / columns)
    limit = max(1.0, float(data["gap_points"].abs().max()))
    with styled():
        width = NARROW if narrow else WIDE
        size = (width, (0.8 * width / columns + 0.3) * lines + 0.8)  # a panel is 0.8 times as high as it is wide
        figure = Drawing(figsize=size, layout="constrained")
        grid = list(figure.subplots(lines, columns, squeeze=False).flat)
        for axes in grid[len(panels) :]:
            axes.remove()
        for axes, panel in zip(grid, panels, strict=False):
            rows = matching(data, {"panel": panel})
            title = panel if rows["of"].iloc[0] == WORST else f"gap of {panel}"
            add_title(axes, title, narrow=narrow, panels=columns)
            _draw_simplex(axes, rows, limit)
        colours = ScalarMappable(Normalize(-limit, limit), GAP_COLOURS)
        bar = figure.colorbar(colours, ax=grid[: len(panels)], location="bottom", shrink=0.6, aspect=30, pad=0.02)
        bar.set_label("gap, points: red is lost, blue is gained")
        bar.outline.set_visible(False)
    return figure


def _draw_simplex(axes: Axes, rows: pd.DataFrame, limit: float) -> None:
    norm = Normalize(-limit, limit)
    axes.set_aspect("equal")
    axes.axis("off")
    axes.set_xlim(-0.22, 1.22)
    axes.set_ylim(-0.16, 1.0)
    for share in (0.25, 0.5, 0.75):
        for corner in range(3):
            a, b = np.zeros(3), np.zeros(3)
            a[corner] = b[corner] = share
            a[(corner + 1) % 3] = b[(corner + 2) % 3] = 1 - share
            axes.plot(*_place([a, b]).T, color=RULE, linewidth=0.6, zorder=2.5)
    axes.plot(*np.vstack([CORNERS, CORNERS[:1]]).T, color=MUTED, linewidth=0.9, zorder=3)
    places = _place(rows[["share_1", "share_2", "share_3"]])
    values = floats(rows["gap_points"])
    if len(values) > 2 and _spans(rows[["share_1", "share_2", "share_3"]]):
        surface = Triangulation(places[:, 0], places[:, 1])
        axes.tripcolor(surface, values, shading="gouraud", cmap=GAP_COLOURS, norm=norm, zorder=2, rasterized=True)
        levels = [level for level in MaxNLocator(8).tick_values(-limit, limit) if values.min() < level < values.max()]
        if levels:
            lines = axes.tricontour(surface, values, levels=levels, colors=[INK], linewidths=0.5, zorder=3)
            axes.clabel(lines, fmt=lambda level: typeset(f"{level:g}"), fontsize=7)
    axes.scatter(
        places[:, 0],
        places[:, 1],
        c=values,
        cmap=GAP_COLOURS,
        norm=norm,
        edgecolors=INK,
        linewidths=0.8,
        s=28,
        zorder=4,
    )
    mark(axes, places[:, 0], places[:, 1], rows.index)
    names = [str(rows[f"corner_{at}"].iloc[0]) for at in (1, 2, 3)]
    for (x, y), name in zip(CORNERS, names, strict=True):
        axes.text(
            x, y + (0.05 if y else -0.05), shortened(name, 16), ha="center", fontsize=8, va="bottom" if y else "top"
        )


def caption(data: pd.DataFrame) -> str:
    widths = (floats(data["high_points"]) - floats(data["low_points"])) / 2
    known = widths[np.isfinite(widths)]
    spread = f" Half widths of the intervals: {np.median(known):.1f} points (median)." if len(known) else ""
    worst = "The worst gap is the largest of the components' means, with the interval of the indices. "
    return (
        "Gap in points over the simplex of mixtures: a corner is a mixture of that component alone, rules are at "
        "shares of a quarter, a half and three quarters. Points are the mixtures that were measured; colours and "
        "contours between them are linear in the shares, and there are none outside. "
        f"{worst if WORST in set(data['of']) else ''}{intervals(data)}{spread}" + averaged(data)
    )
