"""What the folders of an image set say: its classes, and the splits that it comes with."""

import re
from pathlib import PurePosixPath

import torch
from torch import Tensor

from genlab.data.images.decode import printable

__all__ = ["folder_labels", "folder_splits", "natural"]

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


def natural(name: str) -> list:
    """A key to sort names as people do: runs of digits as numbers, so that 2 comes before 10."""
    # Text and digits alternate, which makes any two keys comparable.
    parts = re.split("([0-9]+)", name)
    numbers = [(len(part.lstrip("0")), part.lstrip("0"), part) for part in parts[1::2]]
    return [value for pair in zip(parts[::2], [*numbers, ()], strict=True) for value in pair]


def _common_depth(parts: list[tuple[str, ...]]) -> int:
    """How many folders all of the paths share."""
    depth = 0
    while len({part[: depth + 1] for part in parts}) == 1 and len(parts[0]) > depth + 1:
        depth += 1
    return depth


def folder_labels(names: list[str]) -> tuple[Tensor | None, list[str] | None]:
    """Labels int64 (N,) and class names, from the folders in the names of N images.

    The class is the first folder below any folder that all images share. Classes are in natural
    order (2 before 10). (None, None) where an image does not lie in such a folder.
    """
    parts = [PurePosixPath(name).parts for name in names]
    depth = _common_depth(parts)
    if any(len(part) < depth + 2 for part in parts):
        return None, None
    classes = sorted({part[depth] for part in parts}, key=natural)
    number = {name: label for label, name in enumerate(classes)}
    labels = torch.tensor([number[part[depth]] for part in parts])
    return labels, [printable(name) for name in classes]


def folder_splits(names: list[str]) -> tuple[list[str | None], list[str]] | None:
    """The split of each image, and its name without the folder of the split.

    The first folders, below any folder that all images share, are splits if one of them is train/
    and another val/ or test/, or a name that means the same (SPLIT_NAMES, in any case).

    Returns:
        (splits, names); the split of an image outside these folders is None. None: the folders are
        not splits.
    """
    parts = [PurePosixPath(name).parts for name in names]
    depth = _common_depth(parts)
    splits = [
        SPLIT_NAMES.get(part[depth].lower()) if len(part) > depth + 1 else None for part in parts
    ]
    if not {"train"} < set(splits) - {None}:
        return None
    return splits, ["/".join(part[:depth] + part[depth + 1 :]) for part in parts]
