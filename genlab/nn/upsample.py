"""Ways to double the size of features, and cheaper convolutions around a change of size."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, interpolate, pad, pixel_shuffle

__all__ = ["Resize", "Resizing", "Upsample", "Upsampling", "pooled_conv", "resized_conv"]

Resizing = Literal["nearest", "bilinear", "zero_insert"]
Upsampling = Literal["deconv", "nearest", "bilinear", "zero_insert", "pixel_shuffle"]


class Resize(nn.Module):
    """(B, C, H, W) -> (B, C, 2H, 2W) without weights.

    Args:
        mode: nearest, bilinear or zero_insert (each pixel becomes itself and three zeros).

    Raises:
        ValueError: Another mode.
    """

    def __init__(self, mode: Resizing):
        super().__init__()
        if mode not in get_args(Resizing):
            raise ValueError(
                f"upsample={mode!r}: expected one of {', '.join(get_args(Resizing))} "
                "(net.generator.upsample=)"
            )
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "zero_insert":
            corner = x.new_zeros(2, 2)
            corner[0, 0] = 1
            return torch.kron(x, corner)
        return interpolate(x, scale_factor=2, mode=self.mode)


def resized_conv(x: Tensor, resize: Resize, conv: nn.Conv2d) -> Tensor:
    """conv(resize(x)) in fewer multiplications, where that is possible.

    After nearest-neighbour resizing, many products of a 3x3 convolution have the same pixel as a
    factor. With their weights added up first, it is a transposed 4x4 convolution of stride 2, with
    4/9 of the multiplications (the "fused scale" of Karras et al. 2018, arXiv 1710.10196). After
    zero insertion, a quarter of the multiplications is left.

    Args:
        x: (B, C_in, H, W).
        resize: Its mode decides how it is computed.
        conv: A convolution with an odd kernel that keeps the size.

    Returns:
        (B, C_out, 2H, 2W).
    """
    if resize.mode == "bilinear":
        return conv(resize(x))
    nearest = resize.mode == "nearest"
    half = conv.kernel_size[0] // 2
    weight = (_spread(conv.weight) if nearest else conv.weight).flip(2, 3).transpose(0, 1)
    return conv_transpose2d(x, weight, conv.bias, 2, half, 0 if nearest else 1)


def pooled_conv(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """avg_pool2d(conv(x), 2) as one convolution of stride 2.

    It has 4/9 of the multiplications of a 3x3 convolution.

    Args:
        x: (B, C_in, H, W), H and W even.
        conv: A convolution with an odd kernel that keeps the size.

    Returns:
        (B, C_out, H/2, W/2).
    """
    return conv2d(x, _spread(conv.weight) / 4, conv.bias, 2, conv.kernel_size[0] // 2)


def _spread(weight: Tensor) -> Tensor:
    """Sums a kernel (..., K, K) over its four positions in 2x2 pixels: (..., K + 1, K + 1)."""
    w = pad(weight, (1, 1, 1, 1))
    return w[..., 1:, 1:] + w[..., 1:, :-1] + w[..., :-1, 1:] + w[..., :-1, :-1]


class Upsample(nn.Module):
    """(B, C_in, H, W) -> (B, C_out, 2H, 2W) with weights.

    pixel_shuffle is "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel
    Convolutional Neural Network", Shi et al. 2016, arXiv 1609.05158.

    Args:
        c_in: C_in.
        c_out: C_out.
        kernel_size: Of the convolution; an even one is reduced by 1 in all modes but deconv.
        mode: deconv, a transposed convolution of stride 2; nearest, bilinear or zero_insert, a
            Resize and a convolution; pixel_shuffle, a convolution to 4 C_out channels, which become
            2x2 pixels.
        bias: Whether the convolution has one. With pixel_shuffle it always has, since the four
            biases of a channel differ.

    Raises:
        ValueError: Another mode.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel_size: int,
        mode: Upsampling = "deconv",
        bias: bool = True,
    ):
        super().__init__()
        if mode not in get_args(Upsampling):
            raise ValueError(
                f"upsample={mode!r}: expected one of {', '.join(get_args(Upsampling))} "
                "(net.generator.upsample=)"
            )
        self.mode = mode
        odd = kernel_size - 1 + kernel_size % 2
        if mode == "deconv":
            padding = {"padding": (kernel_size - 1) // 2, "output_padding": kernel_size % 2}
            layers = [nn.ConvTranspose2d(c_in, c_out, kernel_size, 2, bias=bias, **padding)]
        elif mode == "pixel_shuffle":
            layers = [nn.Conv2d(c_in, 4 * c_out, odd, padding=odd // 2)]
        else:
            conv = nn.Conv2d(c_in, c_out, odd, padding=odd // 2, bias=bias)
            layers = [Resize(mode), conv]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        if len(self.layers) == 2:
            return resized_conv(x, *self.layers)
        x = self.layers(x)
        return pixel_shuffle(x, 2) if self.mode == "pixel_shuffle" else x
