"""What is made once for a data set and kept under $GENLAB_DATA/features."""

import os
import secrets
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console

from genlab.data.cache import data_root

__all__ = ["cached"]


def cached(name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The tensors and plain values of the file `name`, which `make` fills where it is not there or cannot be read.

    Nothing in the file is executed. The name must tell everything that the content depends on.
    """
    path = data_root() / "features" / name
    if path.is_file():
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file of any kind
            Console(stderr=True).print(f"{path} cannot be read ({type(error).__name__}); it is made anew")
    content = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        torch.save(content, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return content
