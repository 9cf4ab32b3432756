"""Validation over several processes with the buffers of the first, which are the ones that a
checkpoint holds.
"""

import torch
from lightning.pytorch import Callback

__all__ = ["SharedBuffers"]


class SharedBuffers(Callback):
    """Gives all processes the first one's buffers for a validation; the last callback, so that they
    are the averaged ones.

    Running statistics are of each process's own batches, and a resumed run starts from the first
    one's.
    """

    def on_validation_start(self, trainer, system) -> None:
        if trainer.world_size > 1:
            for buffer in system.buffers():
                torch.distributed.broadcast(buffer, src=0)
