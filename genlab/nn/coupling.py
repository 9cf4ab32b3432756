"""Couplings: one part of the input passes through and says how the other is moved; and the networks
that say it.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from genlab.nn.actnorm import ActNorm

__all__ = [
    "ConditionalGaussian",
    "Coupling",
    "MaskedCoupling",
    "ZeroLayer",
    "conv_net",
    "mlp",
    "outputs_of",
]

Kind = Literal["additive", "sigmoid", "tanh"]


class ZeroLayer(nn.Module):
    """A linear layer or convolution that starts at 0 and whose outputs have a learned gain exp(3
    log_gain).

    Of openai/glow: the gain lets a layer that starts at 0 grow quickly.
    """

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        self.log_gain = nn.Parameter(torch.zeros(len(layer.bias)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * (3 * self.log_gain).exp().view(-1, *[1] * (x.dim() - 2))


class _NormedConvs(nn.Sequential):
    """Convolutions without a bias, an ActNorm behind each, and other layers.

    The norm is applied to the convolution's weights: a tenth of Glow's step less than over its
    output. Its log-determinant is nobody's business inside a coupling's network.
    """

    def forward(self, x: Tensor) -> Tensor:
        layers = iter(self)
        for layer in layers:
            if not isinstance(layer, nn.Conv2d):
                x = layer(x)
                continue
            norm = next(layers)
            if norm.first_batch():
                with torch.no_grad():
                    norm.initialise(layer(x))
            scale = norm.log_scale.exp()
            weight = layer.weight * scale.view(-1, 1, 1, 1)
            x = nn.functional.conv2d(x, weight, norm.shift * scale, padding=layer.padding)
        return x


def conv_net(in_channels: int, hidden: int, out_channels: int) -> nn.Module:
    """Glow's: 3x3 - ReLU - 1x1 - ReLU - 3x3 from 0, ActNorms in between. Shapes (B, C, H, W)."""
    return _NormedConvs(
        nn.Conv2d(in_channels, hidden, 3, padding=1, bias=False), ActNorm(hidden), nn.ReLU(),
        nn.Conv2d(hidden, hidden, 1, bias=False), ActNorm(hidden), nn.ReLU(),
        ZeroLayer(nn.Conv2d(hidden, out_channels, 3, padding=1)),
    )  # fmt: skip


def mlp(in_features: int, hidden: int, out_features: int) -> nn.Module:
    """Two hidden layers, smooth (a density should have no creases), the last layer from 0. Shapes
    (B, D).
    """
    return nn.Sequential(
        nn.Linear(in_features, hidden), nn.SiLU(),
        nn.Linear(hidden, hidden), nn.SiLU(),
        ZeroLayer(nn.Linear(hidden, out_features)),
    )  # fmt: skip


def outputs_of(kind: Kind) -> int:
    """How many outputs a coupling's network has for each feature it moves."""
    return 1 if kind == "additive" else 2


class _Move(nn.Module):
    """What a coupling does to a part x given its network's outputs h: (x + shift) exp(log_scale).

    kind: additive (log_scale 0), sigmoid (scale sigmoid(h + 2), of openai/glow) or tanh (log_scale
    a tanh(h) with a learned a for each feature, of RealNVP).
    """

    def __init__(self, kind: Kind, num_features: int):
        super().__init__()
        if kind not in ("additive", "sigmoid", "tanh"):
            raise ValueError(f"net.coupling={kind!r}: expected additive, sigmoid or tanh")
        self.kind = kind
        if kind == "tanh":
            self.bound = nn.Parameter(torch.ones(num_features))

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor | None]:
        """(shift, log_scale)"""
        if self.kind == "additive":
            return h, None
        shift, raw = h.chunk(2, 1)
        if self.kind == "sigmoid":
            return shift, nn.functional.logsigmoid(raw + 2)
        return shift, self.bound.view(-1, *[1] * (h.dim() - 2)) * raw.tanh()


class Coupling(nn.Module):
    """The first features of x (B, C, ...) pass and move the rest; with `swap` the last pass and
    move the first.

    net: called with (inputs, outputs) gives the network of the passing features.

    "Density estimation using Real NVP", Dinh et al. 2017, arXiv 1605.08803, section 3.2.
    """

    def __init__(
        self,
        num_features: int,
        net: Callable[[int, int], nn.Module],
        kind: Kind,
        swap: bool = False,
    ):
        super().__init__()
        moved = num_features // 2
        self.sizes, self.swap = (
            (moved, num_features - moved) if swap else (num_features - moved, moved),
            swap,
        )
        moved = self.sizes[0] if swap else self.sizes[1]
        self.net, self.move = (
            net(num_features - moved, moved * outputs_of(kind)),
            _Move(kind, moved),
        )

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x.split(self.sizes, 1)
        return (second, first) if self.swap else (first, second)

    def _join(self, passing: Tensor, moved: Tensor) -> Tensor:
        return torch.cat((moved, passing) if self.swap else (passing, moved), 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        passing, moved = self._split(x)
        shift, log_scale = self.move(self.net(passing))
        if log_scale is None:
            return self._join(passing, moved + shift), x.new_zeros(x.shape[0])
        return self._join(passing, (moved + shift) * log_scale.exp()), log_scale.flatten(1).sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        passing, moved = self._split(y)
        shift, log_scale = self.move(self.net(passing))
        return self._join(
            passing, (moved if log_scale is None else moved * (-log_scale).exp()) - shift
        )


class MaskedCoupling(nn.Module):
    """The features where the mask is 1 pass and move those where it is 0; the network sees all, the
    moved ones as 0.

    mask: of the shape of one x, without the batch. net: called with (C, outputs) gives the network.
    """

    mask: Tensor

    def __init__(self, mask: Tensor, net: Callable[[int, int], nn.Module], kind: Kind):
        super().__init__()
        self.register_buffer("mask", mask.float(), persistent=False)
        channels = len(mask)
        self.net, self.move = net(channels, channels * outputs_of(kind)), _Move(kind, channels)

    def _moves(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        shift, log_scale = self.move(self.net(x * self.mask))
        free = 1 - self.mask
        return shift * free, None if log_scale is None else log_scale * free

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._moves(x)
        if log_scale is None:
            return x + shift, x.new_zeros(x.shape[0])
        return (x + shift) * log_scale.exp(), log_scale.flatten(1).sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        shift, log_scale = self._moves(y)
        return (y if log_scale is None else y * (-log_scale).exp()) - shift


class ConditionalGaussian(nn.Module):
    """out (B, C, H, W) standardised by a mean and a log std that a 3x3 convolution from 0 tells
    from kept (B, K, H, W).

    Of openai/glow: the learned prior of what is factored out, written as a bijection to a standard
    normal.
    """

    LOWEST = math.log(
        1e-3
    )  # of the log std: below, one flat corner of an image could make the likelihood infinite

    def __init__(self, kept: int, out: int):
        super().__init__()
        self.layer = ZeroLayer(nn.Conv2d(kept, 2 * out, 3, padding=1))

    def _moments(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.layer(kept).chunk(2, 1)
        return mean, log_std.clamp(min=self.LOWEST)

    def forward(self, kept: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self._moments(kept)
        return (out - mean) * (-log_std).exp(), -log_std.flatten(1).sum(1)

    def inverse(self, kept: Tensor, z: Tensor) -> Tensor:
        mean, log_std = self._moments(kept)
        return z * log_std.exp() + mean
