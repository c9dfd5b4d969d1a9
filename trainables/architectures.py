"""Which network? Models by name, width and depth, each split into the features that a probe reads and a linear head.

A new architecture is one function that returns its features, entered in ARCHITECTURES. Everything else here is the
same for all: the seeds of the initialisation, the head, the size. Training is pretrain.py's matter, and which features
of how many networks a probe reads is representation.py's.

The features of one architecture and seed are the same for every number of classes: a mixture and the direct baseline
of its components start from the same weights, and only their heads differ.

torchvision is imported by the functions that need it: that takes 2 s of a processor, with the compiler that it imports.
"""

from __future__ import annotations

import copy
import difflib
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from trainables import plugins
from trainables.spec import Architecture, derive_seed

if TYPE_CHECKING:
    from torchvision.models.resnet import BasicBlock, Bottleneck

    Block = type[BasicBlock] | type[Bottleneck]

CNN_GAINS_FROM = 0.5  # width: on a CPU one of 0.25 gains nothing, see docs/performance.md


class Network(nn.Module):
    """Features and a linear head. Logits are `head(features(images))`."""

    def __init__(self, features: nn.Module, head: nn.Linear | None, num_features: int) -> None:
        super().__init__()
        self.features = features  # (B, channels, height, width), values in about [-1, 1] -> (B, D)
        self.head = head  # (B, D) -> (B, C); None for a network that is only ever probed
        self.num_features = num_features  # D

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.features(x))

    def logits(self, features: Tensor) -> Tensor:
        """(B, D) features -> (B, C)."""
        assert self.head is not None, "a network built with 0 classes has features only"
        return self.head(features)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Size:
    """What the features of an architecture cost, without the head."""

    parameters: int
    flops: int  # of one forward pass of one example: twice its multiply-adds, in convolutions and matrix products
    num_features: int


def build(architecture: Architecture, num_classes: int, seed: int) -> Network:
    """A freshly initialised network on the CPU, in training mode.

    Args:
        architecture: its name, width, depth and image shape.
        num_classes: outputs of the head; 0 for no head.
        seed: the replicate's. Features and head draw from streams of their own, so the features depend on neither
            the number of classes nor the state of the global generator, which is left as it was.

    Raises:
        ValueError: the name is unknown, or the architecture does not exist at this width, depth or image shape.
    """
    num_features = _num_features(architecture)
    with _seeded(derive_seed(seed, "init", "features")):
        features = _features(architecture)
    with _seeded(derive_seed(seed, "init", "head")):
        head = nn.Linear(num_features, num_classes) if num_classes else None
    return Network(features, head, num_features)


@cache
def _num_features(architecture: Architecture) -> int:
    """D of the (B, D) that its features give; found without `measure`, which imports torch's compiler."""
    with _seeded(0):
        features = _features(architecture).eval()
        with _blaming_the_image(architecture, RuntimeError, ValueError, AssertionError), torch.no_grad():
            output = features(torch.zeros(1, *architecture.image_shape))
    return _checked(output, architecture).shape[1]


@cache
def measure(architecture: Architecture) -> Size:
    """The size of an architecture's features, found without allocating their weights.

    The first call of a process takes seconds: whatever looks into torch's operators imports its compiler.

    Raises:
        ValueError: as for `build`.
    """
    with _Weightless():
        features = _features(architecture).to("meta")
    features.eval()  # batch statistics of one example do not exist
    example = torch.empty(1, *architecture.image_shape, device="meta")
    # Gradients keep attention off its fused inference kernel, which the counter cannot see into.
    with (
        _blaming_the_image(architecture, RuntimeError, ValueError, AssertionError),
        torch.enable_grad(),
        FlopCounterMode(display=False) as counter,
    ):
        output = features(example)
    parameters = sum(p.numel() for p in features.parameters())
    return Size(parameters, counter.get_total_flops(), _checked(output, architecture).shape[1])


def layout_of(architecture: Architecture, device: torch.device, precision: str = "float32") -> torch.memory_format:
    """How images and filters lie in memory: channels last where that is faster. Results change by rounding only.

    That is where tensor cores read them, and on a CPU in torchvision's networks, in residual ones, and in a `cnn` that
    is not narrow. What plug-ins do with strides is not known, so theirs are left alone. docs/performance.md has the
    figures of `benchmarks/step.py`, which trains both ways.
    """
    if device.type == "cuda":
        return torch.channels_last if precision == "bfloat16" else torch.contiguous_format
    name = architecture.name
    if name in ARCHITECTURES:
        gains = name.startswith("resnet") or (name == "cnn" and architecture.width >= CNN_GAINS_FROM)
    else:
        gains = not plugins.is_code(name)
    return torch.channels_last if gains else torch.contiguous_format


def folded(features: nn.Module) -> nn.Module:
    """The same features for reading, up to rounding: a batch norm is part of the convolution right before it.

    Where they are a plain sequence, that is: of a `cnn` all, of a residual network the stem. In evaluation mode only.
    What is not folded is shared with `features`, which stay as they are. Features with hooks, as code of the user's may
    have them, are left alone: a hook may read or change what lies between.
    """
    hooked = any(part._forward_hooks or part._forward_pre_hooks for part in features.modules())
    if hooked or type(features) is not nn.Sequential:
        return features
    parts: list[nn.Module] = []
    for part in features:
        before = parts[-1] if parts else None
        if type(before) is nn.Conv2d and type(part) is nn.BatchNorm2d and part.track_running_stats:
            parts[-1] = both = copy.deepcopy(before)
            mean, variance = cast(Tensor, part.running_mean), cast(Tensor, part.running_var)
            both.weight, both.bias = fuse_conv_bn_weights(
                both.weight, both.bias, mean, variance, part.eps, part.weight, part.bias
            )
        else:
            parts.append(part)
    return nn.Sequential(*parts)


def _checked(output: object, architecture: Architecture) -> Tensor:
    """What the features gave for one image, if it is of shape (1, D)."""
    shape = tuple(output.shape) if isinstance(output, Tensor) else ()
    if plugins.is_code(architecture.name) and (len(shape) != 2 or shape[0] != 1):
        found = f"features of shape {shape} for one image" if shape else f"a {type(output).__name__} as features"
        raise plugins.PluginError(f"{architecture.name} gave {found}; expected (B, D)")
    assert len(shape) == 2, f"features of {architecture.name} are (B, D), not {shape}"
    return cast(Tensor, output)


def names() -> list[str]:
    """Every name that an Architecture may have: the ones built here, then torchvision's classification models."""
    import torchvision.models

    others = torchvision.models.list_models(module=torchvision.models)
    return [*ARCHITECTURES, *(name for name in others if name not in ARCHITECTURES)]


def is_torchvision(module: object, name: str) -> bool:
    """Whether an object, or None, is of torchvision's class of that name; to ask does not import it."""
    return any(kind.__name__ == name and kind.__module__.startswith("torchvision.") for kind in type(module).__mro__)


# --- The architectures. Each function returns the features of one, freshly initialised. ---


def mlp(architecture: Architecture) -> nn.Module:
    """Hidden layers of 64 units with ReLU on the flattened image; the features are the last hidden activations."""
    inputs, units = math.prod(architecture.image_shape), _scaled(64, architecture)
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(architecture.depth or 2):
        layers += [nn.Linear(inputs, units), nn.ReLU(inplace=True)]
        inputs = units
    return nn.Sequential(*layers)


def cnn(architecture: Architecture) -> nn.Module:
    """Convolutions of 16, 32, 64, 64, 64, ... channels, each with batch norm and ReLU, then a global average.

    A convolution has stride 2 as long as that leaves at least 4 pixels on the shorter side: images of 32 pixels are
    averaged over 4 x 4 positions, images of 28 over 7 x 7.
    """
    channels, side = architecture.image_shape[0], min(architecture.image_shape[1:])
    layers: list[nn.Module] = []
    for i in range(architecture.depth or 4):
        out_channels = _scaled((16, 32, 64)[min(i, 2)], architecture)
        stride = 2 if side >= 8 else 1
        layers += [
            nn.Conv2d(channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        ]
        channels, side = out_channels, math.ceil(side / stride)
    return nn.Sequential(*layers, GlobalAverage(), nn.Flatten())


def cnn_plain(architecture: Architecture) -> nn.Module:
    """Convolutions of 8, 16, 32, 32, ... channels with stride 2 and ReLU, no batch norm, then 32 units with ReLU.

    The features are the 32 activations: small enough to lose something, and free of batch statistics.
    """
    channels, height, width = architecture.image_shape
    layers: list[nn.Module] = []
    for i in range(architecture.depth or 3):
        out_channels = _scaled((8, 16, 32)[min(i, 2)], architecture)
        layers += [nn.Conv2d(channels, out_channels, kernel_size=3, stride=2, padding=1), nn.ReLU(inplace=True)]
        channels, height, width = out_channels, math.ceil(height / 2), math.ceil(width / 2)
    units = _scaled(32, architecture)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * width, units), nn.ReLU(inplace=True))


def resnet(architecture: Architecture, block: Literal["BasicBlock", "Bottleneck"], blocks: Sequence[int]) -> nn.Module:
    """torchvision's residual network, with every channel count scaled and a stem that suits the image.

    Images with a side below 64 pixels get the stem that He et al. (2015), arXiv:1512.03385, section 4.2, use for CIFAR:
    one 3 x 3 convolution of stride 1 and no pooling. torchvision's own reduces 32 pixels to 8 before the first block.
    Submodules are named as in torchvision, so its state dicts fit at width 1 and the default depth.
    """
    from torchvision.models import resnet as its

    kind: Block = getattr(its, block)
    image_channels, height, width = architecture.image_shape
    channels, small = _scaled(64, architecture), min(height, width) < 64
    kernel, stride = (3, 1) if small else (7, 2)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"] = nn.Conv2d(image_channels, channels, kernel, stride, padding=kernel // 2, bias=False)
    layers["bn1"] = nn.BatchNorm2d(channels)
    layers["relu"] = nn.ReLU(inplace=True)
    layers["maxpool"] = nn.Identity() if small else nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
    for i, num_blocks in enumerate([architecture.depth] * 4 if architecture.depth else blocks):
        planes = _scaled(64 * 2**i, architecture)
        layers[f"layer{i + 1}"] = _stage(kind, channels, planes, num_blocks, stride=1 if i == 0 else 2)
        channels = planes * kind.expansion
    layers["avgpool"] = GlobalAverage()
    layers["flatten"] = nn.Flatten()
    features = nn.Sequential(layers)
    for module in features.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return features


def vit(architecture: Architecture, heads: int) -> nn.Module:
    """A vision transformer with heads of 64 units each, times the width, and 12 blocks; the class token is read.

    Patches are the largest of 1, 2, 4, 8 and 16 pixels with at least 7 patches along the shorter side (4 for images of
    28 or 32 pixels, 8 for 64, 16 for 224), so that small images too become some fifty tokens or more.
    """
    side = min(architecture.image_shape[1:])
    patch = max((p for p in (2, 4, 8, 16) if side >= 7 * p), default=1)
    return VisionTransformer(
        architecture.image_shape,
        patch,
        num_blocks=architecture.depth or 12,
        num_heads=heads,
        hidden=heads * _scaled(64, architecture),
    )


def raw(architecture: Architecture) -> nn.Module:
    """The pixels themselves, without a parameter: what a linear classifier makes of the input as it is."""
    _refuse_scaling(architecture, "has no layers to scale")
    return nn.Flatten()


def diagonal(architecture: Architecture) -> nn.Module:
    """Each pixel times a weight of its own, 0.05 at first for every seed; with the head a two-layer diagonal network.

    At a minimum with weight decay w, a head of two outputs is penalised like the sum over pixels of w / sqrt(2) times
    the absolute slope of the difference of its logits: so mu of toy.py is the weight decay over sqrt(2).

    Source: the network of toy.py.
    """
    _refuse_scaling(architecture, "has one weight per pixel")
    return nn.Sequential(nn.Flatten(), PixelWeights(math.prod(architecture.image_shape)))


def from_torchvision(architecture: Architecture) -> nn.Module:
    """A torchvision classification model at its random initialisation, without its last layer.

    Dropout and stochastic depth stay as torchvision has them: they act in training mode only. Auxiliary classifiers are
    left out. The stem is replaced where the image does not have three channels.
    """
    from torchvision.models import get_model

    _refuse_scaling(architecture, "comes from torchvision with a fixed width and depth")
    options = _torchvision_options(architecture.name, architecture.image_shape)
    with _blaming_the_image(architecture, ValueError, AssertionError):
        model: nn.Module = get_model(architecture.name, weights=None, num_classes=1, **options)
    # The classifier is the last layer with weights: a Linear everywhere, a 1 x 1 convolution in SqueezeNet.
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    name, classifier = layers[-1]
    assert len(classifier.weight) == 1, f"{architecture.name}: {name} is the classifier"
    model.set_submodule(name, nn.Identity())
    name, stem = next((n, m) for n, m in layers if isinstance(m, nn.Conv2d))
    model.set_submodule(name, _stem_for(architecture.image_shape[0], stem))
    return model


def from_code(architecture: Architecture) -> nn.Module:
    """What code of the user's returns for an architecture: like the functions above, its features.

    Raises:
        PluginError: the code is not there, is not what was planned with, raises, or returns something else.
    """
    name = architecture.name
    if architecture.code:
        plugins.require_same_code("architecture", name, architecture.code)
    builder = plugins.load("architecture", name)
    try:
        features = builder(architecture)
    except Exception as error:  # the code is not ours and may raise anything
        raise plugins.PluginError(f"{name}: {plugins.said(error)}") from error
    if not isinstance(features, nn.Module):
        raise plugins.PluginError(
            f"{name} returned a {type(features).__name__}; expected a torch.nn.Module that turns images (B, channels, "
            "height, width) into features (B, D)"
        )
    return features


Builder = Callable[[Architecture], nn.Module]

ARCHITECTURES: Mapping[str, Builder] = {
    "mlp": mlp,
    "cnn": cnn,
    "resnet18": partial(resnet, block="BasicBlock", blocks=(2, 2, 2, 2)),
    "resnet34": partial(resnet, block="BasicBlock", blocks=(3, 4, 6, 3)),
    "resnet50": partial(resnet, block="Bottleneck", blocks=(3, 4, 6, 3)),
    "vit_tiny": partial(vit, heads=3),
    "vit_small": partial(vit, heads=6),
    "cnn_plain": cnn_plain,
    "raw": raw,
    "diagonal": diagonal,
}
FIXED = ("raw", "diagonal")  # of ARCHITECTURES, those without width and depth


# --- What the architectures are made of. ---


class GlobalAverage(nn.Module):
    """The mean over all positions, (B, C, H, W) -> (B, C, 1, 1).

    On a CPU the gradient lies in memory as the input does. That of torch's own pooling is contiguous, and the layer
    before it then reads one of its tensors across.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and x.stride(1) == 1:  # channels last
            return x.permute(0, 2, 3, 1).flatten(1, 2).mean(1)[:, :, None, None]
        return x.mean((2, 3), keepdim=True)


class PixelWeights(nn.Module):
    """A weight for every input: (B, D) -> (B, D)."""

    def __init__(self, num_inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((num_inputs,), 0.05))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class VisionTransformer(nn.Module):
    """torchvision's transformer encoder behind a stem for any image shape, after arXiv:2010.11929.

    torchvision's own class takes square images whose side is a multiple of the patch. This one pads the image evenly
    with 0, mid-grey, up to a multiple.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], patch: int, *, num_blocks: int, num_heads: int, hidden: int
    ) -> None:
        from torchvision.models.vision_transformer import Encoder

        super().__init__()
        channels, height, width = image_shape
        rows, columns = math.ceil(height / patch), math.ceil(width / patch)
        down, right = rows * patch - height, columns * patch - width
        self.pad = nn.ZeroPad2d((right // 2, right - right // 2, down // 2, down - down // 2))
        self.conv_proj = nn.Conv2d(channels, hidden, kernel_size=patch, stride=patch)
        nn.init.trunc_normal_(self.conv_proj.weight, std=math.sqrt(1 / (channels * patch**2)))
        nn.init.zeros_(self.conv_proj.bias)  # type: ignore[arg-type]
        self.class_token = nn.Parameter(torch.zeros(1, 1, hidden))
        self.encoder = Encoder(
            seq_length=rows * columns + 1,
            num_layers=num_blocks,
            num_heads=num_heads,
            hidden_dim=hidden,
            mlp_dim=4 * hidden,
            dropout=0.0,
            attention_dropout=0.0,
        )

    def forward(self, x: Tensor) -> Tensor:
        patches = self.conv_proj(self.pad(x)).flatten(2).transpose(1, 2)  # (B, D, rows, columns) -> (B, T, D)
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), patches], dim=1)
        return self.encoder(tokens)[:, 0]  # type: ignore[no-any-return]


def _stage(block: Block, channels: int, planes: int, num_blocks: int, stride: int) -> nn.Sequential:
    """One resolution of a residual network; only its first block changes the shape."""
    out_channels = planes * block.expansion
    shortcut = None
    if stride != 1 or channels != out_channels:
        shortcut = nn.Sequential(
            nn.Conv2d(channels, out_channels, kernel_size=1, stride=stride, bias=False),
            nn.BatchNorm2d(out_channels),
        )
    first = block(channels, planes, stride, shortcut)
    return nn.Sequential(first, *(block(out_channels, planes) for _ in range(num_blocks - 1)))


def _stem_for(channels: int, stem: nn.Conv2d) -> nn.Conv2d:
    """`stem` for images with another number of channels; random weights, scaled so that activations keep theirs."""
    if channels == stem.in_channels:
        return stem
    replacement = nn.Conv2d(
        channels,
        stem.out_channels,
        kernel_size=stem.kernel_size,  # type: ignore[arg-type]
        stride=stem.stride,  # type: ignore[arg-type]
        padding=stem.padding,  # type: ignore[arg-type]
        bias=stem.bias is not None,
    )
    with torch.no_grad():
        spread = stem.weight.std() * math.sqrt(stem.in_channels / channels)
        replacement.weight.normal_().mul_(spread)
        if stem.bias is not None and replacement.bias is not None:
            replacement.bias.copy_(stem.bias)
    return replacement


def _torchvision_options(name: str, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Arguments of a torchvision model beside its number of classes."""
    _, height, width = image_shape
    if name in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):
        if height != width:
            raise ValueError(f"{name} reads square images, not {height} x {width}; vit_small reads any")
        return {"image_size": height}
    if name.startswith("maxvit"):
        return {"input_size": (height, width)}
    return {}


@contextmanager
def _blaming_the_image(architecture: Architecture, *errors: type[Exception]) -> Iterator[None]:
    """Turns what a model says about an image shape that does not fit it into a ValueError that says what to do."""
    try:
        yield
    except errors as error:
        channels, height, width = architecture.image_shape
        raise ValueError(
            f"{architecture.name} cannot read images of {height} x {width} pixels (channels: {channels}): "
            f"{str(error).splitlines()[0].rstrip('.')}; set another image_size or choose another architecture"
        ) from error


# --- Names and widths. ---


def _features(architecture: Architecture) -> nn.Module:
    if architecture.depth is not None and architecture.depth < 1:
        raise ValueError(f"{architecture.name} of depth {architecture.depth}; the depth is at least 1")
    if architecture.name in ARCHITECTURES:
        return ARCHITECTURES[architecture.name](architecture)
    if plugins.is_code(architecture.name):
        return from_code(architecture)
    known = names()
    if architecture.name in known:
        return from_torchvision(architecture)
    near = difflib.get_close_matches(architecture.name, known, n=5, cutoff=0.5)
    raise ValueError(
        f"unknown architecture {architecture.name!r}{'; close to it: ' if near else ''}{', '.join(near)}; known are "
        f"{', '.join([*ARCHITECTURES, *plugins.installed('architecture', frozenset(ARCHITECTURES))])}, torchvision's "
        "classification models and python:module:attribute"
    )


def _refuse_scaling(architecture: Architecture, reason: str) -> None:
    if architecture.width != 1 or architecture.depth is not None:
        scalable = ", ".join(name for name in ARCHITECTURES if name not in FIXED)
        raise ValueError(
            f"{architecture.name} {reason}; leave width and depth at their defaults, or choose one of {scalable}"
        )


def _scaled(units: int, architecture: Architecture) -> int:
    """`units` times the width, rounded."""
    width = architecture.width
    scaled = round(units * width) if math.isfinite(width) else 0
    if scaled < 1:
        raise ValueError(
            f"{architecture.name} at width {width:g} has a layer without units: {units} x {width:g} rounds to "
            f"{scaled}; use a width above {0.5 / units:g}"
        )
    return scaled


# --- Randomness and allocation. ---


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draws of the CPU's generator inside come from `seed`; afterwards it is as it was. GPUs' are not touched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


class _Weightless(TorchFunctionMode):
    """Weights created inside hold no data.

    Under `torch.device("meta")` no tensor does, and torchvision's RegNet fails, as it computes its widths with some.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)
