"""The contract of an architecture: features of images, from a seed, all of which can be trained."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import Tensor

from trainables.architectures import ARCHITECTURES, Network, build, measure
from trainables.contract.randomness import reseed, untouched
from trainables.plugins import code, is_code, resolve
from trainables.spec import Architecture

CLASSES = 3


@pytest.fixture
def built(architecture: str, image_shape: tuple[int, int, int]) -> Architecture:
    path = resolve("architecture", architecture, ARCHITECTURES)
    return Architecture(name=path, image_shape=image_shape, code=code("architecture", path) if is_code(path) else "")


def images(architecture: Architecture, count: int = 4) -> Tensor:
    return torch.rand(count, *architecture.image_shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def equal(one: Network, other: Network) -> bool:
    first, second = one.features.state_dict(), other.features.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_features_of_a_batch_are_one_row_for_each_image(built: Architecture) -> None:
    network = build(built, CLASSES, seed=0).eval()
    for count in (1, 4):
        features = network.features(images(built, count))
        assert features.shape == (count, measure(built).num_features)
        assert features.dtype == torch.float32
        assert features.isfinite().all()
    assert network(images(built)).shape == (4, CLASSES)


def test_the_features_know_nothing_of_the_head(built: Architecture) -> None:
    assert equal(build(built, CLASSES, seed=0), build(built, CLASSES + 4, seed=0))
    assert build(built, 0, seed=0).head is None


def test_the_seed_alone_decides_the_initial_weights(built: Architecture) -> None:
    first = build(built, CLASSES, seed=0)
    reseed(12345)
    assert equal(first, build(built, CLASSES, seed=0))
    if any(True for _ in first.features.parameters()) and built.name != "diagonal":
        assert not equal(first, build(built, CLASSES, seed=1)), "two seeds give the same weights"


def test_building_and_running_it_leaves_the_global_generators_alone(built: Architecture) -> None:
    with untouched():
        build(built, CLASSES, seed=0).eval()(images(built))


def test_gradients_reach_every_parameter(built: Architecture) -> None:
    network = build(built, CLASSES, seed=0).train()
    F.cross_entropy(network(images(built)), torch.arange(4) % CLASSES).backward()  # type: ignore[no-untyped-call]
    without = [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert not without, f"no gradient reaches {', '.join(without)}"
    wrong = [name for name, p in network.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    assert not wrong, f"gradients of {', '.join(wrong)} are not finite"


def test_in_evaluation_an_image_has_the_same_features_in_any_company(built: Architecture) -> None:
    network, shown = build(built, CLASSES, seed=0).eval(), images(built)
    with torch.no_grad():
        together, alone = network.features(shown), network.features(shown[:1])
        assert torch.equal(together, network.features(shown))
    torch.testing.assert_close(together[:1], alone, rtol=1e-3, atol=1e-4)


def test_a_greater_width_is_a_greater_network_or_is_refused(built: Architecture) -> None:
    from dataclasses import replace

    try:
        sizes = [measure(replace(built, width=width)).parameters for width in (0.5, 1.0, 2.0)]
    except ValueError:
        pytest.skip("it has one width, and says so")
    assert sizes == sorted(set(sizes)), f"parameters at width 0.5, 1 and 2: {sizes}"


def test_its_weights_are_kept_and_come_back(built: Architecture) -> None:
    network, other = (build(built, CLASSES, seed=seed).eval() for seed in (0, 1))
    other.load_state_dict(load(save({name: value.contiguous() for name, value in network.state_dict().items()})))
    with torch.no_grad():
        assert torch.equal(network(images(built)), other(images(built)))
