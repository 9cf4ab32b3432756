"""Checkpoints of plain containers and tensors: written whole, read weights-only."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO
from safetensors.torch import load_file

from genlab.console import command
from genlab.errors import RunError
from genlab.files import disk_is_full, writing

__all__ = ["AtomicCheckpointIO", "checkpoint_path", "read_checkpoint", "read_safetensors"]


class AtomicCheckpointIO(CheckpointIO):
    """Checkpoints of plain containers and tensors, written beside their name and renamed, read weights-only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path, storage_options: Any = None) -> None:
        path = Path(path)
        try:
            with writing(path) as temporary, open(temporary, "wb") as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            full = isinstance(error, RuntimeError) or disk_is_full(error)
            why = "the disk is full or the file cannot be written" if full else error.strerror
            kept = f"the previous {path.name} is whole" if path.exists() else "there is no earlier one"
            raise RunError(
                f"{path}: could not be saved ({why}); {kept}. Free some space, then "
                f"`{command('train', run=path.parent.parent)}`"
            ) from error

    def load_checkpoint(self, path, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(Path(path), map_location)

    def remove_checkpoint(self, path) -> None:
        Path(path).unlink(missing_ok=True)


def checkpoint_path(run: str | Path, ckpt: str = "last") -> Path:
    """The file that `ckpt` (best, last or a path) means for the run directory `run`; RunError if it is not there."""
    path = Path(run) / "checkpoints" / f"{ckpt}.ckpt" if ckpt in ("best", "last") else Path(ckpt)
    if not path.is_file():
        there = sorted(p.name for p in (Path(run) / "checkpoints").glob("*.ckpt"))
        raise RunError(f"ckpt={ckpt}: there is no {path}; {run} has {', '.join(there) or 'no checkpoint yet'}")
    return path


def read_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """A checkpoint's plain content; nothing in it is executed. RunError if it is damaged or holds objects."""
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        raise RunError(
            f"{path}: not a readable checkpoint ({type(error).__name__}: {str(error).splitlines()[0]}); try "
            "ckpt=best or ckpt=last"
        ) from None


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file; RunError if it is damaged."""
    try:
        return load_file(path)
    except Exception as error:
        raise RunError(f"{path}: not a readable safetensors file ({error})") from None
