"""What is made once for a data set, or fetched once, and kept under $GENLAB_DATA/features."""

import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from genlab.console import console
from genlab.data.cache import data_root
from genlab.data.decode import DataError

__all__ = ["cached", "pretrained"]


def cached(name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The tensors and plain values of the file `name`, which `make` fills where it is not there or cannot be read.

    Nothing in the file is executed. The name must tell everything that the content depends on.
    """
    path = data_root() / "features" / name
    if path.is_file():
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file of any kind
            console().print(f"{path} cannot be read ({type(error).__name__}); it is made anew")
    content = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        torch.save(content, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return content


def pretrained(name: str, url: str, sha256: str, weights_path: str | None, key: str, instead: str) -> Path:
    """The file of the weights `name`: `weights_path`, else what is, or is put, under the last part of `url`.

    sha256: the first digits of its hash, which is checked. key: the setting of weights_path, and `instead` what else to use,
    for the DataError of a file that is not there, cannot be fetched or is another.
    """
    path = Path(weights_path).expanduser() if weights_path else data_root() / "features" / url.rpartition("/")[2]
    if not weights_path and not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
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
