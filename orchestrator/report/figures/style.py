"""What do all figures look like? Colours, sizes, fonts, panels and legends, for a wide page and for a phone.

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import TextToPath
from matplotlib.transforms import ScaledTranslation

from orchestrator.analysis import gaps

INK, MUTED, RULE, MISSING = "#1c2126", "#5c6670", "#d8dde3", "#e7eaee"
# Told apart with any colour vision and at 3:1 on white or more; markers tell components apart without colour.
SERIES = ("#0b6cb0", "#c8500a", "#0a7d5f", "#a8458f", "#8a6a00", "#4b5563")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
LINE_STYLES: Any = ("-", "--", ":", "-.")
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
LONGEST_NAME = 28  # characters, in a column or the legend of components
LONGEST_KEY = 44  # of what else varies, which often differs at its end
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
def styled() -> Iterator[None]:
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # The browser has the characters that the font for measuring lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


class Drawing(Figure):
    """A figure that a notebook shows, on white."""

    def _repr_svg_(self) -> str:
        return svg(self, transparent=False)


def svg(figure: Figure, *, transparent: bool = True) -> str:
    """The `<svg>` element of a figure, without a date or a random name."""
    file = io.StringIO()
    with styled():
        figure.savefig(file, format="svg", transparent=transparent, metadata={"Date": None})
    text = file.getvalue()
    return re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)


def panel_grid(
    count: int, *, narrow: bool, height: float | None = None, sharex: bool = True, sharey: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, beside each other where there is room, with common axes.

    Args:
        height: of a panel, in inches.
    """
    columns = 1 if narrow else min(count, 3)
    lines = math.ceil(count / columns)
    height = height or (3.2 if count == 1 and not narrow else 2.5)
    figure = Drawing(figsize=(NARROW if narrow else WIDE, height * lines + 0.4), layout="constrained")
    panels = list(figure.subplots(lines, columns, sharex=sharex, sharey=sharey, squeeze=False).flat)
    for axes in panels[:count]:
        ruled(axes)
    for axes in panels[count:]:
        axes.remove()
    return figure, panels[:count]


def stacked_grid(count: int, stories: int, *, narrow: bool, height: float = 1.75) -> tuple[Figure, list[list[Axes]]]:
    """A figure of `count` panels of several stories each, one above the other; (stories, count) axes.

    All have the same x axis, and those of one story the same y axis.
    """
    columns = 1 if narrow else min(count, 3)
    blocks = math.ceil(count / columns)
    size = (NARROW if narrow else WIDE, height * blocks * stories + 0.4)
    figure = Drawing(figsize=size, layout="constrained")
    grid = figure.subplots(blocks * stories, columns, sharex=True, squeeze=False)
    found = [[grid[stories * (at // columns) + story, at % columns] for at in range(count)] for story in range(stories)]
    for story, row in enumerate(found):
        for axes in row:
            ruled(axes, labels=story == stories - 1)
            if axes is not row[0]:
                axes.sharey(row[0])
    kept = {axes for row in found for axes in row}
    for axes in grid.flat:
        if axes not in kept:
            axes.remove()
    return figure, found


def ruled(axes: Axes, *, labels: bool = True) -> None:
    """Horizontal rules, short ticks."""
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=3, labelbottom=labels)


def add_title(axes: Axes, text: str, *, narrow: bool, panels: int, beside: float = 0.5) -> None:
    """What a panel is about, in up to three lines; `beside` are the inches that label its y axis."""
    parts = text.replace(", ", ",\n").replace(" + ", " +\n").split("\n")
    axes.set_title("\n".join(wrapped(parts, " ", title_room(narrow, panels, beside))))


def dodged(axes: Axes, number: int, count: int, step: float = 3.0) -> Any:
    """Beside each other, not on top of each other: where number `number` of `count` series is drawn, in points."""
    figure = axes.figure
    assert isinstance(figure, Figure)
    return axes.transData + ScaledTranslation(step * (number - (count - 1) / 2) / 72, 0, figure.dpi_scale_trans)


def draw_means(
    axes: Axes, x: Any, rows: pd.DataFrame, columns: Sequence[str], look: Mapping[str, Any], transform: Any = None
) -> None:
    """Means joined by a line, with whiskers; the columns are those of mean, low and high."""
    mean, low, high = (floats(rows[name]) for name in columns)
    drawn = [
        *axes.plot(x, mean, zorder=4, **look),
        axes.vlines(x, low, high, color=look["color"], linewidth=1.2, zorder=3),
    ]
    for artist in drawn if transform else ():  # only now, for the axes find their limits in untransformed data
        artist.set_transform(transform)


def label_left(axes: Axes, text: str) -> None:
    """Name the y axis of a panel that has none to its left."""
    place = axes.get_subplotspec()
    if place is None or place.is_first_col():
        axes.set_ylabel(text)


def room_for(
    data: pd.DataFrame, names: Sequence[str], *, beyond: float = 0.5, zero: bool = False
) -> tuple[float, float]:
    """Limits with room for all points, and for their intervals up to a share of the points' range on either side.

    Args:
        names: the columns of points, and of both ends of their intervals.
        beyond: that share. Intervals of two seeds can be endless, and whiskers end there.
        zero: whether 0 is shown too.
    """
    points, ends = (floats(pd.concat([data[name] for name in which]).dropna()) for which in (names[:1], names))
    points, ends = (np.append(values, [0.0] if zero else []) for values in (points, ends))
    low, high = points.min(), points.max()
    room = max(high - low, 1.0)
    return max(ends.min(), low - beyond * room) - 0.06 * room, min(ends.max(), high + beyond * room) + 0.06 * room


def mark(axes: Axes, x: Any, y: Any, rows: Iterable[Any], transform: Any = None) -> None:
    """Circles that nobody sees, named by the rows of the data that stand there: a page shows these when pointed at."""
    look: dict[str, Any] = {"markersize": 9, "markerfacecolor": (0, 0, 0, 0), "markeredgecolor": "none", "zorder": 6}
    look |= {"transform": transform} if transform else {}
    for at_x, at_y, row in zip(x, y, rows, strict=True):
        if np.isfinite(at_x) and np.isfinite(at_y):
            axes.plot([at_x], [at_y], "o", gid=f"row-{row}", **look)


def settle(figure: Figure) -> None:
    """Lay a figure out, so that its axes stand where they will be drawn."""
    with styled():
        figure.draw_without_rendering()


def component_keys(components: Sequence[str]) -> list[Line2D]:
    return [Line2D([], [], label=shortened(str(name)), **look_of(number)) for number, name in enumerate(components)]


def line_keys(lines: Sequence[str]) -> list[Line2D]:
    """Of line styles, if there is more than one."""
    styles = zip(lines, LINE_STYLES, strict=False)
    return [
        Line2D([], [], color=INK, linestyle=how, label=shortened(text, LONGEST_KEY)) for text, how in styles if text
    ]


def add_legend(figure: Figure, keys: Sequence[Line2D], *, narrow: bool) -> None:
    if not keys:
        return
    lines = [line for key in keys for line in str(key.get_label()).splitlines()]
    longest = max(map(text_inches, lines)) + 0.62  # with its line, in inches
    columns = min(len(keys), max(1, int((NARROW if narrow else WIDE) / longest)))
    figure.legend(handles=keys, loc="outside upper left", ncols=columns, columnspacing=1.4, borderpad=0)


def look_of(number: int) -> dict[str, Any]:
    """Colour and marker of the component with this number."""
    return {"color": SERIES[number % len(SERIES)], "marker": MARKERS[number % len(MARKERS)]}


def typeset(text: str) -> str:
    """Numbers in text with a true minus sign."""
    return re.sub(r"(?<![\w.])-(?=\d)", "−", text)


def distinct(table: pd.DataFrame, axis: str | None) -> list[Any]:
    """The values of an axis in the order of the plan; a single None for no axis."""
    return table[axis].drop_duplicates().tolist() if axis else [None]


def matching(rows: pd.DataFrame, wanted: Mapping[Any, Any]) -> pd.DataFrame:
    for name, value in wanted.items():
        if name is not None:
            rows = rows[rows[name].isna() if pd.isna(value) else (rows[name] == value).fillna(False)]
    return rows


def title_room(narrow: bool, panels: int, beside: float) -> int:
    """Characters of bold text that fit over a panel, beside what labels its y axis."""
    return int(CHARACTERS_PER_INCH * ((NARROW if narrow else WIDE / min(panels, 3)) - beside))


def floats(values: pd.Series[Any]) -> Any:
    return values.to_numpy(dtype=float, na_value=np.nan)


def level_name(axis: str | None, value: Any) -> str:
    return f"{str(axis).replace('_', ' ')}: {gaps.level(str(axis), value)}"


def shortened(name: str, most: int = LONGEST_NAME) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def fitted(text: str, room: float, weight: str = "normal") -> str:
    """The text, cut where it is wider than so many inches."""
    while text_inches(text, weight) > room and len(text) > 2:
        text = f"{text[:-2]}…"
    return text


def wrapped(parts: Sequence[str], separator: str, most: int) -> tuple[str, ...]:
    """The parts in up to three lines, broken between parts unless one is longer than a line."""
    whole = separator.join(p.replace(" ", "\u00a0") if len(p) < most else p for p in parts)
    lines = textwrap.wrap(whole, most, max_lines=3, placeholder=" …")
    return tuple(line.replace("\u00a0", " ") for line in lines)


def text_inches(text: str, weight: str = "normal") -> float:
    font = FontProperties(family="DejaVu Sans", size=STYLE["font.size"], weight=weight)
    with styled():
        return float(TextToPath().get_text_width_height_descent(text, font, False)[0]) / 72
