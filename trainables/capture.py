"""How does a GPU take a training step without being told each kernel? From a graph of one step, captured once.

The kernels of a small network are done before the host has asked for the next one; a captured step is asked for as a
whole. It is used where BOTTLENECK_CUDA_GRAPHS=1 says so. What it gains has not been measured yet, which is why it has
to be asked for: benchmarks/step.py, with and without, on a machine with a GPU.

It runs the kernels of the step that was captured. The learning rate alone is rounded to a float first, as a graph reads
it from the device.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor

VARIABLE = "BOTTLENECK_CUDA_GRAPHS"
WARM_STEPS = 3  # taken before the capture: what is looked up or allocated once is there, and so is momentum

Batch = tuple[Tensor, Tensor, Tensor]


def is_asked(device: torch.device) -> bool:
    """Whether steps on this device are to be captured."""
    return device.type == "cuda" and os.environ.get(VARIABLE) == "1"


class CapturedStep:
    """A training step on batches of one shape, from clearing gradients to moving weights; gives the loss."""

    def __init__(self, step: Callable[[Batch], Tensor], batch: Batch) -> None:
        """Capture the step, without taking it. It may not make the host wait for the device."""
        self._batch = tuple(value.clone() for value in batch)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._loss = step((self._batch[0], self._batch[1], self._batch[2]))

    def __call__(self, batch: Batch) -> Tensor:
        """Take the step; the loss is overwritten by the next one."""
        for kept, value in zip(self._batch, batch, strict=True):
            kept.copy_(value)
        self._graph.replay()
        return self._loss
