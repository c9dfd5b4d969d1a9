"""Trajectories: Toy C's feature comes, is lost and is asked for no more; gradients agree with plain autograd."""

import copy
import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables import components, trajectory
from trainables.architectures import build
from trainables.checkpoints import schedule
from trainables.feed import to_float
from trainables.mixture import mixture_of
from trainables.pretrain import pretrain
from trainables.spec import Architecture, Mixture, Ordering, PretrainSpec, Source, Training, TrajectorySpec
from trainables.trajectory import fisher_trace, mean_gradient, measure, residual_signal, squared_gradient_norms

CPU = torch.device("cpu")
SCALARS = {"direct_accuracy", "num_examples", "num_mixture_examples", "l2"}
STEPS = 300


# --- The schedule. ---


@given(steps=st.integers(1, 10**6), points=st.integers(2, 40))
def test_a_schedule_runs_from_the_initialisation_to_the_end_without_repeating_a_step(steps, points):
    found = schedule(steps, points)
    assert (found[0], found[-1]) == (0, steps)
    assert len(found) == min(points, steps + 1)
    assert all(a < b for a, b in itertools.pairwise(found))


@given(steps=st.integers(1000, 10**6), points=st.integers(8, 30))
def test_the_steps_of_a_schedule_grow_by_about_one_factor(steps, points):
    found = np.array(schedule(steps, points)[1:])
    geometric = np.geomspace(10, steps, points - 1)
    # Rounding moves a step by up to 5 % at 10, and the later ones start from there.
    assert np.abs(found / geometric - 1).max() < 0.1


def test_twelve_points_of_toy_c_see_the_peak_at_step_25():
    assert schedule(2500, 12) == (0, 10, 17, 30, 52, 90, 157, 273, 475, 826, 1437, 2500)
    assert schedule(3, 12) == (0, 1, 2, 3)
    assert schedule(2500, 2) == (0, 2500)


def test_a_schedule_without_a_step_is_refused():
    with pytest.raises(ValueError, match="12 checkpoints of a run of 0 steps"):
        schedule(0, 12)
    with pytest.raises(ValueError, match="1 checkpoints of a run of 10 steps"):
        schedule(10, 1)


# --- Its parts. ---


def tiny(name="mlp", shape=(1, 4, 5), classes=3, seed=0, **changes):
    """A small network with a head that is sure of some images, and ten images with labels."""
    network = build(Architecture(name=name, image_shape=shape, **changes), classes, seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        network.head.weight.mul_(3)
    return network, torch.randn(10, *shape, generator=generator), torch.arange(10) % classes


NETWORKS = [
    {"width": 0.2},
    {"name": "cnn", "shape": (2, 8, 8), "width": 0.25, "depth": 2},
    {"name": "resnet18", "shape": (3, 8, 8), "width": 0.0625},
    {"name": "vit_tiny", "shape": (1, 7, 7), "width": 0.0625, "depth": 1},
]


def gradient_of(network, value):
    found = torch.autograd.grad(value, list(network.parameters()), allow_unused=True)
    return torch.cat([g.flatten().double() for g in found if g is not None])


@pytest.mark.parametrize("options", NETWORKS)
def test_squared_gradients_of_single_examples_are_those_of_a_loop(options):
    network, images, labels = tiny(**options)
    probabilities = network(images).softmax(1).detach()
    cotangents = torch.stack([probabilities - F.one_hot(labels, 3), torch.ones(10, 3)], dim=1)
    found = squared_gradient_norms(network, images, cotangents, lambda _, cotangent: cotangent)
    for i in range(10):
        loss = F.cross_entropy(network(images[i : i + 1]), labels[i : i + 1])
        assert float(found[i, 0]) == pytest.approx(float(gradient_of(network, loss).square().sum()), rel=1e-4)
        total = network(images[i : i + 1]).sum()
        assert float(found[i, 1]) == pytest.approx(float(gradient_of(network, total).square().sum()), rel=1e-4)


@pytest.mark.parametrize("options", NETWORKS)
def test_squared_gradients_are_the_same_however_many_are_held_at_a_time(options, monkeypatch):
    network, images, _ = tiny(**options)
    directions = torch.randn(10, 1, 3, generator=torch.Generator().manual_seed(0))

    def norms():
        return squared_gradient_norms(network, images, directions, lambda _, direction: direction)

    whole = norms()
    monkeypatch.setattr(trajectory, "GRADIENT_CHUNK", 4)
    torch.testing.assert_close(norms(), whole, rtol=1e-5, atol=0)


@pytest.mark.parametrize("options", NETWORKS)
def test_the_fisher_trace_is_the_mean_over_images_and_the_model_s_own_labels(options):
    network, images, _ = tiny(**options)
    by_hand = 0.0
    for image in images:
        for label in range(3):
            log_probability = network(image[None]).log_softmax(1)[0, label]
            norm = gradient_of(network, log_probability).square().sum()
            by_hand += float(log_probability.detach().exp() * norm) / len(images)
    assert fisher_trace(network, images, None, torch.Generator()) == pytest.approx(by_hand, rel=1e-4)


def test_random_signs_give_the_fisher_trace_on_average():
    network, images, _ = tiny(classes=6)
    exact = fisher_trace(network, images, None, torch.Generator())
    drawn = [fisher_trace(network, images, 1, torch.Generator().manual_seed(s)) for s in range(200)]
    error = np.std(drawn, ddof=1) / math.sqrt(len(drawn))
    assert abs(np.mean(drawn) - exact) < 4 * error < 0.2 * exact
    assert fisher_trace(network, images, 6, torch.Generator()) == exact, "as many draws as classes are a sum over them"


@pytest.mark.parametrize("options", NETWORKS)
def test_the_mean_gradient_and_its_variance_are_those_of_single_examples(options):
    network, images, labels = tiny(**options)
    single = torch.stack(
        [gradient_of(network, F.cross_entropy(network(x[None]), y[None])) for x, y in zip(images, labels, strict=True)]
    )
    mean, variance = mean_gradient(network, images, labels, groups=10)
    assert torch.allclose(mean.double(), single.mean(0), rtol=1e-3, atol=1e-5)
    assert variance == pytest.approx(float(single.var(0).sum()), rel=1e-3)
    assert mean_gradient(network, images, labels, groups=1)[1] is None
    pairs = (single[:5] + single[5:]) / 2
    assert mean_gradient(network, images, labels, groups=5)[1] == pytest.approx(2 * float(pairs.var(0).sum()), rel=1e-3)


def test_the_residual_signal_is_the_norm_of_a_covariance():
    rng = np.random.default_rng(0)
    residual, features = rng.normal(size=(40, 3)), rng.normal(size=(40, 5)) * [1, 10, 0.1, 1, 0] + 7
    z = (features[:, :4] - features[:, :4].mean(0)) / features[:, :4].std(0)
    by_hand = np.linalg.norm(residual.T @ z / 40)
    assert residual_signal(torch.tensor(residual), torch.tensor(features)) == pytest.approx(by_hand)
    # One feature that is the sign of the residual of one class: mean |r| = 0.5.
    sign = torch.tensor([[1.0], [-1.0]] * 4)
    assert residual_signal(0.5 * sign, sign) == pytest.approx(0.5)


# --- A run of Toy C. ---


def dominoes(informative):
    options = json.dumps({"informative": informative}, separators=(",", ":"))
    source = Source(
        dataset="dominoes", options=options, train_examples=4000, validation_examples=500, test_examples=1000
    )
    return components.prepare(source)


@pytest.fixture(scope="module")
def both():
    return dominoes("both")


@pytest.fixture(scope="module")
def hard():
    return dominoes("right")


class Run:
    """A run with its checkpoints, and a direct baseline of the hard view."""

    def __init__(self, weights, known, *, steps=STEPS, points=10, architecture=None, **changes):
        mixture = mixture_of(
            weights,
            known,
            num_examples=steps * 128,
            train_examples=None,
            label_space=changes.pop("label_space", "shared"),
        )
        some = next(iter(known.values()))
        self.spec = PretrainSpec(
            mixture=mixture,
            architecture=architecture or Architecture(name="mlp", image_shape=some.image_shape),
            training=Training(steps=steps),
            seed=0,
            **changes,
        )
        self.steps = schedule(steps, points)
        start = replace(self.spec, mixture=Mixture(shares=()), training=Training(steps=0))
        kept = {0: build(start.architecture, 0, 0)}

        def keeper(step):
            return lambda network: kept.__setitem__(step, copy.deepcopy(network).eval())

        inside = self.steps[1:-1]
        self.data = [components.load(share.component) for share in mixture.shares]
        kept[steps] = trained(self.spec, self.data, checkpoints={step: keeper(step) for step in inside})
        self.networks = [kept[step] for step in self.steps]
        self.checkpoints = (start, *(replace(self.spec, until=step) for step in inside), self.spec)

    def trajectory(self, component, direct=None, **options):
        known = None if direct is None else direct.spec
        spec = TrajectorySpec(checkpoints=self.checkpoints, component=component, direct=known, **options)
        network = None if direct is None else direct.networks[-1]
        return measure(spec, self.networks, network, components.load(component), self.data, CPU)


def trained(spec, data, **options):
    run = pretrain(spec, data, device=CPU, **options)
    while True:
        try:
            next(run)
        except StopIteration as end:
            return end.value.network


@pytest.fixture(scope="module")
def direct(hard):
    return Run({"hard": 1}, {"hard": hard}, points=2)


@pytest.fixture(scope="module")
def unseen(both, hard, direct):
    """The hard view, of which the run is shown no example in which it alone tells the class."""
    run = Run({"both": 1}, {"both": both, "hard": hard})
    return run, run.trajectory(hard, direct, plasticity_steps=8)


@pytest.fixture(scope="module")
def seen(both, hard, direct):
    run = Run({"both": 1, "hard": 1}, {"both": both, "hard": hard}, points=4)
    return run, run.trajectory(hard, direct)


def test_every_number_is_finite_or_absent_and_there_is_one_for_every_checkpoint(unseen, seen):
    for run, found in (unseen, seen):
        assert json.loads(json.dumps(found, allow_nan=False)) == found
        assert found["step"] == list(run.steps)
        assert all(len(found[name]) == len(run.steps) for name in found.keys() - SCALARS)
    absent = {name for name, curve in unseen[1].items() if isinstance(curve, list) and None in curve}
    assert absent == {"head_accuracy", "gradient_norm", "gradient_cosine", "gradient_snr"}
    assert {name for name, curve in seen[1].items() if isinstance(curve, list) and None in curve} == {"plasticity"}


def test_an_unneeded_feature_is_acquired_early_and_then_lost(unseen):
    _, found = unseen
    accuracy, predictability = np.array(found["accuracy"]), np.array(found["predictability"])
    peak = int(accuracy.argmax())
    assert 0 < found["step"][peak] <= 50
    assert accuracy[peak] - accuracy[0] > 0.1
    assert accuracy[peak] - accuracy[-1] > 0.1
    assert predictability.max() - predictability[0] > 0.05
    assert predictability.max() - predictability[-1] > 0.05


def test_the_signal_for_an_unneeded_feature_collapses(unseen):
    _, found = unseen
    assert found["saturation"][0] == 1
    assert found["saturation"][-1] < 0.05
    assert found["saturation"][-1] == found["signal"][-1] / found["signal"][0]
    assert found["residual_r2"][0] > 0.5, "at first the residual is what the direct features know"
    assert all(r2 <= 1 for r2 in found["residual_r2"])


def test_a_feature_that_is_needed_stays(seen, unseen):
    _, found = seen
    assert found["accuracy"][-1] > unseen[1]["accuracy"][-1] + 0.2
    assert found["head_accuracy"][-1] > 0.6 > 0.3 > found["head_accuracy"][0]
    assert found["predictability"][-1] > unseen[1]["predictability"][-1] + 0.2
    assert min(found["direct_accuracy"], unseen[1]["direct_accuracy"]) > 0.75
    assert found["cka_final"][-1] == pytest.approx(1)
    assert all(-1 <= cosine <= 1 for cosine in found["gradient_cosine"])
    assert all(snr > 0 for snr in found["gradient_snr"])


def test_early_features_help_to_learn_the_component_and_its_own_start_neither_helps_nor_hurts(unseen):
    _, found = unseen
    assert found["plasticity"][0] == 0
    assert max(found["plasticity"][1:4]) > 0.1


def test_the_signal_and_the_gradient_are_what_plain_code_finds(seen, hard, direct):
    run, found = seen
    place = [share.component.content for share in run.spec.mixture.shares].index(hard.content)
    stream = trajectory.index_stream(run.spec.mixture, run.spec.ordering, run.spec.seed)
    network = run.networks[-1].eval()

    def shown(positions, count):
        chosen = positions[np.arange(count) * len(positions) // count]
        rows = [run.data[stream.component[p]].train[int(stream.example[p])] for p in chosen]
        low, high = run.data[0].value_range
        return torch.stack([x for x, _ in rows]) / 255 * (high - low) + low, torch.tensor([y for _, y in rows])

    with torch.no_grad():
        images, labels = shown(np.arange(len(stream)), 1000)
        residual = F.one_hot(labels, 10) - network(images).softmax(1)
        z = direct.networks[-1].eval().features(images)
    varies = z.std(0) > 0
    z = ((z - z.mean(0)) / z.std(0, correction=0))[:, varies]
    assert found["signal"][-1] == pytest.approx(float((residual.T @ z / 1000).norm()), rel=1e-3)

    images, labels = shown(np.flatnonzero(stream.component == place), 128)
    gradient = gradient_of(network, F.cross_entropy(network(images), labels))
    assert found["gradient_norm"][-1] == pytest.approx(float(gradient.norm()), rel=1e-3)
    others = gradient_of(
        network, F.cross_entropy(*of_network(network, *shown(np.flatnonzero(stream.component != place), 128)))
    )
    cosine = F.cosine_similarity(gradient, (gradient + others) / 2, dim=0)
    assert found["gradient_cosine"][-1] == pytest.approx(float(cosine), abs=1e-3)


def of_network(network, images, labels):
    return network(images), labels


def test_a_component_alone_has_the_gradient_of_its_mixture(direct, hard):
    found = direct.trajectory(hard)
    assert found["gradient_cosine"] == pytest.approx([1, 1])
    assert found["signal"] == found["cka_direct"] == found["residual_r2"] == [None, None]
    assert found["direct_accuracy"] is None


def test_components_with_outputs_of_their_own_under_an_ordering_are_measured_too():
    low, high = (components.prepare(Source(dataset="digits", classes=classes)) for classes in ((0, 1, 2, 3), (4, 5, 6)))
    known = {"low": low, "high": high}
    order = Ordering(kind="sequential", sequence=(low.content, high.content))
    run = Run({"low": 1, "high": 1}, known, steps=40, points=3, label_space="joint", ordering=order)
    found = {name: run.trajectory(component, examples=200) for name, component in known.items()}
    assert found["low"]["fisher"] == found["high"]["fisher"], "it is the network's, not a component's"
    assert found["high"]["head_accuracy"][-1] > found["low"]["head_accuracy"][-1] - 0.1
    assert found["low"]["num_mixture_examples"] == 200
    easy = Run(
        {"low": 1, "high": 1}, known, steps=10, points=2, label_space="joint", ordering=Ordering(kind="curriculum")
    )
    assert None not in easy.trajectory(low, examples=100)["gradient_norm"]


def test_a_network_with_batch_norms_is_read_as_it_predicts():
    digits = components.prepare(Source(dataset="digits"))
    convolutions = Architecture(name="cnn", width=0.25, image_shape=digits.image_shape)
    run = Run({"digits": 1}, {"digits": digits}, steps=60, points=3, architecture=convolutions)
    found = run.trajectory(digits, run, examples=300)
    images, labels = run.data[0].test.gather(torch.arange(300))
    last = run.networks[-1].eval()
    with torch.no_grad():
        logits = last(to_float(images, run.data[0].value_range))
    right = float((logits.argmax(1) == labels).double().mean())
    assert right > 0.3
    assert found["head_accuracy"][-1] == pytest.approx(right, abs=1.1 / 300)  # one image may stand on the edge
    assert found["predictability"][-1] == pytest.approx(1, abs=1e-4), "it predicts its own features"


def test_measuring_twice_gives_the_same_and_leaves_the_networks_as_they_were(seen, hard, direct):
    run, found = seen
    before = [copy.deepcopy(network.state_dict()) for network in run.networks]
    state = torch.get_rng_state()
    assert run.trajectory(hard, direct) == found
    trajectory._COURSES.clear()
    assert run.trajectory(hard, direct) == found
    assert torch.equal(torch.get_rng_state(), state)
    for network, kept in zip(run.networks, before, strict=True):
        assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())


@settings(max_examples=20)
@given(count=st.integers(1, 50), length=st.integers(1, 200))
def test_spread_positions_are_distinct_and_cover_the_whole(count, length):
    found = trajectory._spread(np.arange(length), count)
    assert len(found) == min(count, length)
    assert (np.diff(found) > 0).all()
    assert found[0] == 0
    assert length - found[-1] <= math.ceil(length / len(found))
