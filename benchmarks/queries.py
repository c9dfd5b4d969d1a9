"""How fast are questions about large tables answered? A filter of a million rows, `bottleneck status` of 10,000 trials.

    python benchmarks/queries.py [--json FILE] [--repeats 5] [--rows 1000000] [--status-trials 10000]

Status is timed as a command, with its start. How long it takes to have the results of a sweep is the line `results` of
`python -m benchmarks`.
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

WHERE, COLUMNS = "component == 'digits-2' and gap > 0.02", ["seed", "weight", "gap"]


def prepare(folder: Path, rows: int, status_trials: int) -> Callable[[], dict[str, float]]:
    """What measures one repeat, with all that it asks about in a folder."""
    made_up("many", 200).put(Store(folder / "runs"))
    small = results.load("many", storage=str(folder / "runs"))
    large = small.take(np.resize(np.arange(len(small)), rows)).reset_index(drop=True)
    _planned(Store(folder / "status"), status_trials)

    def measure() -> dict[str, float]:
        kept, filter_s, filter_cpu = _timed(lambda: results.select(large, WHERE, COLUMNS))
        assert len(kept) == ((large["component"] == "digits-2") & (large["gap"] > 0.02)).sum()
        return {
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
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--status-trials", type=int, default=10_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bottleneck-benchmark-") as folder:
        measure = prepare(Path(folder), asked.rows, asked.status_trials)
        found = pd.DataFrame([measure() for _ in range(asked.repeats)])
    if asked.json:
        arguments = {**vars(asked), "json": str(asked.json)}
        asked.json.write_text(json.dumps({"arguments": arguments, "found": found.to_dict("list")}, indent=1))
    for name, values in found.items():
        middle = statistics.median(values)
        print(f"{name:<48} {middle:>8.3g}   {min(values):.3g} to {max(values):.3g}, n = {len(values)}")


if __name__ == "__main__":
    main()
