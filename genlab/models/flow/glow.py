"""Glow: ActNorm, a learned mixing of the channels and a coupling, many times over."""

from collections.abc import Callable
from math import gcd, prod
from typing import Literal

from torch import Tensor, nn

from genlab.nn.actnorm import ActNorm
from genlab.nn.chain import Chain, MultiScale
from genlab.nn.coupling import ConditionalGaussian, Coupling, conv_net, mlp
from genlab.nn.invertible_linear import InvertibleLinear
from genlab.nn.precision import float32_convolutions
from genlab.nn.squeeze import Squeeze, squeezed
from genlab.ranges import Depth, PositiveInt

__all__ = ["Glow", "max_halvings"]


def max_halvings(shape: list[int], most: int = 3) -> int:
    """How often both sides of an image (C, H, W) can be halved with two pixels left, from 1 to
    `most`.
    """
    common = gcd(*shape[1:])
    count = 0
    while common % 2 == 0 and common > 2 and count < most:
        common //= 2
        count += 1
    return max(count, 1)


class Glow(nn.Module):
    """x (B, *shape) <-> z (B, D) of a standard normal; forward gives (z, log det (B,)) in nats.

    An image is squeezed at each scale, goes through steps of ActNorm, InvertibleLinear and
    Coupling, and leaves half of its channels, standardised by the other half. Points go through
    such steps at one scale. In every other step the couplings swap what passes and what moves. An
    ActNorm at the very end learns the Gaussian that openai/glow has as its top prior.

    "Glow: Generative Flow with Invertible 1x1 Convolutions", Kingma and Dhariwal 2018, arXiv
    1807.03039, and openai/glow.

    Args:
        shape: (C, H, W) of an image, or (D,) of a point.
        num_steps: Steps at each scale.
        hidden_dim: Channels or units of the couplings' networks.
        num_scales: Null: as many as the sides can be halved, at most 3. Points have 1.
        coupling: sigmoid (affine, as in openai/glow), tanh (affine, bounded) or additive.
        lu: Whether the mixing matrices are kept as P L U.
        recompute: Half of the memory for a third more time.
    """

    def __init__(
        self,
        shape: list[PositiveInt],
        num_steps: Depth = 32,
        hidden_dim: PositiveInt = 512,
        num_scales: Depth | None = None,
        coupling: Literal["sigmoid", "tanh", "additive"] = "sigmoid",
        lu: bool = True,
        recompute: bool = False,
    ):
        super().__init__()
        self.shape, self.dims = tuple(shape), prod(shape)
        if len(shape) not in (1, 3) or self.dims < 2:
            raise ValueError(
                f"net.shape={list(shape)}: expected (C, H, W) of an image, or (D,) of a point with "
                "D > 1"
            )
        if num_steps < 1:
            raise ValueError(f"net.num_steps={num_steps}: expected 1 step or more")
        if len(shape) == 1:
            if num_scales not in (None, 1):
                raise ValueError(
                    f"net.num_scales={num_scales}: points have one scale; set it to 1 or null"
                )

            def dense(inputs: int, outputs: int) -> nn.Module:
                return mlp(inputs, hidden_dim, outputs)

            steps = _steps(shape[0], num_steps, dense, coupling, lu)
            self.flow: Chain | MultiScale = Chain([*steps, ActNorm(shape[0])], recompute)
            return

        def convolutional(inputs: int, outputs: int) -> nn.Module:
            return conv_net(inputs, hidden_dim, outputs)

        num_scales = max_halvings(shape) if num_scales is None else num_scales
        stages: list[nn.Module] = []
        shapes: list[tuple[int, int, int]] = []
        here = (shape[0], shape[1], shape[2])
        for scale in range(num_scales):
            here = squeezed(here)
            channels = here[0]
            steps = _steps(channels, num_steps, convolutional, coupling, lu)
            if scale == num_scales - 1:
                steps.append(ActNorm(channels))
            stages.append(Chain([Squeeze(), *steps], recompute))
            shapes.append(here)
            here = (channels - channels // 2, here[1], here[2])
        priors = [ConditionalGaussian(c - c // 2, c // 2) for c, _, _ in shapes[:-1]]
        self.flow = MultiScale(stages, shapes, priors)

    @float32_convolutions()
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.flow(x)

    @float32_convolutions()
    def inverse(self, z: Tensor) -> Tensor:
        return self.flow.inverse(z)


def _steps(
    num_features: int,
    num: int,
    net: Callable[[int, int], nn.Module],
    coupling: Literal["additive", "sigmoid", "tanh"],
    lu: bool,
) -> list[nn.Module]:
    bijections: list[nn.Module] = []
    for i in range(num):
        bijections.append(ActNorm(num_features))
        bijections.append(InvertibleLinear(num_features, lu))
        bijections.append(Coupling(num_features, net, coupling, swap=i % 2 == 1))
    return bijections
