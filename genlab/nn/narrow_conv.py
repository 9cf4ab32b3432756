"""Convolutions of images with few channels on one side, on a CPU.

oneDNN computes sixteen output channels at a time, so that 64 -> 4 channels cost as much as 64 ->
16. Here blocks of a x b neighbouring pixels fill the sixteen. A strided convolution computes a
block as its a b C_out channels; its larger kernel holds the given one at each place of the block.
The sums are the same, in two thirds of the time, forward and in the gradient of a layer that reads
few channels. A whole training step on one core of an AMD EPYC takes 8 % less CPU time for
experiment=iresnet_mnist (13 interleaved pairs of steps) and 2 % less for residual_flow_mnist (5
pairs, one block a scale). experiment=iresnet_mnist5k is too small to use it.

For images in channels-last format. Elsewhere (other formats, other devices, small images) the
functions are torch's own.

Shapes: x (B, C_in, H, W); weight (C_out, C_in, K, L) with K and L odd; y (B, C_out, H, W).
"""

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import conv2d

__all__ = ["adjoint_kernel", "conv2d_same", "conv2d_same_weight_gradient"]

LANES = 16  # channels that oneDNN computes at a time
# Numbers on the wide side below which more calls cost more than fewer sums save.
MIN_WORK = 1 << 18


def conv2d_same(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """conv2d padded with zeros to the size of x: (B, C_in, H, W) -> (B, C_out, H, W)."""
    if _pays(x, weight):
        return _Conv2dSame.apply(x, weight, bias)
    return conv2d(x, weight, bias, padding=_padding(weight))


def adjoint_kernel(weight: Tensor) -> Tensor:
    """The kernel (C_in, C_out, K, L) of the transpose of `conv2d_same`."""
    # A copy: with one channel, contiguous() would leave the strides open, and with them the format
    # of the result.
    return weight.flip(2, 3).transpose(0, 1).clone(memory_format=torch.channels_last)


def conv2d_same_weight_gradient(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The gradient by weight of <grad, conv2d_same(x, weight)>; only the shape of weight counts."""
    a, b = _block(x, weight)
    if a * b == 1:
        return _strided_weight_gradient(grad, x, weight, 1, 1, _padding(weight))
    large = _strided_weight_gradient(
        _to_channels(grad, a, b), x, _spread(weight, a, b), a, b, _padding(weight)
    )
    large = large.unflatten(0, (-1, a, b))  # (C_out, a, b, C_in, K + a - 1, L + b - 1)
    height, width = weight.shape[2:]
    return sum(large[:, i, j, :, i : i + height, j : j + width] for i in range(a) for j in range(b))


class _Conv2dSame(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        a, b = _block(x, weight)
        if a * b == 1:
            return conv2d(x, weight, bias, padding=_padding(weight))
        bias = bias if bias is None else bias.repeat_interleave(a * b)
        large = _spread(weight, a, b)
        y = conv2d(x, large, bias, stride=(a, b), padding=_padding(weight))
        return _to_pixels(y, a, b)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_x = conv2d_same(grad, adjoint_kernel(weight)) if for_x else None
        grad_weight = conv2d_same_weight_gradient(grad, x, weight) if for_weight else None
        return grad_x, grad_weight, grad.sum((0, 2, 3)) if for_bias else None


def _padding(weight: Tensor) -> list[int]:
    return [k // 2 for k in weight.shape[2:]]


def _strided_weight_gradient(
    grad: Tensor, x: Tensor, weight: Tensor, a: int, b: int, padding: list[int]
) -> Tensor:
    # The other arguments: no bias, no dilation, not transposed; the gradient of the weight alone.
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, [a, b], padding, [1, 1], False, [0, 0], 1, [False, True, False]
    )[1]


@cache
def _best(c_out: int, kernel: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """The block of pixels with the fewest products a pixel, those of idle lanes included."""

    def cost(block: tuple[int, int]) -> float:
        a, b = block
        passes = -(-c_out * a * b // LANES)
        return passes * (kernel[0] + a - 1) * (kernel[1] + b - 1) / (a * b)

    blocks = ((a, b) for b in (1, 2, 4) for a in (1, 2, 4))
    return min(((a, b) for a, b in blocks if size[0] % a == 0 == size[1] % b), key=cost)


def _pays(x: Tensor, weight: Tensor) -> bool:
    """Whether blocks save time here, or in the gradient of x."""
    narrow, wide = sorted(weight.shape[:2])
    large = narrow < LANES <= wide and wide * x.numel() >= MIN_WORK * x.shape[1]
    elsewhere = x.device.type != "cpu" or torch.compiler.is_compiling()
    return large and not elsewhere and x.is_contiguous(memory_format=torch.channels_last)


def _block(x: Tensor, weight: Tensor) -> tuple[int, int]:
    """(a, b); (1, 1) for a plain convolution."""
    if len(weight) >= LANES or not _pays(x, weight):
        return 1, 1
    return _best(len(weight), tuple(weight.shape[2:]), tuple(x.shape[2:]))


def _spread(weight: Tensor, a: int, b: int) -> Tensor:
    """(C_out, C_in, K, L) -> (C_out a b, C_in, K + a - 1, L + b - 1): the kernel at each place of
    the block.
    """
    c_out, c_in, height, width = weight.shape
    large = weight.new_zeros(c_out, a, b, c_in, height + a - 1, width + b - 1)
    for i in range(a):
        for j in range(b):
            large[:, i, j, :, i : i + height, j : j + width] = weight
    return large.flatten(0, 2).contiguous(memory_format=torch.channels_last)


def _to_pixels(y: Tensor, a: int, b: int) -> Tensor:
    """(B, C a b, H, W) -> (B, C, H a, W b), channels last."""
    y = y.permute(0, 2, 3, 1).unflatten(3, (-1, a, b))  # (B, H, W, C, a, b)
    y = y.permute(0, 1, 4, 2, 5, 3)  # (B, H, a, W, b, C)
    return y.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def _to_channels(y: Tensor, a: int, b: int) -> Tensor:
    """The inverse of `_to_pixels`."""
    y = y.permute(0, 2, 3, 1).unflatten(2, (-1, b)).unflatten(1, (-1, a))  # (B, H, a, W, b, C)
    return y.permute(0, 1, 3, 5, 2, 4).flatten(3, 5).permute(0, 3, 1, 2)
