"""An exponential moving average of a system's networks, beside the raw weights.

Lightning's EMAWeightAveraging and torch's AveragedModel do not replace this class. They decay by a
fixed number per update, not by a half-life in images with a ramp-up; they average the whole system
instead of chosen networks; and Lightning's stores the average as the checkpoint's `state_dict`,
where genlab keeps the raw weights that training resumes from.
"""

from contextlib import contextmanager

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from genlab.ranges import NonNegativeFloat, PositiveFloat
from genlab.systems.base import Derived

__all__ = ["EMA", "averaged_weights"]


class EMA(Callback):
    """Averages networks of the system; validation, pictures and later commands use the average.

    One step on n images decays the average by 0.5^(n / half_life). Floating-point buffers (running
    statistics of batch norm) are averaged like weights, integer ones (counters) are copied.
    Checkpoints hold the average under "ema" and the raw weights in `state_dict`.

    Args:
        half_life: In images seen, so that it does not depend on the batch size.
        modules: Names of the system's sub-modules to average.
        ramp_up: The half-life is at most this fraction of the images seen so far, so that the first
            steps do not weigh down a short run; None: no such limit.
    """

    def __init__(
        self, half_life: PositiveFloat, modules: list[str], ramp_up: NonNegativeFloat | None = 0.05
    ):
        self.half_life = half_life
        self.modules = modules
        self.ramp_up = ramp_up
        self.average: dict[str, torch.Tensor] = {}
        self.images_seen = 0
        self.swapped = False
        self.kept: dict[str, torch.Tensor] = {}  # copies of the raw weights while swapped

    def _state(self, system: LightningModule) -> dict[str, torch.Tensor]:
        prefixes = tuple(f"{name}." for name in self.modules)
        state = system.state_dict()
        return {name: value for name, value in state.items() if name.startswith(prefixes)}

    def on_fit_start(self, trainer: Trainer, system: LightningModule) -> None:
        networks = [name for name, _ in system.named_children()]
        missing = [name for name in self.modules if name not in networks]
        if missing:
            raise ValueError(
                f"callbacks.ema.modules={missing}: no such networks; expected some of "
                f"{', '.join(networks)}"
            )
        self.raw = self._state(system)  # no copies: they follow every later change of the weights
        start = self.average or self.raw
        self.average = {name: value.to(system.device, copy=True) for name, value in start.items()}
        floats = [name for name, value in self.raw.items() if value.is_floating_point()]
        others = [name for name in self.raw if name not in floats]
        self.averaged = [[state[name] for name in floats] for state in (self.average, self.raw)]
        self.copied = [[state[name] for name in others] for state in (self.average, self.raw)]

    @torch.no_grad()
    def on_train_batch_end(self, trainer, system, outputs, batch, batch_idx) -> None:
        count = len(next(iter(batch.values()))) * trainer.world_size
        self.images_seen += count
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        half_life = self.half_life
        if self.ramp_up is not None:
            half_life = min(half_life, self.ramp_up * self.images_seen)
        decay = 0.5 ** (count * trainer.accumulate_grad_batches / half_life)
        torch._foreach_lerp_(*self.averaged, 1 - decay)
        if self.copied[0]:
            torch._foreach_copy_(*self.copied)

    @torch.no_grad()
    def swap(self, system: LightningModule) -> None:
        """Puts the average in the place of the raw weights, or the raw weights back.

        A system that derives buffers from its weights refreshes them for the average. Whatever
        changes in the average's place is dropped when the raw weights return, so a validation or a
        picture has no influence on training.
        """
        self.swapped = not self.swapped
        if self.swapped:
            self.kept = {name: value.clone() for name, value in self.raw.items()}
        source = self.average if self.swapped else self.kept
        for name, value in self.raw.items():
            value.copy_(source[name])
        if not self.swapped:
            self.kept = {}
        elif isinstance(system, Derived):
            system.refresh()

    def on_validation_start(self, trainer, system) -> None:
        self.swap(system)

    def on_validation_end(self, trainer, system) -> None:
        self.swap(system)

    def on_save_checkpoint(self, trainer, system, checkpoint) -> None:
        assert not self.swapped, "a checkpoint saved now would hold the average as raw weights"
        checkpoint["ema"] = {name: value.clone() for name, value in self.average.items()}

    def on_load_checkpoint(self, trainer, system, checkpoint) -> None:
        if "ema" in checkpoint:
            self.average = dict(checkpoint["ema"])

    def state_dict(self) -> dict:
        return {"images_seen": self.images_seen}

    def load_state_dict(self, state: dict) -> None:
        self.images_seen = state["images_seen"]


@contextmanager
def averaged_weights(trainer: Trainer, system: LightningModule):
    """Inside, the system is in eval mode and has its averaged weights if there is an EMA."""
    ema = next((callback for callback in trainer.callbacks if isinstance(callback, EMA)), None)
    swap = ema is not None and not ema.swapped
    training = {module: module.training for module in system.modules()}
    if swap:
        ema.swap(system)
    system.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
        if swap:
            ema.swap(system)
