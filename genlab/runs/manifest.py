"""manifest.json: what a run is, how far it came and what it measured; and the lock of its
directory.
"""

import fcntl
import json
import logging
import os
import platform
import subprocess
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

__all__ = ["Manifest", "environment", "held", "save_config"]

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
    """`manifest.json`: what a run is, how far it came and what it measured; written whole at every
    change.

    writes: false in all but one process of a distributed run. What is changed after `hold` is
    written by `release`, so that a resume which fails before its first step leaves the file as it
    was.
    """

    def __init__(self, run_dir: Path, content: dict[str, Any], writes: bool = True):
        self.path, self.content, self.writes = Path(run_dir) / "manifest.json", content, writes
        self.held = False
        self.place = _place(self.path.parent)

    @classmethod
    def create(cls, run_dir: Path, content: dict[str, Any], writes: bool = True) -> "Manifest":
        """Claims `run_dir`, whose lock this process has, for a new run; RunError if a run with
        results is in it.

        One that has nothing to lose is started anew.
        """
        content = {
            "status": "running",
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            **content,
        }
        if not writes:
            return cls(run_dir, content, writes)
        run_dir = Path(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        there = cls.read(run_dir) if (run_dir / "manifest.json").exists() else None
        same = there is not None and there.content.get("config", "") == content.get("config")
        if there is not None and not (
            there.is_empty() and (same or not there.content.get("steps"))
        ):
            raise RunError(
                f"hydra.run.dir={run_dir}: there is a run in it already; continue that one with "
                f"`{command('train', run=run_dir)}`, or name another directory"
            )
        manifest = cls(run_dir, content)
        manifest.update()
        return manifest

    @classmethod
    def read(cls, run_dir: Path, writes: bool = True, schema: type = schema.Manifest) -> "Manifest":
        """The manifest of an existing run; RunError if there is none or it is damaged."""
        return cls(run_dir, read_manifest(run_dir, schema), writes)

    def is_empty(self) -> bool:
        """Whether the run has nothing that a new start would lose: it was stopped before its first
        last.ckpt.
        """
        last, best = (
            self.path.parent / "checkpoints" / f"{name}.ckpt" for name in ("last", "best")
        )
        kept = last.exists() or (
            best.exists() and self.content.get("steps")
        )  # someone removed last.ckpt
        return not kept and self.content.get("status") != "finished"

    def update(self, **content: Any) -> None:
        """Changes the content and, unless it is held, the file; RunError if the directory is no
        longer in its place.
        """
        self.content |= content
        if self.writes and not self.held:
            self.check_place()
            write_text(self.path, json.dumps(self.content, indent=2, default=str) + "\n")

    def hold(self) -> None:
        """Keeps the file as it is until `release`."""
        self.held = True

    def release(self, **content: Any) -> None:
        """Writes what was changed since `hold`, and `content`."""
        self.held = False
        self.update(**content)

    def check_place(self) -> None:
        """RunError if the directory was moved or removed since, so that nothing is written in its
        former place.
        """
        if self.place is not None and _place(self.path.parent) != self.place:
            raise RunError(
                f"{self.path.parent}: the run directory was moved or removed while it was trained, so the run has stopped; "
                "continue it from its last checkpoint with `genlab train run=` and its new place"
            )


def _place(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from another of the same name; None where there is none."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


_locks: set[int] = set()  # descriptors of the locks that this process has


def _let_go() -> None:
    """A forked child, as a data loader's worker is one, must not keep its parent's locks alive."""
    for descriptor in _locks:
        os.close(descriptor)
    _locks.clear()


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def held(run_dir: Path, writes: bool = True):
    """Keeps other processes from training in `run_dir` meanwhile; RunError if one does. A killed
    one lets go of it.

    What a killed process left half written is removed.
    """
    if not writes:
        yield
        return
    folder = Path(run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    refuse_links(folder)
    flags = (
        os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    )  # never through a link, nor waiting for a pipe's end
    try:
        descriptor = os.open(folder / ".lock", flags, 0o666)
    except OSError as error:
        if disk_is_full(error):
            raise
        raise RunError(
            f"{folder / '.lock'}: cannot be opened for writing ({error.strerror})"
        ) from None
    _locks.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"{run_dir}: another process is training in it at this moment; wait for it, or stop it"
            ) from None
        except OSError:
            log.warning(
                "%s: its file system has no locks, so two processes could train in it at once",
                run_dir,
            )
        for part in (".", *FOLDERS):
            sweep_up(folder / part)
        yield
    finally:
        if descriptor in _locks:
            _locks.discard(descriptor)
            with suppress(OSError):  # a file system without locks
                fcntl.flock(
                    descriptor, fcntl.LOCK_UN
                )  # at once, also where a child forked just now has not let go of it
            os.close(descriptor)


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
        return subprocess.run(
            ["git", *words], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != Path(__file__).parents[2]:
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
        name = next(
            (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
            name,
        )
    except OSError:
        pass
    return f"CPU {name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def save_config(run_dir: Path, cfg: dict[str, Any]) -> None:
    """`config.yaml`: resolved, without the allow-list, which is the command line's alone."""
    write_text(run_dir / "config.yaml", yaml.safe_dump(cfg | {"allow": []}, sort_keys=False))
