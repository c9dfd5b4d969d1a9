"""What could a network's features become by small moves of its weights? Its tangent features, randomly projected.

To first order in a move d of the weights, features phi(x; theta + d) are phi(x; theta) + J(x) d, where J(x) is their
Jacobian (D, M) in the M parameters. Fine-tuning on few examples thus behaves like a linear probe that also reads J(x),
and if the tangent features lack something as well, small moves do not bring it back.

J(x) is much too large to keep. What is kept are READOUTS random combinations u of the features, with entries of
+1 or -1, and of each gradient u^T J(x) a count sketch of DIRECTIONS numbers: its entries, with random signs, added up
in groups. So the inner product of two examples' tangent features is, in expectation over the draws, the neural tangent
kernel summed over the features, sum_k <grad phi_k(x), grad phi_k(x')>.

It takes READOUTS backward passes of every example, and the memory for the gradients of a chunk of examples. On one core
of a busy CPU, 1000 images of 28 x 28 took 6 s through the cnn of 4 layers, and an image of 32 x 32 through a resnet18
1.4 s: for networks of millions of parameters, take few examples or a GPU.

Sources: the tangent kernel, Jacot et al. (2018), arXiv:1806.07572; one readout in place of all, Mohamadi et al. (2023),
arXiv:2206.12543; the count sketch, Weinberger et al. (2009), arXiv:0902.2206.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from trainables.architectures import Network
from trainables.draws import raw
from trainables.probe import evaluating
from trainables.spec import derive_seed

READOUTS = 4

# Of each readout. Entry i of a gradient goes to group i mod DIRECTIONS: a prime, so that a row or column of a weight
# matrix, or the kernel of one channel, is spread over all groups, and no permutation of millions of entries is needed.
DIRECTIONS = 127

# Of the gradients that are held at a time. On a CPU they stay in the cache: chunks of 32 examples of 60,000 parameters
# took half as long as chunks of 200.
CHUNK_ENTRIES = {"cpu": 2**21, "cuda": 2**27}


@dataclass(frozen=True, eq=False)
class Projection:
    """Where the gradients of random combinations of D features in M parameters go."""

    readouts: Tensor  # (R, D) of +-1 / sqrt(R)
    signs: Tensor  # (R, M) of +-1

    def sketch(self, readout: int, gradient: Tensor) -> Tensor:
        """(M,) gradient of a readout -> (DIRECTIONS,): its signed entries, added up in groups."""
        signed = gradient * self.signs[readout]
        return F.pad(signed, (0, -len(gradient) % DIRECTIONS)).view(-1, DIRECTIONS).sum(0)


def draw_projection(num_features: int, num_parameters: int, seed: int) -> Projection:
    """The projection of a seed, the same for every device and every release of the libraries."""

    def drawn(purpose: str, count: int) -> Tensor:
        return torch.stack([_signs(derive_seed(seed, "tangent", purpose, str(r)), count) for r in range(READOUTS)])

    return Projection(drawn("readout", num_features) / READOUTS**0.5, drawn("signs", num_parameters))


@torch.no_grad()
def tangent_features(network: Network, batches: Iterable[Tensor], seed: int) -> Tensor:
    """(N, READOUTS * DIRECTIONS) float32: the projected gradients of the features in all their parameters.

    The network is differentiated in evaluation mode and left as it was. Features without parameters have no tangent:
    (N, 0).

    Args:
        batches: (B, C, H, W) images.
        seed: of the projection; tangent features of one network can be compared only under one seed.
    """
    features = network.features
    names = [name for name, _ in features.named_parameters()]
    parameters = tuple(p.detach() for p in features.parameters())
    count = sum(p.numel() for p in parameters)
    if not count:
        return torch.cat([batch.new_zeros(len(batch), 0, dtype=torch.float32) for batch in batches])
    drawn = draw_projection(network.num_features, count, seed)
    device = parameters[0].device
    projection = Projection(drawn.readouts.to(device), drawn.signs.to(device))

    def of_one(image: Tensor) -> Tensor:
        def features_at(values: tuple[Tensor, ...]) -> Tensor:
            found: Tensor = functional_call(features, dict(zip(names, values, strict=True)), (image[None],))
            return found.flatten()

        pull_back = vjp(features_at, parameters)[1]
        sketches = []
        for readout, combination in enumerate(projection.readouts):
            gradients = pull_back(combination)[0]
            sketches.append(projection.sketch(readout, torch.cat([g.flatten() for g in gradients])))
        return torch.cat(sketches)

    size = max(1, CHUNK_ENTRIES[device.type] // count)
    chunks = (chunk for batch in batches for chunk in torch.split(batch.to(device), size))
    with evaluating(features), sdpa_kernel(SDPBackend.MATH):  # fused attention cannot be differentiated per example
        found = [vmap(of_one)(chunk) if len(chunk) > 1 else of_one(chunk[0])[None] for chunk in chunks]
    return torch.cat(found)


def _signs(seed: int, count: int) -> Tensor:
    """(count,) of +1 and -1."""
    return torch.from_numpy((raw(seed, count) >> np.uint64(63)).astype(np.float32) * 2 - 1)
