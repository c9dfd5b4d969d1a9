"""Tangent features are projected gradients: autograd agrees, and they see what the features alone do not."""

import copy

import pytest
import torch
from torch import Tensor, nn

from trainables import tangent
from trainables.architectures import Network, build
from trainables.probe import fit_path
from trainables.spec import Architecture
from trainables.tangent import DIRECTIONS, READOUTS, draw_projection, tangent_features


def small_network() -> Network:
    """Batch norm between two convolutions, with statistics that are not those of the images; 5 features."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        features = nn.Sequential(
            nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Tanh(), nn.Conv2d(3, 5, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        features[1].running_mean.normal_()
        features[1].running_var.uniform_(0.5, 2)
    return Network(features, None, 5)


def images(count: int = 7) -> Tensor:
    return torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def jacobians(network: Network, x: Tensor) -> Tensor:
    """(N, D, M) in evaluation mode, one backward pass per example and feature."""
    evaluated = copy.deepcopy(network.features).eval()
    parameters = list(evaluated.parameters())
    rows = []
    for image in x:
        outputs = evaluated(image[None])[0]
        gradients = [torch.autograd.grad(output, parameters, retain_graph=True) for output in outputs]
        rows.append(torch.stack([torch.cat([g.flatten() for g in each]) for each in gradients]))
    return torch.stack(rows)


def test_they_are_the_explicit_gradients_after_the_projection():
    network, x = small_network(), images()
    jacobian = jacobians(network, x)
    count = jacobian.shape[2]
    projection = draw_projection(5, count, seed=3)
    group = torch.arange(count) % DIRECTIONS
    expected = []
    for readout, signs in zip(projection.readouts, projection.signs, strict=True):
        matrix = torch.zeros(DIRECTIONS, count)
        matrix[group, torch.arange(count)] = signs
        expected.append(torch.einsum("d,ndm,pm->np", readout, jacobian, matrix))
    found = tangent_features(network, x.split(3), seed=3)
    assert found.shape == (7, READOUTS * DIRECTIONS)
    assert torch.allclose(found, torch.cat(expected, dim=1), atol=1e-5)


def test_their_inner_products_are_the_tangent_kernel_on_average():
    network, x = small_network(), images(4)
    jacobian = jacobians(network, x)
    kernel = torch.einsum("idm,jdm->ij", jacobian, jacobian)
    drawn = []
    for seed in range(100):
        found = tangent_features(network, [x], seed)
        drawn.append(found @ found.T)
    draws = torch.stack(drawn)
    error = draws.std(0) / len(drawn) ** 0.5
    assert ((draws.mean(0) - kernel).abs() < 4 * error + 1e-5).all()


def test_one_draw_is_near_the_kernel_of_a_network_with_many_parameters():
    network = build(Architecture(name="mlp", image_shape=(1, 4, 4)), 0, 0)
    x = images(12)
    kernel = torch.einsum("idm,jdm->ij", *[jacobians(network, x)] * 2)
    found = tangent_features(network, [x], seed=0)
    correlation = torch.corrcoef(torch.stack([(found @ found.T).flatten(), kernel.flatten()]))[0, 1]
    assert correlation > 0.9


@pytest.mark.parametrize("entries", [1, 150, 2**21])
def test_the_chunks_change_nothing(monkeypatch, entries):
    usual = tangent_features(small_network(), [images()], seed=0)
    monkeypatch.setitem(tangent.CHUNK_ENTRIES, "cpu", entries)
    assert torch.allclose(tangent_features(small_network(), images().split(2), seed=0), usual, atol=1e-5)


def test_the_network_is_left_as_it_was():
    network = small_network().train()
    network.features[1].eval()
    before = copy.deepcopy(network.state_dict())
    found = tangent_features(network, [images()], seed=0)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert (network.features.training, network.features[1].training) == (True, False)
    assert not found.requires_grad
    assert all(p.grad is None for p in network.parameters())


def test_a_seed_gives_the_same_projection_every_time_and_another_seed_another():
    x = [images()]
    first, again, other = (tangent_features(small_network(), x, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-2)


def test_features_without_parameters_have_no_tangent():
    network = Network(nn.Flatten(), None, 16)
    assert tangent_features(network, images().split(4), seed=0).shape == (7, 0)


@pytest.mark.parametrize("name", ["vit_tiny", "resnet18"])
def test_attention_and_residual_networks_have_tangents(name):
    network = build(Architecture(name=name, width=0.1, depth=1, image_shape=(1, 8, 8)), 0, 0)
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = tangent_features(network, [x], seed=0)
    assert found.isfinite().all()
    assert (found.std(0) > 0).all()


def test_tangents_see_what_the_last_layer_hides():
    # Hidden units read the image; the last layer makes one feature of them that is the same for both classes.
    hidden = nn.Linear(2, 16)
    last = nn.Linear(16, 1)
    with torch.no_grad():
        hidden.weight.copy_(torch.randn(16, 2, generator=torch.Generator().manual_seed(0)))
        hidden.bias.zero_()
        last.weight.zero_()
    network = Network(nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), last), None, 1)
    x = torch.randn(1000, 1, 1, 2, generator=torch.Generator().manual_seed(1))
    labels = (x[:, 0, 0, 0] * x[:, 0, 0, 1] > 0).long()  # not linear in the image either
    with torch.no_grad():
        features = network.features(x)
    tangents = tangent_features(network, [x], seed=0)

    def accuracy(z: Tensor) -> float:
        (found,) = fit_path(z[:500], labels[:500], 2, [1e-3])
        return float((found.logits(z[500:]).argmax(1) == labels[500:]).double().mean())

    assert accuracy(features) < 0.6
    assert accuracy(x.flatten(1)) < 0.6
    assert accuracy(torch.cat([features, tangents], dim=1)) > 0.9
