"""Checkpoints of plain containers and tensors: written whole, checked, and read without executing
anything.
"""

from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import CheckpointIO

from genlab.console import command
from genlab.errors import RunError
from genlab.files import disk_is_full
from genlab.reading import check
from genlab.runs.schema import Resumable, Weights
from genlab.tensors import not_finite, read_torch, save_torch

__all__ = [
    "AtomicCheckpointIO",
    "checkpoint_path",
    "other_checkpoints",
    "read_checkpoint",
    "read_resumable",
]


class AtomicCheckpointIO(CheckpointIO):
    """Writes a checkpoint under a temporary name and renames it; reads with weights_only=True."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path, storage_options: Any = None
    ) -> None:
        path = Path(path)
        try:
            save_torch(checkpoint, path)
        except OSError as error:
            why = "the disk is full" if disk_is_full(error) else error.strerror
            kept = f"the previous {path.name} is intact" if path.exists() else "no earlier one"
            resume = command("train", run=path.parent.parent)
            raise RunError(
                f"{path}: could not be saved ({why}; {kept}). Free some space, then `{resume}`"
            ) from error

    def load_checkpoint(
        self, path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_resumable(Path(path), map_location)

    def remove_checkpoint(self, path) -> None:
        Path(path).unlink(missing_ok=True)


def checkpoint_path(run: str | Path, ckpt: str = "last") -> Path:
    """The checkpoint file that `ckpt` names.

    Args:
        run: The run directory.
        ckpt: best, last, or a path.

    Raises:
        RunError: There is no such file; the message lists the checkpoints of the run.
    """
    folder = Path(run) / "checkpoints"
    path = folder / f"{ckpt}.ckpt" if ckpt in ("best", "last") else Path(ckpt)
    if path.exists() and not path.is_file():
        raise RunError(f"ckpt={ckpt}: {path} is not a file; move it away{other_checkpoints(path)}")
    if not path.is_file():
        found = sorted(p.name for p in folder.glob("*.ckpt") if p.is_file())
        raise RunError(
            f"ckpt={ckpt}: {path} does not exist; {run} has {', '.join(found) or 'no checkpoint'}"
        )
    return path


def other_checkpoints(path: Path) -> str:
    """The end of a message about an unusable checkpoint: which others the user can try."""
    found = sorted(p for p in path.parent.glob("*.ckpt") if p.is_file() and p != path)
    if not found:
        return "; there is no other checkpoint beside it"
    in_run = path.parent.name == "checkpoints"
    names = [p.stem if in_run and p.stem in ("best", "last") else str(p) for p in found]
    return f"; try {' or '.join(f'ckpt={name}' for name in names)}"


def read_checkpoint(path: Path, map_location: Any = "cpu", schema: Any = Weights) -> dict[str, Any]:
    """Read the plain content of a checkpoint; nothing in it is executed.

    Args:
        path: The file.
        map_location: The device of the tensors.
        schema: What the file must hold: `Weights`, or `Resumable` to continue training.

    Raises:
        RunError: The file is damaged, holds objects or lacks something; the message names it and
            the other checkpoints beside it.
    """
    try:
        return check(read_torch(path, map_location), schema, str(path))
    except RunError as error:
        raise RunError(f"{error}{other_checkpoints(Path(path))}") from None


def read_resumable(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint to continue training from it.

    Raises:
        RunError: As `read_checkpoint`, and if weights or their average are not finite.
    """
    checkpoint = read_checkpoint(path, map_location, Resumable)
    for part in ("state_dict", "ema"):
        if bad := not_finite(checkpoint.get(part, {})):
            raise RunError(
                f"{path}: {part}.{bad[0]} holds NaN or infinity, because training had diverged"
                f"{other_checkpoints(path)}"
            )
    return checkpoint
