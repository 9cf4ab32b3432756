"""Twice the size: the ways in which generators do it; and convolutions that meet a change of size,
in fewer products.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, interpolate, pad, pixel_shuffle

__all__ = ["UPSAMPLERS", "Resize", "Upsample", "pooled_conv", "resized_conv"]

UPSAMPLERS = ("deconv", "nearest", "bilinear", "zero_insert", "pixel_shuffle")


class Resize(nn.Module):
    """(B, C, H, W) -> (B, C, 2H, 2W) without weights: nearest, bilinear, or zero_insert (each pixel
    and three zeros).

    ValueError for another mode.
    """

    def __init__(self, mode: str):
        super().__init__()
        if mode not in ("nearest", "bilinear", "zero_insert"):
            raise ValueError(f"upsample={mode!r}: expected nearest, bilinear or zero_insert")
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "zero_insert":
            corner = x.new_zeros(2, 2)
            corner[0, 0] = 1
            return torch.kron(x, corner)
        return interpolate(x, scale_factor=2, mode=self.mode)


def resized_conv(x: Tensor, resize: Resize, conv: nn.Conv2d) -> Tensor:
    """conv(resize(x)) of an odd kernel that keeps the size, (B, C_in, H, W) -> (B, C_out, 2H, 2W).

    Of nearest neighbours many products are of one pixel: with their weights added up first a 3x3
    convolution is a transposed one of 4x4 and stride 2, with 4/9 of the products (the "fused scale"
    of Karras et al. 2018, arXiv 1710.10196). Inserted zeros leave a quarter of them.
    """
    if resize.mode == "bilinear":
        return conv(resize(x))
    nearest, half = resize.mode == "nearest", conv.kernel_size[0] // 2
    weight = (_spread(conv.weight) if nearest else conv.weight).flip(2, 3).transpose(0, 1)
    return conv_transpose2d(x, weight, conv.bias, 2, half, 0 if nearest else 1)


def pooled_conv(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """avg_pool2d(conv(x), 2) of an odd kernel that keeps the size: one of stride 2, with 4/9 of a
    3x3 kernel's products.
    """
    return conv2d(x, _spread(conv.weight) / 4, conv.bias, 2, conv.kernel_size[0] // 2)


def _spread(weight: Tensor) -> Tensor:
    """Kernels (..., K, K) over each 2x2 square of pixels at once: (..., K + 1, K + 1)."""
    w = pad(weight, (1, 1, 1, 1))
    return w[..., 1:, 1:] + w[..., 1:, :-1] + w[..., :-1, 1:] + w[..., :-1, :-1]


class Upsample(nn.Module):
    """(B, C_in, H, W) -> (B, C_out, 2H, 2W) with weights.

    deconv: a transposed convolution of stride 2. nearest, bilinear, zero_insert: Resize, then a
    convolution of odd kernel (one less than an even kernel_size). pixel_shuffle: a convolution to 4
    C_out channels, which become 2x2 pixels ("Real-Time Single Image and Video Super-Resolution
    Using an Efficient Sub-Pixel Convolutional Neural Network", Shi et al. 2016, arXiv 1609.05158).
    bias: pixel_shuffle has one in any case, since the four of a channel differ. ValueError for
    another mode.
    """

    def __init__(
        self, c_in: int, c_out: int, kernel_size: int, mode: str = "deconv", bias: bool = True
    ):
        super().__init__()
        if mode not in UPSAMPLERS:
            raise ValueError(f"upsample={mode!r}: expected {', '.join(UPSAMPLERS)}")
        self.mode = mode
        odd = kernel_size - 1 + kernel_size % 2
        if mode == "deconv":
            padding = {"padding": (kernel_size - 1) // 2, "output_padding": kernel_size % 2}
            self.layers = nn.Sequential(
                nn.ConvTranspose2d(c_in, c_out, kernel_size, 2, bias=bias, **padding)
            )
        elif mode == "pixel_shuffle":
            self.layers = nn.Sequential(nn.Conv2d(c_in, 4 * c_out, odd, padding=odd // 2))
        else:
            self.layers = nn.Sequential(
                Resize(mode), nn.Conv2d(c_in, c_out, odd, padding=odd // 2, bias=bias)
            )

    def forward(self, x: Tensor) -> Tensor:
        if len(self.layers) == 2:
            return resized_conv(x, *self.layers)
        x = self.layers(x)
        return pixel_shuffle(x, 2) if self.mode == "pixel_shuffle" else x
