"""Do runs that are trained as one take less time than one after the other? Training examples a second, by their number.

    python benchmarks/fused.py [--json FILE] [--device cuda] [--networks cnn resnet18 vit_tiny] [--sizes 2 4 8]
                               [--batch-size 128] [--width 1] [--depth N] [--side 32] [--steps 20] [--repeats 5]

Prints a table: for every number of runs the examples a second of all of them together and of one alone, measured one
right after the other, and the ratio of the two: the median over the repeats, with the smallest and the largest. The
loops are those of a trial, so that feeding and augmentation are in it. Time is processor time on a CPU, which others on
the machine disturb little, and wall-clock time on a GPU. What does not fit into memory is left out, and said.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]

import torch  # noqa: E402

from trainables import components, fused  # noqa: E402
from trainables.components import ComponentData  # noqa: E402
from trainables.memory import is_exhausted  # noqa: E402
from trainables.mixture import mixture_of  # noqa: E402
from trainables.pretrain import Progress, pretrain  # noqa: E402
from trainables.spec import Architecture, PretrainSpec, Source, Training  # noqa: E402

WARM_STEPS = 3


def measure(
    specs: Sequence[PretrainSpec], data: Sequence[ComponentData], device: torch.device, steps: int
) -> dict[str, float]:
    """One repeat: examples a second of the runs trained as one, and of the first of them alone, which comes first."""
    alone = _rate(specs[:1], data, device, steps)
    together = _rate(specs, data, device, steps)
    return {"alone": alone, "as one": together, "ratio": together / alone}


def _rate(specs: Sequence[PretrainSpec], data: Sequence[ComponentData], device: torch.device, steps: int) -> float:
    """Examples a second between two checkpoints, where the loops wait for the device."""
    clock: Callable[[], float] = time.perf_counter if device.type == "cuda" else time.process_time
    at: list[float] = []
    ticks = dict.fromkeys((WARM_STEPS, WARM_STEPS + steps), lambda network: at.append(clock()))
    short = [replace(spec, until=WARM_STEPS + steps) for spec in specs]
    if len(specs) == 1:
        run: Iterator[Progress] = pretrain(short[0], data, device=device, checkpoints=ticks)
    else:
        others: list[fused.Checkpoints] = [{}] * (len(specs) - 1)
        run = fused.pretrain_all(short, [data] * len(specs), device=device, checkpoints=[ticks, *others])
    for _ in run:
        pass
    return steps * specs[0].training.batch_size * len(specs) / (at[1] - at[0])


def replicates(architecture: Architecture, batch_size: int, count: int) -> tuple[list[PretrainSpec], ComponentData]:
    """Runs of one shape that differ in their seed, on handwritten digits enlarged to the images of the architecture."""
    channels, *side = architecture.image_shape
    component = components.prepare(Source(dataset="digits", image_size=(side[0], side[1]), channels=channels))
    training = Training(steps=1000, batch_size=batch_size, learning_rate=0.01, augment=("flip", "crop"))
    mixture = mixture_of(
        {"digits": 1},
        {"digits": component},
        num_examples=training.steps * batch_size,
        train_examples=None,
        label_space="joint",
    )
    specs = [
        PretrainSpec(mixture=mixture, architecture=architecture, training=training, seed=seed) for seed in range(count)
    ]
    return specs, components.load(component)


def main() -> None:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--networks", nargs="+", default=["cnn", "resnet18", "vit_tiny"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[2, 4, 8, 16, 32, 64] if gpu else [2, 4])
    parser.add_argument("--batch-size", type=int, default=128 if gpu else 32)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--depth", type=int)
    parser.add_argument("--side", type=int, default=32, help="of the images, in pixels; they have three channels")
    parser.add_argument("--steps", type=int, default=20 if gpu else 2)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(args.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, one thread, processor time"
    print(
        f"{name}; torch {torch.__version__}; batches of {args.batch_size}, {args.repeats} repeats of {args.steps} steps"
    )
    print(f"{'network':10} {'runs':>5} {'as one, ex/s':>14} {'alone, ex/s':>14} {'ratio':>6}  smallest to largest")
    found = []
    for network in args.networks:
        shape = (3, args.side, args.side)
        architecture = Architecture(name=network, width=args.width, depth=args.depth, image_shape=shape)
        for size in args.sizes:
            specs, data = replicates(architecture, args.batch_size, size)
            try:
                repeats = [measure(specs, [data], device, args.steps) for _ in range(args.repeats)]
            except (RuntimeError, MemoryError) as error:
                if not is_exhausted(error):
                    raise
                print(f"{network:10} {size:5} does not fit into memory")
                break
            middle = {what: statistics.median(r[what] for r in repeats) for what in repeats[0]}
            ratios = sorted(r["ratio"] for r in repeats)
            print(
                f"{network:10} {size:5} {middle['as one']:14,.0f} {middle['alone']:14,.0f} {middle['ratio']:6.2f}  "
                f"{ratios[0]:.2f} to {ratios[-1]:.2f}",
                flush=True,
            )
            found.append({"network": network, "runs": size, "repeats": repeats, **middle})
    if args.json:
        about = {"device": name, "torch": torch.__version__, "batch_size": args.batch_size, "side": args.side}
        args.json.write_text(json.dumps({**about, "rows": found}, indent=1))


if __name__ == "__main__":
    main()
