"""DCGAN's strided networks, with the widths and kernels of Su's O-GAN code.

"Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks",
Radford et al. 2015, arXiv 1511.06434. Widths, kernels and initialisation: "O-GAN: Extremely Concise
Approach for Auto-Encoding Generative Adversarial Networks", Su 2019, arXiv 1903.01931
(bojone/o-gan).

Shapes: B batch, C image channels, S image size, Z latent_dim, O out_dim. The features next to the
image, of S/2 x S/2, have hidden_dim channels, and twice as many at each smaller size down to 4x4.
At S = 128 and hidden_dim = 64, as in Su's code, the discriminator has 64, 128, 256, 512 and 1024
channels, the generator the reverse.

Convolutions before a norm have no bias, as the norm would subtract it again (Su's code has one).
Those biases and their gradients took a tenth of a step on a GPU.
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
from genlab.nn.upsample import Upsample, Upsampling
from genlab.ranges import NonNegativeInt, PositiveInt

__all__ = ["Discriminator", "Generator", "num_strides"]


def num_strides(image_size: int) -> int:
    """How many times 4 doubles to reach `image_size`.

    Raises:
        ValueError: The size is none of 8, 16, 32, ...
    """
    n = (image_size // 4).bit_length() - 1
    if n < 1 or image_size != 4 * 2**n:
        raise ValueError(
            f"image_size={image_size}: a strided network needs 8, 16, 32, 64, 128 or 256 pixels "
            "(data.image_size=)"
        )
    return n


def check_kernel_size(kernel_size: int) -> None:
    """Raises ValueError for a kernel that does not halve the size at stride 2."""
    if kernel_size not in (4, 5):
        raise ValueError(f"kernel_size={kernel_size}: expected 4 or 5 (net.generator.kernel_size=)")


class Generator(nn.Module):
    """z (B, Z), labels (B,) or None -> images (B, C, S, S) in [-1, 1].

    A dense layer to 4x4, then transposed convolutions that halve the channels, with norm and ReLU
    between; tanh at the end. Su's code pads a 5x5 kernel like TensorFlow's "same", by (1, 2); here
    it is PyTorch's symmetric 2.

    Args:
        image_size: S: 8, 16, 32, ...
        channels: C.
        latent_dim: Z.
        num_classes: 0 without labels.
        hidden_dim: Channels of the features next to the image.
        kernel_size: 4 or 5.
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
        kernel_size: Literal[4, 5] = 4,
        upsample: Upsampling = "deconv",
        norm: Callable[[int, int, int], nn.Module] = BatchNorm,
    ):
        super().__init__()
        check_kernel_size(kernel_size)
        n = num_strides(image_size)
        widths = [hidden_dim * 2**i for i in reversed(range(n))]  # at 4, 8, ..., S/2
        self.dense: nn.Module = nn.Linear(latent_dim, 4 * 4 * widths[0])
        self.norms = nn.ModuleList(norm(width, latent_dim, num_classes) for width in widths)
        pairs = list(itertools.pairwise([*widths, channels]))
        self.deconvs = nn.ModuleList(
            Upsample(c_in, c_out, kernel_size, upsample, bias=i == n - 1)
            for i, (c_in, c_out) in enumerate(pairs)
        )
        self.widths = widths
        self.channels = channels
        init_normal(self)

    def condition(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """The input of stage 0, which also conditions the norms: here z itself."""
        return z

    def stage(self, i: int, h: Tensor, c: Tensor, y: Tensor | None = None) -> Tensor:
        """The features (B, widths[i], s, s) at size s = 4 2^i.

        Args:
            i: Index of the size.
            h: The features at half that size; the condition if i is 0.
            c: The condition.
            y: Labels (B,) or None.
        """
        h = self.deconvs[i - 1](h) if i else self.dense(h).unflatten(1, (-1, 4, 4))
        return gradient_in_own_layout(self.norms[i](h, c, y).relu_())

    def image(self, h: Tensor) -> Tensor:
        """The images (B, C, S, S) of the last stage's features."""
        return self.deconvs[-1](h).tanh()

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        c = self.condition(z, y)
        h = c
        for i in range(len(self.widths)):
            h = self.stage(i, h, c, y)
        return self.image(h)


class Discriminator(nn.Module):
    """images (B, C, S, S), labels (B,) or None -> outputs (B, O).

    Strided convolutions that double the channels, LeakyReLU 0.2, a dense layer. With out_dim = Z it
    is O-GAN's encoder, whose mean output is the score.

    Args:
        image_size: S: 8, 16, 32, ...
        channels: C.
        out_dim: O.
        num_classes: 0 without labels.
        hidden_dim: Channels of the first convolution.
        kernel_size: 4 or 5.
        norm: batch, group or none, after all convolutions but the first.
        spectral_norm: Whether to normalise every weight.
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
        """The groups of `layers` that halve the size: from the image first, to 4x4 last."""
        starts = [i for i, layer in enumerate(self.layers) if isinstance(layer, nn.Conv2d)]
        return [self.layers[a:b] for a, b in itertools.pairwise([*starts, len(self.layers) - 1])]

    def finish(self, h: Tensor, y: Tensor | None = None) -> Tensor:
        """The outputs (B, O) of the last stage's features (B, C', 4, 4)."""
        return self.head(gradient_in_own_layout(h).flatten(1), y)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.head(self.layers(x), y)
