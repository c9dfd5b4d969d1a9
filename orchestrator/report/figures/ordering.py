"""What does the order of the same examples do to each component? A slope graph, and the paired differences below."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchestrator.analysis import fits, gaps
from orchestrator.analysis.measures import usable
from orchestrator.report.figures.kind import Evidence, Refused, averaged, facets, in_units, intervals, measured
from orchestrator.report.figures.style import (
    INK,
    MUTED,
    add_legend,
    add_title,
    component_keys,
    distinct,
    dodged,
    draw_means,
    floats,
    look_of,
    matching,
    stacked_grid,
    styled,
)
from orchestrator.report.figures.weight import ACCURACY

EFFECT = ("effect_points", "effect_low_points", "effect_high_points")
MOST_PANELS = 6
MOST_ORDERINGS = 8


def data(found: Evidence) -> pd.DataFrame:
    """A row per panel, component and ordering, and one for each of its seeds, which has `seed`.

    The effect is the accuracy minus that with `shuffled`, paired within seeds, by `fits.ordering_effects`; `no_effect`
    says why there is none. Single networks only.
    """
    table = measured(found, "transfer_accuracy")
    table = table[(table["representation"] == "single").fillna(False)]
    count = table["ordering"].nunique()
    if count < 2:
        raise Refused("the table has one ordering: list several under vary.ordering")
    if count > MOST_ORDERINGS:
        raise Refused(f"the table has {count} orderings, and the figure holds {MOST_ORDERINGS}")
    chosen = facets(table, ("ordering",), panels=MOST_PANELS, lines=0)
    table = chosen.place(table)
    by = ["panel", "component", "ordering"]
    seeds = gaps.seed_means(table, by, "transfer_accuracy").rename(columns={"transfer_accuracy": "mean"}).assign(n=1)
    both = pd.concat([gaps.over_seeds(table, by, "transfer_accuracy"), seeds], ignore_index=True)
    rows = in_units(both.assign(seed=both["seed"].astype("Int64")), "accuracy", "percent")
    effects = pd.concat([_effects(part) for _, part in table.groupby("panel", sort=False)], ignore_index=True)
    rows = rows.merge(effects, how="left", on=by)
    rows.loc[rows["seed"].notna(), [*EFFECT, "no_effect"]] = None
    return rows[[*by, "seed", *ACCURACY, "n", *EFFECT, "no_effect"]].assign(averaged=chosen.remark)


def _effects(part: pd.DataFrame) -> pd.DataFrame:
    """By component and ordering, of one panel."""
    valid = part["transfer_accuracy"].where(part.index.isin(usable(part).index))
    found = fits.ordering_effects(part.assign(transfer_accuracy=valid))
    cells = part[["panel", "component", "ordering"]].drop_duplicates()
    if isinstance(found, fits.Refused):
        return cells.assign(**dict.fromkeys(EFFECT), no_effect=found.reason)
    of = {(one.component, one.ordering): one.difference for one in found.effects}
    rows = []
    for cell in cells.to_dict("records"):
        one = of.get((cell["component"], cell["ordering"]))
        numbers: tuple[Any, ...] = (one.mean, one.low, one.high) if one else (None, None, None)
        scaled = [None if number is None else 100 * number for number in numbers]
        rows.append(cell | dict(zip(EFFECT, scaled, strict=True)) | {"no_effect": ""})
    return pd.DataFrame(rows)


def draw(data: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """Above, accuracies with every seed as a faint line; below, the differences to `shuffled` that they come to."""
    panels, components, orderings = (distinct(data, name) for name in ("panel", "component", "ordering"))
    place = {ordering: at for at, ordering in enumerate(orderings)}
    data = data.assign(place=[place[ordering] for ordering in data["ordering"]]).sort_values("place", kind="stable")
    means = data[data["seed"].isna()]
    with styled():
        figure, (above, below) = stacked_grid(len(panels), 2, narrow=narrow, height=2.3)
        for top, bottom, panel in zip(above, below, panels, strict=True):
            add_title(top, panel, narrow=narrow, panels=len(panels))
            bottom.axhline(0, color=INK, linewidth=0.8, zorder=1)
            for number, component in enumerate(components):
                wanted, look = {"panel": panel, "component": component}, look_of(number)
                _draw_seeds(top, matching(data, wanted), look)
                rows = matching(means, wanted)
                draw_means(top, floats(rows["place"]), rows, ACCURACY, look, dodged(top, number, len(components)))
                draw_means(
                    bottom,
                    *(floats(rows["place"]), rows, EFFECT),
                    *(look | {"linestyle": ""}, dodged(bottom, number, len(components), 6.0)),
                )
            _say_refusal(bottom, matching(means, {"panel": panel}))
            _name_orderings(bottom, orderings, narrow=narrow, panels=len(panels))
        above[0].set_ylabel("transfer accuracy, %")
        below[0].set_ylabel(f"minus {fits.BASELINE}, points")
        add_legend(figure, component_keys(components), narrow=narrow)
    return figure


def _draw_seeds(axes: Axes, rows: pd.DataFrame, look: dict[str, Any]) -> None:
    for _, seed in rows[rows["seed"].notna()].groupby("seed"):
        x, y = floats(seed["place"]), floats(seed["accuracy_percent"])
        axes.plot(x, y, color=look["color"], alpha=0.25, linewidth=0.8, zorder=2)


def _say_refusal(axes: Axes, rows: pd.DataFrame) -> None:
    reason = next((text for text in rows["no_effect"] if text), "")
    if reason:
        said = textwrap.fill(f"no differences: {reason}", 30)
        axes.text(0.5, 0.5, said, transform=axes.transAxes, ha="center", va="center", fontsize=8, color=MUTED)


def _name_orderings(axes: Axes, orderings: list[str], *, narrow: bool, panels: int) -> None:
    """Names in up to four lines as wide as there is room, or at an angle where that is too little."""
    room = (3.0 if narrow else 7.8 / min(panels, 3) - 0.3) / len(orderings)  # inches
    characters = int(room * 11)
    axes.set_xticks(np.arange(len(orderings)))
    axes.set_xlim(-0.4, len(orderings) - 0.6)
    if characters >= 9:
        spaced = [name.replace(":", ": ").replace(",", ", ") for name in orderings]
        lines = [textwrap.wrap(name, characters, max_lines=4, placeholder=" …") for name in spaced]
        axes.set_xticklabels(["\n".join(line) for line in lines], fontsize=8)
    else:
        short = [name if len(name) <= 22 else f"{name[:21]}…" for name in orderings]
        axes.set_xticklabels(short, fontsize=8, rotation=40, ha="right", rotation_mode="anchor")


def caption(data: pd.DataFrame) -> str:
    """With the reason where there are no differences."""
    refused = [text for text in distinct(data, "no_effect") if isinstance(text, str) and text]
    return (
        "Above: transfer accuracy in % of single networks that saw the same examples in each order; faint lines are "
        f"single seeds. Below: the difference to {fits.BASELINE} in points, paired within seeds. "
        + (f"There are no differences: {gaps.listed(refused)}. " if refused else "")
        + intervals(data[data["seed"].isna()])
        + averaged(data)
    )
