"""How fast is the store? Puts, gets, looks, states and journal lines, in a folder and on an S3 server of this machine.

    python benchmarks/store.py [--json FILE] [--repeats 5] [--stages 300] [--looked-for 10000] [--state-mb 64]

Prints a table: median over the repeats with the smallest and the largest. The S3 server is moto, a mock on loopback:
it answers one request at a time and has no network, so its figures bound what this program adds, and not Amazon's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests" / "trainables")]
sys.path.append(str(Path(__file__).parents[1] / "tests"))

from buckets import bucket
from test_spec import pretraining

from trainables.store import Store

RESULT = {"status": "ok", "loss_curve": [[step, 0.1 * step] for step in range(100)], "seconds": 1.0}
WEIGHTS = {"weights": {"w": torch.zeros(2500)}}  # 10 kB


def measure(store: Store, number: int, looked_for: int, state_mb: float) -> dict[str, float]:
    """One repeat, in a store of its own. Per second, but `existing_s`, which is seconds."""
    stages = [replace(pretraining(), seed=seed) for seed in range(number)]
    state = {"x": torch.zeros(int(state_mb * 250_000))}
    digests = [f"{n:064x}"[::-1] for n in range(looked_for - number)]  # spread over the folders, as digests are
    wanted = [("pretrain", digest) for digest in (*digests, *(stage.digest for stage in stages))]
    found = {
        "puts_per_s": number / _seconds(lambda: [store.put(stage, RESULT, WEIGHTS) for stage in stages]),
        "gets_per_s": number / _seconds(lambda: [store.get("pretrain", stage.digest) for stage in stages]),
        "tensors_per_s": number
        / _seconds(lambda: [store.tensors("pretrain", stage.digest, "weights") for stage in stages]),
        "claims_per_s": number / _seconds(lambda: [_claim(store, stage.digest) for stage in stages]),
        "lines_per_s": number / _seconds(lambda: [store.append("journal/a.jsonl", b"x" * 299 + b"\n") for _ in stages]),
        "existing_s": _seconds(lambda: store.existing(wanted)),
        "state_save_mb_per_s": state_mb / _seconds(lambda: store.save_state("a" * 64, state, {})),
        "state_load_mb_per_s": state_mb / _seconds(lambda: store.load_state("a" * 64)),
    }
    return found


def _claim(store: Store, name: str) -> None:
    with store.claim(name) as mine:
        assert mine


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@contextlib.contextmanager
def places(folder: Path) -> Iterator[dict[str, Callable[[int], Store]]]:
    with bucket() as made:
        yield {
            "folder": lambda repeat: Store(folder / str(repeat)),
            "s3": lambda repeat: Store(made.location(str(repeat))),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--stages", type=int, default=300)
    parser.add_argument("--looked-for", type=int, default=10_000)
    parser.add_argument("--state-mb", type=float, default=64)
    parser.add_argument("--only", choices=["folder", "s3"])
    asked = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(dir=".", prefix="benchmark-") as folder, places(Path(folder)) as made:
        for repeat in range(asked.repeats):
            for name, opened in made.items():
                if asked.only in (None, name):
                    measured = measure(opened(repeat), asked.stages, asked.looked_for, asked.state_mb)
                    for what, value in measured.items():
                        found.setdefault(name, {}).setdefault(what, []).append(value)
    if asked.json:
        asked.json.write_text(json.dumps({"arguments": vars(asked) | {"json": None}, "found": found}, indent=1))
    for name, measured in found.items():
        for what, values in measured.items():
            middle = statistics.median(values)
            print(f"{name:<8} {what:<20} {middle:>10.4g}   {min(values):.4g} to {max(values):.4g}, n = {len(values)}")


if __name__ == "__main__":
    main()
