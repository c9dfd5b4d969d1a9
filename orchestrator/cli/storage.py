"""The command that makes room in a store: gc."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from orchestrator.cli.options import json_option, storage_option
from orchestrator.cli.printing import print_table, say
from orchestrator.cli.reading import name_of, store_at

if TYPE_CHECKING:
    from orchestrator.collect import Choice
    from trainables.store import Store


@click.command(short_help="Remove what no sweep needs.")
@storage_option
@click.option("--sweep", "sweeps", multiple=True, metavar="NAME", help="Forget this sweep and what only it needs.")
@click.option("--older-than", metavar="AGE", help="Remove stages that no sweep needs and nobody used for so long: 30d.")
@click.option("--keep-size", metavar="SIZE", help="Remove stages that no sweep needs, oldest use first, down to: 50GB.")
@click.option("--dry-run", is_flag=True, help="Say what would go, and remove nothing.")
@click.option("--yes", is_flag=True, help="Remove without asking.")
@json_option
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
    store = store_at(storage)
    with collect.alone(store):
        names = tuple(dict.fromkeys(map(name_of, sweeps)))
        choice = collect.choose(store, now=time.time(), sweeps=names, older_than_s=age, keep_bytes=size)
        removed = choice.items and not dry_run and (yes or _confirmed(choice))
        if removed:
            collect.remove(store, choice)
    _print_choice(choice, store, bool(removed), as_json)


def _confirmed(choice: Choice) -> bool:
    from orchestrator.collect import readable

    say(
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
        print_table(("removed" if removed else "would go", "number", "bytes"), [*rows, total])
    after = readable(choice.kept_bytes)
    say(f"{store.shown}: {'nothing to remove; ' if not groups else ''}{after} {'stay' if removed else 'would stay'}")
    if choice.too_much:
        say(f"{readable(choice.too_much)} more than asked for, which sweeps need; forget one with --sweep")
