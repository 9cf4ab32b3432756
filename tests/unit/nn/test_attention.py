import pytest
import torch

from genlab.nn.attention import SelfAttention


def attention(num_features: int, gamma: float) -> SelfAttention:
    layer = SelfAttention(num_features).double()
    torch.nn.init.constant_(layer.gamma, gamma)
    return layer


@pytest.mark.parametrize("num_features", [2, 16])
def test_attention_is_its_formula_pixel_by_pixel(num_features):
    layer, x = attention(num_features, 0.7), torch.randn(2, num_features, 4, 6).double()
    theta, phi, g, o = (m.weight[:, :, 0, 0] for m in (layer.theta, layer.phi, layer.g, layer.o))
    windows = [(i, j) for i in range(0, 4, 2) for j in range(0, 6, 2)]
    expected = torch.empty_like(x)
    for b in range(2):
        phis, gs = (torch.einsum("dc,chw->dhw", weight, x[b]) for weight in (phi, g))
        keys = [phis[:, i : i + 2, j : j + 2].amax((1, 2)) for i, j in windows]
        values = [gs[:, i : i + 2, j : j + 2].amax((1, 2)) for i, j in windows]
        for i in range(4):
            for j in range(6):
                scores = torch.stack([(theta @ x[b, :, i, j]).dot(key) for key in keys])
                weights = scores.exp() / scores.exp().sum()
                mix = sum(weight * value for weight, value in zip(weights, values, strict=True))
                expected[b, :, i, j] = x[b, :, i, j] + 0.7 * (o @ mix)
    torch.testing.assert_close(layer(x), expected)


def test_attention_has_the_papers_codes_widths_and_no_biases():
    shapes = {name: tuple(p.shape) for name, p in SelfAttention(64).named_parameters()}
    assert shapes == {
        "gamma": (),
        "theta.weight": (8, 64, 1, 1),
        "phi.weight": (8, 64, 1, 1),
        "g.weight": (32, 64, 1, 1),
        "o.weight": (64, 32, 1, 1),
    }


def test_attention_starts_as_the_identity():
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(SelfAttention(8)(x), x)


def test_attentions_inner_weights_learn_once_gamma_is_not_zero():
    x = torch.randn(2, 16, 4, 4).double()
    for gamma in (0.0, 0.5):
        layer = attention(16, gamma)
        layer(x).square().sum().backward()
        assert layer.gamma.grad != 0
        assert all(
            (layer.get_submodule(name).weight.grad.abs().max() > 0) == (gamma != 0)
            for name in ("theta", "phi", "g", "o")
        )


def test_attention_can_be_differentiated_twice_as_gradient_penalties_do():
    layer = attention(2, 0.7)
    assert torch.autograd.gradgradcheck(layer, (torch.randn(1, 2, 4, 4).double().requires_grad_(),))
