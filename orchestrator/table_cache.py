"""Has this table been made before? Tables of large sweeps in this machine's cache, trusted as git trusts its index.

    <cache>/tables/<key>   a checksum of the rest; a line of JSON: what the table was made of; the table as Parquet

The plan and the journal of each sweep are read again every time. Of the results of stages, which are thousands of
files, it is asked whether they are the files that were there when they were read and verified: the same size, times
and inode. Where any of them is not, where a stage is gone or has come, or where other code makes the rows, the table is
made again from all of them. A disk that loses bytes in silence is not noticed; the numbers are the verified ones.

Only tables from a folder are kept: an object store would have to be asked for every file. A table that cannot be kept
is made anew each time, and nothing else happens. Why this and no less is decision 6 (docs/decisions/).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.components import cache_root
from trainables.store import Stamp

if TYPE_CHECKING:
    import pandas as pd

    from orchestrator.journal import Journal

Stamps = dict[tuple[str, str], Stamp | None]  # by kind and digest: as it was when it was read; None: not there

KEPT_FROM = 1000  # stages: the table of fewer is made within a tenth of a second
KEPT_BYTES = 2**28  # of all kept tables; 2,000 trials of six rows are 3 MB
SETTLED_NS = 2 * 10**9  # a file may be written twice within one tick of its file system's clock, which is up to 2 s
PACKAGES = Path(__file__).parents[1]
MADE_BY = (
    "orchestrator/results.py", "orchestrator/table_cache.py", "orchestrator/journal.py",
    "orchestrator/analysis/trajectories.py", "trainables/store.py",
)  # fmt: skip
CODE = hashlib.sha256(b"".join((PACKAGES / name).read_bytes() for name in MADE_BY)).hexdigest()  # as it is imported


def remembered(journals: Sequence[Journal], make: Callable[[Stamps | None], pd.DataFrame]) -> pd.DataFrame:
    """What `make` gives of sweeps of one store, or gave the last time, if that was of the same plans and results.

    Args:
        make: makes the table; if it is given stamps, it takes down that of every stage that it reads.
    """
    import pandas as pd

    if not journals or journals[0].store.folder is None:
        return make(None)
    store = journals[0].store
    place = [store.folder, *(journal.sweep for journal in journals)]
    path = cache_root() / "tables" / hashlib.sha256(json.dumps(place).encode()).hexdigest()[:40]
    before = [CODE, pd.__version__, *place, *(journal.fingerprint() for journal in journals)]

    def made_of(stamps: Stamps) -> str:
        return hashlib.sha256(repr((before, list(stamps.items()))).encode()).hexdigest()

    if (kept := _read(path)) is not None:
        was, stages, parquet = kept
        if made_of({stage: store.stamp(*stage) for stage in stages}) == was:
            with contextlib.suppress(*_no_table()):
                return pd.read_parquet(io.BytesIO(parquet))
    begun, stamps = time.time_ns(), Stamps()
    table = make(stamps)
    changed = max((stamp.changed_ns for stamp in stamps.values() if stamp), default=begun)
    if len(stamps) >= KEPT_FROM and changed < begun - SETTLED_NS:
        _keep(path, made_of(stamps), list(stamps), table)
    return table


def _read(path: Path) -> tuple[str, list[tuple[str, str]], bytes] | None:
    """What a kept table was made of, the stages that it rests on, and the table; None if it is damaged or not there."""
    try:
        content = path.read_bytes()
        checksum, rest = content[:32], content[32:]
        if hashlib.sha256(rest).digest() != checksum:
            return None
        head, _, parquet = rest.partition(b"\n")
        made_of, stages = json.loads(head)
        return made_of, [(kind, digest) for kind, digest in stages], parquet
    except (OSError, ValueError, TypeError):  # not there, or of another version
        return None


def _keep(path: Path, made_of: str, stages: list[tuple[str, str]], table: pd.DataFrame) -> None:
    """Write a table in place of the one before, and remove those written longest ago where all are too large."""
    with contextlib.suppress(*_no_table()):
        parquet = io.BytesIO()
        table.to_parquet(parquet, index=False)
        rest = json.dumps([made_of, stages]).encode() + b"\n" + parquet.getvalue()
        if len(rest) > KEPT_BYTES:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        try:
            part.write_bytes(hashlib.sha256(rest).digest() + rest)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        _make_room(path.parent)


def _make_room(folder: Path) -> None:
    seen = sorted(((file.stat(), file) for file in folder.iterdir()), key=lambda one: -one[0].st_mtime_ns)
    total = 0
    for stat, file in seen:
        total += stat.st_size
        if total > KEPT_BYTES:
            file.unlink(missing_ok=True)


def _no_table() -> tuple[type[Exception], ...]:
    """What is raised where a table cannot be written or read."""
    from pyarrow import ArrowException

    return OSError, ValueError, ArrowException
