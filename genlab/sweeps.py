"""Sweeps: a folder for each job, what a job leaves behind, and the summary of them all."""

import csv
import hashlib
import json
import math
import os
import re
import shlex
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import OmegaConf
from pydantic import BaseModel
from rich.table import Table

from genlab.console import Console, command, console
from genlab.errors import RunError
from genlab.files import refuse_links, write_text, writing
from genlab.reading import read_json
from genlab.signals import Handler, install
from genlab.words import key_of

__all__ = ["Jobs", "finish", "folder_override", "job_folder", "jobs_of", "run_job", "stamp", "started", "summarise"]

MAX_NAME = 80  # characters of a job's folder before the hash
LIKELY = ("test/fid", "test/bits_per_dim", "test/nll", "test/accuracy", "test/f1", "test/rouge_l", "fid", "val/fid_random",
          "val/bits_per_dim", "val/nll", "val/accuracy", "val/quality")  # fmt: skip
HIGHER_IS_BETTER = re.compile("accuracy|precision|recall|coverage|density|correlation|agreement|ssim|diversity|f1|em$|bleu|"
                              "rouge|quality|auroc|score")  # fmt: skip
_started: list[Path] = []


# --- where a job goes ----------------------------------------------------------------------------------------------


def job_folder(overrides: Sequence[str], fixed: Sequence[str] = ()) -> str:
    """The folder of the job with these overrides: what is swept, readable, and a hash of all of them.

    The same words give the same folder in any order and any sweep, so a sweep can be continued and extended.
    fixed: keys that are the same in all jobs, which the name leaves out.
    """
    words = sorted(str(word) for word in overrides)
    swept = [word.partition("=") for word in words if key_of(word) not in fixed]
    name = "-".join(f"{key.lstrip('+~').rpartition('.')[2]}_{_short(value)}" for key, _, value in swept)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", name)[:MAX_NAME].strip("_.-") or "job"
    return f"{name}-{hashlib.blake2b(json.dumps(words).encode(), digest_size=4).hexdigest()}"


def _short(value: str) -> str:
    try:
        return f"{float(value):.4g}" if "." in value or "e" in value else value
    except ValueError:
        return value


def stamp() -> str:
    """When this command began, in microseconds, and its process: two that begin at once have directories of their own."""
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}-{os.getpid()}"


OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)
OmegaConf.register_new_resolver("stamp", stamp, replace=True, use_cache=True)  # the same throughout a command


def folder_override(words: Sequence[str]) -> list[str]:
    """What to add to the `words` of a sweep's command line, so that folders are named after what is swept alone."""
    if not {"-m", "--multirun"} & set(words) or any(word.startswith("hydra.sweep.subdir=") for word in words):
        return []
    fixed = []
    for word in words:
        if "=" in word and not word.startswith("-"):
            override = OverridesParser.create().parse_override(word)
            fixed += [] if override.is_sweep_override() else [override.key_or_group]
    keys = ",".join(sorted({key for key in fixed if re.fullmatch(r"[\w./]+", key) and not key.startswith("hydra")}))
    return [f"hydra.sweep.subdir='${{job_folder:${{hydra.overrides.task}},[{keys}]}}'"] if keys else []


class Jobs(Callback):
    """Takes note of a sweep's directory when it starts, and makes it, for a study's database to go in.

    A signal that asks the sweep to stop is passed on to the workers of a launcher (joblib), whose jobs save and end.
    """

    def on_multirun_start(self, config, **kwargs: Any) -> None:
        folder = Path(str(config.hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        for job in (folder, *(entry for entry in folder.iterdir() if entry.is_dir())):
            refuse_links(job)
        _started.append(folder)
        begun = time.time()
        install(Handler(lambda signum: stop_workers(folder, begun, signum)))


def stop_workers(folder: Path, begun: float, signum: int) -> None:
    """Signals the processes of this machine that run jobs in `folder` since `begun`; ends this one where there is none."""
    paths = [path for path in folder.glob("*/status.json") if path.stat().st_mtime >= begun]
    running = [_read(path, Status) for path in paths]
    own = (socket.gethostname(), os.getpid())
    workers = {job["pid"] for job in running if job.get("status") == "running" and job.get("host") == own[0]} - {own[1]}
    for pid in workers:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGTERM)
    if not workers:
        raise SystemExit(128 + signum)


@cache
def watch_parent() -> None:
    """In a launcher's worker: stops its job as SIGTERM does once the process that started the sweep is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="watch_parent").start()


def started() -> Path | None:
    """The directory of the sweep that this process has started."""
    return _started[-1] if _started else None


# --- what a job leaves ---------------------------------------------------------------------------------------------


def run_job(task: Callable[[], Any], run_dir: Path, overrides: Sequence[str], metric: str | None, number: int) -> Any:
    """Runs `task`; <run_dir>/status.json says throughout how far it came, error.txt has the traceback of a failure."""
    begun = time.monotonic()
    if started() is None:
        watch_parent()
    status = {"status": "running", "number": number, "overrides": list(overrides), "metric": metric}
    status |= {"host": socket.gethostname(), "pid": os.getpid()}
    status |= {"started": datetime.now(UTC).isoformat(timespec="seconds")}
    _write(run_dir / "status.json", status)
    (run_dir / "error.txt").unlink(missing_ok=True)
    try:
        result = task()
    except BaseException as error:
        interrupted = isinstance(error, SystemExit | KeyboardInterrupt)
        status |= {"status": "interrupted" if interrupted else "failed", "error": f"{type(error).__name__}: {error}"}
        if not interrupted:
            write_text(run_dir / "error.txt", traceback.format_exc())
        raise
    else:
        status["status"] = "finished"
        status |= {"value": result} if isinstance(result, float) else {}
        status |= {"metrics": result} if isinstance(result, dict) else {}
        return result
    finally:
        _write(run_dir / "status.json", status | {"seconds": round(time.monotonic() - begun, 1)})


def _write(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2, default=str) + "\n")


# --- the summary ---------------------------------------------------------------------------------------------------


def jobs_of(sweep_dir: Path) -> list[dict[str, Any]]:
    """What each job of a sweep that is over left, in order of their numbers: {folder, status, error, overrides, metric,
    metrics, seconds}. A job that still calls itself running was killed."""
    jobs = []
    for path in sorted(sweep_dir.glob("*/status.json")):
        status, manifest = _read(path, Status), _read(path.with_name("manifest.json"), Measured)
        failed = status.get("status") != "finished"
        job = {"folder": path.parent.name, "status": status.get("status"), "number": status.get("number", 0)}
        job |= {"error": (str(status.get("error") or "").splitlines() or [""])[0] if failed else ""}
        if job["status"] == "running":
            job |= {"status": "killed", "error": "no final status: the job was killed or its node was lost"}
        job |= {"overrides": status.get("overrides", []), "metric": status.get("metric"), "seconds": status.get("seconds")}
        job["seconds"] = manifest.get("seconds", job["seconds"])
        job["metrics"] = dict(status.get("metrics") or manifest.get("metrics") or {})
        if job["metric"] and "value" in status:
            job["metrics"][job["metric"]] = status["value"]
        jobs.append(job)
    return sorted(jobs, key=lambda job: job["number"])


class Measured(BaseModel):
    """What of a job's manifest.json a summary tells."""

    seconds: float = 0
    metrics: dict[str, float] = {}


class Status(Measured):
    """What a job's status.json says."""

    status: str
    number: int = 0
    overrides: list[str] = []
    metric: str | None = None
    error: str | None = None
    value: float = 0


def _read(path: Path, schema: type[Measured]) -> dict[str, Any]:
    """The content of a job's file, {} where there is none; where it is damaged, it says so as the job's status."""
    try:
        return read_json(path, schema)
    except FileNotFoundError:
        return {}
    except RunError as error:
        return {"status": "damaged", "error": str(error)} if schema is Status else {}


def chosen_metric(jobs: Sequence[dict[str, Any]]) -> str | None:
    """The metric to compare jobs by: optimized_metric, or a likely one that all finished jobs have."""
    named = next((job["metric"] for job in jobs if job["metric"]), None)
    known = [set(job["metrics"]) for job in jobs if job["status"] == "finished"]
    shared = set.intersection(*known) if known else set()
    measured = sorted(name for name in shared if name.startswith(("test/", "val/")))
    return named or next((name for name in (*LIKELY, *measured) if name in shared), None)


def best_of(jobs: Sequence[dict[str, Any]], metric: str | None) -> dict[str, Any] | None:
    """The finished job with the best `metric`: the highest where its name says so, else the lowest; None of fewer than 2."""
    told = [job for job in jobs if job["status"] == "finished" and math.isfinite(job["metrics"].get(metric, math.nan))]
    if len(told) < 2:
        return None
    return (max if HIGHER_IS_BETTER.search(metric) else min)(told, key=lambda job: job["metrics"][metric])


def swept_keys(jobs: Sequence[dict[str, Any]]) -> list[str]:
    """The keys whose values differ between jobs."""
    values: dict[str, set[str | None]] = {}
    for key in {word.partition("=")[0] for job in jobs for word in job["overrides"]}:
        values[key] = {parameters(job).get(key) for job in jobs}
    return sorted(key for key, found in values.items() if len(found) > 1)


def parameters(job: dict[str, Any]) -> dict[str, str]:
    return {word.partition("=")[0]: word.partition("=")[2] for word in job["overrides"]}


def summarise(sweep_dir: Path, out: Console | None = None) -> list[dict[str, Any]]:
    """Prints a table of a sweep's jobs and writes summary.csv and report.html in it; returns the jobs."""
    jobs = jobs_of(sweep_dir)
    if not jobs:
        return jobs
    metric, keys = chosen_metric(jobs), swept_keys(jobs)
    rows = []
    for job in jobs:
        value = job["metrics"].get(metric)
        given, told = [parameters(job).get(key, "") for key in keys], {} if metric is None else {metric: value}
        named = dict(zip(keys, given, strict=True)) | {"status": job["status"], **told}
        rows.append(
            {"job": job["number"], **named, "seconds": job["seconds"], "error": job["error"], "folder": job["folder"]}
        )
    out = out or console()
    names = [name for name in rows[0] if name not in ("error", "folder")]
    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name, justify="right" if name in (metric, "seconds") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(f"{v:.4g}" if isinstance(v, float) else "" if v is None else str(v) for v in map(row.get, names)))
    out.print(table)
    for job in jobs:
        if job["error"]:
            out.print(f"job {job['number']}: {job['error']}", soft_wrap=True)
    with writing(sweep_dir / "summary.csv") as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    from genlab.report.sweep import write_sweep_report  # here: it takes torch, which --help must not

    fixed = [word for word in jobs[0]["overrides"] if word.partition("=")[0] not in keys]
    named = [job | {"parameters": parameters(job)} for job in jobs]
    write_sweep_report(sweep_dir, named, keys, metric, fixed)
    return jobs


def finish(argv: Sequence[str], error: BaseException | None = None) -> bool:
    """The summary of the sweep that this process started; False if it has jobs and one of them is not finished.

    argv: the command line, `error` what ended the sweep: printed where no job has told it.
    """
    folder = started()
    jobs = summarise(folder) if folder is not None else []
    if not jobs:
        return True
    print(f"summary  {folder / 'summary.csv'}\nreport   {folder / 'report.html'}", file=sys.stderr)
    metric = chosen_metric(jobs)
    if best := best_of(jobs, metric):
        run = os.path.relpath(folder / best["folder"])
        print(f"best     {run}  {metric} {best['metrics'][metric]:.4g}\ntry next", file=sys.stderr)
        print(f"  {command('sample', run=run)}\n  {command('export', run=run, out='best')}", file=sys.stderr)
    left = [job for job in jobs if job["status"] != "finished"]
    if error is not None and not any(job["status"] == "failed" for job in jobs):
        print(f"genlab: error: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}", file=sys.stderr)
    if not left and error is None:
        return True
    words = [word for word in argv[1:] if not word.startswith("hydra.sweep.dir=")]
    again = shlex.join(["genlab", *words, f"hydra.sweep.dir={folder}"])
    print(f"genlab: {len(left)} of {len(jobs)} jobs are not finished. To resume (finished jobs are skipped):\n  {again}",
          file=sys.stderr)  # fmt: skip
    return False
