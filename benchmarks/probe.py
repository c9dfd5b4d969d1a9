"""How fast is the linear probe? The L2 path, against scikit-learn and against the paper's way.

    BOTTLENECK_DATA=... python benchmarks/probe.py [--json FILE] [--repeats 3] [--examples 50000] [--features 512]
        [--threads 1] [--epochs 28] [--measured-epochs 1]

The features are those of an mlp that was trained on FashionMNIST for a few steps. One repeat does the work of each in
turn: this program; scikit-learn's LogisticRegression (lbfgs) on the same standardised features, warm from one L2 to the
next, at its default tolerance and at one that comes as close to the minimum as this program does; and the paper's probe
on images, one job per weight decay, the backbone run anew in every epoch (one epoch is measured, and counts for all).

Times are processor time of the process. An objective's excess is measured from the least that any of them has found.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", sys.argv[sys.argv.index("--threads") + 1] if "--threads" in sys.argv else "1")

import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from trainables import components
from trainables.components import ComponentData
from trainables.feed import to_float
from trainables.mixture import mixture_of
from trainables.pretrain import pretrain
from trainables.probe import Probe, evaluate, extract, fit_path, share
from trainables.spec import Architecture, PretrainSpec, Source, Training

L2S = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
PRETRAINING_STEPS = 300
PAPER_BATCH = 256
TIGHT = 1e-6  # largest entry of the gradient at which scikit-learn stops; its own default is 1e-4


def measure(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], *, tight: bool) -> dict[str, float]:
    """One repeat: processor seconds of each way, excess of its objective (the worst of the path), and test accuracy."""
    ways: dict[str, Callable[[], list[Probe]]] = {
        "this program": lambda: fit_path(*train, 10, L2S),
        "scikit-learn": lambda: scikit_path(*train, 1e-4, 100),
    }
    if tight:
        precise = train[0].double(), train[1]  # in float32 rounding stops it before
        ways["scikit-learn, as exact"] = lambda: scikit_path(*precise, TIGHT, 20_000)
    found: dict[str, float] = {}
    objectives: dict[str, list[float]] = {}
    for name, way in ways.items():
        started = time.process_time()
        probes = way()
        found[f"{name}, s"] = time.process_time() - started
        objectives[name] = [objective(probe, *train) for probe in probes]
        found[f"{name}, best test accuracy"] = max(share(evaluate(p.logits(test[0]), test[1])[0]) for p in probes)
    least = [min(values) for values in zip(*objectives.values(), strict=True)]
    for name, values in objectives.items():
        found[f"{name}, excess"] = max(value / low - 1 for value, low in zip(values, least, strict=True))
        if name != "this program":
            found[f"times faster than {name}"] = found[f"{name}, s"] / found["this program, s"]
    return found


def scikit_path(features: Tensor, labels: Tensor, tolerance: float, iterations: int) -> list[Probe]:
    """The same objectives by scikit-learn, each from the next stronger one."""
    mean, scale = features.mean(0), features.std(0, correction=0)
    scale = torch.where(scale > 0, scale, 1)
    standard, targets = ((features - mean) / scale).numpy(), labels.numpy()
    model = LogisticRegression(tol=tolerance, max_iter=iterations, warm_start=True)
    probes = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for l2 in L2S:
            model.set_params(C=1 / (l2 * len(labels))).fit(standard, targets)
            weight, bias = (torch.tensor(values, dtype=torch.float64) for values in (model.coef_, model.intercept_))
            probes.append(Probe(weight=weight, bias=bias, mean=mean.double(), scale=scale.double(), l2=l2))
    return probes


def objective(probe: Probe, features: Tensor, labels: Tensor) -> float:
    """What all of them minimise, in float64."""
    loss = F.cross_entropy(probe.logits(features), labels.long())
    return float(loss + probe.l2 / 2 * probe.weight.square().sum())


def paper_epoch(backbone: nn.Module, data: ComponentData, examples: int, epochs: int) -> float:
    """Processor seconds of one epoch of one job: the backbone on every batch, batch norm and a linear layer by SGD."""
    labels = data.train.labels[:examples]
    width = extract(backbone, [to_float(data.train.images[:1], data.value_range)]).shape[1]
    head = nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, 10))
    optimizer = torch.optim.SGD(head.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)
    started = time.process_time()
    for _ in range(epochs):
        for positions in torch.split(torch.randperm(examples), PAPER_BATCH):
            images = to_float(data.train.images[positions], data.value_range)
            loss = F.cross_entropy(head(extract(backbone, [images])), labels[positions].long())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return (time.process_time() - started) / epochs


def pretrained(width: float) -> tuple[nn.Module, ComponentData]:
    """An mlp's features, and the examples of FashionMNIST."""
    component = components.prepare(Source(dataset="fashion_mnist", validation_examples=10_000))
    data = components.load(component)
    training = Training(steps=PRETRAINING_STEPS, learning_rate=0.05)
    mixture = mixture_of(
        {"clothes": 1.0},
        {"clothes": component},
        num_examples=training.steps * training.batch_size,
        train_examples=None,
        label_space="joint",
    )
    network = Architecture(name="mlp", width=width, image_shape=component.image_shape)
    steps = pretrain(
        PretrainSpec(mixture=mixture, architecture=network, training=training, seed=0),
        [data],
        device=torch.device("cpu"),
        report_every_s=1e9,
    )
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            return ended.value.network.features.eval(), data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--examples", type=int, default=50_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=28, help="of the paper's probe")
    parser.add_argument("--measured-epochs", type=int, default=1, help="of these, measured")
    parser.add_argument("--without-tight", action="store_true", help="leave out scikit-learn at its tighter tolerance")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    backbone, data = pretrained(asked.features / 64)
    splits = []
    started = time.process_time()
    for split, count in ((data.train, asked.examples), (data.test, len(data.test))):
        batches = (to_float(part, data.value_range) for part in torch.split(split.images[:count], 512))
        splits.append((extract(backbone, batches), split.labels[:count]))
    reading = time.process_time() - started
    found: dict[str, list[float]] = {}
    for _ in range(asked.repeats):
        measured = measure(splits[0], splits[1], tight=not asked.without_tight)
        epoch = paper_epoch(backbone, data, asked.examples, asked.measured_epochs)
        paper = epoch * asked.epochs * len(L2S)
        measured |= {"features, s": reading, "the paper's way, one epoch, s": epoch, "the paper's way, s": paper}
        measured["times faster than the paper's way"] = paper / (measured["this program, s"] + reading)
        for what, value in measured.items():
            found.setdefault(what, []).append(value)
    print(f"{asked.examples:,} x {asked.features} features, 10 classes, {len(L2S)} L2, threads: {asked.threads}")
    for what, values in found.items():
        print(
            f"{what:<45} {statistics.median(values):>10.4g}   {min(values):.4g} to {max(values):.4g}, n = {len(values)}"
        )
    if asked.json:
        settings = vars(asked) | {"json": str(asked.json)}
        asked.json.write_text(json.dumps({"arguments": settings, "found": found}, indent=1))


if __name__ == "__main__":
    main()
