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
    """Appends a row for each logged step to <save_dir>/metrics.csv.

    Lightning's CSVLogger is not used because it deletes the file of an earlier run in the same
    directory; here a resumed run continues it (see `rewind`).

    Args:
        save_dir: The run directory.
    """

    def __init__(self, save_dir: str):
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self.columns: list[str] = ["step"]
        self.row: dict[str, Any] = {}
        self.changed = False  # since the row was last saved
        self.start: int | None = None  # offset of the current row in the file, once it is saved

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
        """Does nothing: the run's config.yaml holds the settings."""

    def rewind(self, step: int) -> None:
        """Drops the rows after `step`, and a last line that was cut short when a run was killed."""
        if not self.path.exists():
            return
        hint = "move it away; the run then continues without its earlier rows"
        rows = read_rows(self.path, hint=hint)
        self.columns = list(rows[0]) if rows else ["step"]
        self._rewrite([row for row in rows if int(row["step"]) <= step])

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Adds values to the row of `step`, also where that row is already saved."""
        if self.row and self.row["step"] != step:
            self.save()
            self.row = {}
            self.start = None
        self.row |= {"step": step} | metrics
        self.changed = True

    @rank_zero_only
    def save(self) -> None:
        if not self.changed:
            return
        new = [name for name in self.row if name not in self.columns]
        if new or not self.path.is_file():
            others = self._rows_of_other_steps() if self.path.is_file() else []
            self.columns += new
            self._rewrite(others)
            self.start = None
        with open(self.path, "r+", newline="") as file:
            if self.start is None:
                self.start = file.seek(0, os.SEEK_END)
            else:
                file.seek(self.start)
            csv.DictWriter(file, self.columns).writerow(self.row)
            file.truncate()
        self.changed = False

    def _rows_of_other_steps(self) -> list[dict]:
        with open(self.path, newline="") as file:
            return [row for row in csv.DictReader(file) if row["step"] != str(self.row["step"])]

    def _rewrite(self, rows: list[dict]) -> None:
        with writing(self.path) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, restval="")
            writer.writeheader()
            writer.writerows(rows)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()
