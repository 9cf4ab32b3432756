"""LAMB: Adam's direction, scaled for each tensor to the length of the tensor itself."""

from collections.abc import Iterable

import torch
from torch import Tensor

from genlab.ranges import Decay, NonNegativeFloat, PositiveFloat

__all__ = ["LAMB"]


class LAMB(torch.optim.Optimizer):
    """u = m / (sqrt(v) + eps) + weight_decay w, then w <- w - lr r u with r = |w| / |u|, or 1 where
    one of them is 0.

    "Large Batch Optimization for Deep Learning", You et al. 2020, arXiv 1904.00962, as
    bojone/bert4keras has it: no bound on r. bias_correction: of m and v; the source has none. A
    group with adapt=False keeps r = 1: biases and norms. capturable: as of torch's own, all state
    is on the device, and lr may be a tensor.
    """

    def __init__(
        self,
        params: Iterable,
        lr: NonNegativeFloat = 1e-3,
        betas: tuple[Decay, Decay] = (0.9, 0.999),
        eps: PositiveFloat = 1e-6,
        weight_decay: NonNegativeFloat = 0.01,
        bias_correction: bool = False,
        adapt: bool = True,
        capturable: bool = False,
    ):
        if lr < 0 or eps < 0 or weight_decay < 0 or not all(0 <= beta < 1 for beta in betas):
            given = f"lr={lr}, betas={betas}, eps={eps}, weight_decay={weight_decay}"
            raise ValueError(f"LAMB: {given}: expected 0 or more, betas below 1")
        defaults = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        defaults |= {"bias_correction": bias_correction, "adapt": adapt, "capturable": capturable}
        super().__init__(params, defaults)

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("capturable", False)  # checkpoints of before

    @torch.no_grad()
    def step(self, closure=None) -> Tensor | None:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights:
                self._update(group, weights, [p.grad for p in weights])
        return loss

    def _update(self, group: dict, weights: list[Tensor], gradients: list[Tensor]) -> None:
        for p in weights:
            if not self.state[p]:
                step = torch.zeros((), device=p.device if group["capturable"] else None)
                self.state[p] = {"step": step, "m": torch.zeros_like(p), "v": torch.zeros_like(p)}
        states = [self.state[p] for p in weights]
        first, second = [s["m"] for s in states], [s["v"] for s in states]
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
        for state in states:
            state["step"] += 1
        update = torch._foreach_sqrt(second)
        if group["bias_correction"]:
            # In float64, because 1 - 0.999^t of small t is a small difference.
            steps = [
                state["step"].double() if group["capturable"] else int(state["step"])
                for state in states
            ]
            power = torch.pow if group["capturable"] else pow
            torch._foreach_div_(update, [(1 - power(beta2, t)) ** 0.5 for t in steps])
            torch._foreach_add_(update, group["eps"])
            torch._foreach_mul_(update, [1 - power(beta1, t) for t in steps])
        else:
            torch._foreach_add_(update, group["eps"])
        update = torch._foreach_div(first, update)
        if group["weight_decay"]:
            torch._foreach_add_(update, weights, alpha=group["weight_decay"])
        if group["adapt"]:
            sizes, lengths = torch._foreach_norm(weights), torch._foreach_norm(update)
            ratios = [
                torch.where((w > 0) & (u > 0), w / u, 1.0)
                for w, u in zip(sizes, lengths, strict=True)
            ]
            torch._foreach_mul_(update, ratios)
        if isinstance(group["lr"], Tensor):
            torch._foreach_mul_(update, group["lr"])
            torch._foreach_sub_(weights, update)
        else:
            torch._foreach_add_(weights, update, alpha=-group["lr"])
