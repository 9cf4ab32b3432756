"""Folders, archives and single files as sources of images, whole and damaged."""

import io
import os
import tarfile
import zipfile

import numpy as np
import pytest

from genlab.data.images import source
from genlab.data.images.classes import folder_labels
from genlab.data.images.decode import Transform
from genlab.data.images.source import decode_all, entries, list_names, stamp
from genlab.errors import DataError

ARCHIVES = ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"]
PLAIN = Transform(6, 3, "none", "pad")


def read_all(path):
    """{name: bytes, or the exception met in reading it}."""
    return {name: source._attempt(read) for name, _, read in entries(path)}


@pytest.mark.parametrize("kind", ["folder", *ARCHIVES])
def test_a_folder_and_every_archive_give_the_same_names_and_bytes(kind, pictures, pack):
    files = pictures(5)
    path = pack(files | {"a/notes.txt": b"x", "b/labels.csv": b"y"}, kind)
    assert read_all(path) == files
    assert list_names(path) == sorted(files)


def test_one_picture_is_a_source_too(pictures, pack):
    files = pictures(2)
    assert read_all(pack(files) / "a/0.png") == {"0.png": files["a/0.png"]}


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_hidden_files_and_what_macos_adds_are_left_out(kind, pictures, pack):
    files = pictures(2)
    hidden = dict.fromkeys((".x.png", "a/._0.png", ".git/y.png", "__MACOSX/a/0.png"), b"x")
    assert read_all(pack(files | hidden, kind)) == files


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_suffixes_are_read_in_any_case(kind, pack):
    files = dict.fromkeys(("a.PNG", "b.JpEg", "c.tif"), b"x")
    assert read_all(pack(files, kind)) == files


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_names_that_leave_the_archive_write_nothing(kind, pictures, pack, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    data = pictures(1)["a/0.png"]
    names = ["../up.png", "a/../../up.png", f"{tmp_path}/absolute.png", "a/fine.png"]
    path = pack(dict.fromkeys(names, data), kind)
    before = sorted(tmp_path.rglob("*"))
    assert set(read_all(path).values()) == {data}
    assert {name for name, _ in decode_all(path, 1, PLAIN)} <= set(names)
    assert sorted(tmp_path.rglob("*")) == before


def test_links_in_a_tar_are_left_out(pictures, tmp_path):
    data, path = pictures(1)["a/0.png"], tmp_path / "links.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (
            ("soft.png", tarfile.SYMTYPE),
            ("hard.png", tarfile.LNKTYPE),
            ("pipe.png", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("real.png")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    assert read_all(path) == {"real.png": data}


def test_links_in_a_folder_are_followed_but_never_round_in_a_circle(pictures, pack):
    files = pictures(2)
    folder, elsewhere = pack(files), pack({"z.png": files["a/0.png"]}, name="elsewhere")
    (folder / "a/back").symlink_to(folder)
    (folder / "linked").symlink_to(elsewhere)
    (folder / "again").symlink_to(elsewhere)
    (folder / "b/file.png").symlink_to(folder / "a/0.png")
    (folder / "broken.png").symlink_to(folder / "nowhere.png")
    assert list_names(folder) == ["a/0.png", "again/z.png", "b/1.png", "b/file.png"]


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_cut_anywhere_is_named_or_whole(kind, pictures, pack):
    files = pictures(6)
    path = pack(files, kind)
    content = path.read_bytes()
    for length in range(1, len(content), 1 + len(content) // 60):
        path.write_bytes(content[:length])
        try:
            assert read_all(path) == files
        except DataError as error:
            assert str(path) in str(error)
            continue
        # Only what pads a tar after its last member may be missing.
        assert kind == "tar" and content[length:].strip(b"\0") == b"", length


@pytest.mark.parametrize("kind", ["tar.gz", "tar.bz2", "tar.xz"])
def test_a_compressed_archive_damaged_in_the_middle_is_named(kind, noise, encode, pack, flip_byte):
    files = {f"{row}.png": encode(noise(60, 60, 3, seed=row)) for row in range(8)}
    path = pack(files, kind)
    whole = path.read_bytes()
    for tenths in range(1, 10):
        path.write_bytes(whole)
        flip_byte(path, len(whole) * tenths // 10)
        with pytest.raises(DataError, match=rf"pictures\.{kind}[: ]"):
            read_all(path)


def test_a_tar_with_a_damaged_header_in_the_middle_is_named(pictures, pack, flip_byte):
    path = pack(pictures(6), "tar")
    flip_byte(path, path.read_bytes().index(b"b/3.png"))
    with pytest.raises(DataError, match=r"pictures\.tar: .*at byte"):
        read_all(path)


def test_a_tar_cut_between_two_members_is_named(pictures, pack):
    path = pack(pictures(6), "tar")
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"b/3.png")])
    with pytest.raises(DataError, match=r"pictures\.tar: "):
        read_all(path)


def test_a_damaged_member_of_a_zip_is_named_and_the_others_are_read(pictures, pack, flip_byte):
    files = pictures(4)
    path = pack(files, "zip")
    flip_byte(path, path.read_bytes().index(files["b/1.png"]) + 40)
    found = dict(decode_all(path, 4, PLAIN))
    error = found.pop("b/1.png")
    assert isinstance(error, DataError) and str(error).startswith("b/1.png: ")
    assert "BadZipFile" in str(error)
    assert list(found) == ["a/0.png", "a/2.png", "b/3.png"]
    assert all(isinstance(result, np.ndarray) for result in found.values())


def test_an_encrypted_member_of_a_zip_is_named(pictures, pack, flip_byte):
    path = pack(pictures(1), "zip")
    content = path.read_bytes()
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.index(signature) + offset
        content = content[:at] + b"\x01\x00" + content[at + 2 :]
    path.write_bytes(content)
    ((_, error),) = decode_all(path, 1, PLAIN)
    assert str(error).startswith("a/0.png: ") and "RuntimeError" in str(error)


def test_a_tar_that_ends_in_a_zip_is_read_as_a_tar(pictures, pack):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("inside.png", b"x")
    files = pictures(2)
    assert read_all(pack(files | {"last.zip": inner.getvalue()}, "tar")) == files


@pytest.mark.parametrize("name", ["nowhere", "notes.txt", "empty"])
def test_what_is_no_source_is_refused_by_name(name, tmp_path):
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=f"/{name}[ ;:]"):
        list_names(tmp_path / name)


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_a_file_too_large_for_a_picture_is_not_read(kind, pictures, pack, monkeypatch):
    files = pictures(2)
    monkeypatch.setattr(source, "MAX_FILE_BYTES", 1000)
    found = read_all(pack(files | {"bomb.png": b"\0" * 1001}, kind))
    assert isinstance(found.pop("bomb.png"), DataError) and found == files


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz"])
def test_decoding_keeps_the_order_of_the_source_over_chunks(kind, noise, encode, pack):
    pixels = noise(300, 2, 2, 3)
    path = pack({f"{row:03}.png": encode(image) for row, image in enumerate(pixels)}, kind)
    names, images = zip(*decode_all(path, 300, Transform(2, 3, "none", "pad")), strict=True)
    assert list(names) == [f"{row:03}.png" for row in range(300)]
    assert np.array_equal(np.stack(images), pixels.transpose(0, 3, 1, 2))


def test_the_stamp_of_a_folder_changes_with_any_of_its_pictures_only(pictures, pack):
    folder = pack(pictures(3))
    first = stamp(folder)
    (folder / "notes.txt").write_text("no picture")
    assert stamp(folder) == first
    os.utime(folder / "a/0.png", ns=(1, 1))
    touched = stamp(folder)
    (folder / "a/0.png").rename(folder / "a/00.png")
    renamed = stamp(folder)
    (folder / "a/00.png").unlink()
    assert len({first, touched, renamed, stamp(folder)}) == 4


def test_the_stamp_of_an_archive_changes_with_its_size_and_time(pictures, pack):
    path = pack(pictures(3), "zip")
    first = stamp(path)
    os.utime(path, ns=(1, 1))
    touched = stamp(path)
    path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, ns=(1, 1))
    assert len({first, touched, stamp(path)}) == 3


@pytest.mark.parametrize(
    ("names", "labels", "classes"),
    [
        (["cat/0.png", "dog/0.png", "cat/1.png"], [0, 1, 0], ["cat", "dog"]),
        (["set/train/dog/0.png", "set/train/cat/0.png"], [1, 0], ["cat", "dog"]),
        (["dog/x/0.png", "cat/y/z/0.png", "dog/0.png"], [1, 0, 1], ["cat", "dog"]),
        (["cat/0.png", "dog/0.png", "loose.png"], None, None),
        (["set/cat/0.png", "set/loose.png"], None, None),
        (["cat/0.png", "cat/1.png"], None, None),
        (["0.png", "1.png"], None, None),
        (["cat/0.png"], None, None),
    ],
)
def test_labels_are_the_first_folders_that_differ(names, labels, classes):
    found, names = folder_labels(names)
    assert (None if found is None else found.tolist()) == labels and names == classes
