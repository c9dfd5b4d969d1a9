"""How much of direct training does each way of reading a network reach? The loss ladder, drawn."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from orchestrator.analysis import ladder
from orchestrator.report.figures.kind import Evidence, Refused, intervals
from orchestrator.report.figures.style import (
    INK,
    MOST_PANELS,
    MUTED,
    RULE,
    SERIES,
    add_legend,
    add_title,
    distinct,
    floats,
    level_name,
    matching,
    panel_grid,
    styled,
)

RUNG = ("accuracy_percent", "low_percent", "high_percent")
LOOKS: dict[str, dict[str, Any]] = {  # by outcome
    "reaches": {"marker": "o", "color": SERIES[2], "markerfacecolor": SERIES[2]},
    "undecided": {"marker": "D", "color": SERIES[4], "markerfacecolor": "white"},
    "falls short": {"marker": "X", "color": SERIES[1], "markerfacecolor": SERIES[1]},
}


def data(found: Evidence) -> pd.DataFrame:
    """A row per panel and rung of `ladder.ladder`; a panel is a component in a design."""
    if found.table.empty:
        raise Refused("the table has no rows")
    protocols = distinct(found.table, "protocol")
    if len(protocols) < 2:
        named = f"only {protocols[0]}" if protocols else "none"
        raise Refused(f"the table has one protocol, {named}: `transfer.protocols` takes several")
    climbed = [one for one in ladder.ladder(found.table) if any(rung.accuracy for rung in one.rungs)]
    if not climbed:
        raise Refused("no rung of any ladder has been measured")
    rows = []
    for one in climbed[:MOST_PANELS]:
        places = [level_name(name, value) for name, value in one.design.items() if name != "sweep"]
        panel = ", ".join([one.component, *places])
        for rung in one.rungs:
            found_here = rung.accuracy
            values = (found_here.mean, found_here.low, found_here.high) if found_here else (None, None, None)
            scaled = [None if value is None else 100 * value for value in values]
            rows.append(
                {"panel": panel, "component": one.component, "failure": one.failure, "rung": rung.name}
                | {"read_from": rung.source, **dict(zip(RUNG, scaled, strict=True))}
                | {"n": found_here.n if found_here else 0, "outcome": rung.outcome}
            )
    whole = pd.DataFrame(rows).astype(dict.fromkeys(RUNG, float))
    margin = 100 * climbed[0].margin
    return whole.assign(margin_points=margin, panels_left_out=max(0, len(climbed) - MOST_PANELS))


def draw(data: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """Rungs from the weakest above to direct training below; the shaded band is the interval of direct training."""
    panels = distinct(data, "panel")
    with styled():
        figure, grid = panel_grid(len(panels), narrow=narrow, sharex=False, height=3.1)
        for axes, panel in zip(grid, panels, strict=True):
            rows = matching(data, {"panel": panel}).reset_index(drop=True)
            failure = f": {rows['failure'].iloc[0]}"
            add_title(axes, f"{panel}{failure}", narrow=narrow, panels=len(panels), beside=1.75 if narrow else 0.9)
            _draw_ladder(axes, rows)
            axes.set_xlabel("test accuracy, %")
        keys = [Line2D([], [], linestyle="", label=name, **how) for name, how in LOOKS.items()]
        band = Line2D([], [], color=MUTED, linestyle="--", label="direct")
        add_legend(figure, [*keys, band], narrow=narrow)
    return figure


def _draw_ladder(axes: Axes, rows: pd.DataFrame) -> None:
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=RULE, linewidth=0.8)
    axes.set_yticks(range(len(rows)), [name.replace("_", " ") for name in rows["rung"]], fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    direct = rows[rows["rung"] == "direct"].iloc[0]
    if pd.notna(direct["accuracy_percent"]):
        axes.axvline(direct["accuracy_percent"], color=MUTED, linestyle="--", linewidth=1.0, zorder=1)
    if pd.notna(direct["low_percent"]):
        axes.axvspan(direct["low_percent"], direct["high_percent"], color=RULE, alpha=0.6, linewidth=0, zorder=0)
    known = floats(rows["accuracy_percent"].dropna())
    room = max(known.max() - known.min(), 2.0)
    axes.set_xlim(known.min() - 0.25 * room, known.max() + 0.25 * room)
    for at, row in enumerate(rows.to_dict("records")):
        if pd.isna(row["accuracy_percent"]):
            said = "not applicable" if row["outcome"] == "not applicable" else "not measured"
            axes.text(0.03, at, said, transform=axes.get_yaxis_transform(), va="center", fontsize=7.5, color=MUTED)
            continue
        look = LOOKS.get(row["outcome"], {"marker": "o", "color": INK})
        axes.plot([row["accuracy_percent"]], [at], linestyle="", zorder=4, **look)
        axes.hlines([at], row["low_percent"], row["high_percent"], color=look["color"], linewidth=1.3, zorder=3)


def caption(data: pd.DataFrame) -> str:
    left_out = int(data["panels_left_out"].max())
    return (
        "Test accuracy in % of every way to read the same networks, from the weakest to direct training (dashed, its "
        f"interval shaded). A rung reaches direct training if a loss of {data['margin_points'].iloc[0]:g} points or "
        "more is ruled out at 95\u00a0%, falls short if a smaller one is; the first that reaches names the failure in "
        f"the title. Whiskers end at the frame. {intervals(data)}"
        + (f" {left_out} more components and designs are left out." if left_out else "")
    )
