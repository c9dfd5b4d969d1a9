"""At one budget of training, what are several networks side by side worth? And how far apart do seeds lie then?"""

from __future__ import annotations

import re
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from orchestrator.analysis import gaps, measures
from orchestrator.report.figures.kind import Evidence, Refused, averaged, facets, in_units, intervals, measured
from orchestrator.report.figures.style import (
    INK,
    MOST_PANELS,
    add_legend,
    add_title,
    distinct,
    dodged,
    draw_means,
    floats,
    label_left,
    level_name,
    look_of,
    matching,
    panel_grid,
    shortened,
    styled,
)
from orchestrator.report.figures.weight import ACCURACY

SAME_BUDGET = 1.02  # two numbers of FLOPs up to this factor apart are one budget: steps are whole numbers
SEEN = {"source": "seen in pretraining", "target": "not seen"}
DEVIATION = ("deviation_points", "low_points", "high_points")
SPREAD = ("deviation", "deviation_low", "deviation_high")  # of `measures.bias_variance`
ALONE: dict[str, Any] = {"color": INK, "marker": "*", "markersize": 8}  # a single network


# Accuracy


def budget_data(found: Evidence) -> pd.DataFrame:
    """A row per panel, total training FLOPs and number of networks; a panel is a component, the source or a target."""
    table = measured(found, "transfer_accuracy")
    table = measures.usable(table[[_together(kind) for kind in table["representation"]]])
    if table["members"].nunique() < 2:
        raise Refused(
            "the table has one number of networks side by side: vary.representation takes single, time_cat and cat, "
            "for example [single, {time_cat: 2}, {time_cat: 4}]"
        )
    if not table["training_flops"].notna().any():
        raise Refused("the table has no training FLOPs")
    room = MOST_PANELS // table["component"].nunique()
    chosen = facets(table, ("representation", "steps"), panels=room, lines=0)
    table = chosen.place(table[table["training_flops"].notna()])
    table = table.assign(budget_flops=_budgets(table["training_flops"]))
    table = table.assign(role=["source" if weight > 0 else "target" for weight in table["weight"]])
    by = ["panel", "component", "role", "budget_flops", "members"]
    rows = in_units(gaps.over_seeds(table, by, "transfer_accuracy"), "accuracy", "percent")
    direct = gaps.over_seeds(table, by, "direct_probe_accuracy")
    roles = table.groupby("component")["role"].nunique()
    shown = zip(rows["component"], rows["role"], rows["panel"], strict=True)
    rows = rows.assign(
        panel=[
            ", ".join(filter(None, (component, SEEN[role] if roles[component] > 1 else "", panel)))
            for component, role, panel in shown
        ],
        direct_percent=100 * floats(direct["mean"]),
    )
    columns = ["panel", "component", "role", "budget_flops", "members", *ACCURACY, "n", "direct_percent"]
    return rows[columns].assign(averaged=chosen.remark)


def _together(kind: Any) -> bool:
    """Whether this is one network, or several of one recipe side by side."""
    return isinstance(kind, str) and re.fullmatch(r"single|(time_)?cat:\d+", kind) is not None


def _budgets(flops: pd.Series[Any]) -> list[float]:
    """The smallest of all numbers of FLOPs that are about the same."""
    known, start = {}, 0.0
    for value in sorted(set(floats(flops))):
        start = value if value > SAME_BUDGET * start else start
        known[value] = start
    return [known[value] for value in floats(flops)]


def draw_budgets(data: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """Accuracy against the number of networks, a line per total budget; direct training at that budget is dashed."""
    panels, budgets = distinct(data, "panel"), sorted(distinct(data, "budget_flops"))
    with styled():
        figure, grid = panel_grid(len(panels), narrow=narrow, sharey=False)
        for axes, panel in zip(grid, panels, strict=True):
            here = matching(data, {"panel": panel})
            for number, budget in enumerate(budgets):
                rows, look = matching(here, {"budget_flops": budget}).sort_values("members"), look_of(number)
                x = floats(rows["members"])
                draw_means(axes, x, rows, ACCURACY, look, dodged(axes, number, len(budgets)))
                axes.plot(x, floats(rows["direct_percent"]), "--", color=look["color"], linewidth=0.9, zorder=2)
            seen = SEEN[here["role"].iloc[0]]
            add_title(axes, panel if seen in panel else f"{panel}, {seen}", narrow=narrow, panels=len(panels))
            _members_axis(axes, data)
            label_left(axes, "transfer accuracy, %")
        figure.supxlabel("networks side by side", fontsize=9)
        keys = [Line2D([], [], label=f"{budget:.3g} FLOPs", **look_of(at)) for at, budget in enumerate(budgets)]
        dashed = Line2D([], [], color=INK, linestyle="--", linewidth=0.9, label="direct training")
        add_legend(figure, [*keys, *([dashed] if data["direct_percent"].notna().any() else [])], narrow=narrow)
    return figure


def _members_axis(axes: Axes, data: pd.DataFrame) -> None:
    counts = sorted({int(count) for count in data["members"]})
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(counts))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([str(count) for count in counts])
    margin = (counts[-1] / counts[0]) ** 0.08
    axes.set_xlim(counts[0] / margin, counts[-1] * margin)


def budget_caption(data: pd.DataFrame) -> str:
    return (
        "Test accuracy in % of a probe of the features of one network, or of several side by side, against their "
        "number; a line joins networks that cost the same training FLOPs in total, a lone marker is a budget of its "
        "own; other representations are left out. Source: a component that pretraining saw; target: one that it did "
        f"not. Dashed: direct training as the sweep defines it. {intervals(data)}" + averaged(data)
    )


# Seeds


def seed_data(found: Evidence) -> pd.DataFrame:
    """A row per design and component: the deviation of the accuracy over seeds, by `measures.bias_variance`."""
    table = measured(found, "transfer_accuracy")
    members = dict(zip(table["trial"], table["members"], strict=True))
    if table["members"].nunique() < 2:
        raise Refused(
            "the table has one number of networks: vary.representation, for example [single, {cat: 2}, {cat: 4}]"
        )
    spread = measures.bias_variance(table)
    if not spread["deviation"].notna().any():
        raise Refused("the table has one seed, and a deviation takes two")
    axes = [name for name in measures.varied(table) if name not in ("representation", "sweep")]
    records = spread.to_dict("records")
    names = [", ".join([row["component"], *(level_name(axis, row[axis]) for axis in axes)]) for row in records]
    shown = list(dict.fromkeys(names))[:MOST_PANELS]
    rows = spread.assign(
        panel=names,
        family=[str(kind).partition(":")[0] for kind in _representations(spread, table)],
        members=[members[trial] for trial in spread["trial"]],
        panels_left_out=len(set(names)) - len(shown),
        **{name: 100 * floats(spread[old]) for name, old in zip(DEVIATION, SPREAD, strict=True)},
    )
    kept = rows[rows["panel"].isin(shown)].reset_index(drop=True)
    return kept[["panel", "component", "family", "members", *DEVIATION, "n", "panels_left_out"]]


def _representations(spread: pd.DataFrame, table: pd.DataFrame) -> list[Any]:
    of = dict(zip(table["trial"], table["representation"], strict=True))
    return [of[trial] for trial in spread["trial"]]


def draw_seeds(data: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """The deviation over seeds against the number of networks, every family joined with the single network."""
    panels, families = distinct(data, "panel"), [name for name in distinct(data, "family") if name != "single"]
    with styled():
        figure, grid = panel_grid(len(panels), narrow=narrow)
        for axes, panel in zip(grid, panels, strict=True):
            here = matching(data, {"panel": panel})
            single = here[here["family"] == "single"]
            for number, family in enumerate(families):
                rows = here[here["family"] == family].sort_values("members")
                look, shift = look_of(number), dodged(axes, number, len(families), 4.0)
                draw_means(axes, floats(rows["members"]), rows, DEVIATION, look, shift)
                joined = pd.concat([single, rows.head(1)])
                x, y = floats(joined["members"]), floats(joined["deviation_points"])
                axes.plot(x, y, color=look["color"], linewidth=0.9, linestyle=":", zorder=2)
            draw_means(axes, floats(single["members"]), single, DEVIATION, ALONE)
            add_title(axes, panel, narrow=narrow, panels=len(panels))
            _members_axis(axes, data)
            label_left(axes, "deviation over seeds, points")
        largest = max(float(data["deviation_points"].max()), 0.05)
        highest = max(float(data["high_points"].max()), largest)
        grid[0].set_ylim(0, 1.05 * min(2 * largest, highest))
        figure.supxlabel("networks", fontsize=9)
        keys = [Line2D([], [], label=shortened(name), **look_of(at)) for at, name in enumerate(families)]
        alone = Line2D([], [], linestyle="", label="single", **ALONE)
        add_legend(figure, [alone, *keys], narrow=narrow)
    return figure


def seed_caption(data: pd.DataFrame) -> str:
    left_out = int(data["panels_left_out"].max())
    n = sorted({int(count) for count in data["n"]})
    seeds = str(n[0]) if len(n) == 1 else f"{n[0]} to {n[-1]}"
    return (
        "Standard deviation over seeds of the transfer accuracy, in points, against the number of networks whose "
        "features are read; whiskers are 95\u00a0% intervals by the chi-squared distribution, cut where they are more "
        f"than twice the largest deviation. n\u00a0=\u00a0{seeds} seeds."
        + (f" {left_out} more panels are left out." if left_out else "")
    )
