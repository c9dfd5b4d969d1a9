"""Is there a critical period? What a deficit costs, against its end, its onset and its length."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from orchestrator.analysis import gaps
from orchestrator.report.figures.kind import Evidence, Refused, averaged, facets, in_units, intervals, measured
from orchestrator.report.figures.style import (
    INK,
    MUTED,
    RULE,
    add_legend,
    add_title,
    distinct,
    dodged,
    draw_means,
    floats,
    look_of,
    matching,
    shortened,
    stacked_grid,
    styled,
)
from orchestrator.report.figures.weight import GAP, limit_gaps

DEFICIT = re.compile(r"(?:^|, )deficit (\w+) (\d[\d.]*(?:e-\d+)?)-(\d[\d.]*(?:e-\d+)?)$")
DOSES = {"end_share": "end", "onset_share": "onset", "length_share": "length"}
HELD = {"end_share": "onset_share", "onset_share": "length_share", "length_share": "onset_share"}  # along a line
MOST_STORIES = 4


def data(found: Evidence) -> pd.DataFrame:
    """A row per panel, kind of deficit and window; `none` is training without a deficit. Shares are of the steps.

    A panel is a component, with what varies besides.
    """
    table = measured(found)
    parsed = [_deficit(training) for training in table["training"]]
    table = table.assign(
        deficit=[one[0] for one in parsed],
        onset_share=[one[1] for one in parsed],
        end_share=[one[2] for one in parsed],
        training=pd.array([one[3] for one in parsed], dtype="string"),  # the rest of it
    )
    if (table["deficit"] == "none").all():
        raise Refused(
            "no training of the table has a deficit: vary.training takes "
            "{deficit: {kind: blur, window: [0, 0.3]}} and others"
        )
    room = max(1, MOST_STORIES // table["component"].nunique())
    chosen = facets(table, (), panels=room, lines=0)
    table = chosen.place(table)
    by = ["component", "panel", "deficit", "onset_share", "end_share"]
    rows = in_units(gaps.over_seeds(table, by, "gap"), "gap", "points")
    rows = rows[rows["n"] > 0]
    shown = zip(rows["component"], rows["panel"], strict=True)
    rows = rows.assign(
        panel=[f"{component}, {panel}" if panel else component for component, panel in shown],
        length_share=np.round(floats(rows["end_share"]) - floats(rows["onset_share"]), 9),
    )
    columns = ["panel", "component", "deficit", "onset_share", "end_share", "length_share", *GAP, "n"]
    return rows[columns].reset_index(drop=True).assign(averaged=chosen.remark)


def _deficit(training: Any) -> tuple[str, float, float, str | None]:
    """Kind, onset and end of a training's deficit, and the rest of its label; none from 0 to 0 without one."""
    label = "" if pd.isna(training) else str(training)
    found = DEFICIT.search(label)
    if not found:
        return "none", 0.0, 0.0, label or None
    return found[1], float(found[2]), float(found[3]), label[: found.start()] or None


def draw(data: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """The gap against each dose; lines join deficits that differ in nothing else, and the band has no deficit."""
    panels, kinds = distinct(data, "panel"), [kind for kind in distinct(data, "deficit") if kind != "none"]
    with styled():
        figure, grid = stacked_grid(len(DOSES), len(panels), narrow=narrow, height=2.6)
        for panel, row in zip(panels, grid, strict=True):
            here = matching(data, {"panel": panel})
            for axes, dose in zip(row, DOSES, strict=True):
                _draw_reference(axes, here[here["deficit"] == "none"])
                for number, kind in enumerate(kinds):
                    rows, shift = here[here["deficit"] == kind], dodged(axes, number, len(kinds))
                    for _, held in rows.groupby(HELD[dose], sort=False):
                        line = held.sort_values(dose)
                        draw_means(axes, floats(line[dose]), line, GAP, look_of(number), shift)
                axes.set_xlim(-0.05, 1.05)
            first = row[0]
            for axes in row if narrow else row[:1]:
                axes.set_ylabel("gap, points")
            limit_gaps(first, data)
            if len(panels) > 1 or panel != here["component"].iloc[0]:
                add_title(first, panel, narrow=narrow, panels=len(DOSES))
        for axes, named in zip(grid[-1], DOSES.values(), strict=True):
            axes.set_xlabel(f"{named} of the deficit, share of steps")
            axes.tick_params(labelbottom=True)
        keys = [Line2D([], [], label=shortened(kind), **look_of(at)) for at, kind in enumerate(kinds)]
        without = Line2D([], [], color=MUTED, linestyle="--", label="no deficit")
        add_legend(figure, [*keys, *([without] if (data["deficit"] == "none").any() else [])], narrow=narrow)
    return figure


def _draw_reference(axes: Axes, rows: pd.DataFrame) -> None:
    axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
    for row in rows.to_dict("records"):
        axes.axhline(row["gap_points"], color=MUTED, linestyle="--", linewidth=1.0, zorder=2)
        if pd.notna(row["low_points"]):
            axes.axhspan(row["low_points"], row["high_points"], color=RULE, alpha=0.6, linewidth=0, zorder=0)


def caption(data: pd.DataFrame) -> str:
    return (
        "Gap in points to direct training, which has no deficit, of networks that were shown impaired images for a "
        "window of the steps, against the end, the onset and the length of the window. Lines join windows of equal "
        "onset (end, length) or equal length (onset). Dashed: the same training without a deficit. "
        f"{intervals(data)}" + averaged(data)
    )
