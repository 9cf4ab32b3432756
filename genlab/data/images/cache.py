"""Images decoded once into a memory-mapped file.

A JSON manifest beside the file says what it was made from.
"""

import contextlib
import glob
import hashlib
import json
import logging
import math
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from genlab.data.images.arrays import MappedImages
from genlab.data.images.decode import Transform
from genlab.data.images.source import decode_all, keep_or_raise, list_names, report_skipped, stamp
from genlab.errors import DataError
from genlab.files import allocate, data_root
from genlab.reading import is_intact, read_json, seal

__all__ = ["Decoded", "cached_images"]

VERSION = 2
BLOCK_BYTES = 1 << 20
BLOCKS = 1024
log = logging.getLogger(__name__)


def _blocks_digest(file: Path) -> str:
    """sha256 of a file up to 1 GiB; of a larger one, of 1024 evenly spaced blocks of 1 MiB."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size <= BLOCKS * BLOCK_BYTES:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        digest = hashlib.sha256()
        last = size - BLOCK_BYTES
        for block in range(BLOCKS):
            stream.seek(last * block // (BLOCKS - 1))
            digest.update(stream.read(BLOCK_BYTES))
    return digest.hexdigest()


class _Manifest(BaseModel):
    """What the JSON file of a cache must say; its checksum covers the rest."""

    data: str
    complete: bool
    version: int
    source: str
    shape: list[int]
    sha256: str
    blocks: str
    names: list[str]
    rows: list[int]
    skipped: list[str]
    checksum: str


def _trusted(manifest_file: Path, source: str) -> dict | None:
    """The manifest of a cache that is whole and made from `source`; else None, with a warning."""
    if not manifest_file.exists():
        return None
    try:
        manifest = read_json(manifest_file, _Manifest)
        data = manifest_file.with_name(manifest["data"])
        if not (manifest["complete"] and manifest["version"] == VERSION):
            reason = "is incomplete or of another version"
        elif manifest["source"] != source:
            reason = "is older than its source"
        elif data.stat().st_size != math.prod(manifest["shape"]):
            reason = "is truncated"
        elif not is_intact(manifest) or _blocks_digest(data) != manifest["blocks"]:
            reason = "is damaged"
        else:
            return manifest
    except (OSError, ValueError) as error:
        reason = f"cannot be read ({error})"
    log.warning("the image cache %s %s; it is made anew", manifest_file, reason)
    return None


@contextlib.contextmanager
def _temporary(file: Path) -> Iterator[Path]:
    """A file beside another that no other process uses, gone at the end unless it was renamed."""
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(8)}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        yield temporary
    except OSError as error:
        if error.filename not in (None, str(temporary), str(file.parent)):
            raise
        raise DataError(
            f"{file.parent} cannot be written ({error.strerror}); "
            "set GENLAB_DATA to a folder with room"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _build(
    path: Path, transform: Transform, on_error: str, manifest_file: Path, source: str
) -> dict:
    """Decodes all images and writes the data file, then the manifest.

    Each of the two is complete or not there at all.
    """
    left_out: Counter[str] = Counter()
    names = list_names(path, left_out)
    shape = (len(names), transform.channels, transform.image_size, transform.image_size)
    with _temporary(manifest_file) as temporary:
        _reserve(temporary, math.prod(shape), path)
        rows, skipped = _decode_into(temporary, shape, path, names, transform, on_error)
        with temporary.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        data = manifest_file.with_name(f"{manifest_file.stem}-{sha256[:16]}.u8")
        manifest = {
            "version": VERSION,
            "path": str(path.resolve()),
            "source": source,
            **asdict(transform),
            "data": data.name,
            "shape": shape,
            "sha256": sha256,
            "blocks": _blocks_digest(temporary),
            "names": names,
            "rows": rows,
            "skipped": skipped,
            "left_out": left_out,
            "complete": True,
        }
        os.replace(temporary, data)
    with _temporary(manifest_file) as temporary:
        temporary.write_text(json.dumps(seal(manifest)))
        os.replace(temporary, manifest_file)
    for old in manifest_file.parent.glob(f"{glob.escape(manifest_file.stem)}-*.u8"):
        if old != data:
            old.unlink(missing_ok=True)
    return manifest


def _reserve(file: Path, size: int, path: Path) -> None:
    """Takes the disk space of `size` bytes; DataError where there is too little."""
    free = shutil.disk_usage(file.parent).free
    if size > free:
        raise DataError(
            f"{path} needs {size / 2**30:.1f} GiB, {file.parent} has {free / 2**30:.1f} free; "
            "set GENLAB_DATA to a folder with more room, or lower data.image_size"
        )
    with file.open("wb") as stream:
        allocate(stream, size)


def _decode_into(
    file: Path,
    shape: tuple[int, ...],
    path: Path,
    names: list[str],
    transform: Transform,
    on_error: str,
) -> tuple[list[int], list[str]]:
    """Writes the images of `path` into `file`: (the rows that hold one, what was skipped)."""
    images = np.memmap(file, np.uint8, "r+", shape=shape)
    row_of = {name: row for row, name in enumerate(names)}
    kept: set[int] = set()
    skipped: list[str] = []
    for name, result in decode_all(path, len(names), transform):
        if name in row_of and keep_or_raise(result, on_error, skipped):
            images[row_of[name]] = result
            kept.add(row_of[name])
    report_skipped(path, skipped, len(names))
    images.flush()
    return sorted(kept), skipped


@dataclass
class Decoded:
    """The images of a folder or archive.

    Attributes:
        images: uint8 (N, C, S, S), in the order of their names.
        names: Of the N images.
        skipped: The images that cannot be used, each with the reason.
        sha256: Of the images.
        left_out: How many files are not images, by suffix or another reason.
    """

    images: MappedImages
    names: list[str]
    skipped: list[str]
    sha256: str
    left_out: dict[str, int] = field(default_factory=dict)


def cached_images(path: Path, transform: Transform, on_error: str) -> Decoded:
    """The images of a folder or archive, read from the cache below $GENLAB_DATA.

    They are decoded first where the cache lacks them, is damaged or is older than its source.

    Args:
        path: A folder, .zip or tar.
        transform: How an image is cropped and resized; each way has a cache of its own.
        on_error: `raise` or `skip` an image that cannot be used.

    Raises:
        DataError: There are no images, one cannot be used, or the cache cannot be written.
    """
    source = stamp(path)
    key = json.dumps([str(path.resolve()), asdict(transform)])
    key = hashlib.sha256(key.encode()).hexdigest()[:16]
    manifest_file = data_root() / "cache" / f"{path.resolve().name}-{key}.json"
    manifest = _trusted(manifest_file, source)
    if manifest is None:
        manifest = _build(path, transform, on_error, manifest_file, source)
    if manifest["skipped"] and on_error != "skip":
        keep_or_raise(DataError(manifest["skipped"][0]), on_error, [])
    rows = np.array(manifest["rows"], np.int64)
    images = MappedImages(manifest_file.with_name(manifest["data"]), tuple(manifest["shape"]), rows)
    names = [manifest["names"][row] for row in rows]
    left_out = manifest.get("left_out", {})
    return Decoded(images, names, manifest["skipped"], manifest["sha256"], left_out)
