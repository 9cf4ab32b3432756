"""The end of a training step: `on_step_end` is called after its log row, validation and pictures.

Lightning has no such hook; its own run before the step's row is logged and before its validation. A
checkpoint that is saved in `on_step_end` lies between two steps, so a resume neither repeats nor
skips anything.
"""

from typing import Any, Protocol, runtime_checkable

from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer.connectors.logger_connector.logger_connector import _LoggerConnector
from torch import Tensor

__all__ = ["EpochLoop", "StepEnd", "StepLogs", "state_of"]

# Metrics that differ between two runs of the same config
TIMES = {"images_per_second"}


@runtime_checkable
class StepEnd(Protocol):
    """A callback that is called after everything that belongs to a step."""

    def on_step_end(self, trainer, system, ended: bool) -> None:
        """Called after an optimiser step, its log row and its validation.

        Args:
            trainer: Lightning's trainer.
            system: The LightningModule.
            ended: Whether this is the last step of the fit.
        """
        ...


class StepLogs(_LoggerConnector):
    """Logs each row under its optimiser step, with the values logged since the previous row.

    Lightning would repeat a value until the epoch ends, and would log a validation under the number
    of batches instead of steps.
    """

    def __init__(self, trainer):
        super().__init__(trainer)
        self.since_row: dict[str, Any] = {}

    def on_batch_end(self) -> None:
        super().on_batch_end()
        if not self.trainer.training:
            return
        self.since_row |= self.metrics["log"]
        for item in self.trainer._results.values():
            if item.meta.on_step and not item.meta.on_epoch:
                item.has_reset = True  # so that the next step does not log it again

    def update_train_step_metrics(self) -> None:
        if self.trainer.fit_loop._should_accumulate():
            return
        if self.should_update_logs:
            self.log_metrics(self.since_row)
            self.since_row = {}

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        super().log_metrics(metrics, self.trainer.global_step if step is None else step)


class EpochLoop(_TrainingEpochLoop):
    """Lightning's loop over batches, which also calls `on_step_end` and resumes from there.

    Its state also holds `ended` (whether the fit has no further step), `metrics` (the last value of
    each metric that callbacks see) and `since_row` (the values that the next row will show).
    """

    ended = False

    @property
    def _is_validation_done(self) -> bool:
        return True  # because a checkpoint is saved only after the validation

    def advance(self, data_fetcher) -> None:
        self.restarting = False  # a checkpoint lies between two steps, so none is half done
        super().advance(data_fetcher)

    def on_advance_end(self, data_fetcher) -> None:
        super().on_advance_end(data_fetcher)
        if self._should_accumulate():
            return
        trainer = self.trainer
        fit_loop = trainer.fit_loop
        limited = trainer.max_epochs not in (None, -1)
        last_epoch = limited and trainer.current_epoch + 1 >= trainer.max_epochs
        reached = 0 <= trainer.max_steps <= trainer.global_step
        stopped = trainer.should_stop and fit_loop._can_stop_early
        self.ended = reached or stopped or (last_epoch and self._num_ready_batches_reached())
        for callback in trainer.callbacks:
            if isinstance(callback, StepEnd):
                callback.on_step_end(trainer, trainer.lightning_module, self.ended)

    def reset(self) -> None:
        fit_loop = self.trainer.fit_loop
        within_epoch = fit_loop.restarted_mid_epoch or fit_loop.restarted_on_epoch_end
        if self.restarting and not within_epoch:
            self.restarting = False  # the checkpoint was saved after its epoch ended
        super().reset()

    def on_save_checkpoint(self) -> dict:
        logs = self.trainer._logger_connector
        return super().on_save_checkpoint() | {
            "ended": self.ended,
            "metrics": _plain(logs.callback_metrics),
            "since_row": _plain(logs.since_row),
        }

    def on_load_checkpoint(self, state: dict) -> None:
        super().on_load_checkpoint(state)
        logs = self.trainer._logger_connector
        logs._callback_metrics |= state.get("metrics", {})
        logs.since_row |= state.get("since_row", {})


def _plain(metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.detach().cpu() if isinstance(value, Tensor) else value
        for name, value in metrics.items()
        if name not in TIMES
    }


def state_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What `EpochLoop` saved in a checkpoint: ended, metrics, since_row; {} of an old one."""
    state = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_loop.state_dict", {})
    return {name: state[name] for name in ("ended", "metrics", "since_row") if name in state}
