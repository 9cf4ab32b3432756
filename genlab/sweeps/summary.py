"""The summary of a sweep's jobs: a table, summary.csv, report.html, and which job is best."""

import csv
import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from genlab.console import Console, command, console
from genlab.errors import RunError
from genlab.files import writing
from genlab.metrics.directions import higher_is_better
from genlab.safe_yaml import YamlError, read_yaml
from genlab.sweeps.jobs import Measured, Result, Status, read_status, started

__all__ = ["best_of", "chosen_metric", "direction_of", "finish", "jobs_of", "summarise"]

# What jobs are compared by where no optimized_metric is given: the first that all have
LIKELY = (
    "test/fid",
    "test/bits_per_dim",
    "test/nll",
    "test/accuracy",
    "test/f1",
    "test/rouge_l",
    "fid",
    "val/fid_random",
    "val/bits_per_dim",
    "val/nll",
    "val/accuracy",
    "val/quality",
)


# --- what jobs left -------------------------------------------------------------------------------


def jobs_of(sweep_dir: Path) -> list[dict[str, Any]]:
    """What each job of a sweep that is over left, in the order of their numbers.

    Returns:
        For each {folder, number, status, error, overrides, metric, metrics, higher_is_better,
        seconds}. A job that still calls itself running was killed.
    """
    jobs = []
    for path in sorted(sweep_dir.glob("*/status.json")):
        status = read_status(path, Status)
        manifest = read_status(path.with_name("manifest.json"), Measured)
        state = status.get("status")
        error = ""
        if state == "running":
            state = "killed"
            error = "no final status: the job was killed or its node was lost"
        elif state != "finished":
            error = (str(status.get("error") or "").splitlines() or [""])[0]
        metrics = dict(status.get("metrics") or manifest.get("metrics") or {})
        if status.get("metric") and "value" in status:
            metrics[status["metric"]] = status["value"]
        job = {
            "folder": path.parent.name,
            "number": status.get("number", 0),
            "status": state,
            "error": error,
            "overrides": status.get("overrides", []),
            "metric": status.get("metric"),
            "metrics": metrics,
            "higher_is_better": declared(path.parent, status),
            "seconds": manifest.get("seconds", status.get("seconds")),
        }
        jobs.append(job)
    return sorted(jobs, key=lambda job: job["number"])


def declared(folder: Path, status: Mapping[str, Any]) -> dict[str, bool]:
    """{metric: whether higher is better} where a job's own files say so.

    These are its eval/metrics.json, which has what the metrics declare, its status.json (of an
    evaluation), and callbacks.checkpoint of its config, which has the direction of the metric that
    best.ckpt is chosen by.
    """
    found: dict[str, bool | None] = {}
    try:
        content = read_yaml(folder / "config.yaml")
        checkpoint = content["callbacks"]["checkpoint"]
        found[checkpoint["monitor"]] = {"max": True, "min": False}.get(checkpoint["mode"])
    except (OSError, YamlError, RunError, KeyError, TypeError):
        pass  # no training, or no checkpoints
    for name, entry in read_status(folder / "eval" / "metrics.json", dict[str, Result]).items():
        found[f"test/{name}"] = entry.get("higher_is_better")
    found |= status.get("higher_is_better") or {}
    return {name: higher for name, higher in found.items() if higher is not None}


# --- comparing them -------------------------------------------------------------------------------


def chosen_metric(jobs: Sequence[dict[str, Any]]) -> str | None:
    """The metric to compare jobs by: optimized_metric, else a likely one that all finished jobs
    have.
    """
    named = next((job["metric"] for job in jobs if job["metric"]), None)
    if named:
        return named
    finished = [job for job in jobs if job["status"] == "finished"]
    shared = set.intersection(*(set(job["metrics"]) for job in finished)) if finished else set()
    declared = {name for job in finished for name in job.get("higher_is_better", {})}
    measured = [n for n in sorted(shared) if n.startswith(("test/", "val/")) or n in declared]
    return next((name for name in (*LIKELY, *measured) if name in shared), None)


def direction_of(jobs: Sequence[dict[str, Any]], metric: str | None) -> bool | None:
    """Whether higher values of `metric` are better: as the jobs' files declare it, or of genlab's
    own metrics as genlab does; None where neither does.
    """
    for job in jobs:
        if metric in job.get("higher_is_better", {}):
            return job["higher_is_better"][metric]
    return None if metric is None else higher_is_better(metric)


def compared(jobs: Sequence[dict[str, Any]], metric: str | None) -> list[dict[str, Any]]:
    """The finished jobs with a finite value of `metric`."""
    finished = [job for job in jobs if job["status"] == "finished"]
    return [job for job in finished if math.isfinite(job["metrics"].get(metric, math.nan))]


def best_of(
    jobs: Sequence[dict[str, Any]], metric: str | None, higher: bool | None
) -> dict[str, Any] | None:
    """The finished job with the best `metric`; None of fewer than two, or without a direction.

    Args:
        jobs: As `jobs_of` has them.
        metric: Its name.
        higher: Whether higher values of it are better; None where that is not known.
    """
    known = compared(jobs, metric)
    if higher is None or len(known) < 2:
        return None
    return (max if higher else min)(known, key=lambda job: job["metrics"][metric])


def swept_keys(jobs: Sequence[dict[str, Any]]) -> list[str]:
    """The keys whose values differ between jobs."""
    keys = {word.partition("=")[0] for job in jobs for word in job["overrides"]}
    values = {key: {parameters(job).get(key) for job in jobs} for key in keys}
    return sorted(key for key, found in values.items() if len(found) > 1)


def parameters(job: dict[str, Any]) -> dict[str, str]:
    """{key: value} of the job's overrides."""
    return {word.partition("=")[0]: word.partition("=")[2] for word in job["overrides"]}


# --- the summary ----------------------------------------------------------------------------------


def summarise(
    sweep_dir: Path, out: Console | None = None, higher: bool | None = None
) -> list[dict[str, Any]]:
    """Prints a table of a sweep's jobs and writes summary.csv and report.html there.

    Args:
        sweep_dir: hydra.sweep.dir.
        out: Where the table is printed; None: the terminal.
        higher: Whether higher values of the optimised metric are better, as the sweeper says; None
            where it does not.

    Returns:
        The jobs, as `jobs_of` has them.
    """
    jobs = jobs_of(sweep_dir)
    if not jobs:
        return jobs
    metric, keys = chosen_metric(jobs), swept_keys(jobs)
    rows = []
    for job in jobs:
        row = {"job": job["number"]}
        row |= {key: parameters(job).get(key, "") for key in keys}
        row["status"] = job["status"]
        if metric is not None:
            row[metric] = job["metrics"].get(metric)
        row |= {name: job[name] for name in ("seconds", "error", "folder")}
        rows.append(row)
    print_table(rows, metric, out or console())
    for job in jobs:
        if job["error"]:
            (out or console()).print(f"job {job['number']}: {job['error']}", soft_wrap=True)
    with writing(sweep_dir / "summary.csv") as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    # Here, because it imports torch, which --help must not
    from genlab.report.sweep import write_sweep_report

    fixed = [word for word in jobs[0]["overrides"] if word.partition("=")[0] not in keys]
    with_parameters = [job | {"parameters": parameters(job)} for job in jobs]
    names = sorted({name for job in jobs for name in job["metrics"]})
    directions = {name: direction_of(jobs, name) for name in names}
    if metric is not None and higher is not None:
        directions[metric] = higher
    write_sweep_report(sweep_dir, with_parameters, keys, metric, fixed, directions)
    return jobs


def print_table(rows: Sequence[dict[str, Any]], metric: str | None, out: Console) -> None:
    """Prints a row a job, without the errors and folders."""
    names = [name for name in rows[0] if name not in ("error", "folder")]
    table = Table(box=None, pad_edge=False)
    for name in names:
        justify = "right" if name in (metric, "seconds") else "left"
        table.add_column(name, justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(cell(row[name]) for name in names))
    out.print(table)


def cell(value: Any) -> str:
    """A value as a table shows it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


def finish(argv: Sequence[str], error: BaseException | None = None) -> bool:
    """Prints the summary of the sweep that this process started.

    Args:
        argv: The command line.
        error: What ended the sweep: printed where it is not the failure of a job.

    Returns:
        False if the sweep has jobs and one of them is not finished.
    """
    sweep = started()
    jobs = [] if sweep is None else summarise(sweep.folder, higher=sweep.higher_is_better)
    if not jobs:
        return True
    folder = sweep.folder
    print(f"summary  {folder / 'summary.csv'}\nreport   {folder / 'report.html'}", file=sys.stderr)
    print_best(folder, jobs, sweep.higher_is_better)
    left = [job for job in jobs if job["status"] != "finished"]
    if error is not None and not any(job["status"] == "failed" for job in jobs):
        first_line = str(error).strip().partition("\n")[0]
        print(f"genlab: error: {type(error).__name__}: {first_line}", file=sys.stderr)
    if not left and error is None:
        return True
    words = [word for word in argv[1:] if not word.startswith("hydra.sweep.dir=")]
    again = shlex.join(["genlab", *words, f"hydra.sweep.dir={folder}"])
    print(
        f"genlab: {len(left)} of {len(jobs)} jobs are not finished. To resume (finished jobs are "
        f"skipped):\n  {again}",
        file=sys.stderr,
    )
    return False


def print_best(folder: Path, jobs: Sequence[dict[str, Any]], higher: bool | None) -> None:
    """Prints the best job and what to do with it, or how to say which way a metric is better.

    Args:
        folder: Of the sweep.
        jobs: As `jobs_of` has them.
        higher: Whether higher values of the optimised metric are better, as the sweeper says.
    """
    metric = chosen_metric(jobs)
    higher = direction_of(jobs, metric) if higher is None else higher
    best = best_of(jobs, metric, higher)
    if best is not None:
        run = os.path.relpath(folder / best["folder"])
        print(f"best     {run}  {metric} {best['metrics'][metric]:.4g}\ntry next", file=sys.stderr)
        print(f"  {command('sample', run=run)}", file=sys.stderr)
        print(f"  {command('export', run=run, out='best')}", file=sys.stderr)
    elif higher is None and len(compared(jobs, metric)) > 1:
        print(
            f"best     none named: {metric} does not say whether higher or lower is better. "
            f"{how_to_say(metric)}",
            file=sys.stderr,
        )


def how_to_say(metric: str) -> str:
    """How a user states which way a metric is better."""
    if metric.startswith(("val/", "train/")):
        key = "callbacks.checkpoint"
        return f"State it: {key}.monitor={metric} {key}.mode=max (or min)"
    return "State it in the metric's class: higher_is_better = True (or False)"
