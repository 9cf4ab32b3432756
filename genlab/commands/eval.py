"""`genlab eval run=<dir>`: measures a trained run; every number goes beside what produced it."""

import json
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from genlab import config, runs
from genlab.commands.text import measure_texts, refuse
from genlab.metrics.image_evaluation import evaluate_images
from genlab.report.html import write_report
from genlab.report.images import save_rows
from genlab.report.plots import save_prd
from genlab.report.tables import metrics_table

__all__ = ["measure", "run"]

DEFAULTS = {"_target_": "genlab.metrics.features.auto"}


def run(cfg, run_dir: Path, overrides: list[str], sweep: bool = False) -> dict[str, float]:
    """Writes <run>/eval/metrics.json and the report anew, prints a table; returns the metrics' values."""
    settings = config.resolve(cfg)
    run_path = require_run(settings, "eval")
    config.validate({k: settings[k] for k in ("data", "metrics", "allow")}, {"metrics": ["data"]})
    data = config.build(settings["data"], settings["allow"])
    data.prepare_data()
    data.setup()
    chosen = {
        name: settings[name] for name in ("ckpt", "weights", "seed", "num", "split", "batch_size", "standing", "device")
    }
    texts = {"decoding": settings["decoding"], "measure": settings["measure"]}
    results = measure(run_path, data, settings["metrics"], settings["allow"], **chosen, texts=texts, overrides=overrides)
    report = write_report(run_path)
    print(f"metrics  {run_path / 'eval' / 'metrics.json'}\npictures {run_path / 'eval'}/*.png\nreport   {report}")
    return {name: entry["value"] for name, entry in results.items()}


def require_run(settings: dict[str, Any], command: str) -> Path:
    if not settings.get("run"):
        raise runs.RunError(f"run=: genlab {command} needs a run directory, as in genlab {command} run=outputs/train/...")
    return Path(settings["run"])


def measure(
    run_path: Path,
    data,
    metrics: dict[str, Any] = DEFAULTS,
    allow=(),
    *,
    ckpt: str = "last",
    weights: str = "ema",
    seed: int = 0,
    num: int = 10_000,
    split: str = "test",
    batch_size: int = 256,
    standing: int = 0,
    device: str = "auto",
    console: Console | None = None,
    texts: dict[str, Any] | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """The metrics of a run on `data` over the feature network `metrics`.

    Also written to <run>/eval/metrics.json, with neighbours.png (a sample a row, then the training images nearest to it)
    and prd.png (the precision-recall curve), or with texts.jsonl. texts: {"decoding": ..., "measure": ...} for a model of
    texts. overrides: the command line's, of which those that mean nothing to this model are refused.
    """
    console = console or Console(stderr=True)
    if data.name is None:
        raise config.ConfigError("data: the run's config has no data to evaluate on; choose one, as in data=mnist5k")
    device = pick_device(device)
    system = runs.load(run_path, ckpt, weights, device, allow)
    refuse("eval", system, overrides)
    if standing:
        system.stand(standing)
    if system.modality == "text":
        settings = {"split": split, "num": num, "seed": seed, **(texts or {})}
        with progress_bar(console) as progress:
            found = measure_texts(system, data, run_path, settings, progress).results
        used = {"weights": weights, "ckpt": str(ckpt), "data": data.name}
        used |= dict.fromkeys(("features_hash", "comparable", "crop", "resize"))
        return written(run_path, {name: entry | used for name, entry in found.items()})
    features = config.build(metrics, allow, data=data).to(device)
    with progress_bar(console) as progress:
        found = evaluate_images(
            system, data, features, split=split, num_samples=num, batch_size=batch_size, seed=seed, progress=progress
        )
    used = {
        "weights": weights,
        "standing": standing,
        "ckpt": str(ckpt),
        "data": data.name,
        "crop": data.describe(split)["crop"],
    }
    used |= {"resize": data.describe(split)["resize"]}
    results = {name: entry | used for name, entry in found.results.items()}
    save_rows(found.neighbours, run_path / "eval" / "neighbours.png")
    save_prd(*found.prd, run_path / "eval" / "prd.png")
    return written(run_path, results)


@contextmanager
def progress_bar(console: Console):
    """A function (description, done, total) that shows how far each part of a measurement is."""
    with Progress(console=console, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def progress(description: str, done: int, total: int) -> None:
            if description not in tasks:
                tasks[description] = bar.add_task(description, total=total)
            bar.update(tasks[description], completed=done, total=total)

        yield progress


def written(run_path: Path, results: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """`results`, put into <run>/eval/metrics.json and on the screen."""
    runs.write_text(run_path / "eval" / "metrics.json", json.dumps(results, indent=2) + "\n")
    Console().print(metrics_table(results))
    return results


def pick_device(name: str) -> str:
    """auto: the accelerator that torch finds, else cpu; otherwise `name` itself."""
    import torch

    if name != "auto":
        return name
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator.type if accelerator is not None else "cpu"
