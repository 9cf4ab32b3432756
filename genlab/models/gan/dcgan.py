"""DCGAN's pair of strided networks, in the widths and kernels of the O-GAN scripts.

"Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks",
Radford et al. 2015, arXiv 1511.06434; widths, kernels and initialisation from "O-GAN: Extremely
Concise Approach for Auto-Encoding Generative Adversarial Networks", Su 2019, arXiv 1903.01931
(bojone/o-gan).

Shapes: B batch, C image channels, S image size, Z latent_dim, O out_dim. The width at 4x4 is
width_multiple x S, 8 S in the source: at S = 128 the discriminator's widths are 64, 128, 256, 512,
1024, the generator's the reverse. Convolutions before a norm by channel have no bias, which the
norm would take out again (the source's have one); on a GPU those biases and their gradients took a
tenth of a step.
"""

import itertools
from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from genlab.nn.head import Head
from genlab.nn.init import init_normal
from genlab.nn.layout import Flatten, gradient_in_own_layout
from genlab.nn.norm import BatchNorm, discriminator_norm
from genlab.nn.spectral_norm import normalise_all
from genlab.nn.upsample import Upsample
from genlab.ranges import NonNegativeInt, PositiveInt

__all__ = ["Discriminator", "Generator", "num_strides"]


def num_strides(image_size: int) -> int:
    """How often 4 doubles up to `image_size`; ValueError unless it is 8, 16, 32, ..."""
    n = (image_size // 4).bit_length() - 1
    if n < 1 or image_size != 4 * 2**n:
        raise ValueError(
            f"image_size={image_size}: a strided network needs 8, 16, 32, 64, 128, 256 (data.image_size=)"
        )
    return n


def check_kernel_size(kernel_size: int) -> None:
    if kernel_size not in (4, 5):
        raise ValueError(
            f"kernel_size={kernel_size}: expected 4 or 5, the kernels that halve a size at stride 2"
        )


class Generator(nn.Module):
    """z (B, Z), labels (B,) if any -> image (B, C, S, S) in [-1, 1]: dense, norm, ReLU, then
    deconvolutions.

    Each deconvolution halves the width. norm: called as norm(num_features, latent_dim,
    num_classes), see genlab.nn.norm. upsample: what stands for a deconvolution, see
    genlab.nn.upsample. The source pads a 5x5 deconvolution as TensorFlow's 'same' does, (1, 2);
    here it is PyTorch's symmetric 2.
    """

    def __init__(
        self,
        image_size: PositiveInt,
        channels: PositiveInt,
        latent_dim: PositiveInt,
        num_classes: NonNegativeInt = 0,
        hidden_dim: PositiveInt = 64,
        kernel_size: Literal[4, 5] = 4,
        upsample: Literal["deconv", "nearest", "bilinear", "zero_insert"] = "deconv",
        norm: Callable[[int, int, int], nn.Module] = BatchNorm,
    ):
        super().__init__()
        check_kernel_size(kernel_size)
        n = num_strides(image_size)
        widths = [hidden_dim * 2**i for i in reversed(range(n))]  # at 4, 8, ..., S/2
        self.dense = nn.Linear(latent_dim, 4 * 4 * widths[0])
        self.norms = nn.ModuleList(norm(width, latent_dim, num_classes) for width in widths)
        pairs = list(itertools.pairwise([*widths, channels]))
        self.deconvs = nn.ModuleList(
            Upsample(c_in, c_out, kernel_size, upsample, bias=i == n - 1)
            for i, (c_in, c_out) in enumerate(pairs)
        )
        self.widths, self.channels = widths, channels
        init_normal(self)

    def condition(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """What the first stage starts from and the norms are conditioned on: z itself."""
        return z

    def stage(self, i: int, h: Tensor, c: Tensor, y: Tensor | None = None) -> Tensor:
        """Features (B, widths[i], s, s), s = 4 2^i, of those of half that size; of the condition
        where i is 0.
        """
        h = self.deconvs[i - 1](h) if i else self.dense(h).unflatten(1, (-1, 4, 4))
        return gradient_in_own_layout(self.norms[i](h, c, y).relu_())

    def image(self, h: Tensor) -> Tensor:
        """The image (B, C, S, S) of the last stage's features."""
        return self.deconvs[-1](h).tanh()

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        h = c = self.condition(z, y)
        for i in range(len(self.widths)):
            h = self.stage(i, h, c, y)
        return self.image(h)


class Discriminator(nn.Module):
    """image (B, C, S, S), labels (B,) if any -> (B, O): strided convolutions that double the width,
    LeakyReLU 0.2, dense.

    With out_dim = Z it is O-GAN's encoder, and its mean over O the score; with 1 it is a plain
    discriminator.
    norm: batch, group or none, on all convolutions but the first. spectral_norm: on every weight.
    """

    def __init__(
        self,
        image_size: PositiveInt,
        channels: PositiveInt,
        out_dim: PositiveInt,
        num_classes: NonNegativeInt = 0,
        hidden_dim: PositiveInt = 64,
        kernel_size: Literal[4, 5] = 4,
        norm: Literal["batch", "group", "none"] = "batch",
        spectral_norm: bool = False,
    ):
        super().__init__()
        check_kernel_size(kernel_size)
        widths = [channels, *(hidden_dim * 2**i for i in range(num_strides(image_size)))]
        layers: list[nn.Module] = []
        for i, (c_in, c_out) in enumerate(itertools.pairwise(widths)):
            bias = i == 0 or norm != "batch"
            layers += [nn.Conv2d(c_in, c_out, kernel_size, 2, (kernel_size - 1) // 2, bias=bias)]
            layers += [discriminator_norm(norm, c_out)] if i else []
            layers += [nn.LeakyReLU(0.2, inplace=True)]
        self.layers = nn.Sequential(*layers, Flatten())
        self.head = Head(4 * 4 * widths[-1], out_dim, num_classes)
        init_normal(self)
        if spectral_norm:
            normalise_all(self)

    def stages(self) -> list[nn.Sequential]:
        """The parts of `layers` that halve the size once each: the first from the image, the last
        to 4x4.
        """
        starts = [i for i, layer in enumerate(self.layers) if isinstance(layer, nn.Conv2d)]
        return [self.layers[a:b] for a, b in itertools.pairwise([*starts, len(self.layers) - 1])]

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.head(self.layers(x), y)
