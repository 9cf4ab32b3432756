"""One training run: its settings, its directory, and where its training begins."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger

from genlab import runs

__all__ = ["Job", "Record"]


@dataclass
class Job:
    """What is trained, in which directory, and from which step.

    Args:
        run_dir: The run directory.
        settings: Of genlab train; completed by what the data know before the model is built.
        manifest: Of the run directory.
        checkpoint: What training resumes from; None: it starts at step 0.
        step: The step of the checkpoint.
        is_trained: Whether no step is left, and only the stages after training may be.
    """

    run_dir: Path
    settings: dict[str, Any]
    manifest: runs.Manifest
    checkpoint: Path | None = None
    step: int = 0
    is_trained: bool = False

    def write_start(self, loggers: Sequence[Logger]) -> None:
        """Writes into the run directory that training starts or resumes.

        Until this is called, when the first step is taken, a resumed directory is as it was.
        """
        if not self.manifest.writes:
            return
        runs.save_config(self.run_dir, self.settings | {"run": None, "ckpt": "last"})
        if self.checkpoint is None:
            self._remove_leftovers()
        for logger in loggers:
            if hasattr(logger, "rewind"):
                logger.rewind(self.step)
        self.manifest.release()

    def _remove_leftovers(self) -> None:
        """Removes what a run wrote that was stopped before its first checkpoint."""
        for path in (
            self.run_dir / "metrics.csv",
            self.run_dir / "checkpoints" / "best.ckpt",
            *(self.run_dir / "samples").glob("*_[0-9]*.*"),
        ):
            path.unlink(missing_ok=True)


class Record(Callback):
    """Writes the start of a job at its first step, and stops a run whose directory is moved."""

    def __init__(self, job: Job):
        self.job = job
        self.started = False

    def start(self, loggers: Sequence[Logger]) -> None:
        """Writes the start, once."""
        if not self.started:
            self.started = True
            self.job.write_start(loggers)

    def on_train_batch_end(self, trainer, system, outputs, batch, batch_idx) -> None:
        self.job.manifest.check_place()
        self.start(trainer.loggers)

    def on_step_end(self, trainer, system, ended: bool) -> None:
        self.job.manifest.check_place()
