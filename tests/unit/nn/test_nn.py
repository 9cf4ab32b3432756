import pytest
import torch
from torch import nn

from genlab.nn.norm import (
    BatchNorm,
    SelfModulation,
    couples_batch,
    discriminator_norm,
    frozen_statistics,
)
from genlab.nn.spectral_norm import advance_spectral_norm, spectral_norm


@pytest.mark.parametrize("layer", [nn.Linear(20, 12), nn.Conv2d(3, 8, 4)])
def test_spectral_norm_agrees_with_an_svd(layer):
    matrix = layer.weight.detach().double().flatten(1)
    layer = spectral_norm(layer.double())
    for _ in range(500):
        advance_spectral_norm(layer)
    torch.testing.assert_close(
        layer.weight.flatten(1), matrix / torch.linalg.svdvals(matrix)[0], rtol=1e-6, atol=1e-8
    )


def test_spectral_norm_moves_only_when_advanced():
    layer = spectral_norm(nn.Linear(20, 12)).train()
    x = torch.randn(2, 20)
    first = layer(x)
    assert torch.equal(first, layer(x))
    advance_spectral_norm(nn.Sequential(layer))
    assert not torch.equal(first, layer(x))


def test_spectral_norm_differentiates_sigma():
    layer = spectral_norm(nn.Linear(5, 4, bias=False).double())
    weight, normed = layer.parametrizations.weight.original, layer.parametrizations.weight[0]
    assert torch.autograd.gradcheck(normed, (weight.detach().requires_grad_(),))


def test_self_modulation_is_its_formula():
    torch.manual_seed(0)
    layer = SelfModulation(6, 5, hidden_dim=7).double()
    h = torch.randn(8, 6, 3, 3).double()
    z = torch.randn(8, 5).double()
    mean, var = h.mean((0, 2, 3), keepdim=True), h.var((0, 2, 3), unbiased=False, keepdim=True)
    (a, _, b), (c, _, d) = layer.mlps
    gamma = (z @ a.weight.T + a.bias).relu() @ b.weight.T + b.bias
    beta = (z @ c.weight.T + c.bias).relu() @ d.weight.T + d.bias
    expected = (h - mean) / (var + 1e-3).sqrt() * (1 + gamma[:, :, None, None]) + beta[
        :, :, None, None
    ]
    torch.testing.assert_close(layer(h, z), expected)


def test_frozen_statistics_uses_the_batch_and_leaves_the_running_ones():
    layer = BatchNorm(3, 1)
    x = torch.randn(16, 3, 2, 2) * 4 + 5
    with frozen_statistics(layer):
        y = layer(x, None)
    assert (
        y.mean().abs() < 1e-5
        and layer.running_mean.abs().max() == 0
        and layer.num_batches_tracked == 0
    )
    layer(x, None)
    assert layer.running_mean.abs().max() > 0 and layer.num_batches_tracked == 1


def test_which_norms_couple_a_batch():
    assert couples_batch(nn.Sequential(discriminator_norm("batch", 8)))
    assert not couples_batch(
        nn.Sequential(discriminator_norm("group", 8), discriminator_norm("none", 8))
    )
    with pytest.raises(ValueError, match=r"^norm="):
        discriminator_norm("instance", 8)
