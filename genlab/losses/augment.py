"""Differentiable augmentation of what a discriminator sees."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["DiffAugment"]

POLICIES = ("color", "translation", "cutout")


class DiffAugment:
    """The same random colour shift, translation and cutout for all passes of a step.

    "Differentiable Augmentation for Data-Efficient GAN Training", Zhao et al. 2020, arXiv
    2006.10738. `draw` chooses one transform per sample of the batch; calling it applies that to
    images (B, C, H, W) in [-1, 1], real i and fake i alike, where the source draws anew for the
    fakes: single-loss training needs D(G) and D(sg G) to see one image.
    policy: some of color, translation, cutout; ValueError for others.
    """

    def __init__(self, policy: list[Literal["color", "translation", "cutout"]]):
        if unknown := [name for name in policy if name not in POLICIES]:
            raise ValueError(f"augment.policy={unknown}: expected some of {', '.join(POLICIES)}")
        self.policy = policy
        self.numbers: Tensor | None = None

    def draw(self, num: int, device: torch.device) -> None:
        """New transforms for `num` samples."""
        self.numbers = torch.rand(7, num, 1, 1, 1, device=device)

    def __call__(self, images: Tensor) -> Tensor:
        brightness, saturation, contrast, *places = self.numbers.to(images.dtype)
        if "color" in self.policy:
            images = images + (brightness - 0.5)
            mean = images.mean(1, keepdim=True)
            images = (images - mean) * (2 * saturation) + mean
            mean = images.mean((1, 2, 3), keepdim=True)
            images = (images - mean) * (contrast + 0.5) + mean
        height, width = images.shape[2:]
        if "translation" in self.policy:
            images = _translate(
                images,
                *(
                    _integer(u, size // 8)
                    for u, size in zip(places[:2], (height, width), strict=True)
                ),
            )
        if "cutout" in self.policy:
            images = images * _outside(images, places[2], places[3])
        return images


def _integer(u: Tensor, most: int) -> Tensor:
    """u in [0, 1) -> whole numbers from -most to most, (B, 1, 1)."""
    return ((2 * most + 1) * u).floor().long()[:, 0] - most


def _translate(images: Tensor, dy: Tensor, dx: Tensor) -> Tensor:
    """Each image moved by its (dy, dx), zeros coming in."""
    (height, width), device = images.shape[2:], images.device
    rows = (torch.arange(height, device=device)[None, :, None] + 1 - dy).clamp(0, height + 1)
    columns = (torch.arange(width, device=device)[None, None, :] + 1 - dx).clamp(0, width + 1)
    samples = torch.arange(len(images), device=device)[:, None, None]
    return pad(images, (1, 1, 1, 1)).permute(0, 2, 3, 1)[samples, rows, columns].permute(0, 3, 1, 2)


def _outside(images: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """1 outside a square of half the image's side around a random centre, 0 inside: (B, 1, H, W)."""
    (height, width), device = images.shape[2:], images.device
    rows, columns = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
    top, left = (u * (height + 1)).floor() - height // 4, (v * (width + 1)).floor() - width // 4
    inside = (
        (rows >= top)
        & (rows < top + height // 2)
        & (columns >= left)
        & (columns < left + width // 2)
    )
    return (~inside).to(images.dtype)
