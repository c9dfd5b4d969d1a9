"""What does a command read by what was typed? A sweep, its name, a store, the results in it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.settings import without_password

if TYPE_CHECKING:
    import pandas as pd

    from orchestrator.sweep import Sweep
    from trainables.store import Store


def sweep_of(sweep: str, overrides: Sequence[str]) -> Sweep:
    """The sweep in a file or of that name, with `--set` applied. Raises SweepError."""
    from orchestrator.sweep import locate, read

    return read(locate(sweep), overrides)


def name_of(sweep: str) -> str:
    """The name of a sweep that has run, from its name or its file."""
    if sweep.endswith((".yaml", ".yml")):
        return str(sweep_of(sweep, ()).name)
    return sweep


def store_at(storage: str | None) -> Store:
    """The store that `--storage` names, or the settings. Raises StoreError."""
    from orchestrator.settings import storage_location
    from trainables.store import Store

    return Store(storage_location(storage).value)


def loaded(sweeps: Sequence[str], storage: str | None) -> pd.DataFrame:
    """The results tables of sweeps, one below the other."""
    from orchestrator.results import load

    return load([name_of(sweep) for sweep in sweeps], storage=storage)


def typed() -> str:
    """The command as it was typed, without passwords."""
    return shlex.join(["bottleneck", *map(without_password, sys.argv[1:])])
