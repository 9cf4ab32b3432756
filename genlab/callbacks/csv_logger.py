"""metrics.csv: one file for the whole life of a run, resumes included."""

import csv
import os
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from genlab.files import writing
from genlab.reading import read_rows

__all__ = ["CSVLogger"]


class CSVLogger(Logger):
    """Appends a row a step to <save_dir>/metrics.csv; on a resume, rows after the step resumed from
    are dropped.

    (Lightning's CSVLogger deletes the file of a run that it finds.)
    """

    def __init__(self, save_dir: str):
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self.columns: list[str] = ["step"]
        self.row: dict[str, Any] = {}
        self.changed = False  # since it was last saved
        self.start: int | None = None  # where the current row begins in the file, once it is there

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @property
    @rank_zero_experiment
    def experiment(self) -> "CSVLogger":
        return self

    def log_hyperparams(self, params, *args, **kwargs) -> None:
        """The run's config.yaml has them."""

    def rewind(self, step: int) -> None:
        """Drops the rows after `step`, and a last line that a kill cut short."""
        if not self.path.exists():
            return
        rows = read_rows(
            self.path, hint="move it away, and the run goes on without its earlier rows"
        )
        self.columns = list(rows[0]) if rows else ["step"]
        self._rewrite([row for row in rows if int(row["step"]) <= step])

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Values of one step may come in several calls, with a `save` between them: they share a
        row.
        """
        if self.row and self.row["step"] != step:
            self.save()
            self.row, self.start = {}, None
        self.row |= {"step": step} | metrics
        self.changed = True

    @rank_zero_only
    def save(self) -> None:
        if not self.changed:
            return
        new = [name for name in self.row if name not in self.columns]
        if new or not self.path.is_file():
            rows = []
            if self.path.is_file():
                with open(self.path, newline="") as file:
                    rows = [
                        row for row in csv.DictReader(file) if row["step"] != str(self.row["step"])
                    ]
            self.columns += new
            self._rewrite(rows)
            self.start = None
        with open(self.path, "r+", newline="") as file:
            self.start = file.seek(0, os.SEEK_END) if self.start is None else file.seek(self.start)
            csv.DictWriter(file, self.columns).writerow(self.row)
            file.truncate()
        self.changed = False

    def _rewrite(self, rows: list[dict]) -> None:
        with writing(self.path) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, restval="")
            writer.writeheader()
            writer.writerows(rows)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()
