"""report.html: one file about a run, which contains its pictures and curves."""

import base64
import hashlib
import json
import logging
import math
import re
import shlex
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from jinja2.utils import markupsafe

from genlab import config, runs
from genlab.reading import parse_json, read_text
from genlab.report.images import SEEN_SIDE
from genlab.report.tables import certificate_rows, measured_on
from genlab.runs.schema import TrainedManifest

__all__ = ["PICTURES", "page", "write_report"]

PICTURES = {
    "fixed": "Samples from the same latent vectors during training",
    "reconstruction": "Held-out images, each with its reconstruction on the right",
    "interpolation": "Interpolations between the held-out images at both ends",
}
MEASURED = {
    "density": "Held-out points, samples, and the density",
    "ood": "Log-probabilities of the two data sets",
    "neighbours": "Samples, each followed by its nearest training images in feature space",
    "prd": "Precision against recall",
}
MAX_PICTURES = 12  # of one kind, evenly spaced over a longer run
MAX_POINTS = 1000  # of one curve
# Of a table of texts
MAX_TEXTS = 30
MAX_LETTERS = 600
# Metrics that share a chart; every other metric gets a chart of its own
CURVES = {
    "losses": ("train/loss_d", "train/loss_g"),
    "scores": ("train/score_real", "train/score_fake"),
    "bits per dimension": ("train/bits_per_dim", "val/bits_per_dim"),
    "negative log-likelihood": ("train/nll", "val/nll"),
    "code correlation": ("train/code_correlation", "val/code_correlation"),
    "throughput": ("images_per_second",),
}
SCRIPTS = {
    "report.html.j2": ("charts.js", "report.js"),
    "sweep.html.j2": ("charts.js", "sweep.js"),
    "explorer.html.j2": ("runtime.js", "explorer.js"),
}
POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'"
)
NOT_CURVES = {"step", "epoch", "images_seen"}
STEP = re.compile(r"[0-9]{1,18}")  # in the file name of a picture
log = logging.getLogger(__name__)


def write_report(run_dir: Path, eval_dir: Path | None = None, status: str | None = None) -> Path:
    """Writes report.html of a run and returns its path.

    Args:
        run_dir: Where manifest.json, metrics.csv and samples/ are.
        eval_dir: Where eval/ is, and where the report is written; None: `run_dir`.
        status: The status to show, in place of the manifest's.

    Raises:
        RunError: The manifest or the config is missing or damaged. Any other damaged file is left
            out with a warning.
    """
    eval_dir = eval_dir or run_dir
    manifest = runs.read_manifest(run_dir, TrainedManifest)
    manifest |= {"status": status} if status else {}
    results = _if_readable(runs.read_results, eval_dir) or {}
    certificate = _if_readable(runs.read_certificate, eval_dir)
    settings = read_text(run_dir / "config.yaml")
    data = config.read_frozen(run_dir).get("data") or {}
    shown = {
        "results": [(name, entry, measured_on(entry)) for name, entry in results.items()],
        "pictures": [(kind, title, _pictures(run_dir, kind)) for kind, title in PICTURES.items()],
        "texts": [*_texts_of_training(run_dir), *_texts_of_eval(eval_dir)],
        "measured": _measured(eval_dir),
        "certificate": certificate_rows(certificate) if certificate else [],
        "curves": _curves(_if_readable(runs.read_curves, run_dir) or []),
    }
    size = data.get("image_size")
    differences = manifest.get("differences")
    text = page(
        "report.html.j2",
        manifest=manifest,
        kind="text" if shown["texts"] else "image" if size else "point",
        cell=size * max(1, SEEN_SIDE // size) if size else None,
        used=next(iter(results.values()), None),
        sections=_sections(shown),
        explored=(run_dir / "explorer.html").is_file(),
        differences=None if differences is None else list(differences.items()),
        again=shlex.join(["genlab", "train", *manifest.get("overrides", [])]),
        settings=settings,
        **shown,
    )
    return runs.write_text(eval_dir / "report.html", text)


def _sections(shown: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(anchor, title) of the sections that a report has, for its table of contents."""
    kinds = [kind for kind, _, steps in shown["pictures"] if steps]
    names = ["metrics"] if shown["results"] else []
    names += [*kinds, *(kind for kind, *_ in shown["texts"])]
    names += [name for name, *_ in shown["measured"]]
    names += [name for name in ("certificate", "curves") if shown[name]]
    titles = {kind: f"{kind}s" for kind in kinds} | {"fixed": "samples"}
    return [(name, titles.get(name, name)) for name in [*names, "config", "reproduce"]]


def _if_readable(read: Callable[[Path], Any], path: Path) -> Any:
    """read(path); None with a warning where the file is damaged."""
    try:
        return read(path)
    except runs.RunError as error:
        log.warning("left out of the report: %s", error)
        return None


def page(template: str, **content: Any) -> str:
    """Fills in a template of this package, with its style and script inside the page.

    Every value is escaped. The page's Content-Security-Policy allows only its own script, which it
    knows by a hash, and loads nothing: content of the page can be shown, but cannot run.

    Args:
        template: Its file name, a key of SCRIPTS.
        content: The values that the template names.

    Returns:
        The page as HTML.
    """
    script = "".join(_read(name) for name in SCRIPTS[template])
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    inline = {
        "policy": f"{POLICY}; script-src 'sha256-{digest}'",
        "script": markupsafe.Markup(script),
        "style": markupsafe.Markup(_read("page.css")),
    }
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_read(template)).render(**inline, **content)


def _read(name: str) -> str:
    """The content of a file of this package."""
    return files("genlab.report").joinpath(name).read_text(encoding="utf-8")


def _spaced(items: list, most: int) -> list:
    """At most `most` of the items, evenly spaced, with the first and the last."""
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _by_step(run_dir: Path, pattern: str) -> list[tuple[int, Path]]:
    """The (step, path) of files in samples/ whose names end in _<step>, in order of step."""
    found = [(path.stem.rpartition("_")[2], path) for path in (run_dir / "samples").glob(pattern)]
    numbered = sorted((int(step), path) for step, path in found if STEP.fullmatch(step))
    return _spaced(numbered, MAX_PICTURES)


def _pictures(run_dir: Path, kind: str) -> list[tuple[int, str]]:
    """The (step, data URI) of the pictures samples/<kind>_<step>.png in order of step."""
    return [(step, _uri(path.read_bytes())) for step, path in _by_step(run_dir, f"{kind}_*.png")]


def _uri(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _measured(eval_dir: Path) -> list[tuple[str, str, str]]:
    """The (name, title, data URI) of the pictures in eval/."""
    found = {name: eval_dir / "eval" / f"{name}.png" for name in MEASURED}
    return [
        (name, MEASURED[name], _uri(path.read_bytes()))
        for name, path in found.items()
        if path.is_file()
    ]


def _texts_of_training(run_dir: Path) -> list[tuple[str, str, list]]:
    """At most one (name, title, [(step, columns, rows), ...]) of texts during training."""
    found = [
        (step, _if_readable(_table, path)) for step, path in _by_step(run_dir, "texts_*.jsonl")
    ]
    steps = [(step, *table) for step, table in found if table]
    return [("texts", "Texts written for held-out inputs during training", steps)] if steps else []


def _texts_of_eval(run_dir: Path) -> list[tuple[str, str, list]]:
    """At most one (name, title, [(None, columns, rows)]) of the texts that were measured."""
    path = run_dir / "eval" / "texts.jsonl"
    table = _if_readable(_table, path) if path.is_file() else None
    return [("written", "Measured texts and their references", [(None, *table)])] if table else []


def _table(path: Path) -> tuple[list[str], list[list[str]]]:
    """The columns and the first rows of JSON lines, without columns that are empty."""
    lines = read_text(path).split("\n")[:MAX_TEXTS]
    rows = [
        parse_json(line, dict[str, Any], f"{path}:{number}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    columns = [
        name
        for name in (rows[0] if rows else ())
        if any(row.get(name) not in (None, "", []) for row in rows)
    ]
    return columns, [[_as_text(row.get(name)) for name in columns] for row in rows]


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return " / ".join(_as_text(part) for part in value)
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False)
    text = "" if value is None else str(value)
    return text if len(text) <= MAX_LETTERS else text[: MAX_LETTERS - 1] + "\u2026"


def _curves(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """{title, series: [{name, points}]} for each group of metrics in the rows of metrics.csv."""
    series: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for name, value in row.items():
            if value and name not in NOT_CURVES and math.isfinite(float(value)):
                series.setdefault(name, []).append((int(row["step"]), float(f"{float(value):.6g}")))
    groups = {title: [name for name in names if name in series] for title, names in CURVES.items()}
    grouped = {name for names in groups.values() for name in names}
    groups |= {name: [name] for name in series if name not in grouped}
    curves = {
        name: {"name": name, "points": _spaced(points, MAX_POINTS)}
        for name, points in series.items()
    }
    return [
        {"title": title, "series": [curves[name] for name in names]}
        for title, names in groups.items()
        if names
    ]
