"""LAMB: Adam's direction, scaled for each tensor to the norm of the tensor itself.

torch has no LAMB, and genlab depends on no package that has one. timm's clips the gradient's global
norm by default, ties the scaling of a group to its weight decay, and cannot be captured in a CUDA
graph, so it would not repeat the runs of this one.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from genlab.ranges import Decay, NonNegativeFloat, PositiveFloat

__all__ = ["LAMB"]


class LAMB(torch.optim.Optimizer):
    """Optimiser for large batches.

    With Adam's moments m and v of the gradient, a step on a tensor w is

        u = m / (sqrt(v) + eps) + weight_decay * w
        w <- w - lr * r * u    with r = |w| / |u|, or 1 where one of the norms is 0

    "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", You et al. 2020,
    arXiv 1904.00962, without bounds on r, as in bojone/bert4keras.

    Args:
        params: Parameters, or groups of them with settings of their own.
        lr: Learning rate; a 0-d tensor is allowed in a captured step.
        betas: Decay of m and of v in a step.
        eps: Added to sqrt(v).
        weight_decay: See above.
        bias_correction: Correct m and v for their start at zero; bojone/bert4keras does not.
        adapt: Scale by r; a group with adapt=False (biases, norms) has r = 1.
        capturable: Keep all state on the device, as CUDA graphs need, like torch's optimisers.

    Raises:
        ValueError: A setting is out of range.
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
            raise ValueError(
                f"LAMB: lr={lr}, betas={betas}, eps={eps}, weight_decay={weight_decay}: expected "
                "numbers of 0 or more, betas below 1"
            )
        defaults = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        defaults |= {"bias_correction": bias_correction, "adapt": adapt, "capturable": capturable}
        super().__init__(params, defaults)

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("capturable", False)  # missing in older checkpoints

    @torch.no_grad()
    def step(self, closure=None) -> Tensor | None:
        """Updates every parameter that has a gradient; returns the loss of `closure`, if any."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._update(group, weights, [weight.grad for weight in weights])
        return loss

    def _update(self, group: dict, weights: list[Tensor], gradients: list[Tensor]) -> None:
        for weight in weights:
            if not self.state[weight]:
                self.state[weight] = {
                    "step": torch.zeros((), device=weight.device if group["capturable"] else None),
                    "m": torch.zeros_like(weight),
                    "v": torch.zeros_like(weight),
                }
        states = [self.state[weight] for weight in weights]
        first = [state["m"] for state in states]
        second = [state["v"] for state in states]
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
        for state in states:
            state["step"] += 1
        update = torch._foreach_sqrt(second)
        if group["bias_correction"]:
            # In float64, because 1 - 0.999^t is a small difference for small t
            if group["capturable"]:
                power = torch.pow
                steps = [state["step"].double() for state in states]
            else:
                power = pow
                steps = [int(state["step"]) for state in states]
            torch._foreach_div_(update, [(1 - power(beta2, t)) ** 0.5 for t in steps])
            torch._foreach_add_(update, group["eps"])
            torch._foreach_mul_(update, [1 - power(beta1, t) for t in steps])
        else:
            torch._foreach_add_(update, group["eps"])
        update = torch._foreach_div(first, update)
        if group["weight_decay"]:
            torch._foreach_add_(update, weights, alpha=group["weight_decay"])
        if group["adapt"]:
            norms = zip(torch._foreach_norm(weights), torch._foreach_norm(update), strict=True)
            ratios = [torch.where((w > 0) & (u > 0), w / u, 1.0) for w, u in norms]
            torch._foreach_mul_(update, ratios)
        if isinstance(group["lr"], Tensor):
            torch._foreach_mul_(update, group["lr"])
            torch._foreach_sub_(weights, update)
        else:
            torch._foreach_add_(weights, update, alpha=-group["lr"])
