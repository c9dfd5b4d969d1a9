"""One cell of the study on torch, torchvision and scikit-learn, without a sweep around it.

A cell is one mixture, ordering, width and seed: pretrain on the mixture, pretrain on every component alone, and read
the features of all these networks, and of an untrained one, by a logistic regression on every component. Datasets are
torchvision's, behind a DataLoader, and split as the sweep splits them, so that answers differ by what was trained and
not by what was asked; features are computed once per network and component, and the regression is scikit-learn's,
along a path of penalties from the strongest on, each from the one before.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset
from torchvision import datasets, transforms

from benchmarks.peers.study import COMPONENTS, MIXTURES, Study

DATASETS = {
    "clothes": (datasets.FashionMNIST, "fashion_mnist"),
    "digits": (datasets.MNIST, "mnist"),
    "kana": (datasets.KMNIST, "kmnist"),
}
CLASSES = 10
VALIDATION, TEST = 2000, 5000
BATCH, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 128, 0.05, 0.9, 5e-4
L2S = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)


# Data -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Splits:
    """A component."""

    train: Dataset[tuple[Tensor, int]]
    validation: Dataset[tuple[Tensor, int]]
    test: Dataset[tuple[Tensor, int]]


@cache
def component(name: str) -> Splits:
    """The splits of a component, the same for every seed: the sweep's own examples, in its order."""
    root = os.environ["BOTTLENECK_DATA"]
    to_tensor = transforms.Compose([transforms.ToTensor(), transforms.Normalize(0.5, 0.5)])
    read, called = DATASETS[name]
    seen, unseen = (read(root, train=train, transform=to_tensor) for train in (True, False))
    order, chosen = positions(len(seen), called), positions(len(unseen), called, "test")
    return Splits(
        train=Subset(seen, order[:-VALIDATION]),
        validation=Subset(seen, order[-VALIDATION:]),
        test=Subset(unseen, chosen[:TEST]),
    )


def positions(count: int, *purpose: str) -> list[int]:
    """The order in which the sweep takes a dataset's examples: that of raw draws, whose seed has this purpose."""
    digest = hashlib.sha256(repr((0, "split", *purpose)).encode()).digest()
    draws = np.random.PCG64(int.from_bytes(digest[:4], "big")).random_raw(count)
    return [int(position) for position in np.argsort(draws, kind="stable")]


class Relabelled(Dataset[tuple[Tensor, int]]):
    """A dataset whose classes begin at `first`, so that every component has outputs of its own."""

    def __init__(self, data: Dataset[tuple[Tensor, int]], first: int) -> None:
        self._data, self._first = data, first

    def __len__(self) -> int:
        return len(self._data)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self._data[index]
        return image, label + self._first


def batches(weights: Mapping[str, float], ordering: str, steps: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of a run: each component its share of the examples, none again before all of it were shown."""
    names = list(weights)
    data: ConcatDataset[tuple[Tensor, int]] = ConcatDataset(
        [Relabelled(component(name).train, CLASSES * k) for k, name in enumerate(names)]
    )
    generator = torch.Generator().manual_seed(seed)
    shown = shares(list(weights.values()), steps * BATCH)
    first, order = 0, []
    for count, part in zip(shown, data.datasets, strict=True):
        size = len(part)  # type: ignore[arg-type]
        passes = [torch.randperm(size, generator=generator) for _ in range(-(-count // size))]
        order.append(first + torch.cat(passes)[:count])
        first += size
    sequence = torch.cat(order)
    if ordering == "shuffled":
        sequence = sequence[torch.randperm(len(sequence), generator=generator)]
    yield from DataLoader(data, batch_size=BATCH, sampler=sequence.tolist())


def shares(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers in the proportion of the weights that add up to the total."""
    ends = np.rint(np.cumsum(weights) / np.sum(weights) * total).astype(int)
    return [int(count) for count in np.diff(ends, prepend=0)]


# Networks -------------------------------------------------------------------------------------------------------------


def features_of(width: float) -> nn.Sequential:
    """Convolutions of 16, 32, 64 and 64 channels times the width, with batch norm and ReLU, then a global average."""
    layers: list[nn.Module] = []
    inputs = 1
    for channels, stride in zip((16, 32, 64, 64), (2, 2, 1, 1), strict=True):
        outputs = round(channels * width)
        convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def untrained(width: float, seed: int) -> nn.Sequential:
    """The network that all runs of a seed start from, without a head."""
    torch.manual_seed(seed)
    return features_of(width)


def pretrained(weights: Mapping[str, float], ordering: str, width: float, seed: int, steps: int) -> nn.Sequential:
    """The features after so many steps on a mixture."""
    features = untrained(width, seed)
    head = nn.Linear(round(64 * width), CLASSES * len(weights))
    network = nn.Sequential(features, head).train()
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=LEARNING_RATE,
        momentum=MOMENTUM,
        nesterov=True,
        weight_decay=WEIGHT_DECAY,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step, steps))
    for images, labels in batches(weights, ordering, steps, seed):
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return features.eval()


def one_cycle(step: int, steps: int) -> float:
    """The share of the learning rate: up in a straight line over 30 % of the steps, and down to 0."""
    rising = 0.3 * steps
    return (step + 1) / (rising + 1) if step < rising else 1 - (step - rising) / (steps - rising)


# Probes ---------------------------------------------------------------------------------------------------------------


def probe(features: nn.Module, name: str, train_examples: int) -> float:
    """Test accuracy on a component of a logistic regression on frozen features; validation chooses its penalty."""
    data = component(name)
    train, validation, test = (
        extract(features, part) for part in (Subset(data.train, range(train_examples)), data.validation, data.test)
    )
    return fit_probe(train, validation, test, L2S)


@torch.inference_mode()
def extract(features: nn.Module, data: Dataset[tuple[Tensor, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of a split."""
    found = [(features(images).numpy(), labels.numpy()) for images, labels in DataLoader(data, batch_size=512)]
    return np.concatenate([x for x, _ in found]), np.concatenate([y for _, y in found])


def fit_probe(
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    l2s: Sequence[float],
) -> float:
    """Test accuracy of the regression whose penalty does best on validation; of equals, the strongest.

    Args:
        l2s: on the mean loss, the strongest first: each regression starts from the one before it.
    """
    scaler = StandardScaler().fit(train[0])
    fitted, chosen_by, read = (scaler.transform(x) for x, _ in (train, validation, test))
    model = LogisticRegression(max_iter=1000, warm_start=True)
    best = -1.0, 0.0
    for l2 in l2s:
        model.set_params(C=1 / (l2 * len(train[1])))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the accuracy says what it is worth
            model.fit(fitted, train[1])
        accuracy = model.score(chosen_by, validation[1])
        if accuracy > best[0]:
            best = accuracy, float(model.score(read, test[1]))
    return best[1]


# A cell ---------------------------------------------------------------------------------------------------------------


def measure(cell: Mapping[str, Any], study: Study, components: Sequence[str] = COMPONENTS) -> list[dict[str, Any]]:
    """A row for every component: test accuracies of transfer, direct training and the untrained network."""
    mixture, width, seed = MIXTURES[cell["mixture"]], cell["width"], cell["seed"]
    start = untrained(width, seed).eval()
    shared = pretrained(mixture, cell["ordering"], width, seed, study.steps)
    rows = []
    for name in components:
        direct = pretrained({name: 1}, "shuffled", width, seed, study.steps)
        networks = {"transfer": shared, "direct": direct, "random_init": start}
        accuracies = {what: probe(network, name, study.train_examples) for what, network in networks.items()}
        rows.append({**cell, "component": name, **accuracies})
    return rows
