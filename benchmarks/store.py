"""How fast is the store? Puts, gets, looks, states and journal lines, in a folder and on an S3 server of this machine.

    python benchmarks/store.py [--json FILE] [--repeats 5] [--stages 300] [--looked-for 10000] [--state-mb 64]

Prints a table: median over the repeats with the smallest and the largest. The S3 server is moto, a mock on loopback:
it answers one request at a time and has no network, so its figures bound what this program adds, and not Amazon's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "trainables")]

from buckets import Bucket, bucket  # noqa: E402
from test_spec import pretraining  # noqa: E402

from trainables.store import Store  # noqa: E402

RESULT = {"status": "ok", "loss_curve": [[step, 0.1 * step] for step in range(100)], "seconds": 1.0}
WEIGHTS = {"weights": {"w": torch.zeros(2500)}}  # 10 kB


def measure(store: Store, number: int, looked_for: int, state_mb: float, server: Bucket) -> dict[str, float]:
    """One repeat, in a store of its own: seconds of one, or MB/s; and on S3 the requests that each took."""
    stages = [replace(pretraining(), seed=seed) for seed in range(number)]
    state = {"x": torch.zeros(int(state_mb * 250_000))}
    digests = [hashlib.sha256(b"%d" % n).hexdigest() for n in range(looked_for - number)]
    wanted = [("pretrain", digest) for digest in (*digests, *(stage.digest for stage in stages))]
    found: dict[str, float] = {}

    def note(what: str, count: int, work: Callable[[], object]) -> None:
        requests, started = len(server.requests), time.perf_counter()
        work()
        found[f"{what}, ms"] = 1000 * (time.perf_counter() - started) / count
        if not store.is_folder:
            found[f"{what}, requests"] = (len(server.requests) - requests) / count

    _claim(store, "first")  # makes the client
    note("put of a stage with a network", number, lambda: [store.put(stage, RESULT, WEIGHTS) for stage in stages])
    note("get of a result", number, lambda: [store.get("pretrain", stage.digest) for stage in stages])
    note("tensors of a stage", number, lambda: [store.tensors("pretrain", s.digest, "weights") for s in stages])
    note("claim and release", number, lambda: [_claim(store, stage.digest) for stage in stages])
    note("journal line", number, lambda: [store.append("a.jsonl", b"x" * 299 + b"\n") for _ in stages])
    note(f"existing() of {looked_for:,}", 1, lambda: store.existing(wanted))
    note(f"save of a state of {state_mb:g} MB", 1, lambda: store.save_state("a" * 64, state, {}))
    note(f"load of a state of {state_mb:g} MB", 1, lambda: store.load_state("a" * 64))
    return found


def _claim(store: Store, name: str) -> None:
    with store.claim(name) as mine:
        assert mine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--stages", type=int, default=300)
    parser.add_argument("--looked-for", type=int, default=10_000)
    parser.add_argument("--state-mb", type=float, default=64)
    parser.add_argument("--only", action="append", choices=["folder", "s3"])
    asked = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(dir=".", prefix="benchmark-") as folder, bucket() as server:
        places = {"folder": lambda n: f"{folder}/{n}", "s3": lambda n: server.location(str(n))}
        for repeat in range(asked.repeats):
            for name in asked.only or places:
                store = Store(places[name](repeat))
                measured = measure(store, asked.stages, asked.looked_for, asked.state_mb, server)
                for what, value in measured.items():
                    found.setdefault(name, {}).setdefault(what, []).append(value)
    if asked.json:
        asked.json.write_text(
            json.dumps({"arguments": vars(asked) | {"json": str(asked.json)}, "found": found}, indent=1)
        )
    for name, measured in found.items():
        for what, values in measured.items():
            middle = statistics.median(values)
            print(f"{name:<8} {what:<40} {middle:>10.4g}   {min(values):.4g} to {max(values):.4g}, n = {len(values)}")


if __name__ == "__main__":
    main()
