"""Where pictures come from: a folder tree, a .zip or tar, or one file; members are read in memory only."""

import hashlib
import itertools
import json
import logging
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TimeRemainingColumn
from torch import Tensor

from genlab.console import progress
from genlab.data.decode import DataError, Transform

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".jp2", ".j2k", ".bmp", ".dib", ".gif", ".webp")
SUFFIXES += (".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
MAX_FILE_BYTES = 1 << 28
Entry = tuple[str, list[int], Callable[[], bytes]]
log = logging.getLogger(__name__)


class _Rate(ProgressColumn):
    def render(self, task):
        return f"{task.finished_speed or task.speed or 0:.0f} images/s"


def _is_image(name: str) -> bool:
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and PurePosixPath(name).suffix.lower() in SUFFIXES


def _limited(size: int, read: Callable[[], bytes]) -> Callable[[], bytes]:
    def limited() -> bytes:
        if size > MAX_FILE_BYTES:
            raise DataError(f"{size} bytes, over the limit of {MAX_FILE_BYTES} for one image")
        return read()

    return limited


def _walk(root: Path) -> Iterator[Path]:
    """Files below root in sorted order, through links to folders but never twice into the same one."""
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        if os.path.realpath(folder) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(folder))
        folders.sort()
        yield from (Path(folder, file) for file in sorted(files))


def entries(path: Path) -> Iterator[Entry]:
    """(name, [size, stamp], read) of each picture; call read before drawing the next. Raises DataError."""
    if path.is_dir():
        for file in _walk(path):
            name = os.fsencode(file.relative_to(path).as_posix()).decode(errors="backslashreplace")  # not all are UTF-8
            if _is_image(name) and file.is_file():
                info = file.stat()
                yield name, [info.st_size, info.st_mtime_ns], _limited(info.st_size, file.read_bytes)
    elif not path.exists():
        raise DataError(f"{path} does not exist; give a folder, .zip or tar of images, or one image")
    elif path.suffix.lower() in SUFFIXES:
        info = path.stat()
        yield path.name, [info.st_size, info.st_mtime_ns], _limited(info.st_size, path.read_bytes)
    else:
        try:
            yield from _members(path)
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, lzma.LZMAError, zlib.error) as error:
            raise DataError(f"{path}: damaged archive ({type(error).__name__}: {error})") from None


class _Header(tarfile.TarInfo):
    """A member of a tar; damage is an error where tarfile would take it for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at byte {tarfile_.offset}") from None


def _members(path: Path) -> Iterator[Entry]:
    if tarfile.is_tarfile(path):  # asked first, as a tar that ends in a .zip would pass for one
        with tarfile.open(path, tarinfo=_Header) as archive:
            for member in archive:
                if _is_image(member.name) and member.isreg():
                    read = _limited(member.size, lambda member=member: archive.extractfile(member).read())
                    yield str(PurePosixPath(member.name)), [member.size, int(member.mtime)], read
            while archive.fileobj.read(1 << 20):  # to the checksum of a compressed one
                pass
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if _is_image(member.filename) and not member.is_dir():
                    read = _limited(member.file_size, lambda member=member: archive.read(member))
                    yield str(PurePosixPath(member.filename)), [member.file_size, member.CRC], read
    else:
        raise DataError(f"{path} is neither an image nor a folder, .zip or tar of images, or damaged at its start")


def list_names(path: Path) -> list[str]:
    """The sorted names of the pictures in a source; raises DataError if there is none."""
    names = sorted({name for name, _, _ in entries(path)})
    if not names:
        raise DataError(f"{path} holds no images; looked for files ending in {' '.join(SUFFIXES)}")
    return names


def stamp(path: Path) -> str:
    """A short string that changes when any picture is added, removed, resized or touched."""
    if path.is_dir():
        listing = sorted([name, *tag] for name, tag, _ in entries(path))
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()
    if not path.exists():
        raise DataError(f"{path} does not exist; give a folder, .zip or tar of images")
    return f"{path.stat().st_size}-{path.stat().st_mtime_ns}"


def _attempt(function: Callable, *args):
    try:
        return function(*args)
    except Exception as error:
        return error


def decode_all(path: Path, total: int, transform: Transform) -> Iterator[tuple[str, np.ndarray | DataError]]:
    """(name, uint8 (C, S, S) or the error met) in the order of the source, with a progress bar to total."""

    def decode(item):
        name, data = item
        if isinstance(data, Exception):
            return DataError(f"{name}: cannot be read ({type(data).__name__}: {data})")
        return _attempt(transform.decode, name, data)

    columns = ["{task.description}", BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn()]
    with ThreadPoolExecutor() as pool, progress(*columns) as bar:
        task = bar.add_task(f"Decoding {path.name}", total=total)
        stream = entries(path)
        while chunk := [(name, _attempt(read)) for name, _, read in itertools.islice(stream, 256)]:
            for (name, _), result in zip(chunk, pool.map(decode, chunk), strict=True):
                yield name, result
            bar.advance(task, len(chunk))


def keep_or_raise(result: np.ndarray | DataError, on_error: str, skipped: list[str]) -> bool:
    """True for a picture; an error is raised, or noted in `skipped` where on_error is skip."""
    if not isinstance(result, Exception):
        return True
    if on_error != "skip":
        raise DataError(f"{result}; mend or remove it, or set on_error=skip")
    skipped.append(str(result))
    return False


def report_skipped(path: Path, skipped: list[str], total: int) -> None:
    """Warn about the pictures left out; raises DataError if that is all of them."""
    if len(skipped) >= total:
        raise DataError(f"{path}: none of its {total} images can be used; the first: {skipped[0]}")
    if skipped:
        log.warning("%s: skipped %d of %d images: %s", path, len(skipped), total, "; ".join(skipped[:3]))


def folder_labels(names: list[str]) -> tuple[Tensor | None, list[str] | None]:
    """Labels int64 (N,) and class names: the first folder of each name, below any folder common to all."""
    parts = [PurePosixPath(name).parts for name in names]
    depth = 0
    while len({part[: depth + 1] for part in parts}) == 1 and len(parts[0]) > depth + 1:
        depth += 1
    if any(len(part) < depth + 2 for part in parts):
        return None, None
    classes = sorted({part[depth] for part in parts})
    number = {name: label for label, name in enumerate(classes)}
    return torch.tensor([number[part[depth]] for part in parts]), classes
