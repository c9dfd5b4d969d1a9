"""The commands about a sweep that runs: run, status, doctor."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from orchestrator.cli.options import json_option, kept, set_option, shipped, storage_option, tracking_option
from orchestrator.cli.printing import print_pairs, print_table, say, show
from orchestrator.cli.reading import name_of, store_at, sweep_of, typed
from orchestrator.settings import without_password

if TYPE_CHECKING:
    import pandas as pd

    from orchestrator.doctor import Finding
    from orchestrator.journal import Journal


@click.command(short_help="Run a sweep, or continue it.")
@click.argument("sweep", metavar="SWEEP", shell_complete=shipped)
@set_option
@storage_option
@tracking_option
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

    read = sweep_of(sweep, overrides)
    store = Store(storage_location(storage).value)
    store.check()
    planned, sizes = prepare(read, say)
    uri = tracking_location(store.folder, tracking_uri).value
    from orchestrator.run import run as run_sweep
    from orchestrator.tracking import check_login, check_uri

    check_uri(uri)
    check_login(uri)
    say(f"{read.name}: {read.question}")
    outcome = run_sweep(planned, store, sizes, tracking_uri=uri, command=typed(), live=False if plain else None)
    print_gaps(outcome.table)
    say(
        f"{outcome.computed} stages computed, {outcome.stored} reused; trials: "
        + ", ".join(f"{count} {status}" for status, count in outcome.trials.items())
    )
    print_failures(outcome.table)
    say(f"report   {outcome.report}")
    say(f"MLflow   {without_password(uri)}   (look: bottleneck ui)")
    if outcome.interrupted:
        say("interrupted; the same command continues")
    context.exit(outcome.exit_code)


def print_gaps(table: pd.DataFrame) -> None:
    from orchestrator.analysis.gaps import primary, summary_rows

    header, *rows = summary_rows(primary(table))
    print_table(header, rows)


MOST_FAILURES = 10  # said in the terminal; the report has them all


def print_failures(table: pd.DataFrame) -> None:
    bad = table[table["status"].isin(["failed", "diverged"])]
    groups = list(bad.groupby(["trial", "status", "error"], sort=False, dropna=False))
    for (trial, status, error), rows in groups[:MOST_FAILURES]:
        seeds = ", ".join(str(seed) for seed in rows["seed"].unique())
        say(f"{status}: trial {trial}, seed {seeds}: {error}")
    if len(groups) > MOST_FAILURES:
        say(f"and {len(groups) - MOST_FAILURES} more, in the report")


@click.command(short_help="Show how far sweeps are.")
@click.argument("sweep", metavar="[SWEEP]", required=False, shell_complete=kept)
@storage_option
@json_option
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

    store = store_at(storage)
    if watch or every is not None:
        if sweep is None or not watch:
            raise click.UsageError("name the sweep to --watch" if watch else "--every is for --watch")
        context.exit(_watch(Journal(store, name_of(sweep)), every, as_json))
    journals = [Journal(store, name) for name in ([name_of(sweep)] if sweep else store.names("sweeps"))]
    snapshots, now = [snapshot(journal) for journal in journals], time.time()
    if as_json:
        click.echo(json.dumps([in_numbers(*one, now) for one in zip(journals, snapshots, strict=True)], indent=2))
        return
    if not journals:
        say(f"storage {store.shown!r} has no sweeps")
    for journal, found in zip(journals, snapshots, strict=True):
        print_pairs(journal.sweep, display.lines(found, now))
    if sweep:
        print_table(("trial", "status", "design"), trial_lines(journals[0], snapshots[0]))


def _watch(journal: Journal, every: float | None, as_json: bool) -> int:
    """Follow a sweep; the exit code, which Ctrl-C makes 130."""
    from orchestrator.display import watch

    try:
        found = watch(journal, every_s=every, as_json=as_json, file=sys.stdout)
    except KeyboardInterrupt:
        return 130
    if found.state == "finished":
        return 0
    say(f"nobody is running {journal.sweep} ({found.state}); `bottleneck run` continues it")
    return 1


@click.command(short_help="Check whether the machines can run sweeps.")
@click.argument("sweep", metavar="[SWEEP]", required=False, shell_complete=shipped)
@storage_option
@tracking_option
@click.option("--cluster", metavar="ADDRESS", help="Check the nodes of this Ray cluster. Default: RAY_ADDRESS.")
@click.option("--timeout", default=120.0, show_default=True, metavar="SECONDS", help="How long a machine may take.")
@json_option
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

        components = prepare(sweep_of(sweep, ()), say)[0].components
    findings = examine(storage, tracking_uri, components=components, timeout_s=timeout, say=say)
    if as_json:
        click.echo(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        _print_findings(findings)
    context.exit(0 if all(f.fine for f in findings) else 1)


def _print_findings(findings: Sequence[Finding]) -> None:
    """A section for each machine, all with the same columns."""
    width = max(len(f.what) for f in findings)
    for node, found in itertools.groupby(findings, key=lambda f: f.node):
        show(node)
        for f in found:
            show(f"  {f.mark}  {f.what.ljust(width)}  {f.found}" + ("" if f.fine else f"; {f.remedy}"))
    bad = sum(not f.fine for f in findings)
    say(f"{bad} of {len(findings)} findings are not fine" if bad else f"all {len(findings)} findings are fine")
