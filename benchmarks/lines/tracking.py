"""What does tracking cost a sweep whose trials report 50 metrics, and how long does Ray's loop wait for it?

Made-up trials end one after the other without a pause, which is the worst case; each becomes a run in MLflow on SQLite
with 50 metrics, a curve of 50 points and two files. A thread stands for Ray's loop: it wakes up every two milliseconds
and notes how late, with tracking beside it and without. The processor time of a run is held against a trial of half a
minute. Ray's own callback writes the same numbers, in its loop.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.clock import ROOT, in_turn, timed
from benchmarks.table import Figure, Line, Measure, at_most

METRICS = 50
TICK_S = 0.002


def prepare(folder: Path, *, trials: int, trial_s: float) -> Measure:
    sys.path.insert(0, str(ROOT / "tests"))
    from made_up_sweeps import made_up

    uri = f"sqlite:///{folder}/mlflow.db"
    metrics = {f"metric_{number}": number / METRICS for number in range(METRICS)}

    def ours() -> dict[str, float]:
        sweep = made_up(f"ours-{uuid.uuid4().hex}", trials=trials, points=50)
        records = [replace(record, metrics=metrics) for record in sweep.records()]
        calls = []
        with lateness() as late:

            def work() -> None:
                tracker = sweep.tracker(uri)
                for record in records:
                    begun = time.perf_counter()
                    tracker.log(record.digest, lambda record=record: record)
                    calls.append(time.perf_counter() - begun)
                outcome = tracker.finish("FINISHED", (), {}, 3600)
                assert outcome.synced, outcome

            done = timed(work)
        return {
            "processor time of a run / trial": done.cpu_s / trials / trial_s,
            "processor time of a run, ms": 1000 * done.cpu_s / trials,
            "loop lag, 99 of 100, ms": 1000 * quantile(late, 0.99),
            "longest call from the loop, ms": 1000 * max(calls),
        }

    def rays() -> dict[str, float]:
        few = max(2, trials // 10)
        done = timed(lambda: _ray_callback(folder, uri, few, metrics))
        return {"Ray's callback, loop waits for a trial, ms": 1000 * done.wall_s / few}

    def nothing() -> dict[str, float]:
        with lateness() as late:
            time.sleep(2)
        return {"loop lag without tracking, 99 of 100, ms": 1000 * quantile(late, 0.99)}

    ours()  # imports, and the tables of the database
    _ray_callback(folder, uri, 1, metrics)

    def measure(swapped: bool) -> dict[str, float]:
        done = in_turn({"ours": ours, "rays": rays, "nothing": nothing}, swapped=swapped)
        return {name: value for found in done.values() for name, value in found.items()}

    return measure


def _ray_callback(folder: Path, uri: str, trials: int, metrics: dict[str, float]) -> None:
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    class Trial:
        """As much of Ray's trial as the callback asks for."""

        config: dict[str, Any] = {"width": 1}  # noqa: RUF012
        local_path = str(folder)

    callback = MLflowLoggerCallback(tracking_uri=uri, experiment_name=f"rays-{uuid.uuid4().hex}")
    with contextlib.chdir(folder):  # it leaves files in the working directory
        callback.setup()
        for _ in range(trials):
            trial = Trial()
            callback.log_trial_start(trial)
            for step in range(50):
                last = metrics if step == 49 else {}
                callback.log_trial_result(step, trial, {"training_iteration": step + 1, "loss": 1.0, **last})
            callback.log_trial_end(trial)


@contextlib.contextmanager
def lateness() -> Iterator[list[float]]:
    """Seconds that a thread, which wakes up every TICK_S, wakes up too late, for as long as the block lasts."""
    late: list[float] = []
    over = threading.Event()

    def tick() -> None:
        while not over.is_set():
            begun = time.perf_counter()
            time.sleep(TICK_S)
            late.append(time.perf_counter() - begun - TICK_S)

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        yield late
    finally:
        over.set()
        thread.join()


def quantile(values: list[float], share: float) -> float:
    """The smallest value that is at least as large as that share of them."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


LINE = Line(
    name="tracking",
    question="What does tracking 50 metrics a report cost, of a trial of half a minute, and does Ray's loop wait?",
    prepare=prepare,
    figures=(
        Figure(name="processor time of a run / trial", goal=at_most(0.01)),
        Figure(name="loop lag, 99 of 100, ms", goal=at_most(5)),
        Figure(name="loop lag without tracking, 99 of 100, ms"),
        Figure(name="longest call from the loop, ms"),
        Figure(name="processor time of a run, ms"),
        Figure(name="Ray's callback, loop waits for a trial, ms"),
    ),
    full={"trials": 100, "trial_s": 30},
    quick={"trials": 5},
)
