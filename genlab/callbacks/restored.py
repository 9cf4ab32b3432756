"""A checkpoint that does not fit the run that goes on from it is refused before the first step."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.pytorch import Callback

from genlab.errors import RunError

__all__ = ["Restored", "restoring"]

FAULTS = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
)  # what a state of another shape leads to


class Restored(Callback):
    """Notes when all of a checkpoint is restored, and refuses an optimiser's state of other shapes
    than its weights.

    torch takes such a state without a look and would broadcast it.

    Args:
        path: The checkpoint.
    """

    def __init__(self, path: Path):
        self.path, self.done = path, False

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
                f"{self.path}: has the states of {self.counts[0]} optimisers and {self.counts[1]} schedules, and this run "
                f"has {counts[0]} and {counts[1]}; the checkpoint is of another run or damaged"
            )
        if trainer.global_step != self.step:
            raise RunError(
                f"{self.path}: global_step: {self.step}, but its loops are at step {trainer.global_step}; it is damaged"
            )
        names = {parameter: name for name, parameter in system.named_parameters()}
        for optimizer in trainer.optimizers:
            if type(optimizer).__name__ == "Adafactor" or not type(optimizer).__module__.startswith(
                ("torch.", "genlab.")
            ):
                continue  # others may keep sums over rows and columns
            for parameter, state in optimizer.state.items():
                for key, value in state.items():
                    if (
                        isinstance(value, torch.Tensor)
                        and value.dim()
                        and value.shape != parameter.shape
                    ):
                        raise RunError(
                            f"{self.path}: the optimiser's {key} of {names.get(parameter)} is {list(value.shape)}, and the "
                            f"weight {list(parameter.shape)}; the checkpoint is of another model or damaged"
                        )


@contextmanager
def restoring(trainer, path: Path | None) -> Iterator[None]:
    """Turns an error met while `trainer` restores the checkpoint `path` into a RunError that names
    the file.

    Args:
        trainer: Whose `fit` is called in the block.
        path: None for a new run, whose errors stay what they are.
    """
    if path is None:
        yield
        return
    restored = Restored(path)
    trainer.callbacks.insert(0, restored)
    try:
        yield
    except FAULTS as error:
        if (
            restored.done
            or type(error).__module__.startswith("genlab")
            or isinstance(error, torch.OutOfMemoryError)
        ):
            raise
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunError(
            f"{path}: does not fit this run, it is of another model, optimiser or average ({type(error).__name__}: {why})"
        ) from error
