"""One progress bar for the whole run, with its speed and the time left."""

import math
import sys
import time

from lightning.pytorch.callbacks import ProgressBar
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from genlab.console import console, progress
from genlab.ranges import PositiveFloat
from genlab.systems.base import Staged

__all__ = ["RunProgress"]


class RunProgress(ProgressBar):
    """Shows how many steps are done; also counts the images seen and logs them with the speed.

    On a terminal this is a progress bar, elsewhere a line on standard error from time to time. A
    system that is trained in stages is shown with its stage.

    Args:
        every_seconds: Time between two lines where standard error is no terminal.
    """

    def __init__(self, every_seconds: PositiveFloat = 30.0):
        super().__init__()
        self.every_seconds = every_seconds
        self.images_seen = 0
        self.bar: Progress | None = None
        self.enabled = True

    def disable(self) -> None:
        self.enabled = False

    def enable(self) -> None:
        self.enabled = True

    def on_train_start(self, trainer, system) -> None:
        self.start_time = time.monotonic()
        self.start_images = self.images_seen
        self.start_step = trainer.global_step
        self.printed = self.start_time
        self.total = _total(trainer)
        self.staged = isinstance(system, Staged)
        if not (self.enabled and trainer.is_global_zero and console().is_terminal):
            return
        columns = ["{task.description}", BarColumn(), MofNCompleteColumn(), "steps"]
        columns += ["{task.fields[rate]}", TimeElapsedColumn(), "left", TimeRemainingColumn()]
        columns += ["{task.fields[metrics]}"]
        self.bar = progress(*columns, transient=False, refresh_per_second=4)
        fields = {"completed": self.start_step, "rate": "", "metrics": ""}
        self.task = self.bar.add_task("train", total=self.total, **fields)
        self.bar.start()

    def on_train_batch_end(self, trainer, system, outputs, batch, batch_idx) -> None:
        self.images_seen += len(next(iter(batch.values()))) * trainer.world_size
        now = time.monotonic()
        step = trainer.global_step
        rate = (self.images_seen - self.start_images) / (now - self.start_time)
        if step % trainer.log_every_n_steps == 0:
            system.log("images_seen", float(self.images_seen), rank_zero_only=True)
            system.log("images_per_second", rate, rank_zero_only=True)
        if not (self.enabled and trainer.is_global_zero):
            return
        speed = f"{rate:{'.0f' if rate >= 10 else '.2g'}} {system.modality}s/s"
        if self.bar is not None:
            fields = {"rate": speed, "metrics": _metrics(trainer)}
            stage = system.stage if self.staged else "train"
            self.bar.update(self.task, completed=step, description=stage, **fields)
        elif now - self.printed >= self.every_seconds:
            self.printed = now
            end = left = ""
            if self.total is not None:
                seconds_a_step = (now - self.start_time) / max(step - self.start_step, 1)
                end = f"/{self.total}"
                left = f"{(self.total - step) * seconds_a_step:.0f} s left  "
            stage = f"{system.stage} " if self.staged else ""
            line = f"{stage}step {step}{end}  {speed}  {left}{_metrics(trainer)}"
            print(line, file=sys.stderr, flush=True)

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def on_train_end(self, trainer, system) -> None:
        self._close()

    def on_exception(self, trainer, system, exception) -> None:
        self._close()

    def teardown(self, trainer, system, stage: str) -> None:
        self._close()

    def state_dict(self) -> dict:
        return {"images_seen": self.images_seen}

    def load_state_dict(self, state: dict) -> None:
        self.images_seen = state["images_seen"]


def _total(trainer) -> int | None:
    """How many steps the run has; None if only a signal, the time or a callback ends it."""
    total = trainer.max_steps
    if trainer.max_epochs not in (None, -1):
        num_batches = trainer.max_epochs * trainer.num_training_batches
        in_epochs = num_batches // trainer.accumulate_grad_batches
        total = min(in_epochs, total) if total > 0 else in_epochs
    return total if 0 <= total < math.inf else None


def _metrics(trainer) -> str:
    """The logged training metrics, without groups of many values (log_det/block_00_mean)."""
    values = {
        name.removeprefix("train/"): float(value)
        for name, value in trainer.logged_metrics.items()
        if name.startswith("train/")
    }
    return "  ".join(f"{name} {value:.3g}" for name, value in values.items() if "/" not in name)
