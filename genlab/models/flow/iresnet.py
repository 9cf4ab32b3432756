"""The invertible ResNet: residual blocks of norm below 1, for density and generation."""

import math
from typing import Any, Literal

from torch import Tensor, nn

from genlab.nn.actnorm import ActNorm
from genlab.nn.certificate import certificate
from genlab.nn.chain import Chain, MultiScale
from genlab.nn.lipschitz import refresh
from genlab.nn.log_det import Exact, Truncated
from genlab.nn.residual import Branch, ResidualBlock, conv_branch, dense_branch, estimator_moments
from genlab.nn.squeeze import Squeeze, squeezed
from genlab.ranges import Depth, NonNegativeInt, OpenFraction, PositiveFloat, PositiveInt

__all__ = ["IResNet"]


class IResNet(nn.Module):
    """x of `shape` (C, H, W) or (D,) <-> z (B, D) of a standard normal; forward gives (z, log det
    (B,)) in nats.

    An image goes through `levels` scales of `num_blocks` ActNorms and residual blocks each; between
    scales (and before the first with squeeze_first) it is squeezed, and half of its channels leave
    if factor_out. Points: `num_blocks` dense blocks, each followed by an ActNorm. width: channels,
    or units, of the hidden layers; depth: hidden layers of a dense block. dense_blocks: blocks of
    `dense_width` units on all numbers together at the end. norm: the ActNorm before or after each
    block. prior: diagonal learns a mean and a scale of each number of z, as a last ActNorm;
    standard does not. log_det, eval_log_det: series of genlab.nn.log_det, in training and
    otherwise; null, null: the log-determinant is NaN. The other arguments are those of
    ResidualBlock and LipschitzMap; refresh_tolerance is that of `refresh`.

    "Invertible Residual Networks", Behrmann et al. 2019, arXiv 1811.00995, section 5.3 and appendix
    C.
    """

    def __init__(
        self,
        shape: list[PositiveInt],
        num_blocks: Depth | list[Depth],
        width: PositiveInt,
        log_det: Any = None,
        eval_log_det: Any = None,
        levels: Depth | None = None,
        depth: Depth = 3,
        activation: Literal["elu", "softplus", "lipswish"] = "elu",
        coeff: OpenFraction | None = 0.9,
        squeeze_first: bool = True,
        factor_out: bool = True,
        norm: Literal["before", "after"] = "before",
        prior: Literal["diagonal", "standard"] = "diagonal",
        dense_blocks: Literal[0] | Depth = 0,
        dense_width: PositiveInt = 128,
        num_probes: PositiveInt = 1,
        eval_num_probes: PositiveInt = 1,
        probe: Literal["rademacher", "normal"] = "rademacher",
        backward: Literal["recompute", "store"] = "recompute",
        tolerance: PositiveFloat = 1e-6,
        anderson: NonNegativeInt = 0,
        detach_sigma: bool = False,
        refresh_tolerance: PositiveFloat = 1e-3,
    ):
        super().__init__()
        self.shape, self.dims = tuple(shape), math.prod(shape)
        self.refresh_tolerance, self.norm = refresh_tolerance, norm
        self.maps = {"activation": activation, "coeff": coeff, "detach_sigma": detach_sigma}
        self.estimate = {
            "series": log_det,
            "eval_series": eval_log_det,
            "num_probes": num_probes,
            "probe": probe,
        }
        self.estimate |= {"eval_num_probes": eval_num_probes, "backward": backward}
        self.estimate |= {"tolerance": tolerance, "anderson": anderson}
        self.started = False  # the network's very first branch has no activation before it
        if len(shape) == 1:
            blocks = self._points(shape[0], num_blocks, width, depth, levels)
            self.flow = Chain(blocks)
        else:
            self.flow = self._images(num_blocks, width, levels, squeeze_first, factor_out)
        ending = [self._dense(self.dims, [dense_width]) for _ in range(dense_blocks)]
        ending = [part for block in ending for part in self._normed(block, self.dims)]
        self.ending = Chain([*ending, ActNorm(self.dims)] if prior == "diagonal" else ending)
        del self.maps, self.estimate

    # --- building ---------------------------------------------------------------------------------

    def _normed(self, block: ResidualBlock, num_features: int) -> list[nn.Module]:
        pair = [ActNorm(num_features), block]
        return pair if self.norm == "before" else pair[::-1]

    def _block(self, branch: Branch) -> ResidualBlock:
        self.started = True
        return ResidualBlock(branch, **self.estimate)

    def _dense(self, dim: int, widths: list[int]) -> ResidualBlock:
        return self._block(dense_branch(dim, widths, leading=self.started, **self.maps))

    def _points(
        self, dim: int, num_blocks: int | list[int], width: int, depth: int, levels: int | None
    ) -> list[nn.Module]:
        if levels not in (None, 1) or not isinstance(num_blocks, int):
            raise ValueError(
                f"net.levels={levels}, net.num_blocks={num_blocks}: points have one scale; give one number of blocks"
            )
        blocks = [self._dense(dim, [width] * depth) for _ in range(num_blocks)]
        return [part for block in blocks for part in self._normed(block, dim)]

    def _images(
        self,
        num_blocks: int | list[int],
        width: int,
        levels: int | None,
        squeeze_first: bool,
        factor_out: bool,
    ) -> MultiScale:
        if levels is None:
            levels = len(num_blocks) if isinstance(num_blocks, list) else 2
        counts = [num_blocks] * levels if isinstance(num_blocks, int) else num_blocks
        if len(counts) != levels or min(counts) < 1:
            raise ValueError(
                f"net.num_blocks={num_blocks}: expected a number, or one for each of the {levels} scales"
            )
        stages, shapes, shape = [], [], self.shape
        for level, count in enumerate(counts):
            stage: list[nn.Module] = []
            if level or squeeze_first:
                shape = squeezed(shape)
                stage.append(Squeeze())
            for _ in range(count):
                branch = conv_branch(shape[0], width, shape[1:], leading=self.started, **self.maps)
                stage += self._normed(self._block(branch), shape[0])
            if self.norm == "after" and level == 0:
                stage.insert(0, ActNorm(self.shape[0]))
            stages.append(Chain(stage))
            shapes.append(shape)
            if factor_out and level < levels - 1:
                shape = (shape[0] - shape[0] // 2, *shape[1:])
        if not factor_out:
            stages, shapes = [Chain(module for stage in stages for module in stage)], shapes[-1:]
        return MultiScale(stages, shapes)

    # --- the bijection ----------------------------------------------------------------------------

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, log_det = self.flow(x)
        z, term = self.ending(z)
        return z, log_det + term

    def inverse(self, z: Tensor) -> Tensor:
        return self.flow.inverse(self.ending.inverse(z))

    # --- what there is to know --------------------------------------------------------------------

    def blocks(self) -> list[ResidualBlock]:
        return [module for module in self.modules() if isinstance(module, ResidualBlock)]

    @property
    def surrogate(self) -> bool:
        """Whether the log-determinant is, in the present mode, a truncated series: biased, and no
        likelihood.
        """
        series = [block.series if block.training else block.eval_series for block in self.blocks()]
        return any(isinstance(one, Truncated) for one in series) and self.training

    def estimates(self) -> dict[str, Tensor]:
        """Mean and standard deviation over the last training batch of each block's estimate, in
        nats.
        """
        if isinstance(self.blocks()[0].series, Exact | None):
            return {}
        return {f"log_det/{name}": value for name, value in estimator_moments(self).items()}

    def refresh(self) -> int:
        """Brings the power iterations up to date; to be called whenever weights have changed."""
        return refresh(self, self.refresh_tolerance)

    def certificate(self) -> dict[str, Any]:
        """The certificate of genlab.nn.certificate, with the bias that eval_log_det may have, in
        bits a dimension.
        """
        found = certificate(self)
        if self.blocks()[0].eval_series is None:
            return found
        pairs = zip(self.blocks(), found["blocks"], strict=True)
        bias = sum(
            block.eval_series.bias(entry["lipschitz"], block.branch.dims) for block, entry in pairs
        )
        return found | {"bias_bits_per_dim": bias / (self.dims * math.log(2))}

    def inversions(self) -> dict[str, float]:
        """Of the last inverse: iterations of all blocks together, the last step and the error bound
        of the worst block.
        """
        done = [block.inversion for block in self.blocks() if block.inversion is not None]
        return {
            "iterations": sum(one.iterations for one in done),
            "step": max((one.step for one in done), default=0.0),
            "error": max((one.error for one in done), default=0.0),
        }
