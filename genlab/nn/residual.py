"""The invertible residual block x + g(x): its log-determinant, its inverse, and bounds of both.

"Invertible Residual Networks", Behrmann et al. 2019, arXiv 1811.00995; "Residual Flows for
Invertible Generative Modeling", Chen et al. 2019, arXiv 1906.02735.

Shapes:
    x_B   a batch: (B, D) of points or (B, C, H, W) of images, as are y, g(x) and the slopes
    t_PB  P tangents, or probes, for each sample: (P, *x_B.shape); some functions take (B, ...) too
    J     the Jacobian of g at x, of each sample; D is also C H W of an image

The maps of g are W_1 ... W_n. Passes take `tensors`: [W_1 ... W_n, b_1 ... b_n, parameters of the
activations], normalised once for any number of passes.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from genlab.nn.activations import activation as make_activation
from genlab.nn.fixed_point import Inversion, solve
from genlab.nn.lipschitz import LipschitzMap, adjoint, apply_adjoint, apply_map, weight_gradient
from genlab.nn.log_det import Exact, draw_probes, exact_log_det, hutchinson

__all__ = [
    "Branch",
    "ResidualBlock",
    "conv_branch",
    "dense_branch",
    "estimator_moments",
    "without_log_det",
]


class Branch(nn.Module):
    """g: Lipschitz maps with activations between them.

    `linear` returns g(x) with the slopes of the activations. With those, `push` (J t) and `pull`
    (J^T t) apply no activation any more: they cost one product each.

    Args:
        maps: The Lipschitz maps, in order.
        activations: One between each two maps; one more stands before the first map.
    """

    def __init__(self, maps: list[LipschitzMap], activations: list[nn.Module]):
        super().__init__()
        self.maps, self.activations = nn.ModuleList(maps), nn.ModuleList(activations)
        self.leading = len(activations) == len(maps)
        self.dims = maps[0].dims

    def tensors(self) -> list[Tensor]:
        """All that g depends on besides x: the normalised weights, the biases, then the parameters
        of the activations.
        """
        weights = [layer.normalised() for layer in self.maps]
        if weights[0].dim() == 4:
            weights = [weight.contiguous(memory_format=torch.channels_last) for weight in weights]
        return [*weights, *(layer.bias for layer in self.maps), *self.activations.parameters()]

    def norms(self) -> list[float]:
        """The estimated norm of each normalised map."""
        return [layer.norm() for layer in self.maps]

    def linear(self, x_B: Tensor, tensors: list[Tensor]) -> tuple[Tensor, list[Tensor | None]]:
        """g(x), and the slope before each map; None before the first where nothing precedes it."""
        num = len(self.maps)
        hidden_B, slopes_B = self.hidden(x_B, tensors)
        return apply_map(hidden_B, tensors[num - 1], tensors[2 * num - 1]), slopes_B

    def value(self, x_B: Tensor, tensors: list[Tensor]) -> Tensor:
        """g(x) alone."""
        num, activations = len(self.maps), list(self.activations)
        for i in range(num):
            if i or self.leading:
                x_B = activations.pop(0).value(x_B)
            x_B = apply_map(x_B, tensors[i], tensors[num + i])
        return x_B

    def hidden(self, x_B: Tensor, tensors: list[Tensor]) -> tuple[Tensor, list[Tensor | None]]:
        """The input of the last map of g, and the slopes."""
        num = len(self.maps)
        slopes_B = []
        activations = list(self.activations)
        for i in range(num):
            if i:
                x_B = apply_map(x_B, tensors[i - 1], tensors[num + i - 1])
            slope_B = None
            if i or self.leading:
                x_B, slope_B = activations.pop(0)(x_B)
            slopes_B.append(slope_B)
        return x_B, slopes_B

    def push(self, t_PB: Tensor, weights: list[Tensor], slopes_B: list[Tensor | None]) -> Tensor:
        """J t, of the shape of t."""
        return apply_map(self.push_hidden(t_PB, weights, slopes_B), weights[len(self.maps) - 1])

    def push_hidden(
        self, t_PB: Tensor, weights: list[Tensor], slopes_B: list[Tensor | None]
    ) -> Tensor:
        """The input of the last map of J."""
        for i, slope_B in enumerate(slopes_B):
            if i:
                t_PB = apply_map(t_PB, weights[i - 1])
            if slope_B is not None:
                # In place where no graph needs the old value, and t is not the caller's.
                times = t_PB.mul_ if i and not torch.is_grad_enabled() else t_PB.mul
                t_PB = times(_with_dims(slope_B, t_PB))
        return t_PB

    @torch.no_grad()
    def pull(
        self, weights: list[Tensor], slopes_B: list[Tensor | None]
    ) -> Callable[[Tensor], Tensor]:
        """The function t -> J^T t, of the shape of t and without a graph."""
        pairs = zip(weights, slopes_B, strict=False)  # `weights` may be all `tensors`
        adjoints = [(adjoint(weight), slope_B) for weight, slope_B in pairs][::-1]

        def apply(t_PB: Tensor) -> Tensor:
            for weight, slope_B in adjoints:
                t_PB = apply_map(t_PB, weight)
                if slope_B is not None:
                    t_PB = t_PB.mul_(_with_dims(slope_B, t_PB))
            return t_PB

        return apply


def _with_dims(slope_B: Tensor, t_PB: Tensor) -> Tensor:
    """The slope with a leading 1 where t has one dimension more.

    Broadcasting would cost a sum in the backward pass, even over one.
    """
    return slope_B[None] if t_PB.dim() > slope_B.dim() else slope_B


def conv_branch(
    channels: int, hidden_dim: int, size: tuple[int, int], activation: str, leading: bool, **options
) -> Branch:
    """A branch of images: 3x3 to `hidden_dim` channels, 1x1, and 3x3 back.

    Args:
        channels: C.
        hidden_dim: Channels between.
        size: (H, W).
        activation: elu, softplus or lipswish, between the convolutions.
        leading: Whether there is an activation before them too.
        **options: Of LipschitzMap.
    """
    shapes = ((channels, hidden_dim, 3), (hidden_dim, hidden_dim, 1), (hidden_dim, channels, 3))
    maps = [
        LipschitzMap(c_in, c_out, kernel_size=kernel, size=size, **options)
        for c_in, c_out, kernel in shapes
    ]
    return Branch(maps, [make_activation(activation) for _ in range(len(maps) - 1 + leading)])


def dense_branch(dim: int, widths: list[int], activation: str, leading: bool, **options) -> Branch:
    """A branch of points, or of flattened images: dense layers dim -> widths -> dim.

    Args:
        dim: D.
        widths: Units of the hidden layers.
        activation: elu, softplus or lipswish, between the layers.
        leading: Whether there is an activation before them too.
        **options: Of LipschitzMap.
    """
    sizes = [dim, *widths, dim]
    maps = [LipschitzMap(c_in, c_out, **options) for c_in, c_out in itertools.pairwise(sizes)]
    return Branch(maps, [make_activation(activation) for _ in range(len(maps) - 1 + leading)])


class ResidualBlock(nn.Module):
    """x_B -> (x + g(x), log det (B,) in nats), where g has a norm below 1.

    The value of the log-determinant is the series' own estimate in every mode. Its gradient is the
    Neumann series of the same terms, whose mean is that of the gradient of the series: no double
    backward, and no graph of the products.

    The buffer `moments` holds mean and variance of the estimate over the last training batch.

    Args:
        branch: g.
        series: Of genlab.nn.log_det, in training; null: the log-determinant is NaN.
        eval_series: Otherwise; null: that of training.
        num_probes: Probes of Hutchinson's estimate in training; their mean counts.
        eval_num_probes: Probes otherwise.
        probe: rademacher or normal.
        backward: recompute keeps x, the probes and one vector beside them for the backward pass,
            and computes the rest again. store keeps all that one pass needs.
        tolerance: Bound of the root mean square error of an inverse.
        anderson: Steps that the inverse mixes; 0: the plain iteration.
    """

    def __init__(
        self,
        branch: Branch,
        series=None,
        eval_series=None,
        num_probes: int = 1,
        eval_num_probes: int = 1,
        probe: Literal["rademacher", "normal"] = "rademacher",
        backward: Literal["recompute", "store"] = "recompute",
        tolerance: float = 1e-6,
        anderson: int = 0,
    ):
        super().__init__()
        if backward not in ("recompute", "store"):
            raise ValueError(f"net.backward={backward!r}: expected recompute or store")
        if probe not in ("rademacher", "normal"):
            raise ValueError(f"net.probe={probe!r}: expected rademacher or normal")
        self.branch = branch
        self.series = series
        self.eval_series = series if eval_series is None else eval_series
        self.num_probes = num_probes
        self.eval_num_probes = eval_num_probes
        self.probe = probe
        self.backward = backward
        self.tolerance = tolerance
        self.anderson = anderson
        self.register_buffer("moments", torch.zeros(2), persistent=False)
        self.inversion: Inversion | None = None  # of the last inverse

    def forward(self, x_B: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(x_B.device.type, enabled=False):
            x_B = _own_format(x_B)
            series = self.series if self.training else self.eval_series
            if series is None:
                g_B, _ = self.branch.linear(x_B, self.branch.tensors())
                return x_B + g_B, x_B.new_full((x_B.shape[0],), torch.nan)
            if isinstance(series, Exact):
                g_B, log_det = self._exact(x_B)
            else:
                weights = series.draw(self.lipschitz, self.branch.dims)
                g_B, log_det = self._estimate(x_B, weights)
            if self.training:
                variance, mean = torch.var_mean(log_det.detach(), correction=0)
                self.moments.copy_(torch.stack((mean, variance)))
            return x_B + g_B, log_det

    def _exact(self, x_B: Tensor) -> tuple[Tensor, Tensor]:
        tensors, dim = self.branch.tensors(), x_B[0].numel()
        g_B, slopes_B = self.branch.linear(x_B, tensors)
        eye = torch.eye(dim, dtype=x_B.dtype, device=x_B.device)
        basis = eye.view(dim, 1, *x_B.shape[1:]).expand(dim, *x_B.shape)  # (D, *x_B.shape)
        columns = self.branch.push(basis, tensors, slopes_B).flatten(
            2
        )  # (D, B, D): dg/dx_j in row j
        return g_B, exact_log_det(columns.permute(1, 2, 0))

    def _estimate(self, x_B: Tensor, weights: list[float]) -> tuple[Tensor, Tensor]:
        num_probes = self.num_probes if self.training else self.eval_num_probes
        probes_PB = draw_probes(x_B, num_probes, self.probe)
        tensors = self.branch.tensors()
        if self.backward == "recompute":
            return _Estimate.apply(self.branch, weights, probes_PB, x_B, *tensors)
        g_B, slopes_B = self.branch.linear(x_B, tensors)
        jv_PB = self.branch.push(probes_PB, tensors, slopes_B)
        pull = self.branch.pull(tensors, slopes_B)
        value, left_PB = hutchinson(pull, probes_PB, jv_PB.detach(), weights)  # value (P, B)
        carrier = (left_PB * jv_PB).flatten(2).sum(2)  # (P, B): its gradient counts, not its value
        return g_B, (value + carrier - carrier.detach()).mean(0)

    @torch.no_grad()
    def inverse(self, y_B: Tensor) -> Tensor:
        """x with x + g(x) = y; NotInverted if g is no contraction."""
        tensors, y_B = self.branch.tensors(), _own_format(y_B)
        x_B, self.inversion = solve(
            lambda x_B: self.branch.value(x_B, tensors),
            y_B,
            self.lipschitz(),
            self.tolerance,
            memory=self.anderson,
        )
        return x_B

    def lipschitz(self) -> float:
        """The product of the estimated norms of the maps."""
        return torch.tensor(self.branch.norms(), dtype=torch.float64).prod().item()


class _Estimate(torch.autograd.Function):
    """(g(x), log det (B,)); keeps x, the probes and `left` of `hutchinson`, and passes through the
    block again in the backward pass.

    There each sample's log-determinant counts by its own upstream gradient.
    """

    @staticmethod
    def forward(
        ctx,
        branch: Branch,
        weights: list[float],
        probes_PB: Tensor,
        x_B: Tensor,
        *tensors: Tensor,
    ) -> tuple[Tensor, Tensor]:
        g_B, slopes_B = branch.linear(x_B, tensors)
        jv_PB = branch.push(probes_PB, tensors, slopes_B)
        pull = branch.pull(tensors, slopes_B)
        value, left_PB = hutchinson(pull, probes_PB, jv_PB, weights)
        ctx.branch = branch
        ctx.save_for_backward(probes_PB, left_PB, x_B, *tensors)
        return g_B, value.mean(0)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_g_B: Tensor, grad_log_det: Tensor) -> tuple[Tensor | None, ...]:
        probes_PB, left_PB, x_B, *tensors = ctx.saved_tensors
        branch, num = ctx.branch, len(ctx.branch.maps)
        grad_g_B = _own_format(grad_g_B)
        upstream = (grad_log_det / len(probes_PB)).view(1, -1, *[1] * (x_B.dim() - 1))
        grad_jv_PB = left_PB * upstream
        own = list(branch.activations.parameters())
        with torch.enable_grad(), torch.autocast(x_B.device.type, enabled=False):
            given = [x_B, *tensors[: len(tensors) - len(own)]]
            inputs = [tensor.detach().requires_grad_() for tensor in given]
            inputs += own  # the activations hold these themselves
            hidden_B, slopes_B = branch.hidden(inputs[0], inputs[1:])
            pushed_PB = branch.push_hidden(probes_PB, inputs[1:], slopes_B)
        # The last map is not applied again: the gradients of its weight and bias need its inputs
        # alone.
        grads: list[Tensor | None] = [None] * len(inputs)
        last = tensors[num - 1]
        weight_of_g = weight_gradient(grad_g_B, hidden_B.detach(), last)
        grads[num] = weight_of_g + weight_gradient(grad_jv_PB, pushed_PB.detach(), last)
        grads[2 * num] = grad_g_B.transpose(0, 1).flatten(1).sum(1)
        needed = [
            i for i, need in enumerate(ctx.needs_input_grad[3:]) if need and i not in (num, 2 * num)
        ]
        found = torch.autograd.grad(
            (hidden_B, pushed_PB),
            [inputs[i] for i in needed],
            (apply_adjoint(grad_g_B, last), apply_adjoint(grad_jv_PB, last)),
            allow_unused=True,
        )
        for i, grad in zip(needed, found, strict=True):
            grads[i] = grad
        return None, None, None, *grads


@contextmanager
def without_log_det(network: nn.Module) -> Iterator[None]:
    """Context in which the residual blocks of a network return NaN for their log-determinants."""
    blocks = [module for module in network.modules() if isinstance(module, ResidualBlock)]
    kept = [(block.series, block.eval_series) for block in blocks]
    for block in blocks:
        block.series = block.eval_series = None
    try:
        yield
    finally:
        for block, series in zip(blocks, kept, strict=True):
            block.series, block.eval_series = series


def _own_format(x_B: Tensor) -> Tensor:
    """x in float32 or float64, and channels last, in which convolutions of few channels are several
    times as fast on a CPU.
    """
    if x_B.dtype not in (torch.float32, torch.float64):
        x_B = x_B.float()
    return x_B.contiguous(memory_format=torch.channels_last) if x_B.dim() == 4 else x_B


def estimator_moments(module: nn.Module) -> dict[str, Tensor]:
    """Mean and standard deviation of each block's log-determinant over the last training batch.

    Returns:
        {"block_00_mean": ..., "block_00_std": ..., "block_01_mean": ...}, scalars in nats.
    """
    blocks = [block for block in module.modules() if isinstance(block, ResidualBlock)]
    found = {}
    for i, block in enumerate(blocks):
        mean, variance = block.moments
        found |= {f"block_{i:02d}_mean": mean, f"block_{i:02d}_std": variance.sqrt()}
    return found
