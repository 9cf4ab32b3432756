"""What the jobs of a sweep left: a table, summary.csv, report.html, and the best of them."""

import csv
import math
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from genlab.console import Console, command, console
from genlab.files import writing
from genlab.sweeps.jobs import Measured, Status, read_status, started

__all__ = ["best_of", "chosen_metric", "finish", "jobs_of", "summarise"]

LIKELY = ("test/fid", "test/bits_per_dim", "test/nll", "test/accuracy", "test/f1", "test/rouge_l", "fid", "val/fid_random",
          "val/bits_per_dim", "val/nll", "val/accuracy", "val/quality")  # fmt: skip
HIGHER_IS_BETTER = re.compile("accuracy|precision|recall|coverage|density|correlation|agreement|ssim|diversity|f1|em$|bleu|"
                              "rouge|quality|auroc|score")  # fmt: skip


def jobs_of(sweep_dir: Path) -> list[dict[str, Any]]:
    """What each job of a sweep that is over left, in order of their numbers: {folder, status,
    error, overrides, metric, metrics, seconds}. A job that still calls itself running was killed.
    """
    jobs = []
    for path in sorted(sweep_dir.glob("*/status.json")):
        status, manifest = (
            read_status(path, Status),
            read_status(path.with_name("manifest.json"), Measured),
        )
        failed = status.get("status") != "finished"
        job = {
            "folder": path.parent.name,
            "status": status.get("status"),
            "number": status.get("number", 0),
        }
        job |= {"error": (str(status.get("error") or "").splitlines() or [""])[0] if failed else ""}
        if job["status"] == "running":
            job |= {
                "status": "killed",
                "error": "no final status: the job was killed or its node was lost",
            }
        job |= {
            "overrides": status.get("overrides", []),
            "metric": status.get("metric"),
            "seconds": status.get("seconds"),
        }
        job["seconds"] = manifest.get("seconds", job["seconds"])
        job["metrics"] = dict(status.get("metrics") or manifest.get("metrics") or {})
        if job["metric"] and "value" in status:
            job["metrics"][job["metric"]] = status["value"]
        jobs.append(job)
    return sorted(jobs, key=lambda job: job["number"])


def chosen_metric(jobs: Sequence[dict[str, Any]]) -> str | None:
    """The metric to compare jobs by: optimized_metric, or a likely one that all finished jobs have."""
    named = next((job["metric"] for job in jobs if job["metric"]), None)
    known = [set(job["metrics"]) for job in jobs if job["status"] == "finished"]
    shared = set.intersection(*known) if known else set()
    measured = sorted(name for name in shared if name.startswith(("test/", "val/")))
    return named or next((name for name in (*LIKELY, *measured) if name in shared), None)


def best_of(jobs: Sequence[dict[str, Any]], metric: str | None) -> dict[str, Any] | None:
    """The finished job with the best `metric`: the highest where its name says so, else the lowest;
    None of fewer than 2.
    """
    told = [
        job
        for job in jobs
        if job["status"] == "finished" and math.isfinite(job["metrics"].get(metric, math.nan))
    ]
    if len(told) < 2:
        return None
    return (max if HIGHER_IS_BETTER.search(metric) else min)(
        told, key=lambda job: job["metrics"][metric]
    )


def swept_keys(jobs: Sequence[dict[str, Any]]) -> list[str]:
    """The keys whose values differ between jobs."""
    values: dict[str, set[str | None]] = {}
    for key in {word.partition("=")[0] for job in jobs for word in job["overrides"]}:
        values[key] = {parameters(job).get(key) for job in jobs}
    return sorted(key for key, found in values.items() if len(found) > 1)


def parameters(job: dict[str, Any]) -> dict[str, str]:
    return {word.partition("=")[0]: word.partition("=")[2] for word in job["overrides"]}


def summarise(sweep_dir: Path, out: Console | None = None) -> list[dict[str, Any]]:
    """Prints a table of a sweep's jobs and writes summary.csv and report.html in it; returns the
    jobs.
    """
    jobs = jobs_of(sweep_dir)
    if not jobs:
        return jobs
    metric, keys = chosen_metric(jobs), swept_keys(jobs)
    rows = []
    for job in jobs:
        value = job["metrics"].get(metric)
        given, told = (
            [parameters(job).get(key, "") for key in keys],
            {} if metric is None else {metric: value},
        )
        named = dict(zip(keys, given, strict=True)) | {"status": job["status"], **told}
        rows.append(
            {
                "job": job["number"],
                **named,
                "seconds": job["seconds"],
                "error": job["error"],
                "folder": job["folder"],
            }
        )
    out = out or console()
    names = [name for name in rows[0] if name not in ("error", "folder")]
    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(
            name, justify="right" if name in (metric, "seconds") else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(
            *(
                f"{v:.4g}" if isinstance(v, float) else "" if v is None else str(v)
                for v in map(row.get, names)
            )
        )
    out.print(table)
    for job in jobs:
        if job["error"]:
            out.print(f"job {job['number']}: {job['error']}", soft_wrap=True)
    with writing(sweep_dir / "summary.csv") as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    from genlab.report.sweep import (
        write_sweep_report,  # here: it takes torch, which --help must not
    )

    fixed = [word for word in jobs[0]["overrides"] if word.partition("=")[0] not in keys]
    named = [job | {"parameters": parameters(job)} for job in jobs]
    write_sweep_report(sweep_dir, named, keys, metric, fixed)
    return jobs


def finish(argv: Sequence[str], error: BaseException | None = None) -> bool:
    """The summary of the sweep that this process started; False if it has jobs and one of them is
    not finished.

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
        print(
            f"  {command('sample', run=run)}\n  {command('export', run=run, out='best')}",
            file=sys.stderr,
        )
    left = [job for job in jobs if job["status"] != "finished"]
    if error is not None and not any(job["status"] == "failed" for job in jobs):
        print(
            f"genlab: error: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}",
            file=sys.stderr,
        )
    if not left and error is None:
        return True
    words = [word for word in argv[1:] if not word.startswith("hydra.sweep.dir=")]
    again = shlex.join(["genlab", *words, f"hydra.sweep.dir={folder}"])
    print(f"genlab: {len(left)} of {len(jobs)} jobs are not finished. To resume (finished jobs are skipped):\n  {again}",
          file=sys.stderr)  # fmt: skip
    return False
