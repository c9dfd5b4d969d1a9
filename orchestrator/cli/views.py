"""The commands that show results elsewhere: report, figure, sync, ui."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.options import kept, storage_option, tracking_option
from orchestrator.cli.printing import print_table, say, show
from orchestrator.cli.reading import name_of, store_at, typed
from orchestrator.settings import without_password

if TYPE_CHECKING:
    from orchestrator.report.figures import Evidence


@click.command(short_help="Write the report again.")
@click.argument("sweep", metavar="SWEEP", shell_complete=kept)
@storage_option
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the page here as well.")
def report(sweep: str, storage: str | None, output: Path | None) -> None:
    """Write a sweep's report again from the store, and print where it lies."""
    from orchestrator.rebuild import rebuild_report

    page = rebuild_report(store_at(storage), name_of(sweep), typed())
    if output:
        output.write_bytes(page.content)
    show(str(output or page.path))


@click.command(short_help="Draw a figure, or list those that there are.")
@click.argument("words", metavar="[NAME] SWEEP...", nargs=-1)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path(),
    help="A .svg, .pdf or .png file, or a folder. Default: here.",
)
@click.option("--narrow", is_flag=True, help="For a phone or one column of print: 3.7 inches wide, not 8.6.")
@click.option("--list", "listed", is_flag=True, help="List the figures, and which of them the sweeps can fill.")
@storage_option
def figure(words: Sequence[str], out: Path, narrow: bool, listed: bool, storage: str | None) -> None:
    """Draw the figure NAME of one sweep or of several, write its numbers as CSV beside it, and print both paths.

    The caption goes to stderr. `bottleneck figure --list SWEEP...` says which figures sweeps can fill.
    """
    from orchestrator.report import figures

    if listed or not words:
        found = figures.evidence([name_of(sweep) for sweep in words], storage) if words else None
        print_table(*_listed_figures(found))
        return
    name, *sweeps = words
    kind = figures.kind_of(name)
    if not sweeps:
        raise click.UsageError(f"figure {name} of which sweep? name one or several")
    path = figures.place(out, name)
    caption, files = figures.write(
        kind, figures.evidence([name_of(sweep) for sweep in sweeps], storage), path, narrow=narrow
    )
    for file in files:
        show(str(file))
    say(f"{kind.title}. {caption}")


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


@click.command(short_help="Bring MLflow up to date with the store.")
@click.argument("sweep", metavar="SWEEP", shell_complete=kept)
@storage_option
@tracking_option
def sync(sweep: str, storage: str | None, tracking_uri: str | None) -> None:
    """Bring MLflow up to date with the store, from nothing if need be."""
    from orchestrator.rebuild import rebuild_tracking
    from orchestrator.settings import tracking_location

    store = store_at(storage)
    uri = tracking_location(store.folder, tracking_uri).value
    count = rebuild_tracking(store, name_of(sweep), uri, typed())
    say(f"{count} runs written to {without_password(uri)}")


@click.command(short_help="Open MLflow on the runs.")
@storage_option
@tracking_option
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=5000, show_default=True)
def ui(storage: str | None, tracking_uri: str | None, host: str, port: int) -> None:
    """Open the MLflow user interface on the runs (stop it with Ctrl-C)."""
    from orchestrator.settings import tracking_location

    store = store_at(storage)
    uri = tracking_location(store.folder, tracking_uri).value
    if uri.startswith(("http://", "https://")):
        show(f"the tracking server shows the runs itself: {without_password(uri)}")
        return
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # seven processes that sweeps do not need
    arguments = ["ui", "--backend-store-uri", uri, "--host", host, "--port", str(port)]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", *arguments])
