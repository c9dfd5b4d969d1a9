"""How long does it take? Wall clock, processor time and memory of a function or a command, one way after the other."""

from __future__ import annotations

import json
import subprocess
import sys
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


def command(words: Sequence[object]) -> Timed[Command]:
    """A command run to its end, in the repository.

    Raises:
        RuntimeError: it ended with another exit code than 0; the message has the end of what it said.
    """
    with tempfile.TemporaryDirectory() as scratch:
        out, err, usage = (Path(scratch, name) for name in ("out", "err", "usage"))
        with out.open("w") as stdout, err.open("w") as stderr:
            subprocess.run(
                [sys.executable, "-I", "-S", "-c", WATCH, usage, *map(str, words)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                check=True,
            )
        code, wall, cpu, kilobytes = json.loads(usage.read_text())
        ended = Command(stdout=out.read_text(), stderr=err.read_text(), peak_mb=kilobytes / 1024)
    if code:
        raise RuntimeError(f"{' '.join(map(str, words))} ended with {code}: {ended.stderr[-2000:]}")
    return Timed(result=ended, wall_s=wall, cpu_s=cpu)


# A small process between: what the kernel calls the largest memory of a child is at first that of its parent.
WATCH = """
import json, os, subprocess, sys, time
begun = time.perf_counter()
process = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(process.pid, 0)
wall = time.perf_counter() - begun
found = [os.waitstatus_to_exitcode(status), wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss]
with open(sys.argv[1], "w") as file:
    json.dump(found, file)
"""
