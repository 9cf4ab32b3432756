"""Modulated normalisations against their formulas, and what a label changes."""

import pytest
import torch

from genlab.nn.head import Head
from genlab.nn.norm import AdaIN, BatchNorm, ConditionalBatchNorm, SelfModulation

H = torch.randn(8, 6, 3, 3).double()
C = torch.randn(8, 5).double()
Y = torch.tensor([0, 1, 2, 0, 1, 2, 2, 2])


def normalised(h, dims=(0, 2, 3), eps=1e-3):
    return (h - h.mean(dims, keepdim=True)) / (
        h.var(dims, unbiased=False, keepdim=True) + eps
    ).sqrt()


def modulated(h, gamma, beta):
    return (1 + gamma)[:, :, None, None] * h + beta[:, :, None, None]


def randomised(layer):
    torch.manual_seed(0)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer.double()


def test_conditional_batch_norm():
    layer = randomised(ConditionalBatchNorm(6, 5, 3))
    gamma, beta = layer.embedding.weight[Y].chunk(2, 1)
    torch.testing.assert_close(layer(H, C, Y), modulated(normalised(H), gamma, beta))
    with pytest.raises(ValueError, match=r"model\.num_classes="):
        ConditionalBatchNorm(6, 5)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("hidden_dim", [0, 4])
@pytest.mark.parametrize("num_classes", [0, 3])
def test_self_modulation(shared, hidden_dim, num_classes):
    layer = randomised(SelfModulation(6, 5, num_classes, hidden_dim, shared))
    c = C
    if num_classes:
        shift, scale = layer.label.weight[Y].chunk(2, 1)
        c = C + shift + scale * C
    outputs = []
    for mlp in layer.mlps:
        first, last = (mlp, None) if not hidden_dim else (mlp[0], mlp[2])
        value = c @ first.weight.T + first.bias
        outputs.append(value if last is None else value.relu() @ last.weight.T + last.bias)
    assert len(outputs) == (1 if shared or not hidden_dim else 2)
    gamma, beta = torch.cat(outputs, 1).chunk(2, 1)
    torch.testing.assert_close(layer(H, C, Y), modulated(normalised(H), gamma, beta))


def test_adain():
    layer = randomised(AdaIN(6, 5))
    gamma, beta = (C @ layer.affine.weight.T + layer.affine.bias).chunk(2, 1)
    torch.testing.assert_close(layer(H, C), modulated(normalised(H, (2, 3), 1e-5), gamma, beta))


def test_plain_batch_norm_ignores_condition_and_label():
    layer = BatchNorm(6, 5, 3).double()
    torch.testing.assert_close(layer(H, C, Y), normalised(H))


def test_projection_moves_the_mean_of_the_outputs_alone():
    head = randomised(Head(7, 4, 3))
    h = torch.randn(8, 7).double()
    expected = h @ head.dense.weight.T + head.dense.bias
    torch.testing.assert_close(head(h), expected)
    expected = expected + (head.embedding.weight[Y] * h).sum(1)[:, None]
    torch.testing.assert_close(head(h, Y), expected)
    a, b = head(h), head(h, Y)
    torch.testing.assert_close(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True))
    assert not torch.allclose(a.mean(1), b.mean(1))
