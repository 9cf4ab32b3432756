"""Where images come from: a folder tree, a .zip or tar, or one file.

Members of an archive are read in memory; nothing of it is written to disk.
"""

import hashlib
import json
import logging
import os
import re
import stat
import struct
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TimeRemainingColumn

from genlab.console import progress
from genlab.data.images.decode import READS_AVIF, Transform, printable
from genlab.errors import DataError

__all__ = [
    "SUFFIXES",
    "decode_all",
    "entries",
    "keep_or_raise",
    "list_names",
    "report_left_out",
    "report_skipped",
    "stamp",
    "summary",
]

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".jp2", ".j2k", ".bmp", ".dib")
SUFFIXES += (".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
SUFFIXES += (".avif",) if READS_AVIF else ()
# The first bytes of an image that has no suffix. PPM is not among them: a text can start like one.
STARTS = (
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF....WEBP|II\*\0|MM\0\*"
    rb"|BM.{4}\0{4}|\0\0\0\x0cjP  \r\n"
)
KNOWN_START = re.compile(STARTS + (rb"|.{4}ftypavif" if READS_AVIF else b""), re.DOTALL)
MAX_FILE_BYTES = 1 << 28  # of one image, packed or not
MAX_ENTRIES = 4_000_000  # of an archive; ImageNet has 1.3 million
MAX_DIRECTORY_BYTES = 1 << 28  # of a zip, whose list of members is read into memory, tenfold
MAX_HEADER_BYTES = 1 << 20  # of a tar's long names, read into memory as well
READ_WHOLE = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
# A member of a zip is refused if it is larger than SUSPECT_BYTES and packed SUSPECT_RATIO times
# smaller: no image packs like that.
SUSPECT_BYTES = 1 << 24
SUSPECT_RATIO = 100
CHUNK = 256  # files, of CHUNK_BYTES in all, that are read before they are decoded in parallel
CHUNK_BYTES = 1 << 26
# Raise it with a change to what counts as an image or to how one is decoded: caches are made anew.
RULES = 2
# (name, [size, stamp], a function that reads the bytes)
Entry = tuple[str, list[int], Callable[[], bytes]]
log = logging.getLogger(__name__)


class _Rate(ProgressColumn):
    def render(self, task):
        return f"{task.finished_speed or task.speed or 0:.0f} images/s"


class _Sieve:
    """Tells images from other files, and counts the others by the reason in `left_out`."""

    def __init__(self, left_out: Counter[str]) -> None:
        self.left_out = left_out

    def keeps(
        self, name: str, regular: bool, start: Callable[[], bytes], packed: bool = False
    ) -> bool:
        """Whether a file is an image. Hidden files and those that macOS adds are not even counted.

        Args:
            name: Of the file.
            regular: It is neither a link nor a device.
            start: Reads its first bytes.
            packed: It lies in an archive.
        """
        path = PurePosixPath(name)
        hidden = (part.startswith(".") and part != ".." for part in path.parts)
        if "__MACOSX" in path.parts or any(hidden):
            return False
        if packed and (path.is_absolute() or ".." in path.parts):
            self.left_out["with a name that leads out of the archive"] += 1
        elif not regular:
            self.left_out["link or device" if packed else "link to nothing or device"] += 1
        elif _is_image(path, start):
            return True
        else:
            self.left_out[printable(path.suffix) or "without suffix"] += 1
        return False


def _is_image(path: PurePosixPath, start: Callable[[], bytes]) -> bool:
    """Whether a file is an image by its suffix or, where it has none, by its first bytes."""
    return path.suffix.lower() in SUFFIXES or bool(not path.suffix and KNOWN_START.match(start()))


def _utf8(name: str) -> str:
    """A name that can be written as UTF-8: bytes that are not UTF-8 become escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _limited(
    size: int, read: Callable[[], bytes], packed: int | None = None
) -> Callable[[], bytes]:
    """`read`, but it refuses a file of too many bytes.

    Args:
        size: Bytes of the file.
        read: Reads it.
        packed: Bytes that it takes in its archive, where that is known.
    """

    def limited() -> bytes:
        if size > MAX_FILE_BYTES:
            raise DataError(f"{size} bytes, over the limit of {MAX_FILE_BYTES} for one image")
        if packed is not None and size > max(SUSPECT_BYTES, SUSPECT_RATIO * packed):
            raise DataError(f"{size} bytes packed into {packed}: no image packs like that")
        return read()

    return limited


def _walk(root: Path, left_out: Counter[str]) -> Iterator[Path]:
    """Files below root in sorted order; links to folders are followed, each folder once."""
    seen = set()

    def count(error: OSError) -> None:
        left_out["folder that cannot be opened"] += 1

    for folder, folders, files in os.walk(root, onerror=count, followlinks=True):
        if os.path.realpath(folder) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(folder))
        folders.sort()
        yield from (Path(folder, file) for file in sorted(files))


def _start(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(16)
    except OSError:
        return b""


def entries(path: Path, left_out: Counter[str] | None = None) -> Iterator[Entry]:
    """(name, [size, stamp], read) of each image; call read before the next entry is taken.

    Args:
        path: A folder, .zip or tar, or one image.
        left_out: Counts the other files, by suffix or another reason; complete after the last
            entry.

    Raises:
        DataError: There is no such source, or it is damaged.
    """
    sieve = _Sieve(Counter() if left_out is None else left_out)
    if path.is_dir():
        for file in _walk(path, sieve.left_out):
            name = file.relative_to(path).as_posix()
            if sieve.keeps(name, file.is_file(), lambda file=file: _start(file)):
                yield _file_entry(file, name)
    elif not path.exists():
        raise DataError(
            f"{path} does not exist; give a folder, .zip or tar of images, or one image"
        )
    elif _is_image(path, lambda: _start(path)):
        yield _file_entry(path, path.name)
    else:
        try:
            yield from _members(path, sieve)
        except DataError:
            raise
        except Exception as error:  # zipfile and tarfile raise nearly anything on a damaged one
            raise DataError(f"{path}: damaged archive ({type(error).__name__}: {error})") from None


def _file_entry(file: Path, name: str) -> Entry:
    info = file.stat()
    stamp = [info.st_size, info.st_mtime_ns]
    return _utf8(name), stamp, _limited(info.st_size, file.read_bytes)


class _Header(tarfile.TarInfo):
    """A member of a tar. Damage is an error; tarfile would take it for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        header = super().frombuf(buf, encoding, errors)
        if header.type in READ_WHOLE and header.size > MAX_HEADER_BYTES:
            raise tarfile.InvalidHeaderError(f"a header of {header.size} bytes")
        return header

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at byte {tarfile_.offset}") from None


def _members(path: Path, sieve: _Sieve) -> Iterator[Entry]:
    if tarfile.is_tarfile(path):  # asked first, as a tar that ends in a .zip would pass for one
        yield from _tar_members(path, sieve)
    elif zipfile.is_zipfile(path):
        yield from _zip_members(path, sieve)
    else:
        raise DataError(
            f"{path} is neither an image nor a folder, .zip or tar of images, "
            "or it is damaged at its start"
        )


def _tar_members(path: Path, sieve: _Sieve) -> Iterator[Entry]:
    with tarfile.open(path, tarinfo=_Header) as archive:
        for count, member in enumerate(archive):
            _check_count(path, count)
            archive.members.clear()  # it would keep them all
            if member.isdir():
                continue
            start = partial(_tar_read, archive, member, 16)
            if sieve.keeps(member.name, member.isreg(), start, packed=True):
                name = _utf8(str(PurePosixPath(member.name)))
                read = _limited(member.size, partial(_tar_read, archive, member))
                yield name, [member.size, int(member.mtime)], read
        while archive.fileobj.read(1 << 20):  # to the checksum of a compressed one
            pass


def _tar_read(archive: tarfile.TarFile, member: tarfile.TarInfo, size: int = -1) -> bytes:
    return archive.extractfile(member).read(size)


def _zip_members(path: Path, sieve: _Sieve) -> Iterator[Entry]:
    _check_directory(path)
    with zipfile.ZipFile(path) as archive:
        _check_count(path, len(archive.filelist))
        for member in archive.infolist():
            if member.is_dir():
                continue
            start = partial(_zip_start, archive, member)
            regular = not stat.S_ISLNK(member.external_attr >> 16)
            if sieve.keeps(member.filename, regular, start, packed=True):
                name = _utf8(str(PurePosixPath(member.filename)))
                read = partial(archive.read, member)
                read = _limited(member.file_size, read, member.compress_size)
                yield name, [member.file_size, member.CRC], read


def _zip_start(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    try:
        with archive.open(member) as stream:
            return stream.read(16)
    except Exception:  # zipfile raises nearly anything on a damaged or encrypted member
        return b""


def _check_count(path: Path, count: int) -> None:
    if count > MAX_ENTRIES:
        raise DataError(
            f"{path}: more than {MAX_ENTRIES:,} entries, the limit for one archive; "
            "unpack it into a folder"
        )


def _check_directory(path: Path) -> None:
    """Raises DataError if the list of a zip's members is too long: zipfile reads it whole."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 16) - 100))
        tail = file.read()
    end = tail.rfind(b"PK\5\6")
    end64 = tail.rfind(b"PK\6\6")
    sizes = [struct.unpack_from("<I", tail, end + 12)[0]] if 0 <= end <= len(tail) - 16 else []
    if sizes == [0xFFFFFFFF]:  # the size is in the record of Zip64
        found = 0 <= end64 <= len(tail) - 48
        sizes = [struct.unpack_from("<Q", tail, end64 + 40)[0]] if found else []
    if max(sizes, default=0) > MAX_DIRECTORY_BYTES:
        raise DataError(
            f"{path}: its list of members takes {sizes[0]} bytes, over the limit; "
            "unpack it into a folder"
        )


def list_names(path: Path, left_out: Counter[str] | None = None) -> list[str]:
    """The sorted names of the images in a source; DataError if there is none.

    Args:
        path: A folder, .zip or tar, or one image.
        left_out: Counts the other files, by suffix or another reason.
    """
    left_out = Counter() if left_out is None else left_out
    names = sorted({name for name, _, _ in entries(path, left_out)})
    if not names:
        others = f" It holds {summary(left_out)}." if left_out else ""
        raise DataError(
            f"{path} holds no images; looked for files ending in {' '.join(SUFFIXES)}.{others}"
        )
    return names


def summary(left_out: dict[str, int], most: int = 6) -> str:
    """Counts of files by reason, the most frequent first, as in `5 .HEIC, 1 without suffix`."""
    counts = Counter(left_out).most_common()
    parts = [f"{count} {reason}" for reason, count in counts[:most]]
    rest = sum(count for _, count in counts[most:])
    return ", ".join(parts + ([f"{rest} others"] if rest else []))


def stamp(path: Path) -> str:
    """A short string that changes when any image is added, removed, resized or touched."""
    if path.is_dir():
        listing = sorted([name, *tag] for name, tag, _ in entries(path))
        return hashlib.sha256(json.dumps([RULES, *listing]).encode()).hexdigest()
    if not path.exists():
        raise DataError(f"{path} does not exist; give a folder, .zip or tar of images")
    return f"{RULES}-{path.stat().st_size}-{path.stat().st_mtime_ns}"


def _attempt(function: Callable, *args):
    try:
        return function(*args)
    except Exception as error:
        error.__context__ = None  # it would keep the bytes that the error is about
        return error.with_traceback(None)


def _chunks(stream: Iterator[Entry]) -> Iterator[list[tuple[str, bytes | Exception]]]:
    """The names and bytes of a few files at a time, bounded in number and in bytes."""
    chunk: list[tuple[str, bytes | Exception]] = []
    size = 0
    for name, (length, *_), read in stream:
        length = min(length, MAX_FILE_BYTES)
        if chunk and (len(chunk) == CHUNK or size + length > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append((name, _attempt(read)))
        size += length
    if chunk:
        yield chunk


def decode_all(
    path: Path, total: int, transform: Transform
) -> Iterator[tuple[str, np.ndarray | DataError]]:
    """(name, uint8 (C, S, S) or the error) of each image in the order of the source.

    Args:
        path: A folder, .zip or tar, or one image.
        total: How many images there are, for the progress bar.
        transform: How an image is cropped and resized.
    """

    def decode(item):
        name, data = item
        if isinstance(data, Exception):
            return DataError(f"{printable(name)}: cannot be read ({type(data).__name__}: {data})")
        return _attempt(transform.decode, name, data)

    columns = [
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    ]
    with ThreadPoolExecutor() as pool, progress(*columns) as bar:
        task = bar.add_task(f"Decoding {path.name}", total=total)
        for chunk in _chunks(entries(path)):
            for (name, _), result in zip(chunk, pool.map(decode, chunk), strict=True):
                yield name, result
            bar.advance(task, len(chunk))
            chunk.clear()  # before the next is read


def keep_or_raise(result: np.ndarray | DataError, on_error: str, skipped: list[str]) -> bool:
    """True for an image; an error is raised or, where on_error is skip, noted in `skipped`."""
    if not isinstance(result, Exception):
        return True
    if on_error != "skip":
        raise DataError(f"{result}; mend or remove it, or set on_error=skip")
    skipped.append(str(result))
    return False


def report_skipped(path: Path, skipped: list[str], total: int) -> None:
    """Warns about skipped images; DataError if none of `total` is left."""
    if len(skipped) >= total:
        raise DataError(f"{path}: none of its {total} images can be used; the first: {skipped[0]}")
    if skipped:
        log.warning(
            "%s: skipped %d of %d images: %s", path, len(skipped), total, "; ".join(skipped[:3])
        )


def report_left_out(path: Path, left_out: dict[str, int]) -> None:
    """Warns about the files of a source that are not images."""
    if left_out:
        log.warning("%s: left out %d files: %s", path, sum(left_out.values()), summary(left_out))
