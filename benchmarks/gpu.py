"""How near to what the device can do? One command for a machine with a GPU; it needs neither Ray nor MLflow.

    python benchmarks/gpu.py [--json gpu.json] [--repeats 5] [--only matmul,resnet18,fused,probe,profile]
    python benchmarks/gpu.py --device cpu --tiny        # whether it runs at all

    matmul    the rate of one large matrix product in bfloat16: what a FLOP is held against
    resnet18  examples a second of our pretraining on CIFAR-10's shape, against a bare tuned loop: bytes on the device,
              bfloat16, channels last, a fused optimizer, compiled or not, whichever is faster
    fused     examples a second of 1 to 64 seeds trained as one, against one at a time (cnn, resnet18, vit_tiny)
    probe     seconds of the L2 path of 6 values on 50,000 x 512 features
    profile   where the time of our steps goes: the ten most expensive operations

Images are random bytes: their content costs nothing. Rates are those between a short and a long run, after one that is
not counted, so that building, copying, compiling and choosing algorithms are left out. Ours and the peer are measured
in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.peers import bare_loop  # noqa: E402
from benchmarks.peers.bare_loop import synchronise  # noqa: E402
from trainables.architectures import build, measure  # noqa: E402
from trainables.components import ComponentData, Split  # noqa: E402
from trainables.memory import is_exhausted  # noqa: E402
from trainables.mixture import mixture_of  # noqa: E402
from trainables.pretrain import pretrain  # noqa: E402
from trainables.probe import fit_path  # noqa: E402
from trainables.spec import BACKWARD, Architecture, Component, PretrainSpec, Source, Training  # noqa: E402

SHAPE, CLASSES = (3, 32, 32), 10
L2S = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
FUSED = ("cnn", "resnet18", "vit_tiny")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is done."""

    examples: int = 50_000
    batch_size: int = 512
    steps: tuple[int, int] = (20, 120)  # of the short run and of the long one
    fused_batch_size: int = 128
    fused_steps: int = 50
    group_sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    matrix: int = 8192
    features: tuple[int, int] = (50_000, 512)
    compiled: bool = True


TINY = Scale(
    examples=64,
    batch_size=4,
    steps=(1, 2),
    fused_batch_size=4,
    fused_steps=2,
    group_sizes=(1, 2),
    matrix=64,
    features=(200, 8),
    compiled=False,
)


# What is measured: each gives one repeat ------------------------------------------------------------------------------


def matmul(device: torch.device, scale: Scale) -> dict[str, float]:
    """FLOP/s of a product of two square matrices."""
    a, b = (torch.randn(scale.matrix, scale.matrix, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    synchronise(device)
    begun = time.perf_counter()
    for _ in range(10):
        a @ b
    synchronise(device)
    return {"matmul, TFLOP/s": 10 * 2 * scale.matrix**3 / (time.perf_counter() - begun) / 1e12}


def resnet18(device: torch.device, scale: Scale, data: ComponentData, swapped: bool = False) -> dict[str, float]:
    """Examples a second of our pretraining and of the bare loop, and the ratio."""
    spec = run_of(data, "resnet18", scale.batch_size, scale.steps[1])
    ways: dict[str, Callable[[], float]] = {
        "ours": lambda: rate(spec, data, device, scale.steps),
        "bare": lambda: bare(spec, data, device, scale, compiled=False),
    }
    if scale.compiled:
        ways["bare compiled"] = lambda: bare(spec, data, device, scale, compiled=True)
    found = {name: ways[name]() for name in (reversed(ways) if swapped else ways)}
    flops = measure(spec.architecture).flops * (1 + BACKWARD)
    best = max(value for name, value in found.items() if name != "ours")
    return {
        **{f"resnet18, {name}, examples/s": value for name, value in found.items()},
        "resnet18, ours / bare tuned loop": found["ours"] / best,
        "resnet18, ours, TFLOP/s": found["ours"] * flops / 1e12,
    }


def fused(device: torch.device, scale: Scale, data: ComponentData, architecture: str) -> dict[str, float]:
    """Examples a second of groups of seeds trained as one, over those of one; groups that fit into memory."""
    from benchmarks.fused import measure as side_by_side

    first = run_of(data, architecture, scale.fused_batch_size, 1000)
    found: dict[str, float] = {}
    for size in scale.group_sizes:
        specs = [replace(first, seed=seed) for seed in range(size)]
        try:
            values = side_by_side(specs, [data], device, scale.fused_steps)
        except (RuntimeError, MemoryError) as error:
            if not is_exhausted(error):
                raise
            break
        found[f"{architecture}, {size} as one / one at a time"] = values["ratio"]
        found[f"{architecture}, one at a time, examples/s"] = values["alone"]
    return found


def probe(device: torch.device, scale: Scale) -> dict[str, float]:
    """Seconds of a path of penalties on features whose variances fall, as those of networks do."""
    examples, width = scale.features
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(examples, width, generator=generator) / torch.arange(1, width + 1)
    labels = (features @ torch.randn(width, CLASSES, generator=generator)).argmax(1)
    placed, targets = features.to(device), labels.to(device)
    synchronise(device)
    begun = time.perf_counter()
    fit_path(placed, targets, CLASSES, L2S)
    synchronise(device)
    return {"probe path of 6, s": time.perf_counter() - begun}


def profile(device: torch.device, scale: Scale, data: ComponentData) -> str:
    """The ten operations of our steps that take longest."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    on_gpu = device.type == "cuda"
    spec = run_of(data, "resnet18", scale.batch_size, scale.steps[1])
    lasting(pretrain(replace(spec, until=scale.steps[0]), [data], device=device), device)
    with record(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else ())]) as recorded:
        lasting(pretrain(spec, [data], device=device), device)
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    return str(recorded.key_averages().table(sort_by=key, row_limit=10, max_name_column_width=60))


# How ------------------------------------------------------------------------------------------------------------------


def rate(spec: PretrainSpec, data: ComponentData, device: torch.device, steps: tuple[int, int]) -> float:
    """Examples a second of a pretraining, between a short run and a long one."""
    size = spec.training.batch_size
    runs = [run_of(data, spec.architecture.name, size, count) for count in (steps[0], *steps)]
    _, short, long = (lasting(pretrain(run, [data], device=device), device) for run in runs)
    return (steps[1] - steps[0]) * size / max(long - short, 1e-9)


def lasting(steps: Iterator[object], device: torch.device) -> float:
    """Seconds until a pretraining has come to its end."""
    synchronise(device)
    begun = time.perf_counter()
    for _ in steps:
        pass
    synchronise(device)
    return time.perf_counter() - begun


def bare(spec: PretrainSpec, data: ComponentData, device: torch.device, scale: Scale, *, compiled: bool) -> float:
    """Examples a second of the bare loop, on the same network."""
    network: nn.Module = build(spec.architecture, CLASSES, spec.seed).to(device).train()
    network = network.to(memory_format=torch.channels_last)
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        return bare_loop.train(
            network,
            data.train.images.to(device),
            data.train.labels.to(device),
            batch_size=spec.training.batch_size,
            steps=scale.steps[1] - scale.steps[0],
            warm_up=scale.steps[0],
            precision=torch.bfloat16,
            memory_format=torch.channels_last,
            forward=torch.compile(network) if compiled else None,
        )
    finally:
        torch.backends.cudnn.benchmark = before


def run_of(data: ComponentData, architecture: str, batch_size: int, steps: int) -> PretrainSpec:
    """A pretraining on the examples, in bfloat16."""
    mixture = mixture_of(
        {"images": 1.0}, {"images": data.component}, num_examples=steps * batch_size, train_examples=None,
        label_space="joint",
    )  # fmt: skip
    training = Training(steps=steps, batch_size=batch_size, learning_rate=0.05, precision="bfloat16")
    network = Architecture(name=architecture, image_shape=data.component.image_shape)
    return PretrainSpec(mixture=mixture, architecture=network, training=training, seed=0)


def images_of_noise(folder: Path, examples: int) -> ComponentData:
    """A component of CIFAR-10's shape whose pixels are random."""
    rng = np.random.default_rng(0)
    for split in ("train", "validation", "test"):
        np.save(folder / f"{split}_images.npy", rng.integers(0, 256, (examples, *SHAPE), np.uint8))
        np.save(folder / f"{split}_labels.npy", rng.integers(0, CLASSES, examples))
    component = Component(
        source=Source(dataset="cifar10"),
        content="0" * 64,
        num_classes=CLASSES,
        num_train=examples,
        num_validation=examples,
        num_test=examples,
        image_shape=SHAPE,
    )
    train, validation, test = (Split(folder, name, SHAPE, None) for name in ("train", "validation", "test"))
    return ComponentData(component=component, train=train, validation=validation, test=test, value_range=(-1.0, 1.0))


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="as small as runs at all")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="matmul,resnet18,fused,probe,profile", help="which, with commas between")
    parser.add_argument("--json", type=Path, metavar="FILE")
    asked = parser.parse_args(words)
    device, scale = torch.device(asked.device), TINY if asked.tiny else Scale()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU: the lines of a GPU stay unmeasured"
    print(f"{name}; torch {torch.__version__}; {'tiny, which says nothing of speed' if asked.tiny else 'whole'}")
    only = asked.only.split(",")
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="bottleneck-benchmark-") as folder:
        data = images_of_noise(Path(folder), scale.examples)
        for repeat in range(asked.repeats):
            for measured in _repeat(device, scale, data, only, repeat):
                for key, value in measured.items():
                    found.setdefault(key, []).append(value)
        for key, values in found.items():
            spread = f"{min(values):.4g} to {max(values):.4g}, n = {len(values)}"
            print(f"{key:<44} {statistics.median(values):>10.4g}   {spread}")
        table = profile(device, scale, data) if "profile" in only else None
    if table:
        print(table)
    if "matmul" in only and "resnet18" in only:
        reached = statistics.median(found["resnet18, ours, TFLOP/s"]) / statistics.median(found["matmul, TFLOP/s"])
        print(f"resnet18: {100 * reached:.3g} % of the rate of the matrix product")
    if asked.json:
        about = {"device": name, "torch": torch.__version__, "tiny": asked.tiny, "found": found, "profile": table}
        asked.json.write_text(json.dumps(about, indent=1) + "\n")


def _repeat(
    device: torch.device, scale: Scale, data: ComponentData, only: Sequence[str], repeat: int
) -> Iterator[dict[str, float]]:
    if "matmul" in only:
        yield matmul(device, scale)
    if "resnet18" in only:
        yield resnet18(device, scale, data, swapped=bool(repeat % 2))
    if "fused" in only:
        for architecture in FUSED:
            yield fused(device, scale, data, architecture)
    if "probe" in only:
        yield probe(device, scale)


if __name__ == "__main__":
    main()
