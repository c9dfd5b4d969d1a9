"""What does each component lose, or keep, under each mixture? Heat maps of gaps and of retention.

Rows are mixtures, in groups for what else varies; columns are components. On a phone the name of a mixture stands
above its cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from orchestrator.analysis import gaps
from orchestrator.report.figures.kind import Evidence, Facets, Refused, averaged, in_units, intervals, measured
from orchestrator.report.figures.style import (
    CHARACTERS_PER_INCH,
    DARK_TEXT,
    GAP_COLOURS,
    HATCH,
    LIGHT_TEXT,
    LONGEST_NAME,
    MISSING,
    MUTED,
    NARROW,
    Drawing,
    distinct,
    fitted,
    level_name,
    matching,
    styled,
    text_inches,
    typeset,
    wrapped,
)

MOST_ROWS = 48
CELL, WIDEST_CELL, KEY_TEXT = 1.0, 1.6, 2.45  # widths in inches
ROW, LINE, NAMES, KEY = 0.42, 0.16, 0.3, 0.75  # heights in inches
RETENTION_COLOURS = matplotlib.colormaps["Blues"]


# Gaps


@dataclass(frozen=True)
class Scope:
    """What of a table a heat map has room for."""

    axes: tuple[str, ...]  # a group of rows for each combination of their values
    averaged: tuple[str, ...]  # for lack of room, within each seed
    mixtures: tuple[str, ...]  # a row for each, in every group
    left_out: int  # mixtures that lose least, for lack of room


def scope(table: pd.DataFrame) -> Scope:
    """As many axes as fit with all mixtures; if the mixtures alone do not fit, those that lose most."""
    axes, mixtures = gaps.other_axes(table), distinct(table, "mixture")
    kept = list(axes)
    while kept and len(table[kept].drop_duplicates()) * len(mixtures) > MOST_ROWS:
        kept.pop()
    shown = mixtures
    if len(mixtures) > MOST_ROWS:
        found = gaps.summarise(table, ["mixture", "component"]).sort_values("gap", ascending=False)
        most = set(found["mixture"].drop_duplicates().head(MOST_ROWS))
        shown = [mixture for mixture in mixtures if mixture in most]
    return Scope(tuple(kept), tuple(axes[len(kept) :]), tuple(shown), len(mixtures) - len(shown))


def gap_data(found: Evidence) -> pd.DataFrame:
    """A row per cell; `missing` says why it has no gap, `partial` that rows of it have none."""
    table = measured(found)
    cells, chosen = _cells(table)
    cells = in_units(cells.rename(columns={"gap": "mean"}), "gap", "points")
    return cells.assign(averaged=Facets(None, None, chosen.averaged).remark, mixtures_left_out=chosen.left_out)[
        [
            *("panel", "mixture", "component", "gap_points", "low_points", "high_points", "n", "missing", "partial"),
            *("averaged", "mixtures_left_out"),
        ]
    ]


def _cells(table: pd.DataFrame) -> tuple[pd.DataFrame, Scope]:
    """`gaps.summarise` by mixture, the axes in scope, and component; with panel, missing and partial."""
    chosen = scope(table)
    found = gaps.summarise(table, ["mixture", *chosen.axes, "component"])
    found = found[found["mixture"].isin(chosen.mixtures)]
    records = found.to_dict("records")
    why = [next((said for name, said in gaps.REASONS.items() if row[name]), "") for row in records]
    return found.assign(
        panel=[", ".join(level_name(axis, row[axis]) for axis in chosen.axes) for row in records],
        missing=["" if row["n"] else reason for row, reason in zip(records, why, strict=True)],
        partial=[bool(row["n"] and reason) for row, reason in zip(records, why, strict=True)],
    ), chosen


def draw_gap(data: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """The gap of each component under each mixture, in points, with its interval.

    A single mixture is not named. A cell is hatched where the interval contains 0, grey where there is no gap, and
    starred where rows were left out.
    """
    limit = max([1.0, *data["gap_points"].abs().dropna()])
    paint = _Paint(
        colour=lambda points: GAP_COLOURS(0.5 + 0.5 * points / limit),
        text=lambda points: gaps.points(points / 100),
        interval=lambda low, high, n: gaps.interval(low / 100, high / 100, n),
        hatched=lambda low, high: gaps.contains_zero(low / 100, high / 100),
        ramp=GAP_COLOURS,
        key=(gaps.points(-limit / 100), "0", gaps.points(limit / 100)),
        said="gap, points: red is lost, blue is gained",
    )
    names = {"gap_points": "mean", "low_points": "low", "high_points": "high"}
    return _draw(data.rename(columns=names), paint, narrow=narrow)


def gap_caption(data: pd.DataFrame) -> str:
    return (
        "Gap in points with its 95\u00a0% interval, a row for each mixture, a column for each component. Hatched: the "
        "interval contains 0. Grey: no gap, with the reason. A star: rows of that cell were left out. "
        f"{intervals(data)}" + averaged(data) + _left_out(data)
    )


# Retention


def retention_data(found: Evidence) -> pd.DataFrame:
    """A row per network and component whose direct features were looked for in it."""
    table = measured(found, "transfer_accuracy")
    if not table["retention"].notna().any():
        raise Refused("the table has no retention: it takes a sweep with `retention: true`")
    cells, chosen = _cells(table)
    by = ["mixture", *chosen.axes, "component"]
    kept = gaps.over_seeds(table, by, "retention").loc[cells.index]
    cells = cells[["panel", "mixture", "component", "missing"]].join(kept[["mean", "low", "high", "n"]])
    nothing = cells["n"] == 0
    cells["missing"] = cells["missing"].where(cells["missing"] != "", "not measured").where(nothing, "")
    cells = cells.rename(columns={"mean": "retention"}).reset_index(drop=True)
    return cells[["panel", "mixture", "component", "retention", "low", "high", "n", "missing"]].assign(
        averaged=Facets(None, None, chosen.averaged).remark, mixtures_left_out=chosen.left_out
    )


def draw_retention(data: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """How much of each component's direct features a linear map finds in each mixture's network."""
    paint = _Paint(
        colour=lambda share: RETENTION_COLOURS(0.85 * min(1.0, max(0.0, share))),
        text=lambda share: f"{share:.2f}",
        interval=lambda low, high, n: "one seed" if n == 1 else f"[{low:.2f}, {high:.2f}]",
        hatched=lambda low, high: low <= 0 <= high,
        ramp=lambda share: RETENTION_COLOURS(0.85 * share),
        key=("0", "0.5", "1"),
        said="retention: 0 as at random, 1 all there",
    )
    return _draw(data.rename(columns={"retention": "mean"}).assign(partial=False), paint, narrow=narrow)


def retention_caption(data: pd.DataFrame) -> str:
    return (
        "Retention, without a unit: how well a linear map reads the direct features of a component (columns) from the "
        "features of the network pretrained on a mixture (rows), between random features (0) and a direct network of "
        "another seed (1). Hatched: the interval contains 0. Grey: none, with the reason. "
        f"{intervals(data)}" + averaged(data) + _left_out(data)
    )


def _left_out(data: pd.DataFrame) -> str:
    count = int(data["mixtures_left_out"].max())
    return f" {count} mixture{'' if count == 1 else 's'} that lose least are left out." if count else ""


# Drawing


@dataclass(frozen=True)
class _Paint:
    """How numbers become cells."""

    colour: Callable[[float], Any]
    text: Callable[[float], str]
    interval: Callable[[Any, Any, int], str]
    hatched: Callable[[Any, Any], bool]
    ramp: Callable[[float], Any]  # of the key, from 0 to 1
    key: tuple[str, str, str]
    said: str


@dataclass(frozen=True)
class _Row:
    header: tuple[str, ...]  # lines, of the group that begins here; empty: none does
    label: tuple[str, ...]  # lines
    cells: Mapping[Any, Mapping[Any, Any]]  # by component

    @property
    def header_height(self) -> float:
        return 0.16 + LINE * len(self.header) if self.header else 0.0

    def height(self, narrow: bool) -> float:
        label = LINE * len(self.label) + 0.08
        return self.header_height + (label + ROW if narrow else max(label, ROW))


def _draw(data: pd.DataFrame, paint: _Paint, *, narrow: bool) -> Figure:
    rows = _rows(data.assign(row=data.index), narrow=narrow)
    components = distinct(data, "component")
    labels = [0.0 if narrow else 0.14 + 1.04 * text_inches(line) for row in rows for line in row.label]
    left = max(labels, default=0.0)
    names = [text_inches(name, weight="bold") + 0.15 for name in components]
    cell = (NARROW - 0.1) / max(1, len(components)) if narrow else min(max(names, default=0.0), WIDEST_CELL)
    cell = max(cell, CELL)
    key = min(2.4, max(1.6, cell * len(components)))
    headers = [text_inches(line, weight="bold") for row in rows for line in row.header]
    width = max(left + max(cell * len(components), KEY_TEXT), NARROW - 0.1, *headers, 0.0) + 0.04
    with styled():
        figure = Drawing(figsize=(width, NAMES + sum(row.height(narrow) for row in rows) + KEY))
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(figure.get_figheight(), 0))  # in inches
        axes.axis("off")
        for number, component in enumerate(components):
            name = fitted(component, 0.95 * cell - 0.05, "bold")
            axes.text(left + cell * (number + 0.5), 0.2, name, ha="center", weight="bold")
        y = NAMES
        for row in rows:
            _draw_row(axes, row, components, y, paint, left=left, cell=cell, narrow=narrow)
            y += row.height(narrow)
        _draw_key(axes, left, y + 0.16, key, paint)
    return figure


def _rows(data: pd.DataFrame, *, narrow: bool) -> list[_Row]:
    most = int(CHARACTERS_PER_INCH * NARROW)
    label_most = most if narrow else LONGEST_NAME
    mixtures, rows = distinct(data, "mixture"), []
    for panel in distinct(data, "panel"):
        parts = panel.split(", ") if panel else []
        header = wrapped(parts, ", ", most)
        for mixture in mixtures:
            cells = matching(data, {"panel": panel, "mixture": mixture}).set_index("component").to_dict("index")
            if cells and len(mixtures) == 1 and panel:  # the group is the row
                rows.append(_Row((), wrapped(parts, ", ", label_most), cells))
            elif cells:
                rows.append(_Row(header, wrapped(mixture.split(" + "), " + ", label_most), cells))
                header = ()
    return rows


def _draw_row(
    axes: Axes,
    row: _Row,
    components: Sequence[str],
    y: float,
    paint: _Paint,
    *,
    left: float,
    cell: float,
    narrow: bool,
) -> None:
    for number, line in enumerate(row.header):
        axes.text(0, y + 0.24 + LINE * number, line, weight="bold", color=MUTED)
    bottom = y + row.height(narrow)
    y += row.header_height
    top = bottom - ROW if narrow else y
    first = y + 0.16 if narrow else (y + bottom) / 2 + 0.045 - LINE * (len(row.label) - 1) / 2
    for number, line in enumerate(row.label):
        axes.text(0 if narrow else left - 0.1, first + LINE * number, line, ha="left" if narrow else "right")
    for number, component in enumerate(components):
        if component in row.cells:
            box = (left + cell * number, top, cell, bottom - top)
            _draw_cell(axes, row.cells[component], box, paint)


def _draw_cell(axes: Axes, cell: Mapping[Any, Any], box: tuple[float, float, float, float], paint: _Paint) -> None:
    x, y, width, height = box
    corner, size, middle = (x + 0.015, y + 0.015), (width - 0.03, height - 0.03), x + width / 2
    if not cell["n"]:
        axes.add_patch(Rectangle(corner, *size, facecolor=MISSING, linewidth=0, gid=f"row-{cell['row']}"))
        axes.text(middle, y + height / 2 + 0.04, cell["missing"], ha="center", fontsize=8, color=MUTED)
        return
    red, green, blue, _ = colour = paint.colour(cell["mean"])
    text = DARK_TEXT if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else LIGHT_TEXT
    hatch = "///" if cell["n"] > 1 and paint.hatched(cell["low"], cell["high"]) else None
    look = {"facecolor": colour, "edgecolor": HATCH, "linewidth": 0, "hatch": hatch}
    axes.add_patch(Rectangle(corner, *size, gid=f"row-{cell['row']}", **look))
    star = "*" if cell["partial"] else ""
    spread = paint.interval(cell["low"], cell["high"], cell["n"])
    axes.text(middle, y + height / 2 - 0.02, typeset(paint.text(cell["mean"])) + star, ha="center", color=text)
    axes.text(middle, y + height / 2 + 0.13, typeset(spread), ha="center", fontsize=8, color=text)


def _draw_key(axes: Axes, x: float, y: float, width: float, paint: _Paint) -> None:
    """The colours from the smallest to the largest, and what they mean."""
    steps = 41
    for number in range(steps):
        colour = paint.ramp(number / (steps - 1))
        axes.add_patch(Rectangle((x + width * number / steps, y), width / steps * 1.05, 0.13, color=colour))
    for share, text, align in zip((0.0, 0.5, 1.0), paint.key, ("left", "center", "right"), strict=True):
        axes.text(x + width * share, y + 0.28, typeset(text), ha=align, fontsize=8)
    axes.text(x, y + 0.45, paint.said, fontsize=8)
