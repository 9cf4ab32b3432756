"""Augmentations of images inside a training step, on the device and differentiable.

Shapes: B batch, C channels, H x W pixels.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["DiffAugment", "translate"]

POLICIES = ("color", "translation", "cutout")


class DiffAugment:
    """Random colour, translation and cutout, the same for all discriminator passes of a step.

    `draw` chooses one transform per sample. Calls apply it to images (B, C, H, W) in [-1, 1], to
    real image i and fake i alike. The paper's code draws anew for the fakes; single-loss training
    needs D(G) and D(sg G) to see the same image.

    "Differentiable Augmentation for Data-Efficient GAN Training", Zhao et al. 2020, arXiv
    2006.10738.

    Args:
        policy: Some of color, translation, cutout.

    Raises:
        ValueError: The policy has another name in it.
    """

    def __init__(self, policy: list[Literal["color", "translation", "cutout"]]):
        if unknown := [name for name in policy if name not in POLICIES]:
            raise ValueError(f"augment.policy={unknown}: expected some of {', '.join(POLICIES)}")
        self.policy = policy
        self.numbers: Tensor | None = None  # (7, B, 1, 1, 1) in [0, 1)

    def draw(self, num: int, device: torch.device) -> None:
        """Chooses new transforms for `num` samples."""
        self.numbers = torch.rand(7, num, 1, 1, 1, device=device)

    def __call__(self, images: Tensor) -> Tensor:
        assert self.numbers is not None  # `draw` comes first
        brightness, saturation, contrast, *places = self.numbers.to(images.dtype)
        if "color" in self.policy:
            images = images + (brightness - 0.5)
            mean = images.mean(1, keepdim=True)
            images = (images - mean) * (2 * saturation) + mean
            mean = images.mean((1, 2, 3), keepdim=True)
            images = (images - mean) * (contrast + 0.5) + mean
        height, width = images.shape[2:]
        if "translation" in self.policy:
            dy = _offsets(places[0], height // 8)
            dx = _offsets(places[1], width // 8)
            images = translate(images, dy, dx)
        if "cutout" in self.policy:
            images = images * _outside(images, places[2], places[3])
        return images


def translate(images: Tensor, dy: Tensor, dx: Tensor, fill: float = 0.0) -> Tensor:
    """Moves each image by its own whole number of pixels.

    Args:
        images: (B, C, H, W).
        dy: Pixels downwards (B, 1, 1) int64; negative: upwards.
        dx: Pixels to the right (B, 1, 1) int64; negative: to the left.
        fill: The value of pixels that come in from outside.

    Returns:
        Images of the same shape, differentiable in `images`.
    """
    height, width = images.shape[2:]
    device = images.device
    # One pixel of padding stands for all that lies outside.
    rows = (torch.arange(height, device=device)[None, :, None] + 1 - dy).clamp(0, height + 1)
    columns = (torch.arange(width, device=device)[None, None, :] + 1 - dx).clamp(0, width + 1)
    samples = torch.arange(len(images), device=device)[:, None, None]
    padded = pad(images, (1, 1, 1, 1), value=fill).permute(0, 2, 3, 1)  # (B, H + 2, W + 2, C)
    return padded[samples, rows, columns].permute(0, 3, 1, 2)


def _offsets(u: Tensor, most: int) -> Tensor:
    """Whole numbers (B, 1, 1) from -most to most, of numbers u (B, 1, 1, 1) in [0, 1)."""
    return ((2 * most + 1) * u).floor().long()[:, 0] - most


def _outside(images: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """A mask (B, 1, H, W): 0 inside a square of half the image's side, 1 outside.

    u, v (B, 1, 1, 1) in [0, 1) say where the centre of the square lies.
    """
    height, width = images.shape[2:]
    rows = torch.arange(height, device=images.device)[:, None]
    columns = torch.arange(width, device=images.device)
    top = (u * (height + 1)).floor() - height // 4
    left = (v * (width + 1)).floor() - width // 4
    in_rows = (rows >= top) & (rows < top + height // 2)
    in_columns = (columns >= left) & (columns < left + width // 2)
    return (~(in_rows & in_columns)).to(images.dtype)
