"""Distances between images, which models without a discriminator minimise.

A distance is called with two batches (B, C, H, W) in [-1, 1] and returns one value per pair (B,).
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, pad

from genlab.ranges import Depth, NonNegativeFloat

__all__ = ["L1", "L2", "BuiltFromData", "FeatureDistance", "Laplacian", "laplacian_pyramid"]


@runtime_checkable
class BuiltFromData(Protocol):
    """A distance that needs the data module before its first call."""

    def bind(self, data: Any) -> None:
        """Builds what the distance needs for the images of the data module `data`."""
        ...


class L1:
    """The mean over C, H, W of |x - y|."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return (x - y).abs().flatten(1).mean(1)


class L2:
    """The mean over C, H, W of (x - y)^2."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return (x - y).square().flatten(1).mean(1)


def laplacian_pyramid(x: Tensor, num_levels: int = 3, sigma: float = 2.0) -> list[Tensor]:
    """Splits images into bands of frequency, the finest first.

    Each level is the difference of an image and its blur, a 5x5 Gaussian with replicated borders.
    The blurred image, averaged in 2x2 blocks, is the image of the next level.

    "Optimizing the Latent Space of Generative Networks", Bojanowski et al. 2017, arXiv 1707.05776,
    in the form of tneumann/minimal_glo.

    Args:
        x: Images (B, C, H, W).
        num_levels: How many differences there are.
        sigma: Of the Gaussian, in pixels.

    Returns:
        num_levels differences (B, C, H / 2^i, W / 2^i), then the rest at H / 2^num_levels.

    Raises:
        ValueError: 2^num_levels does not divide the size of the images.
    """
    if x.shape[-1] % 2**num_levels or x.shape[-2] % 2**num_levels:
        raise ValueError(
            f"loss.num_levels={num_levels}: images of {x.shape[-1]} pixels cannot be halved "
            f"{num_levels} times; use fewer levels or another data.image_size="
        )
    offsets = torch.arange(-2, 3, dtype=x.dtype, device=x.device)
    row = (-offsets.square() / (2 * sigma**2)).exp()
    kernel = (row[:, None] * row / row.sum() ** 2).expand(x.shape[1], 1, 5, 5)
    levels = []
    for _ in range(num_levels):
        blurred = conv2d(pad(x, (2, 2, 2, 2), mode="replicate"), kernel, groups=x.shape[1])
        levels.append(x - blurred)
        x = avg_pool2d(blurred, 2)
    return [*levels, x]


class Laplacian:
    """The sum over the levels of a Laplacian pyramid of the mean |difference|.

    It gives sharper images than L1 and needs no pretrained network.

    Args:
        num_levels: See `laplacian_pyramid`.
        weights: Of the levels, finest first, then of the rest; 1 each if None. The paper (arXiv
            1707.05776) weights level j by 2^(-2j), minimal_glo all levels alike.

    Raises:
        ValueError: The number of weights is not num_levels + 1.
    """

    def __init__(self, num_levels: Depth = 3, weights: Sequence[NonNegativeFloat] | None = None):
        if weights is not None and len(weights) != num_levels + 1:
            raise ValueError(
                f"loss.weights={list(weights)}: expected {num_levels + 1} weights, one for each of "
                "the num_levels levels and one for the rest"
            )
        self.num_levels = num_levels
        self.weights = weights or [1.0] * (num_levels + 1)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        levels = laplacian_pyramid(x - y, self.num_levels)  # the pyramid is linear
        distances = [
            weight * level.abs().flatten(1).mean(1)
            for weight, level in zip(self.weights, levels, strict=True)
        ]
        return torch.stack(distances).sum(0)


class FeatureDistance:
    """L1 of the pixels plus L1 of each feature map of a network.

    The network is built from the data at the start of training and is not part of the model's
    weights.

    "Non-Adversarial Image Synthesis with Generative Latent Nearest Neighbors", Hoshen and Malik
    2019, arXiv 1812.08985, section 3.

    Args:
        make: Called with the data module; returns a function of images (B, C, H, W) -> feature maps
            [(B, ...), ...].
    """

    def __init__(self, make: Callable[..., Callable[[Tensor], Sequence[Tensor]]]):
        self.make = make
        self.maps: Callable[[Tensor], Sequence[Tensor]] | None = None

    def bind(self, data: Any) -> None:
        """Builds the network for the images of the data module `data`, unless it is built already.

        Raises:
            ValueError: No gradient passes through the network.
        """
        if self.maps is not None:
            return
        maps = self.make(data)
        probe = torch.zeros(1, data.channels, data.image_size, data.image_size, requires_grad=True)
        if not all(features.requires_grad for features in maps(probe)):
            raise ValueError(
                "loss.network: no gradient passes through this feature network; use loss=vgg or "
                "another network of genlab.metrics.features"
            )
        self.maps = maps

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        if self.maps is None:
            raise ValueError(
                "loss: the feature network is not built yet; call system.bind(data) with the data "
                "module first"
            )
        if isinstance(self.maps, nn.Module):
            self.maps.to(x.device, x.dtype)
        pairs = zip(self.maps(x), self.maps(y), strict=True)
        return L1()(x, y) + sum(L1()(of_x, of_y) for of_x, of_y in pairs)
