"""SNDCGAN: plain convolutions, and spectral norm instead of batch norm in the discriminator.

"Spectral Normalization for Generative Adversarial Networks", Miyato et al. 2018, arXiv 1802.05957,
with the widths and initialisation of "A Large-Scale Study on Regularization and Normalization in
GANs", Kurach et al. 2019, arXiv 1807.04720 (compare_gan). In the table of the first paper, the
strided convolutions keep the width and the next ones double it.

Shapes: B batch, C image channels, S image size, Z latent_dim, O out_dim. The features at S have
hidden_dim channels, 64 in the papers, and twice as many at S/2, S/4 and S/8, where both networks
end, whatever S is.
"""

import itertools
from collections.abc import Callable

from torch import Tensor, nn

from genlab.nn.head import Head
from genlab.nn.init import init_normal
from genlab.nn.layout import Flatten, gradient_in_own_layout
from genlab.nn.norm import BatchNorm
from genlab.nn.spectral_norm import normalise_all
from genlab.nn.upsample import Upsample, Upsampling
from genlab.ranges import NonNegativeInt, PositiveInt

__all__ = ["Discriminator", "Generator"]


def coarsest(image_size: int) -> int:
    """S/8; raises ValueError unless S is a multiple of 8 from 16 to 256."""
    if image_size % 8 or not 16 <= image_size <= 256:
        raise ValueError(
            f"image_size={image_size}: SNDCGAN halves the size three times; expected a multiple of "
            "8 from 16 to 256, such as 32, 48, 64 or 128 (data.image_size=)"
        )
    return image_size // 8


class Generator(nn.Module):
    """z (B, Z), labels (B,) or None -> images (B, C, S, S) in [-1, 1].

    A dense layer, three upsamplings that halve the channels, a 3x3 convolution, tanh. Norm and ReLU
    come before each upsampling and before the last convolution. compare_gan's first norm is by
    feature; here it is by channel like the others, so that every kind of norm fits.

    Args:
        image_size: S, a multiple of 8 from 16 to 256.
        channels: C.
        latent_dim: Z.
        num_classes: 0 without labels.
        hidden_dim: Channels at S x S.
        upsample: The layer that doubles the size; see genlab.nn.upsample.Upsample.
        norm: Called as norm(num_features, latent_dim, num_classes); see genlab.nn.norm.
    """

    def __init__(
        self,
        image_size: PositiveInt,
        channels: PositiveInt,
        latent_dim: PositiveInt,
        num_classes: NonNegativeInt = 0,
        hidden_dim: PositiveInt = 64,
        upsample: Upsampling = "deconv",
        norm: Callable[[int, int, int], nn.Module] = BatchNorm,
    ):
        super().__init__()
        self.size = coarsest(image_size)
        widths = [8 * hidden_dim, 4 * hidden_dim, 2 * hidden_dim, hidden_dim]
        self.dense = nn.Linear(latent_dim, widths[0] * self.size**2)
        self.layers = nn.ModuleList(
            Upsample(c_in, c_out, 4, upsample) for c_in, c_out in itertools.pairwise(widths)
        )
        self.layers.append(nn.Conv2d(hidden_dim, channels, 3, padding=1))
        init_normal(self)
        # After init_normal, because norms initialise themselves.
        self.norms = nn.ModuleList(norm(width, latent_dim, num_classes) for width in widths)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.dense(z).unflatten(1, (-1, self.size, self.size))
        for norm, layer in zip(self.norms, self.layers, strict=True):
            h = layer(gradient_in_own_layout(norm(h, z, y).relu_()))
        return h.tanh()


class Discriminator(nn.Module):
    """images (B, C, S, S), labels (B,) or None -> outputs (B, O).

    A 3x3 convolution, then three times a strided 4x4 and a 3x3 convolution, each with LeakyReLU
    0.1, and a dense layer. With out_dim = Z it is O-GAN's encoder.

    Args:
        image_size: S, a multiple of 8 from 16 to 256.
        channels: C.
        out_dim: O.
        num_classes: 0 without labels.
        hidden_dim: Channels at S x S.
        spectral_norm: Whether to normalise every weight.
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
        first = nn.Conv2d(channels, hidden_dim, 3, padding=1)
        layers: list[nn.Module] = [first, nn.LeakyReLU(0.1, inplace=True)]
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
