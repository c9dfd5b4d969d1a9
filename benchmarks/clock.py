"""How long does it take? Wall clock, processor time and memory of a function or a command, one way after the other."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

Result = TypeVar("Result")
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class Timed(Generic[Result]):
    """What a piece of work gave, and what it took."""

    result: Result
    wall_s: float
    cpu_s: float  # of all threads; of a command, of all its processes that it waited for


@dataclass(frozen=True, kw_only=True)
class Command:
    """What a command printed, and the memory of the largest of its processes."""

    stdout: str
    stderr: str
    peak_mb: float


def timed(work: Callable[[], Result]) -> Timed[Result]:
    """The work's result and time, in this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return Timed(result=result, wall_s=time.perf_counter() - wall, cpu_s=time.process_time() - cpu)


def in_turn(ways: Mapping[str, Callable[[], Result]], *, swapped: bool) -> dict[str, Result]:
    """What each way gives, one after the other; swapped: the last one first, so that nobody is always the first."""
    order = list(ways)[:: -1 if swapped else 1]
    return {name: ways[name]() for name in order}


def command(
    words: Sequence[object], *, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> Timed[Command]:
    """A command run to its end.

    Raises:
        RuntimeError: it ended with another exit code than 0; the message has the end of what it said.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        begun = time.perf_counter()
        process = subprocess.Popen(
            [str(word) for word in words], cwd=cwd or ROOT, env={**os.environ, **(environment or {})}, stdout=out,
            stderr=err, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read())
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, words))} ended with {process.returncode}: {texts[1][-2000:]}")
    ended = Command(stdout=texts[0], stderr=texts[1], peak_mb=usage.ru_maxrss / 1024)
    return Timed(result=ended, wall_s=wall, cpu_s=usage.ru_utime + usage.ru_stime)
