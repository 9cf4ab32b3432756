"""Distances between images against plain loops and scipy."""

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import nn

from genlab.losses.reconstruction import L1, L2, FeatureDistance, Laplacian, laplacian_pyramid


def images(channels=3, size=32, count=4):
    return torch.rand(2, count, channels, size, size, dtype=torch.double) * 2 - 1


def test_l1_and_l2_are_means_of_each_pair():
    x, y = images()
    assert L1()(x, y)[2].item() == pytest.approx(np.abs((x - y)[2].numpy()).mean(), rel=1e-12)
    assert L2()(x, y)[2].item() == pytest.approx(np.square((x - y)[2].numpy()).mean(), rel=1e-12)
    assert L1()(x, y).shape == L2()(x, y).shape == (4,)


def test_a_pyramids_levels_are_scipys_blur_and_its_means():
    x = images(size=16)[0]
    row = np.exp(-(np.arange(-2, 3) ** 2) / 8.0)
    kernel = np.outer(row, row) / row.sum() ** 2
    plane, levels = x[1, 2].numpy(), laplacian_pyramid(x, 2)
    for level in levels[:2]:
        blurred = scipy.ndimage.correlate(plane, kernel, mode="nearest")
        np.testing.assert_allclose(level[1, 2].numpy(), plane - blurred, atol=1e-14)
        plane = blurred.reshape(len(plane) // 2, 2, len(plane) // 2, 2).mean((1, 3))
    np.testing.assert_allclose(levels[2][1, 2].numpy(), plane, atol=1e-14)


def test_the_laplacian_distance_sums_the_levels_means():
    x, y = images()
    weights = [1.0, 0.5, 2.0, 3.0]
    pairs = zip(laplacian_pyramid(x), laplacian_pyramid(y), strict=True)
    means = [(a - b).abs().mean((1, 2, 3)) for a, b in pairs]
    torch.testing.assert_close(Laplacian()(x, y), sum(means))
    torch.testing.assert_close(
        Laplacian(3, weights)(x, y), sum(w * m for w, m in zip(weights, means, strict=True))
    )
    assert Laplacian()(x, x).abs().max() == 0


def test_settings_that_do_not_fit_are_refused_by_key():
    with pytest.raises(ValueError, match=r"loss\.weights"):
        Laplacian(3, [1.0])
    with pytest.raises(ValueError, match=r"loss\.num_levels=5"):
        Laplacian(5)(*images(size=16))


class Data:
    channels, image_size = 3, 16


def test_a_feature_distance_is_that_of_the_pixels_and_of_each_map():
    network = nn.Conv2d(3, 5, 3)
    distance = FeatureDistance(lambda data: lambda x: [network(x), network(x).square()])
    x, y = images(size=16).float()
    with pytest.raises(ValueError, match=r"^loss: .*system\.bind"):
        distance(x, y)
    distance.bind(Data())
    maps = [(network(x) - network(y)).abs(), (network(x).square() - network(y).square()).abs()]
    torch.testing.assert_close(
        distance(x, y), sum(d.mean((1, 2, 3)) for d in [(x - y).abs(), *maps])
    )


def test_a_network_without_a_gradient_is_refused():
    with pytest.raises(ValueError, match=r"^loss\.network: "):
        FeatureDistance(lambda data: lambda x: [x.round().to(torch.uint8)]).bind(Data())
