"""When is a pretraining run looked at? The steps of its checkpoints."""

from __future__ import annotations

FIRST_STEP = 10  # of a long run: features that are acquired early and lost again have their peak soon after


def schedule(steps: int, points: int) -> tuple[int, ...]:
    """The steps at which checkpoints are kept: 0, then about geometric from 10, or a tenth of a short run, to the end.

    Args:
        steps: optimiser steps of the run.
        points: how many, both ends included. A run of fewer steps has a checkpoint at each.

    Returns:
        (points,) increasing; `schedule(2500, 12)` is 0, 10, 17, 30, 52, 90, 157, 273, 475, 826, 1437, 2500.

    Raises:
        ValueError: there is no step, or there are fewer than two points.
    """
    if steps < 1 or points < 2:
        raise ValueError(f"{points} checkpoints of a run of {steps} steps; ask for 2 or more, of 1 step or more")
    points = min(points, steps + 1)
    found = [0] if points == 2 else [0, max(1, min(FIRST_STEP, steps // 10, steps + 2 - points))]
    while len(found) < points - 1:
        ratio = (steps / found[-1]) ** (1 / (points - len(found)))
        found.append(max(found[-1] + 1, round(found[-1] * ratio)))
    return (*found, steps)
