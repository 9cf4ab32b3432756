"""What the estimates of the log-determinant are compared with."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


@pytest.fixture
def series_log_det():
    return by_autograd


def by_autograd(
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
    y, power, value = function(x), v, 0.0
    for k, weight in enumerate(weights, 1):
        (power,) = torch.autograd.grad(y, x, power, create_graph=True)
        value = value + (-1) ** (k + 1) * weight / k * (power * v).flatten(1).sum(1)
    return value
