"""What do trajectories cost? Processor time of twelve checkpoints and their measurement, in parts of that of the run.

    BOTTLENECK_DATA=... python benchmarks/trajectory.py [--json FILE] [--repeats 3] [--steps 2000] [--architecture cnn]

One run on a mixture of MNIST, FashionMNIST and KMNIST, with and without checkpoints, in turn; then the trajectories of
one, two and three components, each in a run of its own mixture. Processor time of one thread, so that other work on the
machine counts little. Prints a table: median over the repeats with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from trainables import checkpoints, components, representation, trajectory, trial
from trainables.mixture import mixture_of
from trainables.pretrain import pretrain
from trainables.spec import Architecture, Component, PretrainSpec, Source, Training, TrajectorySpec

DATASETS = ("mnist", "fashion_mnist", "kmnist")
BATCH = 128
CPU = torch.device("cpu")


def run_of(parts: dict[str, Component], architecture: str, steps: int) -> PretrainSpec:
    """A run on equal parts of the components."""
    mixture = mixture_of(
        dict.fromkeys(parts, 1.0), parts, num_examples=steps * BATCH, train_examples=None, label_space="joint"
    )
    network = Architecture(name=architecture, image_shape=(1, 28, 28))
    training = Training(steps=steps, batch_size=BATCH, learning_rate=0.05)
    return PretrainSpec(mixture=mixture, architecture=network, training=training, seed=0)


def seconds(parts: dict[str, Component], architecture: str, steps: int, points: int) -> tuple[float, float]:
    """Processor time of a run with its checkpoints, and of the trajectories of all its components."""
    run = run_of(parts, architecture, steps)
    data = [components.load(share.component) for share in run.mixture.shares]
    at = checkpoints.schedule(steps, points)
    with tempfile.TemporaryDirectory() as folder:
        store = trial.Store(folder)
        work = trial._Work(store, CPU, lambda *_, **__: None, dict.fromkeys([c.content for c in parts.values()], "x"))
        between = [replace(run, until=step) for step in at[1:-1]]
        start = representation.initialisation(run.architecture, run.seed)
        for _ in work.compute(start, (), 1e9):
            pass
        started = time.process_time()
        for _ in work.compute(run, between, 1e9):
            pass
        trained = time.process_time() - started
        started = time.process_time()
        for component in parts.values():
            spec = TrajectorySpec(checkpoints=(start, *between, run), component=component, direct=None)
            networks = [work._network(checkpoint).eval() for checkpoint in spec.checkpoints]
            trajectory.measure(spec, networks, None, components.load(component), data, CPU)
        return trained, time.process_time() - started


def alone(parts: dict[str, Component], architecture: str, steps: int) -> float:
    """Processor time of the same run without checkpoints, and without anything being kept."""
    run = run_of(parts, architecture, steps)
    data = [components.load(share.component) for share in run.mixture.shares]
    started = time.process_time()
    for _ in pretrain(run, data, device=CPU, report_every_s=1e9):
        pass
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--points", type=int, default=12)
    parser.add_argument("--architecture", default="cnn")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    prepared = {name: components.prepare(Source(dataset=name)) for name in DATASETS}
    found: dict[int, list[float]] = {}
    for _ in range(asked.repeats):
        for count in range(1, len(DATASETS) + 1):
            parts = {name: prepared[name] for name in DATASETS[:count]}
            bare = alone(parts, asked.architecture, asked.steps)
            trained, measured = seconds(parts, asked.architecture, asked.steps, asked.points)
            found.setdefault(count, []).append((trained + measured) / bare - 1)
    what = f"{asked.architecture}, {asked.steps} steps of {BATCH}, {asked.points} checkpoints"
    print(f"{what}; extra processor time, n = {asked.repeats}")
    for count, values in found.items():
        low, middle, high = (100 * f(values) for f in (min, statistics.median, max))
        print(f"  {count} component{'s' if count > 1 else ' '}  {middle:5.1f} %  [{low:.1f}, {high:.1f}]")
    if asked.json:
        asked.json.write_text(json.dumps({"settings": vars(asked) | {"json": None}, "extra": found}, indent=1))


if __name__ == "__main__":
    main()
