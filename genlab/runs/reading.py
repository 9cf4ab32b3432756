"""The files of a run directory, read as what genlab.runs.schema says they hold."""

from pathlib import Path
from typing import Any

from genlab.errors import RunError
from genlab.files import FOLDERS
from genlab.reading import read_json, read_rows
from genlab.runs import schema

__all__ = ["check_layout", "read_certificate", "read_curves", "read_manifest", "read_results"]

FILES = (
    "manifest.json",
    "config.yaml",
    "metrics.csv",
    "report.html",
    "explorer.html",
    "loggers.json",
    ".lock",
)
WITHOUT_MANIFEST = "put back a copy of it; `genlab sample` and `genlab encode` need none"
AGAIN = "remove it, and `genlab eval` writes it again"
WITHOUT_ROWS = "move it away, and the run goes on without its earlier rows"


def check_layout(run_dir: str | Path) -> None:
    """RunError where something in a run directory is a file that must be a folder, or the other way
    round.
    """
    for names, right, wanted in (
        (FILES, Path.is_file, "a file"),
        (FOLDERS, Path.is_dir, "a folder"),
    ):
        for name in names:
            path = Path(run_dir) / name
            if path.exists() and not right(path):
                raise RunError(f"{path}: expected {wanted}, and it is something else; move it away")


def read_manifest(run_dir: str | Path, schema: Any = schema.Manifest) -> dict[str, Any]:
    """The content of <run_dir>/manifest.json; RunError if it is not there or does not fit `schema`."""
    try:
        return read_json(Path(run_dir) / "manifest.json", schema, WITHOUT_MANIFEST)
    except FileNotFoundError:
        raise RunError(
            f"run={run_dir}: there is no manifest.json in it; expected a run directory"
        ) from None


def read_results(run_dir: str | Path) -> dict[str, dict[str, Any]]:
    """The metrics in <run_dir>/eval/metrics.json, none where it is not there; RunError if it is
    damaged.
    """
    try:
        return read_json(Path(run_dir) / "eval" / "metrics.json", schema.Results, AGAIN)
    except FileNotFoundError:
        return {}


def read_certificate(run_dir: str | Path) -> dict[str, Any] | None:
    """<run_dir>/eval/certificate.json, None where it is not there; RunError if it is damaged."""
    try:
        return read_json(Path(run_dir) / "eval" / "certificate.json", schema.Certificate, AGAIN)
    except FileNotFoundError:
        return None


def read_curves(run_dir: str | Path) -> list[dict[str, str]]:
    """The whole rows of <run_dir>/metrics.csv, none where it is not there; RunError if it is
    damaged.
    """
    try:
        return read_rows(Path(run_dir) / "metrics.csv", hint=WITHOUT_ROWS)
    except FileNotFoundError:
        return []
