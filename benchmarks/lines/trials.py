"""What a sweep adds to its trials: `benchmarks/trials.py`, as lines."""

from __future__ import annotations

from pathlib import Path

from benchmarks.table import Figure, Line, Measure, at_least, at_most


def prepare(folder: Path, *, trials: int, slow: int) -> Measure:
    from benchmarks.trials import measure

    return lambda swapped: measure(trials, slow, swapped)


LINES = (
    Line(
        name="one-second-trials",
        question="How much longer than ideal do 1,000 trials take that sleep for a second, on 2 slots?",
        prepare=prepare,
        figures=(
            Figure(name="slow, ours, time over ideal / ideal", goal=at_most(0.1)),
            Figure(name="slow, ours, time outside of stages / inside"),
            Figure(name="slow, Tune, time over ideal / ideal"),
        ),
        full={"trials": 0, "slow": 1000},
        usual={"slow": 100},
        quick={"slow": 10},
    ),
    Line(
        name="no-op",
        question="How many trials a second that do nothing, and how long does a sweep take that has all its results?",
        prepare=prepare,
        figures=(
            Figure(name="no-op, ours / Tune", goal=at_least(1)),
            Figure(name="again, s", goal=at_most(10)),
            Figure(name="no-op, ours, trials/s"),
            Figure(name="no-op, Tune, trials/s"),
            Figure(name="tiny, ours / Tune"),
        ),
        full={"trials": 1000, "slow": 0},
        quick={"trials": 20},
    ),
)
