"""A network whose training step takes a second, and no processor: what is left is what a sweep adds."""

from __future__ import annotations

import math
import time

from torch import Tensor, nn

from trainables.spec import Architecture


class Sleeper(nn.Module):
    """A linear layer that sleeps when it is trained."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(architecture.image_shape), 16))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            time.sleep(1)
        out: Tensor = self.layers(x)
        return out
