"""Writes checkpoints/last.ckpt and best.ckpt, and ends a run in order when a signal asks for it."""

import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint

from genlab.callbacks.divergence import check_weights
from genlab.metrics.directions import higher_is_better
from genlab.ranges import PositiveFloat, PositiveInt
from genlab.signals import Interrupted, handled

__all__ = ["Checkpoint"]


class Checkpoint(LightningCheckpoint):
    """Saves last.ckpt regularly and at the end, and best.ckpt whenever `monitor` improves.

    A checkpoint is written between two steps, after all that belongs to the step is done (see
    genlab.training.steps), so a resumed run continues exactly. On SIGINT (Ctrl-C), SIGTERM or
    SIGHUP the current step is finished and saved, then Interrupted is raised; a second signal stops
    at once. Weights that are not finite are never saved.

    Lightning's ModelCheckpoint is not used because it adds a version to file names on a resume and
    saves an interrupted run in the middle of a step.

    Args:
        every_num_steps: Optimiser steps between two saves of last.ckpt.
        every_minutes: Also save when this much time has passed since the last save; None: never.
        monitor: The logged metric that best.ckpt follows; None: no best.ckpt.
        mode: Whether a lower (min) or a higher (max) value of `monitor` is better.
    """

    def __init__(
        self,
        every_num_steps: PositiveInt = 500,
        every_minutes: PositiveFloat | None = 10,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
    ):
        higher = None if monitor is None else higher_is_better(monitor)
        if higher is not None and mode != (needed := "max" if higher else "min"):
            raise ValueError(
                f"callbacks.checkpoint.mode={mode}: {'higher' if higher else 'lower'} values of "
                f"{monitor} are better; give callbacks.checkpoint.mode={needed}"
            )
        self.monitor = monitor
        self.mode = mode
        self.every_num_steps = every_num_steps
        self.every_minutes = every_minutes
        self.best_score: float | None = None
        self.improved = False  # at a step whose best.ckpt is not written yet
        self.warned = False
        self.stop: int | None = None  # the signal that asked the run to stop
        self.saved_step = -1
        self.signals = ExitStack()

    def on_train_start(self, trainer, system) -> None:
        self.saved_time = time.monotonic()
        self.saved_step = trainer.global_step
        self.stop = None
        self.signals.enter_context(handled(self._note))

    def _note(self, signum: int) -> None:
        self.stop = signum

    def on_validation_end(self, trainer, system) -> None:
        if self.monitor is None or trainer.sanity_checking:
            return
        score = trainer.callback_metrics.get(self.monitor)
        if score is None:
            self._warn(trainer)
        elif torch.isfinite(score) and self._is_better(score.item()):
            self.best_score = score.item()
            self.improved = True

    def _is_better(self, score: float) -> bool:
        if self.best_score is None:
            return True
        return score < self.best_score if self.mode == "min" else score > self.best_score

    def _warn(self, trainer) -> None:
        """Warns once that `monitor` is not measured."""
        if self.warned or not trainer.is_global_zero:
            return
        self.warned = True
        names = sorted(name for name in trainer.callback_metrics if name.startswith("val/"))
        measured = ", ".join(names) or "nothing on the validation split"
        print(
            f"genlab: warning: callbacks.checkpoint.monitor={self.monitor}: this metric is not "
            f"measured, so there will be no best.ckpt; this run measures {measured}",
            file=sys.stderr,
        )

    def on_step_end(self, trainer, system, ended: bool) -> None:
        step = trainer.global_step
        stop = self.stop is not None
        late = (
            self.every_minutes is not None
            and time.monotonic() - self.saved_time > 60 * self.every_minutes
        )
        if trainer.world_size > 1:
            # All processes must decide alike, though a signal or the time may reach one first.
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
            late = trainer.strategy.reduce_boolean_decision(late, all=False)
        if self.improved:
            self.improved = False
            self._save(trainer, system, "best")
        if ended or stop or late or step % self.every_num_steps == 0:
            self._save(trainer, system, "last")
            self.saved_time = time.monotonic()
            self.saved_step = step
        if stop:
            raise Interrupted(self.stop or signal.SIGTERM, saved=True)

    def on_train_end(self, trainer, system) -> None:
        """Saves the last step of a fit that ended between two epochs: no step knew it was last."""
        loop = trainer.fit_loop.epoch_loop
        if trainer.global_step and not (loop.ended and self.saved_step == trainer.global_step):
            loop.ended = True
            self._save(trainer, system, "last")

    def _save(self, trainer, system, name: str) -> None:
        check_weights(system, trainer.global_step)
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / f"{name}.ckpt")

    def on_exception(self, trainer, system, exception) -> None:
        self.signals.close()

    def teardown(self, trainer, system, stage: str) -> None:
        self.signals.close()

    def state_dict(self) -> dict:
        return {"best_score": self.best_score}

    def load_state_dict(self, state: dict) -> None:
        self.best_score = state["best_score"]
