"""`genlab eval run=<dir>`: measures a trained run; every number goes beside what produced it."""

import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from genlab import config, console, runs
from genlab.commands import options
from genlab.commands.common import (
    bind_data,
    build_data,
    choose_sampler,
    load_system,
    options_for,
    progress_bar,
    recompute_statistics,
    require,
    require_run,
    with_vocabulary,
)
from genlab.commands.data import is_data_of_run, require_own_data, require_split, set_up
from genlab.commands.text import build_decoding
from genlab.errors import ConfigError, DataError
from genlab.evaluation.base import Results, Settings, evaluate
from genlab.files import explain_error, refuse_links, why_unwritable
from genlab.report.html import write_report
from genlab.report.tables import metrics_table
from genlab.runs.schema import TrainedManifest
from genlab.systems.base import Generates, HasLikelihood, Samples

__all__ = ["build_metrics", "measure", "run"]

FEATURES = {"_target_": "genlab.metrics.features.auto"}
STANDARD = yaml.safe_load(files("genlab.conf").joinpath("metrics/standard.yaml").read_text())
OF_MEASURE = (  # options that `run` hands on to `measure`
    "metrics",
    "features",
    "allow",
    "ckpt",
    "weights",
    "device",
    "split",
    "num",
    "batch_size",
    "seed",
    "standing",
    "sampler",
    "temperature",
)


def run(cfg, run_dir: Path, overrides: list[str], sweep: bool = False) -> Results:
    """Writes <run>/eval/metrics.json and the report, and prints a table.

    Returns:
        {metric: {"value": ..., and what produced it}}, as in metrics.json.
    """
    settings = options.read("eval", cfg, overrides)
    run_path = require_run(settings, "eval")
    refuse_links(run_path)
    runs.check_layout(run_path)
    # The report needs the manifest; a damaged one is refused before what takes long.
    runs.read_manifest(run_path, TrainedManifest)
    out = _writable_folder(run_path, run_dir)
    names = ("data", "metrics", "features", "ood", "allow")
    config.validate({name: settings.get(name) for name in names}, {"features": ["data"]})
    data = build_data(settings | {"data": with_vocabulary(settings["data"], run_path)})
    set_up(data)
    require_own_data(run_path, data, overrides)
    require_split(data, settings["split"])
    ood = None
    if settings["ood"]:
        ood = build_ood(settings["ood"], data, settings["allow"])
        require_split(ood, settings["split"], "ood: split")
    results = measure(
        run_path,
        data,
        ood=ood,
        texts={"decoding": settings["decoding"], "measure": settings["measure"]},
        overrides=overrides,
        out=out,
        **{name: settings[name] for name in OF_MEASURE},
    )
    report = write_report(run_path, out)
    print(f"metrics  {out / 'eval' / 'metrics.json'}")
    for name, pattern in (("pictures", "*.png"), ("texts   ", "*.jsonl")):
        if any((out / "eval").glob(pattern)):
            print(f"{name} {out / 'eval' / pattern}")
    print(f"report   {report}")
    return results


def _writable_folder(run_path: Path, other: Path) -> Path:
    """Where results go: the run directory; if that is read-only, `other`, with a line about it."""
    folders = [folder for folder in (run_path, run_path / "eval") if folder.is_dir()]
    error = next(filter(None, map(why_unwritable, folders)), None)
    if error is None:
        return run_path
    reason = explain_error(error) or f"{run_path}: {error.strerror}"
    print(f"{reason}. The results go to {other}", file=sys.stderr)
    return other


def build_ood(node: Mapping[str, Any], data, allow: Sequence[str] = ()):
    """The data set of ood=, in the image shape of the run's own data.

    Its pictures are padded like those of the run, and shrunk where they are too large for that.

    Raises:
        ConfigError: If it holds points and the run's data images, or the other way round.
    """
    own, other = data.modality, "image" if "image_size" in node else "point"
    if own != other:
        raise ConfigError(
            f"ood: the run's {data.name} holds {own}s, and this data set {other}s; choose one of "
            f"{own}s"
        )
    if own == "point":
        return config.build(node, allow)
    node = {**node, "image_size": data.image_size, "channels": data.channels}
    ood = config.build(node, allow)
    try:
        ood.prepare_data()
    except DataError as error:
        if node["resize"] != "pad" or "cannot shrink" not in str(error):
            raise
        ood = config.build(node | {"resize": "bilinear"}, allow)
    return ood


def measure(
    run_path: Path,
    data,
    *,
    metrics: Mapping[str, Any] = STANDARD,
    features: Mapping[str, Any] = FEATURES,
    allow: Sequence[str] = (),
    ckpt: str = "last",
    weights: str = "ema",
    device: str = "auto",
    split: str = "test",
    num: int = 10_000,
    batch_size: int = 256,
    seed: int = 0,
    standing: int = 0,
    sampler: str | None = None,
    temperature: float | None = None,
    ood=None,
    texts: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    out: Path | None = None,
) -> Results:
    """Measures a run on data, and writes the metrics and pictures.

    Besides eval/metrics.json these are, of image models, neighbours.png (a sample a row, then the
    training images nearest to it) and prd.png (the precision-recall curve); of likelihoods
    density.png (points), ood.png (the log-probabilities of both data sets) and certificate.json;
    of text models texts.jsonl.

    Args:
        run_path: The run directory.
        data: The data module, set up.
        metrics: Configs of the evaluators, by name.
        features: The config of the feature network, for images.
        allow: What the run's config may build besides genlab's own classes.
        ckpt, weights, device: See genlab eval, as of all options below.
        split: The real examples for reconstructions and codes; samples are compared with train.
        num: Samples; of a text model examples, at most.
        batch_size: Inputs at once.
        seed: Of samples and noise.
        standing: Batches that the generator's statistics are taken from again; 0: as trained.
        sampler: One of the model's own; None: its default.
        temperature: Of the samples of image models; None: 1.
        ood: Another data set, set up, to distinguish from `data` by the likelihood.
        texts: {"decoding": ..., "measure": ...} of genlab eval, for text models.
        overrides: The words of the command line, of which those of other models are refused.
        out: The directory that eval/ is written in; None: the run directory.

    Returns:
        {metric: {"value": ..., and what produced it}}, as in metrics.json.
    """
    out = out or run_path
    if data.name is None:
        raise ConfigError(
            "data: the run's config has no data to evaluate on; choose some, as in data=mnist5k"
        )
    opened = {"ckpt": ckpt, "weights": weights, "device": device, "allow": allow}
    system = load_system(opened, run_path)
    options.refuse_foreign_options("eval", system, overrides)
    if ood is not None:
        require(system, HasLikelihood, f"ood={ood.name}", "a model with a likelihood")
    if temperature is not None:
        require(system, Samples, f"temperature={temperature}", "a model that samples")
        options_for(system.prior, {"temperature": temperature}, "temperature")
        if system.modality != "image":
            raise ConfigError(f"temperature={temperature}: is of samples of image models alone")
    choose_sampler(system, sampler)
    bind_data(system, data)
    recompute_statistics(system, standing)
    own_data = is_data_of_run(run_path, data)
    texts = texts or {}
    decoding = None
    if isinstance(system, Generates):
        tokenizer = system.codec.tokenizer
        decoding = build_decoding(texts.get("decoding") or {}, allow, tokenizer)
    with progress_bar() as progress:
        chosen = Settings(
            split=split,
            num=num,
            batch_size=batch_size,
            seed=seed,
            temperature=temperature,
            own_data=own_data,
            ood=ood,
            features=partial(config.build, features, allow, data=data),
            decoding=decoding,
            measure=texts.get("measure"),
            progress=progress,
        )
        results, pages = evaluate(system, data, build_metrics(metrics, allow), chosen)
    used = {"weights": weights, "ckpt": str(ckpt), "data": data.name, "own_data": own_data}
    if system.modality == "text":
        used |= dict.fromkeys(("features_hash", "comparable", "crop", "resize"))
    else:
        about = data.describe(split)
        used |= {"standing": standing, "crop": about.get("crop"), "resize": about.get("resize")}
    if sampler is not None:
        used["sampler"] = sampler
    if temperature is not None:
        used["temperature"] = temperature
    results = {name: entry | used for name, entry in results.items()}
    # The table first: the disk may have no room for the files.
    console.console(sys.stdout).print(metrics_table(results))
    for name, write in pages.items():
        write(out / "eval" / name)
    runs.write_text(out / "eval" / "metrics.json", json.dumps(results, indent=2) + "\n")
    return results


def build_metrics(metrics: Mapping[str, Any], allow: Sequence[str] = ()) -> dict[str, Any]:
    """The evaluators of the config group `metrics`, by name."""
    return {name: config.build(node, allow) for name, node in metrics.items() if node is not None}
