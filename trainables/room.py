"""Is there room in the store? A sweep that runs out of it stops as a whole, in order, and says what to do.

No stage is begun with less than a reserve left, so that the last words of a sweep still find room: its journal, its
table, the end of its runs in MLflow. What is full all the same (a quota, somebody else's files) is told from other
errors by the number that the system gives it.
"""

from __future__ import annotations

import errno
import shutil
import sqlite3

from trainables.errors import UserError
from trainables.store import StoreError

RESERVE_BYTES = 32 * 2**20


class StoreFull(UserError):
    """There is no room for what a sweep has still to write."""


def free_bytes(folder: str | None) -> int | None:
    """The room below a folder; None where it cannot be told, as of an object store."""
    return None if folder is None else shutil.disk_usage(folder).free


def require(folder: str | None) -> None:
    """Raises StoreFull if the reserve is touched."""
    free = free_bytes(folder)
    if free is not None and free < RESERVE_BYTES:
        raise StoreFull(f"storage {folder!r} has {megabytes(free)} of room left")


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, is a full store or its exhausted quota."""
    while error is not None:
        if isinstance(error, StoreFull):
            return True
        if isinstance(error, UserError) and not isinstance(error, StoreError):
            return False  # another disk's, as that of the cache, which its message names
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if isinstance(error, sqlite3.OperationalError) and "is full" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def megabytes(count: float) -> str:
    """For people: 0.3 MB, 41 MB, 2.5 GB."""
    unit, size = ("GB", count / 2**30) if count >= 2**30 else ("MB", count / 2**20)
    return f"{size:.1f} {unit}" if size < 10 else f"{size:.0f} {unit}"
