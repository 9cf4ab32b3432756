"""The IDX files of MNIST and its relatives."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from genlab.errors import DataError

__all__ = ["FILES", "find_idx", "read_idx"]

FILES = tuple(
    f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)


def find_idx(places: list[Path]) -> list[Path] | None:
    """The four files, plain or .gz, in the first place that has them all; None if none has.

    Their order is that of FILES; a plain file goes before its .gz.
    """
    for place in places:
        found = []
        for name in FILES:
            candidates = (place / name, place / f"{name}.gz")
            found += [file for file in candidates if file.is_file()][:1]
        if len(found) == len(FILES):
            return found
    return None


def read_idx(file: Path) -> np.ndarray:
    """The uint8 array in an IDX file, plain or .gz; DataError if the file is damaged."""
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{file}: damaged ({type(error).__name__}: {error}); fetch it again"
        ) from None
    start = 4 + 4 * content[3] if len(content) > 3 else 4
    if len(content) < start or content[:3] != b"\0\0\x08":
        raise DataError(f"{file}: not an IDX file of bytes; fetch it again")
    shape = [int(size) for size in np.frombuffer(content[4:start], ">u4")]
    if len(content) - start != math.prod(shape):
        raise DataError(
            f"{file}: {len(content)} bytes do not match its header {shape}; fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
