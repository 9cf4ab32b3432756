"""`genlab eval run=<dir>`: measures a trained run; every number goes beside what produced it."""

import inspect
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from genlab import config, console, runs
from genlab.commands import options
from genlab.commands.data import require_own_data, require_split, tell, trained_on
from genlab.commands.text import decoding_of, refuse
from genlab.errors import DataError
from genlab.evaluation.base import Results, Settings, evaluate
from genlab.files import explained, refuse_links, unwritable
from genlab.report.html import write_report
from genlab.report.tables import metrics_table
from genlab.runs.schema import TrainedManifest

__all__ = [
    "build_metrics",
    "choose_sampler",
    "measure",
    "pick_device",
    "require_run",
    "require_verb",
    "run",
    "taken",
    "with_vocabulary",
]

FEATURES = {"_target_": "genlab.metrics.features.auto"}
STANDARD = yaml.safe_load(files("genlab.conf").joinpath("metrics/standard.yaml").read_text())


def run(cfg, run_dir: Path, overrides: list[str], sweep: bool = False) -> Results:
    """Writes <run>/eval/metrics.json and the report anew, prints a table; returns the results."""
    settings = options.read("eval", cfg, overrides)
    run_path = require_run(settings, "eval")
    refuse_links(run_path)
    runs.check_layout(run_path)
    runs.read_manifest(run_path, TrainedManifest)  # before what takes long: the report tells of it
    out = place(run_path, run_dir)
    groups = ("data", "metrics", "features", "ood", "allow")
    config.validate({key: settings.get(key) for key in groups}, {"features": ["data"]})
    data = options.build_data(settings | {"data": with_vocabulary(settings["data"], run_path)})
    data.prepare_data()
    data.setup()
    tell(data)
    require_own_data(run_path, data, overrides)
    require_split(data, settings["split"])
    names = (
        "ckpt",
        "weights",
        "seed",
        "num",
        "split",
        "batch_size",
        "standing",
        "sampler",
        "scale",
        "device",
    )
    chosen = {name: settings[name] for name in names}
    chosen |= {
        "texts": {"decoding": settings["decoding"], "measure": settings["measure"]},
        "overrides": overrides,
    }
    ood = other_data(settings["ood"], data, settings["allow"]) if settings.get("ood") else None
    if ood is not None:
        require_split(ood, settings["split"], "ood: split")
    chosen |= {name: settings[name] for name in ("metrics", "features", "allow")}
    results = measure(run_path, data, ood=ood, out=out, **chosen)
    report = write_report(run_path, out)
    print(f"metrics  {out / 'eval' / 'metrics.json'}")
    for name, pattern in (("pictures", "*.png"), ("texts   ", "*.jsonl")):
        if any((out / "eval").glob(pattern)):
            print(f"{name} {out / 'eval' / pattern}")
    print(f"report   {report}")
    return results


def place(run_path: Path, instead: Path) -> Path:
    """Where the results go: the run's directory, or, said in a line, `instead` where that cannot be
    written.
    """
    folders = [folder for folder in (run_path, run_path / "eval") if folder.is_dir()]
    why = next(filter(None, map(unwritable, folders)), None)
    if why is None:
        return run_path
    print(
        f"{explained(why) or f'{run_path}: {why.strerror}'}. The results go to {instead}",
        file=sys.stderr,
    )
    return instead


def with_vocabulary(data: dict[str, Any], run_path: Path) -> dict[str, Any]:
    """The config of texts with the run's own vocabulary, whatever they were to be read with, and
    even where that is gone.
    """
    own = {"vocab": str(run_path.absolute()), "simplified": False}
    return data | {name: value for name, value in own.items() if name in data}


def require_run(settings: dict[str, Any], command: str) -> Path:
    """The directory of run=; RunError where it is not given."""
    if not settings.get("run"):
        raise runs.RunError(
            f"run=: genlab {command} needs a run directory, as in genlab {command} run=outputs/train/..."
        )
    return Path(settings["run"])


def measure(
    run_path: Path,
    data,
    *,
    metrics: dict[str, Any] = STANDARD,
    features: dict[str, Any] = FEATURES,
    allow=(),
    ckpt: str = "last",
    weights: str = "ema",
    seed: int = 0,
    num: int = 10_000,
    split: str = "test",
    batch_size: int = 256,
    standing: int = 0,
    sampler: str | None = None,
    scale: float | None = None,
    device: str = "auto",
    ood=None,
    texts: dict[str, Any] | None = None,
    overrides: Sequence[str] = (),
    out: Path | None = None,
) -> Results:
    """The `metrics` of a run on `data`, for images over the feature network `features`; ood: data
    to tell from these.

    Also written to eval/metrics.json in `out` (None: the run's directory), with pictures beside it:
    of image models neighbours.png (a sample a row, then the training images nearest to it) and
    prd.png (the precision-recall curve); of densities density.png (points), ood.png (both sets'
    log-probabilities) and certificate.json (of a network that has one); of models of texts
    texts.jsonl. texts: {"decoding": ..., "measure": ...} for these. overrides: the command line's,
    of which those that mean nothing to this model are refused.
    """
    out = out or run_path
    if data.name is None:
        raise config.ConfigError(
            "data: the run's config has no data to evaluate on; choose one, as in data=mnist5k"
        )
    device = pick_device(device)
    system = runs.load(run_path, ckpt, weights, device, allow)
    refuse("eval", system, overrides)
    if ood is not None and not hasattr(system, "log_prob"):
        raise config.ConfigError(
            f"ood={ood.name}: {type(system).__name__} has no log-probability to tell data apart by"
        )
    choose_sampler(system, sampler)
    if scale is not None:
        require_verb(system, "sample")
        taken(system.prior, {"scale": scale})
    if hasattr(system, "bind"):
        system.bind(data)
    if standing:
        require_verb(system, "stand")
        system.stand(standing)
    own = trained_on(run_path, data)
    with progress_bar() as progress:
        chosen = Settings(
            split=split,
            num=num,
            batch_size=batch_size,
            seed=seed,
            temperature=scale,
            own_data=own,
            ood=ood,
            features=partial(config.build, features, allow, data=data),
            decoding=decoding_of(texts or {}),
            measure=(texts or {}).get("measure"),
            progress=progress,
        )
        results, pages = evaluate(system, data, build_metrics(metrics, allow), chosen)
    used = {"weights": weights, "ckpt": str(ckpt), "data": data.name, "own_data": own}
    if system.modality == "text":
        used |= dict.fromkeys(("features_hash", "comparable", "crop", "resize"))
    else:
        about = data.describe(split)
        used |= {"standing": standing, "crop": about.get("crop"), "resize": about.get("resize")}
    used |= {
        name: value
        for name, value in {"sampler": sampler, "scale": scale}.items()
        if value is not None
    }
    results = {name: entry | used for name, entry in results.items()}
    console.console(sys.stdout).print(
        metrics_table(results)
    )  # before the files, for which the disk may have no room
    for name, write in pages.items():
        write(out / "eval" / name)
    runs.write_text(out / "eval" / "metrics.json", json.dumps(results, indent=2) + "\n")
    return results


def build_metrics(metrics: Mapping[str, Any], allow: Iterable[str]) -> dict[str, Any]:
    """The evaluators of the config group `metrics`, by name."""
    return {name: config.build(node, allow) for name, node in metrics.items() if node is not None}


@contextmanager
def progress_bar():
    """A function (description, done, total) that shows how far each part of a measurement is."""
    with console.progress() as bar:
        tasks: dict[str, Any] = {}

        def progress(description: str, done: int, total: int) -> None:
            if description not in tasks:
                tasks[description] = bar.add_task(description, total=total)
            bar.update(tasks[description], completed=done, total=total)

        yield progress


def other_data(node: dict[str, Any], data, allow):
    """The data of ood=, in the shape of the run's own: padded like these where its pictures fit,
    else shrunk.
    """
    if data.modality != ("image" if "image_size" in node else "point"):
        raise config.ConfigError(
            f"ood: the run's {data.name} holds {data.modality}s; choose a set of those"
        )
    if data.modality == "point":
        return config.build(node, allow)
    node = node | {"image_size": data.image_size, "channels": data.channels}
    other = config.build(node, allow)
    try:
        other.prepare_data()
    except DataError as error:
        if node["resize"] != "pad" or "cannot shrink" not in str(error):
            raise
        other = config.build(node | {"resize": "bilinear"}, allow)
    return other


def require_verb(system, verb: str) -> None:
    """ValueError naming the models that can, unless `system` answers `verb`."""
    if hasattr(system, verb):
        return
    able = []
    for entry in sorted(files("genlab.conf").joinpath("model").iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".yaml"):
            target = yaml.safe_load(entry.read_text()).get("model", {}).get("_target_")
            if target is not None and hasattr(
                config.locate(target), verb
            ):  # a variant of another recipe names none
                able.append(entry.name.removesuffix(".yaml"))
    raise runs.RunError(
        f"{type(system).__name__} cannot {verb}; models that can: {', '.join(able) or 'none'}"
    )


def taken(verb: Callable, settings: dict[str, Any]) -> dict[str, Any]:
    """Those of scale=, temperature= and label= that are given; ConfigError for one that the model's
    `verb` cannot take.
    """
    given = {
        name: settings[name]
        for name in ("scale", "temperature", "label")
        if settings.get(name) is not None
    }
    able = inspect.signature(verb).parameters.keys() & {"scale", "temperature", "label"}
    for name in given.keys() - able:
        known = ", ".join(sorted(able)) or "none"
        raise config.ConfigError(
            f"{name}={given[name]}: {type(verb.__self__).__name__} does not take it; it takes {known}"
        )
    return given


def choose_sampler(system, name: str | None) -> None:
    """Lets `system` draw its codes by `name`, one of its samplers; None for its own. ConfigError if
    it has no such one.
    """
    if name is None:
        return
    known = getattr(system, "samplers", ())
    if name not in known:
        has = (
            f"has {', '.join(known)}.{config.closest(name, known)}"
            if known
            else "has one way to sample; leave sampler= out"
        )
        raise config.ConfigError(f"sampler={name}: {type(system).__name__} {has}")
    system.sampler = name


def pick_device(name: str) -> str:
    """auto: the accelerator that torch finds, else cpu; otherwise `name` itself."""
    import torch

    if name != "auto":
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:  # torch compiled without it asserts
            why = str(error).partition("\n")[0]
            raise config.ConfigError(
                f"device={name}: cannot be used here ({why}); device=auto takes what is there"
            ) from None
        return name
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator.type if accelerator is not None else "cpu"
