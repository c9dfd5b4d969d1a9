"""A linear probe as the code of Yang, Zhang & Bottou (2025) trains it: by SGD, on images, one job per weight decay.

    python -m benchmarks.peers.sgd_probe BACKBONE.pt OUT.json --weight-decay 1e-4 [--epochs 28] [--examples 50000]

The backbone is a module that torch.save wrote, and is run anew on all images in every epoch. Batch normalisation and a
linear layer behind it are trained with momentum 0.9, learning rate 0.01, divided by 10 after 8, 16 and 24 of 28 epochs,
weight decay on the linear layer only, batches of 256. Their code augments the images in every epoch and chooses by the
test split; here nothing is augmented, which is less work, and validation chooses.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import datasets, transforms

BATCH = 256
DECAYS_AFTER = (8 / 28, 16 / 28, 24 / 28)  # of the epochs


def splits(examples: int, held_out: int) -> tuple[Dataset[tuple[Tensor, int]], ...]:
    """Training, validation and test examples of FashionMNIST."""
    root = os.environ["BOTTLENECK_DATA"]
    to_tensor = transforms.Compose([transforms.ToTensor(), transforms.Normalize(0.5, 0.5)])
    seen, unseen = (datasets.FashionMNIST(root, train=train, transform=to_tensor) for train in (True, False))
    order = torch.randperm(len(seen), generator=torch.Generator().manual_seed(0)).tolist()
    validation = Subset(seen, order[examples : examples + held_out])
    return Subset(seen, order[:examples]), validation, Subset(unseen, range(held_out))


def fit(backbone: nn.Module, data: Dataset[tuple[Tensor, int]], weight_decay: float, epochs: int) -> nn.Module:
    """The probe: batch normalisation and a linear layer."""
    backbone.eval()
    with torch.no_grad():
        num_features = backbone(data[0][0][None]).shape[1]
    normalise, linear = nn.BatchNorm1d(num_features), nn.Linear(num_features, 10)
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
    groups = [
        {"params": normalise.parameters(), "weight_decay": 0.0},
        {"params": linear.parameters(), "weight_decay": weight_decay},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True, fused=True)
    milestones = [round(epochs * share) for share in DECAYS_AFTER]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)
    head = nn.Sequential(normalise, linear).train()
    for _ in range(epochs):
        for images, labels in DataLoader(data, batch_size=BATCH, shuffle=True):
            with torch.no_grad():
                features = backbone(images)
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(head(features), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
    return head.eval()


@torch.inference_mode()
def accuracy(backbone: nn.Module, head: nn.Module, data: Dataset[tuple[Tensor, int]]) -> float:
    """In [0, 1]."""
    right = [(head(backbone(x)).argmax(1) == y).float() for x, y in DataLoader(data, batch_size=BATCH)]
    return float(torch.cat(right).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbone", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weight-decay", type=float, required=True)
    parser.add_argument("--epochs", type=int, default=28)
    parser.add_argument("--examples", type=int, default=50_000)
    parser.add_argument("--held-out", type=int, default=10_000)
    asked = parser.parse_args()
    torch.manual_seed(31)
    backbone = torch.load(asked.backbone, weights_only=False)
    train, validation, test = splits(asked.examples, asked.held_out)
    head = fit(backbone, train, asked.weight_decay, asked.epochs)
    found = {"validation": accuracy(backbone, head, validation), "test": accuracy(backbone, head, test)}
    asked.out.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
