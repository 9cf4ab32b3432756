"""A user's own images: as a set in a folder or archive, and read as one tensor."""

import itertools
import os

import numpy as np
import pytest
import torch
from PIL import Image

from genlab.data.images import folder
from genlab.data.images.arrays import MappedImages
from genlab.data.images.cache import Decoded
from genlab.data.images.decode import Transform
from genlab.data.images.folder import ImageFolder, read_images
from genlab.errors import DataError

SHAPE = {"image_size": 6, "channels": 3, "crop": "none", "resize": "pad"}
PLAIN = Transform(**SHAPE)


def folder_set(path, **options):
    sizes = {"batch_size": 2, "num_val": 2, "num_test": 3}
    return ImageFolder(str(path), **SHAPE | sizes | options)


def decoded(files):
    return torch.from_numpy(np.stack([PLAIN.decode(name, files[name]) for name in sorted(files)]))


class Pickled:
    """Makes a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (type(self.file).touch, (self.file,))


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.gz"])
def test_a_folder_and_archives_of_it_give_the_same_set(kind, pictures, pack):
    files = pictures(12)
    data = folder_set(pack(files, kind))
    data.setup()
    assert [len(data.arrays(split)) for split in ("train", "val", "test")] == [7, 2, 3]
    assert data.classes == ["a", "b"] and data.num_classes == 2
    content = data._content.arrays
    assert content.paths == sorted(files) and torch.equal(content.images[:], decoded(files))
    assert content.labels.tolist() == [0] * 6 + [1] * 6


def test_the_fingerprint_is_the_same_wherever_and_however_the_pictures_are_packed(pictures, pack):
    files = pictures(12)
    prints = {folder_set(pack(files, kind)).fingerprint() for kind in ("folder", "zip", "tar")}
    prints.add(folder_set(pack(files, name="elsewhere")).fingerprint())
    assert len(prints) == 1


def test_the_fingerprint_changes_with_pixels_names_and_splits_and_not_with_the_seed(pictures, pack):
    files = pictures(12)
    path = pack(files)
    other_pixels = pack(files | {"a/0.png": files["a/2.png"]}, name="pixels")
    other_names = {name.replace("b/", "c/"): data for name, data in files.items()}
    first = folder_set(path).fingerprint()
    assert folder_set(path, seed=5, batch_size=3, flip=False).fingerprint() == first
    changed = (
        folder_set(path, num_val=3),
        folder_set(path, image_size=7),
        folder_set(other_pixels),
        folder_set(pack(other_names, name="names")),
    )
    assert len({first, *(data.fingerprint() for data in changed)}) == 5


def test_loose_pictures_have_no_labels(pictures, pack):
    files = {name.replace("/", "-"): content for name, content in pictures(8).items()}
    data = folder_set(pack(files))
    assert "label" not in next(iter(data.loader("train")))
    assert data.classes is None and data.num_classes is None


def test_splits_are_disjoint_complete_and_the_same_whatever_the_seed(pictures, pack):
    files = pictures(20)
    path = pack(files)
    paths = [
        [folder_set(path, seed=seed).arrays(split).paths for split in ("train", "val", "test")]
        for seed in (1, 2)
    ]
    assert paths[0] == paths[1] and sorted(itertools.chain(*paths[0])) == sorted(files)


@pytest.mark.parametrize(("count", "sizes"), [(9, [9, 0, 0]), (25, [21, 2, 2])])
def test_a_tenth_is_held_out_for_val_and_for_test(count, sizes, pictures, pack):
    data = folder_set(pack(pictures(count)), num_val=None, num_test=None)
    assert [len(data.arrays(split)) for split in ("train", "val", "test")] == sizes


def test_no_more_than_a_thousand_are_held_out_for_each(monkeypatch):
    images = torch.zeros(12000, 3, 1, 1, dtype=torch.uint8)
    found = Decoded(images, [f"{row}.png" for row in range(12000)], [], "00")
    monkeypatch.setattr(folder, "cached_images", lambda *args: found)
    data = ImageFolder("x", image_size=1)
    assert [len(data.arrays(split)) for split in ("train", "val", "test")] == [10000, 1000, 1000]


def test_pictures_of_every_kind_make_one_set(noise, encode, pack):
    grey, colour, alpha = noise(5, 9), noise(9, 5, 3), noise(1, 1, 4)
    deep = Image.fromarray(noise(4, 4).astype(np.uint16) * 257)
    files = {
        "1-grey.png": encode(grey),
        "2-colour.bmp": encode(colour, "BMP"),
        "3-alpha.tiff": encode(alpha, "TIFF"),
        "4-grey-alpha.png": encode(Image.fromarray(noise(3, 8, 2))),
        "5-palette.gif": encode(
            Image.fromarray(colour).convert("P", palette=Image.Palette.ADAPTIVE), "GIF"
        ),
        "6-deep.png": encode(deep),
        "7-ink.jpg": encode(Image.fromarray(colour).convert("CMYK"), "JPEG"),
    }
    data = ImageFolder(str(pack(files)), image_size=4, num_val=0, num_test=0, batch_size=1)
    images = data.arrays("train").images
    assert images.shape == (7, 3, 4, 4)
    transform = Transform(4, 3, "center", "lanczos")
    assert torch.equal(images[0], torch.from_numpy(transform(Image.fromarray(grey))))
    assert torch.equal(images[1], torch.from_numpy(transform(Image.fromarray(colour))))
    assert torch.equal(images[5], torch.from_numpy(noise(4, 4))[None].expand(3, 4, 4))


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz"])
def test_a_corrupt_picture_is_named_with_what_to_do(kind, pictures, pack):
    files = pictures(8)
    path = pack(files | {"b/7.png": files["b/7.png"][:60]}, kind)
    with pytest.raises(DataError, match=r"^b/7\.png: .*on_error=skip"):
        folder_set(path).setup()


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz"])
def test_a_corrupt_picture_is_skipped_and_counted_where_asked(kind, pictures, pack, caplog):
    files = pictures(9)
    path = pack(files | {"b/7.png": files["b/7.png"][:60], "a/0.png": b""}, kind)
    data = folder_set(path, on_error="skip")
    assert data.describe("train")["skipped"] == 2 and "2 of 9 images" in caplog.text
    kept = {name: content for name, content in files.items() if name not in ("b/7.png", "a/0.png")}
    assert data._content.arrays.paths == sorted(kept)
    assert torch.equal(data._content.arrays.images[:], decoded(kept))
    assert sum(len(data.arrays(split)) for split in ("train", "val", "test")) == 7
    again = folder_set(path, on_error="skip")
    assert again.describe("train")["skipped"] == 2 and again.fingerprint() == data.fingerprint()


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_set_of_corrupt_pictures_only_is_an_error(on_error, pack, genlab_data):
    with pytest.raises(DataError, match=r"a\.png: "):
        folder_set(pack({"a.png": b"x", "b.png": b"y"}), on_error=on_error).setup()
    assert list((genlab_data / "cache").iterdir()) == []


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_an_archive_damaged_in_the_middle_is_named_and_never_half_read(
    on_error, pictures, pack, flip_byte
):
    path = pack(pictures(12), "tar")
    flip_byte(path, path.read_bytes().index(b"a/6.png"))
    with pytest.raises(DataError, match=r"pictures\.tar: "):
        folder_set(path, on_error=on_error).setup()


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_writes_nothing_but_the_cache(kind, pictures, pack, tmp_path, genlab_data):
    files = pictures(8)
    outside = dict.fromkeys(("../../up.png", f"{tmp_path}/absolute.png"), files["a/0.png"])
    path = pack(files | outside, kind)
    before = set(tmp_path.rglob("*"))
    folder_set(path).setup()
    written = set(tmp_path.rglob("*")) - before
    assert {file.parent for file in written if file.is_file()} == {genlab_data / "cache"}
    assert sorted(file.suffix for file in written if file.is_file()) == [".json", ".u8"]


@pytest.mark.parametrize(
    ("path", "message"), [(None, r"^data\.path .*data\.path=photos/"), ("/no/where", "/no/where ")]
)
def test_a_path_that_is_missing_is_an_error_with_what_to_give(path, message):
    with pytest.raises(DataError, match=message):
        ImageFolder(path).setup()


def test_on_error_is_raise_or_skip():
    with pytest.raises(DataError, match="on_error='ignore'"):
        ImageFolder("x", on_error="ignore")
    with pytest.raises(DataError, match="on_error='ignore'"):
        read_images("x", **SHAPE, on_error="ignore")


def test_a_set_from_the_cache_is_mapped_until_it_is_made_resident(pictures, pack):
    data = folder_set(pack(pictures(12)), resident=False, num_workers=0)
    assert isinstance(data.train_dataloader().batches.arrays.images, MappedImages)
    resident = folder_set(data.path)
    assert isinstance(resident.train_dataloader().batches.arrays.images, torch.Tensor)
    for one, other in zip(data.train_dataloader(), resident.train_dataloader(), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.gz"])
def test_images_are_read_in_the_order_of_their_names(kind, pictures, pack, genlab_data):
    files = pictures(5)
    images, paths, skipped = read_images(pack(dict(reversed(files.items())), kind), **SHAPE)
    assert images.dtype == torch.uint8 and torch.equal(images, decoded(files))
    assert paths == sorted(files) and skipped == [] and not genlab_data.exists()


def test_one_image_is_read(pictures, pack):
    files = pictures(2)
    images, paths, _ = read_images(pack(files) / "b/1.png", **SHAPE)
    assert paths == ["1.png"] and torch.equal(images[0], decoded(files)[1])


def test_images_that_cannot_be_read_are_named_or_skipped_as_asked(pictures, pack):
    files = pictures(3)
    path = pack(files | {"a/bad.png": b"x"})
    with pytest.raises(DataError, match=r"^a/bad\.png: "):
        read_images(path, **SHAPE)
    images, paths, skipped = read_images(path, **SHAPE, on_error="skip")
    assert paths == sorted(files) and torch.equal(images, decoded(files))
    assert len(skipped) == 1 and skipped[0].startswith("a/bad.png: ")
    with pytest.raises(DataError, match=r"a/bad\.png: "):
        read_images(path / "a/bad.png", **SHAPE, on_error="skip")


@pytest.mark.parametrize(
    "shape",
    [(4, 6, 6), (4, 6, 6, 1), (4, 1, 6, 6), (4, 6, 6, 3), (4, 3, 6, 6), (4, 5, 6, 4), (1, 6, 4)],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_npz_is_read_in_any_layout(shape, channels, noise, tmp_path):
    pixels = noise(*shape)
    np.savez(tmp_path / "x.npz", images=pixels, labels=np.arange(4))
    images, paths, skipped = read_images(tmp_path / "x.npz", **SHAPE | {"channels": channels})
    if len(shape) == 4:
        pixels = pixels.transpose(0, 2, 3, 1) if shape[1] in (1, 3) else pixels
        pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    transform = Transform(**SHAPE | {"channels": channels})
    expected = np.stack([transform(Image.fromarray(picture)) for picture in pixels])
    assert torch.equal(images, torch.from_numpy(expected))
    assert paths == [f"x.npz[{row}]" for row in range(len(pixels))] and skipped == []


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"pictures": np.zeros((2, 6, 6), np.uint8)},
        {"images": np.full((2, 6, 6), 1.5, np.float32)},  # floats are in [-1, 1]
        {"images": np.full((2, 6, 6), np.nan, np.float32)},
        {"images": np.zeros((6, 6), np.uint8)},
        {"images": np.zeros((0, 6, 6), np.uint8)},
        {"images": np.zeros((2, 6, 6, 5), np.uint8)},
        {"images": np.uint8(3)},
    ],
)
def test_an_npz_of_anything_else_is_refused_by_name(arrays, tmp_path):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=r"x\.npz: .*`images`"):
        read_images(tmp_path / "x.npz", **SHAPE)


def test_an_npz_of_floats_as_genlab_samples_them_is_read_back(noise, tmp_path):
    pixels = noise(4, 6, 6)
    np.savez(tmp_path / "x.npz", images=pixels[:, None].astype(np.float32) / 127.5 - 1)
    images, _, _ = read_images(tmp_path / "x.npz", **SHAPE | {"channels": 1})
    assert (images.numpy()[:, 0] == pixels).all()


def test_an_npz_that_does_not_fit_the_options_is_refused_by_name(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 9, 9), np.uint8))
    with pytest.raises(DataError, match=r"x\.npz: data\.crop=12 .*9x9"):
        read_images(tmp_path / "x.npz", **SHAPE | {"crop": 12})


def test_an_object_array_is_refused_by_name_and_never_unpickled(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.array([Pickled(tmp_path / "executed")], dtype=object))
    np.save(tmp_path / "y.npy", np.array([Pickled(tmp_path / "executed")], dtype=object))
    os.rename(tmp_path / "y.npy", tmp_path / "y.npz")
    for name in ("x.npz", "y.npz"):
        with pytest.raises(DataError, match=rf"{name}: "):
            read_images(tmp_path / name, **SHAPE)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "content", [b"", b"x", b"PK\x03\x04 and no more", b"\x93NUMPY\x01\x00v\x00{'descr': '|u1'}"]
)
def test_a_damaged_npz_is_refused_by_name(content, tmp_path):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.npz: "):
        read_images(tmp_path / "x.npz", **SHAPE)


def test_a_damaged_picture_in_an_npz_is_refused_by_name(noise, tmp_path, flip_byte):
    np.savez(tmp_path / "x.npz", images=noise(4, 6, 6))
    flip_byte(tmp_path / "x.npz", 250)
    with pytest.raises(DataError, match=r"x\.npz: .*BadZipFile"):
        read_images(tmp_path / "x.npz", **SHAPE)


def test_pictures_of_ones_own_that_are_too_large_are_made_to_fit(tmp_path):
    Image.new("L", (64, 32), 200).save(tmp_path / "wide.png")
    images, _, _ = read_images(tmp_path, 16, 1, "none", "pad")
    assert images.shape == (1, 1, 16, 16)
    top, middle, bottom = images[0, 0].split([4, 8, 4])
    assert (middle == 200).all() and not top.any() and not bottom.any()
