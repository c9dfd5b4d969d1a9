"""What of a direct network's representation is in a mixture's, and what shape do both have?

Pure functions of features come first: similarity (CKA, canonical correlations), how well one set of features predicts
another linearly, dimensionality, sparsity, class separation. Their sums are taken in float64 on the features' device.
`measure` applies all of them to networks and the examples of one component. What the features are worth in accuracy
is probe.py's question.

A number that does not exist is None: the similarity to constant features, say.

A direct network's features that a mixture's predict as well as those of a second direct network do are retained; that
is `retention`, which is asymmetric on purpose. CKA and its kin are symmetric (PWCCA but for its weights), so they also
fall where the mixture's features hold more.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.architectures import Network, is_torchvision
from trainables.components import ComponentData
from trainables.feed import to_float
from trainables.probe import ProbeResult, check, extract, linear_probe, rank_in_class

if TYPE_CHECKING:
    from torchvision.models.vision_transformer import Encoder

BATCH = 512  # examples in a forward pass; features are the same for every size up to rounding

# Directions with less than this share of the largest variance, a millionth of its deviation, are taken for rounding
# error: the features come in float32, which has seven digits.
RANK_TOLERANCE = 1e-12

# Ridge penalties, in the units of a standardised feature's variance.
PENALTIES = tuple(10.0**exponent for exponent in range(-6, 4))

LEAST_SPAN = 0.01  # ratios over a smaller difference of R2 or of accuracies would be noise
LEAST_VARYING = 0.01  # of the examples: a feature that varies on fewer is nearly dead
SHOTS = 20  # examples of each class in a few-shot probe
LAYERS = (4, 12)  # a network with fewer layers at its top level is opened one level further; of more, some are read


# --- R2, R3: similarity. ---


@dataclass(frozen=True, kw_only=True, eq=False)
class JointMoments:
    """What CKA and canonical correlations need to know of N examples with two sets of features, without (N, N).

    Each is Z1^T Z2 of the sets, counted from their first example and with two columns more: an example's squared norm,
    which the unbiased HSIC of linear kernels needs, and 1.
    """

    first: Tensor  # (D1 + 2, D1 + 2)
    cross: Tensor  # (D1 + 2, D2 + 2)
    second: Tensor  # (D2 + 2, D2 + 2)

    @property
    def count(self) -> int:
        """N."""
        return int(self.cross[-1, -1])

    @cached_property
    def whitenings(self) -> tuple[Tensor, Tensor]:
        """(D1, R1) and (D2, R2) maps of the sets to uncorrelated features of variance 1; R1 and R2 are their ranks."""
        return _whitening(self.first), _whitening(self.second)

    def swapped(self) -> JointMoments:
        """The same examples, the second set first."""
        return JointMoments(first=self.second, cross=self.cross.T, second=self.first)


def joint_moments(batches: Iterable[tuple[Tensor, Tensor]]) -> JointMoments:
    """The moments of (B, D1) and (B, D2) features that come batch by batch; up to rounding no matter in which.

    Raises:
        ValueError: there is no example, or the two sets have different numbers of them.
    """
    sums: list[Tensor] = []
    origins: tuple[Tensor, Tensor] | None = None
    for first, second in batches:
        if first.ndim != 2 or second.ndim != 2 or len(first) != len(second):
            raise ValueError(f"features {tuple(first.shape)} and {tuple(second.shape)}; they are (B, D1) and (B, D2)")
        if not len(first):
            continue
        # From an example on, as what is far from 0 would cancel. A constant feature is exactly 0 then.
        origins = origins or (first[0].double(), second[0].double())
        z1, z2 = (_extended(z.double() - origin) for z, origin in zip((first, second), origins, strict=True))
        products = [z1.T @ z1, z1.T @ z2, z2.T @ z2]
        sums = [total.add_(product) for total, product in zip(sums, products, strict=True)] if sums else products
    if not sums:
        raise ValueError("there are no examples to take moments of")
    return JointMoments(first=sums[0], cross=sums[1], second=sums[2])


def linear_cka(moments: JointMoments) -> float | None:
    """Centred kernel alignment of linear kernels, ||Z1^T Z2||^2 / (||Z1^T Z1|| ||Z2^T Z2||), in [0, 1].

    Invariant to rotations and to one common scale of either set. Biased up with few examples: below ten of them per
    feature read `debiased_cka`. None where a set is constant.

    Source: Kornblith et al. (2019), arXiv:1905.00414.
    """
    own = [torch.linalg.matrix_norm(_covariance(part)) for part in (moments.first, moments.second)]
    denominator = float(own[0] * own[1])
    return float(_covariance(moments.cross).square().sum()) / denominator if denominator > 0 else None


def debiased_cka(moments: JointMoments) -> float | None:
    """CKA with unbiased estimates of HSIC in its three places: 0 on average for independent features, at most 1.

    It can be slightly negative. None below four examples, or where the estimate of a set's own HSIC is not positive.

    Source: Nguyen, Raghu & Kornblith (2021), arXiv:2010.15327, eq. 2-3; the estimator is Song et al. (2012), eq. 5.
    """
    if moments.count < 4:
        return None
    first, second = _unbiased_hsic(moments.first), _unbiased_hsic(moments.second)
    if min(first, second) <= 0:
        return None
    return _unbiased_hsic(moments.cross) / math.sqrt(first * second)


def cca(moments: JointMoments) -> Tensor:
    """(R,) canonical correlations in [0, 1], largest first; R is the smaller rank of the two sets.

    Invariant to invertible linear maps of either set. Of ranks R1 + R2 > N - 1, so many of them are 1 as they are
    too many, whatever the features: two subspaces of N - 1 dimensions have to meet. Means over them, below, are then
    None, as they are where a set is constant.
    """
    first, second = moments.whitenings
    return _correlations(first, moments.cross, second)[1]


def cca_r2(moments: JointMoments) -> float | None:
    """The mean squared canonical correlation: R2_CCA of Kornblith et al. (2019), arXiv:1905.00414."""
    first, second = moments.whitenings
    if not _free(first, second, moments):
        return None
    return float(_correlations(first, moments.cross, second)[1].square().mean())


def svcca(moments: JointMoments, share: float = 0.99) -> float | None:
    """The mean canonical correlation of the directions that hold `share` of the variance of each set.

    Source: Raghu et al. (2017), arXiv:1706.05806.
    """
    first, second = (_principal_whitening(products, share) for products in (moments.first, moments.second))
    if not _free(first, second, moments):
        return None
    return float(_correlations(first, moments.cross, second)[1].mean())


def pwcca(moments: JointMoments) -> float | None:
    """The mean canonical correlation, each weighted by how much of the first set's features it accounts for.

    The weight of a canonical variate h is sum_j |<h, z_j>| over the first set's features z_j. So the number is not
    symmetric; it is invariant to invertible linear maps of the second set and to rescaling all of the first.

    Source: Morcos, Raghu & Bengio (2018), arXiv:1806.05759.
    """
    first, second = moments.whitenings
    if not _free(first, second, moments):
        return None
    directions, correlations = _correlations(first, moments.cross, second)
    weights = ((first @ directions).T @ _covariance(moments.first)).abs().sum(1)
    return float((weights * correlations).sum() / weights.sum())


def _extended(z: Tensor) -> Tensor:
    """(B, D) -> (B, D + 2), with squared norms and ones."""
    return torch.cat([z, z.square().sum(1, keepdim=True), torch.ones_like(z[:, :1])], dim=1)


def _covariance(products: Tensor) -> Tensor:
    """(D1, D2) covariances, from the (D1 + 2, D2 + 2) products of two sets."""
    count = products[-1, -1]
    return (products[:-2, :-2] - torch.outer(products[:-2, -1], products[-1, :-2]) / count) / count


def _unbiased_hsic(products: Tensor) -> float:
    """Song et al.'s estimate, [tr KL + (1'K1)(1'L1) / ((n - 1)(n - 2)) - 2 / (n - 2) 1'KL1] / (n (n - 3)).

    K and L are the Gram matrices A A^T and B B^T with zeros on the diagonal, so K1 = A (A^T 1) - a with the examples'
    squared norms a, and every term is a sum in the products of A and B.
    """
    n = products[-1, -1]
    cross = products[:-2, :-2]  # A^T B
    a_sum, b_sum = products[:-2, -1], products[-1, :-2]  # A^T 1, B^T 1
    both_norms = products[-2, -2]  # a^T b
    trace = cross.square().sum() - both_norms
    totals = (a_sum.square().sum() - products[-2, -1]) * (b_sum.square().sum() - products[-1, -2])
    rows = a_sum @ cross @ b_sum - a_sum @ products[:-2, -2] - products[-2, :-2] @ b_sum + both_norms
    return float((trace + totals / ((n - 1) * (n - 2)) - 2 * rows / (n - 2)) / (n * (n - 3)))


def _whitening(products: Tensor) -> Tensor:
    """(D, R) W such that Z W has variance 1 along each of its R axes and no correlations; R is the rank of Z."""
    covariance = _covariance(products)
    deviations = covariance.diagonal().clamp_min(0).sqrt()
    # Of correlations, so that the rank does not depend on the features' scales.
    scale = torch.where(deviations > 0, 1 / deviations, 0)
    variances, axes = _eigh(scale[:, None] * covariance * scale)
    return scale[:, None] * axes / variances.sqrt()


def _principal_whitening(products: Tensor, share: float) -> Tensor:
    """(D, R) as `_whitening`, along the first principal axes that hold `share` of the variance."""
    variances, axes = _eigh(_covariance(products))
    kept = dimensions_for(variances, share) or 0
    return axes[:, :kept] / variances[:kept].sqrt()


def _eigh(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """(R,) the variances that are not rounding error, largest first, and (D, R) their axes."""
    variances, axes = torch.linalg.eigh(covariance)
    variances, axes = variances.flip(0), axes.flip(1)
    kept = variances > variances[:1].sum().clamp_min(0) * max(RANK_TOLERANCE, len(variances) * 1e-15)
    return variances[kept], axes[:, kept]


def _free(first: Tensor, second: Tensor, moments: JointMoments) -> bool:
    """Whether the examples leave every canonical correlation of these whitened sets open, and there is one."""
    ranks = first.shape[1], second.shape[1]
    return min(ranks) > 0 and sum(ranks) < moments.count


def _correlations(first: Tensor, cross: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """(R1, R) canonical directions in the first set's whitened coordinates and (R,) their correlations."""
    directions, correlations, _ = torch.linalg.svd(first.T @ _covariance(cross) @ second, full_matrices=False)
    return directions, correlations.clamp(0, 1)


# --- R4: linear predictability. ---


def predictability(
    train_from: Tensor,
    train_to: Tensor,
    validation_from: Tensor,
    validation_to: Tensor,
    test_from: Tensor,
    test_to: Tensor,
) -> float | None:
    """The share of the `to` features' variance on test that a ridge regression on the `from` features explains.

    Both sets are standardised with statistics of the training split. Features that have one value there, but for less
    than LEAST_VARYING of the examples, are left out: nothing can be learnt about them, and in units of such a standard
    deviation a test example on which they are active outweighs all others. The regression minimises
    mean ||to - from W||^2 + penalty ||W||^2, with the one of PENALTIES that has the lowest error on validation, of
    equals the strongest.

    Args:
        train_from: (N, D1), and so on for the other splits.
        train_to: (N, D2).

    Returns:
        R2 = 1 - ||to - prediction||^2 / ||to - mean||^2 with the test split's own mean, summed over features: at most
        1, and negative for what is worse than the mean. None where no feature varies on both train and test.
    """
    x, validation_x, test_x = _standardised(train_from, validation_from, test_from)
    y, validation_y, test_y = _standardised(train_to, validation_to, test_to)
    variances, axes = _covariance_axes(x)
    on_axes = axes.T @ (x.T @ y) / len(x)  # (R, D2)

    def residuals(penalty: float, features: Tensor, targets: Tensor) -> Tensor:
        return targets - (features @ axes / (variances + penalty)) @ on_axes

    def error(penalty: float) -> tuple[float, float]:
        return float(residuals(penalty, validation_x, validation_y).square().sum()), -penalty

    total = float((test_y - test_y.mean(0)).square().sum())
    if total <= 0:
        return None
    return 1 - float(residuals(min(PENALTIES, key=error), test_x, test_y).square().sum()) / total


def retention(r2: float | None, ceiling: float | None, floor: float | None) -> float | None:
    """Where predictability lies between that from a random network, 0, and that from a second direct one, 1.

    Negative: the features predict less than random ones do. None where a number is absent or where the two ends are
    less than 0.01 apart.
    """
    if r2 is None or ceiling is None or floor is None or ceiling - floor < LEAST_SPAN:
        return None
    return (r2 - floor) / (ceiling - floor)


def _standardised(*splits: Tensor) -> tuple[Tensor, ...]:
    """The splits' features that vary enough in the first of them, with mean 0 and variance 1 there."""
    first = splits[0].double()
    variance, mean = torch.var_mean(first, 0, correction=0)
    varying = (first != first.median(0).values).double().mean(0)  # the share of examples off the usual value
    varies = (varying > 0) & (varying >= LEAST_VARYING) & (variance > 0)
    return tuple((split.double()[:, varies] - mean[varies]) / variance[varies].sqrt() for split in splits)


def _centred(features: Tensor) -> Tensor:
    z = features.double() - features[:1].double()  # so a constant feature is exactly 0
    return z - z.mean(0)


def _covariance_axes(z: Tensor) -> tuple[Tensor, Tensor]:
    """(R,) the variances of centred (N, D) features that are not rounding error, largest first, and (D, R) their axes.

    By whichever of Z^T Z and Z Z^T is smaller.
    """
    if len(z) >= z.shape[1]:
        return _eigh(z.T @ z / len(z))
    variances, examples = _eigh(z @ z.T / len(z))
    return variances, z.T @ examples / (variances * len(z)).sqrt()


# --- R5: dimensionality. ---


def principal_variances(features: Tensor) -> Tensor:
    """(R,) the variances of (N, D) features along their principal axes, largest first, without those that are 0."""
    return _covariance_axes(_centred(features))[0]


def effective_rank(variances: Tensor) -> float | None:
    """exp of the entropy of the centred features' singular values: from 1 to D, which is D equal variances.

    Args:
        variances: (R,) as from `principal_variances`. None where there is none, here and below.

    Source: Roy & Vetterli (2007), "The effective rank".
    """
    singular = variances[variances > 0].sqrt()
    p = singular / singular.sum()
    return float((-(p * p.log()).sum()).exp()) if len(p) else None


def participation_ratio(variances: Tensor) -> float | None:
    """(sum l)^2 / sum l^2 of the principal variances l: from 1 to D."""
    return float(variances.sum().square() / variances.square().sum()) if variances.any() else None


def stable_rank(variances: Tensor) -> float | None:
    """||Z||_F^2 / ||Z||_2^2 of the centred features, which is the sum of the variances by the largest: from 1 to D."""
    return float(variances.sum() / variances.max()) if variances.any() else None


def dimensions_for(variances: Tensor, share: float = 0.99) -> int | None:
    """How many principal axes hold at least this share of the variance."""
    if not variances.any():
        return None
    held = variances.sort(descending=True).values.cumsum(0)
    return int((held < held[-1] * share * (1 - 1e-12)).sum()) + 1  # 99 of 100 equal ones hold 99 %, rounded or not


# --- R6: sparsity. Of features that end in a ReLU, that is: signed ones are positive half of the time. ---


def dead_share(features: Tensor) -> float:
    """The share of units of (N, D) features that are constant or never exceed 0, over all examples."""
    highest = features.amax(0)
    return float(((highest <= 0) | (highest == features.amin(0))).double().mean())


def active_share(features: Tensor) -> float:
    """The share of the entries of (N, D) features that exceed 0."""
    return float((features > 0).double().mean())


def hoyer(features: Tensor) -> float | None:
    """The mean over examples of (sqrt D - |z|_1 / |z|_2) / (sqrt D - 1): 0 for D equal values, 1 for a single one.

    Examples whose features are all 0 are left out. None where that leaves none, and for one feature.

    Source: Hoyer (2004), "Non-negative matrix factorization with sparseness constraints".
    """
    z, root = features.double(), math.sqrt(features.shape[1])
    z = z[z.any(1)]
    if root == 1 or not len(z):
        return None
    return float(((root - z.abs().sum(1) / z.norm(dim=1)) / (root - 1)).mean())


# --- R7, R8, R11: attributes, classes, members. ---


def attribute_retention(mixture_accuracy: float, direct_accuracy: float, chance: float) -> float | None:
    """What a probe of an attribute reaches above chance on the mixture's features, relative to the direct ones.

    None where the direct network is less than 0.01 above chance.
    """
    span = direct_accuracy - chance
    return (mixture_accuracy - chance) / span if span >= LEAST_SPAN else None


def class_separation(features: Tensor, labels: Tensor) -> float | None:
    """1 - the mean cosine distance of two examples of a class / that of two examples: 0 nothing, 1 one point each.

    Every class has the same weight, pairs of an example with itself are counted, and features are not centred. The
    cosine with an example whose features are all 0 is 0. None for a single class, or where all examples coincide.

    Args:
        features: (N, D).
        labels: (N,) integers.

    Source: Kornblith et al. (2021), arXiv:2010.16402, eq. 11.
    """
    classes, positions = torch.unique(labels, return_inverse=True)
    directions = F.normalize(features.double(), dim=1, eps=1e-300)
    sums = directions.new_zeros(len(classes), features.shape[1]).index_add_(0, positions, directions)
    means = sums / torch.bincount(positions)[:, None]  # (C, D); <means_j, means_k> is the mean cosine of the pairs
    within = 1 - float(means.square().sum(1).mean())
    total = 1 - float(means.mean(0).square().sum())
    return 1 - within / total if len(classes) > 1 and total > 1e-12 else None


def complementarity(joint_accuracy: float, member_accuracies: Sequence[float]) -> float:
    """What a probe of concatenated features gains over a probe of the best member."""
    return joint_accuracy - max(member_accuracies)


def disagreement(predictions: Sequence[Tensor]) -> float | None:
    """The share of examples on which two members predict different classes, averaged over pairs of (N,) predictions.

    None for a single member.
    """
    return _mean(float((a != b).double().mean()) for a, b in itertools.combinations(predictions, 2))


def _mean(values: Iterable[float | None]) -> float | None:
    """None where there is no value or one of them is absent."""
    found = list(values)
    present = [value for value in found if value is not None]
    return math.fsum(present) / len(present) if present and len(present) == len(found) else None


# --- R1: layers. ---


def layers(network: Network, images: Tensor) -> dict[str, Tensor]:
    """The activations of a network's layers, in evaluation mode and in their order, each (N, D) float32.

    A layer is a top-level part of the features that has weights, read after the normalisation and nonlinearity that
    follow it and averaged over positions; a vision transformer's are its blocks, read at the class token. The last
    layer is what a probe of the features reads, unless pooling is not a global average. Of more than twelve layers,
    twelve are read. Names depend on the architecture and its depth only.

    Args:
        network: on the device of the images.
        images: (N, channels, height, width) as the network reads them.
    """
    return _read_layers(network, torch.split(images, BATCH))


def _read_layers(network: Network, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    reader = _LayerReader(network.features)
    activations = extract(reader, batches)
    return dict(zip(reader.sizes, torch.split(activations, list(reader.sizes.values()), dim=1), strict=True))


class _LayerReader(nn.Module):
    """The pooled activations of all layers side by side; afterwards `sizes` tells whose they are."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.points = list(_reading_points(features).items())
        self.pool = _pooling(features)
        self.sizes: dict[str, int] = {}

    def forward(self, x: Tensor) -> Tensor:
        found: dict[str, Tensor] = {}

        def keep(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
            found[name] = self.pool(output)

        with ExitStack() as hooks:
            for name, module in self.points:
                hooks.enter_context(module.register_forward_hook(partial(keep, name)))
            self.features(x)
        read = {name: found[name] for name, _ in self.points if name in found}
        self.sizes = {name: activations.shape[1] for name, activations in read.items()}
        return torch.cat(list(read.values()), dim=1)


def _pooling(features: nn.Module) -> Callable[[Tensor], Tensor]:
    """From the output of a layer to (B, D), in memory of its own: what follows may work in place."""
    if _encoder(features) is not None:
        return lambda tokens: tokens[:, 0].clone()  # (B, T, D)
    if is_torchvision(features, "SwinTransformer"):
        return lambda output: output.flatten(1, -2).mean(1)  # (B, height, width, D)
    return lambda output: output.reshape(*output.shape[:2], -1).mean(2)  # (B, D) or (B, D, height, width)


def _reading_points(features: nn.Module) -> dict[str, nn.Module]:
    """The layers by name, each with the submodule whose output stands for it."""
    encoder = _encoder(features)
    if encoder is not None:
        points = {f"block{i}": block for i, block in enumerate(encoder.layers, 1)}
        points[f"block{len(points)}"] = encoder.ln  # the last one's nonlinearity
    else:
        children = list(features.named_children())
        if sum(_changes_representation(child) for _, child in children) < LAYERS[0]:
            children = [part for name, child in children for part in _opened(name, child)]
        points = _grouped(children) or {"features": features}
    steps = min(len(points), LAYERS[1]) - 1
    chosen = {round(i * (len(points) - 1) / max(steps, 1)) for i in range(steps + 1)}
    return {name: module for i, (name, module) in enumerate(points.items()) if i in chosen}


def _encoder(features: nn.Module) -> Encoder | None:
    """The transformer of a VisionTransformer, torchvision's or ours."""
    encoder = getattr(features, "encoder", None)
    return encoder if is_torchvision(encoder, "Encoder") else None


def _grouped(children: Iterable[tuple[str, nn.Module]]) -> dict[str, nn.Module]:
    """Each child with weight matrices, by name, and the last of the normalisations and nonlinearities behind it."""
    points: dict[str, nn.Module] = {}
    for path, child in children:
        if _changes_representation(child):
            kind = type(child).__name__.lower().removesuffix("2d")
            name = f"{kind}{len(points) + 1}" if path.isdigit() else path
            points[name] = child
        elif points and _finishes(child):
            points[name] = child
    return points


def _opened(name: str, child: nn.Module) -> list[tuple[str, nn.Module]]:
    """The children of a mere sequence or list of modules, and anything else itself."""
    if type(child) in (nn.Sequential, nn.ModuleList):
        return [(f"{name}.{inner}", part) for inner, part in child.named_children()]
    return [(name, child)]


def _changes_representation(module: nn.Module) -> bool:
    """Whether it has weights that are not merely a scale and a shift of each feature."""
    return any(weights.ndim >= 2 for weights in module.parameters())


def _finishes(module: nn.Module) -> bool:
    homes = ("activation", "batchnorm", "instancenorm", "normalization")
    return any(base.__module__ in {f"torch.nn.modules.{home}" for home in homes} for base in type(module).__mro__)


# --- All of it, for the networks of one component. ---


def measure(
    networks: Sequence[Network],
    direct: Network | None,
    ceiling: Network | None,
    floor: Sequence[Network],
    data: ComponentData,
    device: torch.device,
    *,
    examples: int = 2000,
    l2s: Sequence[float] = (1e-4, 1e-2),
    layerwise: bool = True,
) -> dict[str, Any]:
    """Every number of this module for one component, ready for JSON; None where a number cannot be computed.

    Similarities, dimensionality, sparsity and class separation are of the test split's features, R2s and accuracies
    are read on it. Canonical correlations are absent where the ranks of the two sets do not fit into the examples.

    Args:
        networks: the mixture's members, their features side by side; moved to the device, as all networks are.
        direct: the component's direct baseline of this seed. None: nothing is compared with it.
        ceiling: a direct baseline of another seed, None: there is none.
        floor: the members at their random initialisation; may be empty.
        data: the component. Images are read as they are, not augmented.
        device: where everything is computed.
        examples: at most so many of each split, the first ones; their order is random.
        l2s: of the linear probes; one is chosen on validation.
        layerwise: whether to probe the layers, of the first member and of the direct baseline.

    Raises:
        ValueError: a network's features are not finite.
    """
    sample = _Sample.of(data, device, examples)
    members = [sample.features(network) for network in networks]
    mixture = _side_by_side(members)
    target = None if direct is None else sample.features(direct)
    r2, r2_ceiling, r2_floor = (
        _predictability(source, target)
        for source in (
            mixture,
            None if ceiling is None else sample.features(ceiling),
            _side_by_side([sample.features(network) for network in floor]) if floor else None,
        )
    )
    labels = sample.labels.test
    return {
        **_similarity(target, mixture),
        "predictability": r2,
        "predictability_ceiling": r2_ceiling,
        "predictability_floor": r2_floor,
        "retention": retention(r2, r2_ceiling, r2_floor),
        **_shape(mixture.test),
        "class_separation": class_separation(mixture.test, labels),
        "direct_effective_rank": None if target is None else effective_rank(principal_variances(target.test)),
        "direct_class_separation": None if target is None else class_separation(target.test, labels),
        "member_predictability": _mean(_predictability(a, b) for a, b in itertools.permutations(members, 2)),
        **_diversity(members, mixture, sample, l2s),
        "layers": _probed_layers(networks[0], direct, sample, l2s) if layerwise else [],
        "attributes": [_probed_attribute(name, data, mixture, target, l2s) for name in data.attributes],
        "num_examples": len(labels),
    }


def _probed_attribute(
    name: str, data: ComponentData, mixture: _Splits, direct: _Splits | None, l2s: Sequence[float]
) -> dict[str, Any]:
    """How well a linear probe reads what the images of a constructed component were made from."""
    splits, count = (data.train, data.validation, data.test), data.attributes[name]
    values = [s.attribute(name)[: len(f)].to(f.device) for s, f in zip(splits, mixture, strict=True)]

    def accuracy(features: _Splits) -> float:
        pairs = list(zip(features, values, strict=True))
        return linear_probe(pairs[0], pairs[1], pairs[2], count, l2s).test_accuracy

    found, possible = accuracy(mixture), None if direct is None else accuracy(direct)
    most_frequent = int(torch.bincount(values[0], minlength=count).argmax())
    chance = float((values[2] == most_frequent).double().mean())
    return {
        "attribute": name,
        "accuracy": found,
        "direct_accuracy": possible,
        "chance_accuracy": chance,
        "retention": None if possible is None else attribute_retention(found, possible, chance),
    }


class _Splits(NamedTuple):
    """Something of every example: (N, ...) per split."""

    train: Tensor
    validation: Tensor
    test: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sample:
    """The examples that everything is measured on. Their images are read once: there may be a dozen networks."""

    images: _Splits  # uint8, on the device
    labels: _Splits
    num_classes: int
    value_range: tuple[float, float]
    device: torch.device

    @staticmethod
    def of(data: ComponentData, device: torch.device, examples: int) -> _Sample:
        splits = (data.train, data.validation, data.test)
        found = [split.gather(torch.arange(min(examples, len(split)))) for split in splits]
        return _Sample(
            images=_Splits(*(images.to(device) for images, _ in found)),
            labels=_Splits(*(labels.to(device) for _, labels in found)),
            num_classes=data.component.num_classes,
            value_range=data.value_range,
            device=device,
        )

    def features(self, network: Network) -> _Splits:
        """What the network makes of the images."""
        network.to(self.device)
        found = _Splits(*(extract(network.features, self._batches(images)) for images in self.images))
        for split, features, labels in zip(_Splits._fields, found, self.labels, strict=True):
            check(split, features, labels, self.num_classes)
        return found

    def layers(self, network: Network) -> dict[str, _Splits]:
        """What every layer of the network makes of the images."""
        network.to(self.device)
        found = [_read_layers(network, self._batches(images)) for images in self.images]
        return {name: _Splits(*(split[name] for split in found)) for name in found[0]}

    def probe(self, features: _Splits, l2s: Sequence[float], train: Tensor | None = None) -> ProbeResult:
        """A linear probe of features; `train` are the positions of the examples that it is fitted to, None: all."""
        fitted = (features.train, self.labels.train)
        return linear_probe(
            fitted if train is None else (fitted[0][train], fitted[1][train]),
            (features.validation, self.labels.validation),
            (features.test, self.labels.test),
            self.num_classes,
            l2s,
        )

    def shots(self) -> Tensor | None:
        """Positions of the first SHOTS training examples of every class; None if a class has fewer."""
        labels = self.labels.train
        counts = torch.bincount(labels, minlength=self.num_classes)
        if int(counts.min()) < SHOTS:
            return None
        return (rank_in_class(labels) < SHOTS).nonzero().flatten()

    def _batches(self, images: Tensor) -> Iterator[Tensor]:
        return (to_float(batch, self.value_range) for batch in torch.split(images, BATCH))


def _side_by_side(members: Sequence[_Splits]) -> _Splits:
    return _Splits(*(torch.cat(parts, dim=1) for parts in zip(*members, strict=True)))


def _predictability(source: _Splits | None, target: _Splits | None) -> float | None:
    if source is None or target is None:
        return None
    return predictability(source.train, target.train, source.validation, target.validation, source.test, target.test)


def _similarity(direct: _Splits | None, mixture: _Splits) -> dict[str, float | None]:
    if direct is None:
        return dict.fromkeys(("cka", "debiased_cka", "svcca", "pwcca", "cca_r2"))
    # No number depends on the axes of the second set, so a wide concatenation is rotated into at most N dimensions.
    moments = joint_moments([(direct.test, _rotated(mixture.test))])
    return {
        "cka": linear_cka(moments),
        "debiased_cka": debiased_cka(moments),
        "svcca": svcca(moments),
        "pwcca": pwcca(moments),
        "cca_r2": cca_r2(moments),
    }


def _rotated(features: Tensor) -> Tensor:
    """(N, R) principal coordinates of (N, D) features with more dimensions than examples, and others as they are."""
    if features.shape[1] <= len(features):
        return features
    z = _centred(features)
    return z @ _covariance_axes(z)[1]


def _shape(features: Tensor) -> dict[str, float | int | None]:
    variances = principal_variances(features)
    return {
        "effective_rank": effective_rank(variances),
        "participation_ratio": participation_ratio(variances),
        "stable_rank": stable_rank(variances),
        "dimensions_99": dimensions_for(variances, 0.99),
        "dead_share": dead_share(features),
        "hoyer": hoyer(features),
        "active_share": active_share(features),
    }


def _diversity(
    members: Sequence[_Splits], mixture: _Splits, sample: _Sample, l2s: Sequence[float]
) -> dict[str, float | None]:
    if len(members) == 1:
        return {"disagreement": None, "complementarity": None}
    probes = [sample.probe(member, l2s) for member in members]
    predictions = [found.probe.logits(member.test).argmax(1) for found, member in zip(probes, members, strict=True)]
    joint = sample.probe(mixture, l2s).test_accuracy
    return {
        "disagreement": disagreement(predictions),
        "complementarity": complementarity(joint, [found.test_accuracy for found in probes]),
    }


def _probed_layers(
    network: Network, direct: Network | None, sample: _Sample, l2s: Sequence[float]
) -> list[dict[str, Any]]:
    others: Mapping[str, _Splits] = {} if direct is None else sample.layers(direct)
    shots = sample.shots()
    return [
        {
            "layer": name,
            "dimensions": features.train.shape[1],
            "accuracy": sample.probe(features, l2s).test_accuracy,
            "direct_accuracy": sample.probe(others[name], l2s).test_accuracy if name in others else None,
            "shots_accuracy": None if shots is None else sample.probe(features, l2s, shots).test_accuracy,
        }
        for name, features in sample.layers(network).items()
    ]
