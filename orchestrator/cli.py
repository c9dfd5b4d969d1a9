"""The command line: each command parses, calls one function and prints.

Data goes to stdout, talk to stderr. Exit 0: success; 1: some trials failed; 2: bad usage or a bad sweep; 130:
interrupted. Heavy modules are imported inside the commands that use them.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from orchestrator.settings import without_password
from orchestrator.terminal import PrintableFormatter, printable
from trainables.errors import UserError

# Our models need no pydantic plug-ins, and looking for some costs a tenth of the time that `plan` takes.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

if TYPE_CHECKING:
    import pandas as pd
    from click.shell_completion import CompletionItem

    from orchestrator.analysis import Findings
    from orchestrator.analysis.compare import Arm
    from orchestrator.analysis.summary import Correct
    from orchestrator.collect import Choice
    from orchestrator.doctor import Finding
    from orchestrator.draft import Draft
    from orchestrator.journal import Journal
    from orchestrator.plan import Assignment, Plan, Price
    from orchestrator.report.figures import Evidence
    from orchestrator.sweep import Sweep
    from trainables.store import Store

Command = TypeVar("Command", bound=Callable[..., Any])


def main() -> None:
    """The `bottleneck` command."""
    if logging.lastResort:
        logging.lastResort.setFormatter(PrintableFormatter())
    try:
        code = bottleneck(standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):  # click turns the one into the other
        # A sweep goes on from where it was; these have nothing to go on from, and one of them was asking.
        said = {"init": "\nstopped", "replay": "stopped"}
        _say(said.get("".join(sys.argv[1:2]), "stopped; the same command continues"))
        sys.stdout.flush()
        os._exit(130)  # at once, without waiting for threads
    except click.ClickException as error:
        error.show()
        code = 2
    except UserError as error:
        _say(" ".join(str(error).splitlines()))
        code = 2
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        sys.stderr.close()
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


# What a shell completes. Nothing that asks a server: it is waited for after every press of the key.


def _shipped(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """The sweeps that ship with the program, or a file."""
    from orchestrator.sweep import canonical

    return _completed(canonical(), typed)


def _kept(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """The sweeps of a store in a folder, or a file."""
    from orchestrator.journal import NAME
    from orchestrator.settings import storage_location

    folder = Path(storage_location(context.params.get("storage")).value) / "sweeps"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return _completed(sorted(name for name in names if re.fullmatch(NAME, name)), typed)


def _completed(names: Sequence[str], typed: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    found = [CompletionItem(name) for name in names if name.startswith(typed)]
    return found or [CompletionItem(typed, type="file")]


def _set_option(command: Command) -> Command:
    return click.option(
        "--set", "overrides", multiple=True, metavar="KEY.PATH=VALUE", help="Replace a value of the sweep file."
    )(command)


def _storage_option(command: Command) -> Command:
    return click.option(
        "--storage",
        metavar="LOCATION",
        help="Where results are kept: a folder or a URI such as s3://bucket/folder.",
    )(command)


def _tracking_option(command: Command) -> Command:
    return click.option(
        "--tracking-uri",
        metavar="URI",
        help="MLflow server or database. Default: SQLite in the storage folder.",
    )(command)


def _json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(command)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="transfer-bottleneck", prog_name="bottleneck")
def bottleneck() -> None:
    """Does a network pretrained on a mixture keep the features that each component needs?

    SWEEP is a sweep file, or the name of one that ships with the program, such as quickstart.
    """


@bottleneck.command(short_help="Write a first sweep file.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), default=Path("sweep.yaml"))
@click.option(
    "--from",
    "folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="A folder of pictures: FOLDER/CLASS/*.jpg or FOLDER/COMPONENT/CLASS/*.jpg. Nothing is asked.",
)
def init(file: Path, folder: Path | None) -> None:
    """Write a sweep file with a comment for every key, small enough for minutes on a laptop. Default: sweep.yaml.

    What it is about is asked on the terminal, or found in a folder of pictures. A file that exists stays as it is.
    """
    from orchestrator import draft as drafts

    if file.suffix not in (".yaml", ".yml"):
        raise drafts.DraftError(f"{file}: found a name without .yaml at its end, which a sweep file has")
    if file.exists():
        raise drafts.DraftError(f"{file} exists and stays as it is; name another file")
    if folder is None and not sys.stdin.isatty():
        raise drafts.DraftError("init asks its questions on a terminal; name a folder of pictures with --from instead")
    draft = drafts.of_folder(folder) if folder else _asked()
    written = drafts.write(draft, file)
    _say(f"found {draft.found}")
    _say(f"wrote {file}; next:")
    for command in ("validate", "plan", "run"):
        _show(shlex.join(["bottleneck", command, str(file)]))
    for command in ("findings", "report"):
        _show(shlex.join(["bottleneck", command, written.name]))


def _asked() -> Draft:
    """A draft by what is answered on the terminal; every question has a default."""
    from orchestrator import draft as drafts

    there = drafts.available()
    _say(f"Found here, bundled or below BOTTLENECK_DATA: {', '.join(there)}.")

    def among(known: Sequence[str]) -> Callable[[str], list[str]]:
        def read(answer: str) -> list[str]:
            words = list(dict.fromkeys(answer.replace(",", " ").split()))
            unknown = [word for word in words if word not in known]
            if unknown:
                raise click.UsageError(f"there is no {unknown[0]!r}; possible are {', '.join(known)}")
            return words

        return read

    real = ", ".join(there[1:3] if len(there) > 2 else there[:1])
    datasets = click.prompt(
        "Components, one alone is divided by its classes", default=real, value_proc=among(there), err=True
    )
    parts = datasets if len(datasets) > 1 else ["some classes", "the others"]
    question = click.prompt("Question", default=drafts.usual_question(parts), err=True)
    others = f"What to vary beside the mixture ({', '.join(drafts.VARIED)}, or nothing)"
    varied = click.prompt(others, default="nothing", value_proc=among([*drafts.VARIED, "nothing"]), err=True)
    seeds = click.prompt("Repetitions of each trial", default=drafts.SEEDS, type=click.IntRange(1, 100), err=True)
    steps = click.prompt("Steps of each pretraining", default=drafts.STEPS, type=click.IntRange(1, 10**6), err=True)
    kept = [name for name in varied if name != "nothing"]
    return drafts.of_datasets(datasets, question=question, varied=kept, seeds=seeds, steps=steps)


@bottleneck.command(short_help="Check a sweep without running it.")
@click.argument("sweep", metavar="SWEEP", required=False, shell_complete=_shipped)
@_set_option
@click.option("--resolved", is_flag=True, help="Print the sweep with every default filled in.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of sweep files, for editors.")
def validate(sweep: str | None, overrides: Sequence[str], resolved: bool, schema: bool) -> None:
    """Check a sweep file, its data and its networks, without running anything."""
    from orchestrator import sweep as sweeps

    if schema:
        click.echo(json.dumps(sweeps.json_schema(), indent=2))
        return
    if sweep is None:
        raise click.UsageError(f"name a sweep file, or one of: {', '.join(sweeps.canonical())}")
    read = _read(sweep, overrides)
    if resolved:
        _write(sweeps.resolved(read))
        return
    from orchestrator.plan import imports
    from orchestrator.prepare import prepare

    if code := imports(read):
        _show(f"{read.path}: fine, as far as can be told without importing {', '.join(code)}; `plan` imports it")
        return
    planned, _ = prepare(read, _say)
    _show(f"{read.path}: fine, {len(planned.trials)} trials with {_seeds(planned)}")


@bottleneck.command(short_help="Show what a sweep would do and cost.")
@click.argument("sweep", metavar="SWEEP", shell_complete=_shipped)
@_set_option
@_storage_option
@_tracking_option
@click.option("--trials", is_flag=True, help="List the trials in the order of their launch, and what each computes.")
@_json_option
def plan(
    sweep: str, overrides: Sequence[str], storage: str | None, tracking_uri: str | None, trials: bool, as_json: bool
) -> None:
    """Show what a sweep would do, what is shared, and what the store already has."""
    from orchestrator.plan import imports, price, schedule
    from orchestrator.prepare import prepare
    from orchestrator.settings import storage_location, tracking_location
    from trainables.store import Store

    planned, sizes = prepare(_read(sweep, overrides), _say)
    location = storage_location(storage)
    store = Store(location.value)
    stored = store.existing((stage.kind, digest) for digest, stage in planned.stages.items())
    found = price(planned, sizes, stored)
    tracking = tracking_location(store.folder, tracking_uri)
    if as_json:
        click.echo(json.dumps({"sweep": planned.sweep.name, **_price_json(found), "storage": store.shown}, indent=2))
        return
    lines = [*_price_lines(found, planned), ("storage", f"{store.shown}  (from: {location.origin})")]
    lines.append(("MLflow", f"{without_password(tracking.value)}  (from: {tracking.origin})"))
    for component in planned.components.values():
        lines += _component_lines(planned, component)
    lines += [("imports", name) for name in imports(planned.sweep)]
    _print_pairs(f"{planned.sweep.name}: {planned.sweep.question}", lines)
    if trials:
        _show()
        header = ("trial", "pretrainings", "probes", "FLOPs", "design")
        _print_table(header, [_assignment_row(assignment) for assignment in schedule(planned, sizes, stored)])


@bottleneck.command(short_help="Run a sweep, or continue it.")
@click.argument("sweep", metavar="SWEEP", shell_complete=_shipped)
@_set_option
@_storage_option
@_tracking_option
@click.option("--plain", is_flag=True, help="Plain lines of progress, also on a terminal.")
@click.pass_context
def run(
    context: click.Context,
    sweep: str,
    overrides: Sequence[str],
    storage: str | None,
    tracking_uri: str | None,
    plain: bool,
) -> None:
    """Run a sweep, or continue it; then print its gaps and write its report.

    Ctrl-C saves the state of the running trials and stops; the same command continues. A second Ctrl-C stops at once.
    """
    from orchestrator.prepare import prepare
    from orchestrator.settings import storage_location, tracking_location
    from trainables.store import Store

    read = _read(sweep, overrides)
    store = Store(storage_location(storage).value)
    store.check()
    planned, sizes = prepare(read, _say)
    uri = tracking_location(store.folder, tracking_uri).value
    from orchestrator.run import run as run_sweep
    from orchestrator.tracking import check_login, check_uri

    check_uri(uri)
    check_login(uri)
    _say(f"{read.name}: {read.question}")
    outcome = run_sweep(planned, store, sizes, tracking_uri=uri, command=_command(), live=False if plain else None)
    _print_gaps(outcome.table)
    _say(
        f"{outcome.computed} stages computed, {outcome.stored} reused; trials: "
        + ", ".join(f"{count} {status}" for status, count in outcome.trials.items())
    )
    _print_failures(outcome.table)
    _say(f"report   {outcome.report}")
    _say(f"MLflow   {without_password(uri)}   (look: bottleneck ui)")
    if outcome.interrupted:
        _say("interrupted; the same command continues")
    context.exit(outcome.exit_code)


@bottleneck.command(short_help="Show how far sweeps are.")
@click.argument("sweep", metavar="[SWEEP]", required=False, shell_complete=_kept)
@_storage_option
@_json_option
@click.option("--watch", is_flag=True, help="Follow the sweep until nobody runs it; with --json a line for each look.")
@click.option(
    "--every",
    type=click.FloatRange(0.1),
    metavar="SECONDS",
    help="How often --watch looks. Default: 2, for an object store and for plain lines 15.",
)
@click.pass_context
def status(
    context: click.Context, sweep: str | None, storage: str | None, as_json: bool, watch: bool, every: float | None
) -> None:
    """Show how far the sweeps in a store are, or one of them with its trials.

    --watch ends by itself. Exit 0: the sweep is finished; 1: nobody runs it, and it is not.
    """
    import time

    from orchestrator import display
    from orchestrator.journal import Journal
    from orchestrator.status import in_numbers, snapshot, trial_lines

    store = _store(storage)
    if watch or every is not None:
        if sweep is None or not watch:
            raise click.UsageError("name the sweep to --watch" if watch else "--every is for --watch")
        context.exit(_watch(Journal(store, _name(sweep)), every, as_json))
    journals = [Journal(store, name) for name in ([_name(sweep)] if sweep else store.names("sweeps"))]
    snapshots, now = [snapshot(journal) for journal in journals], time.time()
    if as_json:
        click.echo(json.dumps([in_numbers(*one, now) for one in zip(journals, snapshots, strict=True)], indent=2))
        return
    if not journals:
        _say(f"storage {store.shown!r} has no sweeps")
    for journal, found in zip(journals, snapshots, strict=True):
        _print_pairs(journal.sweep, display.lines(found, now))
    if sweep:
        _print_table(("trial", "status", "design"), trial_lines(journals[0], snapshots[0]))


def _watch(journal: Journal, every: float | None, as_json: bool) -> int:
    """Follow a sweep; the exit code, which Ctrl-C makes 130."""
    from orchestrator.display import watch

    try:
        found = watch(journal, every_s=every, as_json=as_json, file=sys.stdout)
    except KeyboardInterrupt:
        return 130
    if found.state == "finished":
        return 0
    _say(f"nobody is running {journal.sweep} ({found.state}); `bottleneck run` continues it")
    return 1


@bottleneck.command(short_help="Print the results table.")
@click.argument("sweeps", metavar="[SWEEP]...", nargs=-1, shell_complete=_kept)
@_storage_option
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
    names = [_name(sweep) for sweep in sweeps] or None
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
        "table": lambda: _render_table(list(found.columns), [_cells(row) for row in found.itertuples(index=False)]),
    }[form]()
    if output is None:
        _write(text)
    else:
        output.write_text(text)


@bottleneck.command(short_help="Judge the claims of the information saturation bottleneck.")
@click.argument("sweeps", metavar="SWEEP...", nargs=-1, required=True, shell_complete=_kept)
@_storage_option
@_json_option
def claims(sweeps: Sequence[str], storage: str | None, as_json: bool) -> None:
    """Judge each claim of the information saturation bottleneck by the results of one sweep, or of several together."""
    from orchestrator.analysis import claims as judge
    from trainables.spec import as_json as plain

    found = judge.verdicts(_loaded(sweeps, storage))
    if as_json:
        click.echo(json.dumps([plain(claim) for claim in found], indent=1))
        return
    header, *rows = judge.rows(found)
    _print_table(header, rows)
    _show()
    for claim in found:
        _show(f"{claim.id}  {claim.statement}\n    {claim.sentence}")


@bottleneck.command(short_help="Tell unused features from lost ones.")
@click.argument("sweeps", metavar="SWEEP...", nargs=-1, required=True, shell_complete=_kept)
@click.option(
    "--margin", default=1.0, show_default=True, help="Points below direct training that still count as reaching it."
)
@_storage_option
@_json_option
def ladder(sweeps: Sequence[str], margin: float, storage: str | None, as_json: bool) -> None:
    """Climb the loss ladder of every component: are its features unused, entangled, recoverable or lost?"""
    from orchestrator.analysis import ladder as climb
    from trainables.spec import as_json as plain

    found = climb.ladder(_loaded(sweeps, storage), margin=margin / 100)
    if as_json:
        click.echo(json.dumps([{**plain(one), "sentence": one.sentence} for one in found], indent=1))
        return
    for one in found:
        _show(one.sentence)
        header, *rows = climb.rows(one)
        _print_table(header, rows)
        _show()


@bottleneck.command(short_help="Say what the results show, the most important first.")
@click.argument("sweeps", metavar="SWEEP...", nargs=-1, required=True, shell_complete=_kept)
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
@_storage_option
@_json_option
def findings(sweeps: Sequence[str], margin: float, alpha: float, storage: str | None, as_json: bool) -> None:
    """Say what the results of sweeps show: recommendations, losses, what recovers them, and what cannot be told."""
    from orchestrator.analysis import find
    from trainables.spec import as_json as plain

    found = find(_loaded(sweeps, storage), margin=margin / 100, alpha=alpha)
    if as_json:
        named = [{**plain(one), "size": one.size, "rows": [row._asdict() for row in one.rows]} for one in found]
        click.echo(json.dumps({**plain(found), "statements": named}, indent=1))
        return
    _print_statements(found, several=len(sweeps) > 1)
    missing = ", ".join(f"{count} {reason}" for reason, count in found.left_out.items())
    _say(f"{found.rows} rows{f'; left out: {missing}' if missing else ''}")
    _say(
        f"95 % intervals over seeds; of a sweep's statements, {100 * found.alpha:g} % at most are expected to be wrong"
    )


@bottleneck.command(short_help="Print indices, fits and tests.")
@click.argument("sweeps", metavar="SWEEP...", nargs=-1, required=True, shell_complete=_kept)
@_storage_option
@_json_option
def analyse(sweeps: Sequence[str], storage: str | None, as_json: bool) -> None:
    """Print what the results of one sweep, or of several together, come to: indices, fits, times, tests, intervals."""
    import pandas as pd

    from orchestrator.analysis.summary import summary
    from orchestrator.results import trajectories
    from trainables.spec import as_json as plain

    curves = pd.concat([trajectories(_name(sweep), storage=storage) for sweep in sweeps], ignore_index=True)
    found = summary(_loaded(sweeps, storage), _answers(sweeps, storage), curves)
    if as_json:
        click.echo(json.dumps([plain(section) for section in found], indent=1))
        return
    if not found:
        _say("no gap has been measured yet; `bottleneck status` shows how far the sweep is")
    for section in found:
        _show(section.title)
        _print_table(section.header, section.rows)
        _show(f"{section.remark}\n" if section.remark else "")


@bottleneck.command(short_help="Say what differs between two sweeps.")
@click.argument("first", metavar="A", shell_complete=_kept)
@click.argument("second", metavar="B", shell_complete=_kept)
@_storage_option
@click.option("--other-storage", metavar="LOCATION", help="Where B is kept. Default: where A is.")
@_json_option
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
    _show(f"A: {found.first}\nB: {found.second}")
    for sentence in two.sentences(found):
        _show(_on_one_line(sentence))
    if found.changes:
        _print_section("What the sweep files do not share", two.change_rows(found.changes))
    if listed := [pair for pair in found.pairs if not pair.same]:
        _print_section("Cells in both that are not the same", two.rows(listed))
        _show(two.remark(found))
    for name, cells in (("A", found.only_first), ("B", found.only_second)):
        if cells:
            _print_section(f"Only in {name}: {len(cells)} cells", two.cell_rows(cells[:MOST_CELLS]))
        if len(cells) > MOST_CELLS:
            _show(f"and {len(cells) - MOST_CELLS} more, which --json lists")


@bottleneck.command(short_help="Compute a trial again and compare.")
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
@_storage_option
@_json_option
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

    location, name = storage_location(storage).value, _name(sweep) if sweep else None
    found = replays.replay(location, trial, sweep=name, seed=seed, tolerance=tolerance, say=_say)
    if as_json:
        click.echo(json.dumps(replays.as_json(found), indent=1))
    else:
        _show(f"{found.sweep}, trial {found.trial[:12]}, seed {found.seed}: {found.label}")
        _print_table(("stage", "verdict", "difference", "first"), replays.rows(found))
        for line in found.elsewhere:
            _say(line)
        _show(found.sentence)
    context.exit(0 if found.verdict in ("bit-equal", "within tolerance") else 1)


@bottleneck.command(short_help="Write the report again.")
@click.argument("sweep", metavar="SWEEP", shell_complete=_kept)
@_storage_option
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the page here as well.")
def report(sweep: str, storage: str | None, output: Path | None) -> None:
    """Write a sweep's report again from the store, and print where it lies."""
    from orchestrator.rebuild import rebuild_report

    page = rebuild_report(_store(storage), _name(sweep), _command())
    if output:
        output.write_bytes(page.content)
    _show(str(output or page.path))


@bottleneck.command(short_help="Draw a figure, or list those that there are.")
@click.argument("words", metavar="[NAME] SWEEP...", nargs=-1)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path(),
    help="A .svg, .pdf or .png file, or a folder. Default: here.",
)
@click.option("--narrow", is_flag=True, help="For a phone or one column of print: 3.7 inches wide, not 8.6.")
@click.option("--list", "listed", is_flag=True, help="List the figures, and which of them the sweeps can fill.")
@_storage_option
def figure(words: Sequence[str], out: Path, narrow: bool, listed: bool, storage: str | None) -> None:
    """Draw the figure NAME of one sweep or of several, write its numbers as CSV beside it, and print both paths.

    The caption goes to stderr. `bottleneck figure --list SWEEP...` says which figures sweeps can fill.
    """
    from orchestrator.report import figures

    if listed or not words:
        found = figures.evidence([_name(sweep) for sweep in words], storage) if words else None
        _print_table(*_listed_figures(found))
        return
    name, *sweeps = words
    kind = figures.kind_of(name)
    if not sweeps:
        raise click.UsageError(f"figure {name} of which sweep? name one or several")
    path = figures.place(out, name)
    caption, files = figures.write(
        kind, figures.evidence([_name(sweep) for sweep in sweeps], storage), path, narrow=narrow
    )
    for file in files:
        _show(str(file))
    _say(f"{kind.title}. {caption}")


@bottleneck.command(short_help="Bring MLflow up to date with the store.")
@click.argument("sweep", metavar="SWEEP", shell_complete=_kept)
@_storage_option
@_tracking_option
def sync(sweep: str, storage: str | None, tracking_uri: str | None) -> None:
    """Bring MLflow up to date with the store, from nothing if need be."""
    from orchestrator.rebuild import rebuild_tracking
    from orchestrator.settings import tracking_location

    store = _store(storage)
    uri = tracking_location(store.folder, tracking_uri).value
    count = rebuild_tracking(store, _name(sweep), uri, _command())
    _say(f"{count} runs written to {without_password(uri)}")


@bottleneck.command(short_help="Remove what no sweep needs.")
@_storage_option
@click.option("--sweep", "sweeps", multiple=True, metavar="NAME", help="Forget this sweep and what only it needs.")
@click.option("--older-than", metavar="AGE", help="Remove stages that no sweep needs and nobody used for so long: 30d.")
@click.option("--keep-size", metavar="SIZE", help="Remove stages that no sweep needs, oldest use first, down to: 50GB.")
@click.option("--dry-run", is_flag=True, help="Say what would go, and remove nothing.")
@click.option("--yes", is_flag=True, help="Remove without asking.")
@_json_option
def gc(
    storage: str | None,
    sweeps: Sequence[str],
    older_than: str | None,
    keep_size: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Remove from the store what faults have left, and of what no kept sweep needs that which is asked for.

    What a kept sweep needs always stays; a sweep is forgotten by its name alone. MLflow keeps its runs.
    """
    import time

    from orchestrator import collect

    if not (dry_run or yes or sys.stdin.isatty()):
        raise click.UsageError("gc removes files: look with --dry-run, then say --yes")
    age = collect.age(older_than) if older_than else None
    size = collect.size(keep_size) if keep_size else None
    store = _store(storage)
    with collect.alone(store):
        names = tuple(dict.fromkeys(map(_name, sweeps)))
        choice = collect.choose(store, now=time.time(), sweeps=names, older_than_s=age, keep_bytes=size)
        removed = choice.items and not dry_run and (yes or _confirmed(choice))
        if removed:
            collect.remove(store, choice)
    _print_choice(choice, store, bool(removed), as_json)


def _confirmed(choice: Choice) -> bool:
    from orchestrator.collect import readable

    _say(
        "\n".join(
            f"  {what:<24} {number:>8,}  {readable(size):>8}" for what, (number, size) in choice.by_what().items()
        )
    )
    return click.confirm(f"Remove {len(choice.items):,} items, {readable(choice.bytes)}?", err=True)


def _print_choice(choice: Choice, store: Store, removed: bool, as_json: bool) -> None:
    from orchestrator.collect import readable

    groups = choice.by_what()
    if as_json:
        found = [{"what": what, "number": number, "bytes": size} for what, (number, size) in groups.items()]
        kept = {"kept_bytes": choice.kept_bytes, "too_much_bytes": choice.too_much}
        click.echo(json.dumps({"removed": removed, "items": found, "bytes": choice.bytes, **kept}, indent=2))
        return
    if groups:
        total = ("all", f"{len(choice.items):,}", readable(choice.bytes))
        rows = [(what, f"{number:,}", readable(size)) for what, (number, size) in groups.items()]
        _print_table(("removed" if removed else "would go", "number", "bytes"), [*rows, total])
    after = readable(choice.kept_bytes)
    _say(f"{store.shown}: {'nothing to remove; ' if not groups else ''}{after} {'stay' if removed else 'would stay'}")
    if choice.too_much:
        _say(f"{readable(choice.too_much)} more than asked for, which sweeps need; forget one with --sweep")


@bottleneck.command(short_help="Open MLflow on the runs.")
@_storage_option
@_tracking_option
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=5000, show_default=True)
def ui(storage: str | None, tracking_uri: str | None, host: str, port: int) -> None:
    """Open the MLflow user interface on the runs (stop it with Ctrl-C)."""
    from orchestrator.settings import tracking_location

    store = _store(storage)
    uri = tracking_location(store.folder, tracking_uri).value
    if uri.startswith(("http://", "https://")):
        _show(f"the tracking server shows the runs itself: {without_password(uri)}")
        return
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # seven processes that sweeps do not need
    arguments = ["ui", "--backend-store-uri", uri, "--host", host, "--port", str(port)]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", *arguments])


@bottleneck.command(short_help="Check whether the machines can run sweeps.")
@click.argument("sweep", metavar="[SWEEP]", required=False, shell_complete=_shipped)
@_storage_option
@_tracking_option
@click.option("--cluster", metavar="ADDRESS", help="Check the nodes of this Ray cluster. Default: RAY_ADDRESS.")
@click.option("--timeout", default=120.0, show_default=True, metavar="SECONDS", help="How long a machine may take.")
@_json_option
@click.pass_context
def doctor(
    context: click.Context,
    sweep: str | None,
    storage: str | None,
    tracking_uri: str | None,
    cluster: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Check whether this machine can run sweeps, and with RAY_ADDRESS every node of the cluster.

    Versions, storage, tracking, data, devices, clocks, limits, open ports. With SWEEP, the data of its components has
    to be the same everywhere. Exit 0: all fine; 1: something is not; each such line says what to do.
    """
    from orchestrator.doctor import examine

    if cluster:
        os.environ["RAY_ADDRESS"] = cluster  # as every other command reads it
    components = None
    if sweep:
        from orchestrator.prepare import prepare

        components = prepare(_read(sweep, ()), _say)[0].components
    findings = examine(storage, tracking_uri, components=components, timeout_s=timeout, say=_say)
    if as_json:
        click.echo(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        _print_findings(findings)
    context.exit(0 if all(f.fine for f in findings) else 1)


@bottleneck.command(short_help="Print a script that completes commands in a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), required=False)
def completion(shell: str | None) -> None:
    """Print what makes a shell complete commands, options and names of sweeps; for the shell of $SHELL unless named.

    bash: `bottleneck completion bash >> ~/.bashrc`; zsh: the same with ~/.zshrc; fish: into
    ~/.config/fish/completions/bottleneck.fish.
    """
    from click.shell_completion import get_completion_class

    name = shell or Path(os.environ.get("SHELL", "")).name
    script = get_completion_class(name)
    if script is None:
        raise click.UsageError(f"found {name!r} as the shell of $SHELL; name one of bash, zsh, fish")
    _write(script(bottleneck, {}, "bottleneck", "_BOTTLENECK_COMPLETE").source())


# Reading ----------------------------------------------------------------------------------------------------------


def _read(sweep: str, overrides: Sequence[str]) -> Sweep:
    from orchestrator.sweep import locate, read

    return read(locate(sweep), overrides)


def _name(sweep: str) -> str:
    """The name of a sweep that has run, from its name or its file."""
    if sweep.endswith((".yaml", ".yml")):
        return str(_read(sweep, ()).name)
    return sweep


def _store(storage: str | None) -> Store:
    from orchestrator.settings import storage_location
    from trainables.store import Store

    return Store(storage_location(storage).value)


def _command() -> str:
    return shlex.join(["bottleneck", *map(without_password, sys.argv[1:])])


# Printing ---------------------------------------------------------------------------------------------------------


def _say(line: str) -> None:
    click.echo(printable(line), err=True)


def _show(text: str = "") -> None:
    click.echo(printable(text))


def _write(text: str) -> None:
    """Data, as it is for a file or a program; a terminal is shown what it does not obey."""
    click.echo(printable(text) if sys.stdout.isatty() else text, nl=False)


def _seeds(planned: Plan) -> str:
    count = len(planned.sweep.seeds)
    return f"{count} seed{'s' if count != 1 else ''} each"


def _price_json(found: Price) -> dict[str, Any]:
    from trainables.spec import as_json

    return {**as_json(found), "share_saved": found.share_saved}


def _price_lines(found: Price, planned: Plan) -> list[tuple[str, str]]:
    from orchestrator.plan import STAGE_COUNTS

    counts = {spoken: getattr(found, name) for name, spoken in STAGE_COUNTS.items()}
    unique = f"{found.stages:,} unique stages: " + ", ".join(f"{n:,} {spoken}" for spoken, n in counts.items() if n)
    from orchestrator.space import Optuna

    searched = ", chosen as results come in: what follows is of as many like them"
    return [
        (
            "trials",
            f"{found.trials:,} with {_seeds(planned)}{searched if isinstance(planned.sweep.search, Optuna) else ''}",
        ),
        ("work", unique),
        ("alone", f"{found.alone:,} stages, if every trial ran alone and shared nothing"),
        ("stored", f"{found.stored:,} of them are in the store"),
        ("to do", f"{found.examples:,} examples, about {found.flops:.2e} FLOPs"),
        ("saved", f"{100 * found.share_saved:.1f} % of the arithmetic of running every trial alone"),
        ("detects", _detects(len(planned.sweep.seeds))),
    ]


def _detects(seeds: int) -> str:
    """The smallest gap that so many seeds can tell from 0."""
    from orchestrator.plan import detectable

    found = detectable(seeds)
    if found is None:
        return "nothing about other seeds: with one seed there is no seed uncertainty"
    return f"gaps from {found:.1f} times their standard deviation over seeds on (80 % power, two-sided 5 %)"


def _assignment_row(assignment: Assignment) -> tuple[str, ...]:
    kinds = [stage.kind for stage in assignment.first_needs]
    trial = assignment.trial
    counts = (str(kinds.count("pretrain")), str(kinds.count("probe")), f"{assignment.flops:.2e}")
    return (trial.digest[:12], *counts, trial.design.label)


def _component_lines(planned: Plan, component: Any) -> list[tuple[str, str]]:
    name = next(n for n, c in planned.components.items() if c is component)
    channels, height, width = component.image_shape
    return [
        (
            "component",
            f"{name}: {component.source.dataset}, {component.num_classes} classes, {height}x{width}x{channels}, "
            f"{component.num_train:,} train, {component.num_validation:,} validation, {component.num_test:,} test",
        )
    ]


def _print_pairs(title: str, pairs: Sequence[tuple[str, str]]) -> None:
    _show(title)
    for what, value in pairs:
        _show(f"  {what:<10} {value}")


def _loaded(sweeps: Sequence[str], storage: str | None) -> pd.DataFrame:
    """The results tables of sweeps, one below the other."""
    from orchestrator.results import load

    return load([_name(sweep) for sweep in sweeps], storage=storage)


ANSWERED = ("component", "seed", "protocol", "shots")  # what tells the rows of a trial apart


def _answers(sweeps: Sequence[str], storage: str | None) -> Correct:
    """Of a row, whether direct training and transfer were right about each test example, as the store has it."""
    import pandas as pd

    from orchestrator.journal import Journal
    from trainables.store import DamagedEntry

    store = _store(storage)
    plans = [Journal(store, _name(sweep)).plan() for sweep in sweeps]
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


def _arm(sweep: str, storage: str | None) -> Arm:
    """A sweep of a store, for a comparison. A file that is no sweep any more is said, and the rest is compared."""
    from orchestrator import sweep as sweeps
    from orchestrator.analysis.compare import Arm
    from orchestrator.journal import Journal

    name, store = _name(sweep), _store(storage)
    journal = Journal(store, name)
    plan = journal.plan()
    try:
        spec = sweeps.plain(sweeps.parse(journal.text(), f"{store.path(journal.folder)}/sweep.yaml"))
    except sweeps.SweepError as error:
        _say(f"{error}; the sweep files are not compared")
        spec = None
    return Arm(
        name=f"{name} in {store.shown}",
        table=_loaded([name], storage),
        spec=spec,
        correct=_answers([name], storage),
        contents={component: facts["content"] for component, facts in plan["components"].items()},
    )


def _print_gaps(table: pd.DataFrame) -> None:
    from orchestrator.analysis.gaps import primary, summary_rows

    header, *rows = summary_rows(primary(table))
    _print_table(header, rows)


MOST_FAILURES = 10  # said in the terminal; the report has them all
MOST_CELLS = 20  # listed of those that one sweep has alone


def _telling_columns(table: pd.DataFrame) -> list[str]:
    """What `results` shows of the many columns when none are asked for."""
    from orchestrator.analysis.gaps import varying_axes

    measured = ("transfer_accuracy", "direct_probe_accuracy", "random_init_accuracy", "gap", "status")
    readings = [name for name in ("protocol", "shots") if table[name].nunique(dropna=False) > 1]
    sweep = ["sweep"] if table["sweep"].nunique() > 1 else []
    return [*sweep, "trial", *varying_axes(table), "component", "seed", *readings, *measured]


def _print_failures(table: pd.DataFrame) -> None:
    bad = table[table["status"].isin(["failed", "diverged"])]
    groups = list(bad.groupby(["trial", "status", "error"], sort=False, dropna=False))
    for (trial, status, error), rows in groups[:MOST_FAILURES]:
        seeds = ", ".join(str(seed) for seed in rows["seed"].unique())
        _say(f"{status}: trial {trial}, seed {seeds}: {error}")
    if len(groups) > MOST_FAILURES:
        _say(f"and {len(groups) - MOST_FAILURES} more, in the report")


def _cells(row: Sequence[Any]) -> tuple[str, ...]:
    import pandas as pd

    return tuple("" if pd.isna(v) else f"{v:.4f}" if isinstance(v, float) else str(v) for v in row)


def _listed_figures(found: Evidence | None) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Names and titles and, with evidence, whether it can fill them."""
    from orchestrator.report import figures

    if found is None:
        return ("name", "title"), [(kind.name, kind.title) for kind in figures.FIGURES.values()]
    rows = []
    for kind in figures.FIGURES.values():
        try:
            kind.data(found)
            can = "yes"
        except figures.Refused as why:
            can = f"no: {why}"
        rows.append((kind.name, kind.title, can))
    return ("name", "title", "can be drawn"), rows


def _print_statements(found: Findings, *, several: bool) -> None:
    """Each statement wrapped beside its kind, and its sweep where there are several."""
    labels = [(one.kind.lower().replace("_", " "), *([one.sweep] if several else [])) for one in found]
    widths = [max(map(len, column)) for column in zip(*labels, strict=True)]
    room = min(shutil.get_terminal_size((120, 24)).columns, 120)
    for label, one in zip(labels, found, strict=True):
        margin = "".join(f"{text.ljust(width)}  " for text, width in zip(label, widths, strict=True))
        together = re.sub(r"\b([np]) ([=<]) ", "\\1\u00a0\\2\u00a0", one.sentence)  # `n = 5` stays on one line
        lines = textwrap.wrap(together, max(room - len(margin), 40), break_long_words=False, break_on_hyphens=False)
        _show(f"\n{' ' * len(margin)}".join([margin + lines[0], *lines[1:]]).replace("\u00a0", " "))


def _print_findings(findings: Sequence[Finding]) -> None:
    """A section for each machine, all with the same columns."""
    width = max(len(f.what) for f in findings)
    for node, found in itertools.groupby(findings, key=lambda f: f.node):
        _show(node)
        for f in found:
            _show(f"  {f.mark}  {f.what.ljust(width)}  {f.found}" + ("" if f.fine else f"; {f.remedy}"))
    bad = sum(not f.fine for f in findings)
    _say(f"{bad} of {len(findings)} findings are not fine" if bad else f"all {len(findings)} findings are fine")


def _print_section(title: str, rows: Sequence[Sequence[str]]) -> None:
    _show(f"\n{title}")
    _print_table(rows[0], rows[1:])


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    click.echo(_render_table(header, rows), nl=False)


def _render_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need to be, numbers to the right; on a narrow terminal lines are long, not broken."""
    header, *rows = [[_on_one_line(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    right = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(header))]
    lines = []
    for row in (header, ["─" * w for w in widths], *rows):
        cells = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def _on_one_line(cell: object) -> str:
    return printable(str(cell)).replace("\n", "\\n").replace("\t", "\\t")


def _is_number(text: str) -> bool:
    return re.fullmatch(r"(-?[\d.,]+(e[+-]\d+)?( [kMGT]?B)?\*?|\[.*\])?", text) is not None


if __name__ == "__main__":
    main()
