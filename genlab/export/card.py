"""A model card in Hugging Face's form: what a model is, what it was trained on, how good it is and how to use it."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from genlab import runs
from genlab.report.tables import measured_on
from genlab.runs.schema import TrainedManifest

__all__ = ["model_card"]

WRITERS = {"mlm": "fill-mask", "gpt": "text-generation"}  # by the objective of a pretrained one


def task_of(system) -> str | None:
    """Hugging Face's name for what `system` does; None where there is none."""
    if system.modality == "text":
        return WRITERS.get(getattr(system, "objective", ""), "text2text-generation")
    if hasattr(system, "classify"):
        return "image-classification"
    return "unconditional-image-generation" if system.modality == "image" else None


def model_card(run_dir: Path, system, files: Mapping[str, str], licence: str | None = None, use: Sequence[str] = ()) -> str:
    """README.md of an export of the run `run_dir` with its model `system`, from its manifest and eval/metrics.json.

    files: {name: what it is} of what was exported. licence: an SPDX name for the front matter, which the exporter knows;
    without one the card says that none is given. use: lines of Python that use it.
    """
    manifest, results = runs.read_manifest(run_dir, TrainedManifest), runs.read_results(run_dir)
    data, task = manifest["data"], task_of(system)
    measured = [
        {"type": name, "value": round(entry["value"], 6), "name": f"{name}, {measured_on(entry)}"}
        for name, entry in results.items()
    ]
    library = "transformers" if "config.json" in files else "genlab"
    front: dict[str, Any] = {"library_name": library, "tags": ["genlab", manifest["model"]]}
    front |= {"license": licence.lower()} if licence else {}
    front |= {"pipeline_tag": task} if task else {}
    if measured:
        result = {
            "task": {"type": task or "other"},
            "dataset": {"name": data["name"], "type": data["name"]},
            "metrics": measured,
        }
        front["model-index"] = [{"name": manifest["model"], "results": [result]}]
    splits = ", ".join(f"{split} {about['count']}" for split, about in data["splits"].items())
    lines = ["---", yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(), "---", ""]
    lines += [f"# {manifest['model']} on {data['name']}", ""]
    took = f"{manifest['images_seen']:,} examples seen, {manifest['seconds']:.0f} s on {manifest['hardware']}"
    lines += [f"Trained for {manifest['steps']:,} steps ({took}), seed {manifest['seed']}.", ""]
    if use:
        lines += ["```python", *use, "```", ""]
    lines += ["| file | |", "|---|---|", *(f"| `{name}` | {what} |" for name, what in files.items()), ""]
    lines += ["## Data", "", f"{data['name']}: {splits}; fingerprint `{data['fingerprint']}`.", ""]
    lines += ["## Metrics", ""]
    if results:
        lines += ["| metric | value | measured on | features |", "|---|---|---|---|"]
        for name, entry in results.items():
            apart = "" if entry.get("comparable") in (None, True) else " (not comparable with papers)"
            features = f"{entry['features']}{apart}" if entry.get("features") else ""
            lines.append(f"| {name} | {entry['value']:.4g} | {measured_on(entry)} | {features} |")
        used = next(iter(results.values()))
        lines += ["", f"Weights {used['weights']} of checkpoint {used['ckpt']}, seed {used['seed']}."]
    else:
        lines += ["Not measured (`genlab eval run=<dir>`)."]
    lines += ["", "## Licence", ""]
    lines += [licence or "None is given: ask whoever trained it, and mind the data's own licence."]
    lines += [
        "",
        "## To train it again",
        "",
        "```",
        shlex.join(["genlab", "train", *manifest.get("overrides", [])]),
        "```",
        "",
    ]
    wanted = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items() if version)
    return "\n".join([*lines, f"With {wanted}.", ""])
