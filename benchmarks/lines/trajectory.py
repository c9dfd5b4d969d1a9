"""What twelve points of a trajectory add to the processor time of the run: `benchmarks/trajectory.py`, as a line."""

from __future__ import annotations

from pathlib import Path

from benchmarks.lines import data
from benchmarks.table import Figure, Line, Measure, at_most


def prepare(folder: Path, *, steps: int, points: int) -> Measure:
    import torch

    from benchmarks.trajectory import DATASETS, direct_baselines, extra
    from trainables import components
    from trainables.spec import Source

    torch.set_num_threads(1)
    prepared = {name: components.prepare(Source(dataset=name)) for name in DATASETS}
    directs = direct_baselines(prepared, "cnn")

    def measure(swapped: bool) -> dict[str, float]:
        found = extra(prepared, "cnn", steps, points, directs)
        return {
            "added to the run, one component": found[0],
            "added to the run, three components": found[-1],
        }

    return measure


LINE = Line(
    name="trajectory",
    question="What do 12 points of a trajectory add to the pretraining's processor time?",
    prepare=prepare,
    figures=(
        Figure(name="added to the run, one component", goal=at_most(0.1)),
        Figure(name="added to the run, three components"),
    ),
    full={"steps": 2000, "points": 12},
    quick={"steps": 20, "points": 3},
    missing=data.missing,
)
