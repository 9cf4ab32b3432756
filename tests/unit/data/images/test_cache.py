"""The cache of decoded images: whole, of its source, and safe against damage and failures."""

import dataclasses
import json
import logging
import os
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from genlab.data.images import cache
from genlab.data.images.cache import cached_images
from genlab.data.images.decode import Transform
from genlab.errors import DataError
from genlab.files import data_root
from genlab.reading import seal

PLAIN = Transform(6, 3, "none", "pad")


@pytest.fixture
def decoded(monkeypatch):
    """The names of the pictures decoded so far."""
    names, decode = [], Transform.decode
    monkeypatch.setattr(
        Transform, "decode", lambda self, name, data: names.append(name) or decode(self, name, data)
    )
    return names


@pytest.fixture
def read(pictures, pack):
    """read() -> the pictures of a folder of four, through the cache."""
    folder = pack(pictures(4))
    return lambda on_error="raise": cached_images(folder, PLAIN, on_error)


def cache_files(root):
    """The one manifest and the one data file in the cache."""
    (manifest,) = (root / "cache").glob("*.json")
    (data,) = (root / "cache").glob("*.u8")
    return manifest, data


def expected(pictures, count=4):
    files = pictures(count)
    return torch.from_numpy(np.stack([PLAIN.decode(name, files[name]) for name in sorted(files)]))


@pytest.mark.parametrize(
    ("value", "folder"), [("~/sets", Path.home() / "sets"), ("", Path.home() / ".cache/genlab")]
)
def test_the_root_is_genlab_data_or_a_folder_of_the_user(value, folder, monkeypatch):
    monkeypatch.setenv("GENLAB_DATA", value)
    assert data_root() == folder


def test_pictures_come_in_the_order_of_their_names(read, pictures):
    found = read()
    assert found.names == ["a/0.png", "a/2.png", "b/1.png", "b/3.png"] and found.skipped == []
    assert torch.equal(found.images[:], expected(pictures))


def test_the_order_in_an_archive_does_not_matter(pictures, pack):
    files = pictures(4)
    found = cached_images(pack(dict(reversed(files.items())), "zip"), PLAIN, "raise")
    assert found.names == sorted(files) and torch.equal(found.images[:], expected(pictures))


def test_a_second_use_decodes_nothing(read, decoded):
    first = read()
    assert len(decoded) == 4
    again = read()
    assert len(decoded) == 4
    assert torch.equal(again.images[:], first.images[:])
    assert (again.names, again.skipped, again.sha256) == (first.names, first.skipped, first.sha256)


def rewrite(**changes):
    def change(manifest, data):
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changes))

    return change


def remake(**changes):
    """As rewrite, but with the checksum that belongs to the changes."""

    def change(manifest, data):
        content = json.loads(manifest.read_text()) | changes
        content.pop("checksum")
        manifest.write_text(json.dumps(seal(content)))

    return change


def flip(position):
    def change(manifest, data):
        content = bytearray(data.read_bytes())
        content[position] ^= 1
        data.write_bytes(content)

    return change


DAMAGE = {
    "the data are truncated": lambda manifest, data: os.truncate(data, 431),
    "the data are too long": lambda manifest, data: os.truncate(data, 433),
    "the data are gone": lambda manifest, data: data.unlink(),
    "the first bit is flipped": flip(0),
    "a bit in the middle is flipped": flip(200),
    "the last bit is flipped": flip(-1),
    "another version": remake(version=0),
    "incomplete": remake(complete=False),
    "another source": remake(source="x"),
    "another shape": remake(shape=[3, 3, 6, 6]),
    "a row that is not there": rewrite(rows=[0, 1, 2, 4]),
    "rows that are missing": rewrite(rows=[0, 1, 2]),
    "a name that was another": rewrite(names=["a/0.png", "a/2.png", "b/1.png", "c/3.png"]),
    "the manifest is empty": lambda manifest, data: manifest.write_text(""),
    "the manifest is cut": lambda manifest, data: manifest.write_text(manifest.read_text()[:-9]),
    "the manifest is binary": lambda manifest, data: manifest.write_bytes(b"\xff\xfe"),
    "the manifest is a list": lambda manifest, data: manifest.write_text("[]"),
    "the manifest is null": lambda manifest, data: manifest.write_text("null"),
    "the manifest lacks a key": lambda manifest, data: manifest.write_text('{"complete": true}'),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_made_anew(damage, read, pictures, decoded, genlab_data, caplog):
    read()
    DAMAGE[damage](*cache_files(genlab_data))
    decoded.clear()
    with caplog.at_level(logging.WARNING):
        found = read()
    assert len(decoded) == 4 and "the image cache" in caplog.text
    assert torch.equal(found.images[:], expected(pictures)) and found.names == sorted(pictures(4))
    cache_files(genlab_data)
    decoded.clear()
    read()
    assert decoded == []


@pytest.mark.parametrize("position", range(0, 250, 7))
def test_every_byte_of_data_up_to_64_blocks_is_checked(position, tmp_path, monkeypatch, flip_byte):
    monkeypatch.setattr(cache, "BLOCK_BYTES", 4)
    file = tmp_path / "x.u8"
    file.write_bytes(np.random.default_rng(0).bytes(250))
    digest = cache._blocks_digest(file)
    assert cache._blocks_digest(file) == digest
    flip_byte(file, position)
    assert cache._blocks_digest(file) != digest


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_changed_source_is_decoded_anew_and_the_old_data_are_removed(
    kind, pictures, pack, decoded, genlab_data
):
    files = pictures(4)
    cached_images(pack(files, kind), PLAIN, "raise")
    path = pack(files | {"a/0.png": files["b/1.png"]}, kind)
    os.utime(path / "a/0.png" if kind == "folder" else path, ns=(1, 1))
    decoded.clear()
    found = cached_images(path, PLAIN, "raise")
    assert len(decoded) == 4 and torch.equal(found.images[0], found.images[2])
    cache_files(genlab_data)


def test_added_and_removed_pictures_are_seen(pictures, pack):
    files = pictures(6)
    added = files.pop("a/4.png")
    folder = pack(files)
    assert len(cached_images(folder, PLAIN, "raise").names) == 5
    (folder / "a/4.png").write_bytes(added)
    assert cached_images(folder, PLAIN, "raise").names == sorted([*files, "a/4.png"])
    (folder / "b/1.png").unlink()
    found = cached_images(folder, PLAIN, "raise")
    assert "b/1.png" not in found.names and len(found.images) == 5


@pytest.mark.parametrize(
    "change", [{"image_size": 8}, {"channels": 1}, {"crop": 5}, {"resize": "box"}]
)
def test_each_way_to_decode_has_a_cache_of_its_own(change, pictures, pack, decoded):
    folder = pack(pictures(2))
    other = dataclasses.replace(PLAIN, **change)
    for transform in (PLAIN, other, PLAIN, other):
        found = cached_images(folder, transform, "raise")
        size = transform.image_size
        assert found.images.shape[1:] == (transform.channels, size, size)
    assert len(decoded) == 4


def test_folders_of_one_name_do_not_share_a_cache(pictures, pack):
    files = pictures(2)
    first = cached_images(pack({"0.png": files["a/0.png"]}, name="one/set[1]"), PLAIN, "raise")
    second = cached_images(pack({"0.png": files["b/1.png"]}, name="two/set[1]"), PLAIN, "raise")
    assert not torch.equal(first.images[0], second.images[0])


def test_data_of_a_folder_whose_name_is_a_pattern_are_replaced(pictures, pack, genlab_data):
    files = pictures(2)
    for name in files:
        folder = pack({"0.png": files[name]}, name="set[1]*?")
        os.utime(folder / "0.png", ns=(1, int(name[2])))
        cached_images(folder, PLAIN, "raise")
    cache_files(genlab_data)


def test_of_two_members_of_one_name_the_later_is_kept_as_tar_does(pictures, pack):
    files = pictures(2)
    archive = pack({"x.png": files["a/0.png"], "./x.png": files["b/1.png"]}, "tar")
    found = cached_images(archive, PLAIN, "raise")
    assert found.names == ["x.png"]
    later = torch.from_numpy(PLAIN.decode("x", files["b/1.png"]).copy())
    assert torch.equal(found.images[0], later)


def fail(*args, **kwargs):
    raise OSError("No space left on device")


def write_half_and_fail(self, text):
    self.write_bytes(text.encode()[:10])
    fail()


def interrupted(*args):
    yield "a/0.png", np.zeros((3, 6, 6), np.uint8)
    raise KeyboardInterrupt


FAILURES = {
    "decoding": (Transform, "decode", lambda *args: fail()),
    "interrupted": (cache, "decode_all", interrupted),
    "digesting": (cache, "_blocks_digest", fail),
    "renaming": (os, "replace", fail),
    "writing the manifest": (Path, "write_text", write_half_and_fail),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_while_building_leaves_no_manifest_and_no_temporary_file(
    failure, read, pictures, genlab_data
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*FAILURES[failure])
        with pytest.raises((OSError, DataError, KeyboardInterrupt)):
            read()
    assert {file.suffix for file in (genlab_data / "cache").iterdir()} <= {".u8"}
    assert torch.equal(read().images[:], expected(pictures))
    cache_files(genlab_data)


def test_too_little_disk_space_is_refused_by_name_before_anything_is_written(
    read, genlab_data, monkeypatch
):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=431))
    with pytest.raises(DataError, match=r"pictures .*GENLAB_DATA.*data\.image_size"):
        read()
    assert list((genlab_data / "cache").iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=432))
    assert len(read().images) == 4


def test_a_root_that_cannot_be_written_is_refused_by_name(read, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GENLAB_DATA", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"file/cache .*GENLAB_DATA"):
        read()


def test_processes_that_build_the_same_cache_at_once_all_succeed(
    read, pictures, genlab_data, monkeypatch
):
    barrier, build, found = threading.Barrier(3, timeout=20), cache._build, []
    monkeypatch.setattr(cache, "_build", lambda *args: barrier.wait() is None or build(*args))
    threads = [threading.Thread(target=lambda: found.append(read().images[:])) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and all(torch.equal(images, expected(pictures)) for images in found)
    cache_files(genlab_data)


def test_skipped_pictures_are_remembered_and_refused_to_whoever_does_not_skip(
    pictures, pack, decoded
):
    folder = pack(pictures(4) | {"a/bad.png": b"x"})
    found = cached_images(folder, PLAIN, "skip")
    again = cached_images(folder, PLAIN, "skip")
    assert found.names == again.names == sorted(pictures(4)) and len(decoded) == 5
    decoded.clear()
    assert len(again.skipped) == 1 and again.skipped[0].startswith("a/bad.png: ")
    with pytest.raises(DataError, match=r"a/bad\.png: .*on_error=skip"):
        cached_images(folder, PLAIN, "raise")
    assert decoded == []
    assert torch.equal(again.images[:], expected(pictures))


def test_the_manifest_says_what_the_data_are_made_of(read, genlab_data, tmp_path):
    found = read()
    manifest, data = cache_files(genlab_data)
    content = json.loads(manifest.read_text())
    assert content["path"] == str(tmp_path / "pictures") and content["data"] == data.name
    assert content["sha256"] == found.sha256 and content["shape"] == [4, 3, 6, 6]
    assert {key: content[key] for key in dataclasses.asdict(PLAIN)} == dataclasses.asdict(PLAIN)
