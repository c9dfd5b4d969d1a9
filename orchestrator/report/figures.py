"""What do the gaps look like? Three figures from a results table, each for a wide page and for a phone.

Colours that belong to the page (ink, rules, the colours of components) are keys of PAGE_COLOURS, so that `page.py`
can put CSS variables in their place and one figure serves light and dark. Text stays text, and is measured in
DejaVu Sans, which is wider than the fonts that browsers use instead.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextToPath
from matplotlib.ticker import FixedLocator, FuncFormatter
from matplotlib.transforms import ScaledTranslation

from orchestrator.analysis import gaps

INK, MUTED, RULE, MISSING = "#1c2126", "#5c6670", "#d8dde3", "#e7eaee"
# Told apart with any colour vision and at 3:1 on white or more; markers tell components apart without colour.
SERIES = ("#0b6cb0", "#c8500a", "#0a7d5f", "#a8458f", "#8a6a00", "#4b5563")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
LINE_STYLES = ("-", "--", ":", "-.")
PAGE_COLOURS = {
    INK: "--ink",
    MUTED: "--muted",
    RULE: "--rule",
    MISSING: "--missing",
    **{colour: f"--series-{number}" for number, colour in enumerate(SERIES, start=1)},
}
# ColorBrewer's diverging red and blue, told apart with any colour vision: red lost, blue gained, white is 0.
GAP_COLOURS = matplotlib.colormaps["RdBu_r"]
DARK_TEXT, LIGHT_TEXT, HATCH = "#14171a", "#ffffff", "#c3c9cf"  # on those colours, the same on every page

WIDE, NARROW = 8.6, 3.7  # inches; 826 and 355 CSS pixels
MOST_PANELS = 9
MOST_HEATMAP_ROWS = 48
LONGEST_NAME = 28  # characters, in a legend or a column
CHARACTERS_PER_INCH = 12.0  # of bold text

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": INK,
    "text.parse_math": False,  # a component may be called $x$
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.0,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.0,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "legend.handlelength": 2.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "bottleneck",  # equal tables give equal bytes
}


@contextmanager
def _style() -> Iterator[None]:
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # The browser has the characters that the font for measuring lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def svg(figure: Figure) -> str:
    """The `<svg>` element of a figure, without a date or a random name."""
    file = io.StringIO()
    with _style():
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    return re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)


# Gaps and accuracies against weight


@dataclass(frozen=True)
class Facets:
    """Where `gap_by_weight` shows the axes that vary besides the mixture."""

    panel: str | None  # a panel per value
    line: str | None  # a line style per value
    averaged: tuple[str, ...]  # nowhere: averaged within each seed


def facets(table: pd.DataFrame) -> Facets:
    """Panels for the axis with most values that still fit, line styles for the next one that has few."""
    axes = gaps.other_axes(table)
    count = {axis: len(_values(table, axis)) for axis in axes}
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
    components = _values(table, "component")
    lines = [(c, v) for v in _values(table, chosen.line) for c in components]
    panels = _values(table, chosen.panel)
    with _style():
        figure, grid = _grid(len(panels), narrow=narrow)
        for axes, panel in zip(grid, panels, strict=True):
            axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
            if chosen.panel:
                axes.set_title(_short(_named(chosen.panel, panel), _room(narrow, len(panels))))
            for number, (component, line) in enumerate(lines):
                wanted = {"component": component, chosen.panel: panel, chosen.line: line}
                look = _look(components.index(component)) | {"linestyle": _line_style(table, chosen.line, line)}
                # Beside each other, not on top of each other: many components have the same few weights.
                shift = axes.transData + ScaledTranslation(
                    3 * (number - (len(lines) - 1) / 2) / 72, 0, figure.dpi_scale_trans
                )
                _draw_seeds(axes, scale, _where(seeds, wanted), shift, look)
                _draw_means(axes, scale, _where(found, wanted), shift, look)
        _limit_gaps(grid[0], found, seeds)
        _label(figure, grid, scale, "gap, points")
        _legend(figure, [*_component_keys(components), *_line_keys(table, chosen.line)], narrow=narrow)
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
    components = _values(table, "component")
    scale = _WeightScale.of(found["transfer"]["weight"])
    with _style():
        figure, grid = _grid(len(components), narrow=narrow)
        for number, (axes, component) in enumerate(zip(grid, components, strict=True)):
            rows = {kind: _where(found[kind], {"component": component}) for kind in looks}
            _shade(axes, scale, rows["transfer"], rows["direct"])
            axes.set_title(_short(component))
            for kind, (_, look) in looks.items():
                colour = _look(number)["color"] if kind == "transfer" else look["color"]
                _draw_means(axes, scale, rows[kind], axes.transData, look | {"color": colour})
        _label(figure, grid, scale, "test accuracy, %")
        shown = {kind: look for kind, (_, look) in looks.items() if not found[kind].empty}
        _legend(figure, [Line2D([], [], label=kind, **look) for kind, look in shown.items()], narrow=narrow)
    return figure


@dataclass(frozen=True)
class _WeightScale:
    """Where weights stand on the x axis: at their square roots if some are much smaller than others."""

    rooted: bool
    low: float
    high: float

    @classmethod
    def of(cls, weights: pd.Series[Any]) -> _WeightScale:
        known = _floats(weights.dropna())
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
    x = scale.position(_floats(rows["weight"]))
    mean, low, high = (100 * _floats(rows[name]) for name in ("mean", "low", "high"))
    axes.plot(x, mean, transform=shift, zorder=4, **look)
    axes.vlines(x, low, high, transform=shift, color=look["color"], linewidth=1.2, zorder=3)


def _draw_seeds(axes: Axes, scale: _WeightScale, rows: pd.DataFrame, shift: Any, look: dict[str, Any]) -> None:
    x, y = scale.position(_floats(rows["weight"])), 100 * _floats(rows["mean"])
    axes.plot(x, y, ".", markersize=4, alpha=0.4, color=look["color"], transform=shift, zorder=2)


def _shade(axes: Axes, scale: _WeightScale, transfer: pd.DataFrame, direct: pd.DataFrame) -> None:
    both = transfer.merge(direct, on=["component", "weight"], suffixes=("", "_direct"))
    x = scale.position(_floats(both["weight"]))
    axes.fill_between(
        x, 100 * _floats(both["mean"]), 100 * _floats(both["mean_direct"]), color=RULE, alpha=0.55, linewidth=0
    )


def _limit_gaps(axes: Axes, found: pd.DataFrame, seeds: pd.DataFrame) -> None:
    """Room for every mean and seed, and for whiskers up to as much again: of two seeds they can be endless."""
    values = np.append(100 * _floats(pd.concat([found["mean"], seeds["mean"]])), 0.0)
    low, high = values.min(), values.max()
    room = max(high - low, 1.0)
    ends = np.append(100 * _floats(pd.concat([found["low"], found["high"]]).dropna()), values)
    axes.set_ylim(max(ends.min(), low - room) - 0.06 * room, min(ends.max(), high + room) + 0.06 * room)


def _grid(count: int, *, narrow: bool) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels with common axes, beside each other where there is room."""
    columns = 1 if narrow else min(count, 3)
    lines = math.ceil(count / columns)
    height = 3.2 if count == 1 and not narrow else 2.5  # inches
    figure = Figure(figsize=(NARROW if narrow else WIDE, height * lines + 0.4), layout="constrained")
    panels = list(figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat)
    for axes in panels[:count]:
        axes.grid(axis="y", color=RULE, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=3, labelbottom=True)
    for axes in panels[count:]:
        axes.remove()
    return figure, panels[:count]


def _label(figure: Figure, grid: Sequence[Axes], scale: _WeightScale, y: str) -> None:
    for axes in grid:
        scale.label_ticks(axes)
        if axes.get_subplotspec().is_first_col():  # type: ignore[union-attr]  # it is in a grid
            axes.set_ylabel(y)
    figure.supxlabel(scale.label, fontsize=9)


def _legend(figure: Figure, keys: Sequence[Line2D], *, narrow: bool) -> None:
    if not keys:
        return
    longest = max(_inches(str(key.get_label())) for key in keys) + 0.62  # with its line, in inches
    columns = min(len(keys), max(1, int((NARROW if narrow else WIDE) / longest)))
    figure.legend(handles=keys, loc="outside upper left", ncols=columns, columnspacing=1.4, borderpad=0)


def _component_keys(components: Sequence[str]) -> list[Line2D]:
    return [Line2D([], [], label=_short(name), **_look(number)) for number, name in enumerate(components)]


def _line_keys(table: pd.DataFrame, axis: str | None) -> list[Line2D]:
    return [
        Line2D([], [], color=INK, linestyle=_line_style(table, axis, value), label=_short(_named(axis, value)))
        for value in _values(table, axis)
        if axis
    ]


def _look(number: int) -> dict[str, Any]:
    """Colour and marker of the component with this number."""
    return {"color": SERIES[number % len(SERIES)], "marker": MARKERS[number % len(MARKERS)]}


def _line_style(table: pd.DataFrame, axis: str | None, value: Any) -> Any:
    named = [gaps.level(axis, v) for v in _values(table, axis)] if axis else []
    return LINE_STYLES[named.index(gaps.level(axis, value))] if axis else LINE_STYLES[0]


# The heat map


@dataclass(frozen=True)
class HeatmapScope:
    """What of a table the heat map has room for."""

    axes: tuple[str, ...]  # a group of rows for each combination of their values
    averaged: tuple[str, ...]  # for lack of room, within each seed
    mixtures: tuple[str, ...]  # a row for each, in every group
    left_out: int  # mixtures that lose least, for lack of room


def heatmap_scope(table: pd.DataFrame) -> HeatmapScope:
    """As many axes as fit with all mixtures; if the mixtures alone do not fit, those that lose most."""
    axes, mixtures = gaps.other_axes(table), _values(table, "mixture")
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
    components = _values(table, "component")
    limit = max([0.01, *found["gap"].abs().dropna()])
    labels = [0.0 if narrow else 0.12 + _inches(line) for row in rows for line in row.label]
    left = max(labels, default=0.0)
    names = [_inches(name, weight="bold") + 0.15 for name in components]
    cell = (NARROW - 0.1) / max(1, len(components)) if narrow else min(max(names, default=0.0), WIDEST_CELL)
    cell = max(cell, CELL)
    key = min(2.4, max(1.6, cell * len(components)))
    width = max(left + max(cell * len(components), KEY_TEXT), NARROW - 0.1) + 0.04
    with _style():
        figure = Figure(figsize=(width, NAMES + sum(row.height(narrow) for row in rows) + KEY))
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(figure.get_figheight(), 0))  # in inches
        axes.axis("off")
        for number, component in enumerate(components):
            axes.text(
                left + cell * (number + 0.5),
                0.2,
                _short(component, int(cell * CHARACTERS_PER_INCH)),
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
        levels = [_named(str(axis), value) for axis, value in group.items()]
        header = _wrapped(levels, ", ", most)
        for mixture in scope.mixtures:
            cells = _where(found, {**group, "mixture": mixture}).set_index("component").to_dict("index")
            if cells and len(scope.mixtures) == 1 and levels:  # the group is the row
                rows.append(_HeatmapRow((), _wrapped(levels, ", ", label_most), cells))
            elif cells:
                rows.append(_HeatmapRow(header, _wrapped(mixture.split(" + "), " + ", label_most), cells))
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


# What figures and page have in common


def typeset(text: str) -> str:
    """Numbers in text with a true minus sign."""
    return re.sub(r"(?<![\w.])-(?=\d)", "−", text)


def _values(table: pd.DataFrame, axis: str | None) -> list[Any]:
    """The values of an axis in the order of the plan; a single None for no axis."""
    return table[axis].drop_duplicates().tolist() if axis else [None]


def _where(rows: pd.DataFrame, wanted: Mapping[Any, Any]) -> pd.DataFrame:
    for name, value in wanted.items():
        if name is not None:
            rows = rows[rows[name].isna() if pd.isna(value) else (rows[name] == value).fillna(False)]
    return rows


def _room(narrow: bool, panels: int) -> int:
    """Characters of bold text that fit over a panel."""
    return int(CHARACTERS_PER_INCH * (NARROW if narrow else WIDE / min(panels, 3)))


def _floats(values: pd.Series[Any]) -> Any:
    return values.to_numpy(dtype=float, na_value=np.nan)


def _named(axis: str | None, value: Any) -> str:
    return f"{str(axis).replace('_', ' ')}: {gaps.level(str(axis), value)}"


def _short(name: str, most: int = LONGEST_NAME) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _wrapped(parts: Sequence[str], separator: str, most: int) -> tuple[str, ...]:
    """The parts in up to three lines, broken between parts unless one is longer than a line."""
    whole = separator.join(p.replace(" ", "\u00a0") if len(p) < most else p for p in parts)
    lines = textwrap.wrap(whole, most, max_lines=3, placeholder=" …")
    return tuple(line.replace("\u00a0", " ") for line in lines)


def _inches(text: str, weight: str = "normal") -> float:
    font = FontProperties(family="DejaVu Sans", size=STYLE["font.size"], weight=weight)
    with _style():
        return float(TextToPath().get_text_width_height_descent(text, font, False)[0]) / 72
