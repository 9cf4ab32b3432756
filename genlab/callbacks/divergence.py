"""A run whose numbers are no longer numbers is stopped, and its last good checkpoint kept."""

import torch
from lightning.pytorch import Callback

from genlab.ranges import PositiveInt

__all__ = ["Diverged", "DivergenceGuard", "check_weights"]

ADVICE = "try a lower rate (model.lr=, or model.generator_lr= and model.discriminator_lr=), or trainer.gradient_clip_val=1"


class Diverged(ValueError):
    """The loss or a weight is NaN or infinite."""


def check_weights(system, step: int) -> None:
    """Diverged if a weight or buffer of `system` is NaN or infinite."""
    for name, value in system.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise Diverged(f"step {step}: {name} is no longer finite; {ADVICE}")


class DivergenceGuard(Callback):
    """Stops the run when the loss is NaN or infinite, looking every `every_num_steps` steps.

    null: at each on the CPU; on an accelerator, which would have to be waited for, at every 50th: a
    loss that is not finite makes weights so, and with them every later loss, and Checkpoint saves
    none of these.
    """

    def __init__(self, every_num_steps: PositiveInt | None = None):
        self.every_num_steps = every_num_steps

    def on_train_batch_end(self, trainer, system, outputs, batch, batch_idx) -> None:
        every = self.every_num_steps or (1 if outputs["loss"].device.type == "cpu" else 50)
        if trainer.global_step % every == 0 and not torch.isfinite(outputs["loss"]):
            raise Diverged(
                f"step {trainer.global_step}: the loss is {outputs['loss'].item()}; {ADVICE}"
            )
