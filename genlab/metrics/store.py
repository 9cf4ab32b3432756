"""What is made once for a data set, or fetched once, and kept under $GENLAB_DATA/features."""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from genlab.errors import DataError, RunError
from genlab.files import data_root, explain_error
from genlab.tensors import read_torch, save_torch

__all__ = ["cached", "pretrained"]

T = TypeVar("T")
_not_kept: dict[Path, dict[str, Any]] = {}  # what this process made and could not write


def cached(name: str, make: Callable[[], dict[str, Any]], use: Callable[[dict[str, Any]], T]) -> T:
    """What `use` makes of the tensors and plain values that `make` computes once.

    Nothing in a file is executed. A cache that cannot be written is said in a line: all that it
    saves is time.

    Args:
        name: Of the file, which must tell everything that the content depends on.
        make: Computes the content where the file is missing, damaged, or of other content.
        use: Takes what it needs of the content; it may raise anything where that does not fit.
    """
    path = data_root() / "features" / name
    if path in _not_kept:
        return use(_not_kept[path])
    if path.exists():
        try:
            return use(read_torch(path))
        except Exception as error:  # whatever a content of another kind leads to
            why = (
                error
                if isinstance(error, RunError)
                else f"{path}: of other content ({type(error).__name__}: {error})"
            )
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


def pretrained(
    name: str, url: str, sha256: str, weights_path: str | None, key: str, instead: str
) -> Path:
    """The file of the weights `name`: `weights_path`, else what is, or is put, under the last part
    of `url`.

    sha256: the first digits of its hash, which is checked. key: the setting of weights_path, and
    `instead` what else to use, for the DataError of a file that is not there, cannot be fetched or
    is another.
    """
    path = (
        Path(weights_path).expanduser()
        if weights_path
        else data_root() / "features" / url.rpartition("/")[2]
    )
    if not weights_path and not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"{path} is not there and {url} could not be fetched ({error}); fetch it elsewhere and give {key}=<file>, "
                f"or use {instead}"
            ) from None
    if not path.is_file():
        raise DataError(f"{key}={path}: no such file; it can be had from {url}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(sha256):
        raise DataError(
            f"{path}: not the {name} weights: its sha256 starts with {found[: len(sha256)]}, that of {url} with {sha256}"
        )
    return path
