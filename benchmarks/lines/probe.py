"""The whole L2 path of a probe, against scikit-learn's and against the paper's SGD probe on images.

The features are those of a network of 512 units that was trained on FashionMNIST for a few hundred steps. All is done
on one thread, and what is compared is processor time: of the paper's way that of six processes, one per weight decay.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.clock import command, in_turn, timed
from benchmarks.lines import data
from benchmarks.table import Figure, Line, Measure, at_least, at_most

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trainables.components import ComponentData

L2S = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
WEIGHT_DECAYS = (5e-2, 1e-2, 5e-3, 1e-3, 5e-4, 1e-4)  # of the paper, for CIFAR
HELD_OUT = 10_000  # examples to validate on at most, and to test on


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """A pretrained network, and the examples that it is read on."""

    backbone: nn.Module
    data: ComponentData
    train: tuple[Tensor, Tensor]  # features and labels
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def against_scikit(folder: Path, *, examples: int, features: int, l2s: int, pretraining_steps: int) -> Measure:
    from benchmarks.peers.cell import fit_probe
    from trainables.probe import linear_probe

    material = _material(examples, features, pretraining_steps)

    def ours() -> Any:
        return linear_probe(material.train, material.validation, material.test, 10, L2S[:l2s]).test_accuracy

    def scikit() -> Any:
        arrays = [(x.numpy(), y.numpy()) for x, y in (material.train, material.validation, material.test)]
        return fit_probe(arrays[0], arrays[1], arrays[2], L2S[:l2s])

    def measure(swapped: bool) -> dict[str, float]:
        done = in_turn({"ours": lambda: timed(ours), "scikit": lambda: timed(scikit)}, swapped=swapped)
        return {
            "times faster than scikit-learn": done["scikit"].cpu_s / done["ours"].cpu_s,
            "accuracy below scikit-learn's, points": 100 * (done["scikit"].result - done["ours"].result),
            "this program, s": done["ours"].cpu_s,
            "scikit-learn, s": done["scikit"].cpu_s,
            "test accuracy": done["ours"].result,
        }

    return measure


def against_paper(
    folder: Path, *, examples: int, features: int, l2s: int, pretraining_steps: int, epochs: int, weight_decays: int
) -> Measure:
    import torch

    from trainables.probe import linear_probe

    material = _material(examples, features, pretraining_steps)
    backbone = folder / "backbone.pt"
    torch.save(material.backbone, backbone)

    def ours() -> float:
        train, validation, test = (
            extracted(material.backbone, material.data, split, count)
            for split, count in (("train", examples), ("validation", None), ("test", len(material.test[1])))
        )
        return linear_probe(train, validation, test, 10, L2S[:l2s]).test_accuracy

    def paper() -> float:
        return sum(_job(backbone, folder, decay, examples, epochs, len(material.test[1])) for decay in chosen)

    chosen = WEIGHT_DECAYS[:weight_decays]

    def measure(swapped: bool) -> dict[str, float]:
        mine: Callable[[], Any] = lambda: timed(ours)  # noqa: E731
        done = in_turn({"ours": mine, "paper": paper}, swapped=swapped)
        found = [json.loads((folder / f"{decay}.json").read_text()) for decay in chosen]
        best = max(found, key=lambda one: one["validation"])
        return {
            "times faster than the paper's probe": done["paper"] / done["ours"].cpu_s,
            "accuracy below the paper's probe, points": 100 * (best["test"] - done["ours"].result),
            "this program with its features, s": done["ours"].cpu_s,
            "the paper's probe, s": done["paper"],
            "test accuracy": done["ours"].result,
        }

    return measure


def _job(backbone: Path, folder: Path, decay: float, examples: int, epochs: int, held_out: int) -> float:
    """Processor seconds of one job of the paper's way."""
    words: list[object] = [sys.executable, "-m", "benchmarks.peers.sgd_probe", backbone, folder / f"{decay}.json"]
    words += ["--weight-decay", decay, "--examples", examples, "--epochs", epochs, "--held-out", held_out]
    return command(words).cpu_s


def _material(examples: int, features: int, pretraining_steps: int) -> Material:
    import torch

    from trainables import components
    from trainables.mixture import mixture_of
    from trainables.pretrain import pretrain
    from trainables.spec import Architecture, PretrainSpec, Source, Training

    torch.set_num_threads(1)
    held_out = min(HELD_OUT, examples)
    source = Source(dataset="fashion_mnist", validation_examples=held_out, test_examples=held_out)
    component = components.prepare(source)
    loaded = components.load(component)
    training = Training(steps=pretraining_steps, batch_size=128, learning_rate=0.05)
    mixture = mixture_of(
        {"clothes": 1.0},
        {"clothes": component},
        num_examples=training.steps * training.batch_size,
        train_examples=None,
        label_space="joint",
    )
    network = Architecture(name="mlp", width=features / 64, image_shape=component.image_shape)
    spec = PretrainSpec(mixture=mixture, architecture=network, training=training, seed=0)
    steps = pretrain(spec, [loaded], device=torch.device("cpu"))
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            backbone = ended.value.network.features
            break
    counts = {"train": examples, "validation": None, "test": None}
    read = {split: extracted(backbone, loaded, split, count) for split, count in counts.items()}
    return Material(backbone=backbone, data=loaded, **read)


def extracted(backbone: nn.Module, data: ComponentData, split: str, count: int | None) -> tuple[Tensor, Tensor]:
    """Features and labels of the first so many examples of a split."""
    import torch

    from trainables.feed import to_float
    from trainables.probe import extract

    part = getattr(data, split)
    images, labels = part.images[:count], part.labels[:count]
    return extract(backbone, (to_float(batch, data.value_range) for batch in torch.split(images, 512))), labels


SCIKIT = Line(
    name="probe",
    question="How long does the L2 path of 6 values take, features given, against scikit-learn's?",
    prepare=against_scikit,
    figures=(
        Figure(name="times faster than scikit-learn", goal=at_least(10)),
        Figure(name="accuracy below scikit-learn's, points", goal=at_most(0.1)),
        Figure(name="this program, s"),
        Figure(name="scikit-learn, s"),
        Figure(name="test accuracy"),
    ),
    full={"examples": 50_000, "features": 512, "l2s": 6, "pretraining_steps": 400},
    quick={"examples": 1000, "features": 64, "l2s": 2, "pretraining_steps": 20},
    missing=data.missing,
)
PAPER = Line(
    name="probe-paper",
    question="The same with its features, against SGD on images, the backbone run anew in every epoch, one job each?",
    prepare=against_paper,
    figures=(
        Figure(name="times faster than the paper's probe", goal=at_least(100)),
        Figure(name="accuracy below the paper's probe, points", goal=at_most(0.1)),
        Figure(name="this program with its features, s"),
        Figure(name="the paper's probe, s"),
        Figure(name="test accuracy"),
    ),
    full={"examples": 50_000, "features": 512, "l2s": 6, "pretraining_steps": 400, "epochs": 28, "weight_decays": 6},
    usual={"examples": 20_000},
    quick={"examples": 500, "features": 64, "l2s": 2, "pretraining_steps": 20, "epochs": 1, "weight_decays": 1},
    repeats=1,
    missing=data.missing,
)
