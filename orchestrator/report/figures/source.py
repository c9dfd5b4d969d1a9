"""Do better networks on what pretraining shows transfer better? Source accuracy against transfer accuracy."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from orchestrator.analysis import gaps
from orchestrator.analysis.gaps import estimate
from orchestrator.analysis.measures import by_seed, shared_seeds, source_accuracy, usable
from orchestrator.report.figures.kind import Evidence, Facets, Refused, intervals, measured
from orchestrator.report.figures.style import (
    LONGEST_KEY,
    MOST_PANELS,
    add_legend,
    add_title,
    distinct,
    floats,
    label_left,
    level_name,
    look_of,
    matching,
    panel_grid,
    room_for,
    shortened,
    styled,
)

MOST_COLOURS = 12
AXES = (
    *("training", "representation", "architecture", "width", "depth"),
    *("steps", "train_examples", "ordering", "mixture"),
)
SOURCE = ("source_percent", "source_low", "source_high")
TRANSFER = ("transfer_percent", "transfer_low", "transfer_high")


def data(found: Evidence) -> pd.DataFrame:
    """A row per component, design and seed, and one for each mean over seeds, which has no `seed`.

    The source accuracy is that of `measures.source_accuracy`. The components are those that pretraining never showed,
    or all if it showed all. Designs are told apart by `colour`, the first of AXES that varies, and by `trial`.
    """
    table = usable(measured(found, "transfer_accuracy"))
    if not table["head_accuracy"].notna().any():
        raise Refused("the table has no accuracy of a pretrained network with its own head")
    hidden = table["weight"].eq(0).fillna(False)
    targets = table[hidden] if hidden.any() else table
    every = distinct(targets, "component")
    components = every[:MOST_PANELS]
    axis = next((name for name in AXES if 1 < len(distinct(table, name)) <= MOST_COLOURS), None)
    source = source_accuracy(table, ["trial"])
    by = ["component", "trial"]
    records = table.drop_duplicates("trial").set_index("trial").to_dict("index")
    rows = []
    for (component, trial), reached in by_seed(targets, by, "transfer_accuracy").items():
        known = source.get((trial,), {})
        seeds = shared_seeds(known, reached)
        if component not in components or not seeds:
            continue
        design = records[trial]
        label = level_name(axis, design[axis]) if axis else ""
        where = {"panel": component, "component": component, "trial": trial, "colour": label}
        pairs = [(known[seed], reached[seed]) for seed in seeds]
        mean = [estimate(values) for values in zip(*pairs, strict=True)]
        rows.append(where | {"seed": None, "n": len(seeds)} | _point(*mean))
        for seed, (x, y) in zip(seeds, pairs, strict=True):
            rows.append(where | {"seed": seed, "n": 1, "source_percent": 100 * x, "transfer_percent": 100 * y})
    if not rows:
        raise Refused("no seed of a design has both a source and a transfer accuracy: some component must be shown")
    if len({row["trial"] for row in rows}) < 2:
        raise Refused("there is one design; it takes two or more, for example trainings that differ in weight decay")
    other = [name for name in gaps.varying_axes(table) if name != axis]
    whole = pd.DataFrame(rows).astype({"seed": "Int64"} | dict.fromkeys((*SOURCE, *TRANSFER), float))
    columns = ["panel", "component", "colour", "trial", "seed", *SOURCE, *TRANSFER, "n"]
    remark = Facets(None, None, tuple(other)).remark
    return whole[columns].assign(averaged="", not_told_apart=remark, components_left_out=len(every) - len(components))


def _point(source: gaps.Estimate, transfer: gaps.Estimate) -> dict[str, Any]:
    values = [source.mean, source.low, source.high, transfer.mean, transfer.low, transfer.high]
    scaled = (None if value is None else 100 * value for value in values)
    return dict(zip((*SOURCE, *TRANSFER), scaled, strict=True))


def draw(data: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """A point per design with both intervals, its seeds faint; colours tell what varies."""
    panels, colours = distinct(data, "panel"), distinct(data, "colour")
    with styled():
        figure, grid = panel_grid(len(panels), narrow=narrow, sharex=False, sharey=False, height=2.9)
        for axes, panel in zip(grid, panels, strict=True):
            for number, colour in enumerate(colours):
                rows, look = matching(data, {"panel": panel, "colour": colour}), look_of(number)
                seeds, means = rows[rows["seed"].notna()], rows[rows["seed"].isna()]
                dots = floats(seeds["source_percent"]), floats(seeds["transfer_percent"])
                axes.plot(*dots, ".", color=look["color"], alpha=0.4, markersize=4, zorder=2)
                x, y = floats(means["source_percent"]), floats(means["transfer_percent"])
                axes.plot(x, y, linestyle="", zorder=4, **look)
                axes.vlines(x, *(floats(means[name]) for name in TRANSFER[1:]), color=look["color"], linewidth=1.0)
                axes.hlines(y, *(floats(means[name]) for name in SOURCE[1:]), color=look["color"], linewidth=1.0)
            limits = data[data["panel"] == panel]
            axes.set_xlim(*room_for(limits, SOURCE))
            axes.set_ylim(*room_for(limits, TRANSFER))
            add_title(axes, f"transfer to {panel}", narrow=narrow, panels=len(panels))
            label_left(axes, "transfer accuracy, %")
        figure.supxlabel("accuracy on what pretraining showed, own head, %", fontsize=9)
        keys = [
            Line2D([], [], label=shortened(name, LONGEST_KEY), linestyle="", **look_of(at))
            for at, name in enumerate(colours)
        ]
        add_legend(figure, keys if len(colours) > 1 else [], narrow=narrow)
    return figure


def caption(data: pd.DataFrame) -> str:
    apart, left_out = distinct(data, "not_told_apart")[0], int(data["components_left_out"].max())
    return (
        "Accuracies in %: across, of the pretrained network with its own head on the components that it was shown, "
        "weighted by their shares; up, of the probe on a component. A marker is the mean of one design, faint points "
        f"are its seeds. {intervals(data[data['seed'].isna()])}"
        + " Whiskers end at the frame."
        + (f" Points of different {apart} are not told apart." if apart else "")
        + (f" {left_out} more components are left out." if left_out else "")
    )
