"""`genlab eval run=<dir>`: measures a trained run; every number goes beside what produced it."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from genlab import config, runs
from genlab.metrics.image_evaluation import evaluate_images
from genlab.report.html import write_report
from genlab.report.images import save_rows
from genlab.report.plots import save_prd
from genlab.report.tables import metrics_table

__all__ = ["choose_sampler", "measure", "run", "trained_on"]

DEFAULTS = {"_target_": "genlab.metrics.features.auto"}


def run(cfg, run_dir: Path, overrides: list[str], sweep: bool = False) -> dict[str, float]:
    """Writes <run>/eval/metrics.json and the report anew, prints a table; returns the metrics' values."""
    settings = config.resolve(cfg)
    run_path = require_run(settings, "eval")
    config.validate({k: settings[k] for k in ("data", "metrics", "allow")}, {"metrics": ["data"]})
    data = config.build(settings["data"], settings["allow"])
    data.prepare_data()
    data.setup()
    names = ("ckpt", "weights", "seed", "num", "split", "batch_size", "standing", "sampler", "device")
    chosen = {name: settings[name] for name in names}
    results = measure(run_path, data, settings["metrics"], settings["allow"], **chosen)
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
    sampler: str | None = None,
    device: str = "auto",
    console: Console | None = None,
) -> dict[str, dict[str, Any]]:
    """The metrics of a run on `data` over the feature network `metrics`.

    Also written to <run>/eval/metrics.json, with neighbours.png (a sample a row, then the training images nearest to it)
    and prd.png (the precision-recall curve).
    """
    console = console or Console(stderr=True)
    if data.name is None:
        raise config.ConfigError("data: the run's config has no data to evaluate on; choose one, as in data=mnist5k")
    device = pick_device(device)
    system = runs.load(run_path, ckpt, weights, device, allow)
    choose_sampler(system, sampler)
    if hasattr(system, "bind"):
        system.bind(data)
    if standing:
        system.stand(standing)
    features = config.build(metrics, allow, data=data).to(device)
    with Progress(console=console, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def progress(description: str, done: int, total: int) -> None:
            task = tasks.setdefault(description, None)
            if task is None:
                task = tasks[description] = bar.add_task(description, total=total)
            bar.update(task, completed=done, total=total)

        options = {"split": split, "num_samples": num, "batch_size": batch_size, "seed": seed}
        options |= {"own_data": trained_on(run_path, data)}
        found = evaluate_images(system, data, features, **options, progress=progress)
    used = {
        "weights": weights,
        "standing": standing,
        "ckpt": str(ckpt),
        "data": data.name,
        "crop": data.describe(split)["crop"],
    }
    used |= {"resize": data.describe(split)["resize"]} | ({"sampler": sampler} if sampler else {})
    results = {name: entry | used for name, entry in found.results.items()}
    save_rows(found.neighbours, run_path / "eval" / "neighbours.png")
    save_prd(*found.prd, run_path / "eval" / "prd.png")
    runs.write_text(run_path / "eval" / "metrics.json", json.dumps(results, indent=2) + "\n")
    Console().print(metrics_table(results))
    return results


def choose_sampler(system, name: str | None) -> None:
    """Lets `system` draw its codes by `name`, one of its samplers; None for its own. ConfigError if it has no such one."""
    if name is None:
        return
    known = getattr(system, "samplers", ())
    if name not in known:
        has = (
            f"has {', '.join(known)}.{config.closest(name, known)}" if known else "has one way to sample; leave sampler= out"
        )
        raise config.ConfigError(f"sampler={name}: {type(system).__name__} {has}")
    system.sampler = name


def trained_on(run_path: Path, data) -> bool:
    """Whether `data` are those that the run was trained on, so that what it stored for them holds."""
    return runs.Manifest.read(run_path).content.get("data", {}).get("fingerprint") == data.fingerprint()


def pick_device(name: str) -> str:
    """auto: the accelerator that torch finds, else cpu; otherwise `name` itself."""
    import torch

    if name != "auto":
        return name
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator.type if accelerator is not None else "cpu"
