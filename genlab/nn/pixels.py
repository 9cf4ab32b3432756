"""Pixels as numbers that have a density, and that density in bits: the one place that counts grey
values.
"""

import math

import torch
from torch import Tensor, nn

from genlab.ranges import PositiveInt

__all__ = ["Pixels", "bits_per_dim"]


def bits_per_dim(log_prob: Tensor, dims: int) -> Tensor:
    """-log p in bits for each of `dims` numbers, from log p in nats."""
    return -log_prob / (dims * math.log(2))


class Pixels(nn.Module):
    """Images (B, C, H, W) in [-1, 1] -> (x (B, C, H, W), log det (B,) in nats).

    Grey value k of 0 ... K - 1 becomes u = (k + noise) / K, with noise in [0, 1) (dequantisation).
    So the integral of a density over a bin is the probability of a grey value. With alpha > 0, x is
    logit(alpha + (1 - 2 alpha) u); with alpha 0 it is u - 0.5. A pixel between two grey values
    counts as the nearest.

    K is the buffer `levels`: it is found in the data, and a checkpoint has to know it.

    "Density estimation using Real NVP", Dinh et al. 2017, arXiv 1605.08803, section 4.1.

    Args:
        num_bins: K, 2 or more.
        alpha: In [0, 0.5).
    """

    levels: Tensor

    def __init__(self, num_bins: PositiveInt = 256, alpha: float = 0.05):
        super().__init__()
        if not 0 <= alpha < 0.5:
            raise ValueError(f"model.alpha={alpha}: expected 0 (no logit) or more, and below 0.5")
        if num_bins < 2:
            raise ValueError(f"model.num_bins={num_bins}: expected 2 grey values or more")
        self.alpha = alpha
        self.register_buffer("levels", torch.tensor(num_bins))

    def values(self, images: Tensor) -> Tensor:
        """The grey value of each pixel, 0 ... K - 1, as floats."""
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
        """Images (B, C, H, W) of the grey values in whose bins x lies.

        Beyond the bins, the first or the last grey value counts. NaN, which the inverse of a flow
        gives where it overflows, becomes mid grey.
        """
        x = torch.where(x == x, x, 0.0)  # in place of nan_to_num, which the explorer does not know
        x = (x.sigmoid() - self.alpha) / (1 - 2 * self.alpha) if self.alpha else x + 0.5
        k = (x * self.levels).floor().clamp(min=0).minimum(self.levels - 1)
        return k / (self.levels - 1) * 2 - 1
