"""Networks that grow from a few pixels to the whole image while they train.

"Progressive Growing of GANs for Improved Quality, Stability, and Variation", Karras et al. 2018,
arXiv 1710.10196, section 2 and figure 2.

Shapes: B batch, C image channels, S image size. A level is an index into the sizes 4, 8, ..., S and
a fraction: at 1.3 a network works at 8x8 pixels, with 16x16 faded in to 30 %. Outside a network
images have all S pixels at every level, so neither losses nor pictures know of it: a smaller one is
shown in blocks of equal pixels.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

__all__ = ["Growing", "StagedDiscriminator", "StagedGenerator"]

UNIT = 2**20


class Growing(nn.Module):
    """A network that has a level, the highest one until `set_level` says otherwise.

    The level is part of the state dict, in units of 2^-20: as an integer, a moving average copies
    it where it would average a float, and no reduced precision rounds it. `level` repeats it for
    Python, which would have to wait for the device to read it there.
    """

    def __init__(self, image_size: int):
        super().__init__()
        self.image_size = image_size
        self.sizes = [2**i for i in range(2, image_size.bit_length())]
        self.register_buffer("stored_level", torch.zeros((), dtype=torch.int64))
        self.set_level(len(self.sizes) - 1)

    def set_level(self, level: float) -> None:
        """ValueError unless `level` is between 0 and len(sizes) - 1."""
        top = len(self.sizes) - 1
        if not 0 <= level <= top:
            raise ValueError(
                f"level={level}: expected 0 ({self.sizes[0]} pixels) to {top} ({self.sizes[-1]} pixels)"
            )
        units = round(level * UNIT)
        self.level = units / UNIT
        self.stored_level.fill_(units)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.level = self.stored_level.item() / UNIT

    def position(self) -> tuple[int, float]:
        """(k, a): size k is there, and size k + 1 as far as a, which is below 1."""
        k = int(self.level)
        return k, self.level - k

    def at_level(self, images: Tensor) -> Tensor:
        """Real images (B, C, S, S) as the current level shows them: the paper fades them with the
        networks.
        """
        k, a = self.position()
        shown = _up(_down(images, self.sizes[k]), self.image_size)
        if not a:
            return shown
        return _blend(shown, _up(_down(images, self.sizes[k + 1]), self.image_size), a)


class StagedGenerator(Growing):
    """z (B, Z), labels (B,) if any -> image (B, C, S, S): one stage for each size, and a way from
    its features to an image.

    Size k shows image(k, h_k), h_k being the features that stages 0 to k make. In a fade it is
    enlarged and blended with image(k + 1, h_(k+1)).
    """

    def condition(self, z: Tensor, y: Tensor | None) -> Tensor:
        """What stage 0 starts from."""
        raise NotImplementedError

    def stage(self, i: int, h: Tensor, c: Tensor, y: Tensor | None) -> Tensor:
        """Features at size i of those at size i - 1, of the condition c where i is 0."""
        raise NotImplementedError

    def image(self, i: int, h: Tensor) -> Tensor:
        """The image (B, C, s, s) in [-1, 1], s = sizes[i], of the features at size i."""
        raise NotImplementedError

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        k, a = self.position()
        h = c = self.condition(z, y)
        for i in range(k + 1):
            h = self.stage(i, h, c, y)
        image = self.image(k, h)
        if a:
            finer = self.image(k + 1, self.stage(k + 1, h, c, y))
            image = _blend(_up(image, self.sizes[k + 1]), finer, a)
        return _up(image, self.image_size)


class StagedDiscriminator(Growing):
    """image (B, C, S, S), labels (B,) if any -> (B, O): the stages of a generator in reverse.

    The image is averaged down to the level's size. In a fade the features that come down from size
    k + 1 are blended with those of the image at size k.
    """

    def features(self, i: int, x: Tensor) -> Tensor:
        """Features at size i of the image x (B, C, s, s), s = sizes[i]."""
        raise NotImplementedError

    def stage(self, i: int, h: Tensor) -> Tensor:
        """Features at size i - 1 of those at size i."""
        raise NotImplementedError

    def finish(self, h: Tensor, y: Tensor | None) -> Tensor:
        """(B, O) of the features at size 0."""
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
