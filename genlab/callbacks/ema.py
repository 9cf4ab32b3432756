"""An exponential moving average of a system's networks, beside the raw weights."""

from contextlib import contextmanager

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from genlab.ranges import NonNegativeFloat, PositiveFloat

__all__ = ["EMA", "averaged_weights"]


class EMA(Callback):
    """Averages the sub-modules `modules` of the system; the average is used for validation,
    pictures and later commands.

    half_life: in images seen, so that it survives a change of batch size; the decay of one step of
    n images is 0.5^(n / half_life). ramp_up: the half-life is at most this part of the images seen
    so far, so that a short run is not held back by its first steps; null for none. Floating-point
    buffers (BatchNorm's running statistics) are averaged with the weights, counters are copied.
    Checkpoints hold the average under "ema", the raw weights as ever.
    """

    def __init__(
        self, half_life: PositiveFloat, modules: list[str], ramp_up: NonNegativeFloat | None = 0.05
    ):
        self.half_life, self.modules, self.ramp_up = half_life, modules, ramp_up
        self.average: dict[str, torch.Tensor] = {}
        self.images_seen = 0
        self.swapped = False
        self.kept: dict[
            str, torch.Tensor
        ] = {}  # the raw weights, while the averaged ones are in their place

    def _state(self, system: LightningModule) -> dict[str, torch.Tensor]:
        prefixes = tuple(f"{name}." for name in self.modules)
        return {
            name: value for name, value in system.state_dict().items() if name.startswith(prefixes)
        }

    def on_fit_start(self, trainer: Trainer, system: LightningModule) -> None:
        missing = [name for name in self.modules if not hasattr(system, name)]
        if missing:
            names = ", ".join(name for name, _ in system.named_children())
            raise ValueError(f"callbacks.ema.modules={missing}: the system has {names}")
        self.raw = self._state(
            system
        )  # aliases of the weights, which every later change of them shows
        start = self.average or self.raw
        self.average = {name: value.to(system.device, copy=True) for name, value in start.items()}
        floats = [name for name, value in self.raw.items() if value.is_floating_point()]
        self.averaged = [[state[name] for name in floats] for state in (self.average, self.raw)]
        self.copied = [
            [state[name] for name in self.raw if name not in floats]
            for state in (self.average, self.raw)
        ]

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
        """Puts the averaged weights in the place of the raw ones, or the raw ones back.

        A system that derives something from its weights is told to `refresh`. What that leaves in
        the averages' place is
        dropped: a validation or a picture changes nothing that training goes on with.
        """
        self.swapped = not self.swapped
        if self.swapped:
            self.kept = {name: value.clone() for name, value in self.raw.items()}
        for name, value in self.raw.items():
            value.copy_((self.average if self.swapped else self.kept)[name])
        if not self.swapped:
            self.kept = {}
        elif hasattr(system, "refresh"):
            system.refresh()

    def on_validation_start(self, trainer, system) -> None:
        self.swap(system)

    def on_validation_end(self, trainer, system) -> None:
        self.swap(system)

    def on_save_checkpoint(self, trainer, system, checkpoint) -> None:
        assert not self.swapped, "a checkpoint taken now would confuse raw and averaged weights"
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
    """Inside, the system has its averaged weights (if the trainer has an EMA) and is in eval mode."""
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
