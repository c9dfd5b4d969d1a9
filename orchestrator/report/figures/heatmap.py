"""What does each component lose under each mixture? A heat map of gaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from orchestrator.analysis import gaps
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
    distinct,
    level_name,
    matching,
    shortened,
    styled,
    text_inches,
    typeset,
    wrapped,
)

MOST_HEATMAP_ROWS = 48


@dataclass(frozen=True)
class HeatmapScope:
    """What of a table the heat map has room for."""

    axes: tuple[str, ...]  # a group of rows for each combination of their values
    averaged: tuple[str, ...]  # for lack of room, within each seed
    mixtures: tuple[str, ...]  # a row for each, in every group
    left_out: int  # mixtures that lose least, for lack of room


def heatmap_scope(table: pd.DataFrame) -> HeatmapScope:
    """As many axes as fit with all mixtures; if the mixtures alone do not fit, those that lose most."""
    axes, mixtures = gaps.other_axes(table), distinct(table, "mixture")
    kept = list(axes)
    while kept and len(table[kept].drop_duplicates()) * len(mixtures) > MOST_HEATMAP_ROWS:
        kept.pop()
    shown = mixtures
    if len(mixtures) > MOST_HEATMAP_ROWS:
        found = gaps.summarise(table, ["mixture", "component"]).sort_values("gap", ascending=False)
        most = set(found["mixture"].drop_duplicates().head(MOST_HEATMAP_ROWS))
        shown = [mixture for mixture in mixtures if mixture in most]
    return HeatmapScope(tuple(kept), tuple(axes[len(kept) :]), tuple(shown), len(mixtures) - len(shown))


CELL, WIDEST_CELL, KEY_TEXT = 1.0, 1.6, 2.45  # widths in inches
ROW, LINE, NAMES, KEY = 0.42, 0.16, 0.3, 0.75  # heights in inches


def gap_heatmap(table: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """The gap of each component under each mixture, in points, with its interval.

    Where other axes vary, the mixtures repeat in groups; a single mixture is not named. A cell is hatched where the
    interval contains 0, grey where there is no gap, and starred where rows were left out. On a phone the name of a
    mixture stands above its cells.
    """
    scope = heatmap_scope(table)
    found = gaps.summarise(table, ["mixture", *scope.axes, "component"])
    rows = _heatmap_rows(found, scope, narrow=narrow)
    components = distinct(table, "component")
    limit = max([0.01, *found["gap"].abs().dropna()])
    labels = [0.0 if narrow else 0.12 + text_inches(line) for row in rows for line in row.label]
    left = max(labels, default=0.0)
    names = [text_inches(name, weight="bold") + 0.15 for name in components]
    cell = (NARROW - 0.1) / max(1, len(components)) if narrow else min(max(names, default=0.0), WIDEST_CELL)
    cell = max(cell, CELL)
    key = min(2.4, max(1.6, cell * len(components)))
    width = max(left + max(cell * len(components), KEY_TEXT), NARROW - 0.1) + 0.04
    with styled():
        figure = Figure(figsize=(width, NAMES + sum(row.height(narrow) for row in rows) + KEY))
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(figure.get_figheight(), 0))  # in inches
        axes.axis("off")
        for number, component in enumerate(components):
            axes.text(
                left + cell * (number + 0.5),
                0.2,
                shortened(component, int(cell * CHARACTERS_PER_INCH)),
                ha="center",
                weight="bold",
            )
        y = NAMES
        for row in rows:
            _draw_heatmap_row(axes, row, components, y, left=left, cell=cell, limit=limit, narrow=narrow)
            y += row.height(narrow)
        _draw_heatmap_key(axes, left, y + 0.16, key, limit)
    return figure


@dataclass(frozen=True)
class _HeatmapRow:
    header: tuple[str, ...]  # lines, of the group that begins here; empty: none does
    label: tuple[str, ...]  # lines
    cells: Mapping[Any, Mapping[Any, Any]]  # by component, a row of `gaps.summarise`

    @property
    def header_height(self) -> float:
        return 0.16 + LINE * len(self.header) if self.header else 0.0

    def height(self, narrow: bool) -> float:
        label = LINE * len(self.label) + 0.08
        return self.header_height + (label + ROW if narrow else max(label, ROW))


def _heatmap_rows(found: pd.DataFrame, scope: HeatmapScope, *, narrow: bool) -> list[_HeatmapRow]:
    groups = found[list(scope.axes)].drop_duplicates().to_dict("records") if scope.axes else [{}]
    most = int(CHARACTERS_PER_INCH * NARROW)
    label_most = most if narrow else LONGEST_NAME
    rows = []
    for group in groups:
        levels = [level_name(str(axis), value) for axis, value in group.items()]
        header = wrapped(levels, ", ", most)
        for mixture in scope.mixtures:
            cells = matching(found, {**group, "mixture": mixture}).set_index("component").to_dict("index")
            if cells and len(scope.mixtures) == 1 and levels:  # the group is the row
                rows.append(_HeatmapRow((), wrapped(levels, ", ", label_most), cells))
            elif cells:
                rows.append(_HeatmapRow(header, wrapped(mixture.split(" + "), " + ", label_most), cells))
                header = ()
    return rows


def _draw_heatmap_row(
    axes: Axes,
    row: _HeatmapRow,
    components: Sequence[str],
    y: float,
    *,
    left: float,
    cell: float,
    limit: float,
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
            _draw_cell(axes, row.cells[component], box, limit)


def _draw_cell(axes: Axes, cell: Mapping[Any, Any], box: tuple[float, float, float, float], limit: float) -> None:
    x, y, width, height = box
    corner, size, middle = (x + 0.015, y + 0.015), (width - 0.03, height - 0.03), x + width / 2
    if not cell["n"]:
        why = next((spoken for name, spoken in gaps.REASONS.items() if cell[name]), "")
        axes.add_patch(Rectangle(corner, *size, facecolor=MISSING, linewidth=0))
        axes.text(middle, y + height / 2 + 0.04, why, ha="center", fontsize=8, color=MUTED)
        return
    red, green, blue, _ = colour = GAP_COLOURS(0.5 + 0.5 * cell["gap"] / limit)
    text = DARK_TEXT if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else LIGHT_TEXT
    hatch = "///" if gaps.contains_zero(cell["low"], cell["high"]) else None
    axes.add_patch(Rectangle(corner, *size, facecolor=colour, edgecolor=HATCH, linewidth=0, hatch=hatch))
    star = "*" if any(cell[name] for name in gaps.REASONS) else ""
    spread = gaps.interval(cell["low"], cell["high"], cell["n"])
    axes.text(middle, y + height / 2 - 0.02, typeset(gaps.points(cell["gap"])) + star, ha="center", color=text)
    axes.text(middle, y + height / 2 + 0.13, typeset(spread), ha="center", fontsize=8, color=text)


def _draw_heatmap_key(axes: Axes, x: float, y: float, width: float, limit: float) -> None:
    """The colours from the largest gain to the largest loss, and what else a cell may show."""
    steps = 41
    for number in range(steps):
        colour = GAP_COLOURS(number / (steps - 1))
        axes.add_patch(Rectangle((x + width * number / steps, y), width / steps * 1.05, 0.13, color=colour))
    for share, text in ((0.0, gaps.points(-limit)), (0.5, "0"), (1.0, gaps.points(limit))):
        align = {0.0: "left", 0.5: "center", 1.0: "right"}[share]
        axes.text(x + width * share, y + 0.28, typeset(text), ha=align, fontsize=8)
    axes.text(x, y + 0.45, "gap, points: red is lost, blue is gained", fontsize=8)
