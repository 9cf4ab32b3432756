"""The order of training as a pure function of (seed, epoch, position)."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from genlab.errors import DataError
from genlab.seeds import digest, mix, permute, random_state

__all__ = ["Draw", "StepSampler", "in_order"]

# The longest set whose order is kept as a table; of a longer one, each batch computes its own part.
TABLE = 1 << 20


class Draw(NamedTuple):
    """The rows of one batch: index int64 (B,) and, where flips are drawn, flip bool (B,)."""

    index: Tensor
    flip: Tensor | None = None


class StepSampler:
    """Draws of batch_size rows; an iteration is one epoch's worth of them, from `position` on.

    Step t of training is batch t % len(self) of epoch t // len(self). Of its batch_size *
    world_size rows rank r draws the r-th run of batch_size, so the ranks together draw exactly what
    one process with the global batch would, flips included. The rows left over at the end of an
    epoch are dropped. `position` is the step that the next iteration starts with; set it to resume.

    Args:
        count: Rows of the training split.
        batch_size: Rows a process draws at each step.
        seed: Of the order.
        flip: Also draw, for half of the rows, that they are mirrored.
        rank: Of this process.
        world_size: How many processes train.

    Raises:
        DataError: There are fewer rows than a global batch takes.
    """

    may_compute = True  # the order of a large set; a subclass whose order needs a table says False

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int = 0,
        flip: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self.flip = flip
        self.rank = rank
        self.global_batch = batch_size * world_size
        self.position = 0
        if count < self.global_batch:
            raise DataError(
                f"the training split has {count} images, less than one global batch of "
                f"{self.global_batch} (data.batch_size={batch_size} x {world_size} processes); "
                "lower data.batch_size"
            )

    def __len__(self) -> int:
        """Steps in an epoch."""
        return self.count // self.global_batch

    def __iter__(self) -> Iterator[Draw]:
        return self._draws(self.position)

    def _draws(self, position: int) -> Iterator[Draw]:
        drawn = None
        for step in range(position, position + len(self)):
            epoch, batch = divmod(step, len(self))
            if epoch != drawn:
                order = self._order(epoch)
                drawn = epoch
            first = batch * self.global_batch + self.rank * self.batch_size
            index, flip = order(first, first + self.batch_size)
            yield Draw(index, flip if self.flip else None)

    def _order(self, epoch: int) -> Callable[[int, int], tuple[Tensor, Tensor]]:
        """A function (start, end) -> (rows, flips) of that part of the epoch's order.

        It reads them from a table or, of a large set, computes them in no more memory than they
        take.
        """
        if self.count <= TABLE or not self.may_compute:
            rows, flips = self._shuffle(epoch)
            return lambda start, end: (rows[start:end], flips[start:end])
        key = digest("order", self.seed, epoch)
        flip_key = digest("flip", key)

        def order(start: int, end: int) -> tuple[Tensor, Tensor]:
            places = np.arange(start, end)
            flips = mix(places + flip_key) & 1
            return torch.from_numpy(permute(places, self.count, key)), torch.from_numpy(flips == 1)

        return order

    def _shuffle(self, epoch: int) -> tuple[Tensor, Tensor]:
        """The rows int64 (count,) and flips bool (count,) of a whole epoch."""
        generator = random_state(self.seed, epoch)
        rows = torch.from_numpy(generator.permutation(self.count).astype(np.int64))
        return rows, torch.from_numpy(generator.random_sample(self.count) < 0.5)


def in_order(count: int, batch_size: int, rank: int = 0, world_size: int = 1) -> list[Draw]:
    """Draws of every world_size-th row from `rank` on, in order; the last may be short."""
    rows = torch.arange(count)[rank::world_size]
    return [Draw(index) for index in rows.split(batch_size)] if len(rows) else []
