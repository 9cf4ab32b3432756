"""Activations of residual flows, which return their derivative beside the value.

Their slope is at most 1, and their derivative is continuous: the gradient of the log-determinant
takes second derivatives, for which ReLU will not do ("Invertible Residual Networks", Behrmann et
al. 2019, arXiv 1811.00995, appendix C.3). Each maps x to (phi(x), phi'(x)), both of the shape of x
and differentiable, so that a Jacobian-vector product costs one product an activation. `value` is
phi(x) alone, for inverses.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

__all__ = ["ELU", "LipSwish", "Softplus", "activation"]

MAX_SWISH_SLOPE = 1.1  # the exact maximum is 1.09984
# Numbers in a block. A dozen passes over as many stay within the caches; over a larger tensor each
# pass goes to memory.
BLOCK = 1 << 20


def blocks(like: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Flat views of one block of numbers at a time, of several tensors of one shape.

    Args:
        like: Its memory order is the order of the blocks. Where it is not dense, or on a GPU,
            which has no such cache, there is a single block of everything.
        *others: Tensors of the same shape; those of other strides are copied.

    Yields:
        A view of each tensor.
    """
    dense = like.is_contiguous() or like.is_contiguous(memory_format=torch.channels_last)
    if like.device.type != "cpu" or not dense:
        return iter([(like, *others)])
    aligned = [
        other if other.stride() == like.stride() else torch.empty_like(like).copy_(other)
        for other in others
    ]
    flat = [tensor.as_strided((tensor.numel(),), (1,)) for tensor in (like, *aligned)]
    return zip(*(tensor.split(BLOCK) for tensor in flat), strict=True)


class _ELU(torch.autograd.Function):
    """(phi, phi'), with derivatives by hand."""

    @staticmethod
    def forward(ctx, x: Tensor) -> tuple[Tensor, Tensor]:
        slope = x.clamp(max=0).exp_()
        ctx.save_for_backward(slope)
        value = slope - 1
        return torch.maximum(x, value, out=value), slope

    @staticmethod
    def backward(ctx, grad_value: Tensor, grad_slope: Tensor) -> Tensor:
        (slope,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _ELU.formula(slope, grad_value, grad_slope)
        grad_x = torch.empty_like(slope)
        for s, gv, gs, out in blocks(slope, grad_value, grad_slope, grad_x):
            out.copy_(_ELU.formula(s, gv, gs))
        return grad_x

    @staticmethod
    def formula(slope: Tensor, grad_value: Tensor, grad_slope: Tensor) -> Tensor:
        # phi'' is phi' where that is below 1, else 0.
        return slope * (grad_value + torch.ops.aten.hardtanh_backward(grad_slope, slope, -1.0, 1.0))


class ELU(nn.Module):
    """max(x, exp(min(x, 0)) - 1), with the derivative exp(min(x, 0)).

    torch's own takes ten times as long on a CPU.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return _ELU.apply(x)

    def value(self, x: Tensor) -> Tensor:
        return torch.maximum(x, x.clamp(max=0).exp() - 1)


class Softplus(nn.Module):
    """log(1 + exp(x)), with the logistic function as its derivative."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return softplus(x), torch.sigmoid(x)

    def value(self, x: Tensor) -> Tensor:
        return softplus(x)


class _LipSwish(torch.autograd.Function):
    """(phi, phi') of x sigmoid(beta x) / 1.1, with derivatives by hand."""

    @staticmethod
    def forward(ctx, x: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, beta)
        gate = (x * beta).sigmoid_().div_(MAX_SWISH_SLOPE)
        value = x * gate
        t = value * beta
        # In place: a fresh tensor costs more.
        slope = gate.addcmul_(t, gate, value=-MAX_SWISH_SLOPE).add_(t)
        return value, slope

    @staticmethod
    def backward(ctx, grad_value: Tensor, grad_slope: Tensor) -> tuple[Tensor, Tensor]:
        x, beta = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _LipSwish.formula(x, beta, grad_value, grad_slope)
        grad_x = torch.empty_like(x)
        grad_beta = torch.zeros_like(beta)
        # `formula`, in place where possible: a quarter of its time.
        for part, gv, gs, out in blocks(x, grad_value, grad_slope, grad_x):
            t = part * beta
            gate = torch.sigmoid(t)
            bump = torch.addcmul(gate, gate, gate, value=-1)
            t.mul_(bump)
            torch.add(gate, t, out=out).mul_(gv)
            bent = torch.addcmul(bump, t, gate.mul_(-2).add_(1), value=0.5).mul_(gs)
            out.addcmul_(bent, 2 * beta).div_(MAX_SWISH_SLOPE)
            grad_beta += bump.mul_(gv).mul_(part).add_(bent, alpha=2).mul_(part).sum()
        return grad_x, grad_beta / MAX_SWISH_SLOPE

    @staticmethod
    def formula(
        x: Tensor, beta: Tensor, grad_value: Tensor, grad_slope: Tensor
    ) -> tuple[Tensor, Tensor]:
        t = x * beta
        gate = torch.sigmoid(t)
        bump = gate - gate * gate
        t = t * bump
        # addcmul: half of the second derivative of t sigmoid(t)
        bent = grad_slope * torch.addcmul(bump, t, 1 - 2 * gate, value=0.5)
        grad_x = torch.addcmul(grad_value * (gate + t), bent, 2 * beta)
        grad_beta = (x * torch.add(grad_value * bump * x, bent, alpha=2)).sum()
        return grad_x / MAX_SWISH_SLOPE, grad_beta / MAX_SWISH_SLOPE


class LipSwish(nn.Module):
    """x sigmoid(beta x) / 1.1, where beta = softplus(b) is learned from b = 0.5.

    Unlike those of ELU and softplus, its second derivative does not vanish where it is steepest.

    "Residual Flows for Invertible Generative Modeling", Chen et al. 2019, arXiv 1906.02735,
    equation 10.
    """

    def __init__(self):
        super().__init__()
        self.raw_beta = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return _LipSwish.apply(x, softplus(self.raw_beta))

    def value(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x * softplus(self.raw_beta)) / MAX_SWISH_SLOPE


def activation(name: str) -> nn.Module:
    """A new activation: elu, softplus or lipswish; ValueError for another name."""
    kinds = {"elu": ELU, "softplus": Softplus, "lipswish": LipSwish}
    if name not in kinds:
        raise ValueError(f"net.activation={name!r}: expected one of {', '.join(kinds)}")
    return kinds[name]()
