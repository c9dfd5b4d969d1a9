"""How does a figure become a file? Vector or pixels, with the numbers that it shows as CSV beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from orchestrator.report.figures.kind import Evidence, Kind
from orchestrator.report.figures.style import styled
from trainables.errors import UserError

# By suffix, what says when a file was written or by whom: left out, so that equal results give equal bytes.
DATED: Mapping[str, Mapping[str, Any]] = {
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    ".png": {"Software": None},
}
DOTS_PER_INCH = 300  # of PNG


class FileRefused(UserError):
    """A figure cannot be written there; the message says what is possible."""


def place(out: Path, name: str) -> Path:
    """The file that a figure goes to, in `out` if that is a folder. Raises FileRefused."""
    path = out / f"{name}.svg" if out.is_dir() else out
    if path.suffix not in DATED:
        raise FileRefused(f"--out: {str(out)!r} is no folder and ends in none of {', '.join(DATED)}")
    if not path.parent.is_dir():
        raise FileRefused(f"--out: there is no folder {str(path.parent)!r}")
    return path


def write(kind: Kind, found: Evidence, path: Path, *, narrow: bool = False) -> tuple[str, tuple[Path, Path]]:
    """Write a figure and its data; returns the caption and both files.

    Raises Refused and FileRefused before anything is written.
    """
    data = kind.data(found)
    figure, table = kind.draw(data, narrow=narrow), path.with_suffix(".csv")
    try:
        _require_ours(table, data)
        with styled():
            metadata = {"Title": kind.title, **DATED[path.suffix]}
            figure.savefig(path, dpi=DOTS_PER_INCH, facecolor="white", metadata=metadata)
        data.to_csv(table, index=False)
    except OSError as error:
        raise FileRefused(f"--out: {str(path)!r} cannot be written: {error.strerror}") from error
    return kind.caption(data), (path, table)


def _require_ours(table: Path, data: pd.DataFrame) -> None:
    """Raises FileRefused if there is a CSV file that holds something else than the data of such a figure."""
    if not table.exists():
        return
    with table.open(encoding="utf-8", errors="replace") as file:
        if file.readline().strip() != ",".join(data.columns):
            raise FileRefused(f"--out: {str(table)!r} is there and not the data of this figure; name another file")
