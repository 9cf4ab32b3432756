"""Makes all randomness of a step a function of (seed, step, rank), so that a resume is exact."""

import torch
from lightning.pytorch import Callback

from genlab.seeds import digest

__all__ = ["Reseed", "step_seed"]


def step_seed(seed: int, step: int, rank: int) -> int:
    """A 63-bit seed for one step of one process; distinct arguments give unrelated streams."""
    return digest(f"{seed}/{step}/{rank}")


class Reseed(Callback):
    """Seeds torch before each batch.

    Noise, dropout and augmentation then need no generator state in a checkpoint.

    Args:
        seed: Of the run.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def on_train_batch_start(self, trainer, system, batch, batch_idx) -> None:
        batch_number = trainer.fit_loop.epoch_loop.total_batch_idx
        seed = step_seed(self.seed, batch_number, trainer.global_rank)
        # torch.manual_seed would also record a stack trace for each kind of device not in use.
        torch.default_generator.manual_seed(seed)
        if system.device.type != "cpu":
            torch.get_device_module(system.device).manual_seed(seed)
