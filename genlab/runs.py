"""The run directory: its manifest, its checkpoints, and a trained model out of it in one call."""

import errno
import fcntl
import json
import logging
import os
import platform
import subprocess
from collections.abc import Iterable
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch.plugins.io import CheckpointIO
from safetensors.torch import load_file

from genlab import config

__all__ = [
    "AtomicCheckpointIO",
    "Manifest",
    "RunError",
    "checkpoint_path",
    "held",
    "load",
    "on_disk",
    "read_checkpoint",
    "write_text",
]

log = logging.getLogger(__name__)
PACKAGES = ("genlab", "torch", "torchvision", "lightning", "hydra-core", "omegaconf", "torchmetrics", "numpy")


class RunError(ValueError):
    """A run directory or checkpoint that cannot be used as asked."""


def disk_is_full(error: BaseException) -> bool:
    """Whether `error` says that a disk, or somebody's share of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def on_disk(run_dir: Path):
    """Turns an error of a full disk into a RunError that says how the run in `run_dir` goes on."""
    try:
        yield
    except OSError as error:
        if not disk_is_full(error):
            raise
        raise RunError(
            f"{error.filename or run_dir}: the disk is full. Free some space; then `genlab train run={run_dir}` goes on "
            "from the last checkpoint, if there is one"
        ) from error


def write_text(path: Path, text: str) -> Path:
    """Writes `text` to a temporary name beside `path`, then renames, so that `path` is never half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


# --- manifest ------------------------------------------------------------------------------------------------------


class Manifest:
    """`manifest.json`: what a run is, how far it came and what it measured; written whole at every change.

    writes: false in all but one process of a distributed run.
    """

    def __init__(self, run_dir: Path, content: dict[str, Any], writes: bool = True):
        self.path, self.content, self.writes = Path(run_dir) / "manifest.json", content, writes

    @classmethod
    def create(cls, run_dir: Path, content: dict[str, Any], writes: bool = True) -> "Manifest":
        """Claims `run_dir` for a new run; RunError if another has it, but for one that failed before its first step."""
        content = {"status": "running", "started": datetime.now(UTC).isoformat(timespec="seconds"), **content}
        manifest = cls(run_dir, content, writes)
        if not writes:
            return manifest
        run_dir = Path(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        try:
            with open(run_dir / "manifest.json", "x"):  # only one process can create it
                pass
        except FileExistsError:
            with suppress(RunError):  # where another process is writing it at this moment
                there = cls.read(run_dir)
                if there.content["status"] == "failed" and not there.content.get("steps"):
                    there.path.unlink()
                    return cls.create(run_dir, content)
            raise RunError(
                f"hydra.run.dir={run_dir}: there is a run in it already; continue that one with "
                f"`genlab train run={run_dir}`, or name another directory"
            ) from None
        manifest.update()
        return manifest

    @classmethod
    def read(cls, run_dir: Path, writes: bool = True) -> "Manifest":
        """The manifest of an existing run; RunError if there is none or it is damaged."""
        path = Path(run_dir) / "manifest.json"
        try:
            return cls(run_dir, json.loads(path.read_text()), writes)
        except FileNotFoundError:
            raise RunError(f"run={run_dir}: there is no manifest.json in it; expected a run directory") from None
        except json.JSONDecodeError as error:
            raise RunError(f"{path}: not readable as JSON ({error})") from None

    def update(self, **content: Any) -> None:
        self.content |= content
        if self.writes:
            write_text(self.path, json.dumps(self.content, indent=2, default=str) + "\n")


@contextmanager
def held(run_dir: Path, writes: bool = True):
    """Keeps other processes from training in `run_dir` meanwhile; RunError if one does. A killed one lets go of it."""
    if not writes:
        yield
        return
    Path(run_dir).mkdir(parents=True, exist_ok=True)
    with open(Path(run_dir) / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{run_dir}: another process is training in it at this moment; wait for it, or stop it") from None
        except OSError:
            log.warning("%s: its file system has no locks, so two processes could train in it at once", run_dir)
        yield


def environment() -> dict[str, Any]:
    """Versions, git revision and hardware of this process, for the manifest."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {"versions": versions, "git": _git(), "hardware": _hardware()}


def _git() -> dict[str, Any] | None:
    def git(*words: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != Path(__file__).parents[1]:
            return None  # an installed package that lies inside somebody else's repository
        return {"revision": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def _hardware() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    return f"CPU {name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def save_config(run_dir: Path, cfg: dict[str, Any]) -> None:
    """`config.yaml`: resolved, without the allow-list, which is the command line's alone."""
    write_text(run_dir / "config.yaml", yaml.safe_dump(cfg | {"allow": []}, sort_keys=False))


# --- checkpoints ---------------------------------------------------------------------------------------------------


class AtomicCheckpointIO(CheckpointIO):
    """Checkpoints of plain containers and tensors, written beside their name and renamed, read weights-only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with open(temporary, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            full = isinstance(error, RuntimeError) or disk_is_full(error)
            why = "the disk is full or the file cannot be written" if full else error.strerror
            kept = f"the previous {path.name} is whole" if path.exists() else "there is no earlier one"
            raise RunError(
                f"{path}: could not be saved ({why}); {kept}. Free some space, then `genlab train run={path.parent.parent}`"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)

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


def load(run: str | Path, ckpt: str = "last", weights: str = "ema", device: str = "cpu", allow: Iterable[str] = ()):
    """The trained model of a run directory, ready to `sample`, `encode`, ... in eval mode on `device`.

    run: or the directory of an export, which has no ckpt and weights to choose. ckpt: best, last or a path. weights: ema
    (the moving average, where the run kept one) or raw. allow: packages besides genlab's own that the run's config may
    build from. Raises RunError or ConfigError, naming the file or key.
    """
    frozen = config.read_frozen(run)
    system = config.build_system(frozen, allow)
    exported = Path(run) / "model.safetensors"
    if exported.is_file() and not (Path(run) / "checkpoints").exists():  # of genlab export: one set of weights
        if weights != "ema" or ckpt != "last":
            raise RunError(
                f"weights={weights}, ckpt={ckpt}: {run} is an export and holds one set of weights; leave them out"
            )
        checkpoint = {"state_dict": read_safetensors(exported)}
    else:
        checkpoint = read_checkpoint(checkpoint_path(run, ckpt))
    state = checkpoint["state_dict"]
    if weights not in ("ema", "raw"):
        raise RunError(f"weights={weights}: expected ema or raw")
    if weights == "ema":
        state = state | checkpoint.get("ema", {})
    try:
        system.load_state_dict(state)
    except RuntimeError as error:
        raise RunError(
            f"{run}: its checkpoint does not fit its config.yaml ({str(error).splitlines()[1].strip()})"
        ) from None
    if weights == "ema" and "ema" in checkpoint and hasattr(system, "refresh"):
        system.refresh()  # an average of what was derived from weights is not what the averaged weights give
    return system.to(device).eval().requires_grad_(False)
