"""A model card in Hugging Face's form: what a model is, what it was trained on, how good it is and
how to use it.
"""

import re
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


def plain(value: Any) -> str:
    """`value` as a piece of Markdown that shows it and does nothing: no markup, HTML, link or
    second line.
    """
    text = "".join(letter if letter.isprintable() else " " for letter in str(value))
    text = re.sub(r"([\\`*_\[\]<>|#&~$!@:{}])", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?i)\b(www)\.", r"\1\\.", text)


def fenced(text: str) -> list[str]:
    """`text` as a block of code, whose fence is longer than any in it."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text) or [""]))
    return [fence, text, fence]


def model_card(
    run_dir: Path,
    system,
    files: Mapping[str, str],
    licence: str | None = None,
    use: Sequence[str] = (),
) -> str:
    """README.md of an export of the run `run_dir` with its model `system`, from its manifest and
    eval/metrics.json.

    files: {name: what it is} of what was exported. licence: an SPDX name for the front matter,
    which the exporter knows; without one the card says that none is given. use: lines of Python
    that use it.
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
    model, name = plain(manifest["model"]), plain(data["name"])
    splits = ", ".join(
        f"{plain(split)} {plain(about['count'])}" for split, about in data["splits"].items()
    )
    lines = ["---", yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(), "---", ""]
    lines += [f"# {model} on {name}", ""]
    took = f"{manifest['images_seen']:,} examples seen, {manifest['seconds']:.0f} s on {plain(manifest['hardware'])}"
    lines += [
        f"Trained for {manifest['steps']:,} steps ({took}), seed {plain(manifest['seed'])}.",
        "",
    ]
    if use:
        lines += ["```python", *use, "```", ""]
    lines += [
        "| file | |",
        "|---|---|",
        *(f"| `{name}` | {what} |" for name, what in files.items()),
        "",
    ]
    lines += ["## Data", "", f"Of {name}: {splits}; fingerprint {plain(data['fingerprint'])}.", ""]
    lines += ["## Metrics", ""]
    if results:
        lines += ["| metric | value | measured on | features |", "|---|---|---|---|"]
        for metric, entry in results.items():
            apart = (
                "" if entry.get("comparable") in (None, True) else " (not comparable with papers)"
            )
            features = f"{plain(entry['features'])}{apart}" if entry.get("features") else ""
            lines.append(
                f"| {plain(metric)} | {entry['value']:.4g} | {plain(measured_on(entry))} | {features} |"
            )
        used = {key: plain(value) for key, value in next(iter(results.values())).items()}
        lines += [
            "",
            f"Weights {used['weights']} of checkpoint {used['ckpt']}, seed {used['seed']}.",
        ]
    else:
        lines += ["Not measured (`genlab eval run=<dir>`)."]
    lines += ["", "## Licence", ""]
    lines += [
        plain(licence)
        if licence
        else "None is given: ask whoever trained it, and mind the data's own licence."
    ]
    lines += [
        "",
        "## To train it again",
        "",
        *fenced(shlex.join(["genlab", "train", *map(str, manifest.get("overrides", []))])),
        "",
    ]
    wanted = ", ".join(
        plain(f"{package} {version}")
        for package, version in manifest["versions"].items()
        if version
    )
    return "\n".join([*lines, f"With {wanted}.", ""])
