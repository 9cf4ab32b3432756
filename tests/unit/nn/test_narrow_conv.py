"""Convolutions to few channels have the values and first two derivatives of torch's own."""

import pytest
import torch
from torch.nn.functional import conv2d

from genlab.nn import narrow_conv
from genlab.nn.narrow_conv import adjoint_kernel, conv2d_same, conv2d_same_weight_gradient

# C_in, C_out, H, W and the kernel's sides: with blocks of 2x2, 4x4, 2x1 or 1x2 pixels, or none,
# forward or backward
CASES = [
    (16, 4, 4, 6, 3, 3),
    (20, 1, 8, 8, 3, 3),
    (4, 17, 4, 4, 3, 3),
    (32, 3, 6, 5, 5, 3),
    (16, 8, 3, 8, 3, 3),
    (16, 12, 4, 4, 1, 1),
]


def both(case, monkeypatch):
    """Outputs of torch's convolution and ours, x, weight and bias; in float64, channels last."""
    monkeypatch.setattr(narrow_conv, "MIN_WORK", 0)
    c_in, c_out, height, width, *kernel = case
    torch.manual_seed(0)
    x = torch.randn(2, c_in, height, width).double().contiguous(memory_format=torch.channels_last)
    weight = torch.randn(c_out, c_in, *kernel).double()
    bias = torch.randn(c_out).double()
    tensors = [t.requires_grad_() for t in (x, weight, bias)]
    plain = conv2d(*tensors, padding=[k // 2 for k in kernel])
    return plain, conv2d_same(*tensors), *tensors


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_conv2d(case, monkeypatch):
    plain, ours, *tensors = both(case, monkeypatch)
    assert type(ours.grad_fn).__name__ == "_Conv2dSameBackward"  # else both would be torch's
    torch.testing.assert_close(ours, plain)
    grad = torch.randn_like(plain)
    first = [torch.autograd.grad(y, tensors, grad, create_graph=True) for y in (plain, ours)]
    torch.testing.assert_close(*first)
    scalars = [sum(g.sin().sum() for g in grads) for grads in first]
    second = [torch.autograd.grad(scalar, tensors[:2]) for scalar in scalars]
    torch.testing.assert_close(*second)


def test_blocks_fill_the_lanes(monkeypatch):
    monkeypatch.setattr(narrow_conv, "MIN_WORK", 0)
    # 14 is a multiple of 2 and not of 4.
    x = torch.zeros(1, 64, 14, 14).contiguous(memory_format=torch.channels_last)
    blocks = [narrow_conv._block(x, torch.zeros(c, 64, 3, 3)) for c in (1, 3, 4, 8, 12, 16, 64)]
    assert blocks == [(2, 2), (2, 2), (2, 2), (2, 1), (1, 1), (1, 1), (1, 1)]
    uneven = x[:, :, :8, :7].contiguous(memory_format=torch.channels_last)
    assert narrow_conv._block(uneven, torch.zeros(1, 64, 3, 3)) == (4, 1)
    not_channels_last = x.contiguous()
    assert narrow_conv._block(not_channels_last, torch.zeros(4, 64, 3, 3)) == (1, 1)


@pytest.mark.parametrize("case", CASES[:3])
def test_the_transpose_and_the_gradient_of_the_weight(case, monkeypatch):
    plain, _, x, weight, _ = both(case, monkeypatch)
    grad = torch.randn_like(plain)
    expected = torch.autograd.grad(plain, [x, weight], grad)
    torch.testing.assert_close(conv2d_same(grad, adjoint_kernel(weight)), expected[0])
    torch.testing.assert_close(conv2d_same_weight_gradient(grad, x, weight), expected[1])


def test_one_channel_keeps_channels_last(monkeypatch):
    _, ours, x, *_ = both((16, 1, 4, 4, 3, 3), monkeypatch)
    (grad,) = torch.autograd.grad(ours, x, torch.randn(ours.shape).double())
    assert grad.is_contiguous(memory_format=torch.channels_last)
