"""In which layer is a component's information kept, and in which is it lost? Probes of every layer."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from orchestrator.analysis.gaps import estimate
from orchestrator.analysis.measures import by_seed
from orchestrator.report.figures.kind import Evidence, Refused, averaged, facets, intervals, measured
from orchestrator.report.figures.style import (
    INK,
    MOST_PANELS,
    MUTED,
    add_legend,
    add_title,
    distinct,
    dodged,
    draw_means,
    label_left,
    look_of,
    matching,
    panel_grid,
    styled,
)
from orchestrator.report.figures.weight import ACCURACY

FEATURES: dict[str, tuple[str, dict[str, Any]]] = {  # whose layers, their column, and how they are drawn
    "mixture": ("accuracy", {"linestyle": "-", "marker": "o", "color": INK}),
    "direct": ("direct_accuracy", {"linestyle": "--", "marker": "s", "markersize": 3.5, "color": INK}),
    "mixture, 20 of each class": ("shots_accuracy", {"linestyle": ":", "marker": "D", "markersize": 3, "color": MUTED}),
}


def data(found: Evidence) -> pd.DataFrame:
    """A row per panel, component, layer and kind of features."""
    table = measured(found, "transfer_accuracy")
    if found.layers is None or found.layers.empty:
        raise Refused("there are no probes of layers: it takes a sweep with `retention: {layers: true}`")
    rows = found.layers[found.layers["trial"].isin(table["trial"])]
    if rows.empty:
        raise Refused("no probe of a layer belongs to a trial of the table")
    names = {trial: distinct(part, "layer") for trial, part in rows.groupby("trial", sort=False)}
    alike = [trial for trial, own in names.items() if own == next(iter(names.values()))]
    rows, table = rows[rows["trial"].isin(alike)], table[table["trial"].isin(alike)]
    chosen = facets(table, (), panels=max(1, MOST_PANELS // table["component"].nunique()), lines=0)
    placed = chosen.place(table.drop_duplicates("trial")).set_index("trial")
    places = placed.loc[rows["trial"], "panel"].to_list()
    shown = zip(rows["component"], places, strict=True)
    rows = rows.assign(panel=[f"{component}, {place}" if place else component for component, place in shown])
    by = ["panel", "component", "layer"]
    lines = []
    for features, (column, _) in FEATURES.items():
        for key, seeds in by_seed(rows.assign(value=pd.to_numeric(rows[column])), by, "value").items():
            one = estimate(seeds.values())
            ends = [None if value is None else 100 * value for value in (one.mean, one.low, one.high)]
            numbers = dict(zip(ACCURACY, ends, strict=True))
            lines.append({**dict(zip(by, key, strict=True)), "features": features, **numbers, "n": one.n})
    whole = pd.DataFrame(lines).astype(dict.fromkeys(ACCURACY, float))
    return whole.assign(averaged=chosen.remark, designs_left_out=len(names) - len(alike))


def draw(data: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """Accuracy of a probe of each layer, from the first to the last, of the mixture's and of the direct network."""
    panels, components = distinct(data, "panel"), distinct(data, "component")
    with styled():
        figure, grid = panel_grid(len(panels), narrow=narrow, sharex=False)
        for axes, panel in zip(grid, panels, strict=True):
            here = matching(data, {"panel": panel})
            names = distinct(here, "layer")
            colour = look_of(components.index(here["component"].iloc[0]))["color"]
            for number, (features, (_, how)) in enumerate(FEATURES.items()):
                rows = here[here["features"] == features]
                x = [names.index(name) for name in rows["layer"]]
                look = {**how, "color": colour if number == 0 else how["color"]}
                draw_means(axes, x, rows, ACCURACY, look, dodged(axes, number, len(FEATURES), 2.0))
            add_title(axes, panel, narrow=narrow, panels=len(panels))
            _name_layers(axes, names)
            label_left(axes, "probe accuracy, %")
        figure.supxlabel("layer, from the input to the features", fontsize=9)
        shown = [name for name in FEATURES if (data["features"] == name).any()]
        add_legend(figure, [Line2D([], [], label=name, **FEATURES[name][1]) for name in shown], narrow=narrow)
    return figure


def _name_layers(axes: Axes, names: list[str]) -> None:
    short = [name if len(name) <= 14 else f"{name[:13]}…" for name in names]
    axes.set_xticks(range(len(names)), short, fontsize=8, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.4, len(names) - 0.6)


def caption(data: pd.DataFrame) -> str:
    left_out = int(data["designs_left_out"].max())
    return (
        "Test accuracy in % of a linear probe of every layer's activations, averaged over positions, of the network "
        "pretrained on the mixture and of the component's direct network. Where the two lines part, the mixture's "
        f"network lost something. {intervals(data)}"
        + averaged(data)
        + (f" {left_out} designs with other layers are left out." if left_out else "")
    )
