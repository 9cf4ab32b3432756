"""One progress bar for the whole run, with images a second and the time left."""

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

__all__ = ["RunProgress"]


class RunProgress(ProgressBar):
    """Draws steps done of steps to do; where the output is no terminal, prints a line every
    `every_seconds`.

    Names the stage of a system that has several (`stage`). Counts the images seen, and logs them
    and the rate at the trainer's logging steps.
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
        self.start_time, self.start_images = time.monotonic(), self.images_seen
        self.start_step, self.printed = trainer.global_step, self.start_time
        self.total = trainer.max_steps
        if trainer.max_epochs not in (None, -1):
            in_epochs = (
                trainer.max_epochs * trainer.num_training_batches // trainer.accumulate_grad_batches
            )
            self.total = min(in_epochs, self.total) if self.total > 0 else in_epochs
        self.total = (
            self.total if 0 <= self.total < math.inf else None
        )  # no end but a signal, a time or a callback
        if not (self.enabled and trainer.is_global_zero):
            return
        if console().is_terminal:
            columns = ["{task.description}", BarColumn(), MofNCompleteColumn(), "steps"]
            columns += ["{task.fields[rate]}", TimeElapsedColumn(), "left", TimeRemainingColumn()]
            self.bar = progress(
                *columns, "{task.fields[metrics]}", transient=False, refresh_per_second=4
            )
            self.task = self.bar.add_task(
                "train", total=self.total, completed=self.start_step, rate="", metrics=""
            )
            self.bar.start()

    def on_train_batch_end(self, trainer, system, outputs, batch, batch_idx) -> None:
        self.images_seen += len(next(iter(batch.values()))) * trainer.world_size
        now, step = time.monotonic(), trainer.global_step
        rate = (self.images_seen - self.start_images) / (now - self.start_time)
        speed = f"{rate:{'.0f' if rate >= 10 else '.2g'}} {getattr(system, 'modality', 'image')}s/s"
        if step % trainer.log_every_n_steps == 0:
            system.log("images_seen", float(self.images_seen), rank_zero_only=True)
            system.log("images_per_second", rate, rank_zero_only=True)
        if not (self.enabled and trainer.is_global_zero):
            return
        if self.bar is not None:
            shown = {"rate": speed, "metrics": self._metrics(trainer)}
            self.bar.update(
                self.task, completed=step, description=getattr(system, "stage", "train"), **shown
            )
        elif now - self.printed >= self.every_seconds:
            self.printed = now
            end = left = ""
            if self.total is not None:
                end = f"/{self.total}"
                left = f"{(self.total - step) * (now - self.start_time) / max(step - self.start_step, 1):.0f} s left  "
            stage = f"{system.stage} " if hasattr(system, "stage") else ""
            print(
                f"{stage}step {step}{end}  {speed}  {left}{self._metrics(trainer)}",
                file=sys.stderr,
                flush=True,
            )

    def _metrics(self, trainer) -> str:
        """What is logged of the training but for groups of values (log_det/block_00_mean), too many
        for a line.
        """
        values = {
            k.removeprefix("train/"): float(v)
            for k, v in trainer.logged_metrics.items()
            if k.startswith("train/")
        }
        return "  ".join(f"{name} {value:.3g}" for name, value in values.items() if "/" not in name)

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
