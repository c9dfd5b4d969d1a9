"""Measure how fast this program is against its peers, line by line.

    python -m benchmarks                    every line, at its usual size
    python -m benchmarks --list             the lines, their goals and sizes
    python -m benchmarks probe commands     some of them
    python -m benchmarks sweep --full --set repeats=1 --json sweep.json --markdown sweep.md
    python -m benchmarks --set sweep.steps=120 --set sweep.repeats=3

A line measures this program and its peer in turn, again and again; printed are medians with the smallest and the
largest. What it says of itself meanwhile goes to stderr. Data comes from BOTTLENECK_DATA; lines that need it say so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

# One thread a trial, as in a sweep; before anything reads it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's workers give way to everything else on the machine: here to what it is measured against, and to the driver.
os.environ.setdefault("RAY_worker_niceness", "0")
# Images often set it, and every process would then compile all that it imports: 0.4 s more for `plan` of a sweep.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
ROOT = Path(__file__).parents[1]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

from benchmarks.lines import LINES  # noqa: E402
from benchmarks.table import Line, Measured, Size, as_markdown, as_text  # noqa: E402


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("lines", nargs="*", metavar="LINE", help="which lines; none: all of them")
    parser.add_argument("--list", action="store_true", help="print the lines and measure nothing")
    scale = parser.add_mutually_exclusive_group()
    scale.add_argument("--quick", action="store_true", help="as small as runs at all, one repeat")
    scale.add_argument("--full", action="store_true", help="the size of the goal, also where that takes hours")
    parser.add_argument(
        "--set", action="append", default=[], metavar="[LINE.]KEY=NUMBER", help="another size or repeats, see --list"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every value of every repeat")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table for a page")
    asked = parser.parse_args(words)
    known = {line.name: line for line in LINES}
    if unknown := [name for name in asked.lines if name not in known]:
        parser.error(f"found {unknown[0]!r} as a line; there are {', '.join(known)}")
    chosen = [known[name] for name in dict.fromkeys(asked.lines)] or list(LINES)
    changes = _changes(parser, asked.set, chosen)
    if asked.list:
        print("\n".join(_listed(line) for line in chosen))
        return 0
    from trainables.process import keep_freed_memory

    keep_freed_memory()  # as a worker does, for what is measured in this process and for its peers
    scale_name = "quick" if asked.quick else "full" if asked.full else "usual"
    found: list[Measured] = []
    about = machine() | {"command": " ".join(["python -m benchmarks", *(words or sys.argv[1:])])}
    print(f"{about['processor']}, {about['cores']} cores, {about['memory, GB']} GB; revision {about['revision']}")
    for line in chosen:
        own = changes[None] | changes.get(line.name, {})
        repeats = int(own.get("repeats", 1 if asked.quick else line.repeats))
        found.append(measured(line, line.size(scale_name, own), repeats))
        _write(asked.json, json.dumps(about | {"lines": {m.line.name: m.as_json() for m in found}}, indent=1))
        _write(asked.markdown, as_markdown(found))
    print(as_text(found))
    return 1 if any((m.unmeasured or "").startswith("failed") for m in found) else 0


def measured(line: Line, size: Size, repeats: int) -> Measured:
    """The line measured so many times; the values so far, if a repeat fails."""
    if why := line.missing():
        _say(f"{line.name}: unmeasured: {why}")
        return Measured(line=line, size=size, unmeasured=why)
    values: dict[str, list[float]] = {}
    failure = None
    with tempfile.TemporaryDirectory(prefix="bottleneck-benchmark-", ignore_cleanup_errors=True) as folder:
        try:
            _say(f"{line.name}: {', '.join(f'{key} {value:g}' for key, value in size.items())}; prepares")
            measure = line.prepare(Path(folder), **size)
            for repeat in range(repeats):
                begun = time.monotonic()
                for name, value in measure(bool(repeat % 2)).items():
                    values.setdefault(name, []).append(value)
                _say(f"{line.name}: {repeat + 1} of {repeats}, {time.monotonic() - begun:.0f} s")
        except Exception as error:  # the other lines are worth measuring all the same
            traceback.print_exc()
            failure = f"failed: {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
    return Measured(line=line, size=size, values=values, unmeasured=failure)


def machine() -> dict[str, Any]:
    """What it was measured on, and which code."""
    import psutil

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    names = [row.partition(":")[2].strip() for row in _lines("/proc/cpuinfo") if row.startswith("model name")]
    dirty = " with changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory, GB": round(psutil.virtual_memory().total / 2**30),
        "load before": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("torch", "ray", "mlflow", "scikit-learn")},
        "revision": f"{git('rev-parse', '--short=12', 'HEAD') or 'unknown'}{dirty}",
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _changes(
    parser: argparse.ArgumentParser, pairs: Sequence[str], lines: Sequence[Line]
) -> dict[str | None, dict[str, float]]:
    """What is to be another size, by line; None: of every line that has it."""
    sizes = {line.name: {*line.full, "repeats"} for line in lines}
    changes: dict[str | None, dict[str, float]] = {None: {}}
    for pair in pairs:
        where, _, value = pair.partition("=")
        line, _, key = where.rpartition(".")
        known = sizes.get(line, set()) if line else set().union(*sizes.values())
        if key not in known:
            parser.error(f"found --set {pair}; these lines have {_sizes(sizes)}")
        try:
            number = float(value) if "." in value else int(value)
        except ValueError:
            parser.error(f"found --set {pair}; give a number")
        if key == "repeats" and not (isinstance(number, int) and number > 0):
            parser.error(f"found --set {pair}; give a whole number from 1 on")
        changes.setdefault(line or None, {})[key] = number
    return changes


def _sizes(sizes: Mapping[str, set[str]]) -> str:
    return "; ".join(f"{line}: {', '.join(sorted(keys))}" for line, keys in sizes.items())


def _listed(line: Line) -> str:
    goals = "; ".join(f"{f.name}: {f.goal}" for f in line.figures if f.goal)

    def said(size: Size) -> str:
        return ", ".join(f"{key}={value:g}" for key, value in size.items())

    sizes = [f"full: {said(line.full)}", *([f"usual: {said(line.usual)}"] if line.usual else ())]
    return f"{line.name}: {line.question}\n    {goals or 'no goal'}\n    {'; '.join(sizes)}; repeats={line.repeats}"


def _write(path: Path | None, text: str) -> None:
    if path:
        path.write_text(text + "\n")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
