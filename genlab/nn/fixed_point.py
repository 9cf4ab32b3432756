"""The inverse of x + g(x) by a fixed-point iteration, which stops at a bound of its true error."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Inversion", "NotInverted", "iterations_needed", "solve"]

# A step of that many machine epsilons, of x and y together, is rounding.
ROUNDING = 8
# So is one that many times larger, which the layers of g may cause, where a contraction must have
# arrived.
INSIDE = 8


class NotInverted(ValueError):
    """A fixed-point iteration did not converge."""


class Inversion(NamedTuple):
    """How an inverse was found: root mean squares of the worst sample."""

    iterations: int
    step: float  # the last
    error: float  # a bound


def iterations_needed(lipschitz: float, tolerance: float, first_step: float = 1.0) -> int:
    """The most iterations until the error is below `tolerance`: L^n / (1 - L) first_step <=
    tolerance.
    """
    if lipschitz <= 0 or first_step <= 0:
        return 1
    ratio = tolerance * (1 - lipschitz) / first_step
    return max(1, math.ceil(math.log(ratio) / math.log(lipschitz)))


@torch.no_grad()
def solve(
    g: Callable[[Tensor], Tensor],
    y: Tensor,
    lipschitz: float,
    tolerance: float = 1e-5,
    max_iterations: int | None = None,
    memory: int = 0,
) -> tuple[Tensor, Inversion]:
    """Solves x + g(x) = y.

    x_{n+1} = y - g(x_n) until, for every sample, the root mean square of x_{n+1} - x_n is at most
    tolerance (1 - L) / L. That bounds the error of x_{n+1} by `tolerance`. The iteration also stops
    where only rounding moves x; then the bound that it reports is larger.

    Args:
        g: x (B, ...) -> (B, ...), with a Lipschitz constant of at most `lipschitz`.
        y: (B, ...).
        lipschitz: L, in [0, 1).
        tolerance: Root mean square error of a sample.
        max_iterations: Null: a few more than a contraction can need.
        memory: How many steps Anderson acceleration mixes; 0: none. Where it does not converge,
            the plain iteration starts again.

    Returns:
        (x (B, ...), how it was found).

    Raises:
        NotInverted: L is 1 or more, or max_iterations were not enough, so that g is no contraction.
    """
    if not 0 <= lipschitz < 1:
        raise NotInverted(
            f"a block with Lipschitz bound {lipschitz:.4g} need not have an inverse; train with "
            "net.coeff= below 1 (null sets no bound)"
        )
    eps, limit = torch.finfo(y.dtype).eps, max_iterations
    x, history = y, []
    done, length = 0, math.prod(y.shape[1:]) ** 0.5
    while True:
        new = y - g(x)
        done += 1
        step = (new - x).flatten(1).norm(dim=1) / length  # (B,)
        worst = step.max().item()
        scale = (new.flatten(1).norm(dim=1) + y.flatten(1).norm(dim=1)) / length  # (B,)
        if memory and (not math.isfinite(worst) or (limit is not None and done > limit)):
            # Anderson acceleration does not converge here.
            memory, x = 0, y
            limit = None if max_iterations is None else done + max_iterations
            continue
        bound = tolerance * (1 - lipschitz) / max(lipschitz, eps)
        target = torch.clamp(ROUNDING * eps * scale, min=bound)
        rounding = (
            limit is not None
            and done >= limit
            and bool((step <= INSIDE * ROUNDING * eps * scale).all())
        )
        if rounding or bool((step <= target).all()):
            return new, Inversion(done, worst, worst * lipschitz / (1 - lipschitz))
        if limit is None and math.isfinite(worst):
            reachable = max(tolerance, ROUNDING * eps * scale.max().item())
            limit = done + iterations_needed(lipschitz, reachable, worst) + 5
        if limit is None or (done >= limit and not memory):
            raise NotInverted(
                f"after {done} iterations the inverse still moves by {worst:.1e} (root mean "
                f"square); expected {target.min().item():.1e} with Lipschitz bound "
                f"{lipschitz:.4g}. If the weights have changed since the last refresh, call "
                "genlab.nn.lipschitz.refresh; if the certificate accepts the bounds, raise "
                "net.tolerance="
            )
        x = _mix(history, x, new, memory) if memory else new


def _mix(history: list[tuple[Tensor, Tensor]], x: Tensor, new: Tensor, memory: int) -> Tensor:
    """The next x by Anderson acceleration: each sample mixes its last steps such that their
    residuals cancel best.

    "Anderson Acceleration for Fixed-Point Iterations", Walker and Ni 2011, with the residual f =
    new - x and the type II least-squares problem over differences, solved by its normal equations.
    """
    history.append((x, new - x))
    del history[: -memory - 1]
    if len(history) < 2:
        return new
    xs = torch.stack([entry[0].flatten(1) for entry in history], 1)  # (B, m + 1, D)
    fs = torch.stack([entry[1].flatten(1) for entry in history], 1)
    dx = xs.diff(dim=1)
    df = fs.diff(dim=1)
    f = fs[:, -1:]
    gram, right = (df @ df.mT).double(), (df @ f.mT).double()
    # The last steps are shorter by far.
    scale = gram.diagonal(dim1=1, dim2=2).clamp(min=1e-60).rsqrt()[..., None]
    eye = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    gram = scale * gram * scale.mT + 1e-6 * eye
    mix = (scale * torch.linalg.solve_ex(gram, scale * right)[0]).to(f)
    return (new.flatten(1) - ((dx + df).mT @ mix)[..., 0]).view_as(new)
