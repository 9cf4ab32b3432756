"""From draws to batches: the loader of any kind of data."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from torch import Tensor
from torch.utils.data import DataLoader

from genlab.data.sampler import Draw, StepSampler
from genlab.errors import DataError

__all__ = ["Batches", "StepLoader"]


class Batches(Protocol):
    """`batches[draw]` is the batch of one draw, a dict of tensors."""

    def __getitem__(self, draw: Any, /) -> dict[str, Tensor]: ...


class StepLoader:
    """The batches of some draws, made in this process or prefetched by others.

    It is no DataLoader and hides its sampler: so Lightning neither replaces the sampler nor advises
    workers that would be of no use.

    Args:
        batches: Makes the batch of a draw.
        draws: A list, or the sampler of training.
        position: Returns the step of training that an iteration starts with. It is called at each
            iteration, so that a resume is right whatever was prefetched, and however Lightning
            counts the epoch in which it stopped.
        num_workers: Processes that prefetch; 0: none.
        pin_memory: As of torch's DataLoader; of the workers' batches alone.
    """

    def __init__(
        self,
        batches: Batches,
        draws: StepSampler | list[Draw],
        position: Callable[[], int] | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self.batches = batches
        self.draws = draws
        self.position = position
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
        """What the order of training depends on besides the step; Lightning saves it."""
        if not isinstance(self.draws, StepSampler):
            return {}
        return {
            "count": self.draws.count,
            "global_batch": self.draws.global_batch,
            "seed": self.draws.seed,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Raises DataError where the checkpoint was trained in another order."""
        own = self.state_dict()
        if state != own:
            raise DataError(
                f"the checkpoint was trained in another order: {state}, and this run's is {own}; "
                "set seed, data.batch_size and the number of processes as they were"
            )
