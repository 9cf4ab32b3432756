"""Read the files of a run directory and check them against genlab.runs.schema."""

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
# What to do about a damaged file
RESTORE = "restore a copy of it; `genlab sample` and `genlab encode` work without it"
EVALUATE = "remove it, and `genlab eval` writes it again"
MOVE_AWAY = "move it away, and the run continues without its earlier rows"


def check_layout(run_dir: str | Path) -> None:
    """Raise RunError if a file of a run directory is something else, or a folder is."""
    for name in FILES:
        path = Path(run_dir) / name
        if path.exists() and not path.is_file():
            raise RunError(f"{path}: expected a file, found something else; move it away")
    for name in FOLDERS:
        path = Path(run_dir) / name
        if path.exists() and not path.is_dir():
            raise RunError(f"{path}: expected a folder, found something else; move it away")


def read_manifest(run_dir: str | Path, schema: Any = schema.Manifest) -> dict[str, Any]:
    """The content of <run_dir>/manifest.json; RunError if it is missing or not as `schema`."""
    try:
        return read_json(Path(run_dir) / "manifest.json", schema, RESTORE)
    except FileNotFoundError:
        raise RunError(f"run={run_dir}: no manifest.json there; expected a run directory") from None


def read_results(run_dir: str | Path) -> dict[str, dict[str, Any]]:
    """The metrics in <run_dir>/eval/metrics.json, {} without it; RunError if it is damaged."""
    try:
        return read_json(Path(run_dir) / "eval" / "metrics.json", schema.Results, EVALUATE)
    except FileNotFoundError:
        return {}


def read_certificate(run_dir: str | Path) -> dict[str, Any] | None:
    """<run_dir>/eval/certificate.json, None without the file; RunError if it is damaged."""
    try:
        return read_json(Path(run_dir) / "eval" / "certificate.json", schema.Certificate, EVALUATE)
    except FileNotFoundError:
        return None


def read_curves(run_dir: str | Path) -> list[dict[str, str]]:
    """The complete rows of <run_dir>/metrics.csv, [] without it; RunError if it is damaged."""
    try:
        return read_rows(Path(run_dir) / "metrics.csv", hint=MOVE_AWAY)
    except FileNotFoundError:
        return []
