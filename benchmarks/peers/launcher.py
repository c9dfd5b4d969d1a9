"""The study as a launcher of jobs runs it: a list of command lines, so many of them at a time, each a new `python`.

    python -m benchmarks.peers.launcher OUT.json [--steps 600] [--seeds 3] [--mixtures 3] [--train-examples 5000]

A job is one mixture, ordering, width, seed and component, as DomainBed's is one algorithm, dataset, test environment
and seed: it writes its result to a file and knows nothing of the others.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.peers.study import COMPONENTS, Study, answer


def run(study: Study, folder: Path) -> list[dict[str, Any]]:
    """The rows of the whole study; the seconds of its job are in each."""
    jobs = [cell | {"component": name} for cell in study.cells() for name in COMPONENTS]

    def launched(number: int) -> dict[str, Any]:
        out = folder / f"{number}.json"
        wanted = {"job": jobs[number], "study": study.as_json(), "out": str(out)}
        begun = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "benchmarks.peers.launcher", "--job", json.dumps(wanted)],
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        seconds = time.monotonic() - begun
        return {**json.loads(out.read_text()), "seconds": seconds}

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(launched, range(len(jobs))))


def job(wanted: dict[str, Any]) -> None:
    """What one process does."""
    from benchmarks.peers.cell import measure

    cell = dict(wanted["job"])
    name = cell.pop("component")
    [row] = measure(cell, Study(**wanted["study"]), [name])
    Path(wanted["out"]).write_text(json.dumps(row))


def main() -> None:
    if sys.argv[1:2] == ["--job"]:
        job(json.loads(sys.argv[2]))
        return
    answer(__doc__ or "", run)


if __name__ == "__main__":
    main()
