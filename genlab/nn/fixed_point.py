"""The inverse of x + g(x) by a fixed-point iteration that stops where a bound of its true error
says so.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Inversion", "NotInverted", "iterations_needed", "solve"]

ROUNDING = 8  # a step of that many machine epsilons, of x and y together, is none
# and that many times more, of which g's own layers may be the cause, where a contraction must have
# arrived
INSIDE = 8


class NotInverted(ValueError):
    """A fixed-point iteration did not arrive."""


class Inversion(NamedTuple):
    """How an inverse was found: iterations, the last step, the bound of the error (root mean
    squares, worst sample).
    """

    iterations: int
    step: float
    error: float


def iterations_needed(lipschitz: float, tolerance: float, first_step: float = 1.0) -> int:
    """How many iterations bring the error below `tolerance`, at most: L^n / (1 - L) first_step <=
    tolerance.
    """
    if lipschitz <= 0 or first_step <= 0:
        return 1
    return max(
        1, math.ceil(math.log(tolerance * (1 - lipschitz) / first_step) / math.log(lipschitz))
    )


@torch.no_grad()
def solve(
    g: Callable[[Tensor], Tensor],
    y: Tensor,
    lipschitz: float,
    tolerance: float = 1e-5,
    max_iterations: int | None = None,
    memory: int = 0,
) -> tuple[Tensor, Inversion]:
    """(x, Inversion) with x + g(x) = y (B, ...), where g has a Lipschitz constant of at most
    `lipschitz` < 1.

    x_{n+1} = y - g(x_n) until, for every sample, the root mean square of x_{n+1} - x_n is at most
    tolerance (1 - L) / L, which bounds that of x_{n+1} - x by tolerance; or until rounding is all
    that moves, when the bound reported is larger: less than the numbers can tell, or a little more
    for as many iterations as a contraction can need.
    memory: mix that many last steps by Anderson acceleration, 0 for none; the bound holds as well,
    and if that does not arrive, the plain iteration starts again. max_iterations: unless given, a
    few more than a contraction can need, so that NotInverted, a ValueError, says that g is none.
    """
    if not 0 <= lipschitz < 1:
        raise NotInverted(
            f"a block with Lipschitz bound {lipschitz:.4g} need not have an inverse; train with net.coeff below 1 "
            "(with null there is no bound)"
        )
    eps, limit = torch.finfo(y.dtype).eps, max_iterations
    x, history = y, []
    done, length = 0, math.prod(y.shape[1:]) ** 0.5
    while True:
        new = y - g(x)
        step = (new - x).flatten(1).norm(dim=1) / length
        worst, scale = (
            step.max().item(),
            (new.flatten(1).norm(dim=1) + y.flatten(1).norm(dim=1)) / length,
        )
        done += 1
        if memory and (not math.isfinite(worst) or (limit is not None and done > limit)):
            memory, x, limit = 0, y, None if max_iterations is None else done + max_iterations
            continue
        target = torch.clamp(
            ROUNDING * eps * scale, min=tolerance * (1 - lipschitz) / max(lipschitz, eps)
        )
        arrived = (
            limit is not None
            and done >= limit
            and bool((step <= INSIDE * ROUNDING * eps * scale).all())
        )
        if arrived or bool((step <= target).all()):
            return new, Inversion(done, worst, worst * lipschitz / (1 - lipschitz))
        if limit is None and math.isfinite(worst):
            rounded = max(tolerance, ROUNDING * eps * scale.max().item())
            limit = done + iterations_needed(lipschitz, rounded, worst) + 5
        if limit is None or (done >= limit and not memory):
            raise NotInverted(
                f"after {done} iterations the inverse still moves by {worst:.1e} (root mean square), and "
                f"{target.min().item():.1e} was to be reached with Lipschitz bound {lipschitz:.4g}. If the weights have "
                "changed since, refresh them (genlab.nn.lipschitz.refresh); if the certificate finds the bounds in order, "
                "allow a larger tolerance or more iterations"
            )
        x = _mix(history, x, new, memory) if memory else new


def _mix(history: list[tuple[Tensor, Tensor]], x: Tensor, new: Tensor, memory: int) -> Tensor:
    """The next x by Anderson acceleration: each sample mixes its last steps so that their residuals
    cancel best.

    "Anderson Acceleration for Fixed-Point Iterations", Walker and Ni 2011, with the residual f =
    new - x and the type II least-squares problem over differences, solved by its normal equations.
    """
    history.append((x, new - x))
    del history[: -memory - 1]
    if len(history) < 2:
        return new
    xs, fs = (
        torch.stack([entry[i].flatten(1) for entry in history], 1) for i in (0, 1)
    )  # (B, m + 1, D)
    dx, df, f = xs.diff(dim=1), fs.diff(dim=1), fs[:, -1:]
    gram, right = (df @ df.mT).double(), (df @ f.mT).double()
    scale = (
        gram.diagonal(dim1=1, dim2=2).clamp(min=1e-60).rsqrt()[..., None]
    )  # the last steps are shorter by far
    gram = scale * gram * scale.mT + 1e-6 * torch.eye(
        gram.shape[1], dtype=gram.dtype, device=gram.device
    )
    mix = (scale * torch.linalg.solve_ex(gram, scale * right)[0]).to(f)
    return (new.flatten(1) - ((dx + df).mT @ mix)[..., 0]).view_as(new)
