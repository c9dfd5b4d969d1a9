"""Fine-tuning moves a copy of all weights: it finds what frozen features lack, and it is repeatable."""

import copy
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.architectures import Network, build
from trainables.finetune import fine_tuned, joined, two_stage, with_head, with_new_head
from trainables.probe import extract, fit_path, on_raw_features
from trainables.spec import Architecture, Transfer

CPU = torch.device("cpu")
TRANSFER = Transfer(protocol="finetune", steps=60, batch_size=32)


@dataclass
class InMemory:
    """Examples that are floats already."""

    x: Tensor
    labels: Tensor

    def images(self, positions: Tensor) -> Tensor:
        return self.x[positions]


def second_pixel(count: int = 256, seed: int = 0) -> InMemory:
    """Images of two pixels; the sign of the second one is the class."""
    x = torch.randn(count, 1, 1, 2, generator=torch.Generator().manual_seed(seed))
    return InMemory(x, (x[:, 0, 0, 1] > 0).long())


def blind_network() -> Network:
    """Eight ReLU units that read the first pixel only."""
    first = nn.Linear(2, 8)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).repeat(4, 1))
        first.bias.copy_(torch.linspace(-0.5, 1.5, 8))
    return Network(nn.Sequential(nn.Flatten(), first, nn.ReLU()), None, 8)


def convolutional(seed: int = 0) -> Network:
    return build(Architecture(name="cnn", width=0.25, depth=2, image_shape=(1, 8, 8)), 0, seed)


def pictures(count: int = 40) -> InMemory:
    x = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    return InMemory(x, torch.arange(count) % 3)


def accuracy(network: Network, examples: InMemory) -> float:
    return float((extract(network, [examples.x]).argmax(1) == examples.labels).double().mean())


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_it_finds_what_the_frozen_features_lack():
    train, test = second_pixel(), second_pixel(seed=1)
    network = blind_network()
    frozen = extract(network.features, [train.x]), extract(network.features, [test.x])
    (found,) = fit_path(frozen[0], train.labels, 2, [1e-3])
    assert float((found.logits(frozen[1]).argmax(1) == test.labels).double().mean()) < 0.6
    tuned = fine_tuned(with_new_head([network], 2, CPU), train, TRANSFER, 0.1, seed=0)
    assert accuracy(tuned, test) > 0.9


def test_the_given_network_and_the_global_generator_are_left_alone():
    network = convolutional().train()
    before, state = copy.deepcopy(network), torch.random.get_rng_state()
    start = with_new_head([network], 3, CPU)
    untouched = copy.deepcopy(start)
    tuned = fine_tuned(start, pictures(), TRANSFER, 0.1, seed=0)
    assert same_weights(network, before)
    assert network.training
    assert same_weights(start, untouched)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not same_weights(tuned, untouched)
    assert not tuned.training


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    start, noisy = with_new_head([convolutional()], 3, CPU), Transfer(steps=5, batch_size=8, dropout=0.5)
    first, again, other = (fine_tuned(start, pictures(), noisy, 0.1, seed) for seed in (0, 0, 1))
    assert same_weights(first, again)
    assert not same_weights(first, other)


def test_the_first_step_from_a_head_of_zeros_is_worked_out_by_hand():
    # The logits are 0, so the gradient of the loss in the head is the mean of (1/C - onehot) phi^T. Nesterov's first
    # step with momentum m is (1 + m) times it; a cosine of one step is at its peak. The features have no gradient yet.
    examples = second_pixel(16)
    start = with_new_head([blind_network()], 2, CPU)
    phi = extract(start.features, [examples.x])
    tuned = fine_tuned(start, examples, Transfer(steps=1, batch_size=16), 0.1, seed=0)
    gradient = (0.5 - F.one_hot(examples.labels).float()).T @ phi / 16
    assert torch.allclose(tuned.head.weight, -0.1 * 1.9 * gradient, atol=1e-6)
    assert same_weights(tuned.features, start.features)


def test_batch_norm_takes_the_statistics_of_batches_unless_they_are_single_examples():
    start = with_new_head([convolutional()], 3, CPU)
    moved = fine_tuned(start, pictures(), TRANSFER, 0.1, seed=0)
    alone = fine_tuned(start, pictures(), replace(TRANSFER, batch_size=1), 0.1, seed=0)
    before, after, kept = (network.features.members[0][1] for network in (start, moved, alone))
    assert not torch.equal(after.running_mean, before.running_mean)
    assert torch.equal(kept.running_mean, before.running_mean)
    assert not torch.equal(kept.weight, before.weight)


def test_a_steep_head_does_not_throw_the_features_far():
    # Whatever the gradient, a step moves the weights by 1.9 times the learning rate at most.
    start = with_head(
        [blind_network()], 1e6 * torch.randn(2, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(2)
    )
    tuned = fine_tuned(start, second_pixel(16), Transfer(steps=1, batch_size=16), 0.1, seed=0)
    before, after = (
        torch.cat([w.flatten() for w in n.state_dict().values()]) for n in (start.features, tuned.features)
    )
    assert 0 < (after - before).norm() < 0.1901


def test_dropout_is_on_the_features_that_the_head_reads_and_not_in_the_result():
    examples = second_pixel(16)
    one_step = Transfer(steps=1, batch_size=16, dropout=0.9)
    start = with_new_head([blind_network()], 2, CPU)
    without = fine_tuned(start, examples, Transfer(steps=1, batch_size=16), 0.1, seed=0)
    dropped = fine_tuned(start, examples, one_step, 0.1, seed=0)
    assert not torch.allclose(dropped.head.weight, without.head.weight, atol=1e-3)
    assert torch.equal(extract(dropped, [examples.x]), extract(dropped, [examples.x]))


def test_a_head_that_starts_as_a_linear_probe_predicts_as_the_probe():
    examples, network = pictures(), convolutional()
    (found,) = fit_path(extract(network.features, [examples.x]), examples.labels, 3, [1e-2])
    start = with_head([network], *on_raw_features(found))
    expected = found.logits(extract(network.features, [examples.x])).float()
    assert torch.allclose(extract(start, [examples.x]), expected, atol=1e-4)


def test_joined_networks_average_their_logits():
    examples = pictures()
    members = [
        fine_tuned(with_new_head([convolutional(seed)], 3, CPU), examples, TRANSFER, 0.1, seed) for seed in (0, 1, 2)
    ]
    whole = joined(members)
    mean = torch.stack([extract(member, [examples.x]) for member in members]).mean(0)
    assert torch.allclose(extract(whole, [examples.x]), mean, atol=1e-5)
    assert whole.num_features == sum(member.num_features for member in members)
    assert whole.head.weight.shape == (3, whole.num_features)


def test_two_stages_of_one_network_are_plain_fine_tuning():
    examples = pictures()
    plain = fine_tuned(with_new_head([convolutional()], 3, CPU), examples, TRANSFER, 0.1, seed=5)
    assert same_weights(two_stage([convolutional()], 3, examples, TRANSFER, 0.1, seed=5), plain)


def test_the_second_stage_moves_the_joined_head_a_little_and_nothing_else():
    examples, networks = pictures(), [convolutional(0), convolutional(1)]
    whole = two_stage(networks, 3, examples, TRANSFER, 0.1, seed=5)
    first = fine_tuned(with_new_head([networks[0]], 3, CPU), examples, TRANSFER, 0.1, seed=5)
    assert same_weights(whole.features.members[0], first.features)
    halved = first.head.weight / 2
    moved = (whole.head.weight[:, : first.num_features] - halved).norm()
    assert 0 < moved < 0.2 * halved.norm()


def test_several_networks_fine_tuned_as_one_all_move():
    networks = [convolutional(0), convolutional(1)]
    start = with_new_head(networks, 3, CPU)
    tuned = fine_tuned(start, pictures(), TRANSFER, 0.1, seed=0)
    for before, after in zip(start.features.members, tuned.features.members, strict=True):
        assert not same_weights(before, after)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_fewer_examples_than_a_batch_are_enough(count):
    tuned = fine_tuned(with_new_head([convolutional()], 3, CPU), pictures(count), TRANSFER, 0.1, seed=0)
    assert all(value.isfinite().all() for value in tuned.state_dict().values())


def test_features_without_weights_train_their_head():
    raw = Network(nn.Flatten(), None, 2)
    tuned = fine_tuned(with_new_head([raw], 2, CPU), second_pixel(), TRANSFER, 0.1, seed=0)
    assert accuracy(tuned, second_pixel(seed=1)) > 0.9
