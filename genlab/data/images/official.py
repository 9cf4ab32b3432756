"""Sets that torchvision can download and that come with an official test part."""

from pathlib import Path

import numpy as np

from genlab.data.splits import split_rows
from genlab.errors import DataError
from genlab.files import data_root

__all__ = ["fetch", "official_splits"]


def official_splits(train: int, test: int, num_val: int) -> dict[str, np.ndarray]:
    """The rows of each split: num_val of the official training rows are held out for val.

    Args:
        train: How many official training rows there are; they come first.
        test: How many official test rows follow them.
        num_val: How many training rows to hold out.
    """
    return split_rows(train, num_val, 0) | {"test": np.arange(train, train + test)}


def fetch(dataset: str, name: str, download: bool, places: list[Path]) -> None:
    """Lets torchvision download a set into data_root().

    Args:
        dataset: The name of its class in torchvision.datasets.
        name: What genlab calls it.
        download: data.download.
        places: Where it was looked for already.

    Raises:
        DataError: It may not, or cannot, be downloaded; names every place.
    """
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
        f"{name} is not there and {reason}. Looked in: {looked}. Set data.root= to its folder; or, "
        f"with a network, run torchvision.datasets.{dataset}(folder, download=True) and set "
        "data.root=folder"
    )
