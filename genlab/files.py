"""Write files whole or not at all, and never through a link."""

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
    "explain_error",
    "refuse_links",
    "report_full_disk",
    "sweep_up",
    "why_unwritable",
    "write_bytes",
    "write_text",
    "writing",
]

# The folders of a run directory in which genlab writes; Hydra writes in .hydra.
FOLDERS = ("checkpoints", "samples", "eval")

TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")  # the names that `writing` gives

# What is wrong and what to do, by the error number of the file system
ADVICE = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the quota of this disk is used up; free some space",
    errno.EFBIG: "the file is larger than allowed; raise the limit (ulimit -f)",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "no permission; choose another folder, or change its permissions",
    errno.EPERM: "no permission; choose another folder, or change its permissions",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.ENOTDIR: "a part of this path is a file; move it away, or choose another folder",
    errno.EEXIST: "a file of this name exists; move it away, or choose another folder",
    errno.EISDIR: "a folder of this name exists; move it away, or choose another name",
    errno.ENOTEMPTY: "a folder of this name exists; move it away, or choose another name",
    errno.ELOOP: "the links form a loop; choose another folder",
    errno.ENOENT: "no such file or folder",
    errno.EIO: "the disk failed to read or write; copy your files to another disk",
}


def disk_is_full(error: BaseException) -> bool:
    """Whether `error` says that the disk, or the user's quota, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def explain_error(error: BaseException) -> str | None:
    """Explain an error of the file system in one line: the file, what is wrong, and what to do.

    Returns:
        The line; None for any other error.
    """
    if not isinstance(error, OSError) or error.errno not in ADVICE:
        return None
    path = error.filename if error.filename2 is None else error.filename2
    where = f"{os.fsdecode(path)}: " if isinstance(path, str | bytes | os.PathLike) else ""
    return where + ADVICE[error.errno]


def allocate(file: BinaryIO, size: int) -> None:
    """Reserve `size` bytes on the disk for an empty open file.

    Setting the length alone would reserve nothing. A full disk would then show as a bus error when
    a memory map of the file is written, which ends the process.

    Raises:
        OSError: There is not enough space.
    """
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        # This file system cannot reserve space; zeros take it, too.
        for start in range(0, size, 1 << 20):
            file.write(bytes(min(1 << 20, size - start)))
        file.flush()


def why_unwritable(folder: str | Path, size: int = 1 << 20) -> OSError | None:
    """Try whether `size` bytes can be written into `folder`, which is created if missing.

    Returns:
        The error of the file system; None if they can.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            allocate(file, size)
    except OSError as error:
        return error
    return None


@contextmanager
def report_full_disk(run_dir: Path) -> Iterator[None]:
    """Turn the error of a full disk into a RunError that says how to continue the run."""
    try:
        yield
    except OSError as error:
        if not disk_is_full(error):
            raise
        raise RunError(
            f"{error.filename or run_dir}: the disk is full. Free some space, then "
            f"`{command('train', run=run_dir)}` continues from the last checkpoint, if there is one"
        ) from error


@contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """Give the block a temporary file, which is renamed to `path` at the end.

    If the block fails, `path` stays as it was. The folder is created if missing. A link named
    `path` is replaced, not followed. The temporary name cannot be guessed. It begins with a dot and
    ends in .tmp, so that `sweep_up` finds what a killed process left.

    Args:
        path: The file to write.

    Yields:
        The path of the temporary file, in the same folder.

    Raises:
        OSError: As the file system raises it, with `path` as its file.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Only the beginning of the name, so that the temporary name is not too long.
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
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp lets nobody else read the file
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None or str(error.filename).endswith(".tmp"):
            error.filename = str(path)
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def refuse_links(run_dir: str | Path) -> None:
    """Check a run directory, which may come from somebody else, before anything is written in it.

    A link would lead files out of the directory, and a named pipe would block. The folders of
    loggers may hold links, because genlab does not write there.

    Raises:
        RunError: An entry of the directory, or of a folder in which genlab writes, is neither a
            file nor a folder.
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
                    f"{entry.path}: is {kind}, and genlab writes only inside the run directory; "
                    "remove it, or replace it by the file or folder itself"
                )


def sweep_up(folder: Path) -> None:
    """Remove the temporary files of `writing` in `folder`; no other process may write there now."""
    if not folder.is_dir() or folder.is_symlink():
        return
    for path in folder.iterdir():
        if TEMPORARY.fullmatch(path.name) and not path.is_dir():
            path.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write `content` whole or not at all; see `writing`."""
    with writing(path) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def write_text(path: str | Path, text: str) -> Path:
    """Write `text` as UTF-8, whole or not at all; see `writing`."""
    return write_bytes(path, text.encode())


def data_root() -> Path:
    """The folder for downloaded and cached data: $GENLAB_DATA, else ~/.cache/genlab."""
    return Path(os.environ.get("GENLAB_DATA") or "~/.cache/genlab").expanduser()
