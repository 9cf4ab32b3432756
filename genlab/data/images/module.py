"""What all image sets share: splits, loaders, resident data, normalisation on the device, a
fingerprint.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from genlab.data.images.arrays import Arrays, Batches, MappedImages, normalize
from genlab.data.images.decode import Transform
from genlab.data.loader import StepDataModule, StepLoader
from genlab.data.sampler import Draw, StepSampler, in_order
from genlab.data.splits import SPLITS
from genlab.errors import DataError
from genlab.ranges import NonNegativeInt, PositiveInt, Seed

RESIDENT_BYTES = 512 << 20


@dataclass
class Content:
    """A whole set: its arrays, the rows of each split, where it came from; sha256 of images not in
    memory.

    left_out: how many files beside the pictures are none, by suffix or another reason. notes: what
    a user should know of the set, a line each.
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
    """Batches {image float32 (B, C, S, S) in [-1, 1], label int64 (B,) if any, index int64 (B,)} of
    3 splits.

    Subclasses say what the set holds in `_read`; num_train keeps the first images of the training
    split alone. resident (auto, true, false) keeps the set as uint8 on the training device, auto
    where it has at most 512 MiB; num_workers prefetches a set that is not (null: 2).
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
        self.image_size, self.channels, self.crop, self.resize = image_size, channels, crop, resize
        self.flip, self.batch_size, self.num_workers, self.resident = (
            flip,
            batch_size,
            num_workers,
            resident,
        )
        self.num_val, self.num_train, self.seed = num_val, num_train, seed
        self.transform = Transform(image_size, channels, crop, resize)
        if not (isinstance(batch_size, int) and batch_size > 0):
            raise DataError(f"data.batch_size={batch_size!r} must be a positive number of images")
        if resident not in ("auto", True, False):
            raise DataError(f"data.resident={resident!r} must be auto, true or false")
        if resident is True and num_workers:
            raise DataError(
                f"data.num_workers={num_workers} is useless for resident data; set data.resident=false"
            )
        self._content: Content | None = None
        self._fingerprint: str | None = None
        self._splits: dict[str, Arrays] = {}
        self._on_device: dict[tuple[str, torch.device], Arrays] = {}

    def _read(self) -> Content:
        """The whole set, downloaded or decoded first where that is needed."""
        raise NotImplementedError

    @property
    def classes(self) -> list[str] | None:
        """Class names in the order of the labels; of a set without fixed classes, known after
        setup().
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
        """How many files beside the pictures are none, by suffix or another reason; known after
        setup().
        """
        return self._content.left_out if self._content else {}

    def prepare_data(self) -> None:
        """Download or decode what is missing; Lightning runs it in one process before setup in all."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Open the set; calling it again changes nothing."""
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
        if split not in SPLITS:
            raise DataError(f"split={split!r} must be one of {', '.join(SPLITS)}")
        self.setup()
        if split not in self._splits:
            self._splits[split] = self._content.arrays.select(self._content.splits[split])
        return self._splits[split]

    def _loader(self, split: str) -> StepLoader | list:
        arrays, trainer = self.arrays(split), self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        device = trainer.strategy.root_device if trainer else torch.device("cpu")
        images = self._content.arrays.images
        resident = self.resident
        if resident == "auto":
            resident = not self.num_workers and int(np.prod(images.shape)) <= RESIDENT_BYTES
        workers = 0 if resident else 2 if self.num_workers is None else self.num_workers
        if resident:
            arrays = self._on_device.setdefault((split, device), arrays.resident(device))
        options = {"num_workers": workers, "pin_memory": device.type == "cuda"}
        if split != "train":
            draws = in_order(len(arrays), self.batch_size, rank, world)
            return StepLoader(Batches(arrays), draws, **options) if len(arrays) else []
        sampler = StepSampler(len(arrays), self.batch_size, self.seed, self.flip, rank, world)
        return StepLoader(Batches(arrays), sampler, self._step if trainer else None, **options)

    def on_after_batch_transfer(
        self, batch: dict[str, Tensor], dataloader_idx: int
    ) -> dict[str, Tensor]:
        """Normalise on the device, so that what crosses to it is uint8."""
        return batch | {"image": normalize(batch["image"])}

    def loader(self, split: str, batch_size: int | None = None) -> StepLoader:
        """Every image of a split once, in order, as float batches on the CPU; needs no trainer."""
        arrays = self.arrays(split)
        return StepLoader(
            Batches(arrays, scaled=True), in_order(len(arrays), batch_size or self.batch_size)
        )

    def pick(self, split: str, num: int, seed: int = 0) -> dict[str, Tensor]:
        """A float batch of `num` different images of a split, all where it has fewer, in the order
        drawn.
        """
        arrays = self.arrays(split)
        rows = torch.from_numpy(np.random.RandomState(seed).permutation(len(arrays))[:num])
        return Batches(arrays, scaled=True)[Draw(rows)]

    def describe(self, split: str) -> dict[str, str | int]:
        """What a number measured on a split must be read with."""
        content = {"name": self.name, "split": split, "count": len(self.arrays(split))}
        source = {"source": self._content.source, "skipped": self._content.skipped}
        return content | asdict(self.transform) | source

    def fingerprint(self) -> str:
        """16 hex digits of a sha256 over pixels, labels, names and splits."""
        self.setup()
        if (
            self._fingerprint is None
        ):  # all pixels of a resident set are read for it, and an evaluation asks often
            self._fingerprint = self._digest(self._content)
        return self._fingerprint

    def _digest(self, content: Content) -> str:
        arrays, digest = content.arrays, hashlib.sha256((content.sha256 or "").encode())
        if not isinstance(arrays.images, MappedImages):
            digest.update(arrays.images.contiguous().numpy().data)
        if arrays.labels is not None:
            digest.update(arrays.labels.numpy().tobytes())
        names = [self.name, list(arrays.images.shape), arrays.paths, self.classes]
        digest.update(json.dumps(names).encode())
        for split in SPLITS:
            digest.update(content.splits[split].astype("<i8").tobytes())
        return digest.hexdigest()[:16]
