"""Stored uint8 images and their batches.

A whole batch is indexed at once, on the device that holds the images.
Shapes: N images of a split, B of a batch, C channels, S image size.
"""

import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genlab.data.sampler import Draw

__all__ = ["Arrays", "ImageBatches", "MappedImages", "normalize"]


class MappedImages:
    """Rows of a memory-mapped file of images, uint8 (N, C, S, S).

    An int, slice or int64 tensor as index gives a tensor, as that of a tensor does.

    Args:
        file: Holds the images and nothing else.
        shape: (images in the file, C, S, S).
        rows: Which of them these are, in order.
    """

    def __init__(self, file: Path, shape: tuple[int, ...], rows: np.ndarray) -> None:
        self.file = file
        self.rows = rows
        self._stored = shape
        self._map = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, S, S)."""
        return (len(self), *self._stored[1:])

    def __getstate__(self) -> dict:
        # A worker opens the file itself: pickling the map would copy its content.
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
    """The images of a split, their labels and the paths of their files.

    Attributes:
        images: uint8 (N, C, S, S).
        labels: int64 (N,); None: there are none.
        paths: N names; None: the images are not in files of their own.
    """

    images: Tensor | MappedImages
    labels: Tensor | None = None
    paths: list[str] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def select(self, rows: np.ndarray) -> "Arrays":
        """The arrays of some of the rows."""
        mapped = isinstance(self.images, MappedImages)
        images = self.images.select(rows) if mapped else self.images[rows]
        labels = None if self.labels is None else self.labels[rows]
        paths = None if self.paths is None else [self.paths[row] for row in rows]
        return Arrays(images, labels, paths)

    def resident(self, device: torch.device) -> "Arrays":
        """The same arrays with images and labels in the memory of a device."""
        labels = None if self.labels is None else self.labels.to(device)
        return Arrays(self.images[:].to(device), labels, self.paths)


def normalize(images: Tensor) -> Tensor:
    """uint8 images in [0, 255] as float32 in [-1, 1]."""
    return images.to(torch.float32).div_(127.5).sub_(1)


class ImageBatches:
    """`batches[draw]` is {image (B, C, S, S), label int64 (B,) if there are any, index int64 (B,)}.

    Args:
        arrays: The images of a split.
        scaled: Images are float32 in [-1, 1]; else they are uint8.
    """

    def __init__(self, arrays: Arrays, scaled: bool = False) -> None:
        self.arrays = arrays
        self.scaled = scaled

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
        if labels is not None:
            batch["label"] = labels[index]
        return batch | {"index": index}
