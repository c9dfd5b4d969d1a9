"""The results of 2,000 trials as a table, from the store, against `mlflow.search_runs` of runs of 100 metrics.

A made-up trial has 2 seeds and 3 components: six rows of the table. MLflow's runs, on SQLite, are those that the sweep
has there, with the numbers of these rows added up to 100 metrics; the gaps that both know have to be the same.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.clock import ROOT, in_turn, timed
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

    def ours() -> Any:
        return results.load(NAME, storage=str(storage))

    def theirs() -> Any:
        mlflow.set_tracking_uri(uri)
        return mlflow.search_runs(experiment_names=[NAME], max_results=trials)

    first, _ = ours(), theirs()  # what is imported then is paid for
    numbers = int(first.select_dtypes("number").notna().sum().sum())

    def measure(swapped: bool) -> dict[str, float]:
        done = in_turn({"ours": lambda: timed(ours), "theirs": lambda: timed(theirs)}, swapped=swapped)
        table, runs = done["ours"].result, done["theirs"].result
        gaps = table[table["component"] == "clothes"].groupby("trial")["gap"].mean()
        known = runs.set_index("tags.digest")["metrics.gap/clothes"]
        assert len(gaps) == len(known) == trials
        assert float((gaps - known.reindex(gaps.index)).abs().max()) < 1e-12, "both have the same gaps"
        return {
            "times faster than mlflow.search_runs": done["theirs"].cpu_s / done["ours"].cpu_s,
            "this program, s": done["ours"].wall_s,
            "mlflow.search_runs, s": done["theirs"].wall_s,
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
        Figure(name="times faster than mlflow.search_runs", goal=at_least(10)),
        Figure(name="this program, s", goal=at_most(1)),
        Figure(name="mlflow.search_runs, s"),
        Figure(name="numbers of a trial"),
    ),
    full={"trials": 2000},
    quick={"trials": 5},
)
