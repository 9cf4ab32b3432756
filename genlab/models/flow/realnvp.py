"""RealNVP: couplings under checkerboard and channel masks, on several scales."""

from collections.abc import Callable
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn

from genlab.models.flow.glow import max_halvings
from genlab.nn.actnorm import ActNorm
from genlab.nn.chain import Chain, MultiScale
from genlab.nn.coupling import Coupling, MaskedCoupling, ZeroLayer, mlp
from genlab.nn.precision import float32_convolutions
from genlab.nn.squeeze import Squeeze, squeezed
from genlab.ranges import Depth, PositiveInt

__all__ = ["RealNVP", "checkerboard"]

Net = Callable[[int, int], nn.Module]  # (inputs, outputs) -> a coupling's network


def checkerboard(shape: tuple[int, int, int], odd: bool = False) -> Tensor:
    """Mask (C, H, W): 1 where row + column is even (odd: odd), else 0."""
    channels, height, width = shape
    cells = (torch.arange(height)[:, None] + torch.arange(width) + odd + 1) % 2
    return cells.float().expand(channels, height, width).clone()


class RealNVP(nn.Module):
    """x (B, *shape) <-> z (B, D) of a standard normal; forward gives (z, log det (B,)) in nats.

    Each scale of an image has three couplings under checkerboard masks, a squeeze and three
    couplings by channels; then half of the channels leave. The last scale has four couplings under
    checkerboard masks. Points go through couplings by features. An ActNorm, which needs no
    statistics of a batch, stands wherever the paper has batch normalisation: between couplings and
    inside their networks.

    "Density estimation using Real NVP", Dinh, Sohl-Dickstein and Bengio 2017, arXiv 1605.08803.

    Args:
        shape: (C, H, W) of an image, or (D,) of a point.
        num_couplings: Couplings of points; null: 16. Images have a fixed number a scale.
        hidden_dim: Channels or units of the couplings' networks.
        num_blocks: Residual blocks of a coupling's network; null: 2. Points have two dense hidden
            layers instead.
        num_scales: Null: one more than the sides can be halved, at most 3. Points have 1.
        coupling: tanh (affine, bounded), sigmoid (affine) or additive.
    """

    def __init__(
        self,
        shape: list[PositiveInt],
        num_couplings: Depth | None = None,
        hidden_dim: PositiveInt = 64,
        num_blocks: Depth | None = None,
        num_scales: Depth | None = None,
        coupling: Literal["tanh", "sigmoid", "additive"] = "tanh",
    ):
        super().__init__()
        self.shape, self.dims = tuple(shape), prod(shape)
        if len(shape) not in (1, 3) or self.dims < 2:
            raise ValueError(
                f"net.shape={list(shape)}: expected (C, H, W) of an image, or (D,) of a point with "
                "D > 1"
            )
        if len(shape) == 1:
            if num_scales not in (None, 1) or num_blocks is not None:
                raise ValueError(
                    f"net.num_scales={num_scales}, net.num_blocks={num_blocks}: points take "
                    "neither; set both to null, and use net.num_couplings="
                )

            def dense(inputs: int, outputs: int) -> nn.Module:
                return mlp(inputs, hidden_dim, outputs)

            count = 16 if num_couplings is None else num_couplings
            self.flow: Chain | MultiScale = Chain(_by_features(shape[0], count, dense, coupling))
            return

        if num_couplings is not None:
            raise ValueError(
                f"net.num_couplings={num_couplings}: images have 3 + 3 couplings a scale; "
                "set it to null, and use net.num_scales="
            )

        def convolutional(inputs: int, outputs: int) -> nn.Module:
            return ResNet(inputs, hidden_dim, outputs, 2 if num_blocks is None else num_blocks)

        num_scales = min(max_halvings(shape) + 1, 3) if num_scales is None else num_scales
        stages: list[nn.Module] = []
        shapes: list[tuple[int, int, int]] = []
        here = (shape[0], shape[1], shape[2])
        for scale in range(num_scales):
            last = scale == num_scales - 1
            bijections = _by_checkerboard(here, 4 if last else 3, convolutional, coupling)
            if not last:
                here = squeezed(here)
                bijections.append(Squeeze())
                bijections += _by_features(here[0], 3, convolutional, coupling)
            stages.append(Chain(bijections))
            shapes.append(here)
            here = (here[0] - here[0] // 2, here[1], here[2])
        self.flow = MultiScale(stages, shapes)

    @float32_convolutions()
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.flow(x)

    @float32_convolutions()
    def inverse(self, z: Tensor) -> Tensor:
        return self.flow.inverse(z)


def _by_checkerboard(
    shape: tuple[int, int, int],
    count: int,
    net: Net,
    coupling: Literal["additive", "sigmoid", "tanh"],
) -> list[nn.Module]:
    bijections: list[nn.Module] = []
    for i in range(count):
        mask = checkerboard(shape, odd=i % 2 == 1)
        bijections += [MaskedCoupling(mask, net, coupling), ActNorm(shape[0])]
    return bijections


def _by_features(
    num_features: int, count: int, net: Net, coupling: Literal["additive", "sigmoid", "tanh"]
) -> list[nn.Module]:
    bijections: list[nn.Module] = []
    for i in range(count):
        swap = i % 2 == 1
        bijections += [Coupling(num_features, net, coupling, swap), ActNorm(num_features)]
    return bijections


class ResNet(nn.Module):
    """A coupling's network (B, inputs, H, W) -> (B, outputs, H, W) of pre-activation residual
    blocks; its last layer starts at 0.
    """

    def __init__(self, inputs: int, hidden_dim: int, outputs: int, num_blocks: int):
        super().__init__()
        self.first = nn.Conv2d(inputs, hidden_dim, 3, padding=1)
        self.norms = nn.ModuleList(ActNorm(hidden_dim) for _ in range(2 * num_blocks + 1))
        self.convs = nn.ModuleList(
            nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1, bias=False)
            for _ in range(2 * num_blocks)
        )
        self.last = ZeroLayer(nn.Conv2d(hidden_dim, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for i in range(0, len(self.convs), 2):
            y = self.convs[i](self.norms[i](x)[0].relu())
            x = x + self.convs[i + 1](self.norms[i + 1](y)[0].relu())
        return self.last(self.norms[-1](x)[0].relu())
