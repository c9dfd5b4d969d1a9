"""Optimizers: torch's own arithmetic, to the last bit."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trainables.optimizers import OPTIMIZERS, SGD
from trainables.spec import Training

SGD_TRAININGS = st.builds(
    Training,
    steps=st.just(8),
    learning_rate=st.floats(1e-4, 1),
    momentum=st.sampled_from([0.0, 0.9]),
    weight_decay=st.sampled_from([0.0, 5e-4]),
)


def theirs(network, training):
    if training.optimizer == "adamw":
        return torch.optim.AdamW(
            network.parameters(),
            lr=training.learning_rate,
            betas=(training.momentum, 0.999),
            weight_decay=training.weight_decay,
            fused=True,
        )
    return torch.optim.SGD(
        network.parameters(),
        lr=training.learning_rate,
        momentum=training.momentum,
        nesterov=training.momentum > 0,
        weight_decay=training.weight_decay,
        fused=True,
    )


def networks():
    """The same network twice; one of its weights never has a gradient, and one input is always 0."""
    torch.manual_seed(0)
    network = nn.ModuleList([nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3), nn.Linear(1, 1)])
    return network, copy.deepcopy(network)


def trained(network, optimizer, steps):
    """The network after steps whose rates fall, all of them on the same batches."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(16, 6, generator=generator)
        x[:, 0] = 0
        for group in optimizer.param_groups:
            group["lr"] *= 0.9
        optimizer.zero_grad()
        (network[2](network[1](network[0](x)).relu()) ** 2).mean().backward()
        optimizer.step()
    return network


def bits(network):
    return [value.numpy().tobytes() for value in network.state_dict().values()]


@given(SGD_TRAININGS, st.sampled_from(["sgd", "adamw"]))
@settings(max_examples=30)
def test_weights_are_those_of_torchs_own_optimizers_to_the_last_bit(training, name):
    training = Training(
        steps=training.steps,
        learning_rate=training.learning_rate,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        optimizer=name,
    )
    ours, others = networks()
    mine, reference = OPTIMIZERS[name](ours, training), theirs(others, training)
    assert bits(trained(ours, mine, range(8))) == bits(trained(others, reference, range(8)))
    kept = reference.state_dict()["state"]
    assert mine.state_dict()["state"].keys() == kept.keys()
    for index, remembered in mine.state_dict()["state"].items():
        torch.testing.assert_close(remembered, {k: v for k, v in kept[index].items() if v is not None}, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_an_optimizer_goes_on_from_the_state_that_torchs_own_has_left(name):
    """So a run that an earlier version has begun ends at the same weights."""
    training = Training(steps=8, optimizer=name, learning_rate=0.1)
    ours, others = networks()
    reference = theirs(others, training)
    trained(others, reference, range(4))
    ours.load_state_dict(others.state_dict())
    mine = OPTIMIZERS[name](ours, training)
    mine.load_state_dict(copy.deepcopy(reference.state_dict()))
    assert bits(trained(ours, mine, range(4, 8))) == bits(trained(others, reference, range(4, 8)))


def test_a_step_by_hand():
    weight = torch.tensor([1.0], requires_grad=True)
    optimizer = SGD([weight], lr=0.5, momentum=0.5)
    for _ in range(2):  # gradient 2: buffers 2 and 3, moves of 2 + 0.5 * 2 = 3 and 2 + 0.5 * 3 = 3.5, halved
        optimizer.zero_grad()
        (2 * weight).sum().backward()
        optimizer.step()
    assert weight.item() == 1 - 1.5 - 1.75
