"""The probe is multinomial logistic regression: scikit-learn agrees, and what must not matter does not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from trainables import probe
from trainables.probe import (
    Probe,
    choose,
    extract,
    fit_hidden,
    fit_path,
    linear_probe,
    nearest_labels,
    on_raw_features,
    rank_in_class,
    repair,
    ridge_path,
    sharpened,
    shuffled_batches,
    vote,
)
from trainables.spec import derive_seed

L2S = (1e-5, 1e-3, 1e-1)


def digits() -> tuple[Tensor, Tensor]:
    """(1797, 64) pixels, five of which are always or nearly always 0, and labels."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    return torch.tensor(data.data, dtype=torch.float32)[order], torch.tensor(data.target)[order]


def random_net_features() -> tuple[Tensor, Tensor]:
    """(1797, 48) features of the noisy digits from an untrained network: not separable, collinear, some dead."""
    images, labels = digits()
    generator = torch.Generator().manual_seed(1)
    hidden = images / 8 - 1 + torch.randn(images.shape, generator=generator)
    for width in (64, 48):
        hidden = (hidden @ torch.randn(hidden.shape[1], width, generator=generator) / 8).relu()
    return hidden, labels


def blobs(num_examples: int = 60, num_features: int = 4, num_classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Overlapping clouds, of different scales along each feature."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_examples) % num_classes
    centres = torch.randn(num_classes, num_features, generator=generator)
    features = centres[labels] + torch.randn(num_examples, num_features, generator=generator)
    return features * torch.logspace(-2, 2, num_features) + 5, labels


def objective(found: Probe, features: Tensor, labels: Tensor) -> float:
    penalty = found.l2 / 2 * found.weight.square().sum()
    return float(F.cross_entropy(found.logits(features), labels) + penalty)


def accuracy(found: Probe, features: Tensor, labels: Tensor) -> float:
    return int((found.logits(features).argmax(1) == labels).sum()) / len(labels)


def same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-3, atol=1e-3)


def scikit_learn(features: Tensor, labels: Tensor, l2: float) -> Probe:
    """The same objective by scikit-learn's own Newton solver, as a Probe."""
    mean, scale = features.double().mean(0), features.double().std(0, correction=0)
    scale = torch.where(scale > 0, scale, 1)
    model = LogisticRegression(C=1 / (l2 * len(features)), solver="newton-cholesky", tol=1e-9, max_iter=1000)
    model.fit(((features - mean) / scale).numpy(), labels.numpy())
    return Probe(weight=torch.tensor(model.coef_), bias=torch.tensor(model.intercept_), mean=mean, scale=scale, l2=l2)


@pytest.mark.parametrize(("source", "count"), [(digits, 1200), (random_net_features, 1200), (digits, 50)])
def test_scikit_learn_finds_the_same_minimum_and_the_same_accuracy(source, count):
    features, labels = source()
    train, test = (features[:count], labels[:count]), (features[1200:], labels[1200:])
    for ours in fit_path(*train, 10, L2S):
        theirs = scikit_learn(*train, ours.l2)
        assert objective(ours, *train) == pytest.approx(objective(theirs, *train), rel=1e-5)
        assert accuracy(ours, *test) == pytest.approx(accuracy(theirs, *test), abs=0.002)


def test_with_two_classes_scikit_learn_penalises_the_difference_of_ours():
    features, labels = blobs(num_classes=2)
    (ours,) = fit_path(features, labels, 2, [0.02])
    theirs = scikit_learn(features, labels, l2=0.01)  # half of ours: C is 2 / (0.02 N)
    assert same(ours.weight[1] - ours.weight[0], theirs.weight[0])
    assert same(ours.bias[1] - ours.bias[0], theirs.bias[0])


def test_two_points_worked_out_by_hand():
    # Features -1 and 1 of classes 0 and 1. By symmetry W = (-v, v) and b = 0; the objective is
    # log(1 + exp(-2 v)) + l2 v^2, whose derivative is 0 at l2 = 1 / (v (1 + exp(2 v))).
    l2 = 1 / (1 + math.exp(2))  # v = 1
    (found,) = fit_path(torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1]), 2, [l2])
    assert found.weight.flatten().tolist() == pytest.approx([-1, 1], abs=1e-3)
    assert found.bias.tolist() == pytest.approx([0, 0], abs=1e-3)
    assert found.logits(torch.tensor([[0.5]]))[0].tolist() == pytest.approx([-0.5, 0.5], abs=1e-3)


def test_two_points_far_from_zero_are_standardised():
    here = fit_path(torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1]), 2, [0.1])[0]
    there = fit_path(torch.tensor([[98.0], [102.0]]), torch.tensor([0, 1]), 2, [0.1])[0]
    assert there.mean.item() == 100
    assert there.scale.item() == 2
    assert same(there.weight, here.weight)


@pytest.mark.parametrize("l2", [1e-6, 1e-3, 10.0])
@pytest.mark.parametrize(
    ("case", "num_examples", "num_features"),
    [("separable", 30, 3), ("overlapping", 90, 5), ("fewer examples than features", 20, 50), ("collinear", 40, 6)],
)
def test_the_gradient_vanishes_where_the_solver_stops(case, num_examples, num_features, l2):
    features, labels = blobs(num_examples, num_features)
    if case == "separable":
        features += 1000 * F.one_hot(labels)
    if case == "collinear":
        features[:, 3:] = 2 * features[:, :3]
    (found,) = fit_path(features, labels, 3, [l2])
    weight, bias = found.weight.clone().requires_grad_(), found.bias.clone().requires_grad_()
    moved = Probe(weight=weight, bias=bias, mean=found.mean, scale=found.scale, l2=l2)
    loss = F.cross_entropy(moved.logits(features), labels) + l2 / 2 * weight.square().sum()
    loss.backward()
    squared = weight.grad.square().sum() + bias.grad.square().sum()
    assert squared / (2 * l2) <= 1.01e-6 * loss  # strong convexity: the distance to the minimum, relative


def test_the_whole_path_is_that_of_scikit_learn_with_the_same_choice_and_the_same_test_split():
    train, validation, test = three_splits()
    ours = linear_probe(train, validation, test, 10, L2S)
    theirs = [scikit_learn(*train, l2) for l2 in L2S]
    choice = choose(((p.l2, p) for p in theirs), lambda p: p.logits(validation[0]), validation[1])
    assert ours.l2 == choice.setting
    assert ours.test_accuracy == pytest.approx(accuracy(choice.model, *test), abs=1.1 / len(test[1]))
    assert ours.test_loss == pytest.approx(float(F.cross_entropy(choice.model.logits(test[0]), test[1])), rel=1e-3)
    for (_, found), expected in zip(ours.path, theirs, strict=True):
        assert found == pytest.approx(accuracy(expected, *validation), abs=1.1 / len(validation[1]))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_AXES", 0),
        ("MAX_FLOAT64_ENTRIES", 0),
        ("BLOCK_ENTRIES", 5000),
        ("SINGLE_ENTRIES", 0),  # in float32 first
        ("FIRST_BLOCK", 0),  # the curvature's diagonal alone, as where there are thousands of classes
        ("FIRST_BLOCK", 100),  # a block of some of the axes, and larger ones
        ("MAX_BLOCK", 100),  # no larger ones
        ("BLOCK_EXAMPLES", 300),  # estimated on some of the examples
        ("BLOCK_ROUNDING", -1e9),  # a block without a factor: the diagonal alone
        ("FREE_BLOCK", 0.0),  # never a block of every step's own
        ("FREE_BLOCK", 1e12),  # always
    ],
)
def test_other_ways_lead_to_the_same_minimum(monkeypatch, name, value):
    features, labels = random_net_features()
    usual = fit_path(features, labels, 10, L2S)
    monkeypatch.setattr(probe, name, value)
    for a, b in zip(usual, fit_path(features, labels, 10, L2S), strict=True):
        assert objective(b, features, labels) == pytest.approx(objective(a, features, labels), rel=1e-4)


def passes_over_the_data(monkeypatch, **settings) -> int:
    """How many a path on the features of an untrained network takes."""
    features, labels = random_net_features()
    passes = []
    with monkeypatch.context() as patched:
        loss = probe._Problem.loss
        patched.setattr(probe._Problem, "loss", lambda problem, weight: passes.append(1) or loss(problem, weight))
        for name, value in settings.items():
            patched.setattr(probe, name, value)
        fit_path(features, labels, 10, L2S)
    return len(passes)


def test_a_block_of_curvature_saves_passes_also_when_it_is_estimated(monkeypatch):
    diagonal = passes_over_the_data(monkeypatch, FIRST_BLOCK=0)
    assert passes_over_the_data(monkeypatch) < diagonal * 2 / 3
    assert passes_over_the_data(monkeypatch, BLOCK_EXAMPLES=900) < diagonal * 2 / 3


def posed(features: Tensor, labels: Tensor) -> probe._Problem:
    mean, scale = probe._standardisation(features)
    return probe._pose(features, mean, scale, labels, int(labels.max()) + 1, None)


@pytest.mark.parametrize("leading", [5, 3])
def test_the_block_is_the_hessian_and_what_is_added_to_all_classes_alike(leading):
    problem = posed(*blobs(num_examples=20))
    weight = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    penalty = torch.tensor([0.1, 0.1, 0.1, 0.1, 0.0], dtype=torch.float64)
    curvature = problem.curvature(weight, penalty, leading)

    def objective(at: Tensor) -> Tensor:
        return F.cross_entropy(problem.design @ at.T, problem.targets) + (penalty * at.square()).sum() / 2

    hessian = torch.autograd.functional.hessian(objective, weight)  # (C, R + 1, C, R + 1)
    alike = torch.diag(curvature.diagonal[:, -leading:].mean(0)).expand(3, 3, leading, leading).transpose(1, 2)
    expected = (hessian[:, -leading:, :, -leading:] + alike).reshape(3 * leading, 3 * leading)
    torch.testing.assert_close(curvature.factor @ curvature.factor.T, expected, rtol=1e-4, atol=1e-6)
    own = hessian.diagonal(dim1=0, dim2=2).diagonal(dim1=0, dim2=1)  # (C, R + 1)
    torch.testing.assert_close(curvature.diagonal, own)


def test_few_coordinates_have_a_block_in_every_step_and_more_a_block_now_and_then(monkeypatch):
    blocks, steps = [], []
    factor, search = torch.linalg.cholesky_ex, probe._line_search
    monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda *args: blocks.append(1) or factor(*args))
    monkeypatch.setattr(probe, "_line_search", lambda *args: steps.append(1) or search(*args))
    fit_path(*blobs(60, 4), 3, [1e-3])
    assert len(blocks) == len(steps) > 3
    blocks.clear(), steps.clear()
    features, labels = digits()
    fit_path(features[:50], labels[:50], 10, [1e-3])  # 510 coordinates, whose factor takes longer than their block
    assert 0 < len(blocks) < len(steps) / 3


def test_examples_drawn_for_a_block_stand_for_all(monkeypatch):
    problem = posed(*random_net_features())
    (found,) = fit_path(*random_net_features(), 10, [1e-3])
    weight = torch.cat([found.weight @ problem.axes, found.bias[:, None]], 1)
    everything = problem.curvature(weight, torch.zeros_like(weight[0]), 0).diagonal
    monkeypatch.setattr(probe, "BLOCK_EXAMPLES", 600)
    rows, counts = problem._sample(weight)
    assert rows.shape == (600, problem.design.shape[1])
    assert float(counts.sum()) == pytest.approx(1, abs=0.1)
    drawn = problem.curvature(weight, torch.zeros_like(weight[0]), 0).diagonal
    assert float(drawn.sum() / everything.sum()) == pytest.approx(1, abs=0.05)


def test_nothing_is_added_to_all_classes_alike(monkeypatch):
    monkeypatch.setattr(probe, "FIRST_BLOCK", 0)
    monkeypatch.setattr(probe, "FREE_BLOCK", 0)
    features, labels = blobs(400, 12, 5)
    rare = labels >= 3
    keep = ~rare | (torch.arange(400) % 50 < 5)
    for found in fit_path(features[keep], labels[keep], 5, L2S):
        assert abs(float(found.bias.mean())) < 1e-9
        assert float(found.weight.mean(0).abs().max()) < 1e-9


def test_it_ends_where_many_steps_gain_nearly_nothing(monkeypatch):
    usual = passes_over_the_data(monkeypatch)
    assert passes_over_the_data(monkeypatch, SLOW_STEPS=3, SLOW=1e-2) < usual


def test_large_data_is_solved_for_in_float32(monkeypatch):
    monkeypatch.setattr(probe, "MAX_FLOAT64_ENTRIES", 100)
    assert fit_path(*blobs(60, 4), 3, [0.1])[0].weight.dtype == torch.float32
    assert fit_path(*blobs(25, 4), 3, [0.1])[0].weight.dtype == torch.float64


def test_the_order_of_examples_changes_nothing():
    features, labels = blobs()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    for a, b in zip(fit_path(features, labels, 3, L2S), fit_path(features[order], labels[order], 3, L2S), strict=True):
        assert same(a.logits(features), b.logits(features))


@pytest.mark.parametrize("value", [0.0, 0.1, -7e5])
def test_a_constant_feature_changes_nothing(value):
    features, labels = blobs()
    more = torch.cat([features, torch.full((len(features), 1), value)], dim=1)
    for a, b in zip(fit_path(features, labels, 3, L2S), fit_path(more, labels, 3, L2S), strict=True):
        assert same(a.logits(features), b.logits(more))
        assert b.weight[:, -1].abs().max() < 1e-9
        assert b.scale[-1] == 1


def test_showing_every_example_twice_changes_nothing():
    features, labels = blobs()
    for a, b in zip(
        fit_path(features, labels, 3, L2S), fit_path(features.repeat(2, 1), labels.repeat(2), 3, L2S), strict=True
    ):
        assert same(a.logits(features), b.logits(features))


@settings(max_examples=25)
@given(
    factors=st.lists(st.floats(0.01, 100) | st.floats(-100, -0.01), min_size=4, max_size=4),
    offsets=st.lists(st.floats(-100, 100), min_size=4, max_size=4),
    l2=st.sampled_from((1e-3, 1e-1, 10.0)),
)
def test_rescaling_and_shifting_a_feature_changes_nothing(factors, offsets, l2):
    features, labels = blobs()
    features = features.double()
    moved = features * torch.tensor(factors).double() + torch.tensor(offsets).double()
    (a,), (b,) = fit_path(features, labels, 3, [l2]), fit_path(moved, labels, 3, [l2])
    assert same(a.logits(features), b.logits(moved))


@settings(max_examples=25)
@given(names=st.permutations(range(4)), seed=st.integers(0, 100))
def test_renaming_the_classes_renames_the_predictions(names, seed):
    features, labels = blobs(num_classes=4, seed=seed)
    renamed = torch.tensor(names)[labels]
    (a,), (b,) = fit_path(features, labels, 4, [1e-2]), fit_path(features, renamed, 4, [1e-2])
    assert same(a.logits(features), b.logits(features)[:, list(names)])


@settings(max_examples=25)
@given(seed=st.integers(0, 100), num_examples=st.integers(4, 40), num_features=st.integers(1, 30))
def test_a_stronger_penalty_shrinks_the_weights_and_raises_the_training_loss(seed, num_examples, num_features):
    features, labels = blobs(num_examples, num_features, seed=seed)
    assume(len(labels.unique()) == 3)
    probes = fit_path(features, labels, 3, (1e-4, 1e-2, 1.0))
    norms = [float(found.weight.norm()) for found in probes]
    losses = [float(F.cross_entropy(found.logits(features), labels)) for found in probes]
    assert norms == sorted(norms, reverse=True)
    assert losses == sorted(losses)
    assert losses[-1] <= math.log(3) + 1e-9  # the loss of saying nothing


def test_a_strong_penalty_leaves_the_class_frequencies():
    features, _ = blobs(40)
    labels = torch.tensor([0] * 30 + [1] * 10)
    (found,) = fit_path(features, labels, 2, [1e6])
    assert found.logits(features).softmax(1)[:, 1].tolist() == pytest.approx([0.25] * 40, abs=1e-3)


def test_the_path_comes_in_the_order_of_the_l2s_and_depends_on_no_order():
    features, labels = blobs()
    forward, backward = fit_path(features, labels, 3, L2S), fit_path(features, labels, 3, L2S[::-1])
    assert [found.l2 for found in forward] == list(L2S)
    for a, b in zip(forward, reversed(backward), strict=True):
        assert torch.equal(a.weight, b.weight)


def test_a_probe_of_the_same_data_is_the_same_to_the_last_bit():
    features, labels = random_net_features()
    a, b = (fit_path(features, labels, 10, L2S) for _ in range(2))
    assert all(torch.equal(x.weight, y.weight) and torch.equal(x.bias, y.bias) for x, y in zip(a, b, strict=True))


def test_a_class_without_training_examples_is_never_predicted_and_leaves_the_others_alone():
    features, labels = blobs()
    three = fit_path(features, labels, 3, L2S)
    five = fit_path(features, torch.tensor([0, 2, 3])[labels], 5, L2S)  # 1 and 4 do not occur
    for a, b in zip(three, five, strict=True):
        logits = b.logits(100 * features)
        assert set(logits.argmax(1).tolist()) <= {0, 2, 3}
        assert logits.isfinite().all()
        assert (b.logits(features).softmax(1)[:, [1, 4]] < 1 / len(features)).all()
        assert torch.equal(a.weight, b.weight[[0, 2, 3]])


@pytest.mark.parametrize("sampled", [16384, 10])
def test_with_a_single_class_the_probe_always_says_that_class(monkeypatch, sampled):
    monkeypatch.setattr(probe, "BLOCK_EXAMPLES", sampled)
    (found,) = fit_path(blobs()[0], torch.full((60,), 2), 3, [1e-3])
    assert found.weight.abs().max() == 0
    assert set(found.logits(blobs(seed=1)[0]).argmax(1).tolist()) == {2}


def test_one_example_is_enough():
    (found,) = fit_path(torch.tensor([[3.0, 4.0]]), torch.tensor([1]), 2, [1e-3])
    assert found.logits(torch.tensor([[0.0, 100.0]])).argmax().item() == 1


def three_splits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    features, labels = random_net_features()
    splits = [(features[i::3], labels[i::3]) for i in range(3)]
    return splits[0], splits[1], splits[2]


def test_the_test_split_decides_nothing():
    train, validation, test = three_splits()
    usual = linear_probe(train, validation, test, 10, L2S)
    odd = linear_probe(train, validation, (torch.zeros(7, 48), torch.arange(7)), 10, L2S)
    renamed = linear_probe(train, validation, (test[0], (test[1] + 1) % 10), 10, L2S)
    for other in (odd, renamed):
        assert (other.l2, other.path, other.validation_accuracy) == (usual.l2, usual.path, usual.validation_accuracy)
        assert torch.equal(other.probe.weight, usual.probe.weight)
    assert renamed.test_accuracy < 0.2 < usual.test_accuracy


def test_the_result_is_what_its_probe_does():
    train, validation, test = three_splits()
    result = linear_probe(train, validation, test, 10, L2S)
    assert result.probe.l2 == result.l2
    assert result.train_accuracy == accuracy(result.probe, *train)
    assert result.validation_accuracy == accuracy(result.probe, *validation) == dict(result.path)[result.l2]
    assert result.test_accuracy == accuracy(result.probe, *test)
    assert result.test_loss == pytest.approx(float(F.cross_entropy(result.probe.logits(test[0]), test[1])))
    assert torch.equal(result.test_correct, result.probe.logits(test[0]).argmax(1) == test[1])
    assert [l2 for l2, _ in result.path] == list(L2S)
    assert result.validation_accuracy == max(a for _, a in result.path)


def test_among_equal_validation_accuracies_the_lower_loss_wins():
    # Both get both points right; the weaker penalty is the surer of the two, and right to be.
    split = torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1])
    assert linear_probe(split, split, split, 2, [1e-1, 1e-3]).l2 == 1e-3
    # A validation point that both get wrong: now it is wrong to be sure.
    wrong = torch.tensor([[-1.0], [1.0]]), torch.tensor([1, 0])
    assert linear_probe(split, wrong, split, 2, [1e-1, 1e-3]).l2 == 1e-1


def test_among_equal_validation_losses_the_stronger_penalty_wins():
    # With one class every penalty leaves the same probe.
    split = torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 0])
    assert linear_probe(split, split, split, 1, [1e-3, 1e-1, 1e-2]).l2 == 1e-1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_features_that_are_not_finite_are_refused_with_their_place(value):
    features, labels = blobs()
    features[7, 1] = value
    with pytest.raises(ValueError, match="training features of 1 of 60 examples are not finite, of example 7"):
        fit_path(features, labels, 3, L2S)
    with pytest.raises(ValueError, match="validation features"):
        linear_probe(blobs(), (features, labels), blobs(), 3, L2S)
    with pytest.raises(ValueError, match="test features"):
        linear_probe(blobs(), blobs(), (features, labels), 3, L2S)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.arange(60)}, "labels reach from 0 to 59; with 3 classes"),
        ({"labels": torch.arange(60) % 3 - 1}, "labels reach from -1"),
        ({"labels": torch.zeros(59)}, r"labels \(59,\)"),
        ({"features": torch.zeros(0, 4), "labels": torch.zeros(0)}, r"features \(0, 4\)"),
        ({"features": torch.zeros(60, 0)}, r"features \(60, 0\)"),
        ({"l2s": []}, "l2 is"),
        ({"l2s": [0.1, 0.0]}, "positive"),
        ({"l2s": [math.nan]}, "positive"),
    ],
)
def test_impossible_arguments_are_refused(change, message):
    features, labels = blobs()
    arguments = {"features": features, "labels": labels, "num_classes": 3, "l2s": L2S} | change
    with pytest.raises(ValueError, match=message):
        fit_path(**arguments)


def test_a_solver_that_runs_out_of_steps_says_so(monkeypatch):
    monkeypatch.setattr(probe, "MAX_ITERATIONS", 2)
    with pytest.warns(UserWarning, match="l2 1e-05 has not converged in 2 steps"):
        fit_path(*random_net_features(), 10, [1e-5])


class Halves(nn.Module):
    """Means of an image's halves after dropout and batch norm: modules that behave differently in training."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.norm(x)).mean(3).flatten(1)


def test_extracted_features_come_in_evaluation_mode_and_the_modes_are_restored():
    net = Halves()
    net.norm.eval()  # frozen, while the rest trains
    images = torch.randn(10, 1, 2, 6, generator=torch.Generator().manual_seed(0)).double()
    found = extract(net.double(), images.split(4))
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert torch.allclose(found.double(), images.mean(3).flatten(1) / math.sqrt(1 + 1e-5), atol=1e-6)
    assert (net.training, net.norm.training, net.dropout.training) == (True, False, True)
    assert int(net.norm.num_batches_tracked) == 0


def test_the_modes_are_restored_after_an_error():
    net = Halves()
    with pytest.raises(RuntimeError):
        extract(net, [torch.zeros(2, 3, 2, 2)])
    assert net.norm.training


def test_the_batch_size_does_not_change_the_features():
    images = torch.randn(10, 1, 2, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(extract(Halves(), images.split(3)), extract(Halves(), [images]))


def test_the_identity_extracts_raw_inputs():
    images = torch.randn(5, 3, 2, 2)
    assert torch.equal(extract(nn.Identity(), [images[:2], images[2:]]), images.flatten(1))


def test_extracting_from_no_examples_is_refused():
    with pytest.raises(ValueError, match="no examples"):
        extract(nn.Identity(), [])


def test_a_probe_of_digits_is_as_good_as_is_known():
    # Logistic regression on these pixels is known to reach about 96 %.
    features, labels = digits()
    splits = [(features[i::3], labels[i::3]) for i in range(3)]
    result = linear_probe(splits[0], splits[1], splits[2], 10, (1e-4, 1e-3, 1e-2))
    assert 0.94 < result.test_accuracy < 0.99
    assert np.isfinite(result.test_loss)


# --- Fewer dimensions. ---


@pytest.mark.parametrize("path", [fit_path, ridge_path])
def test_as_many_dimensions_as_features_change_nothing(path):
    features, labels = random_net_features()
    for dimensions in (48, 100):
        for a, b in zip(
            path(features, labels, 10, L2S), path(features, labels, 10, L2S, dimensions=dimensions), strict=True
        ):
            assert torch.equal(a.logits(features), b.logits(features))


@pytest.mark.parametrize("num_examples", [1200, 30])  # more than features, and fewer
def test_few_dimensions_are_scikit_learn_s_principal_components(num_examples):
    features, labels = (part[:num_examples] for part in random_net_features())
    (ours,) = fit_path(features, labels, 10, [1e-2], dimensions=5)
    components = PCA(5).fit_transform(((features - ours.mean) / ours.scale).numpy())
    model = LogisticRegression(C=1 / (1e-2 * num_examples), solver="newton-cholesky", tol=1e-9, max_iter=1000)
    model.fit(components, labels.numpy())
    expected = torch.tensor(model.predict_proba(components))
    found = ours.logits(features).softmax(1)[:, model.classes_]
    assert torch.allclose(found, expected, atol=2e-3)


def test_a_reduced_probe_does_not_see_what_lies_off_its_axes():
    features, labels = random_net_features()
    (found,) = ridge_path(features, labels, 10, [1e-2], dimensions=3)
    standard = (features - found.mean) / found.scale
    axes = torch.linalg.svd(standard, full_matrices=False).Vh[:3]
    assert torch.allclose(found.weight @ axes.T @ axes, found.weight, atol=1e-8)


def test_no_dimensions_are_refused():
    with pytest.raises(ValueError, match="0 dimensions"):
        fit_path(*blobs(), 3, [0.1], dimensions=0)


# --- Ridge regression. ---


@pytest.mark.parametrize(("num_examples", "num_features"), [(90, 5), (20, 50)])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_scikit_learn_s_ridge_classifier_agrees(num_examples, num_features, num_classes):
    features, labels = blobs(num_examples, num_features, num_classes)
    for ours in ridge_path(features, labels, num_classes, L2S):
        model = RidgeClassifier(alpha=ours.l2 * num_examples, solver="svd")
        standard = ((features.double() - ours.mean) / ours.scale).numpy()
        theirs = torch.tensor(model.fit(standard, labels.numpy()).decision_function(standard))  # of targets -1 and 1
        scores = 2 * ours.logits(features) - 1
        assert torch.allclose(scores[:, 1] if num_classes == 2 else scores, theirs, atol=1e-8)
        assert ours.logits(features).argmax(1).tolist() == model.predict(standard).tolist()


def test_ridge_on_two_points_worked_out_by_hand():
    # z = -1, 1 and targets 0, 1 for class 1: its weight is mean(z (y - 1/2)) / (1 + l2) = 0.5 / 1.25, its bias 1/2.
    (found,) = ridge_path(torch.tensor([[3.0], [7.0]]), torch.tensor([0, 1]), 2, [0.25])
    assert found.weight.flatten().tolist() == pytest.approx([-0.4, 0.4])
    assert found.bias.tolist() == pytest.approx([0.5, 0.5])


@settings(max_examples=25)
@given(seed=st.integers(0, 100), num_examples=st.integers(4, 40), num_features=st.integers(1, 30))
def test_ridge_scores_add_up_to_one_and_are_zero_for_an_absent_class(seed, num_examples, num_features):
    features, labels = blobs(num_examples, num_features, seed=seed)
    for found in ridge_path(features, labels, 5, L2S):
        scores = found.logits(features)
        assert torch.allclose(scores.sum(1), torch.ones(num_examples).double())
        assert (scores[:, 3:] == 0).all()
        assert (scores.argmax(1) < 3).all()


def test_sharpening_finds_the_factor_of_least_loss_and_changes_no_prediction():
    train, validation, _ = three_splits()
    (found,) = ridge_path(*train, 10, [1e-2])
    sharp = sharpened(found, *validation)
    scores = found.logits(validation[0])
    best = minimize_scalar(lambda t: float(F.cross_entropy(math.exp(t) * scores, validation[1])))
    assert float(F.cross_entropy(sharp.logits(validation[0]), validation[1])) == pytest.approx(best.fun, rel=1e-6)
    assert torch.equal(sharp.logits(validation[0]).argmax(1), scores.argmax(1))
    assert sharp.l2 == found.l2


# --- Nearest neighbours. ---


def test_scikit_learn_s_nearest_neighbours_agree(monkeypatch):
    monkeypatch.setattr(probe, "SIMILARITIES", 5000)  # many blocks
    (train, train_labels), (queries, _), _ = three_splits()
    binary = train_labels % 2  # an odd number of neighbours of two classes never ties
    for count in (1, 5, 21):
        model = KNeighborsClassifier(count, metric="cosine").fit(train.numpy(), binary.numpy())
        nearest = nearest_labels((train, binary), queries, count)
        assert nearest.shape == (len(queries), count)
        assert vote(nearest, 2).argmax(1).tolist() == model.predict(queries.numpy()).tolist()
        shares = (vote(nearest, 2).softmax(1) * (count + 2) - 1) / count
        assert torch.allclose(shares, torch.tensor(model.predict_proba(queries.numpy())), atol=1e-5)


@settings(max_examples=50)
@given(nearest=st.lists(st.integers(0, 3), min_size=1, max_size=9))
def test_a_vote_goes_to_the_most_frequent_class_and_a_tie_to_the_nearest(nearest):
    votes = [nearest.count(c) for c in range(5)]
    winner = next(c for c in nearest if nearest.count(c) == max(votes))  # the first from the nearest on
    logits = vote(torch.tensor([nearest]), 5)
    assert int(logits.argmax()) == winner
    expected = [(v + 1) / (len(nearest) + 5) for v in votes]
    assert logits[0].softmax(0).tolist() == pytest.approx(expected, abs=1e-5)


def test_more_neighbours_than_examples_are_all_of_them():
    train = torch.eye(3), torch.tensor([0, 1, 2])
    assert nearest_labels(train, torch.tensor([[1.0, 0.5, 0.2]]), 50).tolist() == [[0, 1, 2]]


def test_the_length_of_a_feature_vector_does_not_matter_to_its_neighbours():
    (train, labels), (queries, _), _ = three_splits()
    scales = torch.logspace(-3, 3, len(train))[:, None]
    near = nearest_labels((train * scales, labels), 8 * queries[:50], 3)
    assert (near == nearest_labels((train, labels), queries[:50], 3)).float().mean() > 0.99


# --- One hidden layer. ---


def test_a_hidden_layer_finds_what_is_not_linear(monkeypatch):
    monkeypatch.setattr(probe, "HIDDEN_STEPS", 200)
    features = torch.randn(600, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 100.0])
    labels = (features.prod(1) > 0).long()
    train, test = (features[:400], labels[:400]), (features[400:], labels[400:])
    (linear,) = fit_path(*train, 2, [1e-2])
    hidden = fit_hidden(train, 2, 3e-3, 0.0, seed=0)
    assert accuracy(linear, *test) < 0.65
    assert accuracy(hidden, *test) > 0.95


def test_a_hidden_layer_is_the_same_for_the_same_seed_and_leaves_the_global_generator_alone(monkeypatch):
    monkeypatch.setattr(probe, "HIDDEN_STEPS", 20)
    state = torch.random.get_rng_state()
    features, labels = blobs()
    first, again, other = (fit_hidden((features, labels), 3, 3e-3, 0.3, seed).logits(features) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-2)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_hidden_layer_is_trained_as_torchs_own_optimizer_and_schedule_do_it(monkeypatch):
    monkeypatch.setattr(probe, "HIDDEN_STEPS", 40)
    features, labels = blobs()
    found = fit_hidden((features, labels), 3, 3e-3, 0.3, seed=0)
    torch.manual_seed(derive_seed(0, "mlp_probe", "init"))
    layers = nn.Sequential(
        nn.Linear(features.shape[1], probe.HIDDEN_UNITS), nn.ReLU(), nn.Linear(probe.HIDDEN_UNITS, 3)
    )
    optimizer = torch.optim.AdamW(layers.parameters(), lr=3e-3, weight_decay=0.3, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
    standard = ((features - found.mean) / found.scale).float()
    for chosen in shuffled_batches(len(labels), probe.HIDDEN_BATCH, 40, derive_seed(0, "mlp_probe", "batches")):
        optimizer.zero_grad()
        F.cross_entropy(layers(standard[chosen]), labels[chosen]).backward()
        optimizer.step()
        schedule.step()
    for ours, theirs in zip(found.layers.parameters(), layers.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


# --- A repaired head. ---


def unbalanced() -> tuple[Tensor, Tensor]:
    """Overlapping clouds of 400 and 40 examples, and far fewer of class 1 are found when their numbers count."""
    labels = torch.tensor([0] * 400 + [1] * 40)
    features = torch.randn(440, 3, generator=torch.Generator().manual_seed(0)) + 1.5 * labels[:, None]
    order = torch.randperm(440, generator=torch.Generator().manual_seed(1))
    return features[order], labels[order]


def recalls(found: Probe, features: Tensor, labels: Tensor) -> list[float]:
    return [accuracy(found, features[labels == c], labels[labels == c]) for c in (0, 1)]


def test_a_repaired_head_is_as_good_for_a_rare_class_as_for_a_frequent_one():
    features, labels = unbalanced()
    (plain,) = fit_path(features, labels, 2, [1e-3])
    found = repair((features, labels), 2, [1e-3, 1e-1], seed=0)
    frequent, rare = recalls(plain, features, labels)
    assert frequent - rare > 0.15
    frequent, rare = recalls(found.model, features, labels)
    assert abs(frequent - rare) < 0.06
    assert rare > 0.85


def test_a_repaired_head_is_the_mean_of_heads_on_balanced_draws():
    # With as many examples of each class every draw is the whole pool, so all heads are one.
    features, labels = blobs()
    found = repair((features, labels), 3, [1e-2], seed=0)
    (whole,) = fit_path(features, labels, 3, [1e-2])
    assert same(found.model.logits(features), whole.logits(features))
    assert found.path == ((1e-2, found.validation_accuracy),)


def test_a_repair_depends_on_its_seed_only():
    pool = unbalanced()
    first, again, other = (repair(pool, 2, [1e-3, 1e-1], seed).model.weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_repair_without_a_half_to_choose_by_is_refused():
    with pytest.raises(ValueError, match="no two of a class"):
        repair((torch.eye(3), torch.arange(3)), 3, [1e-2], seed=0)


# --- What all of them share. ---


def test_weights_for_raw_features_say_the_same():
    features, labels = blobs()
    (found,) = fit_path(features, labels, 3, [1e-2])
    weight, bias = on_raw_features(found)
    assert same(features.double() @ weight.T + bias, found.logits(features))


@given(labels=st.lists(st.integers(0, 4), max_size=30))
def test_ranks_count_earlier_examples_of_the_class(labels):
    assert rank_in_class(torch.tensor(labels, dtype=torch.int64)).tolist() == [
        labels[:i].count(label) for i, label in enumerate(labels)
    ]


@given(num_examples=st.integers(1, 20), batch_size=st.integers(1, 20), steps=st.integers(1, 12))
def test_every_example_comes_as_often_as_every_other_but_for_one_time(num_examples, batch_size, steps):
    batches = list(shuffled_batches(num_examples, batch_size, steps, seed=0))
    size = min(num_examples, batch_size)
    assert [len(batch) for batch in batches] == [size] * steps
    counts = torch.bincount(torch.cat(batches), minlength=num_examples)
    assert int(counts.max() - counts.min()) <= 1
    if size * steps >= num_examples:
        assert sorted(torch.cat(batches)[:num_examples].tolist()) == list(range(num_examples))


def test_a_candidate_that_has_diverged_is_not_chosen_and_not_in_the_path():
    labels = torch.tensor([0, 1])
    logits = {0.1: torch.full((2, 2), math.nan), 0.2: torch.tensor([[0.0, 1.0], [1.0, 0.0]])}
    found = choose(((rate, rate) for rate in logits), logits.__getitem__, labels)
    assert (found.setting, found.path, found.validation_accuracy) == (0.2, ((0.2, 0.0),), 0.0)
    with pytest.raises(ValueError, match=r"diverged at every setting of \[0.1\]"):
        choose([(0.1, 0.1)], logits.__getitem__, labels)


@pytest.mark.parametrize(("prefer_small", "expected"), [(False, 3.0), (True, 1.0)])
def test_among_equals_the_preferred_setting_wins(prefer_small, expected):
    candidates = [(2.0, "b"), (1.0, "a"), (3.0, "c")]
    found = choose(candidates, lambda _: torch.eye(2), torch.tensor([0, 1]), prefer_small=prefer_small)
    assert found.setting == expected
