"""Glow: ActNorm, a learned mixing of the channels and a coupling, many times over."""

from functools import partial
from math import gcd, prod
from typing import Literal

from torch import Tensor, nn

from genlab.nn.actnorm import ActNorm
from genlab.nn.chain import Chain, MultiScale
from genlab.nn.coupling import ConditionalGaussian, Coupling, conv_net, mlp
from genlab.nn.invertible_linear import InvertibleLinear
from genlab.nn.squeeze import Squeeze, squeezed
from genlab.ranges import Depth, PositiveInt

__all__ = ["Glow", "halvings"]


def halvings(shape: list[int], most: int = 3) -> int:
    """How often an image (C, H, W) can be halved, at most `most` times, with two pixels a side
    left.
    """
    common, count = gcd(*shape[1:]), 0
    while common % 2 == 0 and common > 2 and count < most:
        common, count = common // 2, count + 1
    return max(count, 1)


class Glow(nn.Module):
    """x of `shape` (C, H, W) or (D,) <-> z (B, D) of a standard normal; forward gives (z, log det
    (B,)) in nats.

    An image is squeezed at each of `levels` scales, goes through `depth` steps (ActNorm,
    InvertibleLinear, Coupling) and leaves half of its channels, standardised by what is kept.
    Points go through `depth` steps whose couplings pass the first and the last features in turn.
    levels: null for as many as the sides divide by, at most 3. hidden: channels or units in the
    couplings' networks. coupling: sigmoid (affine, of openai/glow), tanh (affine) or additive. An
    ActNorm stands at the very end: the learned Gaussian of the source's top prior. recompute: half
    the memory for a third more time.

    "Glow: Generative Flow with Invertible 1x1 Convolutions", Kingma and Dhariwal 2018, arXiv
    1807.03039, and openai/glow.
    """

    def __init__(
        self,
        shape: list[PositiveInt],
        depth: Depth = 32,
        hidden: PositiveInt = 512,
        levels: Depth | None = None,
        coupling: Literal["sigmoid", "tanh", "additive"] = "sigmoid",
        lu: bool = True,
        recompute: bool = False,
    ):
        super().__init__()
        self.shape, self.dims = tuple(shape), prod(shape)
        if len(shape) not in (1, 3) or self.dims < 2:
            raise ValueError(
                f"net.shape={list(shape)}: expected (C, H, W) of an image, or (D,) of a point with D > 1"
            )
        if depth < 1:
            raise ValueError(f"net.depth={depth}: expected 1 step or more")
        if len(shape) == 1:
            if levels not in (None, 1):
                raise ValueError(
                    f"net.levels={levels}: points have one scale; set net.levels=1 or null"
                )
            self.flow = Chain(
                self._steps(shape[0], depth, partial(_mlp, hidden), coupling, lu), recompute
            )
            return
        levels = halvings(shape) if levels is None else levels
        stages, shapes = [], []
        for level in range(levels):
            c, height, width = shapes[-1] if shapes else shape
            shapes.append(squeezed((c if not level else c - c // 2, height, width)))
            steps = self._steps(
                shapes[-1][0], depth, partial(_conv, hidden), coupling, lu, last=level == levels - 1
            )
            stages.append(Chain([Squeeze(), *steps], recompute))
        priors = [ConditionalGaussian(c - c // 2, c // 2) for c, _, _ in shapes[:-1]]
        self.flow = MultiScale(stages, shapes, priors)

    @staticmethod
    def _steps(
        num_features: int, depth: int, net, coupling: str, lu: bool, last: bool = True
    ) -> list[nn.Module]:
        bijections: list[nn.Module] = []
        for i in range(depth):
            bijections += [ActNorm(num_features), InvertibleLinear(num_features, lu)]
            bijections.append(Coupling(num_features, net, coupling, swap=i % 2 == 1))
        return [*bijections, ActNorm(num_features)] if last else bijections

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.flow(x)

    def inverse(self, z: Tensor) -> Tensor:
        return self.flow.inverse(z)


def _conv(hidden: int, inputs: int, outputs: int) -> nn.Module:
    return conv_net(inputs, hidden, outputs)


def _mlp(hidden: int, inputs: int, outputs: int) -> nn.Module:
    return mlp(inputs, hidden, outputs)
