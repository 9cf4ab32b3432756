"""An empty $GENLAB_DATA, and small pictures, folders and archives made on the spot."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TAR_MODES = {"tar": "w", "tar.gz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}


@pytest.fixture(autouse=True)
def genlab_data(tmp_path, monkeypatch):
    """$GENLAB_DATA, not there yet."""
    folder = tmp_path / "genlab-data"
    monkeypatch.setenv("GENLAB_DATA", str(folder))
    return folder


@pytest.fixture(scope="session")
def noise():
    """noise(height, width[, channels], seed=) -> uint8 pixels."""

    def make(*shape, seed=0):
        return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)

    return make


@pytest.fixture(scope="session")
def encode():
    """encode(pixels or image, format, **options) -> the bytes of a picture file."""

    def make(image, format="PNG", **options):
        image = image if isinstance(image, Image.Image) else Image.fromarray(image)
        stream = io.BytesIO()
        image.save(stream, format, **options)
        return stream.getvalue()

    return make


@pytest.fixture(scope="session")
def pictures(noise, encode):
    """pictures(count) -> {"a/0.png": bytes, "b/1.png": ..., "a/2.png": ...}, 6x6 RGB, all
    different.
    """

    def make(count):
        return {
            f"{'ab'[row % 2]}/{row}.png": encode(noise(6, 6, 3, seed=row)) for row in range(count)
        }

    return make


@pytest.fixture
def pack(tmp_path):
    """pack(files, kind, name="pictures") -> the path of a folder, zip or tar of {name: bytes}."""

    def make(files, kind="folder", name="pictures"):
        path = tmp_path / (name if kind == "folder" else f"{name}.{kind}")
        if kind == "folder":
            for member, data in files.items():
                (path / member).parent.mkdir(parents=True, exist_ok=True)
                (path / member).write_bytes(data)
        elif kind == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                for member, data in files.items():
                    archive.writestr(member, data)
        else:
            with tarfile.open(path, TAR_MODES[kind]) as archive:
                for member, data in files.items():
                    info = tarfile.TarInfo(member)
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
        return path

    return make


@pytest.fixture(scope="session")
def flip_byte():
    """flip_byte(file, position): damage one byte of a file, negative positions from its end."""

    def flip(file, position):
        content = bytearray(file.read_bytes())
        content[position] ^= 0xFF
        file.write_bytes(content)

    return flip


@pytest.fixture(scope="session")
def write_idx():
    """write_idx(folder, train=12, test=4, suffix="", seed=0) -> pixels and labels of four IDX files
    of 28x28.
    """

    def write(folder, train=12, test=4, suffix="", seed=0):
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        random, parts = np.random.default_rng(seed), []
        for part, count in (("train", train), ("t10k", test)):
            images = random.integers(0, 256, (count, 28, 28), np.uint8)
            labels = (np.arange(count) % 10).astype(np.uint8)
            for name, array in (("images-idx3", images), ("labels-idx1", labels)):
                header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
                content = header + array.tobytes()
                file = folder / f"{part}-{name}-ubyte{suffix}"
                file.write_bytes(gzip.compress(content, 1) if suffix else content)
            parts += [images, labels]
        return parts

    return write
