"""A user's own images: for training as a data module, for encoding as one tensor."""

import os
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from genlab.data.images.arrays import Arrays
from genlab.data.images.cache import Decoded, cached_images
from genlab.data.images.classes import folder_labels, folder_splits
from genlab.data.images.decode import Shrinking, printable
from genlab.data.images.module import Content, ImageDataModule
from genlab.data.images.source import (
    decode_all,
    keep_or_raise,
    list_names,
    report_left_out,
    report_skipped,
    summary,
)
from genlab.data.splits import SPLITS, split_rows
from genlab.errors import DataError
from genlab.ranges import NonNegativeInt, PositiveInt

__all__ = ["ImageFolder", "read_images"]

# Formats that are not read, but that other programs convert to one that is.
CONVERTIBLE = (".heic", ".heif", ".avif", ".jxl", ".svg", ".psd", ".dng", ".cr2", ".nef", ".arw")
OUTSIDE = "outside the folders of the splits"
MAX_SHOWN = 20  # classes named in a note


def _check_on_error(on_error: str) -> None:
    if on_error not in ("raise", "skip"):
        raise DataError(f"on_error={on_error!r} must be raise or skip")


class ImageFolder(ImageDataModule):
    """The images in a folder tree, .zip or tar, decoded once into a cache below $GENLAB_DATA.

    Where every image lies in a sub-folder, the first level of these are the classes, in natural
    order (2 before 10). Folders train/ and val/ or test/ above them are the splits of the set; a
    split without a folder is drawn from train. Files that are not images are counted.

    Args:
        path: The folder or archive.
        on_error: `raise`: an image that cannot be used is an error; `skip`: it is counted.
        num_val: Images held out for val; None: a tenth of what they are drawn from, at most 1,000.
        num_test: The same for test.
        image_size, channels, crop, resize, flip, options: See ImageDataModule.
    """

    name = "image_folder"

    def __init__(
        self,
        path: str | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        image_size: PositiveInt = 64,
        channels: PositiveInt = 3,
        crop: str | int = "center",
        resize: str = "lanczos",
        flip: bool = True,
        num_test: NonNegativeInt | None = None,
        **options,
    ) -> None:
        shape = {"image_size": image_size, "channels": channels, "crop": crop, "resize": resize}
        super().__init__(**shape, flip=flip, **options)
        _check_on_error(on_error)
        self.path = path
        self.on_error = on_error
        self.num_test = num_test

    def _read(self) -> Content:
        if not self.path:
            raise DataError(
                "data.path is not set; give a folder, .zip or tar of images: data.path=photos/"
            )
        path = Path(self.path).expanduser()
        found = cached_images(path, self.transform, self.on_error)
        official = folder_splits(found.names)
        if official is None:
            names = found.names
            rows = {split: np.zeros(0, np.int64) for split in SPLITS}
            drawn = self._draw_splits(np.arange(len(names)), rows)
        else:
            splits, names = official
            rows = {
                split: np.array([i for i, s in enumerate(splits) if s == split], np.int64)
                for split in SPLITS
            }
            drawn = self._draw_splits(rows["train"], rows)
        used = np.sort(np.concatenate(list(drawn.values())))
        place = np.empty(len(names), np.int64)  # of a row among those that are used
        place[used] = np.arange(len(used))
        labels, classes = folder_labels([names[row] for row in used])
        arrays = Arrays(found.images, None, found.names)
        arrays = arrays if len(used) == len(names) else arrays.select(used)
        arrays.labels = labels
        left_out = dict(found.left_out)
        if len(used) < len(names):
            left_out[OUTSIDE] = len(names) - len(used)
        content = Content(
            arrays,
            splits={split: place[drawn[split]] for split in SPLITS},
            source=printable(str(path)),
            classes=classes,
            skipped=len(found.skipped),
            sha256=found.sha256,
            left_out=left_out,
        )
        own = [split for split in SPLITS if len(rows[split])]
        content.notes = _notes(content, found, own)
        return content

    def _draw_splits(
        self, source: np.ndarray, given: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """The rows of each split.

        Args:
            source: The rows that splits without a folder of their own are drawn from.
            given: The rows in the folder of each split, empty where it has none.
        """
        wanted = {"val": self.num_val, "test": self.num_test}
        for split, count in wanted.items():
            if len(given[split]) and count is not None:
                raise DataError(
                    f"data.num_{split}={count}: the set has a folder of {len(given[split])} "
                    f"{split} images; leave it out"
                )
        tenth = min(1000, len(source) // 10)
        for split, count in wanted.items():
            if len(given[split]):
                wanted[split] = 0
            elif count is None:
                wanted[split] = tenth
        drawn = split_rows(len(source), wanted["val"], wanted["test"])
        rows = {split: source[drawn[split]] for split in SPLITS}
        return rows | {split: given[split] for split in wanted if len(given[split])}


def _notes(content: Content, found: Decoded, own: list[str]) -> list[str]:
    """What was found in a folder or archive, a line each.

    Args:
        content: The set, without notes.
        found: Its images as they were decoded.
        own: The splits that have a folder of their own.
    """
    first = [f"{len(content.arrays)} images in {content.source}"]
    if content.left_out:
        total = sum(content.left_out.values())
        first.append(f"left out {total} files: {summary(content.left_out)}")
        images = [suffix for suffix in content.left_out if suffix.lower() in CONVERTIBLE]
        if images:
            first.append(f"to use {' and '.join(images)}, convert them to .png or .jpg")
    if found.skipped:
        first.append(
            f"skipped {len(found.skipped)} that cannot be used, the first: {found.skipped[0]}"
        )
    lines = ["; ".join(first)]
    if own:
        counts = ", ".join(f"{split} {len(rows)}" for split, rows in content.splits.items())
        others = [split for split in SPLITS if split not in own]
        drawn = f"; {' and '.join(others)} drawn from train" if others else ""
        lines.append(f"the folders for {', '.join(own)} are its splits ({counts}{drawn})")
    if content.classes:
        count = len(content.classes)
        shown = content.classes if count <= MAX_SHOWN else [*content.classes[:MAX_SHOWN], "..."]
        lines.append(f"{count} classes, labels 0 to {count - 1}: {', '.join(shown)}")
    return lines


def _npz_images(path: Path) -> np.ndarray:
    """The array `images` of an .npz as uint8 (N, H, W) or (N, H, W, C); the caller names the file.

    Floats in [-1, 1], as `genlab sample` writes them, are rounded to uint8.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            images = file.get("images")
    except Exception as error:
        raise DataError(f"not a readable .npz ({type(error).__name__}: {error})") from None
    floats = images is not None and images.dtype.kind == "f" and images.size
    if floats and np.abs(images).max() <= 1:
        images = ((images + 1) * 127.5).round().astype(np.uint8)
    if images is None or images.dtype != np.uint8 or images.ndim not in (3, 4) or not images.size:
        found = "none" if images is None else f"{images.dtype} {images.shape}"
        raise DataError(
            "expected an array `images`, uint8 (or float in [-1, 1]) (N, C, H, W), (N, H, W, C) "
            f"or (N, H, W); found {found}"
        )
    if images.ndim == 4 and images.shape[1] in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if images.ndim == 4 and images.shape[3] not in (1, 3, 4):
        raise DataError(f"`images` {images.shape} has neither 1, 3 nor 4 channels")
    return images


def read_images(
    input: str | os.PathLike,
    image_size: int,
    channels: int,
    crop: str | int,
    resize: str,
    on_error: str = "raise",
) -> tuple[Tensor, list[str], list[str]]:
    """A user's images as one tensor.

    With resize=pad, images that are too large are shrunk; those of a training set are refused.

    Args:
        input: A folder, .zip or tar of images, one image, or an .npz with `images`.
        image_size, channels, crop, resize: See genlab.data.images.decode.Transform.
        on_error: `raise` or `skip` an image that cannot be used.

    Returns:
        (images uint8 (N, channels, image_size, image_size), the N names in order, what was skipped,
        each with the reason).

    Raises:
        DataError: There are no images, or one cannot be used.
    """
    _check_on_error(on_error)
    transform = Shrinking(image_size, channels, crop, resize)
    path = Path(input).expanduser()
    if path.suffix.lower() == ".npz" and path.is_file():
        try:
            images = transform.arrays(_npz_images(path))
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        return torch.from_numpy(images), [f"{path.name}[{row}]" for row in range(len(images))], []
    left_out: Counter[str] = Counter()
    names = list_names(path, left_out)
    decoded: dict[str, np.ndarray] = {}
    skipped: list[str] = []
    for name, result in decode_all(path, len(names), transform):
        if keep_or_raise(result, on_error, skipped):
            decoded[name] = result
    report_skipped(path, skipped, len(names))
    report_left_out(path, left_out)
    paths = sorted(decoded)
    return torch.from_numpy(np.stack([decoded[name] for name in paths])), paths, skipped
