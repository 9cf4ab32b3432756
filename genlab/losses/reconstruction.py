"""Distances between images: what a model without an adversary is trained to make small.

Each is called with two batches (B, C, H, W) in [-1, 1] and returns one distance a pair, (B,).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, pad

from genlab.ranges import Depth, NonNegativeFloat

__all__ = ["L1", "L2", "FeatureDistance", "Laplacian", "laplacian_pyramid"]


class L1:
    """The mean over C, H, W of |x - y|."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return (x - y).abs().flatten(1).mean(1)


class L2:
    """The mean over C, H, W of (x - y)^2."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return (x - y).square().flatten(1).mean(1)


def laplacian_pyramid(x: Tensor, num_levels: int = 3, sigma: float = 2.0) -> list[Tensor]:
    """num_levels differences (B, C, H / 2^i, W / 2^i) of an image and its blur, then what is left
    at H / 2^num_levels.

    The blur is a 5x5 Gaussian with replicated borders; the blurred image is averaged in 2x2 blocks
    for the next level. "Optimizing the Latent Space of Generative Networks", Bojanowski et al.
    2017, arXiv 1707.05776, in the form of tneumann/minimal_glo. ValueError for images that
    2^num_levels does not divide.
    """
    if x.shape[-1] % 2**num_levels or x.shape[-2] % 2**num_levels:
        raise ValueError(
            f"loss.num_levels={num_levels}: {x.shape[-1]} pixels cannot be halved so often (data.image_size=)"
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
    """The sum over a Laplacian pyramid's levels of the mean of |difference|: sharper than L1, and
    needs no weights.

    weights: of the levels, finest first, the rest last; 1 each unless given. The paper (arXiv
    1707.05776) weighs level j by 2^(-2j), minimal_glo all alike.
    """

    def __init__(self, num_levels: Depth = 3, weights: Sequence[NonNegativeFloat] | None = None):
        if weights is not None and len(weights) != num_levels + 1:
            raise ValueError(
                f"loss.weights={list(weights)}: expected num_levels + 1 = {num_levels + 1} of them"
            )
        self.num_levels, self.weights = num_levels, weights or [1.0] * (num_levels + 1)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        levels = laplacian_pyramid(x - y, self.num_levels)  # the pyramid is linear
        return torch.stack(
            [w * d.abs().flatten(1).mean(1) for w, d in zip(self.weights, levels, strict=True)]
        ).sum(0)


class FeatureDistance:
    """mean|x - y| plus, for each of the maps that a network takes of both, the mean over the map of
    |difference|.

    "Non-Adversarial Image Synthesis with Generative Latent Nearest Neighbors", Hoshen and Malik
    2019, arXiv 1812.08985, section 3. make: called with the data module at the start, gives images
    -> maps [(B, ...), ...]. It is kept out of the model's own weights.
    """

    def __init__(self, make: Callable[..., Callable[[Tensor], Sequence[Tensor]]]):
        self.make, self.maps = make, None

    def bind(self, data) -> None:
        """Builds the network, for images of the data module `data`; ValueError if no gradient comes
        through it.
        """
        if self.maps is not None:
            return
        maps = self.make(data)
        probe = torch.zeros(1, data.channels, data.image_size, data.image_size, requires_grad=True)
        if not all(features.requires_grad for features in maps(probe)):
            raise ValueError(
                "loss=features: no gradient passes through this network; use another of the metrics, or vgg"
            )
        self.maps = maps

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        if self.maps is None:
            raise ValueError(
                "this distance's network is not built yet: call system.loss.bind(data) with the data module"
            )
        if hasattr(self.maps, "to"):
            self.maps.to(x.device, x.dtype)
        pairs = zip(self.maps(x), self.maps(y), strict=True)
        return L1()(x, y) + sum(L1()(of_x, of_y) for of_x, of_y in pairs)
