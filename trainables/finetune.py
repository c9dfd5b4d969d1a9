"""What do networks become for a component when all their weights may move? Fine-tuning from the pretrained ones.

Every function returns new networks and leaves those it is given as they were. Which head fine-tuning starts from, and
which learning rate validation chooses, is protocols.py's matter.

Sources: a head that starts as a linear probe, Kumar et al. (2022), arXiv:2202.10054; members fine-tuned apart and then
joined, Zhang & Bottou (2023), arXiv:2212.07346; large dropout on the features that the head reads, Zhang & Bottou
(2024), arXiv:2403.00946.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from trainables.architectures import Network
from trainables.optimizers import SGD
from trainables.pretrain import learning_rate
from trainables.probe import shuffled_batches
from trainables.spec import Training, Transfer, derive_seed

MOMENTUM = 0.9

# The norm of a gradient. A head fitted to features of little variance is steep and would throw them far at first: with
# a linear probe for a head, a cnn and an mlp, pretrained or not, diverged at rates of 0.01 to 0.1 at which, clipped,
# they became as good as from a new head.
MAX_GRADIENT = 1.0

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

# Of the joined head, against the members' own: in the official code of arXiv:2212.07346, 2 of 100 epochs at 0.001 in
# place of 0.01.
HEAD_STEPS_SHARE = 0.02
HEAD_LEARNING_RATE_SHARE = 0.1


class Examples(Protocol):
    """What fine-tuning draws its batches from."""

    @property
    def labels(self) -> Tensor:
        """(N,), on the networks' device."""

    def images(self, positions: Tensor) -> Tensor:
        """(B, C, H, W) of the examples at these positions (B,), on the networks' device."""


class SideBySide(nn.Module):
    """The features of several networks, concatenated."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([member(x) for member in self.members], dim=1)


def with_head(networks: Sequence[Network], weight: Tensor, bias: Tensor) -> Network:
    """One network: copies of these networks' features side by side, and a head of (C, D) weights and (C,) biases."""
    num_features = sum(network.num_features for network in networks)
    head = skip_init(nn.Linear, num_features, len(bias), device=weight.device)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    return Network(SideBySide([copy.deepcopy(network.features) for network in networks]), head, num_features)


def with_new_head(networks: Sequence[Network], num_classes: int, device: torch.device) -> Network:
    """`with_head`, the head all zeros: the network says nothing at first, and no class comes before another."""
    num_features = sum(network.num_features for network in networks)
    return with_head(
        networks, torch.zeros(num_classes, num_features, device=device), torch.zeros(num_classes, device=device)
    )


def fine_tuned(
    network: Network,
    examples: Examples,
    transfer: Transfer,
    peak: float,
    seed: int,
    *,
    head_only: bool = False,
) -> Network:
    """A copy of the network after `transfer.steps` of SGD with momentum on these examples, in evaluation mode.

    The learning rate falls from `peak` along half a cosine, and gradients are clipped to MAX_GRADIENT. Batch norm takes
    the statistics of the batches, as in pretraining, unless a batch is a single example. Each example comes once before
    any comes again. Batches and dropout come from the seed.

    Args:
        network: with a head, on the examples' device.
        transfer: steps, batch size, and the dropout on the features that the head reads.
        peak: the learning rate at the start.
        head_only: train the head alone, without dropout, on features as they are in evaluation mode.
    """
    tuned = copy.deepcopy(network)
    labels = examples.labels
    training = Training(steps=transfer.steps, batch_size=transfer.batch_size, learning_rate=peak)
    assert tuned.head is not None
    tuned.features.train(not head_only)
    if min(transfer.batch_size, len(labels)) == 1:
        for module in tuned.features.modules():
            if isinstance(module, BATCH_NORMS):
                module.eval()
    trained = tuned.head if head_only else tuned
    optimizer = SGD(trained.parameters(), lr=peak, momentum=MOMENTUM)
    batches = shuffled_batches(len(labels), transfer.batch_size, transfer.steps, derive_seed(seed, "finetune"))
    with torch.random.fork_rng(devices=[labels.device] if labels.device.type == "cuda" else []):
        torch.manual_seed(derive_seed(seed, "finetune", "noise"))  # of the features' own dropout, too
        for step, positions in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(training, step)
            with torch.set_grad_enabled(not head_only):
                features = tuned.features(examples.images(positions))
            features = F.dropout(features, transfer.dropout, training=not head_only)
            loss = F.cross_entropy(tuned.logits(features), labels[positions.to(labels.device)].long())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(trained.parameters(), MAX_GRADIENT)
            optimizer.step()
    return tuned.eval()


def joined(members: Sequence[Network]) -> Network:
    """One network whose logits are the mean of the members': their features side by side, and their heads over n."""
    heads = [member.head for member in members if member.head is not None]
    assert len(heads) == len(members)
    weight = torch.cat([head.weight.detach() for head in heads], dim=1) / len(heads)
    return with_head(members, weight, torch.stack([head.bias.detach() for head in heads]).mean(0))


def two_stage(
    networks: Sequence[Network], num_classes: int, examples: Examples, transfer: Transfer, peak: float, seed: int
) -> Network:
    """The networks fine-tuned apart, each with a head of its own, then joined, and the joined head trained for a while.

    With one network there is nothing to join: it is fine-tuned from a new head, and that is all.
    """
    members = []
    for number, network in enumerate(networks):
        own_seed = derive_seed(seed, "member", str(number)) if number else seed
        start = with_new_head([network], num_classes, examples.labels.device)
        members.append(fine_tuned(start, examples, transfer, peak, own_seed))
    if len(members) == 1:
        return members[0]
    short = replace(transfer, steps=max(1, round(HEAD_STEPS_SHARE * transfer.steps)))
    return fine_tuned(joined(members), examples, short, HEAD_LEARNING_RATE_SHARE * peak, seed, head_only=True)
