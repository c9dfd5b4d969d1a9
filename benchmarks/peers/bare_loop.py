"""A training loop with nothing around it: bytes on the device, one gather, one step. What a step can cost at least."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def train(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    batch_size: int,
    steps: int,
    warm_up: int = 5,
    learning_rate: float = 0.05,
    precision: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> float:
    """Examples a second of SGD with Nesterov momentum, on the device that everything is on.

    Args:
        images: (N, C, H, W) bytes; they stand for floats in [-1, 1].
        labels: (N,).
        warm_up: steps before the clock runs.
        memory_format: of the images as the network sees them.
        forward: the network as it is called, for example compiled; None: the network itself.
    """
    device = images.device
    optimizer = torch.optim.SGD(
        network.parameters(), lr=learning_rate, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True
    )
    call = forward or network
    order = torch.randint(len(images), (warm_up + steps, batch_size), device=device)
    begun = 0.0
    for step in range(warm_up + steps):
        if step == warm_up:
            synchronise(device)
            begun = time.perf_counter()
        chosen = order[step]
        x = images.index_select(0, chosen).to(torch.float32).mul_(2 / 255).sub_(1)
        x = x.contiguous(memory_format=memory_format)
        with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
            loss = F.cross_entropy(call(x), labels.index_select(0, chosen))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    synchronise(device)
    return steps * batch_size / (time.perf_counter() - begun)


def synchronise(device: torch.device) -> None:
    """Wait for what a GPU has still to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
