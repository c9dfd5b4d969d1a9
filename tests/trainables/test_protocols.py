"""Every protocol decides on validation alone, is repeatable, and does what its name says."""

import copy
import math
from dataclasses import dataclass, fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainables import components, probe, protocols
from trainables.architectures import build
from trainables.probe import Probe, extract, fit_path, linear_probe, ridge_path, sharpened
from trainables.protocols import FINETUNING, FROZEN, PROTOCOLS, FeatureCache, measure
from trainables.spec import Architecture, Mixture, PretrainSpec, ProbeSpec, Share, Source, Training, Transfer

CPU = torch.device("cpu")
SPLITS = ("train", "validation", "test")
QUICK = Transfer(
    l2=(1e-3, 1e-1),
    train_examples=150,
    neighbours=(1, 7),
    learning_rates=(0.02, 0.05),
    steps=12,
    batch_size=32,
    dropout=0.2,
)


@pytest.fixture(scope="module")
def digits():
    source = Source(dataset="digits", train_examples=200, validation_examples=80, test_examples=100)
    return components.load(components.prepare(source))


@pytest.fixture(autouse=True)
def _short_training(monkeypatch):
    monkeypatch.setattr(probe, "HIDDEN_STEPS", 25)
    monkeypatch.setattr(probe, "REPAIRS", 3)


def untrained(seed):
    """A small convolutional network at its initialisation, in a mixture of nothing."""
    architecture = Architecture(name="cnn", width=0.25, depth=2, image_shape=(1, 8, 8))
    return PretrainSpec(mixture=Mixture(shares=()), architecture=architecture, training=Training(steps=0), seed=seed)


def networks_of(stage):
    """The members' networks, with the statistics of noise in their batch norm, so that features have a variance."""
    networks = [build(member.architecture, member.mixture.num_classes, member.seed) for member in stage.members]
    noise = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for network in networks:
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # the mean over batches, of which there is one
        with torch.no_grad():
            network.train().features(noise)
    return [network.eval() for network in networks]


def staged(data, *, members=1, **changes):
    return ProbeSpec(
        members=tuple(untrained(seed) for seed in range(members)),
        component=data.component,
        transfer=replace(QUICK, **changes),
    )


def measured(data, *, members=1, seed=0, **changes):
    stage = staged(data, members=members, **changes)
    return measure(stage, networks_of(stage), data, CPU, seed)


def same(first, second, *names):
    compared = names or [f.name for f in fields(first)]
    return all(
        torch.equal(getattr(first, name), getattr(second, name))
        if isinstance(getattr(first, name), Tensor)
        else getattr(first, name) == getattr(second, name)
        for name in compared
    )


@dataclass
class InMemory:
    """A split that lies on no disk."""

    images: Tensor
    labels: Tensor

    def __len__(self):
        return len(self.labels)

    def gather(self, indices):
        return self.images[indices], self.labels[indices]


def features_of(network, data, split, count):
    low, high = data.value_range
    images = split.images[:count].float() * ((high - low) / 255) + low
    return extract(network.features, [images]), split.labels[:count]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_test_split_decides_nothing(digits, protocol):
    noise = torch.randint(0, 256, (30, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    renamed = InMemory(digits.test.images, (digits.test.labels + 1) % 10)
    odd = InMemory(noise, torch.arange(30) % 10)
    usual, *others = (
        measured(data, protocol=protocol, members=2)
        for data in (digits, replace(digits, test=renamed), replace(digits, test=odd))
    )
    for other in others:
        assert same(usual, other, "chosen", "path", "validation_accuracy", "train_accuracy", "num_features")
        assert other.test_accuracy < usual.test_accuracy


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_seed_gives_the_same_numbers_and_the_networks_are_left_as_they_were(digits, protocol):
    stage = staged(digits, protocol=protocol)
    (network,) = networks_of(stage)
    before, state = copy.deepcopy(network.state_dict()), torch.random.get_rng_state()
    first, again = (measure(stage, [network], digits, CPU, 3) for _ in range(2))
    assert same(first, again)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module.training for module in network.modules())
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("protocol", sorted(FROZEN - {"mlp_probe", "ntk_probe", "head_repair"}))
def test_the_seed_is_nothing_to_a_protocol_that_draws_nothing(digits, protocol):
    assert same(measured(digits, protocol=protocol, seed=0), measured(digits, protocol=protocol, seed=1))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_an_outcome_says_of_itself_is_consistent(digits, protocol):
    found = measured(digits, protocol=protocol, train_examples=None, steps=60, learning_rates=(0.1, 0.2))
    assert found.test_accuracy == found.test_correct.double().mean()
    assert found.num_test == len(found.test_correct) == 100
    assert found.num_train == (80 if protocol == "head_repair" else 200)
    assert found.validation_accuracy == max(accuracy for _, accuracy in found.path)
    assert 0 < found.test_loss < 3
    assert found.test_accuracy > 3 * found.chance_accuracy
    assert found.head_accuracy is None


def test_every_protocol_either_freezes_the_features_or_moves_them():
    assert set(PROTOCOLS) == FROZEN | FINETUNING
    assert not FROZEN & FINETUNING


@pytest.mark.parametrize("members", [1, 3])
def test_the_linear_probe_is_the_probe_of_all_features_side_by_side(digits, members):
    stage = staged(digits, members=members)
    found = measure(stage, networks_of(stage), digits, CPU, 0)

    def split(part, count):
        features = [features_of(network, digits, part, count)[0] for network in networks_of(stage)]
        return torch.cat(features, dim=1), part.labels[:count]

    splits = split(digits.train, 150), split(digits.validation, 80), split(digits.test, 100)
    expected = linear_probe(*splits, 10, QUICK.l2)
    assert same(
        found, expected, "test_accuracy", "test_loss", "validation_accuracy", "train_accuracy", "path", "test_correct"
    )
    assert found.chosen == {"l2": expected.l2}
    assert found.num_features == 8 * members


def test_chance_is_the_most_frequent_training_class_on_the_test_split(digits):
    train = InMemory(digits.train.images[:6], torch.tensor([4, 7, 4, 1, 7, 4]))
    found = measured(replace(digits, train=train))
    assert found.chance_accuracy == float((digits.test.labels == 4).double().mean())


@pytest.mark.parametrize("protocol", sorted(protocols.LINEAR))
def test_averaging_one_member_is_reading_it(digits, protocol):
    alone, average = (measured(digits, protocol=protocol, combine=how) for how in ("concatenate", "average"))
    assert same(alone, average)


def test_averaged_members_have_the_mean_of_their_own_probes_probabilities(digits):
    stage = staged(digits, members=2, combine="average", l2=(1e-2,))
    found = measure(stage, networks_of(stage), digits, CPU, 0)
    probabilities = []
    for network in networks_of(stage):
        (own,) = fit_path(*features_of(network, digits, digits.train, 150), 10, [1e-2])
        probabilities.append(own.logits(features_of(network, digits, digits.test, 100)[0]).softmax(1))
    mean = torch.stack(probabilities).mean(0)
    assert torch.equal(found.test_correct, mean.argmax(1) == digits.test.labels)
    right = mean.gather(1, digits.test.labels[:, None])
    assert found.test_loss == pytest.approx(float(-right.log().mean()), rel=1e-4)
    assert found.num_features == 16


def test_ridge_reports_the_loss_of_its_sharpened_scores(digits):
    stage = staged(digits, protocol="ridge", l2=(1e-2,))
    (network,) = networks_of(stage)
    found = measure(stage, [network], digits, CPU, 0)
    (own,) = ridge_path(*features_of(network, digits, digits.train, 150), 10, [1e-2])
    sharp: Probe = sharpened(own, *features_of(network, digits, digits.validation, 80))
    test, labels = features_of(network, digits, digits.test, 100)
    assert found.test_loss == pytest.approx(float(torch.nn.functional.cross_entropy(sharp.logits(test), labels)), 1e-4)


@pytest.mark.parametrize("protocol", sorted(protocols.LINEAR))
@pytest.mark.parametrize("combine", ["concatenate", "average"])
def test_a_compressed_probe_reads_so_many_times_fewer_dimensions(digits, protocol, combine):
    found = measured(digits, protocol=protocol, members=2, compression=4, combine=combine)
    whole = measured(digits, protocol=protocol, members=2, combine=combine)
    assert (found.num_features, whole.num_features) == (4, 16)
    assert found.train_accuracy < whole.train_accuracy


def test_a_network_that_is_the_same_for_every_image_is_told(digits):
    stage = staged(digits)
    (network,) = networks_of(stage)
    assert measure(stage, [network], digits, CPU, 0).varying_features == 8
    for parameter in network.parameters():
        parameter.data.zero_()
    assert measure(stage, [network], digits, CPU, 0).varying_features == 0


def test_classes_without_an_example_are_told(digits):
    assert measured(digits).missing_classes == 0
    assert measured(digits, train_examples=5).missing_classes >= 5


def test_the_ntk_probe_reads_tangents_beside_the_features(digits):
    linear, tangents = measured(digits), measured(digits, protocol="ntk_probe")
    assert tangents.num_features == linear.num_features + 508
    assert tangents.train_accuracy > linear.train_accuracy
    assert tangents.test_accuracy > linear.test_accuracy


def test_a_repaired_head_reads_no_training_example(digits):
    noise = InMemory(255 - digits.train.images, digits.train.labels)
    usual = measured(digits, protocol="head_repair")
    found = measured(replace(digits, train=noise), protocol="head_repair")
    assert same(usual, found)


def test_fine_tuning_beats_the_frozen_features_that_it_starts_from(digits):
    whole = {"train_examples": None, "dropout": 0.0, "steps": 100, "learning_rates": (0.1, 0.2)}
    frozen, tuned = measured(digits), measured(digits, protocol="lp_ft", **whole)
    assert tuned.test_accuracy > frozen.test_accuracy + 0.05
    assert set(tuned.chosen) == {"l2", "learning_rate"}
    assert [rate for rate, _ in tuned.path] == [0.0, 0.1, 0.2]


def test_fine_tuning_a_linear_probe_starts_at_the_linear_probe(digits):
    tuned, frozen = measured(digits, protocol="lp_ft"), measured(digits)
    assert tuned.path[0] == (0.0, frozen.validation_accuracy)
    assert tuned.chosen["l2"] == frozen.chosen["l2"]


def test_a_linear_probe_that_fine_tuning_only_harms_stays_as_it_is(digits):
    found = measured(digits, protocol="lp_ft", learning_rates=(3e38,))
    assert found.chosen["learning_rate"] == 0
    assert same(found, measured(digits), "test_correct", "validation_accuracy", "train_accuracy")


def test_two_stages_of_one_network_are_fine_tuning(digits):
    assert same(measured(digits, protocol="two_stage"), measured(digits, protocol="finetune"))


@pytest.mark.parametrize("protocol", sorted(FINETUNING))
def test_fine_tuned_members_are_read_side_by_side(digits, protocol):
    assert measured(digits, protocol=protocol, members=3).num_features == 24


def test_fine_tuning_that_diverges_at_every_rate_says_so(digits):
    with pytest.raises(ValueError, match=r"diverged at every setting of \[3e\+38\]"):
        measured(digits, protocol="finetune", learning_rates=(3e38,))


def test_a_learning_rate_that_diverges_is_not_chosen(digits):
    found = measured(digits, protocol="finetune", learning_rates=(3e38, 0.05))
    assert found.chosen == {"learning_rate": 0.05}
    assert [rate for rate, _ in found.path] == [0.05]


# --- Features that are kept. ---


def measured_in_turn(data, transfers, cache):
    """The outcomes of several transfers of one network, and how many images it was shown for them."""
    shown = []
    (network,) = networks_of(staged(data))
    network.features.register_forward_hook(lambda module, inputs, output: shown.append(len(output)))
    found = [measure(staged(data, **transfer), [network], data, CPU, 0, cache) for transfer in transfers]
    return found, sum(shown)


FROZEN_IN_TURN = [{"protocol": "linear_probe"}, {"protocol": "ridge"}, {"protocol": "knn"}, {"compression": 2}]


def test_a_network_is_run_once_for_all_protocols_that_leave_it_as_it_is(digits):
    alone, all_shown = measured_in_turn(digits, FROZEN_IN_TURN, None)
    shared, shown = measured_in_turn(digits, FROZEN_IN_TURN, FeatureCache())
    assert (shown, all_shown) == (150 + 80 + 100, 4 * (150 + 80 + 100))
    assert all(same(*pair) for pair in zip(alone, shared, strict=True))


def test_shots_share_the_validation_and_the_test_split(digits):
    shots = [{"shots": count} for count in (None, 1, 5)]
    alone, _ = measured_in_turn(digits, shots, None)
    shared, shown = measured_in_turn(digits, shots, FeatureCache())
    assert shown == sum(outcome.num_train for outcome in alone) + 80 + 100
    assert all(same(*pair) for pair in zip(alone, shared, strict=True))


def test_a_cache_tells_networks_and_components_apart(digits):
    cache, stage = FeatureCache(), staged(digits, members=2)
    component = replace(digits.component, content="0" * 64)
    upside_down = replace(
        digits,
        component=component,
        **{name: InMemory(255 - getattr(digits, name).images, getattr(digits, name).labels) for name in SPLITS},
    )
    stages = [(stage, digits), (replace(stage, members=stage.members[::-1]), digits)]
    stages += [(replace(stage, component=component), upside_down)]
    for each, data in stages:
        networks = networks_of(each)
        assert same(measure(each, networks, data, CPU, 0, cache), measure(each, networks, data, CPU, 0))


def test_features_used_longest_ago_are_forgotten_where_there_is_no_room(digits, monkeypatch):
    monkeypatch.setattr(protocols, "MAX_KEPT_FLOATS", 8 * (80 + 100))  # of the training split there is no room for all
    cache = FeatureCache()
    shared, shown = measured_in_turn(digits, FROZEN_IN_TURN, cache)
    assert cache.floats <= 8 * (80 + 100)
    assert shown > 150 + 80 + 100
    assert all(same(*pair) for pair in zip(shared, measured_in_turn(digits, FROZEN_IN_TURN, None)[0], strict=True))


# --- Few examples. ---


def test_shots_are_the_first_of_each_class_among_the_first_examples():
    labels = torch.tensor([2, 2, 0, 2, 1, 0, 0, 1, 1])
    two = protocols._positions(labels, Transfer(shots=2, train_examples=7))
    assert two.tolist() == [0, 1, 2, 4, 5]  # class 1 has one example among the first seven
    assert protocols._positions(labels, Transfer(train_examples=4)).tolist() == [0, 1, 2, 3]
    assert protocols._positions(labels, Transfer(train_examples=50)).tolist() == list(range(9))


@given(labels=st.lists(st.integers(0, 3), min_size=1, max_size=30), shots=st.integers(1, 8), limit=st.integers(1, 40))
def test_a_class_has_as_many_shots_as_asked_for_or_all_that_it_has(labels, shots, limit):
    given_labels = torch.tensor(labels)
    chosen = protocols._positions(given_labels, Transfer(shots=shots, train_examples=limit))
    assert chosen.tolist() == sorted(chosen.tolist())
    for c in range(4):
        assert (given_labels[chosen] == c).sum() == min(shots, labels[:limit].count(c))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_one_shot_is_enough(digits, protocol):
    found = measured(digits, protocol=protocol, shots=1, l2=(0.1,), learning_rates=(0.01,), steps=3)
    assert math.isfinite(found.test_loss)
    assert found.num_train == (80 if protocol == "head_repair" else 10)


# --- The head as trained. ---


def test_a_network_s_own_head_is_read_at_the_component_s_place(digits):
    # Two components of a joint head: the outputs of this one come last. The head is set to know the labels' order.
    component = digits.component
    other = replace(component, content="0" * 64, num_classes=3)
    shares = [Share(component=c, shown=5, pool=5, distinct=5) for c in (other, component)]
    assert component.content > other.content
    member = replace(untrained(0), mixture=Mixture(shares=tuple(shares)))
    stage = ProbeSpec(members=(member,), component=component, transfer=QUICK)
    (network,) = networks_of(stage)
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.copy_(torch.tensor([99.0] * 3 + [0.0] * 4 + [1.0] + [0.0] * 5))  # class 4 of this component
    found = measure(stage, [network], digits, CPU, 0)
    assert found.head_accuracy == float((digits.test.labels == 4).double().mean())
    unseen = replace(stage, members=(replace(member, mixture=Mixture(shares=(shares[0],))),))
    assert measure(unseen, networks_of(unseen), digits, CPU, 0).head_accuracy is None


# --- What is refused. ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "linear"}, "no protocol 'linear'; there are linear_probe, ridge"),
        ({"combine": "sum"}, "combined by 'sum'"),
        ({"protocol": "knn", "combine": "average"}, "combine: average is not for knn; .* linear_probe, ridge"),
        ({"protocol": "finetune", "compression": 3}, "compression is not for finetune"),
        ({"compression": 0}, "a compression of 0"),
    ],
)
def test_impossible_transfers_are_refused(digits, changes, message):
    with pytest.raises(ValueError, match=message):
        measured(digits, **changes)


@pytest.mark.parametrize("protocol", sorted(FROZEN - {"knn"}))
def test_features_that_are_not_finite_are_refused(digits, protocol):
    stage = staged(digits, protocol=protocol)
    (network,) = networks_of(stage)
    with torch.no_grad():
        next(network.parameters()).fill_(math.nan)
    with pytest.raises(ValueError, match=r"features of .* are not finite"):
        measure(stage, [network], digits, CPU, 0)
