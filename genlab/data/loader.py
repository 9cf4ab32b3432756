"""From draws to batches: the loader of any kind of data, and the data module that resumes at any
step.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from genlab.data.sampler import Draw, StepSampler
from genlab.errors import DataError


class Batches(Protocol):
    """`batches[draw]` is the batch of one draw, a dict of tensors."""

    def __getitem__(self, draw: Any, /) -> dict[str, Tensor]: ...


class StepLoader:
    """The batches of a list of draws or a StepSampler, in this process or prefetched by num_workers
    others.

    `position` gives the step of training that an iteration starts with. It is asked at each, so
    that a resume is right whatever was prefetched and however Lightning counts the epoch it stopped
    in. The loader is no DataLoader and hides its sampler, so that Lightning neither replaces that
    nor advises useless workers.
    """

    def __init__(
        self,
        batches: Batches,
        draws: StepSampler | list[Draw],
        position: Callable[[], int] | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self.batches, self.draws, self.position = batches, draws, position
        self.workers = None
        if num_workers:
            self.workers = DataLoader(
                batches,
                sampler=draws,
                batch_size=None,
                num_workers=num_workers,
                pin_memory=pin_memory,
                persistent_workers=True,
            )

    def __len__(self) -> int:
        return len(self.draws)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        if self.position is not None:
            self.draws.position = self.position()
        if self.workers is not None:
            return iter(self.workers)
        return map(self.batches.__getitem__, self.draws)

    def state_dict(self) -> dict[str, int]:
        """What the order of training depends on besides the step: Lightning keeps it in the
        checkpoint.
        """
        if not isinstance(self.draws, StepSampler):
            return {}
        return {
            "count": self.draws.count,
            "global_batch": self.draws.global_batch,
            "seed": self.draws.seed,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Raises DataError where the checkpoint was trained in another order."""
        if state != self.state_dict():
            raise DataError(
                f"the checkpoint was trained in an order set by {state}, this run's by {self.state_dict()}; "
                "set seed, data.batch_size and the number of processes as they were"
            )


class StepDataModule(LightningDataModule):
    """Data whose `_loader(split)` gives the batches of a split; of train, from the step that the
    trainer has reached.

    classes: the names of the labels, in their order. notes: what a user should know of the set, a
    line each. left_out: how many files were no data, by the reason. All three are known after
    setup().
    """

    classes: list[str] | None = None
    notes: Sequence[str] = ()
    left_out: Mapping[str, int] = MappingProxyType({})

    def _step(self) -> int:
        # Lightning's epoch is one ahead after a resume from max_steps reached in mid-epoch; this is
        # not.
        progress = self.trainer.fit_loop.epoch_loop.batch_progress.total
        return 0 if self.trainer.overfit_batches else progress.processed

    def train_dataloader(self) -> StepLoader:
        """Full batches of train in the order of the seed, from the step that the trainer has
        reached.
        """
        return self._loader("train")

    def val_dataloader(self) -> StepLoader | list:
        """All of val once, in order; [] if it is empty."""
        return self._loader("val")

    def test_dataloader(self) -> StepLoader | list:
        """All of test once, in order; [] if it is empty."""
        return self._loader("test")
