"""Refuses a checkpoint that does not fit the resumed run, before the first step."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.pytorch import Callback

from genlab.errors import RunError

__all__ = ["Restored", "restoring"]

# What torch and Lightning raise for a state of another shape
FAULTS = (ValueError, LookupError, TypeError, AttributeError, RuntimeError)


class Restored(Callback):
    """Checks a restored optimiser's state, and notes when a checkpoint is restored completely.

    torch does not check the shapes of an optimiser's state and would broadcast a wrong one.

    Args:
        path: The checkpoint.

    Raises:
        RunError: The number of optimisers or schedules, the step or the shape of a state does not
            fit this run.
    """

    def __init__(self, path: Path):
        self.path = path
        self.done = False

    def on_load_checkpoint(self, trainer, system, checkpoint) -> None:
        self.step = checkpoint["global_step"]
        self.counts = len(checkpoint["optimizer_states"]), len(checkpoint["lr_schedulers"])

    def on_sanity_check_start(self, trainer, system) -> None:
        self._check(trainer, system)

    def on_train_start(self, trainer, system) -> None:
        self._check(trainer, system)

    def _check(self, trainer, system) -> None:
        self.done = True
        counts = len(trainer.optimizers), len(trainer.lr_scheduler_configs)
        if counts != self.counts:
            raise RunError(
                f"{self.path}: holds {self.counts[0]} optimisers and {self.counts[1]} schedules, "
                f"but this run has {counts[0]} and {counts[1]}; the checkpoint belongs to another "
                "run or is damaged"
            )
        if trainer.global_step != self.step:
            raise RunError(
                f"{self.path}: global_step: {self.step}, but its loops are at step "
                f"{trainer.global_step}; the checkpoint is damaged"
            )
        names = {parameter: name for name, parameter in system.named_parameters()}
        for optimizer in filter(_keeps_shapes, trainer.optimizers):
            for parameter, state in optimizer.state.items():
                self._check_shapes(names.get(parameter), parameter, state)

    def _check_shapes(self, name: str | None, parameter: torch.Tensor, state: dict) -> None:
        for key, value in state.items():
            is_number = not isinstance(value, torch.Tensor) or not value.dim()
            if not is_number and value.shape != parameter.shape:
                raise RunError(
                    f"{self.path}: the optimiser's {key} of {name} has shape {list(value.shape)}, "
                    f"but the weight has {list(parameter.shape)}; the checkpoint belongs to "
                    "another model or is damaged"
                )


def _keeps_shapes(optimizer: torch.optim.Optimizer) -> bool:
    """Whether each tensor of the state is known to have the shape of its weight."""
    kind = type(optimizer)
    return kind.__module__.startswith(("torch.", "genlab.")) and kind.__name__ != "Adafactor"


@contextmanager
def restoring(trainer, path: Path | None) -> Iterator[None]:
    """Turns an error while `trainer` restores a checkpoint into a RunError that names the file.

    Args:
        trainer: Its `fit` is called inside the block.
        path: The checkpoint; None for a new run, whose errors stay as they are.
    """
    if path is None:
        yield
        return
    restored = Restored(path)
    trainer.callbacks.insert(0, restored)
    try:
        yield
    except FAULTS as error:
        own = type(error).__module__.startswith("genlab")
        if restored.done or own or isinstance(error, torch.OutOfMemoryError):
            raise
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunError(
            f"{path}: does not fit this run: its model, optimiser or average is another one "
            f"({type(error).__name__}: {why})"
        ) from error
