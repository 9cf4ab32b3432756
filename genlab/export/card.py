"""A model card in Hugging Face's form: what a model is, its data, its metrics and how to use it."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from genlab import runs
from genlab.report.tables import measured_on
from genlab.runs.schema import TrainedManifest
from genlab.systems.base import Classifies, Pretrained

__all__ = ["model_card"]

# Hugging Face's task for the objective of a pretrained model
TASKS = {"mlm": "fill-mask", "gpt": "text-generation"}


def task_of(system) -> str | None:
    """Hugging Face's name of the system's task; None where it has none."""
    if system.modality == "text":
        objective = system.objective if isinstance(system, Pretrained) else None
        return TASKS.get(objective, "text2text-generation")
    if isinstance(system, Classifies):
        return "image-classification"
    return "unconditional-image-generation" if system.modality == "image" else None


def plain(value: Any) -> str:
    """`value` as one line of Markdown without effect: no markup, HTML or link."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(value))
    text = re.sub(r"([\\`*_\[\]<>|#&~$!@:{}])", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?i)\b(www)\.", r"\1\\.", text)


def fenced(text: str) -> list[str]:
    """`text` as the lines of a code block, whose fence is longer than any in the text."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text) or [""]))
    return [fence, text, fence]


def model_card(
    run_dir: Path,
    system,
    files: Mapping[str, str],
    licence: str | None = None,
    use: Sequence[str] = (),
) -> str:
    """README.md for an export of a run.

    Args:
        run_dir: The run; its manifest and eval/metrics.json are read.
        system: The run's model.
        files: {name: description} of the exported files.
        licence: SPDX name for the front matter; None: the card says that no licence is stated.
        use: Lines of Python that use the export.
    """
    manifest = runs.read_manifest(run_dir, TrainedManifest)
    results = runs.read_results(run_dir)
    front = _front_matter(manifest, results, task_of(system), files, licence)
    lines = ["---", yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(), "---", ""]
    lines += _training(manifest)
    if use:
        lines += ["```python", *use, "```", ""]
    lines += ["| file | |", "|---|---|"]
    lines += [f"| `{name}` | {description} |" for name, description in files.items()]
    lines += ["", *_data(manifest), *_metrics(results)]
    unknown = "Not stated. Ask the author of the model, and check the licence of the data."
    lines += ["", "## Licence", "", plain(licence) if licence else unknown]
    lines += ["", *_reproduce(manifest), ""]
    return "\n".join(lines)


def _front_matter(
    manifest: Mapping[str, Any],
    results: Mapping[str, Any],
    task: str | None,
    files: Mapping[str, str],
    licence: str | None,
) -> dict[str, Any]:
    """The YAML block that Hugging Face reads."""
    library = "transformers" if "config.json" in files else "genlab"
    front: dict[str, Any] = {"library_name": library, "tags": ["genlab", manifest["model"]]}
    if licence:
        front["license"] = licence.lower()
    if task:
        front["pipeline_tag"] = task
    if results:
        name = manifest["data"]["name"]
        metrics = [
            {
                "type": metric,
                "value": round(entry["value"], 6),
                "name": f"{metric}, {measured_on(entry)}",
            }
            for metric, entry in results.items()
        ]
        result = {
            "task": {"type": task or "other"},
            "dataset": {"name": name, "type": name},
            "metrics": metrics,
        }
        front["model-index"] = [{"name": manifest["model"], "results": [result]}]
    return front


def _training(manifest: Mapping[str, Any]) -> list[str]:
    hardware = plain(manifest["hardware"])
    effort = f"{manifest['images_seen']:,} examples seen, {manifest['seconds']:.0f} s on {hardware}"
    return [
        f"# {plain(manifest['model'])} on {plain(manifest['data']['name'])}",
        "",
        f"Trained for {manifest['steps']:,} steps ({effort}), seed {plain(manifest['seed'])}.",
        "",
    ]


def _data(manifest: Mapping[str, Any]) -> list[str]:
    data = manifest["data"]
    splits = ", ".join(
        f"{plain(split)} {plain(about['count'])}" for split, about in data["splits"].items()
    )
    fingerprint = plain(data["fingerprint"])
    return ["## Data", "", f"{plain(data['name'])}: {splits}; fingerprint {fingerprint}.", ""]


def _metrics(results: Mapping[str, Any]) -> list[str]:
    if not results:
        return ["## Metrics", "", "Not measured (`genlab eval run=<dir>`)."]
    lines = ["## Metrics", "", "| metric | value | measured on | features |", "|---|---|---|---|"]
    for metric, entry in results.items():
        features = plain(entry["features"]) if entry.get("features") else ""
        if features and entry.get("comparable") not in (None, True):
            features += " (not comparable with papers)"
        value = f"{entry['value']:.4g}"
        lines.append(f"| {plain(metric)} | {value} | {plain(measured_on(entry))} | {features} |")
    first = next(iter(results.values()))
    weights, ckpt, seed = (plain(first[key]) for key in ("weights", "ckpt", "seed"))
    return [*lines, "", f"Weights {weights} of checkpoint {ckpt}, seed {seed}."]


def _reproduce(manifest: Mapping[str, Any]) -> list[str]:
    command = shlex.join(["genlab", "train", *map(str, manifest.get("overrides", []))])
    packages = [
        plain(f"{package} {version}")
        for package, version in manifest["versions"].items()
        if version
    ]
    return ["## Reproduce", "", *fenced(command), "", f"With {', '.join(packages)}."]
