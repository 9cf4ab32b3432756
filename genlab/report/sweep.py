"""A sweep's report.html: its jobs in a table, and the metric against what is swept."""

import math
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from genlab import runs
from genlab.report.html import page

__all__ = ["write_sweep_report"]


def write_sweep_report(
    sweep_dir: Path,
    jobs: Sequence[dict[str, Any]],
    keys: Sequence[str],
    metric: str | None,
    fixed: Sequence[str],
) -> Path:
    """Writes <sweep_dir>/report.html and returns its path. jobs: as genlab.sweeps.jobs.jobs_of has
    them, with parameters.

    keys: the swept ones. metric: shown first. fixed: the overrides that all jobs have.
    """
    rows = []
    for job in jobs:
        finite = {name: value for name, value in job["metrics"].items() if math.isfinite(value)}
        report = (
            f"./{quote(job['folder'])}/report.html"  # never read as an address like javascript:
        )
        row = {name: job[name] for name in ("number", "status", "error", "seconds")} | {
            "metrics": finite
        }
        row["parameters"] = {
            key: job["parameters"][key] for key in keys if key in job["parameters"]
        }
        rows.append(
            row
            | {"report": report if (sweep_dir / job["folder"] / "report.html").is_file() else None}
        )
    known = {name for row in rows for name in row["metrics"]} - {"images_seen"}
    text = page(
        "sweep.html.j2",
        name=sweep_dir.name,
        jobs=rows,
        counts=Counter(row["status"] for row in rows),
        metrics=sorted(
            known, key=lambda name: (name != metric, not name.startswith("test/"), name)
        ),
        metric=metric,
        fixed=shlex.join(fixed),
        data={"jobs": rows, "keys": list(keys)},
    )
    return runs.write_text(sweep_dir / "report.html", text)
