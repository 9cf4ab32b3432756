"""Files of tensors and arrays: written whole, read without executing anything, and verified by
checksums.
"""

import errno
import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from genlab.errors import RunError
from genlab.files import writing

__all__ = [
    "not_finite",
    "read_safetensors",
    "read_torch",
    "save_arrays",
    "save_safetensors",
    "save_torch",
    "writing_torch",
]

SHA256 = "genlab.sha256"  # in the metadata of a .safetensors file


def save_torch(content: Any, path: str | Path) -> Path:
    """Write plain containers and tensors by torch.save, whole or not at all.

    Raises:
        OSError: The disk is full or refuses the file.
    """
    with writing_torch(path) as file:
        torch.save(content, file)
    return Path(path)


@contextmanager
def writing_torch(path: str | Path) -> Iterator[BinaryIO]:
    """Give the block an open file for torch.save, renamed to `path` at the end; see `writing`."""
    with writing(path) as temporary, open(temporary, "wb") as file:
        try:
            yield file
        except RuntimeError as error:
            # torch's writer wraps the error of the file system.
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def read_torch(path: str | Path, map_location: Any = "cpu", mmap: bool = False) -> Any:
    """Read plain containers and tensors that torch.save wrote. Nothing in the file is executed.

    All content is compared with the checksums of torch's zip format, which torch itself ignores
    (0.1 s for 100 MB). The format before torch 1.6 has no checksums.

    Args:
        path: The file.
        map_location: The device of the tensors.
        mmap: Read a tensor when it is used; only on CPUs.

    Raises:
        RunError: The file is missing, damaged, or holds objects; the message names it.
    """
    path = Path(path)
    if not path.is_file():
        raise RunError(f"{path}: the file does not exist")
    if not path.stat().st_size:
        raise RunError(f"{path}: the file is empty")
    try:
        zipped = _verify_zip(path)
        return torch.load(path, map_location=map_location, weights_only=True, mmap=mmap and zipped)
    except RunError:
        raise
    except Exception as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        if "weights_only" in why.lower() or "weights only" in why.lower():
            why = "it is damaged, or holds objects besides tensors and plain values"
        raise RunError(f"{path}: not a readable checkpoint ({why})") from None


def _verify_zip(path: Path) -> bool:
    """Whether the file is a zip; RunError if it is damaged."""
    with open(path, "rb") as file:
        if file.read(4) != b"PK\3\4":
            return False
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            packed = [e.filename for e in entries if e.compress_type != zipfile.ZIP_STORED]
            damaged = None if packed else archive.testzip()
    except Exception as error:  # a damaged directory makes zipfile raise errors of many types
        raise RunError(
            f"{path}: not a readable checkpoint, damaged or cut short ({error})"
        ) from None
    if packed:  # torch compresses nothing, and compressed zeros could fill the memory
        raise RunError(f"{path}: damaged or not a checkpoint, {packed[0]!r} in it is compressed")
    if damaged is not None:
        raise RunError(f"{path}: damaged, the checksum of {damaged!r} does not match")
    return True


def save_safetensors(
    tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str]
) -> Path:
    """Write a .safetensors file with `metadata` and a checksum, whole or not at all.

    Raises:
        OSError: The disk is full or refuses the file.
    """
    path = Path(path)
    with writing(path) as temporary:
        try:
            save_file(dict(tensors), temporary, {**metadata, SHA256: _digest(tensors)})
        except SafetensorError as error:
            number = errno.ENOSPC if "os error 28" in str(error) else errno.EIO
            raise OSError(number, str(error), str(path)) from None
    return path


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors file, on the CPU.

    The tensors of a file that genlab wrote are compared with its checksum.

    Raises:
        RunError: The file is missing or damaged; the message names it.
    """
    path = Path(path)
    if not path.is_file():
        raise RunError(f"{path}: the file does not exist")
    try:
        with safe_open(path, "pt") as file:
            expected = (file.metadata() or {}).get(SHA256)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise RunError(
            f"{path}: not a readable safetensors file ({str(error).splitlines()[0]})"
        ) from None
    if expected is not None and _digest(tensors) != expected:
        raise RunError(f"{path}: damaged, its checksum does not match")
    return tensors


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 of names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def save_arrays(path: str | Path, **arrays: np.ndarray) -> Path:
    """Write a compressed .npz, whole or not at all; OSError if the disk is full."""
    with writing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)
    return Path(path)


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors that hold NaN or infinity."""
    return [
        name
        for name, value in tensors.items()
        if value.is_floating_point() and not torch.isfinite(value).all()
    ]
