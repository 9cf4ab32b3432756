"""CIFAR-10: lossless or re-encoded, where it is found, and downloaded where it is not."""

import hashlib
import itertools
import pickle

import numpy as np
import pytest
import torchvision.datasets

from genlab.data.images.cifar10 import CIFAR10
from genlab.errors import DataError

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def counts(data):
    return [len(data.arrays(split)) for split in ("train", "val", "test")]


@pytest.fixture
def encoded(noise, encode):
    """{train/<class>/<number>.png: bytes}, three pictures a class."""
    return {
        f"train/{name}/{row}.png": encode(noise(32, 32, 3, seed=row))
        for row in range(3)
        for name in CLASSES
    }


@pytest.fixture
def no_download(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("torchvision was asked for a set that is there")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", refuse)


@pytest.fixture
def write_lossless(monkeypatch, noise):
    """write_lossless(root) -> pixels (14, 32, 32, 3) and labels of a tiny set, ten for training."""
    pixels, labels = noise(14, 32, 32, 3), [row % 10 for row in range(14)]

    def write(root):
        folder = root / "cifar-10-batches-py"
        folder.mkdir(parents=True)
        names, sums = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"], {}
        for number, name in enumerate(names):
            rows = slice(2 * number, 2 * number + 2) if number < 5 else slice(10, 14)
            stored = pixels[rows].transpose(0, 3, 1, 2).reshape(-1, 3072)
            (folder / name).write_bytes(pickle.dumps({"data": stored, "labels": labels[rows]}))
        (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": CLASSES}))
        for file in folder.iterdir():
            sums[file.name] = hashlib.md5(file.read_bytes()).hexdigest()
        official = torchvision.datasets.CIFAR10
        monkeypatch.setattr(official, "train_list", [[name, sums[name]] for name in names[:5]])
        monkeypatch.setattr(official, "test_list", [["test_batch", sums["test_batch"]]])
        monkeypatch.setattr(official, "meta", official.meta | {"md5": sums["batches.meta"]})
        return pixels, labels

    return write


@pytest.mark.parametrize("inside", ["", "cifar10"])
def test_the_lossless_set_is_used_where_it_lies_with_its_official_test_part(
    inside, write_lossless, tmp_path
):
    pixels, labels = write_lossless(tmp_path / "sets" / inside)
    data = CIFAR10(root=str(tmp_path / "sets"), num_val=3)
    assert counts(data) == [7, 3, 4]
    assert data.describe("test")["source"] == str(tmp_path / "sets" / inside)
    test = data.arrays("test")
    assert np.array_equal(test.images.numpy(), pixels[10:].transpose(0, 3, 1, 2))
    assert test.labels.tolist() == labels[10:]
    whole = data._content
    assert np.array_equal(whole.arrays.images.numpy(), pixels.transpose(0, 3, 1, 2))
    assert whole.arrays.labels.tolist() == labels
    assert sorted([*whole.splits["train"], *whole.splits["val"]]) == list(range(10))


def test_a_changed_file_of_the_lossless_set_is_named_and_never_unpickled(write_lossless, tmp_path):
    write_lossless(tmp_path)

    class Trap:
        def __reduce__(self):
            return (type(tmp_path).touch, (tmp_path / "executed",))

    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match=r"cifar-10-batches-py: "):
        CIFAR10(root=str(tmp_path), num_val=3).setup()
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("kind", "name"), [("tar.gz", "cifar10-train"), ("folder", "cifar10-train")]
)
@pytest.mark.parametrize("inside", ["", "cifar10/"])
def test_a_re_encoded_set_is_used_where_it_lies(
    kind, name, inside, encoded, pack, tmp_path, no_download
):
    (tmp_path / "cifar10").mkdir()
    path = pack(encoded, kind, inside + name)
    data = CIFAR10(root=str(tmp_path), num_val=5)
    assert counts(data) == [25, 3, 2]
    assert data.describe("test")["source"].startswith(f"{path} (re-encoded; no official test part")
    for split in ("train", "val", "test"):
        arrays = data.arrays(split)
        folders = [path.split("/")[1] for path in arrays.paths]
        assert [CLASSES[label] for label in arrays.labels] == folders


def test_the_splits_of_a_re_encoded_set_are_disjoint_complete_and_the_same_whatever_the_seed(
    encoded, pack, tmp_path
):
    pack(encoded, "tar.gz", "cifar10-train")
    sets = [CIFAR10(root=str(tmp_path), num_val=8, seed=seed) for seed in (1, 2)]
    paths = [[data.arrays(split).paths for split in ("train", "val", "test")] for data in sets]
    assert paths[0] == paths[1] and [len(part) for part in paths[0]] == [22, 4, 4]
    assert sorted(itertools.chain(*paths[0])) == sorted(encoded)
    assert sets[0].fingerprint() == sets[1].fingerprint()


def test_the_lossless_set_goes_before_a_re_encoded_one(write_lossless, encoded, pack, tmp_path):
    write_lossless(tmp_path)
    pack(encoded, "tar.gz", "cifar10-train")
    assert counts(CIFAR10(root=str(tmp_path), num_val=3)) == [7, 3, 4]


def test_folders_that_are_not_the_ten_classes_are_refused_by_name(encoded, pack, tmp_path):
    files = {name: data for name, data in encoded.items() if "/frog/" not in name}
    pack(files, "tar.gz", "cifar10-train")
    with pytest.raises(DataError, match=r"cifar10-train\.tar\.gz: .*'deer', 'dog', 'horse'"):
        CIFAR10(root=str(tmp_path), num_val=2).setup()


def test_what_is_nowhere_is_downloaded_by_torchvision_into_genlab_data(
    write_lossless, genlab_data, tmp_path, monkeypatch
):
    official, calls = torchvision.datasets.CIFAR10, []

    class Downloads(official):
        def __init__(self, root, train, download=False):
            if download:
                calls.append((root, train))
                if len(calls) == 1:
                    write_lossless(genlab_data)
            super().__init__(root, train=train)

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Downloads)
    assert counts(CIFAR10(root=str(tmp_path / "mine"), num_val=3)) == [7, 3, 4]
    assert calls == [(str(genlab_data), True), (str(genlab_data), False)]


def test_a_set_that_is_nowhere_is_an_error_with_every_place_and_what_to_do(
    tmp_path, genlab_data, no_download
):
    with pytest.raises(DataError, match=r"^cifar10 .*data\.download=false") as error:
        CIFAR10(root=str(tmp_path), download=False).setup()
    for place in (tmp_path, tmp_path / "cifar10", genlab_data, genlab_data / "cifar10"):
        assert str(place) in str(error.value)
    cure = "torchvision.datasets.CIFAR10(folder, download=True)"
    assert "data.root=" in str(error.value) and cure in str(error.value)


def test_the_class_names_are_known_before_the_set_is_read():
    assert CIFAR10().classes == CLASSES and CIFAR10().num_classes == 10
