"""PGGAN's networks, which grow: two plain convolutions for each size.

"Progressive Growing of GANs for Improved Quality, Stability, and Variation", Karras et al. 2018,
arXiv 1710.10196, table 2 and sections 3 and 4.

Shapes: B batch, C image channels, S image size, Z latent_dim, K num_classes, O out_dim. Features
have hidden_dim channels up to 32 x 32 pixels and half as many at each larger size. For levels, see
genlab.nn.staged.
"""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, one_hot
from torch.nn.utils import parametrize

from genlab.models.gan.dcgan import num_strides
from genlab.nn.head import Head
from genlab.nn.layout import Flatten
from genlab.nn.staged import StagedDiscriminator, StagedGenerator
from genlab.nn.upsample import Resize, Resizing, resized_conv
from genlab.ranges import NonNegativeInt, PositiveInt

__all__ = [
    "Discriminator",
    "EqualisedRate",
    "Generator",
    "MinibatchStddev",
    "PixelNorm",
    "equalise",
]


class EqualisedRate(nn.Module):
    """W -> W gain / sqrt(fan_in).

    The stored weight W has unit scale, so Adam changes every layer at the same relative rate.

    Args:
        weight: W, for its fan_in.
        gain: Standard deviation of the result times sqrt(fan_in).
    """

    def __init__(self, weight: Tensor, gain: float):
        super().__init__()
        self.scale = gain / weight[0].numel() ** 0.5

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.scale


def equalise(module: nn.Conv2d | nn.Linear | nn.Embedding, gain: float = 2**0.5) -> nn.Module:
    """Gives a layer N(0, 1) weights under EqualisedRate and zero biases.

    Args:
        module: A convolution, dense layer or embedding, which is changed.
        gain: sqrt(2), He's, before a LeakyReLU; 1 elsewhere.

    Returns:
        The same module.
    """
    nn.init.normal_(module.weight)
    if not isinstance(module, nn.Embedding) and module.bias is not None:
        nn.init.zeros_(module.bias)
    return parametrize.register_parametrization(
        module, "weight", EqualisedRate(module.weight, gain)
    )


def _equalise_all(network: nn.Module, gain: float) -> None:
    for module in list(network.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
            equalise(module, gain)


def _conv(c_in: int, c_out: int, kernel_size: int = 3, gain: float = 2**0.5) -> nn.Module:
    return equalise(nn.Conv2d(c_in, c_out, kernel_size, padding=kernel_size // 2), gain)


class PixelNorm(nn.Module):
    """h (B, C, ...) -> h / sqrt(mean over C of h^2 + 1e-8), as a layer of genlab.nn.norm.

    It ignores condition and label.
    """

    def __init__(
        self, num_features: PositiveInt, latent_dim: PositiveInt, num_classes: NonNegativeInt = 0
    ):
        super().__init__()

    def forward(self, h: Tensor, c: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        return h * torch.rsqrt(h.square().mean(1, keepdim=True) + 1e-8)


class MinibatchStddev(nn.Module):
    """h (B, C, H, W) -> (B, C + 1, H, W): one more channel, how much samples of a group differ.

    It is the standard deviation of each feature over the group, sqrt(variance + 1e-8), averaged
    over C, H and W.

    Args:
        group_size: Samples in a group. Where it does not divide B, its greatest divisor that does
            is taken, and where there is none, the whole batch.
    """

    couples_batch = True

    def __init__(self, group_size: int = 4):
        super().__init__()
        self.group_size = group_size

    def forward(self, h: Tensor) -> Tensor:
        batch = len(h)
        fitting = (
            n for n in range(self.group_size, 1, -1) if self.group_size % n == 0 and batch % n == 0
        )
        size = next(fitting, batch)
        groups = h.unflatten(0, (size, batch // size))  # group j has the samples j, j + B/size, ...
        deviation = (groups.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))  # (B/size,)
        channel = deviation.repeat(size)[:, None, None, None].expand(-1, 1, *h.shape[2:])
        return torch.cat([h, channel], 1)


def _widths(image_size: int, hidden_dim: int) -> list[int]:
    """Channels at 4, 8, ..., S."""
    sizes = [4 * 2**i for i in range(num_strides(image_size) + 1)]
    return [max(1, min(hidden_dim, hidden_dim * 32 // size)) for size in sizes]


class Generator(StagedGenerator):
    """z (B, Z), labels (B,) or None -> images (B, C, S, S) in [-1, 1].

    z is scaled to unit root mean square; a label is a one-hot vector beside it. Then come a dense
    layer to 4x4 and a 3x3 convolution, and for each further size upsampling and two 3x3
    convolutions, all followed by LeakyReLU 0.2 and norm. A 1x1 convolution makes the image. The
    paper leaves it linear; here tanh follows.

    Args:
        image_size: S: 8, 16, 32, ...
        channels: C.
        latent_dim: Z.
        num_classes: K; 0 without labels.
        hidden_dim: Channels up to 32 x 32 pixels.
        upsample: nearest, bilinear or zero_insert.
        norm: Called as norm(num_features, Z + K, K); see genlab.nn.norm.
    """

    def __init__(
        self,
        image_size: PositiveInt,
        channels: PositiveInt,
        latent_dim: PositiveInt,
        num_classes: NonNegativeInt = 0,
        hidden_dim: PositiveInt = 512,
        upsample: Resizing = "nearest",
        norm: Callable[[int, int, int], nn.Module] = PixelNorm,
    ):
        widths = _widths(image_size, hidden_dim)
        super().__init__(image_size)
        self.num_classes = num_classes
        condition_dim = latent_dim + num_classes
        dense = equalise(nn.Linear(condition_dim, 4 * 4 * widths[0]))
        self.first = nn.ModuleList([nn.Sequential(dense, nn.Unflatten(1, (widths[0], 4, 4)))])
        self.first.extend(
            nn.Sequential(Resize(upsample), _conv(*pair)) for pair in itertools.pairwise(widths)
        )
        self.second = nn.ModuleList(_conv(width, width) for width in widths)
        self.norms = nn.ModuleList(
            norm(width, condition_dim, num_classes) for width in widths for _ in range(2)
        )
        _equalise_all(self.norms, gain=1.0)
        self.images = nn.ModuleList(_conv(width, channels, 1, gain=1.0) for width in widths)

    def condition(self, z: Tensor, y: Tensor | None) -> Tensor:
        z = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        if not self.num_classes:
            return z
        assert y is not None  # a network with classes gets labels
        return torch.cat([z, one_hot(y, self.num_classes).to(z.dtype)], 1)  # (B, Z + K)

    def stage(self, i: int, h: Tensor, c: Tensor, y: Tensor | None) -> Tensor:
        first: Any = self.first[i]  # a pair (convolution, bias) after the first stage
        h = resized_conv(h, *first) if i else first(h)
        h = self.norms[2 * i](leaky_relu(h, 0.2), c, y)
        return self.norms[2 * i + 1](leaky_relu(self.second[i](h), 0.2), c, y)

    def image(self, i: int, h: Tensor) -> Tensor:
        return self.images[i](h).tanh()


class Discriminator(StagedDiscriminator):
    """images (B, C, S, S), labels (B,) or None -> outputs (B, O).

    A 1x1 convolution from the image; for each size two 3x3 convolutions and average pooling; at 4x4
    the minibatch standard deviation, a 3x3 convolution and two dense layers. LeakyReLU 0.2 after
    all but the last.

    Args:
        image_size: S: 8, 16, 32, ...
        channels: C.
        out_dim: O.
        num_classes: 0 without labels.
        hidden_dim: Channels up to 32 x 32 pixels.
        group_size: See MinibatchStddev. 1 leaves the layer out, so that the output for a sample
            does not depend on the rest of the batch.
    """

    def __init__(
        self,
        image_size: PositiveInt,
        channels: PositiveInt,
        out_dim: PositiveInt,
        num_classes: NonNegativeInt = 0,
        hidden_dim: PositiveInt = 512,
        group_size: PositiveInt = 4,
    ):
        widths = _widths(image_size, hidden_dim)
        super().__init__(image_size)
        self.images = nn.ModuleList(
            nn.Sequential(_conv(channels, width, 1), nn.LeakyReLU(0.2)) for width in widths
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(
                _conv(wide, wide),
                nn.LeakyReLU(0.2),
                _conv(wide, narrow),
                nn.LeakyReLU(0.2),
                nn.AvgPool2d(2),
            )
            for narrow, wide in itertools.pairwise(widths)
        )
        width = widths[0]
        coupled = group_size > 1
        dense = equalise(nn.Linear(4 * 4 * width, width))
        self.last = nn.Sequential(
            MinibatchStddev(group_size) if coupled else nn.Identity(),
            _conv(width + coupled, width),
            nn.LeakyReLU(0.2),
            Flatten(),
            dense,
            nn.LeakyReLU(0.2),
        )
        self.head = Head(width, out_dim, num_classes)
        _equalise_all(self.head, gain=1.0)

    def features(self, i: int, x: Tensor) -> Tensor:
        return self.images[i](x)

    def stage(self, i: int, h: Tensor) -> Tensor:
        return self.blocks[i - 1](h)

    def finish(self, h: Tensor, y: Tensor | None) -> Tensor:
        return self.head(self.last(h), y)
