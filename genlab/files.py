"""Files that are never half written, and never written through a link."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from genlab.errors import RunError

__all__ = ["allocate", "disk_is_full", "explained", "on_disk", "unwritable", "write_bytes", "write_text", "writing"]

# What to do about what a file system refuses
ADVICE = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the quota of this disk is used up; free some space",
    errno.EFBIG: "larger than files may be here; raise the limit (ulimit -f)",
    errno.EROFS: "the file system is read-only; name another folder",
    errno.EACCES: "no permission; name another folder, or change its permissions",
    errno.EPERM: "no permission; name another folder, or change its permissions",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.ENOTDIR: "a part of this path is a file; move it away, or name another folder",
    errno.EEXIST: "a file of this name is in the way; move it away, or name another folder",
    errno.EISDIR: "a folder of this name is in the way; move it away, or choose another name",
    errno.ENOTEMPTY: "a folder of this name is in the way; move it away, or choose another name",
    errno.ELOOP: "links that lead in a circle; name another folder",
    errno.ENOENT: "no such file or folder",
    errno.EIO: "the disk failed to read or write; copy what is there to another one",
}


def disk_is_full(error: BaseException) -> bool:
    """Whether `error` says that a disk, or somebody's share of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def explained(error: BaseException) -> str | None:
    """One line about an error of the file system, its file and what to do; None where it is no such error."""
    if not isinstance(error, OSError) or error.errno not in ADVICE:
        return None
    path = error.filename if error.filename2 is None else error.filename2
    where = f"{os.fsdecode(path)}: " if isinstance(path, str | bytes | os.PathLike) else ""
    return where + ADVICE[error.errno]


def allocate(file: BinaryIO, size: int) -> None:
    """Takes the room of `size` bytes for an empty open file; OSError where there is not as much.

    A file that is only said to be that long takes its room when it is written, and through a memory map a full disk is then
    a bus error, which ends the process.
    """
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # of file systems that cannot
            raise
        for start in range(0, size, 1 << 20):
            file.write(bytes(min(1 << 20, size - start)))
        file.flush()


def unwritable(folder: str | Path, size: int = 1 << 20) -> OSError | None:
    """Why files of `size` bytes together cannot be written into `folder`, which is made if missing; None if they can."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            allocate(file, size)
    except OSError as error:
        return error
    return None


@contextmanager
def on_disk(run_dir: Path):
    """Turns an error of a full disk into a RunError that says how the run in `run_dir` goes on."""
    try:
        yield
    except OSError as error:
        if not disk_is_full(error):
            raise
        raise RunError(
            f"{error.filename or run_dir}: the disk is full. Free some space; then `genlab train run={run_dir}` goes on "
            "from the last checkpoint, if there is one"
        ) from error


@contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """A new temporary file beside `path`, renamed to it at the end of the block; on an error `path` stays what it was.

    The folder is made where it is missing. A link named `path` is replaced, not followed. The temporary name cannot be
    guessed and ends in .tmp behind a dot, so that leftovers of a kill can be swept up. An OSError names `path`.
    """
    path, temporary = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A part of the name, so that a name of the greatest length can be written, too.
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:60]}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        os.close(handle)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes files that nobody else can read
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None or str(error.filename).endswith(".tmp"):
            error.filename = str(path)
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Writes `content` whole or not at all; see `writing`."""
    with writing(path) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def write_text(path: str | Path, text: str) -> Path:
    """Writes `text` as UTF-8, whole or not at all; see `writing`."""
    return write_bytes(path, text.encode())
