"""A user's own pictures: for training as a DataModule, for encoding as one tensor."""

import os
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from genlab.data.cache import cached_images
from genlab.data.decode import DataError, Shrinking
from genlab.data.loader import Arrays
from genlab.data.module import Content, ImageDataModule, split_rows
from genlab.data.source import decode_all, folder_labels, keep_or_raise, list_names, report_skipped
from genlab.ranges import NonNegativeInt, PositiveInt


def _check_on_error(on_error: str) -> None:
    if on_error not in ("raise", "skip"):
        raise DataError(f"on_error={on_error!r} must be raise or skip")


class ImageFolder(ImageDataModule):
    """The pictures in a folder tree, .zip or tar, decoded once into a cache below $GENLAB_DATA.

    Where every picture lies in a sub-folder, the first level of these are the classes. num_val and num_test
    default to a tenth of the set each, at most 1,000. A picture that cannot be used is an error, or skipped
    and counted.
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
            raise DataError("data.path is not set; give a folder, .zip or tar of images: data.path=photos/")
        path = Path(self.path).expanduser()
        found = cached_images(path, self.transform, self.on_error)
        labels, classes = folder_labels(found.names)
        tenth = min(1000, len(found.names) // 10)
        sizes = [tenth if size is None else size for size in (self.num_val, self.num_test)]
        splits = split_rows(len(found.names), *sizes)
        arrays = Arrays(found.images, labels, found.names)
        return Content(arrays, splits, str(path), classes, len(found.skipped), found.sha256)


def _npz_images(path: Path) -> np.ndarray:
    """The array `images` of an .npz as uint8 (N, H, W) or (N, H, W, C); the caller names the file.

    Floats in [-1, 1], as `genlab sample` writes them, are rounded to uint8.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            images = file.get("images")
    except Exception as error:
        raise DataError(f"not a readable .npz ({type(error).__name__}: {error})") from None
    if images is not None and images.dtype.kind == "f" and images.size and np.abs(images).max() <= 1:
        images = ((images + 1) * 127.5).round().astype(np.uint8)
    if images is None or images.dtype != np.uint8 or images.ndim not in (3, 4) or not images.size:
        found = "none" if images is None else f"{images.dtype} {images.shape}"
        expected = "an array `images`, uint8 (or float in [-1, 1]) (N, C, H, W), (N, H, W, C) or (N, H, W)"
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
    """(uint8 (N, channels, image_size, image_size), the N names in order, what was skipped and why).

    input is a folder, .zip or tar of pictures, one picture, or an .npz with `images`; raises DataError. With resize=pad
    pictures that are too large are made to fit, which a training set's are not.
    """
    _check_on_error(on_error)
    transform, path = Shrinking(image_size, channels, crop, resize), Path(input).expanduser()
    if path.suffix.lower() == ".npz" and path.is_file():
        try:
            images = transform.arrays(_npz_images(path))
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        return torch.from_numpy(images), [f"{path.name}[{row}]" for row in range(len(images))], []
    names, decoded, skipped = list_names(path), {}, []
    for name, result in decode_all(path, len(names), transform):
        if keep_or_raise(result, on_error, skipped):
            decoded[name] = result
    report_skipped(path, skipped, len(names))
    paths = sorted(decoded)
    return torch.from_numpy(np.stack([decoded[name] for name in paths])), paths, skipped
