"""Documents out of text and JSON-lines files of any size, plain, gzipped or compressed by zstd, one at a time."""

import gzip
import importlib.util
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genlab.data.decode import DataError

__all__ = ["read_documents"]

LONGEST = 1 << 20  # characters: a longer document of a text file comes in parts


@contextmanager
def opened(path: Path) -> Iterator[io.TextIOBase]:
    """The lines of a file, decompressed as its suffix says; DataError if that cannot be done to its end."""
    errors = (OSError, EOFError, zlib.error, UnicodeDecodeError)
    stream: object = None
    try:
        if path.suffix in (".zst", ".zstd"):
            if importlib.util.find_spec("zstandard") is None:
                raise DataError(f"{path}: to read it, pip install 'genlab[corpus]' for zstandard")
            import zstandard

            errors += (zstandard.ZstdError,)
            stream = zstandard.open(path, "rb")
        else:
            stream = gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # noqa: SIM115
        with stream, io.TextIOWrapper(stream, "utf-8-sig") as lines:
            yield lines
    except errors as error:
        raise DataError(f"{path}: not readable as UTF-8 text ({type(error).__name__}: {error}); is it cut off?") from None


def read_documents(path: Path, field: str = "text", on_error: str = "raise", skipped: list | None = None) -> Iterator[str]:
    """The documents of one file, the space around them left out, empty ones too.

    Text files: a blank line stands between documents. Files named .jsonl or .json: an object a line, whose `field` is the
    document; one that is not is an error, or, with on_error=skip, its place and the reason are added to `skipped`.
    """
    if on_error not in ("raise", "skip"):
        raise DataError(f"data.on_error={on_error}: expected raise or skip")
    bare = path.with_suffix("") if path.suffix in (".gz", ".zst", ".zstd") else path
    with opened(path) as lines:
        yield from (records(path, lines, field, on_error, skipped) if bare.suffix in (".jsonl", ".json") else texts(lines))


def texts(lines: io.TextIOBase) -> Iterator[str]:
    part: list[str] = []
    size = 0
    while line := lines.readline(LONGEST):
        blank = not line.strip()
        if part and (blank or size + len(line) > LONGEST):
            yield "".join(part).strip()
            part, size = [], 0
        if not blank:
            part.append(line)
            size += len(line)
    if part:
        yield "".join(part).strip()


def records(path: Path, lines: io.TextIOBase, field: str, on_error: str, skipped: list | None) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)[field]
            if not isinstance(text, str):
                raise TypeError(f"{field!r} is no text")
        except (ValueError, KeyError, TypeError) as error:
            why = f"there is no field {error}" if isinstance(error, KeyError) else str(error)
            if on_error == "raise":
                raise DataError(
                    f'{path}:{number}: expected an object with a text in "{field}" ({why}); name another one by data.field, '
                    "or leave such lines out by data.on_error=skip"
                ) from None
            if skipped is not None:
                skipped.append((f"{path}:{number}", why))
        else:
            if text.strip():
                yield text.strip()
