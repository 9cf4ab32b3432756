"""A sweep's report.html: its jobs in a table, and the metric against what is swept."""

import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
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
    directions: Mapping[str, bool | None],
) -> Path:
    """Writes <sweep_dir>/report.html and returns its path.

    Args:
        sweep_dir: Where the folders of the jobs are.
        jobs: As genlab.sweeps.summary.jobs_of has them, with parameters.
        keys: The swept ones.
        metric: The one that is shown first.
        fixed: The overrides that all jobs have.
        directions: {metric: whether higher is better}, None where that is not known.
    """
    rows = []
    for job in jobs:
        row = {name: job[name] for name in ("number", "status", "error", "seconds")}
        given = job["parameters"]
        row["parameters"] = {key: given[key] for key in keys if key in given}
        row["metrics"] = {n: value for n, value in job["metrics"].items() if math.isfinite(value)}
        # ./ so that a folder's name is never read as an address like javascript:
        report = f"./{quote(job['folder'])}/report.html"
        there = (sweep_dir / job["folder"] / "report.html").is_file()
        rows.append(row | {"report": report if there else None})
    names = {name for row in rows for name in row["metrics"]} - {"images_seen"}
    order = sorted(names, key=lambda name: (name != metric, not name.startswith("test/"), name))
    text = page(
        "sweep.html.j2",
        name=sweep_dir.name,
        jobs=rows,
        counts=Counter(row["status"] for row in rows),
        metrics=order,
        metric=metric,
        fixed=shlex.join(fixed),
        data={
            "jobs": rows,
            "keys": list(keys),
            "higher_is_better": {name: directions.get(name) for name in order},
        },
    )
    return runs.write_text(sweep_dir / "report.html", text)
