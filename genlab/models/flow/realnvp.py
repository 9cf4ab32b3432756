"""RealNVP: couplings under checkerboard and channel masks, on several scales."""

from math import prod
from typing import Literal

import torch
from torch import Tensor, nn

from genlab.models.flow.glow import halvings
from genlab.nn.actnorm import ActNorm
from genlab.nn.chain import Chain, MultiScale
from genlab.nn.coupling import Coupling, MaskedCoupling, ZeroLayer, mlp
from genlab.nn.squeeze import Squeeze, squeezed
from genlab.ranges import Depth, PositiveInt

__all__ = ["RealNVP", "checkerboard"]


def checkerboard(shape: tuple[int, int, int], odd: bool = False) -> Tensor:
    """1 where row + column is even (odd: odd), of shape (C, H, W)."""
    channels, height, width = shape
    cells = (torch.arange(height)[:, None] + torch.arange(width) + odd + 1) % 2
    return cells.float().expand(channels, height, width).clone()


class RealNVP(nn.Module):
    """x of `shape` (C, H, W) or (D,) <-> z (B, D) of a standard normal; forward gives (z, log det
    (B,)) in nats.

    Each scale of an image: three couplings under checkerboard masks in turn, a squeeze, three by
    channels in turn, then half of the channels leave; the last scale: four under checkerboards.
    levels: scales, null for one more than the sides divide by 2, at most 3. hidden, num_blocks
    (null: 2): channels and residual blocks of a coupling's network. Points: `depth` couplings
    (null: 16) of features in turn, whose networks have two hidden layers. Where the source has
    batch normalisation, between couplings and inside their networks, here is ActNorm, which needs
    no statistics of a batch.

    "Density estimation using Real NVP", Dinh, Sohl-Dickstein and Bengio 2017, arXiv 1605.08803.
    """

    def __init__(
        self,
        shape: list[PositiveInt],
        depth: Depth | None = None,
        hidden: PositiveInt = 64,
        num_blocks: Depth | None = None,
        levels: Depth | None = None,
        coupling: Literal["tanh", "sigmoid", "additive"] = "tanh",
    ):
        super().__init__()
        self.shape, self.dims = tuple(shape), prod(shape)
        if len(shape) not in (1, 3) or self.dims < 2:
            raise ValueError(
                f"net.shape={list(shape)}: expected (C, H, W) of an image, or (D,) of a point with D > 1"
            )
        if len(shape) == 1:
            if levels not in (None, 1) or num_blocks is not None:
                raise ValueError(
                    f"net.levels={levels}, net.num_blocks={num_blocks}: are for images; points take net.depth="
                )
            self.flow = Chain(
                _by_features(
                    shape[0],
                    16 if depth is None else depth,
                    lambda i, o: mlp(i, hidden, o),
                    coupling,
                )
            )
            return

        if depth is not None:
            raise ValueError(
                f"net.depth={depth}: is for points; images have 3 + 3 couplings a scale, so take net.levels="
            )

        def net(inputs: int, outputs: int) -> nn.Module:
            return ResNet(inputs, hidden, outputs, 2 if num_blocks is None else num_blocks)

        levels = min(halvings(shape) + 1, 3) if levels is None else levels
        stages, shapes, here = [], [], tuple(shape)
        for level in range(levels):
            last = level == levels - 1
            bijections = _by_checkerboard(here, 4 if last else 3, net, coupling)
            if not last:
                here = squeezed(here)
                bijections += [Squeeze(), *_by_features(here[0], 3, net, coupling)]
            stages.append(Chain(bijections))
            shapes.append(here)
            here = (here[0] - here[0] // 2, *here[1:])
        self.flow = MultiScale(stages, shapes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.flow(x)

    def inverse(self, z: Tensor) -> Tensor:
        return self.flow.inverse(z)


def _by_checkerboard(shape, count: int, net, coupling: str) -> list[nn.Module]:
    pairs = [
        (MaskedCoupling(checkerboard(shape, i % 2 == 1), net, coupling), ActNorm(shape[0]))
        for i in range(count)
    ]
    return [bijection for pair in pairs for bijection in pair]


def _by_features(num_features: int, count: int, net, coupling: str) -> list[nn.Module]:
    pairs = [
        (Coupling(num_features, net, coupling, swap=i % 2 == 1), ActNorm(num_features))
        for i in range(count)
    ]
    return [bijection for pair in pairs for bijection in pair]


class ResNet(nn.Module):
    """A coupling's network (B, C, H, W) -> (B, outputs, H, W): pre-activation residual blocks, the
    last layer from 0.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, num_blocks: int):
        super().__init__()
        self.first = nn.Conv2d(inputs, hidden, 3, padding=1)
        self.norms = nn.ModuleList(ActNorm(hidden) for _ in range(2 * num_blocks + 1))
        self.convs = nn.ModuleList(
            nn.Conv2d(hidden, hidden, 3, padding=1, bias=False) for _ in range(2 * num_blocks)
        )
        self.last = ZeroLayer(nn.Conv2d(hidden, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for i in range(0, len(self.convs), 2):
            y = self.convs[i](self.norms[i](x)[0].relu())
            x = x + self.convs[i + 1](self.norms[i + 1](y)[0].relu())
        return self.last(self.norms[-1](x)[0].relu())
