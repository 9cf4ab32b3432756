"""The three splits of a data set, and which rows belong to each: always the same ones."""

import numpy as np
from torch import Tensor

from genlab.errors import DataError

__all__ = ["SPLITS", "SPLIT_SEED", "split_rows"]

SPLIT_SEED = 20190301
SPLITS = ("train", "val", "test")


def split_rows(
    count: int, num_val: int, num_test: int, labels: Tensor | None = None
) -> dict[str, np.ndarray]:
    """Disjoint sorted rows of three splits, always the same; classes in proportion if labels are
    given.
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
    parts = {"train": order[held_out:], "val": order[num_test:held_out], "test": order[:num_test]}
    return {split: np.sort(rows) for split, rows in parts.items()}
