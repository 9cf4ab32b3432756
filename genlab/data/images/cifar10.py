"""CIFAR-10, the lossless original or a re-encoded copy."""

from pathlib import Path

import numpy as np
import torch

from genlab.data.images.arrays import Arrays
from genlab.data.images.cache import cached_images
from genlab.data.images.classes import folder_labels
from genlab.data.images.module import Content, ImageDataModule
from genlab.data.images.official import fetch, official_splits
from genlab.data.splits import split_rows
from genlab.errors import DataError
from genlab.files import data_root
from genlab.ranges import NonNegativeInt, PositiveInt

__all__ = ["CIFAR10"]


class CIFAR10(ImageDataModule):
    """The 50,000 + 10,000 images of CIFAR-10; num_val of the 50,000 are held out.

    torchvision's lossless cifar-10-batches-py is looked for in root, then in $GENLAB_DATA, then a
    re-encoded cifar10-train(.tar.gz) of ten class folders; else the set is downloaded. A re-encoded
    set has no official test part: half of num_val becomes the test split, and describe() says so.

    Args:
        root: The folder that the set is in; None: $GENLAB_DATA alone.
        download: Let torchvision download a set that is nowhere.
        channels, flip, num_val, options: See ImageDataModule.
    """

    name = "cifar10"
    known_classes = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )

    def __init__(
        self,
        root: str | None = None,
        download: bool = True,
        channels: PositiveInt = 3,
        flip: bool = True,
        num_val: NonNegativeInt = 5000,
        **options,
    ) -> None:
        super().__init__(channels=channels, flip=flip, num_val=num_val, **options)
        self.root = root
        self.download = download

    def _read(self) -> Content:
        roots = [Path(root).expanduser() for root in (self.root, data_root()) if root]
        places = list(dict.fromkeys([root / part for root in roots for part in ("", "cifar10")]))
        for place in places:
            if (place / "cifar-10-batches-py").is_dir():
                return self._lossless(place)
            for name in ("cifar10-train.tar.gz", "cifar10-train"):
                if (place / name).exists():
                    return self._encoded(place / name)
        fetch("CIFAR10", self.name, self.download, places)
        return self._lossless(data_root())

    def _lossless(self, place: Path) -> Content:
        from torchvision.datasets import CIFAR10 as Official

        try:  # it reads pickles, after checking that they are the official ones
            parts = [Official(str(place), train=train) for train in (True, False)]
        except RuntimeError as error:
            raise DataError(
                f"{place}/cifar-10-batches-py: {error}; delete it and fetch it again"
            ) from None
        images = self.transform.arrays(np.concatenate([part.data for part in parts]))
        labels = torch.tensor(parts[0].targets + parts[1].targets)
        splits = official_splits(len(parts[0]), len(parts[1]), self.num_val)
        return Content(Arrays(torch.from_numpy(images), labels), splits, str(place))

    def _encoded(self, path: Path) -> Content:
        found = cached_images(path, self.transform, "raise")
        labels, classes = folder_labels(found.names)
        if classes != self.classes:
            raise DataError(f"{path}: expected the ten class folders of CIFAR-10, found {classes}")
        splits = split_rows(len(labels), self.num_val - self.num_val // 2, self.num_val // 2)
        about = "re-encoded; no official test part, half of data.num_val is the test split"
        arrays = Arrays(found.images, labels, found.names)
        return Content(arrays, splits, f"{path} ({about})", sha256=found.sha256)
