"""report.html: one file that shows what a run did, with its pictures and curves inside."""

import base64
import csv
import json
from importlib.resources import files
from pathlib import Path

import jinja2

from genlab import runs
from genlab.report.plots import curves
from genlab.report.tables import measured_on

__all__ = ["write_report"]

PICTURES = {
    "fixed": "Samples: the same latent vectors as training goes on",
    "reconstruction": "Held-out images, each with its reconstruction on the right",
    "interpolation": "Between pairs of held-out images, which stand at both ends",
}
MEASURED = {
    "density.png": "Held-out points, samples, and the density",
    "ood.png": "Log-probabilities of the two data sets",
    "neighbours.png": "Memorised? A sample a row, then the training images nearest to it over the features",
    "prd.png": "Precision against recall",
}
MAX_PICTURES = 12  # of one kind; a longer run shows as many, evenly spaced
CURVES = {  # what shares an axis; a metric that no group names gets one of its own
    "losses": ("train/loss_d", "train/loss_g"),
    "scores": ("train/score_real", "train/score_fake"),
    "bits per dimension": ("train/bits_per_dim", "val/bits_per_dim"),
    "negative log-likelihood": ("train/nll", "val/nll"),
    "code correlation": ("train/code_correlation", "val/code_correlation"),
}
NOT_CURVES = {"step", "epoch", "images_seen"}


def write_report(run_dir: Path) -> Path:
    """Writes <run_dir>/report.html from what lies there (manifest, metrics.csv, samples, eval) and returns its path."""
    manifest = json.loads((run_dir / "manifest.json").read_text())
    results_file = run_dir / "eval" / "metrics.json"
    results = json.loads(results_file.read_text()) if results_file.is_file() else {}
    measured = [(run_dir / "eval" / name, title) for name, title in MEASURED.items()]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(files("genlab.report").joinpath("report.html.j2").read_text())
    page = template.render(
        manifest=manifest,
        results=[(name, entry, measured_on(entry)) for name, entry in results.items()],
        used=next(iter(results.values()), None),
        pictures=[(kind, title, _pictures(run_dir, kind)) for kind, title in PICTURES.items()],
        curves=_curves(run_dir / "metrics.csv"),
        measured=[(title, _uri(path.read_bytes(), "image/png")) for path, title in measured if path.is_file()],
        settings=(run_dir / "config.yaml").read_text(),
    )
    return runs.write_text(run_dir / "report.html", page)


def _pictures(run_dir: Path, kind: str) -> list[tuple[int, str]]:
    """(step, data URI) of the pictures samples/<kind>_<step>.png in order of step."""
    paths = {int(path.stem.rpartition("_")[2]): path for path in (run_dir / "samples").glob(f"{kind}_*.png")}
    steps = sorted(paths)
    if len(steps) > MAX_PICTURES:
        steps = [steps[round(i * (len(steps) - 1) / (MAX_PICTURES - 1))] for i in range(MAX_PICTURES)]
    return [(step, _uri(paths[step].read_bytes(), "image/png")) for step in steps]


def _uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _curves(path: Path) -> list[tuple[str, str]]:
    """(title, data URI of an SVG) for each group of metrics that metrics.csv holds."""
    series: dict[str, list[tuple[int, float]]] = {}
    if path.is_file():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if value and name not in NOT_CURVES:
                        series.setdefault(name, []).append((int(row["step"]), float(value)))
    groups = {title: [name for name in names if name in series] for title, names in CURVES.items()}
    grouped = {name for names in groups.values() for name in names}
    groups |= {name: [name] for name in series if name not in grouped}
    return [
        (title, _uri(curves({name: series[name] for name in names}), "image/svg+xml"))
        for title, names in groups.items()
        if names
    ]
