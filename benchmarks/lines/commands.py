"""How long do commands take that train nothing? Timed from outside, once everything has been read before."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.clock import command
from benchmarks.lines import data
from benchmarks.table import Figure, Line, Measure, at_most

SWEEP = "clothes-digits-kana"


def prepare(folder: Path) -> Measure:
    ways: dict[str, list[object]] = {
        "--help": ["--help"],
        "validate": ["validate", SWEEP],
        "plan": ["plan", SWEEP, "--storage", folder / "runs"],
    }
    words = {name: [sys.executable, "-m", "orchestrator.cli", *rest] for name, rest in ways.items()}
    bare = [sys.executable, "-c", "pass"]
    for each in words.values():
        command(each)

    def measure(swapped: bool) -> dict[str, float]:
        found = {"an empty Python, wall clock, s": command(bare).wall_s}
        for name, each in words.items():
            done = command(each)
            found |= {f"{name}, wall clock, s": done.wall_s, f"{name}, processor time, s": done.cpu_s}
        return found

    return measure


LINE = Line(
    name="commands",
    question="How long do `--help`, `validate` and `plan` of a canonical sweep take, warm?",
    prepare=prepare,
    figures=(
        *(Figure(name=f"{name}, wall clock, s", goal=at_most(0.4)) for name in ("--help", "validate", "plan")),
        *(Figure(name=f"{name}, processor time, s") for name in ("--help", "validate", "plan")),
        Figure(name="an empty Python, wall clock, s"),
    ),
    full={},
    quick={},
    repeats=10,
    missing=data.missing,
)
