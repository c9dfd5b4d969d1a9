"""What is a figure made of, and from what? Its evidence, its kind, and why it cannot be drawn.

Every kind makes tidy data from the evidence of one sweep, and draws these data and nothing else. The data of several
sweeps stand one below the other, a panel each. What varies besides is shown in panels and by line styles as far as
there is room, and averaged within each seed beyond that, which every caption says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from orchestrator import results
from orchestrator.analysis import gaps
from orchestrator.report.figures.style import LINE_STYLES, MOST_PANELS, distinct, floats, level_name
from trainables.errors import UserError


class Refused(UserError):
    """The figure cannot be drawn from this evidence: one sentence that says what is lacking."""


@dataclass(frozen=True)
class Evidence:
    """What a figure may draw from."""

    table: pd.DataFrame  # the results table of one sweep or of several, all protocols
    curves: pd.DataFrame | None = None  # as `results.trajectories` gives them
    layers: pd.DataFrame | None = None  # as `results.layers` gives them

    def of(self, sweep: Any) -> Evidence:
        """The evidence of one sweep. What lacks a column `sweep` is told apart by its trials."""
        table = self.table[(self.table["sweep"] == sweep).fillna(False)]
        curves, layers = (_part(rows, sweep, table["trial"]) for rows in (self.curves, self.layers))
        return Evidence(table, curves, layers)


def _part(rows: pd.DataFrame | None, sweep: Any, trials: pd.Series[Any]) -> pd.DataFrame | None:
    if rows is None:
        return None
    return rows[rows["sweep"] == sweep] if "sweep" in rows else rows[rows["trial"].isin(trials)]


def evidence(sweeps: str | Sequence[str] | None = None, storage: str | None = None) -> Evidence:
    """What a store holds of one sweep, of several, or of all; raises UnknownSweep."""
    table = results.load(sweeps, storage=storage)
    names = distinct(table, "sweep")
    curves = [results.trajectories(name, storage=storage).assign(sweep=name) for name in names]
    layers = [results.layers(name, storage=storage).assign(sweep=name) for name in names]
    return Evidence(table, _joined(curves), _joined(layers))


def _joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame | None:
    held = [frame for frame in frames if len(frame)]
    return pd.concat(held, ignore_index=True) if held else None


Data = Callable[[Evidence], pd.DataFrame]


@dataclass(frozen=True)
class Kind:
    """One kind of figure."""

    name: str  # for the command line, the page and files
    title: str
    data: Data  # exactly what is drawn, tidy, units in the names of columns; raises Refused
    draw: Callable[..., Figure]  # draw(data, *, narrow=False)
    caption: Callable[[pd.DataFrame], str]  # what is drawn, its units, n, intervals, what was averaged or left out


def over_sweeps(kind: Kind) -> Kind:
    """The kind, with data of one sweep, for any number of them."""
    return replace(kind, data=lambda found: _over_sweeps(kind.data, found))


def _over_sweeps(data: Data, found: Evidence) -> pd.DataFrame:
    sweeps = distinct(found.table, "sweep")
    if len(sweeps) < 2:
        return data(found)
    parts, refusals = [], []
    for sweep in sweeps:
        try:
            part = data(found.of(sweep))
        except Refused as why:
            refusals.append(f"{sweep}: {why}")
            continue
        parts.append(part.assign(panel=[f"{sweep}, {panel}" if panel else str(sweep) for panel in part["panel"]]))
    if not parts:
        raise Refused("; ".join(refusals))
    whole = pd.concat(parts, ignore_index=True)
    for what, most in (("panel", MOST_PANELS), ("line", len(LINE_STYLES))):
        if what in whole and (count := whole[what].nunique()) > most:
            raise Refused(f"{count} {what}s do not fit into one figure, which holds {most}; name fewer sweeps")
    return whole


def measured(found: Evidence, column: str = "gap") -> pd.DataFrame:
    """The rows that answer the sweep's question; raises Refused if none of them has the column."""
    table = gaps.primary(found.table)
    if table.empty:
        raise Refused("the table has no rows")
    if not table.loc[(table["status"] == "ok").fillna(False), column].notna().any():  # only of those there are means
        gone = gaps.missing(table)
        why = f": of {len(table)} rows, {gone}" if gone else ""
        raise Refused(f"the table has no {column.replace('_', ' ')}{why}")
    return table


@dataclass(frozen=True)
class Facets:
    """Where a figure shows the axes that vary and that it does not draw itself."""

    panel: str | None  # a panel per value
    line: str | None  # a line style per value
    averaged: tuple[str, ...]  # nowhere: averaged within each seed

    def place(self, table: pd.DataFrame) -> pd.DataFrame:
        """The table with the texts of its panels and lines."""
        texts = {
            name: [level_name(axis, value) if axis else "" for value in (table[axis] if axis else table.index)]
            for name, axis in (("panel", self.panel), ("line", self.line))
        }
        return table.assign(**texts)

    @property
    def remark(self) -> str:
        """The averaged axes as people say them."""
        return gaps.listed([gaps.AXES[axis] for axis in self.averaged])


def facets(
    table: pd.DataFrame,
    drawn: Sequence[str] = ("mixture",),
    *,
    panels: int = MOST_PANELS,
    lines: int = len(LINE_STYLES),
) -> Facets:
    """Panels for the axis with most values that still fit, line styles for the next one that has few.

    Args:
        drawn: the axes that the figure itself shows.
        panels, lines: how many of either there may be.
    """
    axes = [axis for axis in gaps.varying_axes(table) if axis not in drawn]
    count = {axis: len(distinct(table, axis)) for axis in axes}
    panel = max((axis for axis in axes if count[axis] <= panels), key=count.__getitem__, default=None)
    line = next((axis for axis in axes if axis != panel and count[axis] <= lines), None)
    return Facets(panel, line, tuple(axis for axis in axes if axis not in (panel, line)))


def in_units(found: pd.DataFrame, name: str, unit: str, scale: float = 100.0) -> pd.DataFrame:
    """The mean, low and high of `gaps.over_seeds` in a unit that the names of the columns say."""
    columns = {"mean": f"{name}_{unit}", "low": f"low_{unit}", "high": f"high_{unit}"}
    scaled = {old: scale * floats(found[old]) for old in columns if old in found}
    return found.assign(**scaled).rename(columns=columns).reset_index(drop=True)


# What captions say


def intervals(data: pd.DataFrame) -> str:
    """Over how many seeds, and which interval."""
    counts = sorted({int(n) for n in data["n"].dropna() if n > 0})
    if counts in ([], [1]):
        return "n\u00a0=\u00a01 seed: there are no intervals."
    n = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"Mean and 95\u00a0% interval (Student's t) over n\u00a0=\u00a0{n} seeds."


def averaged(data: pd.DataFrame) -> str:
    """What was averaged within each seed, after a space; empty if nothing was."""
    said = [text for text in distinct(data, "averaged") if text]
    return f" Averaged within each seed over {gaps.listed(said)}." if said else ""
