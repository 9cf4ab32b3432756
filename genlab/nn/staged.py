"""Networks that grow from 4x4 pixels to the whole image while they train.

"Progressive Growing of GANs for Improved Quality, Stability, and Variation", Karras et al. 2018,
arXiv 1710.10196, section 2 and figure 2.

A level is an index into the sizes 4, 8, ..., S plus a fraction: at level 1.3 a network works at 8x8
pixels, and 16x16 is faded in to 30 %. Outside of a network, images have S x S pixels at every
level, where a smaller one is enlarged to blocks of equal pixels. Losses, metrics and pictures
therefore need not know the level.

Shapes: B batch, C image channels, S image size, s the size of a stage, Z latent_dim, O out_dim.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

__all__ = ["Growing", "StagedDiscriminator", "StagedGenerator"]

UNIT = 2**20


class Growing(nn.Module):
    """A network with a level, at first the highest one.

    The state dict holds the level as an integer, in units of 2^-20: a moving average copies
    integers instead of averaging them, and reduced precision does not round them. The attribute
    `level` is a copy for Python, which would otherwise wait for the device.

    Args:
        image_size: S, a power of 2.
    """

    def __init__(self, image_size: int):
        super().__init__()
        self.image_size = image_size
        self.sizes = [2**i for i in range(2, image_size.bit_length())]
        self.register_buffer("stored_level", torch.zeros((), dtype=torch.int64))
        self.set_level(len(self.sizes) - 1)

    def set_level(self, level: float) -> None:
        """Changes the level.

        Args:
            level: From 0 to len(sizes) - 1.

        Raises:
            ValueError: The level is out of this range.
        """
        top = len(self.sizes) - 1
        if not 0 <= level <= top:
            raise ValueError(
                f"level={level}: expected a number from 0 ({self.sizes[0]} pixels) to {top} "
                f"({self.sizes[-1]} pixels)"
            )
        units = round(level * UNIT)
        self.level = units / UNIT
        self.stored_level.fill_(units)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.level = self.stored_level.item() / UNIT

    def position(self) -> tuple[int, float]:
        """The level as (k, a): the size with index k is complete, k + 1 is faded in to a < 1."""
        k = int(self.level)
        return k, self.level - k

    def at_level(self, images: Tensor) -> Tensor:
        """Real images (B, C, S, S) with the detail of the level, faded like the networks."""
        k, a = self.position()
        shown = _up(_down(images, self.sizes[k]), self.image_size)
        if not a:
            return shown
        finer = _up(_down(images, self.sizes[k + 1]), self.image_size)
        return _blend(shown, finer, a)


class StagedGenerator(Growing):
    """z (B, Z), labels (B,) or None -> images (B, C, S, S), by one stage for each size.

    Each size has its own layer from features to an image. During a fade, the image at size k is
    enlarged and blended with the one at size k + 1.
    """

    def condition(self, z: Tensor, y: Tensor | None) -> Tensor:
        """The input of stage 0, on which the other stages are conditioned too."""
        raise NotImplementedError

    def stage(self, i: int, h: Tensor, c: Tensor, y: Tensor | None) -> Tensor:
        """The features at size i.

        Args:
            i: Index of the size.
            h: The features at size i - 1; the condition if i is 0.
            c: The condition.
            y: Labels (B,) or None.
        """
        raise NotImplementedError

    def image(self, i: int, h: Tensor) -> Tensor:
        """The images (B, C, s, s) in [-1, 1], s = sizes[i], of the features h at size i."""
        raise NotImplementedError

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        k, a = self.position()
        c = self.condition(z, y)
        h = c
        for i in range(k + 1):
            h = self.stage(i, h, c, y)
        image = self.image(k, h)
        if a:
            finer = self.image(k + 1, self.stage(k + 1, h, c, y))
            image = _blend(_up(image, self.sizes[k + 1]), finer, a)
        return _up(image, self.image_size)


class StagedDiscriminator(Growing):
    """images (B, C, S, S), labels (B,) or None -> (B, O), by a generator's stages in reverse.

    Images are averaged to the size of the level. During a fade, the features that come from size
    k + 1 are blended with those of the image at size k.
    """

    def features(self, i: int, x: Tensor) -> Tensor:
        """The features at size i of images x (B, C, s, s), s = sizes[i]."""
        raise NotImplementedError

    def stage(self, i: int, h: Tensor) -> Tensor:
        """The features at size i - 1 of the features h at size i."""
        raise NotImplementedError

    def finish(self, h: Tensor, y: Tensor | None) -> Tensor:
        """The outputs (B, O) of the features h at size 0."""
        raise NotImplementedError

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        k, a = self.position()
        x = _down(x, self.sizes[k + 1 if a else k])
        if a:
            coarse = self.features(k, _down(x, self.sizes[k]))
            h = _blend(coarse, self.stage(k + 1, self.features(k + 1, x)), a)
        else:
            h = self.features(k, x)
        for i in range(k, 0, -1):
            h = self.stage(i, h)
        return self.finish(h, y)


def _up(x: Tensor, size: int) -> Tensor:
    return x if x.shape[-1] == size else interpolate(x, size=(size, size), mode="nearest")


def _down(x: Tensor, size: int) -> Tensor:
    return x if x.shape[-1] == size else avg_pool2d(x, x.shape[-1] // size)


def _blend(low: Tensor, high: Tensor, a: float) -> Tensor:
    # Not torch.lerp: under autocast the two may differ in precision.
    return (1 - a) * low + a * high
