"""Bijections one after another, and the multi-scale arrangement of them, in which half of the
channels leave after each scale.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["Chain", "MultiScale"]


class Chain(nn.ModuleList):
    """The composition of bijections x -> (y, log det (B,)), in order.

    Args:
        bijections: Modules with `inverse`.
        recompute: Whether to keep only the input of each bijection for the backward pass, and
            compute the rest of it a second time.
    """

    def __init__(self, bijections: Iterable[nn.Module] = (), recompute: bool = False):
        super().__init__(bijections)
        self.recompute = recompute

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(x.shape[0])
        for bijection in self:
            if self.recompute and torch.is_grad_enabled():
                x, term = checkpoint(bijection, x, use_reentrant=False)
            else:
                x, term = bijection(x)
            log_det = log_det + term
        return x, log_det

    def inverse(self, y: Tensor) -> Tensor:
        for bijection in reversed(self):
            y = bijection.inverse(y)
        return y


class MultiScale(nn.Module):
    """Stages of bijections of images, x (B, C, H, W) -> (z (B, D), log det (B,)).

    After each stage but the last, the second half of the channels leaves. z is what has left, stage
    by stage, and then the output of the last stage.

    "Density estimation using Real NVP", Dinh et al. 2017, arXiv 1605.08803, section 3.6.

    Args:
        stages: Bijections of images.
        shapes: (C, H, W) behind each stage, before channels leave.
        priors: One for each stage but the last, which standardises what leaves given what stays:
            forward(kept, out) -> (z, log det) and inverse(kept, z) -> out. Null: none.
    """

    def __init__(
        self,
        stages: Iterable[nn.Module],
        shapes: Iterable[tuple[int, int, int]],
        priors: Iterable[nn.Module] | None = None,
    ):
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.shapes = [(channels, height, width) for channels, height, width in shapes]
        self.priors = None if priors is None else nn.ModuleList(priors)
        # (C, H, W) of what leaves
        self.halves = [(channels // 2, *size) for channels, *size in self.shapes[:-1]]
        self.sizes = [c * h * w for c, h, w in [*self.halves, self.shapes[-1]]]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        parts, log_det = [], x.new_zeros(x.shape[0])
        for i, stage in enumerate(self.stages):
            x, term = stage(x)
            log_det = log_det + term
            if i < len(self.halves):
                kept = x.shape[1] - self.halves[i][0]
                x, out = x[:, :kept], x[:, kept:]
                if self.priors is not None:
                    out, term = self.priors[i](x, out)
                    log_det = log_det + term
                parts.append(out.flatten(1))
        return torch.cat([*parts, x.flatten(1)], 1), log_det

    def inverse(self, z: Tensor) -> Tensor:
        *parts, last = z.split(self.sizes, 1)
        x = self.stages[-1].inverse(last.unflatten(1, self.shapes[-1]))
        for i in reversed(range(len(parts))):
            out = parts[i].unflatten(1, self.halves[i])
            if self.priors is not None:
                out = self.priors[i].inverse(x, out)
            x = self.stages[i].inverse(torch.cat([x, out], 1))
        return x
