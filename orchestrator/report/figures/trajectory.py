"""When does a run gain and lose what a component needs? Accuracy, saturation and retention over the steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from orchestrator.analysis import trajectories
from orchestrator.analysis.gaps import estimate
from orchestrator.analysis.measures import by_seed, keys
from orchestrator.report.figures.kind import Evidence, Refused, averaged, facets, intervals, measured
from orchestrator.report.figures.style import (
    LINE_STYLES,
    MUTED,
    add_legend,
    add_title,
    component_keys,
    distinct,
    floats,
    line_keys,
    look_of,
    matching,
    stacked_grid,
    styled,
)

QUANTITIES = {  # their scale, and the label of the axis
    "accuracy": (100.0, "probe accuracy, %"),
    "saturation": (1.0, "residual signal,\nshare of step 0"),
    "retention": (1.0, "retention,\n1: as direct"),
}
RUN = ("trial", "component", "seed")
MOST_PANELS = 6


def data(found: Evidence) -> pd.DataFrame:
    """A row per panel, line, component, quantity and step. Retention is `trajectories.retention_curve` of each run."""
    table = measured(found, "transfer_accuracy")
    if found.curves is None or found.curves.empty:
        raise Refused("there are no trajectories: it takes a sweep with `trajectory: true`")
    chosen = facets(table, (), panels=MOST_PANELS, lines=len(LINE_STYLES))
    placed = chosen.place(table.drop_duplicates("trial")).set_index("trial")
    curves = found.curves[found.curves["trial"].isin(placed.index)].reset_index(drop=True)
    if curves.empty:
        raise Refused("no trajectory belongs to a trial of the table")
    curves = _with_retention(curves, table)
    curves = curves.assign(**{name: placed.loc[curves["trial"], name].to_numpy() for name in ("panel", "line")})
    by = ["panel", "line", "component", "step"]
    rows = []
    for quantity, (scale, _) in QUANTITIES.items():
        for key, seeds in by_seed(curves.assign(value=pd.to_numeric(curves[quantity])), by, "value").items():
            one = estimate(seeds.values())
            ends = [None if value is None else scale * value for value in (one.mean, one.low, one.high)]
            rows.append((*key, quantity, "%" if quantity == "accuracy" else "1", *ends, one.n))
    whole = pd.DataFrame(rows, columns=[*by, "quantity", "unit", "mean", "low", "high", "n"])
    return whole.astype(dict.fromkeys(("mean", "low", "high"), float)).assign(averaged=chosen.remark)


def _with_retention(curves: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    ceilings = dict(zip(keys(table, RUN), table["predictability_ceiling"], strict=True))
    parts = []
    for key, run in curves.groupby(list(RUN), sort=False):
        run, ceiling = run.sort_values("step"), ceilings.get(key)
        r2 = [None if pd.isna(value) else float(value) for value in run["predictability"]]
        kept = trajectories.retention_curve(r2, None if pd.isna(ceiling) else float(ceiling))
        parts.append(run.assign(retention=np.array(kept, dtype=float)))
    return pd.concat(parts, ignore_index=True)


def draw(data: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """A story for each quantity that was measured, on one logarithmic axis of steps; bands are intervals."""
    stories = [name for name in QUANTITIES if (data["quantity"] == name).any()]
    panels, lines, components = (distinct(data, name) for name in ("panel", "line", "component"))
    with styled():
        figure, grid = stacked_grid(len(panels), len(stories), narrow=narrow)
        for story, row in zip(stories, grid, strict=True):
            for axes, panel in zip(row, panels, strict=True):
                for number, component in enumerate(components):
                    for how, line in zip(LINE_STYLES, lines, strict=False):
                        wanted = {"panel": panel, "component": component, "line": line, "quantity": story}
                        _draw_curve(axes, matching(data, wanted), look_of(number) | {"linestyle": how})
                if story == "saturation":
                    axes.set_yscale("log")
                    axes.yaxis.set_major_formatter(lambda share, _: f"{share:g}")
                    axes.yaxis.set_minor_formatter(NullFormatter())
                    axes.axhline(trajectories.SATURATED, color=MUTED, linewidth=0.8, linestyle=":")
                if story == "retention":
                    axes.axhline(trajectories.HALF, color=MUTED, linewidth=0.8, linestyle=":")
            row[0].set_ylabel(QUANTITIES[story][1])
        for axes, panel in zip(grid[0], panels, strict=True):
            add_title(axes, panel, narrow=narrow, panels=len(panels))
        _step_axis(grid[-1][0], data)
        figure.supxlabel("optimiser step, logarithmic after 0", fontsize=9)
        figure.align_ylabels([row[0] for row in grid])
        add_legend(figure, [*component_keys(components), *line_keys(lines)], narrow=narrow)
    return figure


def _draw_curve(axes: Axes, rows: pd.DataFrame, look: dict[str, Any]) -> None:
    rows = rows.sort_values("step")
    x, mean, low, high = (floats(rows[name]) for name in ("step", "mean", "low", "high"))
    axes.plot(x, mean, markersize=3, linewidth=1.3, zorder=3, **look)
    axes.fill_between(x, low, high, color=look["color"], **BAND)


BAND: dict[str, Any] = {"alpha": 0.18, "linewidth": 0, "zorder": 1}


def _step_axis(axes: Axes, data: pd.DataFrame) -> None:
    """0 beside the powers of ten."""
    steps = floats(data["step"])
    first, last = steps[steps > 0].min(initial=1e9), steps.max()
    if last <= 0:
        return
    first = min(first, last)
    axes.set_xscale("symlog", linthresh=first, linscale=0.4)
    powers = 10.0 ** np.arange(np.ceil(np.log10(first) - 1e-9), np.floor(np.log10(last)) + 1)
    axes.xaxis.set_major_locator(FixedLocator([0, *powers]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    axes.set_xlim(-0.15 * first, last * 1.15)


def caption(data: pd.DataFrame) -> str:
    said = {
        "accuracy": "test accuracy in % of a linear probe of the features at that step",
        "saturation": "what the residual still says about the direct features, in units of step 0, with a dotted line "
        f"at {trajectories.SATURATED:g}",
        "retention": "retention of the direct features, 0 as at step 0 and 1 as in a direct network, with a dotted "
        f"line at {trajectories.HALF:g}",
    }
    stories = "; ".join(said[name] for name in QUANTITIES if (data["quantity"] == name).any())
    return f"From above: {stories}. Bands are intervals. {intervals(data)}" + averaged(data)
