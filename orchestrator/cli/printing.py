"""How does a command print? Data to stdout, talk to stderr, and nothing that a terminal would obey."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

import click

from orchestrator.terminal import printable


def say(line: str) -> None:
    """A line of talk, to stderr."""
    click.echo(printable(line), err=True)


def show(text: str = "") -> None:
    """Data for people, to stdout."""
    click.echo(printable(text))


def write(text: str) -> None:
    """Data, as it is for a file or a program; a terminal is shown what it does not obey."""
    click.echo(printable(text) if sys.stdout.isatty() else text, nl=False)


def print_pairs(title: str, pairs: Sequence[tuple[str, str]]) -> None:
    """A title, and below it what is what."""
    show(title)
    for what, value in pairs:
        show(f"  {what:<10} {value}")


def print_section(title: str, rows: Sequence[Sequence[str]]) -> None:
    """A title and the table below it; the first row is its header."""
    show(f"\n{title}")
    print_table(rows[0], rows[1:])


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Names of columns and, below, rows."""
    click.echo(render_table(header, rows), nl=False)


def render_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need to be, numbers to the right; on a narrow terminal lines are long, not broken."""
    header, *rows = [[on_one_line(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    right = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(header))]
    lines = []
    for row in (header, ["─" * w for w in widths], *rows):
        cells = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def on_one_line(cell: object) -> str:
    """A cell without what would break its line."""
    return printable(str(cell)).replace("\n", "\\n").replace("\t", "\\t")


def _is_number(text: str) -> bool:
    return re.fullmatch(r"(-?[\d.,]+(e[+-]\d+)?( [kMGT]?B)?\*?|\[.*\])?", text) is not None
