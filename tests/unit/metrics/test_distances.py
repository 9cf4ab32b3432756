"""Distances between feature sets against closed forms, scipy and torchmetrics."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torchmetrics.image.kid import poly_mmd

from genlab.evaluation.images import class_score
from genlab.metrics.frechet import Moments, frechet_distance
from genlab.metrics.neighbours import (
    density_coverage,
    kernel_distance,
    nearest,
    precision_recall,
    spread,
)
from genlab.metrics.prd import f_beta, prd_curve


def moments(features):
    metric = Moments(features.shape[1])
    for part in features.split(37):
        metric.update(part)
    return metric.compute()


def cloud(count, dim, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=generator, dtype=torch.double)
    return torch.randn(count, dim, generator=generator, dtype=torch.double) @ mix + seed


def test_moments_are_numpys():
    features = cloud(500, 8, seed=3)
    mean, cov = moments(features)
    np.testing.assert_allclose(mean, features.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(cov, np.cov(features.numpy().T), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("count", [400, 12])  # 12 images of 20 features: singular covariances
def test_frechet_distance_is_that_of_scipys_matrix_root(count):
    a, b = moments(cloud(count, 20, seed=0)), moments(cloud(count, 20, seed=1))
    root = torch.from_numpy(scipy.linalg.sqrtm(a[1].numpy() @ b[1].numpy()).real)
    expected = ((a[0] - b[0]) ** 2).sum() + (a[1] + b[1] - 2 * root).trace()
    # sqrtm itself loses half the digits on a singular product
    tolerance = 1e-10 if count == 400 else 1e-5
    torch.testing.assert_close(frechet_distance(a, b), expected, rtol=tolerance, atol=0)
    torch.testing.assert_close(frechet_distance(b, a), expected, rtol=tolerance, atol=0)


def test_frechet_distance_of_known_gaussians():
    eye = torch.eye(3, dtype=torch.double)
    zero = torch.zeros(3, dtype=torch.double)
    a = (zero, 4 * eye)
    assert frechet_distance(a, a).abs() < 1e-12
    assert frechet_distance(a, (zero + 2, 4 * eye)).item() == pytest.approx(12)  # |(2, 2, 2)|^2
    assert frechet_distance(a, (zero, 9 * eye)).item() == pytest.approx(3)  # 3 (3 - 2)^2
    shifted = moments(cloud(300, 5) + 7), moments(cloud(300, 5))
    assert frechet_distance(*shifted).item() == pytest.approx(5 * 49, rel=1e-9)


def test_one_image_is_too_few():
    metric = Moments(3)
    metric.update(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="Frechet"):
        metric.compute()


def test_kernel_distance_is_torchmetrics():
    real, fake = cloud(50, 6, seed=0) / 3, cloud(50, 6, seed=1) / 3
    expected = poly_mmd(real, fake, degree=3, gamma=None, coef=1.0)
    # a subset as large as the sets is the sets, in another order
    ours = kernel_distance(real, fake, num_subsets=3, subset_size=50)
    assert ours == pytest.approx(expected.item(), rel=1e-9)


def test_kernel_distance_of_equal_distributions_is_near_zero():
    few = {"num_subsets": 20, "subset_size": 200}
    same = kernel_distance(*cloud(2000, 6).split(1000), **few)
    other = kernel_distance(cloud(1000, 6), cloud(1000, 6, seed=1), **few)
    assert abs(same) < 0.02 * other


def test_precision_and_recall_of_known_clouds():
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(400, 2, generator=generator)
    assert precision_recall(real, real) == (1.0, 1.0)
    assert precision_recall(real, real + 100) == (0.0, 0.0)
    corner = real[(real > 0).all(1)]
    precision, recall = precision_recall(real, corner)
    assert precision == 1.0 and 0.2 < recall < 0.4  # a quarter of the real images, and the rim
    wide = torch.cat([real, real + 100])
    precision, recall = precision_recall(real, wide)
    assert precision == pytest.approx(0.5) and recall == 1.0


def test_the_ball_reaches_the_kth_nearest_other_point():
    real = torch.tensor([[0.0], [1.0], [3.0], [7.0]])  # balls of the second nearest: 3, 2, 3, 6
    inside, outside = torch.tensor([[-2.9]]), torch.tensor([[13.1]])
    padding = torch.tensor([[50.0], [60.0], [70.0]])
    assert precision_recall(real, torch.cat([inside, padding]), 2)[0] == 0.25
    assert precision_recall(real, torch.cat([outside, padding]), 2)[0] == 0.0


def test_spread_is_the_root_mean_squared_distance_of_two():
    features = cloud(40, 3)
    pairs = torch.cdist(features, features).square().sum() / (40 * 39)
    assert spread(features) == pytest.approx(pairs.sqrt().item(), rel=1e-9)
    assert spread(features[:1].expand(5, -1)) == pytest.approx(0, abs=1e-9)


def test_density_and_coverage_of_known_clouds():
    # balls of the second nearest: 3, 2, 3, 6, 17
    real = torch.tensor([[0.0], [1.0], [3.0], [7.0], [20.0]])
    fake = torch.tensor([[0.5], [100.0]])  # in the balls of 0, 1 and 3, and in none
    density, coverage = density_coverage(real, fake, 2)
    assert density == pytest.approx(3 / (2 * 2)) and coverage == pytest.approx(3 / 5)


def test_the_nearest_come_first():
    points, others = torch.tensor([[0.0], [10.0]]), torch.tensor([[9.0], [-1.0], [3.0], [12.5]])
    found = nearest(points, others, 2)
    assert found.rows.tolist() == [[1, 2], [0, 3]]
    assert found.distances.tolist() == [[1, 3], [1, 2.5]]


def test_prd_of_disjoint_equal_and_missing_modes():
    generator = torch.Generator().manual_seed(0)

    def modes(*counts):
        noise = 0.01 * torch.randn(sum(counts), 2, generator=generator)
        centres = 10.0 * torch.repeat_interleave(torch.arange(4), torch.tensor(counts))
        return noise + centres[:, None]

    def summary(real, fake, num_clusters=4):
        precision, recall = prd_curve(real, fake, num_clusters, num_runs=2)
        return f_beta(precision, recall, 1 / 8), f_beta(precision, recall, 8)

    real = modes(100, 100, 0, 0)
    assert summary(real, modes(100, 100, 0, 0), 2) == pytest.approx((1, 1), abs=1e-3)
    assert summary(real, modes(0, 0, 100, 100)) == pytest.approx((0, 0), abs=1e-3)
    # one of two modes: every sample good, half of the data missing
    precise, recalls = summary(real, modes(200, 0, 0, 0), 2)
    assert precise == pytest.approx(1, abs=0.02) and recalls == pytest.approx(0.5, abs=0.02)
    precise, recalls = summary(real, modes(50, 50, 50, 50))
    assert precise == pytest.approx(0.5, abs=0.02) and recalls == pytest.approx(1, abs=0.02)


def test_the_class_score_counts_classes_that_are_sure_and_even():
    sure = 100 * torch.eye(5).repeat(20, 1)
    assert class_score(sure) == pytest.approx(5, rel=1e-6)
    assert class_score(torch.zeros(100, 5)) == pytest.approx(1)
    assert class_score(sure[:1].expand(100, -1)) == pytest.approx(1)
