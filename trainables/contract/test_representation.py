"""The contract of a representation: networks to pretrain, decided by the replicate's seed."""

from __future__ import annotations

import pickle
from collections import Counter

import pytest

from trainables import representation as representations
from trainables.contract.randomness import reseed, untouched
from trainables.contract.test_ordering import BOTH, component
from trainables.mixture import mixture_of
from trainables.plugins import resolve
from trainables.representation import KINDS, Members, Pretraining
from trainables.spec import Architecture, PretrainSpec, Training

STEPS = 24


def pretraining(seed: int = 0) -> Pretraining:
    known = {name: component(name) for name in BOTH}
    return Pretraining(
        mixture=lambda steps: mixture_of(
            BOTH, known, num_examples=16 * steps, train_examples=None, label_space="joint"
        ),
        run=lambda shown, network, training, own: PretrainSpec(
            mixture=shown, architecture=network, training=training, seed=own
        ),
        architecture=Architecture(name="mlp", image_shape=(1, 8, 8)),
        training=lambda steps: Training(steps=steps, batch_size=16),
        steps=STEPS,
        seed=seed,
    )


@pytest.fixture
def path(representation: str) -> str:
    ours = representation.partition(":")[0] in KINDS  # as in cat:4
    return representation if ours else resolve("representation", representation, KINDS)


def digests(members: Members) -> list[str]:
    return [member.digest for member in members]


def test_it_is_one_network_or_more_each_another(path: str) -> None:
    members = representations.members(path, pretraining())
    assert all(isinstance(member, PretrainSpec) for member in members)
    assert len(members) == len(set(digests(members))) > 0
    contents = {share.component.content for member in members for share in member.mixture.shares}
    assert contents <= set(BOTH), "a member sees a component that the mixture does not have"


def test_the_replicates_seed_alone_decides_it_and_replicates_share_no_network(path: str) -> None:
    first = representations.members(path, pretraining())
    reseed(12345)
    assert digests(representations.members(path, pretraining())) == digests(first)
    assert not set(digests(first)) & set(digests(representations.members(path, pretraining(seed=1))))


def test_it_has_as_many_networks_at_random_to_compare_with(path: str) -> None:
    members = representations.members(path, pretraining())
    untrained = representations.untrained(path, pretraining())
    assert not any(member.mixture.shares for member in untrained)
    trained, random = (Counter(m.architecture for m in networks) for networks in (members, untrained))
    assert trained == random


def test_no_network_is_trained_for_longer_than_the_trial(path: str) -> None:
    for member in representations.members(path, pretraining()):
        assert member.steps <= STEPS


def test_it_travels_to_workers_as_it_is(path: str) -> None:
    members = representations.members(path, pretraining())
    assert digests(pickle.loads(pickle.dumps(members))) == digests(members)


def test_it_leaves_the_global_generators_alone(path: str) -> None:
    with untouched():
        representations.members(path, pretraining())
