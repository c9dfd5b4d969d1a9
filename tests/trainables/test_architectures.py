"""Every architecture exists at the widths, depths and image shapes it promises, and is what its name says."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision.models
from torch import nn

from trainables.architectures import (
    ARCHITECTURES,
    FIXED,
    GlobalAverage,
    Network,
    Size,
    build,
    folded,
    layout_of,
    measure,
    names,
)
from trainables.probe import extract
from trainables.spec import Architecture

SCALABLE = [name for name in ARCHITECTURES if name not in FIXED]
SHAPES = ((1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (2, 13, 20))

# One per family of torchvision whose classifier, stem or construction is a case of its own, at a size that it reads.
TORCHVISION = {
    "convnext_tiny": (3, 32, 32),
    "densenet121": (1, 32, 32),
    "efficientnet_b0": (3, 32, 32),
    "googlenet": (1, 32, 32),
    "inception_v3": (3, 75, 75),
    "mnasnet0_5": (1, 32, 32),
    "mobilenet_v3_small": (3, 28, 28),
    "regnet_y_400mf": (1, 28, 28),
    "shufflenet_v2_x0_5": (1, 32, 32),
    "squeezenet1_1": (1, 32, 32),
    "swin_t": (3, 32, 32),
}


def architecture(name: str, shape: tuple[int, int, int] = (3, 32, 32), **changes: object) -> Architecture:
    return Architecture(name=name, image_shape=shape, **changes)


def narrow(name: str, shape: tuple[int, int, int]) -> Architecture:
    """A small one that trains in a moment."""
    if name in FIXED:
        return architecture(name, shape)
    return architecture(name, shape, width=0.25, depth=1 if name.startswith(("resnet", "vit")) else None)


def images(shape: tuple[int, int, int], count: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(k == m and torch.equal(v, w) for (k, v), (m, w) in pairs)


# --- Every architecture that is built here ---


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_trains_on_images_of_any_shape(name, shape):
    network = build(narrow(name, shape), 3, seed=0)
    x, y = images(shape, 6), torch.arange(6) % 3
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-4)
    losses = []
    for _ in range(5):
        loss = F.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in network.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert all(math.isfinite(loss) for loss in losses)
    assert min(losses[1:]) < losses[0]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_measured_size_is_the_network_s(name):
    spec = narrow(name, (3, 32, 32))
    network = build(spec, 5, seed=0).eval()
    size = measure(spec)
    assert network.num_features == size.num_features == network.features(images((3, 32, 32))).shape[1]
    assert sum(p.numel() for p in network.features.parameters()) == size.parameters
    assert network(images((3, 32, 32))).shape == (4, 5)


@pytest.mark.parametrize("name", SCALABLE)
def test_twice_the_width_has_twice_the_features(name):
    once, twice = (measure(architecture(name, width=width, depth=1)) for width in (0.25, 0.5))
    assert twice.num_features == 2 * once.num_features


@pytest.mark.parametrize("name", [name for name in SCALABLE if name != "cnn_plain"])  # there the last layer shrinks
def test_more_depth_has_more_parameters(name):
    sizes = [measure(architecture(name, width=0.25, depth=depth)).parameters for depth in (1, 2, 3)]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_evaluation_repeats_itself_and_leaves_the_images_alone(name):
    network = build(narrow(name, (1, 28, 28)), 3, seed=0).eval()
    x = images((1, 28, 28))
    with torch.no_grad():
        first, second = network(x), network(x)
    assert torch.equal(first, second)
    assert torch.equal(x, images((1, 28, 28)))


# --- Seeds ---


@pytest.mark.parametrize("name", [*SCALABLE, "mobilenet_v3_small"])
def test_a_seed_names_one_initialisation(name):
    spec = architecture("mobilenet_v3_small") if name == "mobilenet_v3_small" else narrow(name, (3, 32, 32))
    assert same_weights(build(spec, 3, seed=0), build(spec, 3, seed=0))
    other = build(spec, 3, seed=1)
    assert not same_weights(build(spec, 3, seed=0).features, other.features)


def test_the_features_do_not_depend_on_the_number_of_classes():
    spec = architecture("cnn")
    three, ten = build(spec, 3, seed=0), build(spec, 10, seed=0)
    assert same_weights(three.features, ten.features)


def test_the_global_generator_is_neither_used_nor_moved():
    torch.manual_seed(1)
    first = build(architecture("mlp"), 3, seed=0)
    before = torch.get_rng_state()
    second = build(architecture("mlp"), 3, seed=0)
    measure(architecture("mlp", width=3.0))
    assert same_weights(first, second)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_classes_there_is_no_head():
    network = build(architecture("mlp"), 0, seed=0)
    assert network.head is None
    assert same_weights(network.features, build(architecture("mlp"), 3, seed=0).features)
    with pytest.raises(AssertionError, match="features only"):
        network(images((3, 32, 32)))


# --- What their sizes are known to be ---


def test_the_mlp_worked_out_by_hand():
    # Toy C: 8 x 16 pixels, 128-64-64. Weights 128 * 64 + 64 * 64, biases 64 + 64.
    assert measure(architecture("mlp", (1, 8, 16))) == Size(12_288 + 128, 2 * 12_288, 64)


def test_the_cnn_worked_out_by_hand():
    # 3 x 3 kernels, 3-16-32-64-64 channels, outputs of 16, 8, 4 and 4 pixels a side; batch norm has two per channel.
    kernels = (27 * 16, 144 * 32, 288 * 64, 576 * 64)
    macs = sum(k * side**2 for k, side in zip(kernels, (16, 8, 4, 4), strict=True))
    assert measure(architecture("cnn")) == Size(sum(kernels) + 2 * (16 + 32 + 64 + 64), 2 * macs, 64)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_global_average_is_the_mean_over_positions_and_its_gradient_lies_as_the_images_do(layout):
    gradients = []
    x = torch.randn(5, 3, 4, 6).contiguous(memory_format=layout).requires_grad_()
    x.register_hook(gradients.append)
    found = GlobalAverage()(x)
    torch.testing.assert_close(found, nn.AdaptiveAvgPool2d(1)(x))
    found.square().sum().backward()
    torch.testing.assert_close(gradients[0], (found / 12).expand_as(x))  # 2 / (4 x 6)
    assert gradients[0].is_contiguous(memory_format=layout)


def norms(features):
    return [module for module in features.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize(
    ("name", "left"),
    [("cnn", 0), ("resnet18", 11), ("mlp", 0), ("vit_tiny", 0)],  # only the stem of a residual network is a sequence
)
def test_folded_features_are_the_same_without_the_batch_norms_behind_convolutions(name, left):
    spec = narrow(name, (3, 32, 32))
    features = build(spec, 0, seed=0).features.to(memory_format=layout_of(spec, torch.device("cpu")))
    for layer in norms(features):  # as training would leave them
        for values in (layer.weight, layer.running_var):
            nn.init.uniform_(values, 0.5, 2)
        for values in (layer.bias, layer.running_mean):
            nn.init.normal_(values)
    before = {key: value.clone() for key, value in features.state_dict().items()}
    short = folded(features)
    assert len(norms(short)) == left
    batches = torch.split(images((3, 32, 32)), 3)
    torch.testing.assert_close(extract(short, batches), extract(features, batches), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in features.state_dict().items())


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_batch_norm_is_folded_into_a_convolution_of_any_kind(bias, affine):
    norm = nn.BatchNorm2d(4, affine=affine)
    features = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, groups=2, bias=bias), norm, nn.BatchNorm2d(4), nn.Flatten())
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    short = folded(features)
    assert [type(part) for part in short] == [nn.Conv2d, nn.Flatten]
    torch.testing.assert_close(extract(short, [images((2, 9, 9))]), extract(features, [images((2, 9, 9))]))


def test_what_cannot_be_folded_stays_as_it_is():
    convolution, norm = nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2)
    batch = nn.BatchNorm2d(2, track_running_stats=False)
    assert list(folded(nn.Sequential(convolution, batch))) == [convolution, batch]
    assert list(folded(nn.Sequential(norm, convolution))) == [norm, convolution]


@pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook"])
@pytest.mark.parametrize("place", [0, 1, None])
def test_features_with_a_hook_are_not_folded(place, kind):
    features = nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2))
    hooked = features if place is None else features[place]
    getattr(hooked, f"register_{kind}")(lambda *_: None)
    assert folded(features) is features


def test_the_plain_cnn_worked_out_by_hand():
    # MNIST, channels 1-8-16-32 on 14, 7 and 4 pixels a side, then 512 to 32. Biases 8, 16, 32 and 32.
    kernels = (9 * 8, 72 * 16, 144 * 32)
    macs = sum(k * side**2 for k, side in zip(kernels, (14, 7, 4), strict=True)) + 512 * 32
    assert measure(architecture("cnn_plain", (1, 28, 28))) == Size(sum(kernels) + 512 * 32 + 88, 2 * macs, 32)
    # Twice as wide: 16-32-64, 1024 to 64. With one convolution: 8 channels of 14 x 14 to 32.
    wide = measure(architecture("cnn_plain", (1, 28, 28), width=2.0))
    assert wide.parameters == 9 * 16 + 144 * 32 + 288 * 64 + 1024 * 64 + 176
    assert measure(architecture("cnn_plain", (1, 28, 28), depth=1)).parameters == 72 + 8 + 8 * 196 * 32 + 32


def test_features_of_the_plain_cnn_are_rectified_and_the_same_in_training_and_evaluation():
    network = build(architecture("cnn_plain"), 3, seed=0)
    x = images((3, 32, 32))
    assert torch.equal(network(x), network.eval()(x))
    assert network.features(x).min() == 0
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_raw_features_are_the_pixels_and_cost_nothing():
    assert measure(architecture("raw", (3, 5, 7))) == Size(0, 0, 105)
    x = images((3, 5, 7))
    network = build(architecture("raw", (3, 5, 7)), 0, seed=0)
    assert torch.equal(extract(network.features, [x[:3], x[3:]]), x.flatten(1))
    assert not network.state_dict()
    with torch.no_grad():
        assert build(architecture("raw", (3, 5, 7)), 2, seed=0)(x).shape == (4, 2)


def test_diagonal_features_are_the_pixels_times_a_small_weight_of_their_own():
    assert measure(architecture("diagonal", (1, 8, 16))) == Size(128, 0, 128)
    network = build(architecture("diagonal", (3, 5, 7)), 2, seed=0)
    x = images((3, 5, 7))
    assert torch.allclose(network.features(x), 0.05 * x.flatten(1))
    assert same_weights(network.features, build(architecture("diagonal", (3, 5, 7)), 2, seed=1).features)
    with torch.no_grad():
        network.features[1].weight.copy_(torch.arange(105.0))
    assert torch.equal(network.features(x), torch.arange(105.0) * x.flatten(1))


@pytest.mark.parametrize(("share", "slope"), [(0.08, 0.0), (0.2, 0.176)])
def test_a_diagonal_network_keeps_the_private_feature_above_the_closed_form_threshold_only(share, slope):
    # Toy A: q 0.9, p 0.99, mu 0.02; the threshold is a share of 0.10412, and 0.176 what was found at 0.2.
    population = [
        (y, s, r, 0.5 * (0.9 if s == y else 0.1) * (share * (0.99 if r == y else 0.01) + (1 - share) / 2))
        for y in (-1, 1)
        for s in (-1, 1)
        for r in (-1, 1)
    ]
    y, s, r, chance = torch.tensor(population, dtype=torch.float64).T
    network = build(architecture("diagonal", (1, 1, 2)), 2, seed=0).double()
    x, labels = torch.stack([s, r], dim=1).view(8, 1, 1, 2), (y > 0).long()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5, weight_decay=0.02 * math.sqrt(2))
    for _ in range(2500):
        loss = (chance * F.cross_entropy(network(x), labels, reduction="none")).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    head = network.head.weight
    slopes = network.features[1].weight * (head[1] - head[0])
    assert slopes[1].item() == pytest.approx(slope, abs=1e-3)
    assert torch.sigmoid(slopes[0]).item() == pytest.approx(0.9 - 0.02, abs=0.02)  # only the shared one: q - mu


def test_a_vision_transformer_worked_out_by_hand():
    # 32 pixels in patches of 4 are 64 tokens, and the class token; 12 D^2 multiply-adds per token and block in matrix
    # products of weights, 2 T D per token and block in attention.
    d, tokens = 192, 65
    per_token = 12 * d * d + 2 * tokens * d
    size = measure(architecture("vit_tiny", depth=2))
    assert size.flops == 2 * (2 * tokens * per_token + 64 * (3 * 4 * 4) * d)
    weights = 2 * (12 * d * d + 13 * d) + (48 + 1) * d  # 13 d: biases 3 d, d, 4 d, d and two layer norms
    assert size.parameters == weights + d + tokens * d + 2 * d  # class token, positions, last layer norm


@pytest.mark.parametrize(
    ("name", "parameters", "giga_macs"),
    [
        # torchvision's documentation, less the 1000-class head: 11.69 M, 21.80 M and 25.56 M parameters with it.
        ("resnet18", 11_176_512, 1.81),
        ("resnet34", 21_284_672, 3.66),
        ("resnet50", 23_508_032, 4.09),
        # DeiT (arXiv:2012.12877), table 1: 5 M and 22 M parameters.
        ("vit_tiny", 5_524_416, 1.25),
        ("vit_small", 21_665_664, 4.60),
    ],
)
def test_at_224_pixels_they_have_their_published_sizes(name, parameters, giga_macs):
    size = measure(architecture(name, (3, 224, 224)))
    assert size.parameters == parameters
    assert size.flops / 2e9 == pytest.approx(giga_macs, abs=0.011)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_residual_network_for_large_images_is_torchvision_s(name):
    theirs = torchvision.models.get_model(name, weights=None)
    ours = build(architecture(name, (3, 64, 64)), 1000, seed=0)
    weights = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    ours.features.load_state_dict(weights)
    ours.head.load_state_dict(theirs.fc.state_dict())
    x = images((3, 64, 64))
    with torch.no_grad():
        assert torch.allclose(ours.eval()(x), theirs.eval()(x), atol=1e-6)


def test_a_residual_network_for_small_images_keeps_their_resolution():
    features = build(architecture("resnet18"), 0, seed=0).features
    assert features.layer1(features.maxpool(features.conv1(images((3, 32, 32))))).shape[2:] == (32, 32)


@pytest.mark.parametrize(
    ("side", "patch"), [(8, 1), (14, 2), (28, 4), (30, 4), (32, 4), (64, 8), (96, 8), (128, 16), (224, 16)]
)
def test_patches_suit_the_image(side, patch):
    features = build(architecture("vit_tiny", (1, side, side), width=0.25, depth=1), 0, seed=0).features
    assert features.conv_proj.kernel_size == (patch, patch)
    assert features.encoder.pos_embedding.shape[1] == math.ceil(side / patch) ** 2 + 1


def test_every_pixel_reaches_a_vision_transformer_s_features():
    network = build(architecture("vit_tiny", (1, 30, 33), width=0.25, depth=1), 0, seed=0)
    x = images((1, 30, 33), count=1).requires_grad_()
    network.features(x).square().sum().backward()
    assert (x.grad != 0).all()


# --- torchvision's ---


@pytest.mark.parametrize(("name", "shape"), TORCHVISION.items())
def test_torchvision_s_models_are_split_into_features_and_head(name, shape):
    spec = architecture(name, shape)
    size = measure(spec)
    network = build(spec, 3, seed=0)
    assert sum(p.numel() for p in network.features.parameters()) == size.parameters
    F.cross_entropy(network(images(shape)), torch.arange(4) % 3).backward()
    network.eval()
    with torch.no_grad():
        found = network.features(images(shape))
        assert found.shape == (4, size.num_features)
        assert found.isfinite().all()
        assert found.std(0).max() > 0
        assert torch.equal(found, network.features(images(shape)))


@pytest.mark.parametrize(
    ("name", "shape", "num_features"),
    [
        ("alexnet", (1, 64, 64), 4096),
        ("maxvit_t", (1, 224, 224), 512),
        ("regnet_y_128gf", (1, 32, 32), 7392),
        ("vgg11", (1, 32, 32), 4096),
        ("vit_b_32", (1, 64, 64), 768),
        ("wide_resnet50_2", (1, 32, 32), 2048),
    ],
)
def test_large_models_are_measured_without_allocating_them(name, shape, num_features):
    assert measure(architecture(name, shape)).num_features == num_features


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_every_known_name_reads_imagenet_images(name):
    assert measure(architecture(name, (3, 224, 224))).num_features >= 32


def test_a_measured_torchvision_model_has_its_published_size():
    # torchvision's documentation: 4,344,144 parameters and 0.40 G multiply-adds, with a head of 441,000.
    size = measure(architecture("regnet_y_400mf", (3, 224, 224)))
    assert size.parameters == 4_344_144 - 441_000
    assert size.flops / 2e9 == pytest.approx(0.40, abs=0.01)


def test_activations_keep_their_size_behind_a_stem_for_grey_images():
    grey = build(architecture("squeezenet1_1", (1, 32, 32)), 0, seed=0).features.features[0]
    colour = build(architecture("squeezenet1_1", (3, 32, 32)), 0, seed=0).features.features[0]
    x = images((1, 32, 32), count=16)
    replicated = x.expand(-1, 3, -1, -1)
    assert grey.in_channels == 1
    assert (grey(x).std() / colour(replicated).std()).item() == pytest.approx(1, abs=0.3)


def test_names_are_the_built_in_ones_and_torchvision_s_once_each():
    known = names()
    assert known[: len(ARCHITECTURES)] == list(ARCHITECTURES)
    assert len(known) == len(set(known))
    assert {"convnext_tiny", "regnet_y_400mf", "swin_t"} <= set(known)


# --- What cannot be ---


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (architecture("resnet19"), "unknown architecture 'resnet19'; close to it: resnet18"),
        (architecture("qqqq"), "unknown architecture 'qqqq'; known are mlp, cnn"),
        (architecture("mlp", width=0.001), "mlp at width 0.001 has a layer without units.* above 0.0078125"),
        (architecture("cnn", width=0.03), "layer without units: 16 x 0.03 rounds to 0"),
        (architecture("resnet18", width=-1.0), "without units"),
        (architecture("vit_tiny", width=math.nan), "without units"),
        (architecture("vit_tiny", width=math.inf), "without units"),
        (architecture("cnn", depth=0), "cnn of depth 0; the depth is at least 1"),
        (architecture("swin_t", width=2.0), "swin_t comes from torchvision with a fixed width and depth"),
        (architecture("swin_t", depth=12), "swin_t comes from torchvision with a fixed width and depth"),
        (
            architecture("raw", width=2.0),
            "raw has no layers to scale; leave width and depth .* one of mlp, cnn",
        ),
        (architecture("diagonal", depth=2), "diagonal has one weight per pixel; leave width and depth"),
        (architecture("cnn_plain", width=0.05), "layer without units: 8 x 0.05 rounds to 0"),
        (architecture("alexnet"), r"alexnet cannot read images of 32 x 32 pixels \(channels: 3\).*too small"),
        (architecture("vit_b_16", (3, 40, 40)), "vit_b_16 cannot read images of 40 x 40 pixels"),
        (architecture("vit_b_16", (3, 32, 48)), "vit_b_16 reads square images, not 32 x 48"),
        (architecture("maxvit_t"), "maxvit_t cannot read images of 32 x 32 pixels"),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_reason(spec, message):
    with pytest.raises(ValueError, match=message):
        build(spec, 3, seed=0)


def test_logits_are_the_head_of_the_features():
    network = Network(nn.Flatten(), nn.Linear(4, 2), 4)
    x = images((1, 2, 2))
    assert torch.equal(network(x), network.head(x.flatten(1)))
