"""How soon do commands answer that train nothing? Their start, and a plan of 100,000 cells with its memory.

    python benchmarks/commands.py [--json FILE] [--repeats 5] [--cells 100000] [--against FOLDER]

Commands are timed from outside, warm: what is found once per machine has been found. A cell is a row of the results
table, here of 5 seeds and 3 components. With --against, a folder with another version of this program, its commands
take turns with these, which is what tells on a busy machine.
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
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
SWEEP = """
name: many
question: How long does planning take?
components:
  low: {{dataset: digits, classes: [0, 1, 2]}}
  middle: {{dataset: digits, classes: [3, 4, 5]}}
  high: {{dataset: digits, classes: [6, 7, 8]}}
vary: {{mixture: {{simplex: {{resolution: {resolution}}}}}, architecture: mlp}}
seeds: {seeds}
pretrain: {{steps: 10, batch_size: 256}}
transfer: {{train_examples: 30}}
"""
SEEDS, COMPONENTS = 5, 3
LIBRARIES = "import click, pydantic, yaml; pydantic.BaseModel"  # that every sweep is read with


def prepare(folder: Path, cells: int, versions: Mapping[str, Path]) -> Callable[[], dict[str, float]]:
    """What measures one repeat, with all that it asks about in a folder."""
    mixtures = cells / (SEEDS * COMPONENTS)
    resolution = next(r for r in range(1, cells) if math.comb(r + 2, 2) >= mixtures)
    file = folder / "many.yaml"
    file.write_text(SWEEP.format(resolution=resolution, seeds=SEEDS))
    storage = ["--storage", str(folder / "runs")]
    commands = {
        "--help": ["--help"],
        "validate quickstart": ["validate", "quickstart"],
        "plan quickstart": ["plan", "quickstart", *storage],
        f"plan of {math.comb(resolution + 2, 2) * SEEDS * COMPONENTS:,} cells": ["plan", str(file), *storage],
    }
    for words in commands.values():
        _run([sys.executable, "-m", "orchestrator.cli", *words], ROOT)

    def measure() -> dict[str, float]:
        wall, cpu, _ = _run([sys.executable, "-c", LIBRARIES], ROOT)
        found = {"libraries alone, s": wall, "libraries alone, processor s": cpu}
        for name, words in commands.items():
            for version, root in versions.items():
                wall, cpu, peak = _run([sys.executable, "-m", "orchestrator.cli", *words], root)
                found |= {f"{name}{version}, s": wall, f"{name}{version}, processor s": cpu}
                if name.endswith("cells"):
                    found[f"{name}{version}, MB"] = peak
        return found

    return measure


def _run(words: Sequence[str], root: Path) -> tuple[float, float, float]:
    """Seconds, processor seconds and the most memory in MB that a command takes."""
    begun = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(root)}
    process = subprocess.Popen(
        words, cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    spent = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with {process.returncode}: {said}")
    return spent, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cells", type=int, default=100_000, help="at least so many")
    parser.add_argument("--against", type=Path, metavar="FOLDER")
    asked = parser.parse_args()
    versions = {"": ROOT} | ({" before": asked.against} if asked.against else {})
    with tempfile.TemporaryDirectory(prefix="bottleneck-benchmark-") as folder:
        measure = prepare(Path(folder), asked.cells, versions)
        repeats = [measure() for _ in range(asked.repeats)]
    found = {name: [repeat[name] for repeat in repeats] for name in repeats[0]}
    if asked.json:
        arguments = {name: str(value) for name, value in vars(asked).items()}
        asked.json.write_text(json.dumps({"arguments": arguments, "found": found}, indent=1))
    for name, values in found.items():
        middle = statistics.median(values)
        print(f"{name:<48} {middle:>8.3g}   {min(values):.3g} to {max(values):.3g}, n = {len(values)}")


if __name__ == "__main__":
    main()
