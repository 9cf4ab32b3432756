"""Gradient penalties of critics whose gradient is known."""

import pytest
import torch

from genlab.losses import penalties

X, K = torch.rand(6, 2, 3, 3).double(), torch.rand(6, 2, 3, 3).double()
A = torch.randn(18).double()


def linear(images):
    """Gradient a everywhere."""
    return images.flatten(1) @ A


def quadratic(images):
    """Gradient x at x."""
    return images.flatten(1).square().sum(1) / 2


def test_of_a_linear_critic():
    length = A.norm()
    expected = {
        "WGANGP": 10 * (length - 1) ** 2,
        "ZeroCentred": 10 * length**2,
        "R1": 5 * length**2,
        "WGANDiv": 2 * length**6,  # 2 / 2 (|a|^6 + |a|^6)
        "DRAGAN": 10 * (length - 1) ** 2,
    }
    assert set(expected) == set(penalties.__all__)
    for name, value in expected.items():
        got = getattr(penalties, name)()(linear, X, K)
        torch.testing.assert_close(got, value.expand(6), rtol=1e-9, atol=0)


def test_where_the_gradient_is_taken():
    x, k = X.flatten(1), K.flatten(1)
    torch.testing.assert_close(penalties.R1(2.0)(quadratic, X, K), x.square().sum(1))
    div = penalties.WGANDiv(2.0, 4.0)(quadratic, X, K)
    torch.testing.assert_close(div, x.square().sum(1) ** 2 + k.square().sum(1) ** 2)
    torch.manual_seed(0)
    u = torch.rand(6, 1, dtype=torch.double)
    torch.manual_seed(0)
    got = penalties.ZeroCentred(1.0)(quadratic, X, K)
    torch.testing.assert_close(got, ((1 - u) * x + u * k).square().sum(1))
    torch.manual_seed(0)
    noise = X.std() * (torch.rand_like(X) - 0.5)
    torch.manual_seed(0)
    got = penalties.DRAGAN(1.0)(quadratic, X, K)
    torch.testing.assert_close(got, ((X + noise).flatten(1).norm(dim=1) - 1).square())


@pytest.mark.parametrize("name", penalties.__all__)
def test_it_trains_the_critic_and_stays_finite_where_its_gradient_is_zero(name):
    weight = torch.zeros(18, dtype=torch.double, requires_grad=True)
    value = getattr(penalties, name)()(lambda images: images.flatten(1) @ weight, X, K).mean()
    value.backward()
    assert weight.grad.isfinite().all()
    weight = A.clone().requires_grad_()
    getattr(penalties, name)()(lambda images: images.flatten(1) @ weight, X, K).mean().backward()
    assert weight.grad.norm() > 0


def test_under_autocast_it_is_taken_in_full_precision():
    critic = torch.nn.Linear(18, 1)
    x, k = X.float(), K.float()
    expected = penalties.R1()(lambda images: critic(images.flatten(1))[:, 0], x, k)
    with torch.autocast("cpu", torch.bfloat16):
        got = penalties.R1()(lambda images: critic(images.flatten(1))[:, 0], x, k)
    assert torch.equal(got, expected)
