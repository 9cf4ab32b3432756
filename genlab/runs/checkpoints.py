"""Checkpoints of plain containers and tensors: written whole, checked and read without executing
anything.
"""

from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import CheckpointIO

from genlab.console import command
from genlab.errors import RunError
from genlab.files import disk_is_full
from genlab.reading import checked
from genlab.runs.schema import Resumable, Weights
from genlab.tensors import not_finite, read_torch, save_torch

__all__ = ["AtomicCheckpointIO", "checkpoint_path", "others", "read_checkpoint", "read_resumable"]


class AtomicCheckpointIO(CheckpointIO):
    """Checkpoints of plain containers and tensors, written beside their name and renamed, read
    weights-only.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path, storage_options: Any = None
    ) -> None:
        path = Path(path)
        try:
            save_torch(checkpoint, path)
        except OSError as error:
            why = "the disk is full" if disk_is_full(error) else error.strerror
            kept = (
                f"the previous {path.name} is whole" if path.exists() else "there is no earlier one"
            )
            raise RunError(
                f"{path}: could not be saved ({why}); {kept}. Free some space, then "
                f"`{command('train', run=path.parent.parent)}`"
            ) from error

    def load_checkpoint(
        self, path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_resumable(Path(path), map_location)

    def remove_checkpoint(self, path) -> None:
        Path(path).unlink(missing_ok=True)


def checkpoint_path(run: str | Path, ckpt: str = "last") -> Path:
    """The file that `ckpt` (best, last or a path) means for the run directory `run`; RunError if it
    is not there.
    """
    path = Path(run) / "checkpoints" / f"{ckpt}.ckpt" if ckpt in ("best", "last") else Path(ckpt)
    if path.exists() and not path.is_file():
        raise RunError(f"ckpt={ckpt}: {path} is not a file; move it away{others(path)}")
    if not path.is_file():
        there = sorted(p.name for p in (Path(run) / "checkpoints").glob("*.ckpt") if p.is_file())
        raise RunError(
            f"ckpt={ckpt}: there is no {path}; {run} has {', '.join(there) or 'no checkpoint yet'}"
        )
    return path


def others(path: Path) -> str:
    """The end of a message about a checkpoint that cannot be used: which other ones lie beside it."""
    found = sorted(p for p in path.parent.glob("*.ckpt") if p.is_file() and p != path)
    named = [
        p.stem if p.parent.name == "checkpoints" and p.stem in ("best", "last") else str(p)
        for p in found
    ]
    return (
        f"; try {' or '.join(f'ckpt={name}' for name in named)}"
        if named
        else "; there is no other checkpoint beside it"
    )


def read_checkpoint(path: Path, map_location: Any = "cpu", schema: Any = Weights) -> dict[str, Any]:
    """A checkpoint's plain content; nothing in it is executed.

    Args:
        path: The file.
        map_location: Where the tensors go.
        schema: What must be in it: `Weights`, or `Resumable` to train on.

    Raises:
        RunError: The file is damaged, holds objects or lacks something; the message names it and
        what else there is.
    """
    try:
        return checked(read_torch(path, map_location), schema, str(path))
    except RunError as error:
        raise RunError(f"{error}{others(Path(path))}") from None


def read_resumable(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """`read_checkpoint` for training to go on from; RunError also where weights or their average
    are not finite.
    """
    checkpoint = read_checkpoint(path, map_location, Resumable)
    for part in ("state_dict", "ema"):
        if bad := not_finite(checkpoint.get(part, {})):
            raise RunError(
                f"{path}: {part}.{bad[0]} holds NaN or infinity; training had diverged{others(path)}"
            )
    return checkpoint
