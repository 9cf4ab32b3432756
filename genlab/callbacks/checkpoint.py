"""checkpoints/last.ckpt and best.ckpt, and an orderly end when a signal asks for one."""

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
    """Saves last.ckpt every `every_num_steps` steps or `every_minutes`, and at the end; best.ckpt
    by `monitor`.

    Always between two steps, when all that belongs to the step is done (genlab.training.steps), so
    that a resumed run continues exactly. SIGINT (Ctrl-C), SIGTERM and SIGHUP are taken note of, the
    current step is finished and saved, and Interrupted is raised; a second signal stops at once.
    Weights that are not finite are never saved. (Lightning's ModelCheckpoint versions file names on
    a resume and saves an interrupted run in the middle of a step.)
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
        self.monitor, self.mode = monitor, mode
        self.every_num_steps, self.every_minutes = every_num_steps, every_minutes
        self.best_score: float | None = None
        self.improved = False  # at the step that is not saved yet
        self.warned = False
        self.stop: int | None = None
        self.saved_step = -1
        self.signals = ExitStack()

    def on_train_start(self, trainer, system) -> None:
        self.saved_time, self.saved_step, self.stop = time.monotonic(), trainer.global_step, None
        self.signals.enter_context(handled(self._note))

    def _note(self, signum: int) -> None:
        self.stop = signum

    def on_validation_end(self, trainer, system) -> None:
        if self.monitor is None or trainer.sanity_checking:
            return
        score = trainer.callback_metrics.get(self.monitor)
        if score is None:
            return self._warn(trainer)
        if not torch.isfinite(score):
            return
        score, sign = score.item(), 1 if self.mode == "min" else -1
        if self.best_score is None or sign * score < sign * self.best_score:
            self.best_score, self.improved = score, True

    def _warn(self, trainer) -> None:
        """Says once that `monitor` is not measured."""
        if self.warned or not trainer.is_global_zero:
            return
        self.warned = True
        measured = ", ".join(
            sorted(name for name in trainer.callback_metrics if name.startswith("val/"))
        )
        print(
            f"genlab: warning: callbacks.checkpoint.monitor={self.monitor}: not measured, so there will be no best.ckpt; "
            f"this run measures {measured or 'nothing on the validation split'}",
            file=sys.stderr,
        )

    def on_step_end(self, trainer, system, ended: bool) -> None:
        step, stop = trainer.global_step, self.stop is not None
        late = (
            self.every_minutes is not None
            and time.monotonic() - self.saved_time > 60 * self.every_minutes
        )
        if (
            trainer.world_size > 1
        ):  # one process may have got the signal, or see its clock strike, before the others
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
            late = trainer.strategy.reduce_boolean_decision(late, all=False)
        if self.improved:
            self.improved = False
            self._save(trainer, system, "best")
        if ended or stop or late or step % self.every_num_steps == 0:
            self._save(trainer, system, "last")
            self.saved_time, self.saved_step = time.monotonic(), step
        if stop:
            raise Interrupted(self.stop or signal.SIGTERM, saved=True)

    def on_train_end(self, trainer, system) -> None:
        """Saves the last step of a fit that was ended between two epochs, which no step could know."""
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
