"""Couplings: some features pass and decide how the others move; and the networks that decide it."""

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
    "num_outputs",
]

Kind = Literal["additive", "sigmoid", "tanh"]


class ZeroLayer(nn.Module):
    """A linear layer or convolution that starts at 0, whose outputs have a learned gain exp(3
    log_gain).

    As in openai/glow: with the gain, a layer that starts at 0 can grow quickly.
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

    The norm is applied to the weights of its convolution, which takes a tenth off Glow's step
    against applying it to the output. Its log-determinant plays no part inside of a coupling's
    network.
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


def conv_net(in_channels: int, hidden_dim: int, out_channels: int) -> nn.Module:
    """Glow's network of a coupling, (B, in_channels, H, W) -> (B, out_channels, H, W).

    3x3, ReLU, 1x1, ReLU, 3x3 from 0, with an ActNorm behind the first two convolutions.
    """
    return _NormedConvs(
        nn.Conv2d(in_channels, hidden_dim, 3, padding=1, bias=False),
        ActNorm(hidden_dim),
        nn.ReLU(),
        nn.Conv2d(hidden_dim, hidden_dim, 1, bias=False),
        ActNorm(hidden_dim),
        nn.ReLU(),
        ZeroLayer(nn.Conv2d(hidden_dim, out_channels, 3, padding=1)),
    )


def mlp(in_features: int, hidden_dim: int, out_features: int) -> nn.Module:
    """A coupling's network of points, (B, in_features) -> (B, out_features).

    Two hidden layers, smooth because a density should have no creases, and a last layer from 0.
    """
    return nn.Sequential(
        nn.Linear(in_features, hidden_dim),
        nn.SiLU(),
        nn.Linear(hidden_dim, hidden_dim),
        nn.SiLU(),
        ZeroLayer(nn.Linear(hidden_dim, out_features)),
    )


def num_outputs(kind: Kind) -> int:
    """How many outputs a coupling's network has for each feature that moves."""
    return 1 if kind == "additive" else 2


class _Move(nn.Module):
    """How a coupling moves features x given the outputs h of its network: (x + shift)
    exp(log_scale).

    Args:
        kind: additive (log_scale 0), sigmoid (scale sigmoid(h + 2), as in openai/glow) or tanh
            (log_scale a tanh(h) with a learned a for each feature, as in RealNVP).
        num_features: Of x.
    """

    def __init__(self, kind: Kind, num_features: int):
        super().__init__()
        if kind not in ("additive", "sigmoid", "tanh"):
            raise ValueError(f"net.coupling={kind!r}: expected additive, sigmoid or tanh")
        self.kind = kind
        if kind == "tanh":
            self.bound = nn.Parameter(torch.ones(num_features))

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor | None]:
        """(shift, log_scale), both of the shape of x; log_scale is None where it is 0."""
        if self.kind == "additive":
            return h, None
        shift, raw = h.chunk(2, 1)
        if self.kind == "sigmoid":
            return shift, nn.functional.logsigmoid(raw + 2)
        return shift, self.bound.view(-1, *[1] * (h.dim() - 2)) * raw.tanh()


class Coupling(nn.Module):
    """x (B, C, ...) -> (y, log det (B,) in nats): the first features pass and move the others.

    "Density estimation using Real NVP", Dinh et al. 2017, arXiv 1605.08803, section 3.2.

    Args:
        num_features: C.
        net: Called with (inputs, outputs), gives the network of the features that pass.
        kind: See _Move.
        swap: Whether the last features pass instead.
    """

    def __init__(
        self,
        num_features: int,
        net: Callable[[int, int], nn.Module],
        kind: Kind,
        swap: bool = False,
    ):
        super().__init__()
        half = num_features // 2
        self.sizes = (half, num_features - half) if swap else (num_features - half, half)
        self.swap = swap
        moved = self.sizes[0] if swap else self.sizes[1]
        self.net = net(num_features - moved, moved * num_outputs(kind))
        self.move = _Move(kind, moved)

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
        if log_scale is not None:
            moved = moved * (-log_scale).exp()
        return self._join(passing, moved - shift)


class MaskedCoupling(nn.Module):
    """x (B, C, ...) -> (y, log det (B,) in nats): features under a mask of 1 pass and move those
    under 0.

    The network sees all of x, with 0 where the mask is 0.

    Args:
        mask: (C, ...), of 0 and 1.
        net: Called with (inputs, outputs), gives the network.
        kind: See _Move.
    """

    mask: Tensor

    def __init__(self, mask: Tensor, net: Callable[[int, int], nn.Module], kind: Kind):
        super().__init__()
        self.register_buffer("mask", mask.float(), persistent=False)
        channels = len(mask)
        self.net = net(channels, channels * num_outputs(kind))
        self.move = _Move(kind, channels)

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
    """Standardises `out` (B, C, H, W) by a mean and a log std that a 3x3 convolution, from 0,
    computes of `kept` (B, K, H, W).

    The learned prior that openai/glow has for channels that leave, as a bijection to a standard
    normal.
    """

    # Of the log std: below it, one flat corner of an image could make the likelihood infinite.
    LOWEST = math.log(1e-3)

    def __init__(self, kept: int, out: int):
        super().__init__()
        self.layer = ZeroLayer(nn.Conv2d(kept, 2 * out, 3, padding=1))

    def _moments(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.layer(kept).chunk(2, 1)
        return mean, log_std.clamp(min=self.LOWEST)

    def forward(self, kept: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        """(z (B, C, H, W), log det (B,) in nats)."""
        mean, log_std = self._moments(kept)
        return (out - mean) * (-log_std).exp(), -log_std.flatten(1).sum(1)

    def inverse(self, kept: Tensor, z: Tensor) -> Tensor:
        """`out` (B, C, H, W)."""
        mean, log_std = self._moments(kept)
        return z * log_std.exp() + mean
