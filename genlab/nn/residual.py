"""The invertible residual block x + g(x), with its log-determinant, its inverse and what can be
said about both.

"Invertible Residual Networks", Behrmann et al. 2019, arXiv 1811.00995; "Residual Flows for
Invertible Generative Modeling", Chen et al. 2019, arXiv 1906.02735.
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
    """g: Lipschitz maps with activations between them, and one before them all if there are as many
    as maps.

    Its passes take the maps' weights [W_1, ...] and biases as arguments, normalised once for any
    number of passes. `linear` gives g(x) with the slopes of the activations, with which `push` (J
    t) and `pull` (J^T t, without a graph) need no activation any more: a product each. t has the
    shape of x, or (N, *x.shape).
    """

    def __init__(self, maps: list[LipschitzMap], activations: list[nn.Module]):
        super().__init__()
        self.maps, self.activations = nn.ModuleList(maps), nn.ModuleList(activations)
        self.leading = len(activations) == len(maps)
        self.dims = maps[0].dims

    def tensors(self) -> list[Tensor]:
        """All that g depends on besides x: the normalised weights, the biases, then the
        activations' own parameters.
        """
        weights = [layer.normalised() for layer in self.maps]
        if weights[0].dim() == 4:
            weights = [weight.contiguous(memory_format=torch.channels_last) for weight in weights]
        return [*weights, *(layer.bias for layer in self.maps), *self.activations.parameters()]

    def norms(self) -> list[float]:
        """The estimated norm of each normalised map."""
        return [layer.norm() for layer in self.maps]

    def linear(self, x: Tensor, tensors: list[Tensor]) -> tuple[Tensor, list[Tensor | None]]:
        """g(x), and the slopes before each map: None before the first where nothing precedes it."""
        num = len(self.maps)
        hidden, slopes = self.hidden(x, tensors)
        return apply_map(hidden, tensors[num - 1], tensors[2 * num - 1]), slopes

    def value(self, x: Tensor, tensors: list[Tensor]) -> Tensor:
        """g(x) alone."""
        num, act = len(self.maps), list(self.activations)
        for i in range(num):
            x = act.pop(0).value(x) if i or self.leading else x
            x = apply_map(x, tensors[i], tensors[num + i])
        return x

    def hidden(self, x: Tensor, tensors: list[Tensor]) -> tuple[Tensor, list[Tensor | None]]:
        """What the last map of g takes, and the slopes."""
        num, slopes, act = len(self.maps), [], list(self.activations)
        for i in range(num):
            if i:
                x = apply_map(x, tensors[i - 1], tensors[num + i - 1])
            x, slope = act.pop(0)(x) if i or self.leading else (x, None)
            slopes.append(slope)
        return x, slopes

    def push(self, t: Tensor, weights: list[Tensor], slopes: list[Tensor | None]) -> Tensor:
        return apply_map(self.push_hidden(t, weights, slopes), weights[len(self.maps) - 1])

    def push_hidden(self, t: Tensor, weights: list[Tensor], slopes: list[Tensor | None]) -> Tensor:
        """What the last map of J takes."""
        for i, slope in enumerate(slopes):
            t = apply_map(t, weights[i - 1]) if i else t
            if (
                slope is not None
            ):  # in place where no graph needs what was there, and t is not the caller's
                times = t.mul_ if i and not torch.is_grad_enabled() else t.mul
                t = times(_with_dims(slope, t))
        return t

    @torch.no_grad()
    def pull(
        self, weights: list[Tensor], slopes: list[Tensor | None]
    ) -> Callable[[Tensor], Tensor]:
        """The function t -> J^T t, which gives no gradients."""
        adjoints = [
            (adjoint(weight), slope) for weight, slope in zip(weights, slopes, strict=False)
        ][::-1]

        def pulled(t: Tensor) -> Tensor:
            for weight, slope in adjoints:
                t = apply_map(t, weight)
                t = t if slope is None else t.mul_(_with_dims(slope, t))
            return t

        return pulled


def _with_dims(slope: Tensor, t: Tensor) -> Tensor:
    """slope with a leading 1 where t has a dimension more: broadcasting costs a sum in the backward
    pass, even over one.
    """
    return slope[None] if t.dim() > slope.dim() else slope


def conv_branch(
    channels: int, width: int, size: tuple[int, int], activation: str, leading: bool, **options
) -> Branch:
    """3x3 to `width` channels, 1x1, 3x3 back; activations between, and before them if `leading`."""
    shapes = ((channels, width, 3), (width, width, 1), (width, channels, 3))
    maps = [
        LipschitzMap(c_in, c_out, kernel_size=kernel, size=size, **options)
        for c_in, c_out, kernel in shapes
    ]
    return Branch(maps, [make_activation(activation) for _ in range(len(maps) - 1 + leading)])


def dense_branch(dim: int, widths: list[int], activation: str, leading: bool, **options) -> Branch:
    """Dense layers dim -> widths -> dim; activations between, and before them if `leading`."""
    sizes = [dim, *widths, dim]
    maps = [LipschitzMap(c_in, c_out, **options) for c_in, c_out in itertools.pairwise(sizes)]
    return Branch(maps, [make_activation(activation) for _ in range(len(maps) - 1 + leading)])


class ResidualBlock(nn.Module):
    """x -> (x + g(x), log det (B,)); g of norm below 1.

    series, eval_series: of genlab.nn.log_det, in training and otherwise; with none the
    log-determinant is NaN. num_probes, eval_num_probes: of Hutchinson's estimate, whose mean
    counts. The value is the series' own estimate in every mode, and its gradient, by the Neumann
    series of the same terms, has the mean of that of the series: no double backward, and no graph
    of the products. backward: recompute keeps x, the probes and one vector beside them for the
    backward pass, and computes the rest again, weighing each sample's log-determinant by its own
    upstream gradient; store keeps all that one pass needs. tolerance: bound of the root mean square
    error of an inverse. anderson: steps that it mixes, 0 for the plain iteration. `moments` are the
    mean and variance over the last training batch of the estimate (nats).
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
        self.branch, self.series, self.eval_series = (
            branch,
            series,
            series if eval_series is None else eval_series,
        )
        self.num_probes, self.eval_num_probes, self.probe = num_probes, eval_num_probes, probe
        self.backward, self.tolerance, self.anderson = backward, tolerance, anderson
        self.register_buffer("moments", torch.zeros(2), persistent=False)
        self.inversion: Inversion | None = None  # of the last inverse

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            x = _own_format(x)
            series = self.series if self.training else self.eval_series
            if series is None:
                return x + self.branch.linear(x, self.branch.tensors())[0], x.new_full(
                    (x.shape[0],), torch.nan
                )
            g, log_det = (
                self._exact(x)
                if isinstance(series, Exact)
                else self._estimate(x, series.draw(self.lipschitz, self.branch.dims))
            )
            if self.training:
                self.moments.copy_(
                    torch.stack(torch.var_mean(log_det.detach(), correction=0)[::-1])
                )
            return x + g, log_det

    def _exact(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tensors, dim = self.branch.tensors(), x[0].numel()
        g, slopes = self.branch.linear(x, tensors)
        basis = (
            torch.eye(dim, dtype=x.dtype, device=x.device)
            .view(dim, 1, *x.shape[1:])
            .expand(dim, *x.shape)
        )
        columns = self.branch.push(basis, tensors, slopes).flatten(2)  # (D, B, D): dg/dx_j in row j
        return g, exact_log_det(columns.permute(1, 2, 0))

    def _estimate(self, x: Tensor, weights: list[float]) -> tuple[Tensor, Tensor]:
        probes = draw_probes(
            x, self.num_probes if self.training else self.eval_num_probes, self.probe
        )
        tensors = self.branch.tensors()
        if self.backward == "recompute":
            return _Estimate.apply(self.branch, weights, probes, x, *tensors)
        g, slopes = self.branch.linear(x, tensors)
        jv = self.branch.push(probes, tensors, slopes)
        value, left = hutchinson(self.branch.pull(tensors, slopes), probes, jv.detach(), weights)
        carrier = (
            (left * jv).flatten(2).sum(2)
        )  # has the right gradient, and a value that means nothing
        return g, (value + carrier - carrier.detach()).mean(0)

    @torch.no_grad()
    def inverse(self, y: Tensor) -> Tensor:
        tensors, y = self.branch.tensors(), _own_format(y)
        x, self.inversion = solve(
            lambda x: self.branch.value(x, tensors),
            y,
            self.lipschitz(),
            self.tolerance,
            memory=self.anderson,
        )
        return x

    def lipschitz(self) -> float:
        """The product of the estimated norms."""
        return torch.tensor(self.branch.norms(), dtype=torch.float64).prod().item()


class _Estimate(torch.autograd.Function):
    """(g(x), log det (B,)); keeps x, the probes and `left` of `hutchinson`, and goes through the
    block again backward.
    """

    @staticmethod
    def forward(
        ctx, branch: Branch, weights: list[float], probes: Tensor, x: Tensor, *tensors: Tensor
    ):
        g, slopes = branch.linear(x, tensors)
        jv = branch.push(probes, tensors, slopes)
        value, left = hutchinson(branch.pull(tensors, slopes), probes, jv, weights)
        ctx.branch = branch
        ctx.save_for_backward(probes, left, x, *tensors)
        return g, value.mean(0)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_g: Tensor, grad_log_det: Tensor):
        probes, left, x, *tensors = ctx.saved_tensors
        branch, num, grad_g = ctx.branch, len(ctx.branch.maps), _own_format(grad_g)
        grad_jv = left * (grad_log_det / len(probes)).view(1, -1, *[1] * (x.dim() - 1))
        own = list(branch.activations.parameters())
        with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
            inputs = [t.detach().requires_grad_() for t in [x, *tensors[: len(tensors) - len(own)]]]
            inputs += own  # which the activations hold themselves
            hidden, slopes = branch.hidden(inputs[0], inputs[1:])
            pushed = branch.push_hidden(probes, inputs[1:], slopes)
        # The last map is not applied again: its weight's and bias's gradients need what it is given
        # alone.
        grads, last = [None] * len(inputs), tensors[num - 1]
        grads[num] = weight_gradient(grad_g, hidden.detach(), last) + weight_gradient(
            grad_jv, pushed.detach(), last
        )
        grads[2 * num] = grad_g.transpose(0, 1).flatten(1).sum(1)
        wanted = [
            i for i, need in enumerate(ctx.needs_input_grad[3:]) if need and i not in (num, 2 * num)
        ]
        arriving = (apply_adjoint(grad_g, last), apply_adjoint(grad_jv, last))
        found = torch.autograd.grad(
            (hidden, pushed), [inputs[i] for i in wanted], arriving, allow_unused=True
        )
        for i, grad in zip(wanted, found, strict=True):
            grads[i] = grad
        return None, None, None, *grads


@contextmanager
def without_log_det(network: nn.Module) -> Iterator[None]:
    """Residual blocks of `network` leave their log-determinants out (NaN) for as long as the
    context lasts.
    """
    blocks = [module for module in network.modules() if isinstance(module, ResidualBlock)]
    kept = [(block.series, block.eval_series) for block in blocks]
    for block in blocks:
        block.series = block.eval_series = None
    try:
        yield
    finally:
        for block, series in zip(blocks, kept, strict=True):
            block.series, block.eval_series = series


def _own_format(x: Tensor) -> Tensor:
    """float32 or wider, and channels last, in which convolutions of few channels are several times
    as fast on a CPU.
    """
    x = x if x.dtype in (torch.float32, torch.float64) else x.float()
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def estimator_moments(module: nn.Module) -> dict[str, Tensor]:
    """{"block_00_mean", "block_00_std", ...}: of the log-determinant of each block over the last
    training batch, in nats.
    """
    blocks = [block for block in module.modules() if isinstance(block, ResidualBlock)]
    found = {}
    for i, block in enumerate(blocks):
        mean, variance = block.moments
        found |= {f"block_{i:02d}_mean": mean, f"block_{i:02d}_std": variance.sqrt()}
    return found
