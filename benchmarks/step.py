"""What does the training step cost? Our pretraining against a plain loop, and whether decoding keeps up.

    BOTTLENECK_DATA=... python benchmarks/step.py [--json FILE] [--repeats 5] [--device cpu] [--steps 100] [--only cnn]

The plain loop is the one that one writes first: the same network, batches indexed from floats that lie in memory,
cross-entropy, `torch.optim.SGD`, and nothing else. Both run in turn; the figure is its time by ours, so 1 is no cost at
all, and above 1 that ours is faster. Ours runs a second time with images and filters in the other layout than
`layout_of` chooses: above 1, the choice pays. All of them keep freed memory, as workers do. On a CPU processor time of
one thread counts, so that other work on the machine counts little; on a GPU the wall clock, to its last kernel.

With --pictures a folder of pictures is written, and a run that decodes them whenever they are shown is put beside one
that finds them decoded, by the wall clock, as other processes decode: at 1 the step never waits for a picture.

Prints for each case the median with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainables import components
from trainables.architectures import build, layout_of
from trainables.components import ComponentData
from trainables.feed import Feed, to_float
from trainables.mixture import mixture_of
from trainables.ordering import index_stream
from trainables.pretrain import pretrain
from trainables.process import keep_freed_memory
from trainables.spec import Architecture, Component, PretrainSpec, Source, Training

BATCH = 128
DOMINOES = (Source(dataset="dominoes", options='{"informative": "both"}'),)
GREYS = tuple(Source(dataset=name) for name in ("fashion_mnist", "mnist", "kmnist"))


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained: the shapes of the sweeps that ship with the program."""

    architecture: str
    width: float
    sources: tuple[Source, ...]
    steps_share: float  # of --steps: slow networks take fewer


CASES = {
    "mlp": Case(architecture="mlp", width=1, sources=DOMINOES, steps_share=5),  # quickstart
    "mlp-3": Case(architecture="mlp", width=1, sources=GREYS, steps_share=5),
    "cnn-narrow": Case(architecture="cnn", width=0.25, sources=GREYS, steps_share=1),  # clothes-digits-kana
    "cnn-half": Case(architecture="cnn", width=0.5, sources=GREYS, steps_share=1),
    "cnn": Case(architecture="cnn", width=1, sources=GREYS, steps_share=0.5),
    "resnet18": Case(architecture="resnet18", width=0.25, sources=(Source(dataset="cifar10"),), steps_share=0.08),
    "mobilenet": Case(
        architecture="mobilenet_v3_small", width=1, sources=(Source(dataset="cifar10"),), steps_share=0.08
    ),
    "vgg": Case(architecture="vgg11", width=1, sources=(Source(dataset="cifar10"),), steps_share=0.04),
}


def spec_of(case: Case, steps: int, precision: str = "float32") -> PretrainSpec:
    """A run on equal parts of the case's components."""
    return _run({str(k): components.prepare(source) for k, source in enumerate(case.sources)}, case, steps, precision)


def _run(parts: dict[str, Component], case: Case, steps: int, precision: str) -> PretrainSpec:
    mixture = mixture_of(
        dict.fromkeys(parts, 1.0), parts, num_examples=steps * BATCH, train_examples=None, label_space="joint"
    )
    network = Architecture(name=case.architecture, width=case.width, image_shape=next(iter(parts.values())).image_shape)
    training = Training(steps=steps, batch_size=BATCH, learning_rate=0.05, weight_decay=5e-4, precision=precision)
    return PretrainSpec(mixture=mixture, architecture=network, training=training, seed=0)


def measure(spec: PretrainSpec, device: torch.device, swapped: bool) -> dict[str, float]:
    """Milliseconds of a step: ours, ours in the other layout, bare, and the feed; swapped: the last first."""
    data = [components.load(share.component) for share in spec.mixture.shares]
    ways = {"ours": _ours, "other layout": _other_layout, "bare": _bare, "feed": _feed}
    taken = {name: ways[name](spec, data, device) for name in (reversed(ways) if swapped else ways)}
    steps = spec.training.steps
    found = {f"{name}, ms": 1000 * taken[name] / steps for name in ways}
    ratios = {f"{name} / ours": taken[name] / taken["ours"] for name in ("bare", "other layout")}
    return found | ratios | {"examples/s": steps * BATCH / taken["ours"]}


def _ours(spec: PretrainSpec, data: list[ComponentData], device: torch.device) -> float:
    started = _now(device)
    for _ in pretrain(spec, data, device=device, report_every_s=1e9):
        pass
    return _now(device) - started


def _other_layout(spec: PretrainSpec, data: list[ComponentData], device: torch.device) -> float:
    chosen = layout_of(spec.architecture, device, spec.training.precision)
    other = torch.contiguous_format if chosen is torch.channels_last else torch.channels_last
    with mock.patch("trainables.pretrain.layout_of", return_value=other):
        return _ours(spec, data, device)


def _bare(spec: PretrainSpec, data: list[ComponentData], device: torch.device) -> float:
    training = spec.training
    network = build(spec.architecture, spec.mixture.num_classes, spec.seed).to(device)
    generator = torch.Generator().manual_seed(0)
    x, y = _in_memory(spec, data)
    order = torch.cat([torch.randperm(len(x), generator=generator) for _ in range(-(-spec.num_examples // len(x)))])
    batches = order[: spec.num_examples].view(-1, training.batch_size).to(device)
    x, y = x.to(device), y.to(device)
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=training.learning_rate,
        momentum=training.momentum,
        nesterov=True,
        weight_decay=training.weight_decay,
    )
    started = _now(device)
    for batch in batches:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=training.precision == "bfloat16"):
            loss = F.cross_entropy(network(x[batch]), y[batch])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return _now(device) - started


def _feed(spec: PretrainSpec, data: list[ComponentData], device: torch.device) -> float:
    started = _now(device)
    stream = index_stream(spec.mixture, spec.ordering, spec.seed)
    for _ in Feed(stream, spec.mixture, data, BATCH, device).batches(0):
        pass
    return _now(device) - started


def _in_memory(spec: PretrainSpec, data: list[ComponentData]) -> tuple[Tensor, Tensor]:
    """Floats (N, C, H, W) and labels (N,) of up to 10,000 examples of each component."""
    x = [to_float(each.train.images[:10_000], each.value_range) for each in data]
    y = [each.train.labels[:10_000] + o for each, o in zip(data, spec.mixture.label_offsets, strict=True)]
    return torch.cat(x), torch.cat(y)


def _now(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


# Pictures that are decoded when they are shown --------------------------------------------------------------------


def pictures(folder: Path, count: int, height: int, width: int) -> None:
    """A folder of JPEGs in two classes, as large and as hard to compress as photographs: about 110 kB at 375 x 500."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for index in range(count):
        coarse = rng.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
        place = folder / ("test" if index % 5 == 0 else "train") / str(index % 2)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(place / f"{index}.jpg")


def measure_pictures(folder: Path, case: Case, steps: int, size: int, device: torch.device) -> dict[str, float]:
    """One repeat: milliseconds by the clock of a step over pictures decoded before and when shown, and of decoding."""
    found: dict[str, float] = {}
    for name, resident in (("decoded before", True), ("decoded when shown", False)):
        options = json.dumps({"root": str(folder), "resident": resident}, sort_keys=True)
        component = components.prepare(Source(dataset="image_folder", options=options, image_size=(size, size)))
        spec, data = _run({"pictures": component}, case, steps, "float32"), [components.load(component)]
        started = time.perf_counter()
        _ours(spec, data, device)
        found[f"{name}, ms"] = 1000 * (time.perf_counter() - started) / steps
        if not resident:
            started = time.perf_counter()
            _feed(spec, data, device)
            found["decoding alone, ms"] = 1000 * (time.perf_counter() - started) / steps
    return found | {"before / when shown": found["decoded before, ms"] / found["decoded when shown, ms"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--only", action="append", choices=list(CASES))
    parser.add_argument("--pictures", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as in a worker; the plain loop has it too
    device = torch.device(asked.device)
    found: dict[str, dict[str, list[float]]] = {}

    def note(case: str, values: dict[str, float]) -> None:
        for what, value in values.items():
            found.setdefault(case, {}).setdefault(what, []).append(value)

    for name in [] if asked.pictures else asked.only or list(CASES):
        steps = max(2, round(CASES[name].steps_share * asked.steps))
        spec = spec_of(CASES[name], steps, asked.precision)
        measure(spec_of(CASES[name], 2, asked.precision), device, False)  # what is loaded once is loaded
        for repeat in range(asked.repeats):
            note(name, measure(spec, device, bool(repeat % 2)))
        _print(name, found[name])
    if asked.pictures:
        with tempfile.TemporaryDirectory(prefix="benchmark-pictures-") as folder:
            os.environ["BOTTLENECK_CACHE"] = f"{folder}/cache"
            pictures(Path(folder) / "pictures", 320, 375, 500)
            for _ in range(asked.repeats):
                case = CASES["resnet18" if asked.device == "cuda" else "cnn"]
                note("pictures", measure_pictures(Path(folder) / "pictures", case, 4, 64, device))
        _print("pictures", found["pictures"])
    if asked.json:
        asked.json.write_text(
            json.dumps({"arguments": vars(asked) | {"json": str(asked.json)}, "found": found}, indent=1)
        )


def _print(case: str, measured: dict[str, list[float]]) -> None:
    for what, values in measured.items():
        middle = statistics.median(values)
        print(f"{case:<12} {what:<28} {middle:>9.4g}   {min(values):.4g} to {max(values):.4g}, n = {len(values)}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
