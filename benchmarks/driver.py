"""How does a driver fare with thousands of trials? Its memory, what Ray's loop waits for it, and `bottleneck status`.

    python benchmarks/driver.py [--trials 10000] [--storage FOLDER] [--json FILE]

Runs one sweep of that many trials, each a pretraining of a single step on another mixture of three components, with the
store and MLflow's SQLite file in a temporary folder (or in one that is kept, where the sweep then continues). Prints a
line for every tenth of the trials. Resident memory is that of the driver's process alone; the loop's waiting is the
processor and lock time inside of what Ray Tune's loop calls; `status` is timed as a command, on a machine that is busy
with the sweep, and five times after its end.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import psutil  # noqa: E402

from orchestrator.driver import Driver  # noqa: E402
from orchestrator.launch import HELPER  # noqa: E402
from orchestrator.prepare import prepare  # noqa: E402
from orchestrator.run import run  # noqa: E402
from orchestrator.sweep import read  # noqa: E402
from trainables.store import Store  # noqa: E402

SWEEP = """
name: many
question: How does a driver fare with many trials?
components:
  low: {{dataset: digits, classes: [0, 1, 2]}}
  middle: {{dataset: digits, classes: [3, 4, 5]}}
  high: {{dataset: digits, classes: [6, 7, 8]}}
vary: {{mixture: {{simplex: {{resolution: {resolution}}}}}, architecture: mlp, width: 0.0625}}
seeds: 1
pretrain: {{steps: 1, batch_size: 256}}
transfer: {{train_examples: 30, l2: [0.01]}}
"""
LOOP = ("next", "exhausted", "trial_started", "trial_progress", "trial_ended")
SAMPLE_S = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000, help="at least so many")
    parser.add_argument("--storage", type=Path)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bottleneck-benchmark-") as scratch:
        measured = measure(options.trials, options.storage or Path(scratch, "runs"), Path(scratch))
    if options.json:
        options.json.write_text(json.dumps(measured, indent=1) + "\n")


def measure(trials: int, storage: Path, scratch: Path) -> dict[str, Any]:
    resolution = next(r for r in range(1, trials) if math.comb(r + 2, 2) >= trials)
    file = scratch / "many.yaml"
    file.write_text(SWEEP.format(resolution=resolution))
    begun = time.monotonic()
    planned, sizes = prepare(read(file), lambda line: print(line, file=sys.stderr))
    found: dict[str, Any] = {"trials": len(planned.trials), "planned in, s": round(time.monotonic() - begun, 1)}
    waits, ended = timed(Driver)
    watch = Watch(ended, len(planned.trials), storage, waits)
    store, uri = Store(storage), f"sqlite:///{storage}/mlflow.db"
    with watch:
        outcome = run(planned, store, sizes, tracking_uri=uri, command="benchmarks/driver.py", live=False)
    loop = sorted(waits)
    found |= {
        "lines": watch.lines,
        "computed": outcome.computed,
        "seconds": round(time.monotonic() - begun),
        "most memory, MB": round(watch.most / 2**20),
        "calls from the loop": len(loop),
        "median, ms": round(1e3 * statistics.median(loop), 3),
        "99 %, ms": round(1e3 * loop[int(0.99 * len(loop))], 3),
        "longest, ms": round(1e3 * loop[-1], 1),
        "status after the end, s": [round(status(storage), 2) for _ in range(5)],
    }
    for name, value in found.items():
        if name != "lines":
            print(f"{name}: {value}")
    return found


def timed(driver: type[Driver]) -> tuple[list[float], list[float]]:
    """The seconds that each call from Ray's loop takes from now on, and when trials ended."""
    waits: list[float] = []
    ended: list[float] = []

    def around(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            begun = time.perf_counter()
            try:
                return method(*arguments)
            finally:
                waits.append(time.perf_counter() - begun)
                if name == "trial_ended" and HELPER not in arguments[1]:
                    ended.append(time.monotonic())

        return call

    for name in LOOP:
        setattr(driver, name, around(name, getattr(driver, name)))
    return waits, ended


def status(storage: Path) -> float:
    command = [sys.executable, "-m", "orchestrator.cli", "status", "--storage", str(storage)]
    begun = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - begun


class Watch:
    """Looks at this process, and asks for the status, at every tenth of the trials."""

    def __init__(self, ended: list[float], trials: int, storage: Path, waits: list[float]) -> None:
        self.lines: list[dict[str, float]] = []
        self.most = 0
        self._ended, self._trials, self._storage, self._waits = ended, trials, storage, waits
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()

    def _look(self) -> None:
        me, begun, wanted = psutil.Process(), time.monotonic(), 1
        while not self._closed.wait(SAMPLE_S):
            memory = me.memory_info().rss
            self.most = max(self.most, memory)
            if len(self._ended) >= wanted:
                line = {
                    "trials": len(self._ended),
                    "seconds": round(time.monotonic() - begun),
                    "memory, MB": round(memory / 2**20),
                    "longest wait so far, ms": round(1e3 * max(self._waits), 1),
                    "status, s": round(status(self._storage), 2),
                }
                self.lines.append(line)
                print("  ".join(f"{name}: {value}" for name, value in line.items()), flush=True)
                wanted = max(wanted + self._trials // 10, 100)


if __name__ == "__main__":
    main()
