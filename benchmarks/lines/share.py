"""How much of the machine's time is spent in stages, over a sweep of five minutes or more?

The seconds of a stage are those of its worker's clock: where a worker waits for a core that something else has, that
counts as useful.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.clock import command
from benchmarks.lines import data
from benchmarks.lines.sweep import SWEEP, changes
from benchmarks.peers.study import Study
from benchmarks.table import Figure, Line, Measure, at_least


def prepare(folder: Path, *, steps: int, seeds: int) -> Measure:
    study = Study(steps=steps, seeds=seeds)
    repeats = iter(range(10**6))

    def measure(swapped: bool) -> dict[str, float]:
        from orchestrator.journal import Journal
        from trainables.store import Store

        storage = folder / str(next(repeats))
        done = command([sys.executable, "-m", "orchestrator.cli", "run", SWEEP, *changes(study), "--storage", storage])
        cores = len(os.sched_getaffinity(0))
        stages = [e for e in Journal(Store(str(storage)), SWEEP).events() if e["event"] == "stage"]
        training = sum(event["seconds"] for event in stages if event["kind"] == "pretrain")
        work = sum(event["seconds"] for event in stages)
        begun = min(event["time"] - event["seconds"] for event in stages)
        ended = max(event["time"] for event in stages)
        return {
            "time in stages / (wall clock x cores)": work / (done.wall_s * cores),
            "of it pretraining": training / (done.wall_s * cores),
            "the same from the first stage to the last": work / ((ended - begun) * cores),
            "wall clock, s": done.wall_s,
        }

    return measure


LINE = Line(
    name="useful",
    question="Which share of (wall clock x cores) is useful, in a sweep of five minutes or more?",
    prepare=prepare,
    figures=(
        Figure(name="time in stages / (wall clock x cores)", goal=at_least(0.9)),
        Figure(name="of it pretraining"),
        Figure(name="the same from the first stage to the last"),
        Figure(name="wall clock, s"),
    ),
    full={"steps": 600, "seeds": 3},
    quick={"steps": 5, "seeds": 1},
    repeats=1,
    missing=data.missing,
)
