"""What all image sets share: splits, loaders, resident data, normalisation on the device.

Shapes: N images of a split, B of a batch, C channels, S image size.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from genlab.data.images.arrays import Arrays, ImageBatches, MappedImages, normalize
from genlab.data.images.decode import Transform
from genlab.data.loader import StepLoader
from genlab.data.module import StepDataModule
from genlab.data.sampler import Draw, StepSampler, in_order
from genlab.data.splits import SPLITS, check_split
from genlab.errors import DataError
from genlab.ranges import NonNegativeInt, PositiveInt, Seed

__all__ = ["Content", "ImageDataModule"]

RESIDENT_BYTES = 512 << 20  # the largest set that resident=auto keeps on the device


@dataclass
class Content:
    """A whole set, as `ImageDataModule._read` returns it.

    Attributes:
        arrays: All images, their labels and paths.
        splits: train, val and test -> the rows of the split in `arrays`, int64.
        source: Where the set came from; evaluations name it.
        classes: The names of the labels, in their order; None: there are no labels.
        skipped: How many images could not be used.
        sha256: Of images that are not in memory; the fingerprint takes it in place of the pixels.
        left_out: How many files are not images, by suffix or another reason.
        notes: What a user should know of the set, a line each.
    """

    arrays: Arrays
    splits: dict[str, np.ndarray]
    source: str
    classes: list[str] | None = None
    skipped: int = 0
    sha256: str | None = None
    left_out: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class ImageDataModule(StepDataModule):
    """Three splits of images; a subclass returns the whole set in `_read`.

    Batches on the device are {image float32 (B, C, S, S) in [-1, 1], label int64 (B,) if there are
    labels, index int64 (B,)}.

    Args:
        image_size: S in pixels.
        channels: C, 1 (grey) or 3 (RGB).
        crop: none, center or a side in pixels; see genlab.data.images.decode.Transform.
        resize: pad or one of Pillow's filters; see there.
        flip: Mirror half of the training images, drawn anew each epoch.
        batch_size: Images a process takes at each step.
        num_workers: Processes that prefetch a set that is not resident; None: 2.
        resident: Keep the set as uint8 on the training device; auto: if it has at most 512 MiB.
        num_val: Images that are held out for val.
        num_train: Keep only the first images of the training split; None: all.
        seed: Of the order of training; the splits do not depend on it.

    Example:
        class Icons(ImageDataModule):
            name = "icons"

            def _read(self) -> Content:
                images = self.transform.arrays(np.load("icons.npy"))  # uint8 (N, C, S, S)
                splits = split_rows(len(images), self.num_val, 100)
                return Content(Arrays(torch.from_numpy(images)), splits, "icons.npy")
    """

    name: str
    known_classes: tuple[str, ...] | None = None
    modality = "image"
    num_bins = 256  # grey values that a pixel can have

    def __init__(
        self,
        image_size: PositiveInt = 32,
        channels: PositiveInt = 1,
        crop: str | int = "none",
        resize: str = "pad",
        flip: bool = False,
        batch_size: PositiveInt = 64,
        num_workers: NonNegativeInt | None = None,
        resident: bool | Literal["auto"] = "auto",
        num_val: NonNegativeInt | None = None,
        num_train: PositiveInt | None = None,
        seed: Seed = 1,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.channels = channels
        self.crop = crop
        self.resize = resize
        self.flip = flip
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.resident = resident
        self.num_val = num_val
        self.num_train = num_train
        self.seed = seed
        self.transform = Transform(image_size, channels, crop, resize)
        if not (isinstance(batch_size, int) and batch_size > 0):
            raise DataError(f"data.batch_size={batch_size!r} must be a positive number of images")
        if resident not in ("auto", True, False):
            raise DataError(f"data.resident={resident!r} must be auto, true or false")
        if resident is True and num_workers:
            raise DataError(
                f"data.num_workers={num_workers} has no effect on resident data; "
                "set data.resident=false"
            )
        self._content: Content | None = None
        self._fingerprint: str | None = None
        self._splits: dict[str, Arrays] = {}
        self._on_device: dict[tuple[str, torch.device], Arrays] = {}

    def _read(self) -> Content:
        """The whole set; it downloads or decodes first where that is needed."""
        raise NotImplementedError

    @property
    def classes(self) -> list[str] | None:
        """Class names in the order of the labels, None without labels.

        They are known after setup(), those of a set with `known_classes` before.
        """
        if self.known_classes:
            return list(self.known_classes)
        return self._content.classes if self._content else None

    @property
    def num_classes(self) -> int | None:
        """The number of classes, None without labels; known when `classes` is."""
        return None if self.classes is None else len(self.classes)

    @property
    def notes(self) -> list[str]:
        """What a user should know of the set, a line each; known after setup()."""
        return self._content.notes if self._content else []

    @property
    def left_out(self) -> dict[str, int]:
        """How many files are not images, by suffix or another reason; known after setup()."""
        return self._content.left_out if self._content else {}

    def prepare_data(self) -> None:
        """Downloads or decodes what is missing, in one process, before setup() runs in all."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Opens the set; calling it again changes nothing."""
        if self._content is None:
            content = self._read()
            content.splits["train"] = self._first(content.splits["train"])
            self._content = content

    def _first(self, rows: np.ndarray) -> np.ndarray:
        if self.num_train is not None and not 1 <= self.num_train <= len(rows):
            raise DataError(
                f"data.num_train={self.num_train}: the training split has {len(rows)} images"
            )
        return rows[: self.num_train]

    def arrays(self, split: str) -> Arrays:
        """The images, labels and paths of train, val or test."""
        check_split(split)
        self.setup()
        if split not in self._splits:
            self._splits[split] = self._content.arrays.select(self._content.splits[split])
        return self._splits[split]

    def _loader(self, split: str) -> StepLoader | list:
        arrays, device = self.arrays(split), self._device()
        resident = self.resident
        if resident == "auto":
            size = int(np.prod(self._content.arrays.images.shape))
            resident = not self.num_workers and size <= RESIDENT_BYTES
        workers = 0 if resident else 2 if self.num_workers is None else self.num_workers
        if resident:
            arrays = self._on_device.setdefault((split, device), arrays.resident(device))
        batches = ImageBatches(arrays)
        options = {"num_workers": workers, "pin_memory": device.type == "cuda"}
        if split != "train":
            draws = in_order(len(arrays), self.batch_size, *self._ranks())
            return StepLoader(batches, draws, **options) if len(arrays) else []
        sampler = StepSampler(len(arrays), self.batch_size, self.seed, self.flip, *self._ranks())
        return StepLoader(batches, sampler, self._step, **options)

    def on_after_batch_transfer(
        self, batch: dict[str, Tensor], dataloader_idx: int
    ) -> dict[str, Tensor]:
        """Normalises on the device, so that what crosses to it is uint8."""
        return batch | {"image": normalize(batch["image"])}

    def loader(self, split: str, batch_size: int | None = None) -> StepLoader:
        """Every image of a split once, in order, as float batches on the CPU; needs no trainer."""
        arrays = self.arrays(split)
        draws = in_order(len(arrays), batch_size or self.batch_size)
        return StepLoader(ImageBatches(arrays, scaled=True), draws)

    def pick(self, split: str, num: int, seed: int = 0) -> dict[str, Tensor]:
        """A float batch of `num` different images of a split, all where it has fewer.

        Which they are, and their order, is a function of `seed`.
        """
        arrays = self.arrays(split)
        rows = torch.from_numpy(np.random.RandomState(seed).permutation(len(arrays))[:num])
        return ImageBatches(arrays, scaled=True)[Draw(rows)]

    def describe(self, split: str) -> dict[str, str | int]:
        """What a number measured on a split must be read with."""
        content = {"name": self.name, "split": split, "count": len(self.arrays(split))}
        source = {"source": self._content.source, "skipped": self._content.skipped}
        return content | asdict(self.transform) | source

    def fingerprint(self) -> str:
        """16 hex digits of a sha256 over pixels, labels, names and splits."""
        self.setup()
        if self._fingerprint is None:  # kept: it reads all pixels, and an evaluation asks often
            self._fingerprint = self._digest(self._content)
        return self._fingerprint

    def _digest(self, content: Content) -> str:
        arrays = content.arrays
        digest = hashlib.sha256((content.sha256 or "").encode())
        if not isinstance(arrays.images, MappedImages):
            digest.update(arrays.images.contiguous().numpy().data)
        if arrays.labels is not None:
            digest.update(arrays.labels.numpy().tobytes())
        names = [self.name, list(arrays.images.shape), arrays.paths, self.classes]
        digest.update(json.dumps(names).encode())
        for split in SPLITS:
            digest.update(content.splits[split].astype("<i8").tobytes())
        return digest.hexdigest()[:16]
