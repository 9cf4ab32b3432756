"""Strided networks that grow: PGGAN's training as a property of any of them.

"Progressive Growing of GANs for Improved Quality, Stability, and Variation", Karras et al. 2018,
arXiv 1710.10196. The source has a network of its own (genlab.models.gan.pggan); taking the growth
for a way of training and not for an architecture is Su's view (kexue.fm, archive 6549).

A generator that can grow has `widths` and `channels` and the methods condition, stage and image of
genlab.models.gan.dcgan.Generator; a discriminator has `stages` and `head` as
genlab.models.gan.dcgan.Discriminator does. Shapes are those of genlab.nn.staged; the wrapped
network's features have the sizes 4, 8, ..., S/2.
"""

import functools

from torch import Tensor, nn
from torch.nn.utils import parametrize

from genlab.models.gan import dcgan, stylegan
from genlab.nn.layout import gradient_in_own_layout
from genlab.nn.spectral_norm import normalise_all
from genlab.nn.staged import StagedDiscriminator, StagedGenerator

__all__ = [
    "Discriminator",
    "Generator",
    "GrowingDiscriminator",
    "GrowingGenerator",
    "StyleGenerator",
]


def _check(network: nn.Module, names: tuple[str, ...]) -> None:
    missing = [name for name in names if not hasattr(network, name)]
    if missing:
        raise ValueError(
            f"{type(network).__module__}.{type(network).__name__} cannot grow (it has no {', '.join(missing)}); expected a "
            "strided network such as those of genlab.models.gan.dcgan"
        )


def _init(images: nn.ModuleList, nonlinearity: str) -> None:
    # He's, not DCGAN's N(0, 0.02^2): with that a new size comes in grey, and so much weaker than
    # the normalised features it is blended with that the fade is none; with the few steps of a
    # fade, it does not grow in time.
    for module in images.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, 0.2, nonlinearity=nonlinearity)
            nn.init.zeros_(module.bias)


class GrowingGenerator(StagedGenerator):
    """`generator` and, for each size below S, a 1x1 convolution and tanh from its features to an
    image.

    At the highest level nothing but `generator` itself is used.
    """

    def __init__(self, generator: nn.Module):
        _check(generator, ("widths", "channels", "condition", "stage", "image"))
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
    """`discriminator` and, for each size below S, a 1x1 convolution and LeakyReLU 0.2 from an image
    to its features.

    Spectrally normalised where `discriminator` is. At the highest level nothing but `discriminator`
    itself is used.
    """

    def __init__(self, discriminator: nn.Module):
        _check(discriminator, ("stages", "head"))
        convs = [stage[0] for stage in discriminator.stages()]
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
        return self.network.head(gradient_in_own_layout(h).flatten(1), y)


class Generator(GrowingGenerator):
    """genlab.models.gan.dcgan.Generator, of the same arguments, that grows."""

    @functools.wraps(dcgan.Generator.__init__)
    def __init__(self, *args, **kwargs):
        super().__init__(dcgan.Generator(*args, **kwargs))


class StyleGenerator(GrowingGenerator):
    """genlab.models.gan.stylegan.Generator, of the same arguments, that grows."""

    @functools.wraps(stylegan.Generator.__init__)
    def __init__(self, *args, **kwargs):
        super().__init__(stylegan.Generator(*args, **kwargs))


class Discriminator(GrowingDiscriminator):
    """genlab.models.gan.dcgan.Discriminator, of the same arguments, that grows."""

    @functools.wraps(dcgan.Discriminator.__init__)
    def __init__(self, *args, **kwargs):
        super().__init__(dcgan.Discriminator(*args, **kwargs))
