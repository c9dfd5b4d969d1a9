"""What is taken from the images while a deficit lasts? Four deprivations, for critical periods.

Each takes a batch (B, C, H, W) of floats and a generator on its device, and returns a new one of the same shape; equal
generators give equal batches. Which training steps are deprived is not decided here.

Source: Achille, Rovere & Soatto (2019), Critical learning periods in deep networks, arXiv:1711.08856, where blur, noise
    and, as a control that leaves low-level statistics alone, a vertical flip are applied to CIFAR-10.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

BLUR_PIXELS = 4  # side of the squares that are averaged; 32 pixels become 8, as in the source


def blur(x: Tensor, generator: torch.Generator) -> Tensor:
    """Averages over squares of 4 x 4 pixels, interpolated bilinearly; at the lower and right border over what is left.

    The interpolation is between the centres of whole squares, so images of 30 pixels are not stretched.
    """
    height, width = x.shape[2:]
    averages = F.avg_pool2d(x, BLUR_PIXELS, ceil_mode=True, count_include_pad=False)
    side = (BLUR_PIXELS * math.ceil(height / BLUR_PIXELS), BLUR_PIXELS * math.ceil(width / BLUR_PIXELS))
    return F.interpolate(averages, side, mode="bilinear", align_corners=False)[:, :, :height, :width]


def grey(x: Tensor, generator: torch.Generator) -> Tensor:
    """Every channel replaced by the mean over channels."""
    return x.mean(1, keepdim=True).repeat(1, x.shape[1], 1, 1)


def noise(x: Tensor, generator: torch.Generator) -> Tensor:
    """No image at all: Gaussian pixels with the mean and the standard deviation of the image they replace."""
    pixels = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return x.mean((1, 2, 3), keepdim=True) + x.std((1, 2, 3), correction=0, keepdim=True) * pixels


def flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Upside down."""
    return x.flip(2)


DEFICITS: Mapping[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "blur": blur,
    "grey": grey,
    "noise": noise,
    "flip": flip,
}
