"""PGGAN: plain convolutions, two for each size, that grow.

"Progressive Growing of GANs for Improved Quality, Stability, and Variation", Karras et al. 2018,
arXiv 1710.10196, table 2 and sections 3 and 4.

Shapes: B batch, C image channels, S image size, Z latent_dim, K num_classes, O out_dim. The width
at s x s pixels is hidden_dim up to s = 32 and halves with every doubling from there. Levels: see
genlab.nn.staged.
"""

import itertools
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, one_hot
from torch.nn.utils import parametrize

from genlab.models.gan.dcgan import num_strides
from genlab.nn.head import Head
from genlab.nn.layout import Flatten
from genlab.nn.staged import StagedDiscriminator, StagedGenerator
from genlab.nn.upsample import Resize, resized_conv
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
    """W -> W gain / sqrt(fan_in): the weight is of unit scale, so that Adam moves every layer at
    the same relative rate.
    """

    def __init__(self, weight: Tensor, gain: float):
        super().__init__()
        self.scale = gain / weight[0].numel() ** 0.5

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.scale


def equalise(module: nn.Module, gain: float = 2**0.5) -> nn.Module:
    """`module`, a convolution, dense layer or embedding, with N(0, 1) weights under EqualisedRate
    and zero biases.

    gain: sqrt(2), He's, before a LeakyReLU, 1 elsewhere.
    """
    nn.init.normal_(module.weight)
    if getattr(module, "bias", None) is not None:
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
    """h (B, C, ...) -> h / sqrt(mean over C of h^2 + 1e-8), blind to condition and label; a layer
    as in genlab.nn.norm.
    """

    def __init__(
        self, num_features: PositiveInt, latent_dim: PositiveInt, num_classes: NonNegativeInt = 0
    ):
        super().__init__()

    def forward(self, h: Tensor, c: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        return h * torch.rsqrt(h.square().mean(1, keepdim=True) + 1e-8)


class MinibatchStddev(nn.Module):
    """h (B, C, H, W) -> (B, C + 1, H, W): how much the samples of a group differ, as one more map.

    A group's standard deviation of each feature, sqrt(variance + 1e-8), is averaged over C, H and
    W. Groups are of group_size, or of its greatest divisor that B allows; a batch that allows none
    is one group.
    """

    couples_batch = True

    def __init__(self, group_size: int = 4):
        super().__init__()
        self.group_size = group_size

    def forward(self, h: Tensor) -> Tensor:
        batch = len(h)
        size = next(
            (
                n
                for n in range(self.group_size, 1, -1)
                if self.group_size % n == 0 and batch % n == 0
            ),
            batch,
        )
        groups = h.unflatten(0, (size, batch // size))  # group j has the samples j, j + B/size, ...
        deviation = (groups.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
        return torch.cat(
            [h, deviation.repeat(size)[:, None, None, None].expand(-1, 1, *h.shape[2:])], 1
        )


def _widths(image_size: int, hidden_dim: int) -> list[int]:
    return [
        max(1, min(hidden_dim, hidden_dim * 32 // 2 ** (2 + i)))
        for i in range(num_strides(image_size) + 1)
    ]


class Generator(StagedGenerator):
    """z (B, Z), labels (B,) if any -> image (B, C, S, S) in [-1, 1].

    z of unit root mean square, and the label as K more numbers, one of them 1; dense to 4x4 and a
    3x3 convolution; for each further size upsampling and two of them; LeakyReLU 0.2 and norm after
    each. The image is a 1x1 convolution away from the features; the source leaves it linear, here
    tanh follows. norm: called as norm(num_features, Z + K, K), see genlab.nn.norm. upsample:
    nearest, bilinear or zero_insert.
    """

    def __init__(
        self,
        image_size: PositiveInt,
        channels: PositiveInt,
        latent_dim: PositiveInt,
        num_classes: NonNegativeInt = 0,
        hidden_dim: PositiveInt = 512,
        upsample: Literal["deconv", "nearest", "bilinear", "zero_insert"] = "nearest",
        norm: Callable[[int, int, int], nn.Module] = PixelNorm,
    ):
        widths = _widths(image_size, hidden_dim)
        super().__init__(image_size)
        self.num_classes, condition_dim = num_classes, latent_dim + num_classes
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
        return (
            torch.cat([z, one_hot(y, self.num_classes).to(z.dtype)], 1) if self.num_classes else z
        )

    def stage(self, i: int, h: Tensor, c: Tensor, y: Tensor | None) -> Tensor:
        h = resized_conv(h, *self.first[i]) if i else self.first[0](h)
        h = self.norms[2 * i](leaky_relu(h, 0.2), c, y)
        return self.norms[2 * i + 1](leaky_relu(self.second[i](h), 0.2), c, y)

    def image(self, i: int, h: Tensor) -> Tensor:
        return self.images[i](h).tanh()


class Discriminator(StagedDiscriminator):
    """image (B, C, S, S), labels (B,) if any -> (B, O).

    A 1x1 convolution from the image; for each size two 3x3 convolutions and average pooling; at 4x4
    minibatch standard deviation, a 3x3 convolution, dense, dense. LeakyReLU 0.2 after each but the
    last. group_size: see MinibatchStddev; 1 leaves the layer out, and with it what the samples of a
    batch have to do with each other.
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
                _conv(wide, wide), nn.LeakyReLU(0.2), _conv(wide, narrow), nn.LeakyReLU(0.2), nn.AvgPool2d(2)
            )
            for narrow, wide in itertools.pairwise(widths)
        )  # fmt: skip
        width, coupled = widths[0], group_size > 1
        dense = equalise(nn.Linear(4 * 4 * width, width))
        self.last = nn.Sequential(
            MinibatchStddev(group_size) if coupled else nn.Identity(),
            _conv(width + coupled, width), nn.LeakyReLU(0.2), Flatten(), dense, nn.LeakyReLU(0.2),
        )  # fmt: skip
        self.head = Head(width, out_dim, num_classes)
        _equalise_all(self.head, gain=1.0)

    def features(self, i: int, x: Tensor) -> Tensor:
        return self.images[i](x)

    def stage(self, i: int, h: Tensor) -> Tensor:
        return self.blocks[i - 1](h)

    def finish(self, h: Tensor, y: Tensor | None) -> Tensor:
        return self.head(self.last(h), y)
