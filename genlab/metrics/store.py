"""What is computed once for a data set, or fetched once, and kept under $GENLAB_DATA/features."""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from genlab.errors import DataError, RunError
from genlab.files import data_root, explain_error
from genlab.tensors import read_torch, save_torch

__all__ = ["fetch_weights", "load_or_make"]

T = TypeVar("T")
_not_kept: dict[Path, dict[str, Any]] = {}  # what this process made and could not write


def load_or_make(
    name: str, make: Callable[[], dict[str, Any]], use: Callable[[dict[str, Any]], T]
) -> T:
    """Computes tensors and plain values once, keeps them in a file, and returns what `use` makes of
    them.

    Nothing in a file is executed. Where the file cannot be written, a line says so: it only saves
    time.

    Args:
        name: Of the file, which must contain everything that the content depends on.
        make: Computes the content where the file is missing, damaged, or does not fit.
        use: Takes what it needs from the content; may raise any error where that does not fit.
    """
    path = data_root() / "features" / name
    if path in _not_kept:
        return use(_not_kept[path])
    if path.exists():
        try:
            return use(read_torch(path))
        except Exception as error:  # whatever content of another kind leads to
            why = str(error)
            if not isinstance(error, RunError):
                why = f"{path}: its content does not fit ({type(error).__name__}: {error})"
            print(f"{why}; it is made anew", file=sys.stderr)
    content = make()
    try:
        save_torch(content, path)
    except OSError as error:
        print(
            f"{explain_error(error) or error}. What is made for it is lost with this command",
            file=sys.stderr,
        )
        _not_kept[path] = content
    return use(content)


def fetch_weights(
    name: str, url: str, sha256: str, weights_path: str | None, key: str, instead: str
) -> Path:
    """The file of pretrained weights, its hash checked; downloaded where it is missing.

    Args:
        name: What an error calls the weights.
        url: Where they are; the file has the same name, under $GENLAB_DATA/features.
        sha256: The first digits of the file's hash.
        weights_path: The file, to be used instead of that one.
        key: The setting that `weights_path` comes from.
        instead: What a user can choose instead.

    Raises:
        DataError: There is no such file, it cannot be fetched, or it has another hash.
    """
    if weights_path:
        path = Path(weights_path).expanduser()
    else:
        path = data_root() / "features" / url.rpartition("/")[2]
        if not path.is_file():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256)
            except (OSError, RuntimeError) as error:
                raise DataError(
                    f"{path}: no such file, and {url} could not be fetched ({error}); fetch it "
                    f"elsewhere and give {key}=<file>, or use {instead}"
                ) from None
    if not path.is_file():
        raise DataError(f"{key}={path}: no such file; download it from {url}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(sha256):
        raise DataError(
            f"{path}: not the {name} weights: its sha256 starts with {found[: len(sha256)]}, "
            f"expected {sha256} as of {url}"
        )
    return path
