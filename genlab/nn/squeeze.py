"""Downsampling that loses nothing: 2x2 pixels become channels."""

from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

__all__ = ["Squeeze", "squeezed"]


class Squeeze(nn.Module):
    """x (B, C, H, W) -> (y (B, C f f, H / f, W / f), log det 0 (B,)) for a factor f.

    A permutation: channel c becomes channels c f f ... c f f + f f - 1.

    "Density estimation using Real NVP", Dinh et al. 2017, arXiv 1605.08803, section 3.6.
    """

    def __init__(self, factor: int = 2):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return pixel_unshuffle(x, self.factor), x.new_zeros(x.shape[0])

    def inverse(self, y: Tensor) -> Tensor:
        return pixel_shuffle(y, self.factor)


def squeezed(shape: tuple[int, int, int], factor: int = 2) -> tuple[int, int, int]:
    """The shape of an image (C, H, W) behind a Squeeze; ValueError if its sides do not divide."""
    channels, height, width = shape
    if height % factor or width % factor:
        raise ValueError(
            f"net.shape={list(shape)}: expected sides that divide by {factor}; use fewer "
            "net.num_scales=, or another data.image_size="
        )
    return channels * factor**2, height // factor, width // factor
