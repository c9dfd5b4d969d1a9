"""How fast are questions about sweeps answered? The results of many trials, a filter of many rows, `bottleneck status`.

    python benchmarks/queries.py [--json FILE] [--repeats 5] [--trials 2000] [--rows 1000000] [--status-trials 10000]

Results are compared with `mlflow.search_runs` on runs of 100 metrics each, in SQLite: as many trials, and about as many
numbers (a made-up trial has six rows: two seeds, three components). The two take turns, in one process; ratios are of
processor time, for the machine may be busy. Status is timed as a command, with its start.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from made_up_sweeps import made_up  # noqa: E402

from orchestrator import results  # noqa: E402
from orchestrator.journal import Journal  # noqa: E402
from trainables.store import Store  # noqa: E402

METRICS = 100
WHERE, COLUMNS = "component == 'digits-2' and gap > 0.02", ["seed", "weight", "gap"]


def prepare(folder: Path, trials: int, rows: int, status_trials: int) -> Callable[[], dict[str, float]]:
    """What measures one repeat, with all that it asks about in a folder."""
    import mlflow

    uri = f"sqlite:///{folder}/peer.db"
    made_up("many", trials).put(Store(folder / "runs"))
    _fill(uri, trials)
    small = results.load("many", storage=str(folder / "runs"))
    large = small.take(np.resize(np.arange(len(small)), rows)).reset_index(drop=True)
    _planned(Store(folder / "status"), status_trials)

    def theirs() -> Any:
        mlflow.set_tracking_uri(uri)
        return mlflow.search_runs(experiment_names=["many"], max_results=trials)

    def measure() -> dict[str, float]:
        found, ours_s, ours_cpu = _timed(lambda: results.load("many", storage=str(folder / "runs")))
        runs, theirs_s, theirs_cpu = _timed(theirs)
        assert (found["trial"].nunique(), len(runs)) == (trials, trials), "both have all trials"
        assert sum(str(name).startswith("metrics.") for name in runs) == METRICS
        kept, filter_s, filter_cpu = _timed(lambda: results.select(large, WHERE, COLUMNS))
        assert len(kept) == ((large["component"] == "digits-2") & (large["gap"] > 0.02)).sum()
        return {
            "results, s": ours_s,
            "results, processor s": ours_cpu,
            "mlflow.search_runs, s": theirs_s,
            "mlflow.search_runs, processor s": theirs_cpu,
            "times faster, processor time": theirs_cpu / ours_cpu,
            "filter, s": filter_s,
            "filter, processor s": filter_cpu,
            **_status(folder / "status", [], "status"),
            **_status(folder / "status", ["many"], "status of one with its trials"),
        }

    return measure


def _timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return found, time.perf_counter() - wall, time.process_time() - cpu


def _fill(uri: str, trials: int) -> None:
    """Runs with METRICS metrics each in a new database."""
    from mlflow.entities import Metric, RunTag
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("many")
    for trial in range(trials):
        run = client.create_run(experiment).info.run_id
        metrics = [Metric(f"metric_{n}", (31 * trial + 7 * n) % 997 / 997, 0, 0) for n in range(METRICS)]
        client.log_batch(run, metrics=metrics, tags=[RunTag("digest", str(trial))], synchronous=True)


def _planned(store: Store, trials: int) -> None:
    """A sweep as its driver leaves it for `status`: the plan and the snapshot."""
    sweep = made_up("many", trials, seeds=(0,))
    journal = Journal(store, "many")
    journal.write_plan("name: many\nquestion: How soon does status answer?\n", sweep.plan)
    journal.start()
    outcomes = {trial["digest"][:12]: "ok" for trial in sweep.plan["trials"]}
    snapshot = {"state": "finished", "outcomes": outcomes, "stages": 7 * trials, "stages_stored": 7 * trials}
    journal.write_snapshot({**snapshot, "trials": trials})


def _status(storage: Path, words: list[str], name: str) -> dict[str, float]:
    command = [sys.executable, "-m", "orchestrator.cli", "status", *words, "--storage", str(storage)]
    before, wall = os.times(), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    after, spent = os.times(), time.perf_counter() - wall
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return {f"{name}, s": spent, f"{name}, processor s": cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--status-trials", type=int, default=10_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bottleneck-benchmark-") as folder:
        measure = prepare(Path(folder), asked.trials, asked.rows, asked.status_trials)
        found = pd.DataFrame([measure() for _ in range(asked.repeats)])
    if asked.json:
        arguments = {**vars(asked), "json": str(asked.json)}
        asked.json.write_text(json.dumps({"arguments": arguments, "found": found.to_dict("list")}, indent=1))
    for name, values in found.items():
        middle = statistics.median(values)
        print(f"{name:<48} {middle:>8.3g}   {min(values):.3g} to {max(values):.3g}, n = {len(values)}")


if __name__ == "__main__":
    main()
