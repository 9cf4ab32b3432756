"""The invertible ResNet: residual blocks of norm below 1, for density and generation."""

import math
from typing import Any, Literal

from torch import Tensor, nn

from genlab.nn.actnorm import ActNorm
from genlab.nn.certificate import certificate
from genlab.nn.chain import Chain, MultiScale
from genlab.nn.lipschitz import refresh
from genlab.nn.log_det import Exact, Truncated
from genlab.nn.precision import float32_convolutions
from genlab.nn.residual import Branch, ResidualBlock, conv_branch, dense_branch, estimator_moments
from genlab.nn.squeeze import Squeeze, squeezed
from genlab.ranges import Depth, NonNegativeInt, OpenFraction, PositiveFloat, PositiveInt

__all__ = ["IResNet"]


class IResNet(nn.Module):
    """x (B, *shape) <-> z (B, D) of a standard normal; forward gives (z, log det (B,)) in nats.

    An image goes through several scales of residual blocks, points through dense blocks at one
    scale. An ActNorm stands before or after each block.

    "Invertible Residual Networks", Behrmann et al. 2019, arXiv 1811.00995, section 5.3 and appendix
    C.

    Args:
        shape: (C, H, W) of an image, or (D,) of a point.
        num_blocks: Residual blocks at each scale: one number, or a list of one for each.
        hidden_dim: Channels, or units, of the hidden layers of a block.
        log_det: Series of genlab.nn.log_det in training; null: the log-determinant is NaN.
        eval_log_det: Series otherwise; null: that of training.
        num_scales: Null: as many as `num_blocks` has entries, or 2. Points have 1.
        num_layers: Hidden layers of a dense block of points.
        activation: elu, softplus or lipswish.
        coeff: Bound of the norm of each layer, in (0, 1); null: none, and so no inverse.
        squeeze_first: Whether images are squeezed before the first scale too.
        factor_out: Whether half of the channels leave after each scale but the last.
        actnorm: Whether the ActNorm is before or after each block. With after, images get one more
            before the first block.
        prior: diagonal learns a mean and a scale of each number of z, as a last ActNorm; standard
            learns none.
        dense_blocks: Blocks on all numbers together at the end.
        dense_width: Units of the hidden layer of those.
        num_probes: Probes of the log-determinant in training; see ResidualBlock.
        eval_num_probes: Probes otherwise.
        probe: rademacher or normal.
        backward: recompute or store.
        tolerance: Root mean square error of the inverse of a block.
        anderson: Steps that the inverse mixes; 0: the plain fixed point.
        detach_sigma: Whether the norm of a layer is a constant in the gradient; see LipschitzMap.
        refresh_tolerance: Relative error of the power iterations.
    """

    def __init__(
        self,
        shape: list[PositiveInt],
        num_blocks: Depth | list[Depth],
        hidden_dim: PositiveInt,
        log_det: Any = None,
        eval_log_det: Any = None,
        num_scales: Depth | None = None,
        num_layers: Depth = 3,
        activation: Literal["elu", "softplus", "lipswish"] = "elu",
        coeff: OpenFraction | None = 0.9,
        squeeze_first: bool = True,
        factor_out: bool = True,
        actnorm: Literal["before", "after"] = "before",
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
        self.refresh_tolerance, self.actnorm = refresh_tolerance, actnorm
        self.map_options: dict[str, Any] = {
            "activation": activation,
            "coeff": coeff,
            "detach_sigma": detach_sigma,
        }
        self.block_options: dict[str, Any] = {
            "series": log_det,
            "eval_series": eval_log_det,
            "num_probes": num_probes,
            "eval_num_probes": eval_num_probes,
            "probe": probe,
            "backward": backward,
            "tolerance": tolerance,
            "anderson": anderson,
        }
        self.has_block = False  # the very first branch has no activation before it
        if len(shape) == 1:
            self.flow: Chain | MultiScale = self._points(
                num_blocks, hidden_dim, num_layers, num_scales
            )
        else:
            self.flow = self._images(num_blocks, hidden_dim, num_scales, squeeze_first, factor_out)
        blocks = [self._dense(self.dims, [dense_width]) for _ in range(dense_blocks)]
        ending = self._with_actnorms(blocks, self.dims)
        if prior == "diagonal":
            ending.append(ActNorm(self.dims))
        self.ending = Chain(ending)
        del self.map_options, self.block_options, self.has_block

    # --- building ---------------------------------------------------------------------------------

    def _with_actnorms(self, blocks: list[ResidualBlock], num_features: int) -> list[nn.Module]:
        bijections: list[nn.Module] = []
        for block in blocks:
            norm = ActNorm(num_features)
            bijections += [norm, block] if self.actnorm == "before" else [block, norm]
        return bijections

    def _block(self, branch: Branch) -> ResidualBlock:
        self.has_block = True
        return ResidualBlock(branch, **self.block_options)

    def _dense(self, dim: int, widths: list[int]) -> ResidualBlock:
        return self._block(dense_branch(dim, widths, leading=self.has_block, **self.map_options))

    def _points(
        self,
        num_blocks: int | list[int],
        hidden_dim: int,
        num_layers: int,
        num_scales: int | None,
    ) -> Chain:
        if num_scales not in (None, 1) or not isinstance(num_blocks, int):
            raise ValueError(
                f"net.num_scales={num_scales}, net.num_blocks={num_blocks}: points have one scale; "
                "expected null or 1, and one number of blocks"
            )
        (dim,) = self.shape
        blocks = [self._dense(dim, [hidden_dim] * num_layers) for _ in range(num_blocks)]
        return Chain(self._with_actnorms(blocks, dim))

    def _images(
        self,
        num_blocks: int | list[int],
        hidden_dim: int,
        num_scales: int | None,
        squeeze_first: bool,
        factor_out: bool,
    ) -> MultiScale:
        if num_scales is None:
            num_scales = len(num_blocks) if isinstance(num_blocks, list) else 2
        counts = [num_blocks] * num_scales if isinstance(num_blocks, int) else num_blocks
        if len(counts) != num_scales or min(counts) < 1:
            raise ValueError(
                f"net.num_blocks={num_blocks}: expected one number, or a list of one for each of "
                f"the net.num_scales={num_scales} scales"
            )
        stages: list[Chain] = []
        shapes: list[tuple[int, int, int]] = []
        shape = (self.shape[0], self.shape[1], self.shape[2])
        for scale, count in enumerate(counts):
            stage: list[nn.Module] = []
            if scale == 0 and self.actnorm == "after":
                stage.append(ActNorm(self.shape[0]))
            if scale or squeeze_first:
                shape = squeezed(shape)
                stage.append(Squeeze())
            for _ in range(count):
                branch = conv_branch(
                    shape[0], hidden_dim, shape[1:], leading=self.has_block, **self.map_options
                )
                stage += self._with_actnorms([self._block(branch)], shape[0])
            stages.append(Chain(stage))
            shapes.append(shape)
            if factor_out and scale < num_scales - 1:
                shape = (shape[0] - shape[0] // 2, shape[1], shape[2])
        if not factor_out:
            whole = Chain(module for stage in stages for module in stage)
            return MultiScale([whole], shapes[-1:])
        return MultiScale(stages, shapes)

    # --- the bijection ----------------------------------------------------------------------------

    @float32_convolutions()
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, log_det = self.flow(x)
        z, term = self.ending(z)
        return z, log_det + term

    @float32_convolutions()
    def inverse(self, z: Tensor) -> Tensor:
        return self.flow.inverse(self.ending.inverse(z))

    # --- estimates and bounds ---------------------------------------------------------------------

    def blocks(self) -> list[ResidualBlock]:
        """All residual blocks, in order."""
        return [module for module in self.modules() if isinstance(module, ResidualBlock)]

    @property
    def surrogate(self) -> bool:
        """Whether this is training with a truncated series: biased, and so no likelihood."""
        return self.training and any(isinstance(b.series, Truncated) for b in self.blocks())

    def estimates(self) -> dict[str, Tensor]:
        """Mean and standard deviation of each block's estimate over the last training batch, in
        nats; none of exact log-determinants.
        """
        if isinstance(self.blocks()[0].series, Exact | None):
            return {}
        return {f"log_det/{name}": value for name, value in estimator_moments(self).items()}

    @float32_convolutions()
    def refresh(self) -> int:
        """Runs the power iterations again; to be called whenever weights have changed.

        Returns:
            The number of iterations.
        """
        return refresh(self, self.refresh_tolerance)

    @float32_convolutions()
    def certificate(self) -> dict[str, Any]:
        """The certificate of genlab.nn.certificate, and `bias_bits_per_dim`: the bound of the bias
        of eval_log_det.
        """
        found = certificate(self)
        if self.blocks()[0].eval_series is None:
            return found
        bias = 0
        for block, entry in zip(self.blocks(), found["blocks"], strict=True):
            bias += block.eval_series.bias(entry["lipschitz"], block.branch.dims)
        return found | {"bias_bits_per_dim": bias / (self.dims * math.log(2))}

    def inversions(self) -> dict[str, float]:
        """Of the last inverse: the iterations of all blocks together, and of the worst block the
        last step and the error bound.
        """
        done = [block.inversion for block in self.blocks() if block.inversion is not None]
        return {
            "iterations": sum(one.iterations for one in done),
            "step": max((one.step for one in done), default=0.0),
            "error": max((one.error for one in done), default=0.0),
        }
