"""report.html: one file that shows what a run did, with its pictures and curves inside."""

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

from genlab import config, runs
from genlab.reading import parse_json, read_text
from genlab.report.images import SEEN_SIDE
from genlab.report.tables import measured_on
from genlab.runs.schema import TrainedManifest

__all__ = ["PICTURES", "page", "write_report"]

PICTURES = {
    "fixed": "Samples: the same latent vectors as training goes on",
    "reconstruction": "Held-out images, each with its reconstruction on the right",
    "interpolation": "Between pairs of held-out images, which stand at both ends",
}
MEASURED = {
    "density": "Held-out points, samples, and the density",
    "ood": "Log-probabilities of the two data sets",
    "neighbours": "Memorised? A sample a row, then the training images nearest to it over the features",
    "prd": "Precision against recall",
}
MAX_PICTURES = 12  # of one kind; a longer run shows as many, evenly spaced
MAX_POINTS = 1000  # of one curve
MAX_TEXTS, MAX_LETTERS = 30, 600  # of a table
CURVES = {  # what shares an axis; a metric that no group names gets one of its own
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
POLICY = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
NOT_CURVES = {"step", "epoch", "images_seen"}
STEP = re.compile(r"[0-9]{1,18}")  # in the name of a picture
log = logging.getLogger(__name__)


def write_report(run_dir: Path, eval_dir: Path | None = None, status: str | None = None) -> Path:
    """Writes report.html of a run and returns its path.

    Args:
        run_dir: Where manifest.json, metrics.csv and samples/ are read.
        eval_dir: Where eval/ is read and the report is written; None: `run_dir`, too.
        status: What the page calls the run, where the manifest cannot say so yet.

    Raises:
        RunError: The manifest is missing or damaged. Other files that are damaged are left out,
        with a warning.
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
        "texts": [part for part in (_texts_of_training(run_dir), _texts_of_eval(eval_dir)) if part],
        "measured": [
            (name, title, _uri((eval_dir / "eval" / f"{name}.png").read_bytes()))
            for name, title in MEASURED.items()
            if (eval_dir / "eval" / f"{name}.png").is_file()
        ],
        "certificate": _certificate(certificate) if certificate else [],
        "curves": _curves(_if_readable(runs.read_curves, run_dir) or []),
    }
    titles = [
        (kind, {"fixed": "samples"}.get(kind, f"{kind}s"))
        for kind, _, steps in shown["pictures"]
        if steps
    ]
    titles += [(kind, kind) for kind, *_ in shown["texts"]] + [
        (name, name) for name, *_ in shown["measured"]
    ]
    sections = [(name, name) for name in ("metrics",) if results] + titles
    sections += [(name, name) for name in ("certificate", "curves") if shown[name]]
    sections += [("config", "config"), ("reproduce", "to do it again")]
    size = data.get("image_size")
    differences = manifest.get("differences")
    text = page(
        "report.html.j2",
        manifest=manifest,
        kind="text" if shown["texts"] else "image" if size else "point",
        cell=size * max(1, SEEN_SIDE // size) if size else None,
        used=next(iter(results.values()), None),
        sections=sections,
        explored=(run_dir / "explorer.html").is_file(),
        differences=None if differences is None else list(differences.items()),
        again=shlex.join(["genlab", "train", *manifest.get("overrides", [])]),
        settings=settings,
        **shown,
    )
    return runs.write_text(eval_dir / "report.html", text)


def _if_readable(read: Callable[[Path], Any], path: Path) -> Any:
    """What `read` makes of `path`; None, said in a line, where it is damaged: a report shows what
    there is.
    """
    try:
        return read(path)
    except runs.RunError as error:
        log.warning("left out of the report: %s", error)
        return None


def page(template: str, **content: Any) -> str:
    """A template of this package, filled in, with its style and its script inside.

    Every value is escaped. The page's Content-Security-Policy lets no other script run than this
    one, known by its hash, and nothing be loaded from anywhere: what the content holds can only be
    shown.
    """
    here = files("genlab.report")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    script = "".join(here.joinpath(file).read_text(encoding="utf-8") for file in SCRIPTS[template])
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    inline = {
        "policy": f"{POLICY}; script-src 'sha256-{digest}'",
        "script": jinja2.utils.markupsafe.Markup(script),
        "style": jinja2.utils.markupsafe.Markup(
            here.joinpath("page.css").read_text(encoding="utf-8")
        ),
    }
    return environment.from_string(here.joinpath(template).read_text(encoding="utf-8")).render(
        **inline, **content
    )


def _spaced(items: list, most: int) -> list:
    """At most `most` of the items, evenly spaced, the first and last among them."""
    return (
        items
        if len(items) <= most
        else [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]
    )


def _by_step(run_dir: Path, pattern: str) -> list[tuple[int, Path]]:
    found = [(path.stem.rpartition("_")[2], path) for path in (run_dir / "samples").glob(pattern)]
    return _spaced(
        sorted((int(step), path) for step, path in found if STEP.fullmatch(step)), MAX_PICTURES
    )


def _pictures(run_dir: Path, kind: str) -> list[tuple[int, str]]:
    """(step, data URI) of the pictures samples/<kind>_<step>.png in order of step."""
    return [(step, _uri(path.read_bytes())) for step, path in _by_step(run_dir, f"{kind}_*.png")]


def _uri(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _texts_of_training(run_dir: Path) -> tuple[str, str, list] | None:
    tables = [
        (step, _if_readable(_table, path)) for step, path in _by_step(run_dir, "texts_*.jsonl")
    ]
    steps = [(step, *table) for step, table in tables if table]
    return (
        ("texts", "Held-out inputs, and what the model writes to them as training goes on", steps)
        if steps
        else None
    )


def _texts_of_eval(run_dir: Path) -> tuple[str, str, list] | None:
    path = run_dir / "eval" / "texts.jsonl"
    table = _if_readable(_table, path) if path.is_file() else None
    return (
        ("written", "What was measured: texts beside what is right", [(None, *table)])
        if table
        else None
    )


def _table(path: Path) -> tuple[list[str], list[list[str]]]:
    """The columns and the first rows of JSON lines; a column that is empty throughout is left out."""
    lines = read_text(path).split("\n")[:MAX_TEXTS]
    rows = [
        parse_json(line, dict[str, Any], f"{path}:{i}")
        for i, line in enumerate(lines, 1)
        if line.strip()
    ]
    columns = [
        name
        for name in (rows[0] if rows else ())
        if any(row.get(name) not in (None, "", []) for row in rows)
    ]
    return columns, [[_letters(row.get(name)) for name in columns] for row in rows]


def _letters(value: Any) -> str:
    if isinstance(value, list):
        return " / ".join(_letters(part) for part in value)
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False)
    text = "" if value is None else str(value)
    return text if len(text) <= MAX_LETTERS else text[: MAX_LETTERS - 1] + "\u2026"


def _certificate(certificate: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a residual block, with the norms of its layers."""
    rows = []
    for block in certificate["blocks"]:
        own = [
            layer
            for layer in certificate["layers"]
            if layer["name"].startswith(f"{block['name']}.")
        ]
        fft = " ".join(f"{layer['fft']:.4f}" for layer in own)
        exact = " ".join(
            "-" if layer["exact"] is None else f"{layer['exact']:.4f}" for layer in own
        )
        rows.append(block | {"fft": fft, "exact": exact})
    return rows


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
    return [
        {
            "title": title,
            "series": [
                {"name": name, "points": _spaced(series[name], MAX_POINTS)} for name in names
            ],
        }
        for title, names in groups.items()
        if names
    ]
