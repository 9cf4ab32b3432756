"""The jobs of a sweep: the folder of each, and what it leaves there while it runs."""

import hashlib
import json
import os
import re
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import OmegaConf
from pydantic import BaseModel

from genlab.errors import RunError
from genlab.files import refuse_links, write_text
from genlab.overrides import key_of
from genlab.reading import read_json
from genlab.signals import Handler, install

__all__ = [
    "Jobs",
    "Measured",
    "Result",
    "Status",
    "Sweep",
    "folder_override",
    "job_folder",
    "read_status",
    "run_job",
    "stamp",
    "started",
]

MAX_NAME = 80  # characters of a job's folder before the hash


class Sweep(NamedTuple):
    """A sweep that this process has started.

    Attributes:
        folder: hydra.sweep.dir.
        higher_is_better: Of the optimised metric, as hydra.sweeper.direction has it; None where the
            sweeper has no direction.
    """

    folder: Path
    higher_is_better: bool | None


_started: list[Sweep] = []


# --- where a job goes -----------------------------------------------------------------------------


def job_folder(overrides: Sequence[str], fixed: Sequence[str] = ()) -> str:
    """The folder of the job with these overrides: what is swept, readable, and a hash of them all.

    The same overrides give the same folder in any order and any sweep, so a sweep can be continued
    and extended.

    Args:
        overrides: The job's, as in model=ogan.
        fixed: Keys that are the same in all jobs, which the name leaves out.
    """
    words = sorted(str(word) for word in overrides)
    swept = [word.partition("=") for word in words if key_of(word) not in fixed]
    name = "-".join(
        f"{key.lstrip('+~').rpartition('.')[2]}_{_short(value)}" for key, _, value in swept
    )
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", name)[:MAX_NAME].strip("_.-") or "job"
    return f"{name}-{hashlib.blake2b(json.dumps(words).encode(), digest_size=4).hexdigest()}"


def _short(value: str) -> str:
    try:
        return f"{float(value):.4g}" if "." in value or "e" in value else value
    except ValueError:
        return value


def stamp() -> str:
    """When this command began, in microseconds, and its process id, so that two commands that begin
    at once get two directories.
    """
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}-{os.getpid()}"


OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)
# Cached, so that it is the same throughout a command
OmegaConf.register_new_resolver("stamp", stamp, replace=True, use_cache=True)


def folder_override(words: Sequence[str]) -> list[str]:
    """What to add to the `words` of a sweep's command line, so that folders are named after what is
    swept alone.
    """
    is_sweep = bool({"-m", "--multirun"} & set(words))
    if not is_sweep or any(word.startswith("hydra.sweep.subdir=") for word in words):
        return []
    fixed = []
    for word in words:
        if "=" in word and not word.startswith("-"):
            override = OverridesParser.create().parse_override(word)
            if not override.is_sweep_override():
                fixed.append(override.key_or_group)
    named = {key for key in fixed if re.fullmatch(r"[\w./]+", key) and not key.startswith("hydra")}
    if not named:
        return []
    keys = ",".join(sorted(named))
    return [f"hydra.sweep.subdir='${{job_folder:${{hydra.overrides.task}},[{keys}]}}'"]


class Jobs(Callback):
    """Makes a sweep's directory when it starts, so that a study's database can go there, and
    remembers it.

    A signal that asks the sweep to stop is passed on to the workers of a launcher (joblib), whose
    jobs save and end.
    """

    def on_multirun_start(self, config, **kwargs: Any) -> None:
        folder = Path(str(config.hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        for job in (folder, *(entry for entry in folder.iterdir() if entry.is_dir())):
            refuse_links(job)
        _started.append(Sweep(folder, sweeper_direction(config.hydra.sweeper)))
        begun = time.time()
        install(Handler(lambda signum: stop_workers(folder, begun, signum)))


def sweeper_direction(sweeper: Any) -> bool | None:
    """Whether a sweeper maximises (True) or minimises (False); None where it does not say, or has
    several metrics.
    """
    direction = sweeper.get("direction")
    name = getattr(direction, "name", direction)  # Optuna's is an enum
    return {"maximize": True, "minimize": False}.get(name) if isinstance(name, str) else None


def stop_workers(folder: Path, begun: float, signum: int) -> None:
    """Sends SIGTERM to the processes of this machine that run jobs in `folder`; ends this process
    where there are none.

    Args:
        folder: hydra.sweep.dir.
        begun: When the sweep began; jobs whose status is older do not count. Unix seconds.
        signum: The signal that this process got.
    """
    paths = [path for path in folder.glob("*/status.json") if path.stat().st_mtime >= begun]
    running = [read_status(path, Status) for path in paths]
    own = (socket.gethostname(), os.getpid())
    here = [j for j in running if j.get("status") == "running" and j.get("host") == own[0]]
    workers = {job["pid"] for job in here} - {own[1]}
    for pid in workers:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGTERM)
    if not workers:
        raise SystemExit(128 + signum)


@cache
def watch_parent() -> None:
    """In a launcher's worker: stops its job, as SIGTERM does, once the process that started the
    sweep is gone.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="watch_parent").start()


def started() -> Sweep | None:
    """The sweep that this process has started."""
    return _started[-1] if _started else None


# --- what a job leaves ----------------------------------------------------------------------------


def run_job(
    task: Callable[[], Any],
    run_dir: Path,
    overrides: Sequence[str],
    metric: str | None,
    number: int,
) -> Any:
    """Runs `task` and returns its result; <run_dir>/status.json always has the state of the job,
    error.txt the traceback of a failure.

    Args:
        task: Returns the value of the optimised metric, the results of an evaluation
            ({metric: {value, higher_is_better, ...}}), or None.
        run_dir: The job's folder.
        overrides: The job's, as in model=ogan.
        metric: optimized_metric.
        number: Of the job, from 0.
    """
    begun = time.monotonic()
    if started() is None:
        watch_parent()
    status = {
        "status": "running",
        "number": number,
        "overrides": list(overrides),
        "metric": metric,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    _write(run_dir / "status.json", status)
    (run_dir / "error.txt").unlink(missing_ok=True)
    try:
        result = task()
    except BaseException as error:
        interrupted = isinstance(error, SystemExit | KeyboardInterrupt)
        status["status"] = "interrupted" if interrupted else "failed"
        status["error"] = f"{type(error).__name__}: {error}"
        if not interrupted:
            write_text(run_dir / "error.txt", traceback.format_exc())
        raise
    else:
        status["status"] = "finished"
        if isinstance(result, float):
            status["value"] = result
        if isinstance(result, dict):
            for key, name in (("metrics", "value"), ("higher_is_better", "higher_is_better")):
                status[key] = {metric: entry[name] for metric, entry in result.items()}
        return result
    finally:
        _write(run_dir / "status.json", status | {"seconds": round(time.monotonic() - begun, 1)})


def _write(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2, default=str) + "\n")


class Measured(BaseModel):
    """What a summary needs of a job's manifest.json."""

    seconds: float = 0
    metrics: dict[str, float] = {}


class Status(Measured):
    """What a job's status.json says."""

    status: str
    number: int = 0
    overrides: list[str] = []
    metric: str | None = None
    higher_is_better: dict[str, bool | None] = {}
    error: str | None = None
    value: float = 0


class Result(BaseModel):
    """What a summary needs of an entry of a job's eval/metrics.json."""

    higher_is_better: bool | None = None


def read_status(path: Path, schema: Any) -> dict[str, Any]:
    """The content of a job's JSON file, {} where there is none; of a damaged status.json, a status
    that says so.
    """
    try:
        return read_json(path, schema)
    except FileNotFoundError:
        return {}
    except RunError as error:
        return {"status": "damaged", "error": str(error)} if schema is Status else {}
