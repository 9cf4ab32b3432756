"""From stored uint8 images to batches: a whole batch is indexed at once, on the device that holds them."""

import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from genlab.data.decode import DataError
from genlab.data.sampler import Draw, StepSampler


class MappedImages:
    """Rows of a memory-mapped file, uint8 (len, C, S, S); an int, slice or int64 tensor gives a tensor."""

    def __init__(self, file: Path, shape: tuple[int, ...], rows: np.ndarray) -> None:
        self.file, self.rows, self._stored = file, rows, shape
        self._map = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self._stored[1:])

    def __getstate__(self) -> dict:
        # A worker opens the file for itself: pickling the map would copy its content.
        return self.__dict__ | {"_map": None}

    def __getitem__(self, key: int | slice | Tensor) -> Tensor:
        if self._map is None:
            self._map = np.memmap(self.file, np.uint8, "r", shape=self._stored)
            if hasattr(mmap, "MADV_RANDOM"):  # reading ahead would read what no batch has asked for
                self._map._mmap.madvise(mmap.MADV_RANDOM)
        # NumPy would take a tensor of one element for an int and drop the dimension.
        key = key.numpy() if isinstance(key, Tensor) else key
        return torch.from_numpy(np.array(self._map[self.rows[key]]))

    def select(self, rows: np.ndarray) -> "MappedImages":
        """A view of some of the rows."""
        return MappedImages(self.file, self._stored, self.rows[rows])


@dataclass
class Arrays:
    """A split: images uint8 (N, C, S, S), labels int64 (N,) or None, paths of the N images or None."""

    images: Tensor | MappedImages
    labels: Tensor | None = None
    paths: list[str] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def select(self, rows: np.ndarray) -> "Arrays":
        """The arrays of some of the rows."""
        images = self.images.select(rows) if isinstance(self.images, MappedImages) else self.images[rows]
        labels = None if self.labels is None else self.labels[rows]
        return Arrays(images, labels, None if self.paths is None else [self.paths[row] for row in rows])

    def resident(self, device: torch.device) -> "Arrays":
        """The same arrays with images and labels in the memory of a device."""
        labels = None if self.labels is None else self.labels.to(device)
        return Arrays(self.images[:].to(device), labels, self.paths)


def normalize(images: Tensor) -> Tensor:
    """uint8 0..255 -> float32 in [-1, 1]."""
    return images.to(torch.float32).div_(127.5).sub_(1)


class Batches:
    """`batches[draw]` -> {image uint8 (B, C, S, S), or float32 in [-1, 1] if scaled; label; index}."""

    def __init__(self, arrays: Arrays, scaled: bool = False) -> None:
        self.arrays, self.scaled = arrays, scaled

    def __getitem__(self, draw: Draw) -> dict[str, Tensor]:
        images, labels = self.arrays.images, self.arrays.labels
        index, flip = draw
        if isinstance(images, Tensor):
            index = index.to(images.device, non_blocking=True)
        image = images[index]
        if flip is not None:
            flip = flip.to(image.device, non_blocking=True)
            image = torch.where(flip[:, None, None, None], image.flip(-1), image)
        batch = {"image": normalize(image) if self.scaled else image}
        return batch | ({} if labels is None else {"label": labels[index]}) | {"index": index}


class StepLoader:
    """The batches of a list of draws or a StepSampler, in this process or prefetched by num_workers others.

    `position` gives the step of training that an iteration starts with. It is asked at each, so that a resume
    is right whatever was prefetched and however Lightning counts the epoch it stopped in. The loader is no
    DataLoader and hides its sampler, so that Lightning neither replaces that nor advises useless workers.
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
        """What the order of training depends on besides the step: Lightning keeps it in the checkpoint."""
        if not isinstance(self.draws, StepSampler):
            return {}
        return {"count": self.draws.count, "global_batch": self.draws.global_batch, "seed": self.draws.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Raises DataError where the checkpoint was trained in another order."""
        if state != self.state_dict():
            raise DataError(
                f"the checkpoint was trained in an order set by {state}, this run's by {self.state_dict()}; "
                "set seed, data.batch_size and the number of processes as they were"
            )


class StepDataModule(LightningDataModule):
    """Data whose `_loader(split)` gives the batches of a split; of train, from the step that the trainer has reached.

    classes: the names of the labels, in their order. notes: what a user should know of the set, a line each. left_out: how
    many files were no data, by the reason. All three are known after setup().
    """

    classes: list[str] | None = None
    notes: Sequence[str] = ()
    left_out: Mapping[str, int] = MappingProxyType({})

    def _step(self) -> int:
        # Lightning's epoch is one ahead after a resume from max_steps reached in mid-epoch; this is not.
        progress = self.trainer.fit_loop.epoch_loop.batch_progress.total
        return 0 if self.trainer.overfit_batches else progress.processed

    def train_dataloader(self) -> StepLoader:
        """Full batches of train in the order of the seed, from the step that the trainer has reached."""
        return self._loader("train")

    def val_dataloader(self) -> StepLoader | list:
        """All of val once, in order; [] if it is empty."""
        return self._loader("val")

    def test_dataloader(self) -> StepLoader | list:
        """All of test once, in order; [] if it is empty."""
        return self._loader("test")
