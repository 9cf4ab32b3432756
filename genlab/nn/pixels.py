"""From pixels to numbers that have a density, and from that density to bits: the one place where
levels are counted.
"""

import math

import torch
from torch import Tensor, nn

from genlab.ranges import PositiveInt

__all__ = ["Pixels", "bits_per_dim"]


def bits_per_dim(log_prob: Tensor, dims: int) -> Tensor:
    """Bits for each of `dims` numbers, of a log probability in nats (of an image: of one pixel
    value in each bin).
    """
    return -log_prob / (dims * math.log(2))


class Pixels(nn.Module):
    """Images (B, C, H, W) in [-1, 1] of `levels` grey values -> (x (B, C, H, W), log det (B,)) in
    nats.

    Value k of 0 .. levels - 1 becomes (k + noise) / levels with noise in [0, 1) (dequantisation),
    so that an integral of the density over a bin is the probability of a value, and, with alpha >
    0, logit(alpha + (1 - 2 alpha) of that); with alpha 0 the numbers are centred, no more. A value
    between two levels counts as the nearest. `levels` is a buffer: it is found in the data, and a
    checkpoint must know it.

    "Density estimation using Real NVP", Dinh et al. 2017, arXiv 1605.08803, section 4.1.
    """

    levels: Tensor

    def __init__(self, levels: PositiveInt = 256, alpha: float = 0.05):
        super().__init__()
        if not 0 <= alpha < 0.5:
            raise ValueError(f"model.alpha={alpha}: expected a number from 0 (no logit) to 0.5")
        if levels < 2:
            raise ValueError(f"model.levels={levels}: expected 2 grey values or more")
        self.alpha = alpha
        self.register_buffer("levels", torch.tensor(levels))

    def values(self, images: Tensor) -> Tensor:
        """The level of each pixel, 0 .. levels - 1, as floats."""
        return ((images + 1) / 2 * (self.levels - 1)).round()

    def forward(self, images: Tensor, noise: Tensor | float = 0.5) -> tuple[Tensor, Tensor]:
        x = (self.values(images) + noise) / self.levels
        log_det = -self.levels.to(x.dtype).log() * x[0].numel()
        if not self.alpha:
            return x - 0.5, log_det.expand(x.shape[0])
        s = self.alpha + (1 - 2 * self.alpha) * x
        terms = math.log(1 - 2 * self.alpha) - s.log() - (1 - s).log()
        return s.logit(), log_det + terms.flatten(1).sum(1)

    def inverse(self, x: Tensor) -> Tensor:
        """The images of the levels in whose bins x lies; beyond the first and the last, those; mid
        grey where x is NaN.

        A flow's inverse can overflow; genlab.systems.flow.flow says so when it does.
        """
        x = torch.where(x == x, x, 0.0)  # operations that the explorer knows, too
        x = (x.sigmoid() - self.alpha) / (1 - 2 * self.alpha) if self.alpha else x + 0.5
        k = (x * self.levels).floor().clamp(min=0).minimum(self.levels - 1)
        return k / (self.levels - 1) * 2 - 1
