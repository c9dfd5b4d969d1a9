"""Which options do several commands have, and what does a shell complete?"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Command = TypeVar("Command", bound=Callable[..., Any])


def set_option(command: Command) -> Command:
    return click.option(
        "--set", "overrides", multiple=True, metavar="KEY.PATH=VALUE", help="Replace a value of the sweep file."
    )(command)


def storage_option(command: Command) -> Command:
    return click.option(
        "--storage",
        metavar="LOCATION",
        help="Where results are kept: a folder or a URI such as s3://bucket/folder.",
    )(command)


def tracking_option(command: Command) -> Command:
    return click.option(
        "--tracking-uri",
        metavar="URI",
        help="MLflow server or database. Default: SQLite in the storage folder.",
    )(command)


def json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(command)


# What a shell completes. Nothing that asks a server: it is waited for after every press of the key.


def shipped(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """The sweeps that ship with the program, or a file."""
    from orchestrator.sweep import canonical

    return _completed(canonical(), typed)


def kept(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
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
