"""Validation over several processes uses the buffers of the first process, as a checkpoint does."""

import torch
from lightning.pytorch import Callback

__all__ = ["SharedBuffers"]


class SharedBuffers(Callback):
    """Copies the first process's buffers to all processes before a validation.

    Running statistics come from each process's own batches, but a checkpoint holds those of the
    first process only. This must be the last callback: then the averaged buffers are copied, not
    the raw ones.
    """

    def on_validation_start(self, trainer, system) -> None:
        if trainer.world_size > 1:
            for buffer in system.buffers():
                torch.distributed.broadcast(buffer, src=0)
