"""The three splits of a data set, and which rows belong to each: always the same ones."""

import numpy as np
from torch import Tensor

from genlab.errors import DataError

__all__ = ["SPLITS", "SPLIT_SEED", "check_split", "split_rows"]

SPLIT_SEED = 20190301
SPLITS = ("train", "val", "test")


def check_split(split: str) -> None:
    """Raises DataError unless `split` is one of SPLITS."""
    if split not in SPLITS:
        raise DataError(f"split={split!r} must be one of {', '.join(SPLITS)}")


def split_rows(
    count: int, num_val: int, num_test: int, labels: Tensor | None = None
) -> dict[str, np.ndarray]:
    """Disjoint sorted rows of three splits, the same ones for the same numbers.

    Args:
        count: How many examples there are in all.
        num_val: How many to hold out for val.
        num_test: How many to hold out for test.
        labels: (count,); if given, each split has the classes in proportion.

    Raises:
        DataError: Nothing is left to train on.
    """
    if min(num_val, num_test) < 0 or num_val + num_test >= count:
        raise DataError(
            f"{num_val} val and {num_test} test images leave nothing of {count} to train on; "
            "lower data.num_val or data.num_test"
        )
    order = np.random.RandomState(SPLIT_SEED).permutation(count)
    if labels is not None:
        place = np.empty(count)
        for label in np.unique(labels):
            rows = order[labels.numpy()[order] == label]
            place[rows] = np.arange(len(rows)) / len(rows)
        order = order[np.argsort(place[order], kind="stable")]
    held_out = num_test + num_val
    splits = {"train": order[held_out:], "val": order[num_test:held_out], "test": order[:num_test]}
    return {split: np.sort(rows) for split, rows in splits.items()}
