"""manifest.json: what a run is, how far it came and what it measured; and the lock of its directory."""

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

from genlab.errors import RunError
from genlab.files import write_text
from genlab.runs import schema
from genlab.runs.reading import read_manifest

__all__ = ["Manifest", "environment", "held", "save_config"]

log = logging.getLogger(__name__)
PACKAGES = ("genlab", "torch", "torchvision", "lightning", "hydra-core", "omegaconf", "torchmetrics", "numpy")


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
    def read(cls, run_dir: Path, writes: bool = True, schema: type = schema.Manifest) -> "Manifest":
        """The manifest of an existing run; RunError if there is none or it is damaged."""
        return cls(run_dir, read_manifest(run_dir, schema), writes)

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
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    return f"CPU {name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def save_config(run_dir: Path, cfg: dict[str, Any]) -> None:
    """`config.yaml`: resolved, without the allow-list, which is the command line's alone."""
    write_text(run_dir / "config.yaml", yaml.safe_dump(cfg | {"allow": []}, sort_keys=False))
