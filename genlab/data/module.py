"""The data module of every kind of data: its batches resume at any step."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule

from genlab.data.loader import StepLoader

__all__ = ["StepDataModule"]


class StepDataModule(LightningDataModule):
    """A data set of three splits, whose training batches are a function of (seed, step, rank).

    A subclass sets `name` and `modality` and writes

        setup(stage)        open the set; calling it again changes nothing
        _loader(split)      the StepLoader of a split for the trainer, [] if the split is empty
        loader(split)       the same without a trainer, in order
        describe(split)     what a number measured on a split must be read with
        fingerprint()       16 hex digits that change with the examples of any split

    and whichever Protocols of genlab.data.base fit. What follows has defaults.

    Attributes:
        num_classes: How many classes the labels have; None: there are no labels.
        classes: The names of the classes, in the order of the labels.
        notes: What a user should know of the set, a line each.
        left_out: How many files were not used, by the reason.
    """

    name: str
    modality: Literal["image", "point", "text"]
    num_classes: int | None = None
    classes: Sequence[str] | None = None
    notes: Sequence[str] = ()
    left_out: Mapping[str, int] = MappingProxyType({})

    def given(self, split: str) -> Mapping[str, Any]:
        """What the examples of a split come with for a model to be conditioned on; {}: nothing."""
        return {}

    def split_key(self, split: str) -> str | None:
        """The key below `data.` that sets the size of val or test; None where there is none."""
        key = f"num_{split}"
        return key if key in vars(self) else None

    def train_dataloader(self) -> StepLoader:
        """Full batches in the order of the seed, from the step that the trainer has reached."""
        return self._loader("train")

    def val_dataloader(self) -> StepLoader | list:
        """All of val once, in order; [] if it is empty."""
        return self._loader("val")

    def test_dataloader(self) -> StepLoader | list:
        """All of test once, in order; [] if it is empty."""
        return self._loader("test")

    def _loader(self, split: str) -> StepLoader | list:
        raise NotImplementedError

    # --- what the trainer says; defaults without one ----------------------------------------------

    def _ranks(self) -> tuple[int, int]:
        """(the rank of this process, how many processes train)."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def _step(self) -> int:
        """The step that training has reached."""
        if self.trainer is None or self.trainer.overfit_batches:
            return 0
        # Not Lightning's epoch: after a resume from a max_steps inside an epoch it is one ahead.
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.processed
