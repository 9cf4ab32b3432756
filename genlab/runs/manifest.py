"""manifest.json, which says what a run is and how far it came; the lock of the run directory."""

import fcntl
import json
import logging
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml

from genlab.console import command
from genlab.errors import RunError
from genlab.files import FOLDERS, disk_is_full, refuse_links, sweep_up, write_text
from genlab.runs import schema
from genlab.runs.reading import read_manifest

__all__ = ["Manifest", "environment", "lock", "save_config"]

log = logging.getLogger(__name__)
PACKAGES = (
    "genlab",
    "torch",
    "torchvision",
    "lightning",
    "hydra-core",
    "omegaconf",
    "torchmetrics",
    "numpy",
)


class Manifest:
    """`manifest.json`: what a run is, how far it came and what it measured.

    The file is written whole at every change. Between `hold` and `release` it stays as it is, so
    that a resume which fails before its first step leaves no trace.

    Args:
        run_dir: The run directory.
        content: The content of the file.
        writes: False in all but one process of a distributed run.
    """

    def __init__(self, run_dir: Path, content: dict[str, Any], writes: bool = True):
        self.path = Path(run_dir) / "manifest.json"
        self.content = content
        self.writes = writes
        self.held = False
        self.place = _place(self.path.parent)

    @classmethod
    def create(cls, run_dir: Path, content: dict[str, Any], writes: bool = True) -> "Manifest":
        """Claim `run_dir` for a new run; this process must have its lock.

        A directory whose run has nothing to lose is used again.

        Raises:
            RunError: The directory holds a run with results.
        """
        started = datetime.now(UTC).isoformat(timespec="seconds")
        content = {"status": "running", "started": started, **content}
        if not writes:
            return cls(run_dir, content, writes)
        run_dir = Path(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        if (run_dir / "manifest.json").exists():
            earlier = cls.read(run_dir)
            same = earlier.content.get("config", "") == content.get("config")
            reusable = earlier.is_empty() and (same or not earlier.content.get("steps"))
            if not reusable:
                raise RunError(
                    f"hydra.run.dir={run_dir}: already holds a run; continue it with "
                    f"`{command('train', run=run_dir)}`, or choose another directory"
                )
        manifest = cls(run_dir, content)
        manifest.update()
        return manifest

    @classmethod
    def read(cls, run_dir: Path, writes: bool = True, schema: type = schema.Manifest) -> "Manifest":
        """The manifest of an existing run; RunError if it is missing or damaged."""
        return cls(run_dir, read_manifest(run_dir, schema), writes)

    def is_empty(self) -> bool:
        """Whether a new start would lose nothing: the run stopped before its first checkpoint."""
        folder = self.path.parent / "checkpoints"
        # best.ckpt after a step, without last.ckpt: somebody removed last.ckpt.
        only_best = (folder / "best.ckpt").exists() and self.content.get("steps")
        kept = (folder / "last.ckpt").exists() or only_best
        return not kept and self.content.get("status") != "finished"

    def update(self, **content: Any) -> None:
        """Change the content and, unless it is held, the file.

        Raises:
            RunError: The directory was moved or removed.
        """
        self.content |= content
        if self.writes and not self.held:
            self.check_place()
            write_text(self.path, json.dumps(self.content, indent=2, default=str) + "\n")

    def hold(self) -> None:
        """Leave the file unchanged until `release`."""
        self.held = True

    def release(self, **content: Any) -> None:
        """Write the changes made since `hold`, and `content`."""
        self.held = False
        self.update(**content)

    def check_place(self) -> None:
        """Raise RunError if the directory was moved or removed, before anything is written."""
        if self.place is not None and _place(self.path.parent) != self.place:
            raise RunError(
                f"{self.path.parent}: the run directory was moved or removed during training, so "
                "the run stopped; continue it with `genlab train run=<its new place>`"
            )


def _place(folder: Path) -> tuple[int, int] | None:
    """The device and inode of a folder, which identify it; None if there is no folder."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


_locks: set[int] = set()  # file descriptors of the locks of this process


def _drop_locks() -> None:
    """Close the locks in a forked child: a data loader's worker must not keep them alive."""
    for descriptor in _locks:
        os.close(descriptor)
    _locks.clear()


os.register_at_fork(after_in_child=_drop_locks)


@contextmanager
def lock(run_dir: Path, writes: bool = True) -> Iterator[None]:
    """Keep other processes from training in `run_dir` during the block.

    The lock ends with the process, also when it is killed. Half-written files of a killed process
    are removed.

    Args:
        run_dir: The run directory; it is created if missing.
        writes: False in all but one process of a distributed run: then nothing happens.

    Raises:
        RunError: Another process has the lock, or the lock file cannot be opened.
    """
    if not writes:
        yield
        return
    folder = Path(run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    refuse_links(folder)
    descriptor = _open_lock(folder / ".lock")
    _locks.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"{run_dir}: another process is training in it now; wait until it ends, or stop it"
            ) from None
        except OSError:
            log.warning(
                "%s: its file system has no locks, so nothing keeps two processes apart here",
                run_dir,
            )
        for part in (".", *FOLDERS):
            sweep_up(folder / part)
        yield
    finally:
        if descriptor in _locks:
            _locks.discard(descriptor)
            # Unlock first: a child that was forked just now may still have the file open.
            with suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def _open_lock(path: Path) -> int:
    # Never follow a link, and never wait for the other end of a named pipe.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(path, flags, 0o666)
    except OSError as error:
        if disk_is_full(error):
            raise
        raise RunError(f"{path}: cannot be opened for writing ({error.strerror})") from None


def environment() -> dict[str, Any]:
    """Versions, git revision and hardware of this process, for the manifest."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {"versions": versions, "git": _git(), "hardware": _hardware()}


def _git() -> dict[str, Any] | None:
    here = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != Path(__file__).parents[2]:
            return None  # genlab is installed inside somebody else's repository
        return {"revision": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def _hardware() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    name = platform.processor() or platform.machine()
    with suppress(OSError):  # not Linux
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        name = next(models, name)
    return f"CPU {name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def save_config(run_dir: Path, cfg: dict[str, Any]) -> None:
    """Write `config.yaml`: resolved, and without the allow-list of the command line."""
    write_text(run_dir / "config.yaml", yaml.safe_dump(cfg | {"allow": []}, sort_keys=False))
