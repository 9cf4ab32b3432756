"""Sets that torchvision can download and that come with an official test part."""

from pathlib import Path

import numpy as np

from genlab.data.splits import split_rows
from genlab.errors import DataError
from genlab.files import data_root


def official_splits(train: int, test: int, num_val: int) -> dict[str, np.ndarray]:
    """num_val of the official training rows held out, and the official test rows after them."""
    return split_rows(train, num_val, 0) | {"test": np.arange(train, train + test)}


def fetch(dataset: str, name: str, download: bool, places: list[Path]) -> None:
    """Let torchvision download a set into data_root(); raises DataError with every place looked in."""
    reason = "data.download=false"
    if download:
        import torchvision.datasets

        try:
            for train in (True, False):
                getattr(torchvision.datasets, dataset)(str(data_root()), train=train, download=True)
            return
        except (RuntimeError, OSError) as error:
            reason = f"the download failed ({' '.join(str(error).split())})"
    looked = ", ".join(map(str, places))
    raise DataError(
        f"{name} is not there and {reason}. Looked in: {looked}. Set data.root= to its folder, or "
        f"with a network, run torchvision.datasets.{dataset}(folder, download=True) and set data.root=folder"
    )
