from typing import get_args

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, conv2d, pad

from genlab.nn.spectral_norm import spectral_norm
from genlab.nn.upsample import Resize, Upsample, Upsampling, pooled_conv, resized_conv


def test_nearest_repeats_each_pixel_in_a_square():
    x = torch.randn(2, 3, 4, 5)
    y = Resize("nearest")(x)
    assert y.shape == (2, 3, 8, 10)
    assert all(
        torch.equal(y[:, :, i, j], x[:, :, i // 2, j // 2]) for i in range(8) for j in range(10)
    )


def test_zero_insert_keeps_each_pixel_and_adds_three_zeros():
    x = torch.randn(2, 3, 4, 5)
    expected = torch.zeros(2, 3, 8, 10)
    expected[:, :, ::2, ::2] = x
    assert torch.equal(Resize("zero_insert")(x), expected)


def test_bilinear_weighs_the_two_nearest_pixels_three_to_one_along_each_axis():
    def double(x):  # along the last axis; beyond the border its pixel goes on
        x = torch.cat([x[..., :1], x, x[..., -1:]], -1)
        near = 0.75 * x[..., 1:-1]
        return torch.stack([near + 0.25 * x[..., :-2], near + 0.25 * x[..., 2:]], -1).flatten(-2)

    x = torch.randn(2, 3, 4, 5).double()
    torch.testing.assert_close(Resize("bilinear")(x), double(double(x).mT).mT)


def test_deconv_is_a_convolution_of_the_zero_inserted_image_with_the_flipped_kernel():
    layer, x = Upsample(3, 5, 4, "deconv").double(), torch.randn(2, 3, 4, 6).double()
    (deconv,) = layer.layers
    kernel = deconv.weight.transpose(0, 1).flip(2, 3)
    # An input pixel reaches 4 - 1 - padding = 2 back.
    sparse = pad(Resize("zero_insert")(x), (2, 1, 2, 1))
    torch.testing.assert_close(layer(x), conv2d(sparse, kernel, deconv.bias))


def test_pixel_shuffle_deals_four_channels_to_each_two_by_two_square():
    layer, x = Upsample(3, 5, 4, "pixel_shuffle"), torch.randn(2, 3, 4, 6)
    (conv,) = layer.layers
    h, y = conv2d(x, conv.weight, conv.bias, padding=1), layer(x)
    assert y.shape == (2, 5, 8, 12)
    for c in range(5):
        for i in range(8):
            for j in range(12):
                assert torch.equal(y[:, c, i, j], h[:, 4 * c + 2 * (i % 2) + j % 2, i // 2, j // 2])


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "zero_insert"])
def test_a_resizing_upsample_is_resize_then_a_convolution_of_odd_kernel(mode):
    layer, x = Upsample(3, 5, 4, mode), torch.randn(2, 3, 4, 6)
    conv = layer.layers[1]
    assert conv.weight.shape == (5, 3, 3, 3)
    torch.testing.assert_close(layer(x), conv2d(Resize(mode)(x), conv.weight, conv.bias, padding=1))


@pytest.mark.parametrize("spectral", [False, True])
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "zero_insert", "pooled"])
def test_a_convolution_that_meets_a_change_of_size_is_both_one_after_the_other(
    mode, kernel_size, spectral
):
    conv = nn.Conv2d(3, 5, kernel_size, padding=kernel_size // 2).double()
    x = torch.randn(2, 3, 4, 6).double()
    if spectral:
        spectral_norm(conv)
    x.requires_grad_()
    found = pooled_conv(x, conv) if mode == "pooled" else resized_conv(x, Resize(mode), conv)
    expected = avg_pool2d(conv(x), 2) if mode == "pooled" else conv(Resize(mode)(x))
    torch.testing.assert_close(found, expected)
    inputs = [x, *conv.parameters()]
    g = torch.randn_like(expected)
    for a, b in zip(*(torch.autograd.grad(y, inputs, g) for y in (found, expected)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kernel_size", [3, 4, 5])
@pytest.mark.parametrize("mode", get_args(Upsampling))
def test_every_mode_and_kernel_doubles_the_size(mode, kernel_size):
    assert Upsample(3, 5, kernel_size, mode)(torch.randn(2, 3, 4, 6)).shape == (2, 5, 8, 12)


def test_an_unknown_mode_is_refused_with_the_list():
    with pytest.raises(
        ValueError,
        match=r"^upsample='cubic'",
    ):
        Upsample(3, 5, 4, "cubic")
    with pytest.raises(ValueError, match=r"^upsample='deconv'"):
        Resize("deconv")
