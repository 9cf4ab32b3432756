"""Strided networks that grow: progressive training as a property of any of them.

"Progressive Growing of GANs for Improved Quality, Stability, and Variation", Karras et al. 2018,
arXiv 1710.10196. The paper has its own network (genlab.models.gan.pggan). Su regards growing as a
way of training rather than an architecture (kexue.fm, archive 6549), as this file does.

Shapes as in genlab.nn.staged. The features of the wrapped network have the sizes 4, 8, ..., S/2.
"""

import functools
from collections.abc import Sequence
from typing import Any, Literal, NoReturn, Protocol, runtime_checkable

from torch import Tensor, nn
from torch.nn.utils import parametrize

from genlab.models.gan import dcgan, stylegan
from genlab.nn.spectral_norm import normalise_all
from genlab.nn.staged import StagedDiscriminator, StagedGenerator

__all__ = [
    "Discriminator",
    "Generator",
    "GrowingDiscriminator",
    "GrowingGenerator",
    "StridedDiscriminator",
    "StridedGenerator",
    "StyleGenerator",
]


@runtime_checkable
class StridedGenerator(Protocol):
    """A generator of one stage per size, such as genlab.models.gan.dcgan.Generator."""

    widths: Sequence[int]  # channels of the features at 4, 8, ..., S/2
    channels: int  # of the image

    def condition(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """The input of stage 0, of latent vectors (B, Z) and labels (B,)."""
        ...

    def stage(self, i: int, h: Tensor, c: Tensor, y: Tensor | None = None) -> Tensor:
        """The features (B, widths[i], s, s) of those at half the size s."""
        ...

    def image(self, h: Tensor) -> Tensor:
        """The images (B, C, S, S) of the last stage's features."""
        ...


@runtime_checkable
class StridedDiscriminator(Protocol):
    """A discriminator of one stage per size, such as genlab.models.gan.dcgan.Discriminator."""

    def stages(self) -> list[nn.Sequential]:
        """The stages from the image to 4x4; each begins with its convolution."""
        ...

    def finish(self, h: Tensor, y: Tensor | None = None) -> Tensor:
        """The outputs (B, O) of the last stage's features."""
        ...


def _refuse(network: object) -> NoReturn:
    kind = f"{type(network).__module__}.{type(network).__name__}"
    raise ValueError(
        f"{kind} cannot grow; expected a strided network such as those of genlab.models.gan.dcgan "
        "(net=growing_dcgan, net=growing_stylegan)"
    )


def _init(images: nn.ModuleList, nonlinearity: Literal["linear", "leaky_relu"]) -> None:
    # He's initialisation, not DCGAN's N(0, 0.02^2). With that, a new size would fade in grey and
    # much weaker than the normalised features it is blended with, and a fade has too few steps for
    # it to grow.
    for module in images.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, 0.2, nonlinearity=nonlinearity)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class GrowingGenerator(StagedGenerator):
    """A strided generator that grows.

    Each size below S has a 1x1 convolution and tanh from its features to an image. At the highest
    level only the strided generator itself is used.

    Args:
        generator: The strided generator.

    Raises:
        ValueError: It is not strided.
    """

    def __init__(self, generator: StridedGenerator):
        if not isinstance(generator, StridedGenerator):
            _refuse(generator)
        super().__init__(4 * 2 ** len(generator.widths))
        self.network = generator
        self.images = nn.ModuleList(
            nn.Conv2d(width, generator.channels, 1) for width in generator.widths
        )
        _init(self.images, "linear")

    def condition(self, z: Tensor, y: Tensor | None) -> Tensor:
        return self.network.condition(z, y)

    def stage(self, i: int, h: Tensor, c: Tensor, y: Tensor | None) -> Tensor:
        # The step to S pixels is the generator's last layer, which makes an image and no features.
        return self.network.stage(i, h, c, y) if i < len(self.images) else h

    def image(self, i: int, h: Tensor) -> Tensor:
        return self.images[i](h).tanh() if i < len(self.images) else self.network.image(h)


class GrowingDiscriminator(StagedDiscriminator):
    """A strided discriminator that grows.

    Each size below S has a 1x1 convolution and LeakyReLU 0.2 from an image to its features,
    spectrally normalised if the strided discriminator is. At the highest level only the strided
    discriminator itself is used.

    Args:
        discriminator: The strided discriminator.

    Raises:
        ValueError: It is not strided.
    """

    def __init__(self, discriminator: StridedDiscriminator):
        if not isinstance(discriminator, StridedDiscriminator):
            _refuse(discriminator)
        convs: list[Any] = [stage[0] for stage in discriminator.stages()]
        super().__init__(4 * 2 ** len(convs))
        self.network = discriminator
        channels = convs[0].in_channels
        self.images = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, conv.out_channels, 1), nn.LeakyReLU(0.2))
            for conv in reversed(convs)
        )
        _init(self.images, "leaky_relu")
        if parametrize.is_parametrized(convs[0], "weight"):
            normalise_all(self.images)

    def features(self, i: int, x: Tensor) -> Tensor:
        return self.images[i](x) if i < len(self.images) else x

    def stage(self, i: int, h: Tensor) -> Tensor:
        return self.network.stages()[-i](h)

    def finish(self, h: Tensor, y: Tensor | None) -> Tensor:
        return self.network.finish(h, y)


class Generator(GrowingGenerator):
    """genlab.models.gan.dcgan.Generator, with the same arguments, that grows."""

    @functools.wraps(dcgan.Generator.__init__)  # type: ignore[misc]
    def __init__(self, *args, **kwargs):
        super().__init__(dcgan.Generator(*args, **kwargs))


class StyleGenerator(GrowingGenerator):
    """genlab.models.gan.stylegan.Generator, with the same arguments, that grows."""

    @functools.wraps(stylegan.Generator.__init__)  # type: ignore[misc]
    def __init__(self, *args, **kwargs):
        super().__init__(stylegan.Generator(*args, **kwargs))


class Discriminator(GrowingDiscriminator):
    """genlab.models.gan.dcgan.Discriminator, with the same arguments, that grows."""

    @functools.wraps(dcgan.Discriminator.__init__)  # type: ignore[misc]
    def __init__(self, *args, **kwargs):
        super().__init__(dcgan.Discriminator(*args, **kwargs))
