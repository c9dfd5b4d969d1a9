"""The commands about the numbers of sweeps: results, claims, ladder, findings, analyse, compare, replay."""

from __future__ import annotations

import json
import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.options import json_option, kept, storage_option
from orchestrator.cli.printing import on_one_line, print_section, print_table, render_table, say, show, write
from orchestrator.cli.reading import loaded, name_of, store_at

if TYPE_CHECKING:
    import pandas as pd

    from orchestrator.analysis import Findings
    from orchestrator.analysis.compare import Arm
    from orchestrator.analysis.summary import Correct


@click.command(short_help="Print the results table.")
@click.argument("sweeps", metavar="[SWEEP]...", nargs=-1, shell_complete=kept)
@storage_option
@click.option("--tracking-uri", metavar="URI", help="Read from MLflow and not from the store.")
@click.option("--where", metavar="QUERY", help='A pandas query over the columns: "weight > 0 and gap > 0.02".')
@click.option("--columns", metavar="NAMES", help="Columns to show, with commas between.")
@click.option("--sql", metavar="QUERY", help='Ask DuckDB: "select component, avg(gap) from results group by all".')
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json", "parquet"]),
    default="table",
    show_default=True,
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to a file.")
def results(
    sweeps: Sequence[str],
    storage: str | None,
    tracking_uri: str | None,
    where: str | None,
    columns: str | None,
    sql: str | None,
    form: str,
    output: Path | None,
) -> None:
    """Print the results table, of all sweeps unless some are named: one row per trial, seed, component and protocol.

    --sql asks the table `results`, which has the rows that --where keeps and the --columns.
    """
    from orchestrator.results import load

    if sql is not None:
        from orchestrator.sql import ask, require_duckdb

        require_duckdb()
    names = [name_of(sweep) for sweep in sweeps] or None
    chosen = [name.strip() for name in columns.split(",")] if columns else None
    found = load(names, storage=storage, tracking_uri=tracking_uri, where=where, columns=chosen)
    if sql is not None:
        found = ask(sql, found)
    elif form == "table" and chosen is None:
        found = found[_telling_columns(found)]
    if form == "parquet":
        if output is None:
            raise click.UsageError("parquet is not for reading: name a file with --output")
        found.to_parquet(output, index=False)
        return
    text = {
        "csv": lambda: found.to_csv(index=False),
        "json": lambda: found.to_json(orient="records", indent=1) + "\n",
        "table": lambda: render_table(list(found.columns), [_cells(row) for row in found.itertuples(index=False)]),
    }[form]()
    if output is None:
        write(text)
    else:
        output.write_text(text)


def _telling_columns(table: pd.DataFrame) -> list[str]:
    """What `results` shows of the many columns when none are asked for."""
    from orchestrator.analysis.gaps import varying_axes

    measured = ("transfer_accuracy", "direct_probe_accuracy", "random_init_accuracy", "gap", "status")
    readings = [name for name in ("protocol", "shots") if table[name].nunique(dropna=False) > 1]
    sweep = ["sweep"] if table["sweep"].nunique() > 1 else []
    return [*sweep, "trial", *varying_axes(table), "component", "seed", *readings, *measured]


def _cells(row: Sequence[Any]) -> tuple[str, ...]:
    import pandas as pd

    return tuple("" if pd.isna(v) else f"{v:.4f}" if isinstance(v, float) else str(v) for v in row)


@click.command(short_help="Judge the claims of the information saturation bottleneck.")
@click.argument("sweeps", metavar="SWEEP...", nargs=-1, required=True, shell_complete=kept)
@storage_option
@json_option
def claims(sweeps: Sequence[str], storage: str | None, as_json: bool) -> None:
    """Judge each claim of the information saturation bottleneck by the results of one sweep, or of several together."""
    from orchestrator.analysis import claims as judge
    from trainables.spec import as_json as plain

    found = judge.verdicts(loaded(sweeps, storage))
    if as_json:
        click.echo(json.dumps([plain(claim) for claim in found], indent=1))
        return
    header, *rows = judge.rows(found)
    print_table(header, rows)
    show()
    for claim in found:
        show(f"{claim.id}  {claim.statement}\n    {claim.sentence}")


@click.command(short_help="Tell unused features from lost ones.")
@click.argument("sweeps", metavar="SWEEP...", nargs=-1, required=True, shell_complete=kept)
@click.option(
    "--margin", default=1.0, show_default=True, help="Points below direct training that still count as reaching it."
)
@storage_option
@json_option
def ladder(sweeps: Sequence[str], margin: float, storage: str | None, as_json: bool) -> None:
    """Climb the loss ladder of every component: are its features unused, entangled, recoverable or lost?"""
    from orchestrator.analysis import ladder as climb
    from trainables.spec import as_json as plain

    found = climb.ladder(loaded(sweeps, storage), margin=margin / 100)
    if as_json:
        click.echo(json.dumps([{**plain(one), "sentence": one.sentence} for one in found], indent=1))
        return
    for one in found:
        show(one.sentence)
        header, *rows = climb.rows(one)
        print_table(header, rows)
        show()


@click.command(short_help="Say what the results show, the most important first.")
@click.argument("sweeps", metavar="SWEEP...", nargs=-1, required=True, shell_complete=kept)
@click.option(
    "--margin",
    type=click.FloatRange(0, min_open=True),
    default=0.5,
    show_default=True,
    metavar="POINTS",
    help="The smallest loss that would matter, in points of accuracy.",
)
@click.option(
    "--alpha",
    type=click.FloatRange(0, 0.5, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    metavar="RATE",
    help="The share of a sweep's statements that may be wrong.",
)
@storage_option
@json_option
def findings(sweeps: Sequence[str], margin: float, alpha: float, storage: str | None, as_json: bool) -> None:
    """Say what the results of sweeps show: recommendations, losses, what recovers them, and what cannot be told."""
    from orchestrator.analysis import find
    from trainables.spec import as_json as plain

    found = find(loaded(sweeps, storage), margin=margin / 100, alpha=alpha)
    if as_json:
        named = [{**plain(one), "size": one.size, "rows": [row._asdict() for row in one.rows]} for one in found]
        click.echo(json.dumps({**plain(found), "statements": named}, indent=1))
        return
    _print_statements(found, several=len(sweeps) > 1)
    missing = ", ".join(f"{count} {reason}" for reason, count in found.left_out.items())
    say(f"{found.rows} rows{f'; left out: {missing}' if missing else ''}")
    say(f"95 % intervals over seeds; of a sweep's statements, {100 * found.alpha:g} % at most are expected to be wrong")


def _print_statements(found: Findings, *, several: bool) -> None:
    """Each statement wrapped beside its kind, and its sweep where there are several."""
    labels = [(one.kind.lower().replace("_", " "), *([one.sweep] if several else [])) for one in found]
    widths = [max(map(len, column)) for column in zip(*labels, strict=True)]
    room = min(shutil.get_terminal_size((120, 24)).columns, 120)
    for label, one in zip(labels, found, strict=True):
        margin = "".join(f"{text.ljust(width)}  " for text, width in zip(label, widths, strict=True))
        together = re.sub(r"\b([np]) ([=<]) ", "\\1\u00a0\\2\u00a0", one.sentence)  # `n = 5` stays on one line
        lines = textwrap.wrap(together, max(room - len(margin), 40), break_long_words=False, break_on_hyphens=False)
        show(f"\n{' ' * len(margin)}".join([margin + lines[0], *lines[1:]]).replace("\u00a0", " "))


@click.command(short_help="Print indices, fits and tests.")
@click.argument("sweeps", metavar="SWEEP...", nargs=-1, required=True, shell_complete=kept)
@storage_option
@json_option
def analyse(sweeps: Sequence[str], storage: str | None, as_json: bool) -> None:
    """Print what the results of one sweep, or of several together, come to: indices, fits, times, tests, intervals."""
    import pandas as pd

    from orchestrator.analysis.summary import summary
    from orchestrator.results import trajectories
    from trainables.spec import as_json as plain

    curves = pd.concat([trajectories(name_of(sweep), storage=storage) for sweep in sweeps], ignore_index=True)
    found = summary(loaded(sweeps, storage), _answers(sweeps, storage), curves)
    if as_json:
        click.echo(json.dumps([plain(section) for section in found], indent=1))
        return
    if not found:
        say("no gap has been measured yet; `bottleneck status` shows how far the sweep is")
    for section in found:
        show(section.title)
        print_table(section.header, section.rows)
        show(f"{section.remark}\n" if section.remark else "")


ANSWERED = ("component", "seed", "protocol", "shots")  # what tells the rows of a trial apart


def _answers(sweeps: Sequence[str], storage: str | None) -> Correct:
    """Of a row, whether direct training and transfer were right about each test example, as the store has it."""
    import pandas as pd

    from orchestrator.journal import Journal
    from trainables.store import DamagedEntry

    store = store_at(storage)
    plans = [Journal(store, name_of(sweep)).plan() for sweep in sweeps]
    cells = {
        (plan["sweep"], trial["digest"][:12], *(cell[name] for name in ANSWERED)): cell
        for plan in plans
        for trial in plan["trials"]
        for cell in trial["cells"]
    }

    def correct(row: Mapping[Any, Any]) -> tuple[Any, Any] | None:
        cell = cells[tuple(None if pd.isna(row[name]) else row[name] for name in ("sweep", "trial", *ANSWERED))]
        direct = next(one for one in cell["baselines"] if one["pretrain"].startswith(row["direct_digest"]))
        try:
            arms = [store.tensors("probe", digest, "test") for digest in (direct["probe"], cell["transfer"])]
        except (FileNotFoundError, DamagedEntry):
            return None
        return arms[0]["correct"].numpy(), arms[1]["correct"].numpy()

    return correct


MOST_CELLS = 20  # listed of those that one sweep has alone


@click.command(short_help="Say what differs between two sweeps.")
@click.argument("first", metavar="A", shell_complete=kept)
@click.argument("second", metavar="B", shell_complete=kept)
@storage_option
@click.option("--other-storage", metavar="LOCATION", help="Where B is kept. Default: where A is.")
@json_option
def compare(first: str, second: str, storage: str | None, other_storage: str | None, as_json: bool) -> None:
    """Say what differs between two sweeps: their files, which cells they have, and the numbers in cells of both.

    A cell is a point of the design, a component, a protocol and its shots. Its seeds are paired; differences are B
    minus A.
    """
    from orchestrator.analysis import compare as two
    from trainables.spec import as_json as plain

    found = two.compare(_arm(first, storage), _arm(second, other_storage or storage))
    if as_json:
        pairs = [{**plain(pair), "outcome": pair.outcome} for pair in found.pairs]
        verdict = {"equal": found.equal, "same_results": found.same_results}
        click.echo(json.dumps({**verdict, **plain(found), "pairs": pairs}, indent=1))
        return
    show(f"A: {found.first}\nB: {found.second}")
    for sentence in two.sentences(found):
        show(on_one_line(sentence))
    if found.changes:
        print_section("What the sweep files do not share", two.change_rows(found.changes))
    if listed := [pair for pair in found.pairs if not pair.same]:
        print_section("Cells in both that are not the same", two.rows(listed))
        show(two.remark(found))
    for name, cells in (("A", found.only_first), ("B", found.only_second)):
        if cells:
            print_section(f"Only in {name}: {len(cells)} cells", two.cell_rows(cells[:MOST_CELLS]))
        if len(cells) > MOST_CELLS:
            show(f"and {len(cells) - MOST_CELLS} more, which --json lists")


def _arm(sweep: str, storage: str | None) -> Arm:
    """A sweep of a store, for a comparison. A file that is no sweep any more is said, and the rest is compared."""
    from orchestrator import sweep as sweeps
    from orchestrator.analysis.compare import Arm
    from orchestrator.journal import Journal

    name, store = name_of(sweep), store_at(storage)
    journal = Journal(store, name)
    plan = journal.plan()
    try:
        spec = sweeps.plain(sweeps.parse(journal.text(), f"{store.path(journal.folder)}/sweep.yaml"))
    except sweeps.SweepError as error:
        say(f"{error}; the sweep files are not compared")
        spec = None
    return Arm(
        name=f"{name} in {store.shown}",
        table=loaded([name], storage),
        spec=spec,
        correct=_answers([name], storage),
        contents={component: facts["content"] for component, facts in plan["components"].items()},
    )


@click.command(short_help="Compute a trial again and compare.")
@click.argument("trial", metavar="TRIAL")
@click.option("--sweep", metavar="NAME", help="The sweep that it belongs to. Default: all of the store are searched.")
@click.option("--seed", type=int, metavar="N", help="Which of its seeds. Default: the first.")
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    default=0.001,
    show_default=True,
    metavar="SHARE",
    help="How far numbers may be apart: 0.001 is 0.1 points of accuracy, and a thousandth of the largest weight.",
)
@storage_option
@json_option
@click.pass_context
def replay(
    context: click.Context,
    trial: str,
    sweep: str | None,
    seed: int | None,
    tolerance: float,
    storage: str | None,
    as_json: bool,
) -> None:
    """Compute one seed of a trial again, without Ray, and compare every stage with what the store has.

    TRIAL is the beginning of its digest, or its label. The store is only read. Exit 0: bit-equal or within the
    tolerance; 1: different, and the first stage and step that differ are said, or nothing is stored to compare with.
    """
    from orchestrator import replay as replays
    from orchestrator.settings import storage_location

    location, name = storage_location(storage).value, name_of(sweep) if sweep else None
    found = replays.replay(location, trial, sweep=name, seed=seed, tolerance=tolerance, say=say)
    if as_json:
        click.echo(json.dumps(replays.as_json(found), indent=1))
    else:
        show(f"{found.sweep}, trial {found.trial[:12]}, seed {found.seed}: {found.label}")
        print_table(("stage", "verdict", "difference", "first"), replays.rows(found))
        for line in found.elsewhere:
            say(line)
        show(found.sentence)
    context.exit(0 if found.verdict in ("bit-equal", "within tolerance") else 1)
