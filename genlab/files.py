"""Files that are never half written, and never written through a link."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genlab.console import command
from genlab.errors import RunError

__all__ = ["disk_is_full", "on_disk", "write_bytes", "write_text", "writing"]


def disk_is_full(error: BaseException) -> bool:
    """Whether `error` says that a disk, or somebody's share of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


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
    """A new temporary file beside `path`, renamed to it at the end of the block; on an error `path` stays what it was.

    The folder is made where it is missing. A link named `path` is replaced, not followed. The temporary name cannot be
    guessed and ends in .tmp behind a dot, so that leftovers of a kill can be swept up.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes files that nobody else can read
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Writes `content` whole or not at all; see `writing`."""
    with writing(path) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def write_text(path: str | Path, text: str) -> Path:
    """Writes `text` as UTF-8, whole or not at all; see `writing`."""
    return write_bytes(path, text.encode())
