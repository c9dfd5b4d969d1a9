"""Retention metrics: independent implementations agree, invariances hold, and small cases are worked out by hand."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from torch import Tensor, nn
from torchvision.models import ResNet, SwinTransformer, VisionTransformer
from torchvision.models.resnet import BasicBlock

from trainables import components, retention
from trainables.architectures import ARCHITECTURES, Network, build
from trainables.feed import to_float
from trainables.probe import extract, linear_probe
from trainables.retention import (
    JointMoments,
    active_share,
    attribute_retention,
    cca,
    cca_r2,
    class_separation,
    complementarity,
    dead_share,
    debiased_cka,
    dimensions_for,
    disagreement,
    effective_rank,
    hoyer,
    joint_moments,
    layers,
    linear_cka,
    measure,
    participation_ratio,
    predictability,
    principal_variances,
    pwcca,
    stable_rank,
    svcca,
)
from trainables.spec import Architecture, Source

CPU = torch.device("cpu")
SIMILARITIES = {"cka": linear_cka, "debiased_cka": debiased_cka, "cca_r2": cca_r2, "svcca": svcca, "pwcca": pwcca}

seeds = st.integers(0, 10_000)


def gaussian(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related(num_examples: int = 60, dims: tuple[int, int] = (5, 8), seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two sets of features with something in common, correlated among themselves and far from 0."""
    common = gaussian(num_examples, 3, seed=seed)
    first, second = (
        common @ gaussian(3, d, seed=seed + i) + gaussian(num_examples, d, seed=seed + 10 + i) / 2 + 3
        for i, d in enumerate(dims, 1)
    )
    return first, second


def of(first: Tensor, second: Tensor) -> JointMoments:
    return joint_moments([(first, second)])


def rotation(dims: int, seed: int) -> Tensor:
    return torch.linalg.qr(gaussian(dims, dims, seed=seed))[0]


def invertible(dims: int, seed: int) -> Tensor:
    """A linear map whose strongest direction is ten times its weakest."""
    return rotation(dims, seed) @ torch.diag(torch.logspace(-0.5, 0.5, dims).double()) @ rotation(dims, seed + 1)


# --- R2, R3: the same from Gram matrices, QR and SVD. ---


def centred(z: Tensor) -> np.ndarray:
    return z.numpy() - z.numpy().mean(0)


def gram_cka(first: Tensor, second: Tensor) -> float:
    n = len(first)
    centring = np.eye(n) - 1 / n
    k, l = (centring @ (z.numpy() @ z.numpy().T) @ centring for z in (first, second))  # noqa: E741
    return float((k * l).sum() / np.sqrt((k * k).sum() * (l * l).sum()))


def gram_debiased_cka(first: Tensor, second: Tensor) -> float:
    def hsic(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
        n, one = len(k), np.ones(len(k))
        return (
            np.trace(k @ l) + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * one @ k @ l @ one
        ) / (n * (n - 3))

    k, l = (z.numpy() @ z.numpy().T for z in (first, second))  # noqa: E741
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l, 0)
    return float(hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l)))


def qr_cca(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, R) canonical variates of the first set and (R,) correlations, of centred sets of full rank."""
    q1, q2 = np.linalg.qr(first)[0], np.linalg.qr(second)[0]
    u, rho, _ = np.linalg.svd(q1.T @ q2, full_matrices=False)
    return q1 @ u, rho


def svd_svcca(first: Tensor, second: Tensor) -> float:
    kept = []
    for z in (centred(first), centred(second)):
        u, s, _ = np.linalg.svd(z, full_matrices=False)
        count = int(np.searchsorted(np.cumsum(s**2) / (s**2).sum(), 0.99)) + 1
        kept.append(u[:, :count] * s[:count])
    return float(qr_cca(*kept)[1].mean())


def qr_pwcca(first: Tensor, second: Tensor) -> float:
    variates, rho = qr_cca(centred(first), centred(second))
    weights = np.abs(variates.T @ centred(first)).sum(1)
    return float((weights * rho).sum() / weights.sum())


@settings(max_examples=15)
@given(seed=seeds, num_examples=st.integers(20, 60), dims=st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_similarities_agree_with_gram_matrices_and_qr(seed, num_examples, dims):
    first, second = related(num_examples, dims, seed)
    moments = of(first, second)
    rho = qr_cca(centred(first), centred(second))[1]
    assert linear_cka(moments) == pytest.approx(gram_cka(first, second), abs=1e-9)
    assert debiased_cka(moments) == pytest.approx(gram_debiased_cka(first, second), abs=1e-8)
    assert cca(moments).numpy() == pytest.approx(rho, abs=1e-7)
    assert cca_r2(moments) == pytest.approx((rho**2).mean(), abs=1e-7)
    assert svcca(moments) == pytest.approx(svd_svcca(first, second), abs=1e-7)
    assert pwcca(moments) == pytest.approx(qr_pwcca(first, second), abs=1e-7)


def test_of_two_single_features_all_similarities_are_made_of_their_correlation():
    # Deviations (-1, 0, 1) and (-1, 1, 0) from the mean: their correlation is 1 / (sqrt 2 sqrt 2).
    moments = of(torch.tensor([[1.0], [2], [3]]), torch.tensor([[1.0], [3], [2]]))
    expected = {"cka": 0.25, "cca_r2": 0.25, "svcca": 0.5, "pwcca": 0.5}
    assert {name: SIMILARITIES[name](moments) for name in expected} == pytest.approx(expected)


def test_debiased_cka_of_four_examples_worked_out_by_hand():
    # Off the diagonal K = x x' and L = y y' have row sums -1 and tr KL = -4, tr KK = 12, so that
    # HSIC(K, L) = (-4 + 16/6 - 4) / 4 = -4/3 and HSIC(K, K) = HSIC(L, L) = (12 + 16/6 - 4) / 4 = 8/3.
    moments = of(torch.tensor([[1.0], [-1], [1], [-1]]), torch.tensor([[1.0], [1], [-1], [-1]]))
    assert debiased_cka(moments) == pytest.approx(-0.5)
    assert linear_cka(moments) == pytest.approx(0)


def test_features_with_one_shared_direction_have_one_canonical_correlation():
    # Columns of a Hadamard matrix: uncorrelated, of mean 0 and variance 1.
    a = torch.tensor([1.0, 1, 1, 1, -1, -1, -1, -1])
    b = torch.tensor([1.0, 1, -1, -1]).repeat(2)
    c = torch.tensor([1.0, -1]).repeat(4)
    moments = of(torch.stack([a, b], 1), torch.stack([2 * a, a + c], 1))
    assert cca(moments).tolist() == pytest.approx([1, 0], abs=1e-7)
    assert cca_r2(moments) == pytest.approx(0.5)
    # The second set spans a and c, so its variate 1 is a, which is all of feature a and nothing of feature b.
    assert pwcca(moments) == pytest.approx(0.5)
    assert pwcca(of(torch.stack([3 * a, b], 1), torch.stack([2 * a, a + c], 1))) == pytest.approx(0.75)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_features_are_entirely_similar_to_themselves(name):
    first, _ = related()
    assert SIMILARITIES[name](of(first, first)) == pytest.approx(1)


@settings(max_examples=15)
@given(seed=seeds, scale=st.floats(0.01, 100))
def test_cka_is_invariant_to_rotations_and_isotropic_scales(seed, scale):
    first, second = related(seed=seed)
    before, after = of(first, second), of(scale * first @ rotation(5, seed) - 7, second @ rotation(8, seed))
    for similarity in (linear_cka, debiased_cka, svcca):
        assert similarity(after) == pytest.approx(similarity(before), rel=1e-7, abs=1e-9)


@settings(max_examples=15)
@given(seed=seeds)
def test_canonical_correlations_are_invariant_to_invertible_linear_maps(seed):
    first, second = related(seed=seed)
    before = of(first, second)
    after = of(first @ invertible(5, seed) + 2, second @ invertible(8, seed))
    assert cca(after).numpy() == pytest.approx(cca(before).numpy(), abs=1e-7)
    assert cca_r2(after) == pytest.approx(cca_r2(before), abs=1e-7)
    assert pwcca(of(3 * first, second @ invertible(8, seed))) == pytest.approx(pwcca(before), abs=1e-7)
    assert linear_cka(after) != pytest.approx(linear_cka(before), abs=1e-5)


def test_canonical_correlations_do_not_depend_on_the_scale_of_each_feature():
    first, second = related()
    scales = torch.logspace(-8, 8, 5).double()
    assert cca(of(first * scales, second)).numpy() == pytest.approx(cca(of(first, second)).numpy(), abs=1e-7)


@settings(max_examples=15)
@given(seed=seeds)
def test_similarities_other_than_pwcca_are_symmetric_and_bounded(seed):
    moments = of(*related(seed=seed))
    for name, similarity in SIMILARITIES.items():
        value = similarity(moments)
        assert value <= 1 + 1e-9
        assert value >= 0 or name == "debiased_cka"
        if name != "pwcca":
            assert similarity(moments.swapped()) == pytest.approx(value, abs=1e-9)


def test_independent_features_are_similar_to_plain_cka_and_not_to_the_debiased_one():
    moments = [of(gaussian(50, 200, seed=s), gaussian(50, 200, seed=s + 100)) for s in range(10)]
    assert min(linear_cka(m) for m in moments) > 0.7
    # For many independent dimensions it is Student's t with n (n - 3) / 2 - 1 degrees of freedom, as a correlation:
    # Szekely & Rizzo (2013). Four deviations, of one and of the mean of ten.
    debiased, deviation = np.array([debiased_cka(m) for m in moments]), 1 / math.sqrt(50 * 47 / 2)
    assert np.abs(debiased).max() < 4 * deviation
    assert abs(debiased.mean()) < 4 * deviation / math.sqrt(10)


@settings(max_examples=15)
@given(seed=seeds, cuts=st.lists(st.integers(0, 60), max_size=6))
def test_moments_depend_on_no_batching(seed, cuts):
    first, second = related(seed=seed)
    edges = [0, *sorted(cuts), 60]
    streamed = joint_moments((first[a:b], second[a:b]) for a, b in itertools.pairwise(edges))
    whole = of(first, second)
    assert streamed.count == whole.count == 60
    for name, similarity in SIMILARITIES.items():
        assert similarity(streamed) == pytest.approx(similarity(whole), rel=1e-9, abs=1e-9), name


def test_a_large_mean_costs_no_precision():
    first, second = related(seed=4)
    for name, similarity in SIMILARITIES.items():
        assert similarity(of(first + 1e6, second - 1e6)) == pytest.approx(similarity(of(first, second)), abs=1e-6), name


def test_duplicate_constant_and_dead_features_do_not_disturb_canonical_correlations():
    first, second = related()
    padded = torch.cat([first, first[:, :2], torch.full((60, 2), 0.1).double(), torch.zeros(60, 1)], dim=1)
    assert cca(of(padded, second)).numpy() == pytest.approx(cca(of(first, second)).numpy(), abs=1e-6)
    assert cca_r2(of(second, padded)) == pytest.approx(cca_r2(of(second, first)), abs=1e-6)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_constant_features_have_no_similarity(name):
    first, _ = related()
    constant = torch.full((60, 4), 0.1)
    assert SIMILARITIES[name](of(first, constant)) is None
    assert SIMILARITIES[name](of(constant, first)) is None


def test_canonical_correlations_that_too_few_examples_force_to_1_are_absent():
    moments = of(gaussian(8, 6, seed=0), gaussian(8, 5, seed=1))
    assert (cca(moments) > 1 - 1e-9).tolist() == [True] * 4 + [False]  # 6 + 5 dimensions meet in 4 of 7
    assert (cca_r2(moments), svcca(moments), pwcca(moments)) == (None, None, None)
    at_most = of(gaussian(12, 6, seed=0), gaussian(12, 5, seed=1))  # in 11 they need not meet
    assert cca(at_most).max() < 1 - 1e-9
    assert cca_r2(at_most) == pytest.approx(float(cca(at_most).square().mean()))
    assert cca_r2(of(gaussian(12, 7, seed=0), gaussian(12, 5, seed=1))) is None


def test_three_examples_have_no_debiased_cka():
    first, second = related(num_examples=3)
    assert debiased_cka(of(first, second)) is None


def test_features_of_different_or_of_no_examples_are_refused():
    with pytest.raises(ValueError, match=r"\(4, 2\) and \(3, 2\)"):
        of(torch.zeros(4, 2), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="no examples"):
        joint_moments([])


# --- R4 ---


def three_splits(x: Tensor, y: Tensor) -> list[Tensor]:
    """Arguments of `predictability`: half of the examples, a quarter, and the rest."""
    edges = [0, len(x) // 2, 3 * len(x) // 4, len(x)]
    return [z[a:b] for a, b in itertools.pairwise(edges) for z in (x, y)]


@pytest.mark.parametrize("noise", [0.01, 1.0, 10.0])
@pytest.mark.parametrize("dims", [(6, 4), (90, 3)])
def test_predictability_is_that_of_scikit_learns_ridge_with_the_best_penalty(noise, dims):
    x = gaussian(160, dims[0], seed=0) * torch.logspace(-1, 1, dims[0]) + 2
    y = x @ gaussian(dims[0], dims[1], seed=1) + noise * gaussian(160, dims[1], seed=2)
    arrays = [part.numpy() for part in three_splits(x, y)]
    (x1, y1, x2, y2, x3, y3) = ((part - arrays[i % 2].mean(0)) / arrays[i % 2].std(0) for i, part in enumerate(arrays))
    models = [Ridge(alpha=penalty * len(x1)).fit(x1, y1) for penalty in retention.PENALTIES]
    best = min(models, key=lambda model: ((model.predict(x2) - y2) ** 2).sum())
    expected = r2_score(y3, best.predict(x3), multioutput="variance_weighted")
    assert predictability(*three_splits(x, y)) == pytest.approx(expected, abs=1e-8)


def test_a_linear_image_is_predicted_and_noise_is_not():
    x = gaussian(400, 5, seed=0)
    assert predictability(*three_splits(x, x @ gaussian(5, 9, seed=1) + 4)) > 0.9999
    assert abs(predictability(*three_splits(x, gaussian(400, 9, seed=2)))) < 0.05


def test_predictability_is_asymmetric():
    x = gaussian(400, 5, seed=0)
    assert predictability(*three_splits(x, x[:, :1])) > 0.9999
    assert predictability(*three_splits(x[:, :1], x)) == pytest.approx(0.2, abs=0.05)  # one feature of five


def test_half_signal_and_half_noise_of_the_same_variance_is_half_predictable():
    x = gaussian(20_000, 1, seed=0)
    assert predictability(*three_splits(x, x + gaussian(20_000, 1, seed=1))) == pytest.approx(0.5, abs=0.02)


@settings(max_examples=10)
@given(seed=seeds, factors=st.lists(st.floats(0.01, 100), min_size=5, max_size=5))
def test_shifting_and_rescaling_features_does_not_change_predictability(seed, factors):
    x, y = related(80, (5, 5), seed)
    factor = torch.tensor(factors).double()
    before = predictability(*three_splits(x, y))
    assert predictability(*three_splits(x * factor + 3, y * factor.flip(0) - 1)) == pytest.approx(before, abs=1e-7)


def test_constant_features_neither_predict_nor_are_predicted():
    x, y = related(80)
    constant = torch.full((80, 2), 0.1)
    assert predictability(*three_splits(x, constant)) is None
    assert predictability(*three_splits(constant, y)) <= 0
    before = predictability(*three_splits(x, y))
    assert predictability(*three_splits(torch.cat([x, constant], 1), torch.cat([y, constant], 1))) == before


def test_the_test_split_chooses_no_penalty():
    x, y = related(80)
    parts = three_splits(x, y)
    alone = predictability(*parts[:4], parts[4][:1].repeat(2, 1), torch.stack([parts[5][0], parts[5][0] + 1]))
    assert alone == pytest.approx(1 - squared_error(parts) / (0.5 * squared_step(parts)), abs=1e-9)


def squared_error(parts: list[Tensor]) -> float:
    """Of the ridge regression that validation chooses, on the first test example twice, the second time moved by 1."""
    x1, y1, x2, y2, x3, y3 = (part.numpy() for part in parts)
    mean, scale = y1.mean(0), y1.std(0)
    x1, x2, x3 = ((x - parts[0].numpy().mean(0)) / parts[0].numpy().std(0) for x in (x1, x2, x3))
    y1, y2 = (y1 - mean) / scale, (y2 - mean) / scale
    models = [Ridge(alpha=penalty * len(x1)).fit(x1, y1) for penalty in retention.PENALTIES]
    best = min(models, key=lambda model: ((model.predict(x2) - y2) ** 2).sum())
    targets = (np.stack([y3[0], y3[0] + 1]) - mean) / scale
    return float(((best.predict(np.stack([x3[0], x3[0]])) - targets) ** 2).sum())


def squared_step(parts: list[Tensor]) -> float:
    return float((1 / parts[1].numpy().std(0) ** 2).sum())


def test_retention_is_the_place_between_floor_and_ceiling():
    assert retention.retention(0.7, 0.9, 0.4) == pytest.approx(0.6)
    assert retention.retention(0.3, 0.9, 0.4) == pytest.approx(-0.2)
    assert retention.retention(0.5, 0.505, 0.5) is None
    assert [retention.retention(*given) for given in ((None, 1, 0), (1, None, 0), (1, 1, None))] == [None] * 3


# --- R5, R6 ---


def with_variances(*variances: float) -> Tensor:
    """Features of 64 examples with exactly these variances along rotated axes, and a mean."""
    axes = torch.linalg.qr(gaussian(64, len(variances), seed=0) - gaussian(64, len(variances), seed=0).mean(0))[0]
    scaled = axes * math.sqrt(64) * torch.tensor(variances, dtype=torch.float64).sqrt()
    return scaled @ rotation(len(variances), 1) + 5


@pytest.mark.parametrize("dims", [1, 4, 20])
def test_equal_variances_have_as_many_dimensions_as_features(dims):
    variances = principal_variances(with_variances(*[2.0] * dims))
    assert variances.tolist() == pytest.approx([2.0] * dims)
    assert effective_rank(variances) == pytest.approx(dims)
    assert participation_ratio(variances) == pytest.approx(dims)
    assert stable_rank(variances) == pytest.approx(dims)
    assert dimensions_for(variances) == dims


def test_dimensionality_of_two_unequal_variances_worked_out_by_hand():
    variances = principal_variances(with_variances(9.0, 1.0))  # singular values 3 : 1
    assert effective_rank(variances) == pytest.approx(4 / 3**0.75)  # exp of 1/4 ln 4 + 3/4 ln 4/3
    assert participation_ratio(variances) == pytest.approx(100 / 82)
    assert stable_rank(variances) == pytest.approx(10 / 9)
    assert [dimensions_for(variances, share) for share in (0.5, 0.9, 0.91, 1.0)] == [1, 1, 2, 2]


def test_99_of_100_equal_variances_hold_99_percent():
    assert dimensions_for(torch.full((100,), 0.1).double(), 0.99) == 99


@settings(max_examples=15)
@given(seed=seeds, scale=st.floats(1e-3, 1e3), dims=st.integers(1, 12))
def test_dimensionality_lies_between_1_and_the_features_and_depends_on_no_scale(seed, scale, dims):
    z = gaussian(30, dims, seed=seed)
    before, after = principal_variances(z), principal_variances(scale * z @ rotation(dims, seed) + 1)
    for measure_of in (effective_rank, participation_ratio, stable_rank):
        assert 1 - 1e-9 <= measure_of(before) <= dims + 1e-9
        assert measure_of(after) == pytest.approx(measure_of(before), rel=1e-6)


def test_more_features_than_examples_have_the_same_variances_from_the_smaller_matrix():
    z = gaussian(12, 40, seed=0)
    expected = np.linalg.svd(centred(z), compute_uv=False)[:11] ** 2 / 12
    assert principal_variances(z).numpy() == pytest.approx(expected)
    assert principal_variances(torch.cat([z, torch.zeros(12, 5)], 1)).numpy() == pytest.approx(expected)


def test_constant_features_have_no_dimensionality():
    variances = principal_variances(torch.full((20, 3), 0.1))
    assert [f(variances) for f in (effective_rank, participation_ratio, stable_rank, dimensions_for)] == [None] * 4


def test_dead_and_active_units_are_counted():
    features = torch.tensor([[0.0, 1, 0, -1, 3], [0, 1, 2, -2, 0], [0, 1, 0, -1, 0], [0, 1, 0, -1, 5]])
    assert dead_share(features) == pytest.approx(3 / 5)  # always 0, always 1, never positive
    assert active_share(features) == pytest.approx(7 / 20)


def test_hoyer_sparsity_worked_out_by_hand():
    assert hoyer(torch.tensor([[0.0, 0, 3, 0]])) == pytest.approx(1)
    assert hoyer(torch.tensor([[2.0, -2, 2, 2]])) == pytest.approx(0)
    assert hoyer(torch.tensor([[3.0, 4, 0, 0]])) == pytest.approx(2 - 7 / 5)
    assert hoyer(torch.tensor([[0.0, 0, 3, 0], [2, 2, 2, 2], [0, 0, 0, 0]])) == pytest.approx(0.5)
    assert hoyer(torch.zeros(3, 4)) is None
    assert hoyer(torch.ones(3, 1)) is None


# --- R7, R8, R11 ---


def pairwise_separation(features: Tensor, labels: Tensor) -> float:
    """Kornblith et al. (2021), eq. 11, pair by pair."""
    cosine = F.cosine_similarity(features[:, None], features[None], dim=2, eps=1e-300)
    groups = [labels == k for k in labels.unique()]
    within = sum(float((1 - cosine[a][:, a]).mean()) for a in groups) / len(groups)
    total = sum(float((1 - cosine[a][:, b]).mean()) for a in groups for b in groups) / len(groups) ** 2
    return 1 - within / total


@settings(max_examples=15)
@given(seed=seeds, num_classes=st.integers(2, 5), dims=st.integers(1, 6))
def test_class_separation_is_that_of_all_pairs(seed, num_classes, dims):
    labels = torch.cat([torch.arange(num_classes), (gaussian(30, seed=seed).abs() * 2).long() % num_classes]) * 3
    features = gaussian(len(labels), dims, seed=seed + 1) + 0.5 * labels[:, None]
    features[0] = 0
    assert class_separation(features, labels) == pytest.approx(pairwise_separation(features, labels), abs=1e-9)


def test_two_classes_of_one_direction_each_are_entirely_separate():
    features = torch.tensor([[2.0, 0], [1, 0], [0, 5], [0, 1]])
    assert class_separation(features, torch.tensor([0, 0, 1, 1])) == pytest.approx(1)
    # Mixed: of the classes' two directions the mean cosine is 1/2 within as well as over all.
    assert class_separation(features, torch.tensor([0, 1, 0, 1])) == pytest.approx(0)
    assert class_separation(features, torch.zeros(4)) is None
    assert class_separation(features[:1].repeat(4, 1), torch.tensor([0, 0, 1, 1])) is None


def test_attribute_retention_is_relative_to_chance():
    assert attribute_retention(0.6, 0.9, 0.5) == pytest.approx(0.25)
    assert attribute_retention(0.4, 0.9, 0.5) == pytest.approx(-0.25)
    assert attribute_retention(0.6, 0.505, 0.5) is None


def test_members_that_differ_are_counted_pair_by_pair():
    predictions = [torch.tensor(p) for p in ([0, 1, 2, 3], [0, 1, 2, 0], [0, 1, 1, 1])]
    assert disagreement(predictions) == pytest.approx((1 + 2 + 2) / 4 / 3)
    assert disagreement(predictions[:1]) is None
    assert complementarity(0.8, [0.7, 0.75]) == pytest.approx(0.05)


# --- R1 ---


def network_of(features: nn.Module, num_features: int) -> Network:
    return Network(features, None, num_features)


def test_the_layers_of_an_mlp_are_its_hidden_activations():
    network = build(Architecture(name="mlp", image_shape=(1, 4, 4)), 3, seed=0)
    images = torch.randn(7, 1, 4, 4)
    _, first, _, second, _ = network.features
    hidden = first(images.flatten(1)).relu()
    found = layers(network, images)
    assert list(found) == ["linear1", "linear2"]
    torch.testing.assert_close(found["linear1"], hidden)
    torch.testing.assert_close(found["linear2"], second(hidden).relu())


def test_the_layers_of_a_cnn_are_averaged_over_positions_after_their_nonlinearity():
    network = build(Architecture(name="cnn", image_shape=(3, 16, 16), depth=2), 3, seed=0).eval()
    images = torch.randn(5, 3, 16, 16)
    found = layers(network, images)
    assert list(found) == ["conv1", "conv2"]
    torch.testing.assert_close(found["conv1"], network.features[:3](images).mean((2, 3)))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_last_layer_of_every_architecture_is_what_a_probe_reads(name):
    width = 1.0 if name in ("raw", "diagonal") else 0.25
    network = build(Architecture(name=name, image_shape=(3, 16, 16), width=width), 3, seed=0)
    images = torch.randn(3, 3, 16, 16)
    found = layers(network, images)
    assert 1 <= len(found) <= 12
    assert all(activations.shape[0] == 3 and activations.ndim == 2 for activations in found.values())
    torch.testing.assert_close(list(found.values())[-1], extract(network.features, [images]))


def test_layers_have_the_names_they_always_had():
    def names(name: str) -> list[str]:
        shape = (3, 16, 16)
        network = build(Architecture(name=name, image_shape=shape, width=0.25), 3, seed=0)
        return list(layers(network, torch.zeros(1, *shape)))

    assert names("cnn") == ["conv1", "conv2", "conv3", "conv4"]
    assert names("resnet18") == ["conv1", "layer1", "layer2", "layer3", "layer4"]
    assert names("vit_tiny") == [f"block{i}" for i in range(1, 13)]


def test_torchvisions_residual_network_is_read_at_its_stages():
    model = ResNet(BasicBlock, [1, 1, 1, 1])
    model.fc = nn.Identity()
    images = torch.randn(2, 3, 32, 32)
    found = layers(network_of(model, 512), images)
    assert list(found) == ["conv1", "layer1", "layer2", "layer3", "layer4"]
    with torch.no_grad():
        model.eval()
        torch.testing.assert_close(found["conv1"], model.bn1(model.conv1(images)).relu().mean((2, 3)))
        torch.testing.assert_close(found["layer4"], model(images))


def test_torchvisions_vision_transformer_is_read_at_the_class_token_of_its_blocks():
    model = VisionTransformer(image_size=8, patch_size=4, num_layers=3, num_heads=2, hidden_dim=8, mlp_dim=16)
    model.heads = nn.Identity()
    nn.init.normal_(model.class_token)
    images = torch.randn(2, 3, 8, 8)
    found = layers(network_of(model, 8), images)
    assert list(found) == ["block1", "block2", "block3"]
    with torch.no_grad():
        model.eval()
        tokens = torch.cat([model.class_token.expand(2, -1, -1), model._process_input(images)], dim=1)
        first = model.encoder.layers[0](tokens + model.encoder.pos_embedding)
        torch.testing.assert_close(found["block1"], first[:, 0])
        torch.testing.assert_close(found["block3"], model(images))


def test_layers_that_keep_their_channels_last_are_averaged_over_positions_too():
    model = SwinTransformer([4, 4], 8, depths=[1, 1], num_heads=[2, 2], window_size=[2, 2])
    model.head = nn.Identity()
    images = torch.randn(2, 3, 16, 16)
    found = layers(network_of(model, 16), images)
    assert {name: found[name].shape[1] for name in found} == {f"features.{i}": d for i, d in enumerate([8, 8, 16, 16])}
    torch.testing.assert_close(found["features.3"], extract(model, [images]))


def test_twelve_layers_of_a_deep_network_are_read_the_first_and_the_last_among_them():
    network = build(Architecture(name="mlp", image_shape=(1, 4, 4), depth=30, width=0.1), 3, seed=0)
    found = list(layers(network, torch.zeros(1, 1, 4, 4)))
    assert len(found) == 12
    assert (found[0], found[-1]) == ("linear1", "linear30")


def test_reading_layers_leaves_the_network_as_it_was_and_depends_on_no_batch(monkeypatch):
    network = build(Architecture(name="cnn", image_shape=(3, 16, 16)), 3, seed=0).train()
    images = torch.randn(10, 3, 16, 16)
    whole = layers(network, images)
    monkeypatch.setattr(retention, "BATCH", 3)
    for name, part in layers(network, images).items():
        torch.testing.assert_close(part, whole[name])
    assert all(module.training and not module._forward_hooks for module in network.modules())


# --- All of it ---

KEYS = {
    "cka", "debiased_cka", "svcca", "pwcca", "cca_r2", "predictability", "predictability_ceiling",
    "predictability_floor", "retention", "effective_rank", "participation_ratio", "stable_rank", "dimensions_99",
    "dead_share", "hoyer", "active_share", "class_separation", "direct_effective_rank", "direct_class_separation",
    "member_predictability", "disagreement", "complementarity", "layers", "attributes", "num_examples",
}  # fmt: skip


@pytest.fixture(scope="module")
def digits():
    return components.load(components.prepare(Source(dataset="digits")))


def small(seed: int) -> Network:
    return build(Architecture(name="mlp", width=0.5, image_shape=(1, 8, 8)), 10, seed)


def images_of(data, split, count):
    images, labels = split.gather(torch.arange(min(count, len(split))))
    return to_float(images, data.value_range), labels


def trained(data, seed: int, steps: int = 200, merged: int = 1) -> Network:
    """Trained to tell the digits apart, or, `merged` > 1, only groups of so many neighbouring ones."""
    network = small(seed)
    images, labels = images_of(data, data.train, 2000)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = torch.randint(len(images), (64,), generator=generator)
        loss = F.cross_entropy(network(images[batch]), labels[batch] // merged)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network


@pytest.fixture(scope="module")
def networks(digits):
    """Two direct networks, two of a task that has less to tell apart, and the latter's initialisation."""
    return {
        "direct": trained(digits, 0),
        "ceiling": trained(digits, 1),
        "mixture": [trained(digits, seed, merged=5) for seed in (2, 3)],
        "floor": [small(seed) for seed in (2, 3)],
    }


def numbers_in(found):
    for value in found.values():
        if isinstance(value, list):
            for row in value:
                yield from numbers_in({k: v for k, v in row.items() if k != "layer"})
        else:
            yield value


def test_a_network_that_was_not_to_tell_digits_apart_retains_less_than_a_direct_one(digits, networks):
    found = measure(
        networks["mixture"], networks["direct"], networks["ceiling"], networks["floor"], digits, CPU, examples=1000
    )
    assert set(found) == KEYS
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert all(isinstance(value, (int, float)) and math.isfinite(value) for value in numbers_in(found))
    assert found["num_examples"] == len(digits.test)
    assert max(found["predictability"], found["predictability_floor"]) < found["predictability_ceiling"] < 1
    expected = retention.retention(*(found[f"predictability{end}"] for end in ("", "_ceiling", "_floor")))
    assert found["retention"] == expected < 1
    for name in ("cka", "debiased_cka", "svcca", "pwcca", "cca_r2"):
        assert 0 < found[name] < 1
    for name in ("effective_rank", "participation_ratio", "stable_rank", "dimensions_99"):
        assert 1 <= found[name] <= 64
    assert 0 < found["class_separation"] < 1
    assert 0 < found["direct_class_separation"] < 1
    assert 0 < found["member_predictability"] < 1
    assert [row["layer"] for row in found["layers"]] == ["linear1", "linear2"]
    last = found["layers"][-1]
    assert last["dimensions"] == 32
    assert last["direct_accuracy"] > last["accuracy"] > last["shots_accuracy"] > 0.3


def test_a_direct_network_retains_itself_and_random_ones_retain_nothing(digits, networks):
    def of_networks(*members: Network) -> dict[str, object]:
        arguments = networks["direct"], networks["ceiling"], networks["floor"]
        return measure(members, *arguments, digits, CPU, examples=500, layerwise=False)

    itself = of_networks(networks["direct"])
    for name in ("cka", "debiased_cka", "svcca", "pwcca", "cca_r2", "predictability"):
        assert itself[name] == pytest.approx(1, abs=1e-3), name
    assert itself["effective_rank"] == itself["direct_effective_rank"]
    assert itself["class_separation"] == itself["direct_class_separation"]
    assert of_networks(networks["ceiling"])["retention"] == 1
    assert of_networks(*networks["floor"])["retention"] == 0


def test_what_has_no_reference_or_no_second_member_is_absent(digits, networks):
    found = measure(networks["mixture"][:1], None, networks["ceiling"], networks["floor"], digits, CPU, examples=150)
    absent = {name for name in KEYS - {"layers", "attributes"} if found[name] is None}
    assert absent == {
        "cka", "debiased_cka", "svcca", "pwcca", "cca_r2", "predictability", "predictability_ceiling",
        "predictability_floor", "retention", "direct_effective_rank", "direct_class_separation",
        "member_predictability", "disagreement", "complementarity",
    }  # fmt: skip
    for row in found["layers"]:
        assert row["direct_accuracy"] is None
        assert row["shots_accuracy"] is None  # a class has fewer than 20 of 150 training examples
    without = measure(networks["mixture"][:1], networks["direct"], None, [], digits, CPU, layerwise=False)
    assert without["predictability"] > 0
    assert (without["predictability_ceiling"], without["predictability_floor"], without["retention"]) == (None,) * 3
    assert without["layers"] == []


def test_numbers_are_of_the_first_test_examples_and_layers_of_a_probe_of_the_training_ones(digits, networks):
    found = measure(networks["mixture"], networks["direct"], None, [], digits, CPU, examples=300, l2s=(1e-2,))
    images, labels = images_of(digits, digits.test, 300)
    direct = extract(networks["direct"].features, [images])
    mixture = torch.cat([extract(network.features, [images]) for network in networks["mixture"]], dim=1)
    assert found["num_examples"] == 300
    assert found["cka"] == pytest.approx(gram_cka(direct.double(), mixture.double()), abs=1e-6)
    assert found["class_separation"] == pytest.approx(class_separation(mixture, labels))
    assert found["effective_rank"] == pytest.approx(effective_rank(principal_variances(mixture)))

    def splits_of(*members: Network):
        for split in (digits.train, digits.validation, digits.test):
            images, labels = images_of(digits, split, 300)
            yield torch.cat([extract(member.features, [images]) for member in members], dim=1), labels

    def probed(*members: Network):
        splits = list(splits_of(*members))
        result = linear_probe(*splits, 10, (1e-2,))
        return result.test_accuracy, result.probe.logits(splits[2][0]).argmax(1)

    pairs = list(zip(*(splits_of(network) for network in networks["mixture"]), strict=True))
    there = predictability(*(features for a, b in pairs for features in (a[0], b[0])))
    back = predictability(*(features for a, b in pairs for features in (b[0], a[0])))
    assert found["member_predictability"] == pytest.approx((there + back) / 2)
    (first, first_says), (second, second_says) = (probed(network) for network in networks["mixture"])
    assert found["layers"][-1]["accuracy"] == first
    assert found["disagreement"] == pytest.approx(float((first_says != second_says).double().mean()))
    assert 0 < found["disagreement"] <= 2 - first - second  # where both are right they agree
    assert found["complementarity"] == pytest.approx(probed(*networks["mixture"])[0] - max(first, second))


def test_a_few_shot_probe_sees_the_first_twenty_of_each_class(digits, networks):
    found = measure(networks["mixture"], None, None, [], digits, CPU, examples=1000, l2s=(1e-2,))
    images, labels = images_of(digits, digits.train, 1000)
    shown = torch.cat([(labels == k).nonzero().flatten()[:20] for k in range(10)])
    features = networks["mixture"][0].features
    train = extract(features, [images[shown]]), labels[shown]
    validation, test = (
        (extract(features, [images]), labels)
        for images, labels in (images_of(digits, split, 1000) for split in (digits.validation, digits.test))
    )
    assert found["layers"][-1]["shots_accuracy"] == linear_probe(train, validation, test, 10, (1e-2,)).test_accuracy


def test_more_features_than_examples_are_compared_all_the_same(digits, networks):
    found = measure(
        networks["mixture"], networks["direct"], None, [], digits, CPU, examples=50, l2s=(0.1,), layerwise=False
    )
    images, _ = images_of(digits, digits.test, 50)
    direct = extract(networks["direct"].features, [images]).double()
    mixture = torch.cat([extract(network.features, [images]) for network in networks["mixture"]], dim=1).double()
    assert found["cka"] == pytest.approx(gram_cka(direct, mixture), abs=1e-9)
    assert found["debiased_cka"] == pytest.approx(gram_debiased_cka(direct, mixture), abs=1e-9)
    assert found["cca_r2"] is None


def test_features_that_are_not_finite_are_refused(digits):
    broken = small(0)
    nn.init.constant_(broken.features[1].weight, math.inf)
    with pytest.raises(ValueError, match="not finite"):
        measure([broken], None, None, [], digits, CPU, examples=50)


@pytest.mark.gpu
def test_a_gpu_measures_what_a_cpu_measures(digits, networks):
    def on(device: str) -> dict[str, object]:
        parts = networks["direct"], networks["ceiling"], networks["floor"]
        return measure(networks["mixture"], *parts, digits, torch.device(device), examples=500, layerwise=False)

    on_cpu, on_gpu = on("cpu"), on("cuda")
    for name in KEYS - {"layers", "attributes"}:
        assert on_gpu[name] == pytest.approx(on_cpu[name], rel=1e-3, abs=1e-3), name


def test_a_unit_that_is_active_on_a_handful_of_examples_does_not_decide_predictability():
    generator = torch.Generator().manual_seed(0)
    source, other = torch.randn(1500, 4, generator=generator), torch.randn(1500, 4, generator=generator)
    spikes = torch.zeros(1500, 1)
    spikes[[3, 1100, 1200]] = torch.tensor([[1e-3], [5.0], [7.0]])  # one faint example in training, two strong in test
    splits = slice(0, 1000), slice(1000, 1050), slice(1050, 1500)

    def r2(first, second):
        return predictability(*(features[split] for split in splits for features in (first, second)))

    target = source + 0.1 * other
    assert r2(torch.cat([source, spikes], 1), target) == pytest.approx(r2(source, target), abs=1e-6)
    assert r2(source, torch.cat([target, spikes], 1)) == pytest.approx(r2(source, target), abs=1e-6)


def test_what_a_constructed_image_was_made_from_is_read_from_features():
    source = Source(dataset="dominoes", train_examples=400, validation_examples=100, test_examples=200)
    data = components.load(components.prepare(source))
    network = build(Architecture(name="mlp", image_shape=(1, 8, 16)), 0, 0)
    found = measure([network], network, None, [], data, CPU, layerwise=False)["attributes"]
    assert [each["attribute"] for each in found] == ["left", "right"]
    assert all(each["accuracy"] == each["direct_accuracy"] > each["chance_accuracy"] for each in found)
    assert [each["retention"] for each in found] == [1.0, 1.0]
