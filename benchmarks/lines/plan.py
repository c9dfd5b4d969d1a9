"""How long does `bottleneck plan` take for 100,000 cells, and how much memory? A command, timed from outside."""

from __future__ import annotations

import math
import sys
from pathlib import Path

from benchmarks.clock import command
from benchmarks.table import Figure, Line, Measure, at_most

SWEEP = """
name: many
question: How long does planning take?
components:
  low: {{dataset: digits, classes: [0, 1, 2]}}
  middle: {{dataset: digits, classes: [3, 4, 5]}}
  high: {{dataset: digits, classes: [6, 7, 8]}}
vary: {{mixture: {{simplex: {{resolution: {resolution}}}}}, architecture: mlp}}
seeds: {seeds}
pretrain: {{steps: 10, batch_size: 256}}
transfer: {{train_examples: 30}}
"""
SEEDS, COMPONENTS = 5, 3


def prepare(folder: Path, *, cells: int) -> Measure:
    mixtures = cells / (SEEDS * COMPONENTS)
    resolution = next(r for r in range(1, cells) if math.comb(r + 2, 2) >= mixtures)
    file = folder / "many.yaml"
    file.write_text(SWEEP.format(resolution=resolution, seeds=SEEDS))
    words = [sys.executable, "-m", "orchestrator.cli", "plan", file, "--storage", folder / "runs"]
    command(words)  # datasets are decoded once per machine

    def measure(swapped: bool) -> dict[str, float]:
        done = command(words)
        return {
            "wall clock, s": done.wall_s,
            "memory, MB": done.result.peak_mb,
            "processor time, s": done.cpu_s,
            "cells": math.comb(resolution + 2, 2) * SEEDS * COMPONENTS,
        }

    return measure


LINE = Line(
    name="plan",
    question="How long does `bottleneck plan` of 100,000 cells take?",
    prepare=prepare,
    figures=(
        Figure(name="wall clock, s", goal=at_most(3)),
        Figure(name="memory, MB", goal=at_most(500)),
        Figure(name="processor time, s"),
        Figure(name="cells"),
    ),
    full={"cells": 100_000},
    quick={"cells": 100},
)
