"""SAGAN: SNGAN's residual networks with one self-attention layer each, and spectral norm in both.

"Self-Attention Generative Adversarial Networks", Zhang et al. 2019, arXiv 1805.08318. With classes
it has conditional batch norm (net/modulation=conditional) and a projection discriminator.

Shapes and hidden_dim as in genlab.models.gan.sngan.
"""

from collections.abc import Callable

from torch import Tensor, nn

from genlab.models.gan import sngan
from genlab.nn.attention import SelfAttention
from genlab.nn.init import init_xavier
from genlab.nn.norm import BatchNorm
from genlab.nn.spectral_norm import normalise_all
from genlab.nn.upsample import Resizing
from genlab.ranges import NonNegativeInt, PositiveInt

__all__ = ["Discriminator", "Generator", "attention_size_of"]


def attention_size_of(image_size: int, attention_size: int | None) -> int:
    """The height of the features that attend to each other.

    Args:
        image_size: S.
        attention_size: From 8 to S/2. None: S/2, at most 64, which is the paper's choice at S = 128
            (after the generator's fourth block and the discriminator's first).

    Raises:
        ValueError: The networks have no features of that size.
    """
    sngan.check_image_size(image_size)
    if attention_size is None:
        return min(image_size // 2, 64)
    sizes = [size for size in (8, 16, 32, 64, 128) if size < image_size]
    if attention_size not in sizes:
        raise ValueError(
            f"attention_size={attention_size}: at image_size={image_size} expected one of "
            f"{', '.join(map(str, sizes))} (net.generator.attention_size=)"
        )
    return attention_size


def attend(num_features: int, spectral_norm: bool) -> SelfAttention:
    """A self-attention layer, initialised like the other 1x1 convolutions of the networks."""
    attention = SelfAttention(num_features)
    init_xavier(attention, gain=1.0)
    if spectral_norm:
        normalise_all(attention)
    return attention


class Generator(sngan.Generator):
    """z (B, Z), labels (B,) or None -> images (B, C, S, S) in [-1, 1].

    SNGAN's generator with self-attention after the block of attention_size. The other arguments are
    those of genlab.models.gan.sngan.Generator.

    Args:
        attention_size: See `attention_size_of`.
        spectral_norm: On the dense layer, convolutions and attention, not on norms.
    """

    def __init__(
        self,
        image_size: PositiveInt,
        channels: PositiveInt,
        latent_dim: PositiveInt,
        num_classes: NonNegativeInt = 0,
        hidden_dim: PositiveInt = 64,
        attention_size: PositiveInt | None = None,
        upsample: Resizing = "nearest",
        spectral_norm: bool = True,
        norm: Callable[[int, int, int], nn.Module] = BatchNorm,
    ):
        size = attention_size_of(image_size, attention_size)
        super().__init__(
            image_size, channels, latent_dim, num_classes, hidden_dim, upsample, spectral_norm, norm
        )
        self.attends_after = size.bit_length() - 4  # block 0 gives 8, block 1 gives 16, ...
        width = hidden_dim * sngan.GENERATOR[image_size][self.attends_after + 1]
        self.attention = attend(width, spectral_norm)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.dense(z).unflatten(1, (-1, 4, 4))
        for i, block in enumerate(self.blocks):
            h = block(h, z, y)
            if i == self.attends_after:
                h = self.attention(h)
        return self.to_image(h, z, y)


class Discriminator(sngan.Discriminator):
    """images (B, C, S, S), labels (B,) or None -> outputs (B, O).

    SNGAN's discriminator with self-attention after the first block of attention_size. The other
    arguments are those of genlab.models.gan.sngan.Discriminator.

    Args:
        attention_size: See `attention_size_of`.
    """

    def __init__(
        self,
        image_size: PositiveInt,
        channels: PositiveInt,
        out_dim: PositiveInt,
        num_classes: NonNegativeInt = 0,
        hidden_dim: PositiveInt = 64,
        attention_size: PositiveInt | None = None,
        spectral_norm: bool = True,
    ):
        size = attention_size_of(image_size, attention_size)
        super().__init__(image_size, channels, out_dim, num_classes, hidden_dim, spectral_norm)
        num_halvings = (image_size // size).bit_length() - 1
        width = hidden_dim * sngan.DISCRIMINATOR[image_size][0][num_halvings - 1]
        self.blocks.insert(num_halvings, attend(width, spectral_norm))
