import numpy as np
import pytest
import torch

from genlab.losses import gan
from genlab.losses.code import pearson, standardise

R, F = torch.tensor([-2.0, 0.3, 4.0]).double(), torch.tensor([1.5, -0.2, -3.0]).double()
X, K = torch.rand(3, 1, 2, 2).double(), torch.rand(3, 1, 2, 2).double()


def sigmoid(v):
    return 1 / (1 + np.exp(-v.numpy()))


CLOSED = {
    "NonSaturating": (-np.log(sigmoid(R)) - np.log(1 - sigmoid(F)), -np.log(sigmoid(F))),
    "Hinge": (np.maximum(0, 1 - R.numpy()) + np.maximum(0, 1 + F.numpy()), -F.numpy()),
    "WGAN": ((F - R).numpy(), -F.numpy()),
    "LSGAN": ((((R - 1) ** 2 + F**2) / 2).numpy(), ((F - 1) ** 2 / 2).numpy()),
    "RSGAN": (-np.log(sigmoid(R - F)), -np.log(sigmoid(F - R))),
    "GANQP": ((F - R + 0.25 * (R - F) ** 2 / ((X - K) ** 2).mean((1, 2, 3))).numpy(), -F.numpy()),
}


def test_every_loss_has_its_closed_form_here():
    assert set(CLOSED) == set(gan.__all__) - {"AdversarialLoss"}


@pytest.mark.parametrize("name", CLOSED)
def test_losses_are_their_closed_forms(name):
    loss = getattr(gan, name)()
    assert isinstance(loss, gan.AdversarialLoss)
    np.testing.assert_allclose(loss.discriminator(R, F, X, K).numpy(), CLOSED[name][0], rtol=1e-12)
    np.testing.assert_allclose(loss.generator(R, F).numpy(), CLOSED[name][1], rtol=1e-12)


@pytest.mark.parametrize("name", CLOSED)
def test_symmetric_says_whether_the_two_pulls_are_opposite(name):
    loss, f = getattr(gan, name)(), (3 * torch.randn(50).double()).requires_grad_()
    x = torch.rand(50, 1, 2, 2).double()
    (a,) = torch.autograd.grad(loss.discriminator(torch.zeros_like(f), f, x, 1 - x).sum(), f)
    (b,) = torch.autograd.grad(loss.generator(torch.zeros_like(f), f).sum(), f)
    assert torch.allclose(a, -b) == loss.symmetric


def test_the_drift_of_wgan_holds_real_scores_near_zero():
    torch.testing.assert_close(gan.WGAN(drift=0.1).discriminator(R, F, X, K), F - R + 0.1 * R**2)
    assert torch.equal(gan.WGAN(drift=0.1).generator(R, F), -F)


def test_gan_qp_l1_and_its_error():
    d = (X - K).abs().mean((1, 2, 3))
    torch.testing.assert_close(
        gan.GANQP(0.05, "l1").discriminator(R, F, X, K), F - R + 0.05 * (R - F) ** 2 / d
    )
    with pytest.raises(ValueError, match=r"loss\.distance='l3'"):
        gan.GANQP(distance="l3")


def test_pearson_is_numpys_correlation_and_ignores_mean_and_scale():
    u, v = torch.randn(4, 9).double(), torch.randn(4, 9).double()
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(u.numpy(), v.numpy(), strict=True)]
    np.testing.assert_allclose(pearson(u, v).numpy(), expected, rtol=1e-12)
    torch.testing.assert_close(pearson(u, 3 * v + 7), pearson(u, v))


def test_standardise_has_mean_zero_and_population_std_one():
    v = standardise(5 * torch.randn(6, 20).double() + 3)
    assert v.mean(1).abs().max() < 1e-12
    torch.testing.assert_close(v.std(1, unbiased=False), torch.ones(6).double())
