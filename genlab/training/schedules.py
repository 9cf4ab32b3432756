"""Learning-rate schedules: the factor of the base rate, a pure function of the step."""

import math
from collections.abc import Callable
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["check_decay", "configure_schedule", "halving", "warmup_decay"]


def warmup_decay(
    position: int,
    num_warmup: int,
    num_decay: int | None,
    decay: Literal["linear", "cosine"],
    *,
    floor: float = 0.0,
    stride: int = 1,
    after: int = 0,
) -> float:
    """A linear rise to 1, then a constant (num_decay null), a line or a cosine.

    All counts are in one unit: optimiser steps, or the tokens that they read.

    Args:
        position: How much was done before this step, from 0.
        num_warmup: The position at which the rise ends.
        num_decay: The position at which the decay ends; null: the factor stays 1.
        decay: The curve between the two. A cosine ends at 0, a line at `floor`.
        floor: The least factor of a line.
        stride: The length of one step.
        after: How far beyond `num_warmup` the rise would reach 1. The factor of the first step is
            stride / (num_warmup + after): 0 reaches 1 in the last step of the warm-up, `stride` in
            the step after it.

    Returns:
        The factor of the base learning rate, in [0, 1].
    """
    if position < num_warmup:
        return (position + stride) / (num_warmup + after)
    if num_decay is None:
        return 1.0
    length = num_decay - num_warmup
    if decay == "linear":
        return max((num_decay - position) / length, floor)
    return 0.5 * (1 + math.cos(math.pi * min((position - num_warmup) / length, 1.0)))


def halving(num_passes: int, every: int) -> float:
    """Half after every `every` of `num_passes` passes over the data; 1 where `every` is 0."""
    return 0.5 ** (num_passes // every) if every else 1.0


def check_decay(num_warmup_steps: int, num_decay_steps: int | None) -> None:
    """ValueError if a decay would end before the warm-up does."""
    if num_decay_steps is not None and num_decay_steps <= num_warmup_steps:
        raise ValueError(
            f"model.num_decay_steps={num_decay_steps}: expected null, or more than "
            f"model.num_warmup_steps={num_warmup_steps}"
        )


def configure_schedule(optimizer: Optimizer, factor: Callable[[int], float]) -> dict[str, Any]:
    """What `configure_optimizers` returns for a rate that follows `factor(step)`, step by step."""
    scheduler = LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
