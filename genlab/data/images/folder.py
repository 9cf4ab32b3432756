"""A user's own pictures: for training as a DataModule, for encoding as one tensor."""

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


def _check_on_error(on_error: str) -> None:
    if on_error not in ("raise", "skip"):
        raise DataError(f"on_error={on_error!r} must be raise or skip")


class ImageFolder(ImageDataModule):
    """The pictures in a folder tree, .zip or tar, decoded once into a cache below $GENLAB_DATA.

    Where every picture lies in a sub-folder, the first level of these are the classes, in natural
    order (2 before 10). Folders train/ and val/ or test/ above them are the splits of the set; a
    split without a folder is drawn from train. num_val and num_test default to a tenth each of what
    they are drawn from, at most 1,000. A picture that cannot be used is an error, or skipped and
    counted; files that are no pictures are counted.
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
        self.path, self.on_error, self.num_test = path, on_error, num_test

    def _read(self) -> Content:
        if not self.path:
            raise DataError(
                "data.path is not set; give a folder, .zip or tar of images: data.path=photos/"
            )
        path = Path(self.path).expanduser()
        found = cached_images(path, self.transform, self.on_error)
        official = folder_splits(found.names)
        splits, names = ([None] * len(found.names), found.names) if official is None else official
        rows = {
            split: np.array([i for i, s in enumerate(splits) if s == split], np.int64)
            for split in SPLITS
        }
        drawn = self._draw_splits(
            np.arange(len(names)) if official is None else rows["train"], rows
        )
        used = np.sort(np.concatenate(list(drawn.values())))
        place = np.empty(len(names), np.int64)
        place[used] = np.arange(len(used))
        labels, classes = folder_labels([names[row] for row in used])
        arrays = Arrays(found.images, None, found.names)
        arrays = arrays if len(used) == len(names) else arrays.select(used)
        arrays.labels = labels
        own = [split for split in SPLITS if official is not None and len(rows[split])]
        content = Content(
            arrays, {split: place[drawn[split]] for split in SPLITS}, printable(str(path)), classes
        )
        content.skipped, content.sha256 = len(found.skipped), found.sha256
        content.left_out = found.left_out | (
            {OUTSIDE: len(names) - len(used)} if len(used) < len(names) else {}
        )
        content.notes = _notes(content, found, own)
        return content

    def _draw_splits(
        self, source: np.ndarray, given: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """The rows of each split: those in a folder of their own, and the others drawn from the
        rows `source`.
        """
        wanted = {"val": self.num_val, "test": self.num_test}
        for split, count in wanted.items():
            if len(given[split]) and count is not None:
                raise DataError(
                    f"data.num_{split}={count}: the set has a folder of {len(given[split])} {split} images; leave it out"
                )
        tenth = min(1000, len(source) // 10)
        counts = [
            0 if len(given[s]) else tenth if count is None else count for s, count in wanted.items()
        ]
        drawn = split_rows(len(source), *counts)
        return {
            split: given[split] if len(given[split]) and split in wanted else source[drawn[split]]
            for split in SPLITS
        }


CONVERTIBLE = (".heic", ".heif", ".avif", ".jxl", ".svg", ".psd", ".dng", ".cr2", ".nef", ".arw")
OUTSIDE = "outside the folders of the splits"


def _notes(content: Content, found: Decoded, own: list[str]) -> list[str]:
    """What was found in a folder or archive, a line each: how many pictures, what was left out,
    splits and classes.
    """
    lines = [f"{len(content.arrays)} images in {content.source}"]
    if content.left_out:
        lines[0] += (
            f"; left out {sum(content.left_out.values())} files: {summary(content.left_out)}"
        )
        pictures = [suffix for suffix in content.left_out if suffix.lower() in CONVERTIBLE]
        lines[0] += (
            f"; to use {' and '.join(pictures)}, convert them to .png or .jpg" if pictures else ""
        )
    if found.skipped:
        lines[0] += (
            f"; skipped {len(found.skipped)} that cannot be used, the first: {found.skipped[0]}"
        )
    if own:
        counts = ", ".join(f"{split} {len(rows)}" for split, rows in content.splits.items())
        others = [split for split in SPLITS if split not in own]
        drawn = f"; {' and '.join(others)} drawn from train" if others else ""
        lines.append(f"the folders for {', '.join(own)} are its splits ({counts}{drawn})")
    if content.classes:
        shown = content.classes if len(content.classes) <= 20 else [*content.classes[:20], "..."]
        lines.append(
            f"{len(content.classes)} classes, labels 0 to {len(content.classes) - 1}: {', '.join(shown)}"
        )
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
    if (
        images is not None
        and images.dtype.kind == "f"
        and images.size
        and np.abs(images).max() <= 1
    ):
        images = ((images + 1) * 127.5).round().astype(np.uint8)
    if images is None or images.dtype != np.uint8 or images.ndim not in (3, 4) or not images.size:
        found = "none" if images is None else f"{images.dtype} {images.shape}"
        expected = (
            "an array `images`, uint8 (or float in [-1, 1]) (N, C, H, W), (N, H, W, C) or (N, H, W)"
        )
        raise DataError(f"expected {expected}; found {found}")
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
    """(uint8 (N, channels, image_size, image_size), the N names in order, what was skipped and
    why).

    input is a folder, .zip or tar of pictures, one picture, or an .npz with `images`; raises
    DataError. With resize=pad pictures that are too large are made to fit, which a training set's
    are not.
    """
    _check_on_error(on_error)
    transform, path = Shrinking(image_size, channels, crop, resize), Path(input).expanduser()
    if path.suffix.lower() == ".npz" and path.is_file():
        try:
            images = transform.arrays(_npz_images(path))
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        return torch.from_numpy(images), [f"{path.name}[{row}]" for row in range(len(images))], []
    left_out: Counter[str] = Counter()
    names, decoded, skipped = list_names(path, left_out), {}, []
    for name, result in decode_all(path, len(names), transform):
        if keep_or_raise(result, on_error, skipped):
            decoded[name] = result
    report_skipped(path, skipped, len(names))
    report_left_out(path, left_out)
    paths = sorted(decoded)
    return torch.from_numpy(np.stack([decoded[name] for name in paths])), paths, skipped
