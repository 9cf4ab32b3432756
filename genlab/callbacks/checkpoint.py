"""checkpoints/last.ckpt and best.ckpt, and an orderly end when a signal asks for one."""

import signal
import threading
import time
from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint

from genlab.callbacks.divergence import check_weights
from genlab.ranges import PositiveFloat, PositiveInt

__all__ = ["Checkpoint", "Interrupted"]


class Interrupted(BaseException):
    """SIGINT or SIGTERM asked the run to stop, and its last step is saved."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum


class Checkpoint(LightningCheckpoint):
    """Saves last.ckpt every `every_num_steps` steps or `every_minutes`, and at the end; best.ckpt by `monitor`.

    Always between two steps, so that a resumed run continues exactly. SIGINT (Ctrl-C) and SIGTERM are taken note of,
    the current step is finished and saved, and Interrupted is raised; a second signal stops at once. Weights that are
    not finite are never saved. (Lightning's ModelCheckpoint versions file names on a resume and saves an interrupted
    run in the middle of a step.)
    """

    def __init__(
        self,
        every_num_steps: PositiveInt = 500,
        every_minutes: PositiveFloat | None = 10,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
    ):
        self.monitor, self.mode = monitor, mode
        self.every_num_steps, self.every_minutes = every_num_steps, every_minutes
        self.best_score: float | None = None
        self.stop: int | None = None
        self.saved_step = -1
        self.handlers: dict = {}

    def on_train_start(self, trainer, system) -> None:
        self.saved_time, self.saved_step = time.monotonic(), trainer.global_step
        if threading.current_thread() is threading.main_thread():
            self.handlers = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}

    def _note(self, signum: int, frame) -> None:
        if self.stop is not None:
            raise KeyboardInterrupt
        self.stop = signum

    def on_train_batch_end(self, trainer, system, outputs, batch, batch_idx) -> None:
        step = trainer.global_step
        gathering = (batch_idx + 1) % trainer.accumulate_grad_batches and not trainer.is_last_batch
        if step == self.saved_step or gathering:  # the last batches of an epoch make a step however few they are
            return
        stop = self.stop is not None
        late = self.every_minutes is not None and time.monotonic() - self.saved_time > 60 * self.every_minutes
        if trainer.world_size > 1:  # one process may have got the signal, or see its clock strike, before the others
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
            late = trainer.strategy.reduce_boolean_decision(late, all=False)
        if stop or late or step % self.every_num_steps == 0 or self._is_final(trainer):
            self._save(trainer, system, "last")
            self.saved_time, self.saved_step = time.monotonic(), step
        if stop:
            raise Interrupted(self.stop or signal.SIGTERM)

    def _is_final(self, trainer) -> bool:
        last_epoch = trainer.max_epochs not in (None, -1) and trainer.current_epoch + 1 >= trainer.max_epochs
        return trainer.global_step == trainer.max_steps or (last_epoch and trainer.is_last_batch)

    def on_validation_end(self, trainer, system) -> None:
        score = trainer.callback_metrics.get(self.monitor) if self.monitor else None
        if score is None or trainer.sanity_checking or not torch.isfinite(score):
            return
        score, sign = score.item(), 1 if self.mode == "min" else -1
        if self.best_score is None or sign * score < sign * self.best_score:
            self.best_score = score
            self._save(trainer, system, "best")

    def _save(self, trainer, system, name: str) -> None:
        check_weights(system, trainer.global_step)
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / f"{name}.ckpt")

    def teardown(self, trainer, system, stage: str) -> None:
        for signum, handler in self.handlers.items():
            signal.signal(signum, handler)
        self.handlers = {}

    def state_dict(self) -> dict:
        return {"best_score": self.best_score}

    def load_state_dict(self, state: dict) -> None:
        self.best_score = state["best_score"]
