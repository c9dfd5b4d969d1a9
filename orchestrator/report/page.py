"""What does a sweep say, on one page? A self-contained HTML file: no network, equal inputs equal bytes.

This module turns what a sweep has measured into views, lists of strings with a caption; `page.html.jinja` lays them
out. Everything that comes from a sweep, a trial or an error is escaped there, and the page runs no script but
`page.js`, whose digest it names.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from orchestrator.analysis import Findings, claims, find, gaps, ladder, summary
from orchestrator.analysis.findings import answer
from orchestrator.cost import Cost
from orchestrator.report import figures
from orchestrator.terminal import printable

# The figure that answers the question: the first of these that the sweep can fill.
MAIN = ("ternary", "ordering", "ensembles", "deficits", "gap-by-weight", "gap-by-scale", "gap-by-mixture")
MEAN = r"(?!low|high)\w+_(points|percent)|retention"  # the column of a figure's data that can be pointed at
IN_TABLES = ("gap-by-weight", "gap-by-mixture", "accuracies", "retention", "ladder", "ternary")
UNITS = {"points": "points", "percent": "%"}
PLACE = ("panel", "line", "of", "mixture", "component")  # its columns that say where
SLIDER_HEADERS = {"accuracy": "accuracy, %", "saturation": "residual signal", "retention": "retention"}
MOST_VALUES = 3000  # of a figure in the page
MOST_RESULT_ROWS = 2000  # of a table in the page; the results table has all
MOST_LEADING = 10  # findings that are shown where there are too many to show
LONG_TEXT, PROSE = 18, 120  # characters, of a cell
ERROR_CHARACTERS = 4000  # the end of an error, where its cause stands

DIRECT_KINDS = {
    "same_steps": "trained on all training data of the component, for as many optimiser steps as the mixture",
    "same_examples": "trained on those examples of the component that the mixture contained, and no others; a "
    "component that the mixture did not contain has no such baseline",
    "full": "trained on all training data of the component, with a budget of its own",
}
NUMERIC = {"weight", "width", "depth", "steps", "train_examples"}


@dataclass(frozen=True)
class TableView:
    """A table as text. The first column names the row."""

    anchor: str
    caption: str
    header: tuple[str, ...]
    numeric: tuple[bool, ...]  # per column: aligned to the right
    rows: tuple[tuple[str, ...], ...]
    remark: str = ""
    most_open: int = 48  # rows; with more it is folded away

    @property
    def kinds(self) -> list[str]:
        """Per column: number, text, long text that may wrap, or sentences."""
        longest = [max(map(len, column), default=0) for column in zip(*self.rows, strict=True)] or [0] * len(
            self.header
        )
        return [
            "number" if numeric else "prose" if length > PROSE else "long" if length > LONG_TEXT else "text"
            for numeric, length in zip(self.numeric, longest, strict=True)
        ]

    @property
    def folded(self) -> bool:
        return len(self.rows) > self.most_open


@dataclass(frozen=True)
class Slider:
    """What moves through a figure of curves: the values at every step."""

    table: TableView  # as it stands at the last step
    values: Mapping[str, Any]  # steps; x of each cursor at every step; cells of each row at every step

    @property
    def last(self) -> int:
        return len(self.values["steps"]) - 1


@dataclass(frozen=True)
class FigureView:
    """A figure for wide pages and for phones."""

    anchor: str
    title: str
    caption: str
    wide: Markup
    narrow: Markup
    texts: tuple[str, ...]  # of the values that can be pointed at
    numbers: TableView | None  # what it shows, if no other table of the page has that
    slider: Slider | None = None


@dataclass(frozen=True)
class FailureView:
    """Rows of one trial that went wrong in one way."""

    trial: str
    label: str
    status: str
    seeds: str
    components: str
    error: str


def render(
    found: figures.Evidence,
    plan: Mapping[str, Any],
    sweep_text: str,
    *,
    provenance: Mapping[str, str],
    cost: Sequence[Cost] = (),
) -> str:
    """The report as HTML.

    Args:
        found: what the sweep has measured, empty or unfinished as it may be.
        plan: what `Plan.as_json` wrote.
        sweep_text: the sweep file as its author wrote it.
        provenance: what else to say about where the results come from, for example revision, command, storage.
        cost: what its stages took.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # A right-to-left mark would turn around what stands beside a name, in a page as in a terminal.
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters["sentence"] = sentence
    labels = {trial["digest"][:12]: trial["design"]["label"] for trial in plan["trials"]}
    whole, table = found.table, gaps.primary(found.table)
    said = find(whole)
    script = (Path(__file__).parent / "page.js").read_text(encoding="utf-8")
    return environment.get_template("page.html.jinja").render(
        sweep=plan["sweep"],
        question=plan.get("question") or plan["sweep"],
        facts=facts(table, plan),
        answer=answer_lines(said, table),
        missing=gaps.missing(table),
        num_rows=len(table),
        figures=figure_views(found),
        findings=[*map(cut, findings_views(said))],
        claims=claims_view(whole) if len(whole) else None,
        summaries=[*map(cut, (*summary_views(table), *science_views(whole)))],
        results=results_view(table),
        failures=failure_views(table, labels),
        pending=sorted({labels.get(t, t) for t in table["trial"][gaps.reasons(table) == "pending"].dropna()}),
        cost=cost_view(cost),
        spent=spent_lines(cost),
        direct_kind=plan["direct_kind"],
        direct_meaning=DIRECT_KINDS.get(plan["direct_kind"], ""),
        protocol=str(plan["protocol"]).replace("_", " "),
        components=components_view(plan),
        origin=origin(table, provenance),
        commands=commands(table, plan, provenance),
        digests=[(trial["digest"], trial["design"]["label"]) for trial in plan["trials"]],
        sweep_text=sweep_text,
        colours=dict(enumerate(figures.SERIES, start=1)),
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def sentence(text: str) -> Markup:
    """A sentence of `find` as HTML: names between backticks as code, numbers that do not break."""
    whole = re.compile(r"(\[[^\]]*\]|n = \d+(?: and \d+)* seeds?)")
    found = Markup("")
    for number, part in enumerate(printable(text).split("`")):
        if number % 2:
            found += Markup("<code>{}</code>").format(part)
            continue
        for piece, text_between in enumerate(whole.split(figures.typeset(part))):
            found += Markup('<span class="whole">{}</span>').format(text_between) if piece % 2 else text_between
    return found


def facts(table: pd.DataFrame, plan: Mapping[str, Any]) -> list[str]:
    """What was run, in a few words each."""
    measured = int((gaps.reasons(table) == "").sum())
    return [
        _counted(len(plan["trials"]), "trial"),
        _counted(len(plan["components"]), "component"),
        _counted(table["seed"].nunique(), "seed"),
        f"{measured:,} of {_counted(len(table), 'row')} measured",
        f"{plan['protocol']} against direct training with {plan['direct_kind']}".replace("_", " "),
    ]


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


# The answer


def answer_lines(said: Findings, table: pd.DataFrame) -> list[str]:
    """The answer in sentences, or why there is none."""
    if statements := answer(said):
        return [one.sentence for one in statements]
    if table.empty:
        return ["The table has no rows."]
    if table["gap"].notna().any():
        why = gaps.listed([f"{count} {reason}" for reason, count in said.left_out.items()])
        return [f"Nothing can be said: of {said.rows} rows, {why}. Two seeds have an interval; three are tested."]
    return [f"No gap has been measured: of {len(table)} rows, {gaps.missing(table)}."]


def findings_views(said: Findings) -> list[TableView]:
    """Every statement, the most important first; of many, the first ones also in a table that is not folded away."""
    if not said.statements:
        return []
    header = ("kind", "statement", "effect, points", "95 % interval", "seeds", "adjusted p")
    rows = tuple(
        (
            one.kind.lower().replace("_", " "),
            figures.typeset(one.sentence.replace("`", "")),
            *map(figures.typeset, (gaps.points(one.effect), gaps.interval(one.low, one.high, one.n))),
            str(one.n),
            "-" if one.p is None else f"{one.p:.2g}",
        )
        for one in said
    )
    left_out = gaps.listed([f"{count} {reason}" for reason, count in said.left_out.items()])
    remark = (
        f"Of these statements, {100 * said.alpha:g}\u00a0% at most are expected to be wrong; a loss that matters is "
        f"{100 * said.margin:g} points. Intervals are for each alone."
        + (f" Of {said.rows} rows these speak of all but {left_out}." if left_out else "")
    )
    numeric = (False, False, True, True, True, True)
    title = "What the results show, the most important first"
    whole = TableView("statements", title, header, numeric, rows, remark, most_open=2 * MOST_LEADING)
    if not whole.folded:
        return [whole]
    title = f"The {MOST_LEADING} most important of {len(rows)} statements"
    return [TableView("leading-statements", title, header, numeric, rows[:MOST_LEADING]), whole]


# Figures


def figure_views(found: figures.Evidence) -> list[FigureView]:
    """The figures that the evidence can fill, the one that answers the question first."""
    weights = gaps.primary(found.table).groupby("component")["weight"].nunique().max()
    views = []
    for kind in figures.FIGURES.values():
        if kind.name == "gap-by-weight" and not weights > 1:
            continue  # the heat map says it all
        try:
            data = kind.data(found)
        except figures.Refused:
            continue
        if len(data) > MOST_VALUES:
            continue  # `bottleneck figure` draws it
        views.append(_figure(kind, data))
    first = [name for name in MAIN if weights > 2 or name != "gap-by-weight"]
    return sorted(views, key=lambda view: first.index(view.anchor) if view.anchor in first else len(first))


def _figure(kind: figures.Kind, data: pd.DataFrame) -> FigureView:
    caption = kind.caption(data)
    slider = _slider(data) if kind.name == "trajectories" else None
    drawn = {}
    for width in ("wide", "narrow"):
        figure = kind.draw(data, narrow=width == "narrow")
        if slider:
            slider.values["x"].update(_cursors(figure, slider.values["steps"], width))
        drawn[width] = inline_svg(figure, f"{kind.name}-{width}", f"{kind.title}. {caption}")
    texts = value_texts(data) if ' data-row="' in drawn["wide"] else ()  # no text of a name has quotes
    numbers = None if kind.name in IN_TABLES else numbers_view(kind, data)
    return FigureView(kind.name, kind.title, caption, drawn["wide"], drawn["narrow"], texts, numbers, slider)


def numbers_view(kind: figures.Kind, data: pd.DataFrame) -> TableView:
    """The data of a figure: what it draws and nothing else."""
    shown = [str(name) for name in data if data[name].notna().any() and not data[name].eq("").all()]
    shown = [name for name in shown if name not in ("averaged", "not_told_apart") and not name.endswith("left_out")]
    numeric = tuple(pd.api.types.is_numeric_dtype(data[name]) and data[name].dtype != bool for name in shown)
    rows = tuple(
        tuple(
            _number(row[name], name) if number else str(row[name]) for name, number in zip(shown, numeric, strict=True)
        )
        for row in data.to_dict("records")
    )
    header = tuple(name.replace("_", " ") for name in shown)
    return TableView(f"{kind.name}-numbers", f"{kind.title}: the numbers", header, numeric, rows)


def _number(value: Any, column: str) -> str:
    if pd.isna(value):
        return "-"
    rounded = column.rpartition("_")[2] in UNITS
    return figures.typeset(_rounded(value, 1) if rounded else f"{float(value):.4g}")


def value_texts(data: pd.DataFrame) -> tuple[str, ...]:
    """What is said of every row of a figure's data where it is pointed at: its place, its mean, interval and seeds."""
    mean = next(name for name in map(str, data.columns) if re.fullmatch(MEAN, name))
    what, _, unit = mean.partition("_")
    low, high = (f"{end}_{unit}" if unit else end for end in ("low", "high"))
    spoken = f" {UNITS[unit]}" if unit else ""
    found = []
    for row in data.to_dict("records"):
        place = [str(row[name]) for name in PLACE if name in row and isinstance(row[name], str) and row[name]]
        place += [f"weight {gaps.level('weight', row['weight'])}"] if "weight" in row else []
        number, *ends = (_rounded(row[name], 1 if unit else 2) for name in (mean, low, high))
        spread = "" if pd.isna(row[low]) else f" [{', '.join(ends)}]"
        value = "none" if pd.isna(row[mean]) else f"{number}{spoken}{spread}, n = {row['n']}"
        found.append(f"{', '.join(dict.fromkeys(place))}: {what} {figures.typeset(value)}")
    return tuple(found)


def _rounded(value: Any, digits: int) -> str:
    return f"{round(float(value), digits) + 0.0:.{digits}f}"  # + 0.0: never -0.0


def _slider(data: pd.DataFrame) -> Slider:
    """The values of every curve at every step, the last one first shown."""
    steps = sorted(int(step) for step in data["step"].unique())
    quantities = list(dict.fromkeys(data["quantity"]))
    names = [name for name in ("panel", "line") if data[name].nunique() > 1] + ["component"]
    curves = list(dict.fromkeys(data[names].itertuples(index=False, name=None)))
    texts = {
        (tuple(row[name] for name in names), int(row["step"]), row["quantity"]): _mean_and_interval(
            pd.Series(row), 1 if row["quantity"] == "accuracy" else 2
        )
        for row in data.to_dict("records")
    }
    counts = data.groupby([*names, "step"], sort=False)["n"].agg(["min", "max"])
    cells = [
        [
            [_range(*counts.loc[(*curve, step)]), *(texts.get((curve, step, what), "-") for what in quantities)]
            if (*curve, step) in counts.index
            else ["0", *("-" for _ in quantities)]
            for step in steps
        ]
        for curve in curves
    ]
    header = (*names, "seeds", *(SLIDER_HEADERS[quantity] for quantity in quantities))
    rows = tuple((*curve, *steps_of[-1]) for curve, steps_of in zip(curves, cells, strict=True))
    numeric = (*[False] * len(names), *[True] * (1 + len(quantities)))
    table = TableView("trajectory-values", "The values at that step", header, numeric, rows)
    return Slider(table, {"steps": steps, "x": {}, "cells": cells})


def _cursors(figure: Figure, steps: Sequence[int], width: str) -> dict[str, list[float]]:
    """Draw a line at the last step into every panel; where it stands at each step, in the units of the drawing."""
    found = {}
    lines = [axes.axvline(steps[-1], color=figures.INK, linewidth=0.8, zorder=5) for axes in figure.axes]
    figures.settle(figure)
    for number, (axes, line) in enumerate(zip(figure.axes, lines, strict=True)):
        line.set_gid(f"cursor-{number}")
        pixels = axes.transData.transform([(step, 1.0) for step in steps])[:, 0]
        found[f"{width}-{number}"] = [round(72 * float(x) / figure.dpi, 2) for x in pixels]
    return found


def inline_svg(figure: Figure, prefix: str, description: str) -> Markup:
    """A figure as part of the page: its ids its own, its colours and fonts the page's, its width the screen's."""
    text = figures.svg(figure)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r"<[^>]+>", lambda tag: _adapted(tag[0], prefix), text)  # attributes have no bare >
    width = 96 * figure.get_figwidth()  # CSS pixels
    size = f"max-width: {width:.0f}px; min-width: {0.85 * width:.0f}px"
    start = Markup('<svg role="img" aria-label="{}" style="{}" ').format(description, size)
    return start + Markup(re.sub(r'^<svg [^>]*?(viewBox="[^"]*")[^>]*>', r"\1>", text, count=1))


def _adapted(tag: str, prefix: str) -> str:
    tag = re.sub(r"font-family: [^;\"]*;? ?", "", tag)
    tag = re.sub(r'\bid="row-(\d+)"', r'data-row="\1"', tag)
    tag = re.sub(r'\bid="cursor-(\d+)"', rf'data-cursor="{prefix.rpartition("-")[2]}-\1"', tag)
    tag = re.sub(r'\bid="', f'id="{prefix}-', tag)
    tag = tag.replace('href="#', f'href="#{prefix}-').replace("url(#", f"url(#{prefix}-")
    for colour, variable in figures.PAGE_COLOURS.items():
        tag = tag.replace(f": {colour}", f": var({variable})")
    return tag


def _averaged(axes: Sequence[str]) -> str:
    return f" Averaged within each seed over {gaps.listed([gaps.AXES[axis] for axis in axes])}." if axes else ""


# Tables


def cut(view: TableView) -> TableView:
    """A table with as many rows as a page can hold, which says so where it has more."""
    if len(view.rows) <= MOST_RESULT_ROWS:
        return view
    said = f"The first {MOST_RESULT_ROWS:,} of {len(view.rows):,} rows; the results table has what they come from."
    return replace(view, rows=view.rows[:MOST_RESULT_ROWS], remark=f"{said} {view.remark}".strip())


def summary_views(table: pd.DataFrame) -> list[TableView]:
    """The numbers per component, and by weight."""
    if table.empty:
        return []
    by = ["component", "weight", *gaps.other_axes(table)]
    over = _averaged(gaps.varying_axes(table))
    return [
        _summary("per-component", "Gap per component", gaps.per_component(table), ["component"], over),
        _summary("by-weight", "Gap by weight", gaps.by_weight(table), by),
    ]


def science_views(table: pd.DataFrame) -> list[TableView]:
    """The loss ladder, protocols, retention and the analysis, as far as the sweep has measured them."""
    if table.empty:
        return []
    found = []
    if table["protocol"].nunique() > 1:
        found += [ladder_view(table), protocols_view(table)]
    if table["retention"].notna().any() or table["effective_rank"].notna().any():
        found.append(retention_view(gaps.primary(table)))
    return [*found, *map(section_view, summary.summary(table))]


def ladder_view(table: pd.DataFrame) -> TableView:
    """A row per component and design: the accuracy of every rung, and the failure that they name."""
    climbed = ladder.ladder(table)
    designs = list(dict.fromkeys(name for one in climbed for name in one.design))
    header = ("component", *designs, *(f"{name}, %" for name in ladder.RUNGS), "failure", "because")
    marks = {"reaches": " ✓", "undecided": " ?"}
    rows = tuple(
        (
            one.component,
            *(gaps.level(name, one.design.get(name)) for name in designs),
            *(
                gaps.points(rung.accuracy.mean) + marks.get(rung.outcome, "") if rung.accuracy else "-"
                for rung in one.rungs
            ),
            one.failure,
            one.reason,
        )
        for one in climbed
    )
    numeric = (False, *[False] * len(designs), *[True] * len(ladder.RUNGS), False, False)
    remark = (
        "Means over seeds. ✓: a loss of a point or more against direct training is ruled out at 95 %; ?: neither "
        "that nor its contrary. The first rung that reaches names the failure."
    )
    return TableView("ladder", "The loss ladder: unused, entangled, recoverable or lost", header, numeric, rows, remark)


def protocols_view(table: pd.DataFrame) -> TableView:
    """Accuracies and gaps of every protocol and number of shots."""
    by = ["component", "weight", *gaps.other_axes(table), "protocol", "shots"]
    return _summary("protocols", "Gap by protocol", gaps.summarise(table, by), by)


def retention_view(table: pd.DataFrame) -> TableView:
    """What the features are like, and how much of the direct features they hold."""
    by = ["component", "weight", *gaps.other_axes(table)]
    measured = {
        "retention": 2, "predictability": 2, "predictability_ceiling": 2, "predictability_floor": 2, "debiased_cka": 2,
        "effective_rank": 1, "direct_effective_rank": 1, "dead_share": 2,
    }  # fmt: skip
    found = [gaps.over_seeds(table, by, name) for name in measured]
    rows = []
    for group in range(len(found[0])):
        lines = [each.iloc[group] for each in found]
        numbers = (_mean_and_interval(line, digits) for line, digits in zip(lines, measured.values(), strict=True))
        seeds = [int(line["n"]) for line in lines if line["n"]]
        counted = _range(min(seeds), max(seeds)) if seeds else "0"
        rows.append((*(gaps.level(name, lines[0][name]) for name in by), *numbers, counted))
    header = (*(name.replace("_", " ") for name in (*by, *measured)), "seeds")
    numeric = (*(name in NUMERIC for name in by), *[True] * (len(measured) + 1))
    remark = "Retention: 1, the direct features can be read from the mixture's; 0, no better than from random ones."
    return TableView("retention", "Retention of the direct features", header, numeric, tuple(rows), remark)


def _range(fewest: int, most: int) -> str:
    return f"{fewest}" if fewest == most else f"{fewest} to {most}"


def _mean_and_interval(line: pd.Series[Any], digits: int) -> str:
    if pd.isna(line["mean"]):
        return "-"
    ends = "" if pd.isna(line["low"]) else f" [{line['low']:.{digits}f}, {line['high']:.{digits}f}]"
    return figures.typeset(f"{line['mean']:.{digits}f}{ends}")


def section_view(section: summary.Section) -> TableView:
    """A section of the analysis; columns that hold nothing but numbers and intervals are aligned to the right."""
    numeric = tuple(
        all(re.fullmatch(r"-|[-\d.,]+(e-\d+)?( \[.*\])?", cell) for cell in column)
        for column in zip(*section.rows, strict=True)
    )
    rows = tuple(
        tuple(
            figures.typeset(cell) if number else cell.replace("`", "")
            for cell, number in zip(row, numeric, strict=True)
        )
        for row in section.rows
    )
    anchor = section.title.lower().replace(" ", "-")
    return TableView(anchor, section.title, section.header, numeric, rows, section.remark.replace("`", ""))


def claims_view(table: pd.DataFrame) -> TableView:
    """The verdict on every claim."""
    found = claims.verdicts(table)
    (_, *short), *lines = claims.rows(found)
    rows = tuple(
        (
            f"{claim.id}: {claim.statement}",
            *(figures.typeset(cell) for cell in line[1:]),
            claim.sentence.replace("`", ""),
        )
        for claim, line in zip(found, lines, strict=True)
    )
    header = ("claim", *short, "why")
    numeric = (False, False, True, True, True, True, False, False)
    return TableView("claims", "What this sweep says about the claims", header, numeric, rows)


def results_view(table: pd.DataFrame) -> TableView | None:
    """One row per trial and component."""
    if table.empty:
        return None
    found = gaps.by_design(table)
    cut = f"The first {MOST_RESULT_ROWS:,} of {len(found):,} rows; the results table has all of them."
    by = ["trial", *gaps.varying_axes(table), "component", "weight"]
    return _summary(
        "results",
        "Every trial and component",
        found.head(MOST_RESULT_ROWS),
        by,
        remark=cut if len(found) > MOST_RESULT_ROWS else "",
    )


def _summary(anchor: str, caption: str, found: pd.DataFrame, by: Sequence[str], remark: str = "") -> TableView:
    reasons = [name for name in gaps.REASONS if found[name].sum()]
    uneven = bool(found["uneven"].any())
    accuracies = ("transfer", "direct_probe", "random_init", "direct")
    header = (
        *(name.replace("_", " ") for name in by),
        *("gap, points", "95 % interval", "seeds"),
        *("transfer, %", "direct, %", "random init, %", "own head, %"),
        *(gaps.REASONS[name] for name in reasons),
        *(["note"] if uneven else []),
    )
    rows = tuple(
        (
            *(gaps.level(name, row[name]).replace(" %", "\u00a0%") for name in by),
            figures.typeset(gaps.points(row["gap"])),
            figures.typeset(gaps.interval(row["low"], row["high"], row["n"])),
            str(row["n"]),
            *(gaps.points(row[f"{name}_accuracy"]) for name in accuracies),
            *(str(row[name]) for name in reasons),
            *(["unequal seeds" if row["uneven"] else ""] if uneven else []),
        )
        for row in found.to_dict("records")
    )
    numeric = (*(name in NUMERIC for name in by), *[True] * (7 + len(reasons)), *[False] * uneven)
    if uneven:
        remark += " Unequal seeds: some of them lack some of the designs that the others hold."
    return TableView(anchor, caption, header, numeric, rows, remark.strip())


def components_view(plan: Mapping[str, Any]) -> TableView:
    """What the components are made of."""
    header = ("component", "data set", "classes", "training examples", "test examples", "content")
    keys = ("dataset", "num_classes", "num_train", "num_test", "content")
    rows = tuple((name, *(_plain(facts.get(key, "-")) for key in keys)) for name, facts in plan["components"].items())
    return TableView("components", "Components", header, (False, False, True, True, True, False), rows)


def _plain(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


# Failures, cost and provenance


def failure_views(table: pd.DataFrame, labels: Mapping[str, str]) -> list[FailureView]:
    """What failed or diverged, rows of one trial with the same error together."""
    bad = table[table["status"].isin(["failed", "diverged"])]
    bad = bad.assign(error=bad["error"].fillna("no error was recorded"))
    return [
        FailureView(
            trial=rows["trial"].iloc[0],
            label=labels.get(rows["trial"].iloc[0], ""),
            status=rows["status"].iloc[0],
            seeds=_listed(rows["seed"]),
            components=_listed(rows["component"]),
            error=_end(rows["error"].iloc[0]),
        )
        for _, rows in bad.groupby(["trial", "status", "error"], sort=False)
    ]


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values))


def _end(error: str) -> str:
    error = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", error)  # colours of a terminal
    return error if len(error) <= ERROR_CHARACTERS else f"… {error[-ERROR_CHARACTERS:]}"


def cost_view(cost: Sequence[Cost]) -> TableView | None:
    """What the stages of each kind took, and what was spared."""
    if not cost:
        return None
    header = (
        *("stage", "device", "different", "computed here", "asked for"),
        *("spent, h", "spared by sharing, h", "spared by the store, h"),
    )
    rows = tuple(
        (
            *(one.kind, one.device, *(f"{count:,}" for count in (one.stages, one.computed, one.asked))),
            *(_hours(seconds) for seconds in (one.spent_s, one.shared_s, one.found_s)),
        )
        for one in cost
    )
    remark = (
        "Hours of the stages on their device, without start-up, waiting, and work that a kill threw away. Sharing: "
        "trials that ask for the same stage get the same one. Store: stages that earlier sweeps had computed; what a "
        "measurement took is only written down by the sweep that made it, so this is a lower bound."
    )
    return TableView("costs", "What the stages took", header, (False, False, *[True] * 6), rows, remark)


def spent_lines(cost: Sequence[Cost]) -> list[str]:
    """Per device, what was spent and what was spared."""
    lines = []
    for device in dict.fromkeys(one.device for one in cost):
        of = [one for one in cost if one.device == device]
        spent, shared, had = (sum(getattr(one, name) for one in of) for name in ("spent_s", "shared_s", "found_s"))
        lines.append(
            f"This sweep spent {_hours(spent)} hours of {device}. Trials that share stages spared {_hours(shared)} "
            f"hours, stages that the store had {_hours(had)}."
        )
    return lines


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.3g}" if seconds < 3600 * 1000 else f"{seconds / 3600:,.0f}"


def origin(table: pd.DataFrame, provenance: Mapping[str, str]) -> list[tuple[str, str]]:
    """Where the numbers come from: what the caller knows and what the rows say."""
    rows = {
        f"{name} in the rows": ", ".join(sorted(table[column].dropna().unique()))
        for name, column in (("revision", "revision"), ("versions", "versions"), ("device", "device"))
    }
    known = {**provenance, **rows}
    return [(name.replace("_", " "), str(value)) for name, value in known.items() if value]


def commands(table: pd.DataFrame, plan: Mapping[str, Any], provenance: Mapping[str, str]) -> list[tuple[str, str]]:
    """What to do, and what to type, to get the same numbers again."""
    revisions = sorted(table["revision"].dropna().unique()) or [provenance.get("revision", "")]
    file = shlex.quote(f"{plan['sweep']}.yaml")
    found = [("Take the code that ran.", f"git checkout {shlex.quote(name)}") for name in revisions[:1] if name]
    if command := provenance.get("command"):
        return [*found, ("Run the sweep file below, as it was run here.", command)]
    return [*found, (f"Save the sweep file below as {file} and run it.", f"bottleneck run {file}")]
