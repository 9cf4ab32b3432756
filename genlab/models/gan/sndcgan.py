"""SNDCGAN: DCGAN's plain stack with a spectrally normalised discriminator that has no batch
normalisation.

"Spectral Normalization for Generative Adversarial Networks", Miyato et al. 2018, arXiv 1802.05957,
in the widths and with the initialisation of "A Large-Scale Study on Regularization and
Normalization in GANs", Kurach et al. 2019, arXiv 1807.04720 (compare_gan). The paper's own table
keeps the width in a strided convolution and doubles it in the next.

Shapes: B batch, C image channels, S image size, Z latent_dim, O out_dim. hidden_dim: the width at S, 64 in
the source; it doubles at S/2, S/4 and S/8, where both networks end, whatever S.
"""

import itertools
from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from genlab.nn.head import Head
from genlab.nn.init import init_normal
from genlab.nn.layout import Flatten, gradient_in_own_layout
from genlab.nn.norm import BatchNorm
from genlab.nn.spectral_norm import normalise_all
from genlab.nn.upsample import Upsample
from genlab.ranges import NonNegativeInt, PositiveInt

__all__ = ["Discriminator", "Generator"]


def coarsest(image_size: int) -> int:
    """S/8; ValueError unless S is a multiple of 8 from 16 to 256."""
    if image_size % 8 or not 16 <= image_size <= 256:
        raise ValueError(
            f"image_size={image_size}: SNDCGAN halves it three times; expected a multiple of 8 from 16 to 256, such as "
            "32, 48, 64 or 128 (data.image_size=)"
        )
    return image_size // 8


class Generator(nn.Module):
    """z (B, Z), labels (B,) if any -> image (B, C, S, S) in [-1, 1]: dense, three doublings that
    halve the width, conv3.

    Norm and ReLU before each doubling and before the last convolution. norm: called as
    norm(num_features, latent_dim, num_classes), see genlab.nn.norm; the source's first one treats
    each of the 8 hidden_dim (S/8)^2 numbers by itself, here it is by channel like the others, so that
    every kind of norm fits. upsample: see genlab.nn.upsample.
    """

    def __init__(
        self,
        image_size: PositiveInt,
        channels: PositiveInt,
        latent_dim: PositiveInt,
        num_classes: NonNegativeInt = 0,
        hidden_dim: PositiveInt = 64,
        upsample: Literal["deconv", "nearest", "bilinear", "zero_insert"] = "deconv",
        norm: Callable[[int, int, int], nn.Module] = BatchNorm,
    ):
        super().__init__()
        self.size, widths = (
            coarsest(image_size),
            [8 * hidden_dim, 4 * hidden_dim, 2 * hidden_dim, hidden_dim],
        )
        self.dense = nn.Linear(latent_dim, widths[0] * self.size**2)
        self.layers = nn.ModuleList(
            Upsample(c_in, c_out, 4, upsample) for c_in, c_out in itertools.pairwise(widths)
        )
        self.layers.append(nn.Conv2d(hidden_dim, channels, 3, padding=1))
        init_normal(self)
        # After the initialisation, because each norm brings its own.
        self.norms = nn.ModuleList(norm(width, latent_dim, num_classes) for width in widths)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.dense(z).unflatten(1, (-1, self.size, self.size))
        for norm, layer in zip(self.norms, self.layers, strict=True):
            h = layer(gradient_in_own_layout(norm(h, z, y).relu_()))
        return h.tanh()


class Discriminator(nn.Module):
    """image (B, C, S, S), labels (B,) if any -> (B, O): conv3, then thrice a strided conv4 and a
    conv3, dense.

    LeakyReLU 0.1 after each of the seven. With out_dim = Z it is O-GAN's encoder. spectral_norm: on
    every weight.
    """

    def __init__(
        self,
        image_size: PositiveInt,
        channels: PositiveInt,
        out_dim: PositiveInt,
        num_classes: NonNegativeInt = 0,
        hidden_dim: PositiveInt = 64,
        spectral_norm: bool = True,
    ):
        super().__init__()
        size = coarsest(image_size)
        layers: list[nn.Module] = [
            nn.Conv2d(channels, hidden_dim, 3, padding=1),
            nn.LeakyReLU(0.1, inplace=True),
        ]
        for c_in in (hidden_dim, 2 * hidden_dim, 4 * hidden_dim):
            layers += [nn.Conv2d(c_in, 2 * c_in, 4, 2, 1), nn.LeakyReLU(0.1, inplace=True)]
            layers += [nn.Conv2d(2 * c_in, 2 * c_in, 3, padding=1), nn.LeakyReLU(0.1, inplace=True)]
        self.layers = nn.Sequential(*layers, Flatten())
        self.head = Head(8 * hidden_dim * size**2, out_dim, num_classes)
        init_normal(self)
        if spectral_norm:
            normalise_all(self)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.head(self.layers(x), y)
