"""Stops a run on NaN or Inf, so that its last good checkpoint is kept."""

import torch
from lightning.pytorch import Callback

from genlab.ranges import PositiveInt

__all__ = ["Diverged", "DivergenceGuard", "check_weights"]

ADVICE = (
    "try a lower learning rate (model.lr=, or model.generator_lr= and model.discriminator_lr=), "
    "or trainer.gradient_clip_val=1"
)


class Diverged(ValueError):
    """The loss or a weight is NaN or Inf."""


def check_weights(system, step: int) -> None:
    """Raises Diverged if a weight or buffer of `system` is NaN or Inf."""
    for name, value in system.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise Diverged(f"step {step}: {name} is NaN or Inf; {ADVICE}")


class DivergenceGuard(Callback):
    """Stops the run when the loss is NaN or Inf.

    Args:
        every_num_steps: Steps between two checks. None: 1 on the CPU and 50 on an accelerator,
            where each check waits for the device. Nothing is lost by waiting: a loss that is not
            finite spoils the weights and so every later loss, and Checkpoint saves no such weights.
    """

    def __init__(self, every_num_steps: PositiveInt | None = None):
        self.every_num_steps = every_num_steps

    def on_train_batch_end(self, trainer, system, outputs, batch, batch_idx) -> None:
        loss = outputs["loss"]
        step = trainer.global_step
        every = self.every_num_steps or (1 if loss.device.type == "cpu" else 50)
        if step % every == 0 and not torch.isfinite(loss):
            raise Diverged(f"step {step}: the loss is {loss.item()}; {ADVICE}")
