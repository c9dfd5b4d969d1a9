"""What does a sweep say, on one page? A self-contained HTML file: no script, no network, equal inputs equal bytes.

This module turns a table and a plan into views, lists of strings with a caption; `page.html.jinja` lays them out.
Everything that comes from a sweep, a trial or an error is escaped there.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from orchestrator.analysis import claims, gaps, ladder, summary
from orchestrator.report import figures
from orchestrator.terminal import printable

MOST_RESULT_ROWS = 2000  # in the page; the results table has all
MOST_OPEN_ROWS = 48  # of a table that is not folded away
LONG_TEXT = 18  # characters, of a cell
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

    @property
    def kinds(self) -> list[str]:
        """Per column: number, text, or long text that may wrap."""
        longest = [max(map(len, column), default=0) for column in zip(*self.rows, strict=True)] or [0] * len(
            self.header
        )
        return [
            "number" if numeric else "long" if length > LONG_TEXT else "text"
            for numeric, length in zip(self.numeric, longest, strict=True)
        ]

    @property
    def folded(self) -> bool:
        return len(self.rows) > MOST_OPEN_ROWS


@dataclass(frozen=True)
class FigureView:
    """A figure for wide pages and for phones."""

    anchor: str
    title: str
    caption: str
    wide: Markup
    narrow: Markup


@dataclass(frozen=True)
class FailureView:
    """Rows of one trial that went wrong in one way."""

    trial: str
    label: str
    status: str
    seeds: str
    components: str
    error: str


def render(table: pd.DataFrame, plan: Mapping[str, Any], sweep_text: str, *, provenance: Mapping[str, str]) -> str:
    """The report as HTML.

    Args:
        table: the results table (`results.COLUMNS`), empty or unfinished as it may be.
        plan: what `Plan.as_json` wrote.
        sweep_text: the sweep file as its author wrote it.
        provenance: what else to say about where the results come from, for example revision, command, storage.
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
    whole, table = table, gaps.primary(table)
    return environment.get_template("page.html.jinja").render(
        sweep=plan["sweep"],
        question=plan.get("question") or plan["sweep"],
        facts=facts(table, plan),
        headline=gaps.headline(table),
        missing=gaps.missing(table),
        num_rows=len(table),
        figures=figure_views(table),
        summaries=[*summary_views(table), *science_views(whole)],
        results=results_view(table),
        failures=failure_views(table, labels),
        pending=sorted({labels.get(t, t) for t in table["trial"][gaps.reasons(table) == "pending"].dropna()}),
        direct_kind=plan["direct_kind"],
        direct_meaning=DIRECT_KINDS.get(plan["direct_kind"], ""),
        protocol=str(plan["protocol"]).replace("_", " "),
        components=components_view(plan),
        origin=origin(table, provenance),
        commands=commands(table, plan, provenance),
        digests=[(trial["digest"], trial["design"]["label"]) for trial in plan["trials"]],
        sweep_text=sweep_text,
        colours=dict(enumerate(figures.SERIES, start=1)),
    )


def sentence(text: str) -> Markup:
    """A sentence of `gaps.headline` as HTML: names between backticks as code, numbers that do not break."""
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


# Figures


def figure_views(table: pd.DataFrame) -> list[FigureView]:
    """The figures that the table can fill."""
    found = []
    for name in ("gap-by-weight", "gap-by-mixture", "accuracies"):
        kind = figures.FIGURES[name]
        try:
            data = kind.data(figures.Evidence(table))
        except figures.Refused:
            continue
        caption = kind.caption(data)
        wide, narrow = (
            inline_svg(kind.draw(data, narrow=narrow), f"{name}-{width}", f"{kind.title}. {caption}")
            for narrow, width in ((False, "wide"), (True, "narrow"))
        )
        found.append(FigureView(name, kind.title, caption, wide, narrow))
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
    tag = re.sub(r'\bid="', f'id="{prefix}-', tag)
    tag = tag.replace('href="#', f'href="#{prefix}-').replace("url(#", f"url(#{prefix}-")
    for colour, variable in figures.PAGE_COLOURS.items():
        tag = tag.replace(f": {colour}", f": var({variable})")
    return tag


def _averaged(axes: Sequence[str]) -> str:
    return f" Averaged within each seed over {gaps.listed([gaps.AXES[axis] for axis in axes])}." if axes else ""


# Tables


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
    """The loss ladder, protocols, retention, the analysis and the claims, as far as the sweep has measured them."""
    if table.empty:
        return []
    found = []
    if table["protocol"].nunique() > 1:
        found += [ladder_view(table), protocols_view(table)]
    if table["retention"].notna().any() or table["effective_rank"].notna().any():
        found.append(retention_view(gaps.primary(table)))
    return [*found, *map(section_view, summary.summary(table)), claims_view(table)]


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
        rows.append((*(gaps.level(name, lines[0][name]) for name in by), *numbers, str(max(x["n"] for x in lines))))
    header = (*(name.replace("_", " ") for name in (*by, *measured)), "seeds")
    numeric = (*(name in NUMERIC for name in by), *[True] * (len(measured) + 1))
    remark = "Retention: 1, the direct features can be read from the mixture's; 0, no better than from random ones."
    return TableView("retention", "Retention of the direct features", header, numeric, tuple(rows), remark)


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


# Failures and provenance


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
