"""What do trajectories cost? Processor time of twelve checkpoints and their measurement, in parts of that of the run.

    BOTTLENECK_DATA=... python benchmarks/trajectory.py [--json FILE] [--repeats 5] [--steps 2000] [--architecture cnn]

One run on a mixture of MNIST, FashionMNIST and KMNIST, which leaves copies of its network as checkpoints; then the
trajectories of its components one after the other, each compared with a direct baseline, which share what is of the
run. Copies lie in memory here, and in files in a sweep. Their time is taken off that of the run in which they are made:
a second run without them would differ by more than they take. Processor time of one thread, so that other work on the
machine counts little. Prints a line for each repeat, then the median with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from trainables import checkpoints, components, representation, trajectory
from trainables.architectures import Network, build, layout_of
from trainables.components import ComponentData
from trainables.mixture import mixture_of
from trainables.pretrain import pretrain
from trainables.process import keep_freed_memory
from trainables.spec import Architecture, Component, PretrainSpec, Source, Training, TrajectorySpec

DATASETS = ("mnist", "fashion_mnist", "kmnist")
BATCH = 128
DIRECT_STEPS = 100
CPU = torch.device("cpu")


def run_of(parts: dict[str, Component], architecture: str, steps: int) -> PretrainSpec:
    """A run on equal parts of the components."""
    mixture = mixture_of(
        dict.fromkeys(parts, 1.0), parts, num_examples=steps * BATCH, train_examples=None, label_space="joint"
    )
    network = Architecture(name=architecture, image_shape=(1, 28, 28))
    training = Training(steps=steps, batch_size=BATCH, learning_rate=0.05)
    return PretrainSpec(mixture=mixture, architecture=network, training=training, seed=0)


def trained(run: PretrainSpec, data: list[ComponentData], steps: tuple[int, ...]) -> tuple[list[Network], float, float]:
    """Copies of the network after so many steps of a run, the run's processor time, and that of the copies in it."""
    kept: list[Network] = []
    copying = 0.0

    def keep(network: Network) -> None:
        nonlocal copying
        started = time.process_time()
        kept.append(copy.deepcopy(network).eval())
        copying += time.process_time() - started

    started = time.process_time()
    for _ in pretrain(run, data, device=CPU, checkpoints=dict.fromkeys(steps, keep), report_every_s=1e9):
        pass
    return kept, time.process_time() - started, copying


def direct_baselines(parts: dict[str, Component], architecture: str) -> list[tuple[PretrainSpec, Network]]:
    """A network trained on each component alone: for DIRECT_STEPS, which makes no difference to what is measured."""
    found: list[tuple[PretrainSpec, Network]] = []
    for name, component in parts.items():
        run = run_of({name: component}, architecture, DIRECT_STEPS)
        [network], _, _ = trained(run, [components.load(component)], (DIRECT_STEPS,))
        found.append((run, network))
    return found


def extra(
    parts: dict[str, Component],
    architecture: str,
    steps: int,
    points: int,
    directs: list[tuple[PretrainSpec, Network]],
) -> list[float]:
    """What the checkpoints and the trajectories of one, two, ... components add to the processor time of the run.

    Args:
        directs: of `direct_baselines`; by then everything has been imported and used once.
    """
    run = run_of(parts, architecture, steps)
    data = [components.load(share.component) for share in run.mixture.shares]
    at = checkpoints.schedule(steps, points)
    kept, whole, spent = trained(run, data, at[1:])
    bare = whole - spent
    initial = build(run.architecture, run.mixture.num_classes, run.seed).eval()
    networks = [initial.to(memory_format=layout_of(run.architecture, CPU)), *kept]
    start = representation.initialisation(run.architecture, run.seed)
    specs = (start, *(replace(run, until=step) for step in at[1:-1]), run)
    found = []
    for component, (direct, network) in zip(parts.values(), directs, strict=True):
        started = time.process_time()
        spec = TrajectorySpec(checkpoints=specs, component=component, direct=direct)
        trajectory.measure(spec, networks, network, components.load(component), data, CPU)
        spent += time.process_time() - started
        found.append(spent / bare)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--points", type=int, default=12)
    parser.add_argument("--architecture", default="cnn")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    prepared = {name: components.prepare(Source(dataset=name)) for name in DATASETS}
    directs = direct_baselines(prepared, asked.architecture)
    found: list[list[float]] = []
    print(f"{asked.architecture}, {asked.steps} steps of {BATCH}, {asked.points} checkpoints; extra processor time, %")
    for _ in range(asked.repeats):
        found.append(extra(prepared, asked.architecture, asked.steps, asked.points, directs))
        print("  " + "  ".join(f"{100 * value:.1f}" for value in found[-1]), flush=True)
    for count, values in enumerate(zip(*found, strict=True), start=1):
        low, middle, high = (100 * f(values) for f in (min, statistics.median, max))
        print(
            f"{count} component{'s' if count > 1 else ' '}  {middle:5.1f}  [{low:.1f}, {high:.1f}]  n = {len(values)}"
        )
    if asked.json:
        asked.json.write_text(json.dumps({"settings": vars(asked) | {"json": None}, "extra": found}, indent=1))


if __name__ == "__main__":
    main()
