"""The series of the log-determinant by autograd, a baseline of flow_step.py and of the tests."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["series_log_det"]


def series_log_det(
    function: Callable[[Tensor], Tensor], x: Tensor, v: Tensor, weights: list[float]
) -> Tensor:
    """The estimate of genlab.nn.log_det.hutchinson, differentiated by autograd term by term.

    For any function, at the price of a graph through every term.

    Args:
        function: x -> g(x).
        x: (B, ...), which requires a gradient.
        v: One probe of the shape of x.
        weights: c_1 ... c_N of the terms.

    Returns:
        (B,).
    """
    y = function(x)
    power = v
    value = 0.0
    for k, weight in enumerate(weights, 1):
        (power,) = torch.autograd.grad(y, x, power, create_graph=True)
        value = value + (-1) ** (k + 1) * weight / k * (power * v).flatten(1).sum(1)
    return value
