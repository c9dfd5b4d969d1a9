"""The results of 2,000 trials as a table, from the store, against `mlflow.search_runs` of runs of 100 metrics.

A made-up trial has 2 seeds and 3 components: six rows of the table. MLflow's runs, on SQLite, are those that the sweep
has there, with the numbers of these rows added up to 100 metrics; the gaps that both know have to be the same.

The first call reads and verifies every stage's file, and so does one after any of them has changed. The second, which
is what a user has of a sweep that has ended, takes the table from this machine's cache after a look at each file.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.clock import ROOT, Timed, in_turn, timed
from benchmarks.table import Figure, Line, Measure, at_least, at_most

METRICS = 100
NAME = "many"


def prepare(folder: Path, *, trials: int) -> Measure:
    sys.path.insert(0, str(ROOT / "tests"))
    import mlflow
    from made_up_sweeps import made_up

    from orchestrator import results
    from trainables.store import Store

    sweep = made_up(NAME, trials=trials)
    storage, uri = folder / "runs", f"sqlite:///{folder}/mlflow.db"
    sweep.put(Store(str(storage)))
    records = sweep.records()
    _fill(uri, [(record.digest[:12], dict(record.metrics)) for record in records])

    def ours() -> tuple[Timed[Any], Timed[Any]]:
        """The first call and the second, with a cache that is empty at first."""
        shutil.rmtree(folder / "cache", ignore_errors=True)
        with mock.patch.dict(os.environ, BOTTLENECK_CACHE=str(folder / "cache")):
            return timed(load), timed(load)

    def load() -> Any:
        return results.load(NAME, storage=str(storage))

    def theirs() -> Any:
        mlflow.set_tracking_uri(uri)
        return mlflow.search_runs(experiment_names=[NAME], max_results=trials)

    first, _ = ours()[0].result, theirs()  # what is imported then is paid for
    numbers = int(first.select_dtypes("number").notna().sum().sum())

    def measure(swapped: bool) -> dict[str, float]:
        done = in_turn({"ours": ours, "theirs": lambda: timed(theirs)}, swapped=swapped)
        (cold, warm), peer = done["ours"], done["theirs"]
        table, runs = warm.result, peer.result
        assert table.equals(cold.result), "the second call gives what the first gave"
        gaps = table[table["component"] == "clothes"].groupby("trial")["gap"].mean()
        known = runs.set_index("tags.digest")["metrics.gap/clothes"]
        assert len(gaps) == len(known) == trials
        assert float((gaps - known.reindex(gaps.index)).abs().max()) < 1e-12, "both have the same gaps"
        return {
            "second call, times faster than mlflow.search_runs": peer.cpu_s / warm.cpu_s,
            "second call, s": warm.wall_s,
            "first call, times faster than mlflow.search_runs": peer.cpu_s / cold.cpu_s,
            "first call, s": cold.wall_s,
            "mlflow.search_runs, s": peer.wall_s,
            "numbers of a trial": numbers / trials,
        }

    return measure


def _fill(uri: str, trials: list[tuple[str, dict[str, float]]]) -> None:
    """Runs of METRICS metrics each in a new database."""
    from mlflow.entities import Metric, RunTag
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment(NAME)
    for digest, metrics in trials:
        run = client.create_run(experiment).info.run_id
        further = {f"metric_{number}": number / METRICS for number in range(METRICS - len(metrics))}
        values = [Metric(name, value, 0, 0) for name, value in (metrics | further).items()]
        client.log_batch(run, metrics=values, tags=[RunTag("digest", digest)])


LINE = Line(
    name="results",
    question="How long does it take to have the results of 2,000 trials of 100 metrics as a table?",
    prepare=prepare,
    figures=(
        Figure(name="second call, times faster than mlflow.search_runs", goal=at_least(10)),
        Figure(name="second call, s", goal=at_most(1)),
        Figure(name="first call, times faster than mlflow.search_runs", goal=at_least(10)),
        Figure(name="first call, s", goal=at_most(1)),
        Figure(name="mlflow.search_runs, s"),
        Figure(name="numbers of a trial"),
    ),
    full={"trials": 2000},
    quick={"trials": 5},
)
