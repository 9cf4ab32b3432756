"""Files that are never half written, and never written through a link."""

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from genlab.console import command
from genlab.errors import RunError

__all__ = [
    "FOLDERS",
    "allocate",
    "data_root",
    "disk_is_full",
    "explained",
    "on_disk",
    "refuse_links",
    "sweep_up",
    "unwritable",
    "write_bytes",
    "write_text",
    "writing",
]

FOLDERS = (
    "checkpoints",
    "samples",
    "eval",
)  # of a run directory, that genlab writes in; Hydra writes in .hydra

TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")  # the names that `writing` gives

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
    """One line about an error of the file system, its file and what to do; None where it is no such
    error.
    """
    if not isinstance(error, OSError) or error.errno not in ADVICE:
        return None
    path = error.filename if error.filename2 is None else error.filename2
    where = f"{os.fsdecode(path)}: " if isinstance(path, str | bytes | os.PathLike) else ""
    return where + ADVICE[error.errno]


def allocate(file: BinaryIO, size: int) -> None:
    """Takes the room of `size` bytes for an empty open file; OSError where there is not as much.

    A file that is only said to be that long takes its room when it is written, and through a memory
    map a full disk is then a bus error, which ends the process.
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
    """Why files of `size` bytes together cannot be written into `folder`, which is made if missing;
    None if they can.
    """
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
            f"{error.filename or run_dir}: the disk is full. Free some space; then "
            f"`{command('train', run=run_dir)}` goes on from the last checkpoint, if there is one"
        ) from error


@contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """A new temporary file beside `path`, renamed to it at the end of the block; on an error `path`
    stays what it was.

    The folder is made where it is missing. A link named `path` is replaced, not followed. The
    temporary name cannot be guessed and ends in .tmp behind a dot, so that leftovers of a kill can
    be swept up. An OSError names `path`.
    """
    path, temporary = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A part of the name, so that a name of the greatest length can be written, too.
        handle, name = tempfile.mkstemp(
            prefix=f".{path.name[:60]}.", suffix=".tmp", dir=path.parent
        )
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


def refuse_links(run_dir: str | Path) -> None:
    """Checks a run directory before anything is written in it, as it may be somebody else's.

    A link would lead what is written out of the directory, and a named pipe would block. What
    loggers leave in folders of their own may hold links: genlab does not write there.

    Raises:
        RunError: An entry of the directory, or of a folder that genlab writes in, is neither a file
        nor a folder.
    """
    run_dir = Path(run_dir)
    for folder in (run_dir, *(run_dir / name for name in (*FOLDERS, ".hydra"))):
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in entries:
            if not (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)):
                kind = "a symbolic link" if entry.is_symlink() else "neither a file nor a folder"
                raise RunError(
                    f"{entry.path}: is {kind}, and genlab writes only into the run directory itself; remove it, or put "
                    "the file or folder itself in its place"
                )


def sweep_up(folder: Path) -> None:
    """Removes what a killed process left of `writing` in `folder`; nobody else may be writing
    there.
    """
    if not folder.is_dir() or folder.is_symlink():
        return
    for path in folder.iterdir():
        if TEMPORARY.fullmatch(path.name) and not path.is_dir():
            path.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Writes `content` whole or not at all; see `writing`."""
    with writing(path) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def write_text(path: str | Path, text: str) -> Path:
    """Writes `text` as UTF-8, whole or not at all; see `writing`."""
    return write_bytes(path, text.encode())


def data_root() -> Path:
    """The folder data are looked for, downloaded to and cached in: $GENLAB_DATA, else
    ~/.cache/genlab.
    """
    return Path(os.environ.get("GENLAB_DATA") or "~/.cache/genlab").expanduser()
