"""`genlab train`: compose, train, measure, report; or continue the run in run=<dir>."""

import json
import logging
import os
import signal
import sys
import time
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch import seed_everything
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from genlab import config, runs
from genlab.callbacks import loggers
from genlab.callbacks.buffers import SharedBuffers
from genlab.callbacks.optimizer import Hyperparameters
from genlab.callbacks.reseed import Reseed
from genlab.callbacks.restored import restoring
from genlab.commands import options
from genlab.commands.closing import announce, chosen_metric, close_run
from genlab.commands.data import describe_data, fit_to_data, tell
from genlab.commands.eval import build_metrics
from genlab.commands.record import Record
from genlab.commands.resume import Start, continue_job, continue_run, new_run
from genlab.console import command, console
from genlab.evaluation.base import check_metrics
from genlab.signals import Interrupted, handled, ignored

__all__ = ["run"]

SUPPLIED = {"model": config.PARTS, "trainer": ["callbacks", "logger", "plugins", "default_root_dir"],
            "logger.*": ["save_dir"], "features": ["data"]}  # fmt: skip


def run(cfg, run_dir: Path, overrides: list[str], sweep: bool = False) -> float | None:
    """Trains as `cfg` says in `run_dir`; returns the value of `optimized_metric`, for sweepers.

    Raises ValueError (or a subclass) for whatever the user can put right, SystemExit when a signal
    ended the run.
    """
    settings = check(cfg, overrides, sweep)
    runs.check_layout(run_dir)
    quiet()
    with runs.on_disk(run_dir), runs.held(run_dir, writes=rank_zero_only.rank == 0):
        if settings["run"]:
            start = continue_run(run_dir, settings, overrides)
        elif sweep and (run_dir / "manifest.json").exists():
            start = continue_job(run_dir, settings)
            if start is None:
                return chosen_metric(
                    settings["optimized_metric"], runs.Manifest.read(run_dir).content["metrics"]
                )
        else:
            start = new_run(run_dir, settings, overrides)
        return run_held(start, run_dir, sweep)


def run_held(start: Start, run_dir: Path, sweep: bool) -> float | None:
    """`run` in a directory that no other process trains in; whatever ends it is written down in the
    manifest.
    """
    manifest = start.manifest
    try:
        with handled():
            return train(start, run_dir, sweep)
    except (Interrupted, KeyboardInterrupt) as stop:
        with ignored():
            signum = signal.Signals(getattr(stop, "signum", signal.SIGINT))
            with suppress(OSError, runs.RunError):  # of a full disk, or a directory that is gone
                manifest.update(status="interrupted")
            saved = (
                f"step {manifest.content['steps']} is saved"
                if getattr(stop, "saved", False)
                else "stopped at once"
            )
            print(
                f"{signum.name}: {saved}. To go on: {command('train', run=run_dir)}",
                file=sys.stderr,
            )
        raise SystemExit(128 + signum) from None
    except BaseException as error:
        if isinstance(error, MisconfigurationException):  # Lightning's word for a user's error
            error = config.ConfigError(f"trainer: {error}")
        with suppress(OSError, runs.RunError):
            manifest.update(status="failed", error=f"{type(error).__name__}: {error}")
        raise error


def train(start: Start, run_dir: Path, sweep: bool) -> float | None:
    """One run from data to report."""
    settings, manifest = start.settings, start.manifest
    seed_everything(settings["seed"], workers=True, verbose=False)
    data = config.build(settings["data"], settings["allow"])
    data.prepare_data()
    data.setup()
    same_data(manifest, data, start.checkpoint)
    settings, left_out = fit_to_data(settings, data)
    if manifest.writes:
        tell(data, left_out)
        manifest.update(left_out=left_out)
    if hasattr(data, "vocab_size") and "vocab_size" in settings.get(
        "net", {}
    ):  # known once the data is read
        settings = settings | {"net": settings["net"] | {"vocab_size": data.vocab_size}}
    if hasattr(data, "label_values") and "values" in settings["model"].get("condition", {}):
        condition = {"condition": settings["model"]["condition"] | {"values": data.label_values}}
        settings = settings | {"model": settings["model"] | condition}
    settings = with_frozen_run(settings)
    system = config.build_system(settings, settings["allow"])
    if settings["evaluate"] and settings.get("metrics"):  # refused now, not after the last step
        check_metrics(build_metrics(settings["metrics"], settings["allow"]), system)
    if system.modality == "text":
        # On CPUs oneDNN keeps kernel and scratch memory of each of the last 1,024 shapes that it
        # met, and batches of texts have ever new ones: 10 GB after 500 steps of unilm_qa_cmrc, 5
        # with this. It is read once, at the first kernel.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    record = Record(manifest)
    trainer = build_trainer(settings, run_dir, record)
    record.begin = lambda: start.begin(run_dir, trainer.loggers, settings)
    try:
        return train_with(
            trainer, system, data, replace(start, settings=settings), record, run_dir, sweep
        )
    finally:
        loggers.close(trainer.loggers)


def train_with(
    trainer, system, data, start: Start, record: Record, run_dir: Path, sweep: bool
) -> float | None:
    """`train` from the first step on."""
    settings, manifest = start.settings, start.manifest
    if manifest.writes:
        where = f"from step {start.step} " if start.step else ""
        line = f"training {settings['name']} on {data.name} {where}in {run_dir}"
        console().print(line, soft_wrap=True)
    if not manifest.held or start.trained:
        record.start()
    loggers.begin(
        trainer.loggers, config.flatten(settings | {"allow": []}), start.checkpoint is not None
    )
    if not start.trained:
        fit(trainer, system, data, start, run_dir)
    if not trainer.is_global_zero:
        return None
    close_run(run_dir, settings, manifest, trainer, system, data)
    announce(run_dir, system, manifest, sweep)
    return chosen_metric(settings["optimized_metric"], manifest.content.get("metrics", {}))


def with_frozen_run(settings: dict) -> dict:
    """The config of a run that is the encoder of this one's images, as JSON, so that the finished
    run needs that no more.
    """
    condition = settings["model"].get("condition", {})
    if not condition.get("run") or condition.get("frozen"):
        return settings
    frozen = {"frozen": json.dumps(config.read_frozen(condition["run"]))}
    return settings | {"model": settings["model"] | {"condition": condition | frozen}}


def fit(trainer, system, data, start: Start, run_dir: Path) -> None:
    """Trains, and writes down how far it came whatever happens; ConfigError where no step was to be
    taken.
    """
    manifest = start.manifest
    begun, seconds = time.monotonic(), manifest.content["seconds"]
    trainer.ckpt_path = (
        start.checkpoint
    )  # an argument of fit is not known yet where a model's setup asks if the run is new
    finished = False
    try:
        with restoring(trainer, start.checkpoint):
            trainer.fit(system, datamodule=data, weights_only=True)
        finished = trainer.global_step > start.step
    except ValueError as error:
        if not trainer.global_step or isinstance(error, runs.RunError):
            raise
        saved = run_dir / "checkpoints" / "last.ckpt"
        hint = (
            f"{saved} is the last good checkpoint"
            if saved.exists()
            else "no checkpoint was saved before"
        )
        raise type(error)(f"{error} ({hint})") from error
    finally:
        images = next((c.images_seen for c in trainer.callbacks if hasattr(c, "images_seen")), 0)
        elapsed = round(seconds + time.monotonic() - begun, 1)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        progress = {
            "steps": trainer.global_step,
            "images_seen": images,
            "seconds": elapsed,
            "metrics": metrics,
        }
        manifest.update(**progress, **({"stages": {"training": "finished"}} if finished else {}))
    if not finished:
        limits = ("max_steps", "max_epochs", "max_time", "limit_train_batches")
        words = ", ".join(
            f"trainer.{name}={start.settings['trainer'].get(name)}" for name in limits
        )
        raise config.ConfigError(f"{words}: no step is left to train after step {start.step}")


# --- before ---------------------------------------------------------------------------------------


def check(cfg, overrides: list[str], sweep: bool) -> dict[str, Any]:
    """`cfg` resolved and validated as a whole, before anything is touched."""
    settings = options.read("train", cfg, overrides, SUPPLIED)
    if settings["run"]:
        config.refuse_outward(settings, overrides)
    known = config.parameters(config.locate(settings["model"]["_target_"], settings["allow"]))
    for part in config.PARTS:
        if settings.get(part) is not None and part not in known:
            raise config.ConfigError(
                f"{part}: {settings['model']['_target_']} takes none; leave {part}= out"
            )
    metric = str(settings.get("optimized_metric") or "")
    if metric.startswith("test/") and not settings["evaluate"]:
        raise config.ConfigError(
            f"optimized_metric={metric} evaluate=false: test/ metrics are measured when training ends; give evaluate=true, "
            "or optimise a val/ metric"
        )
    if sweep and starts_processes(settings["trainer"].get("strategy")):
        raise config.ConfigError(
            "trainer=ddp with -m: every process of a job would run the whole sweep again; start the jobs one by one, "
            "give trainer=cpu (or gpu) trainer.devices=N trainer.strategy=ddp_spawn, or start each under torchrun or a "
            "cluster's launcher"
        )
    return settings


def starts_processes(strategy: Any) -> bool:
    """Whether Lightning would start this command again for each further process, as plain DDP does."""
    if isinstance(strategy, dict):
        return (
            strategy["_target_"].endswith("DDPStrategy")
            and strategy.get("start_method", "popen") == "popen"
        )
    return strategy in (
        "ddp",
        "ddp_find_unused_parameters_true",
        "ddp_find_unused_parameters_false",
    )


def same_data(manifest: runs.Manifest, data, resume: Path | None) -> None:
    """Notes which data the run is trained on; ConfigError when a resumed run would go on with other
    data.
    """
    fingerprint = data.fingerprint()
    before = manifest.content.get("data", {}).get("fingerprint")
    if resume is not None and before not in (None, fingerprint):
        raise config.ConfigError(
            f"data: the run was trained on {manifest.content['data']['name']} with fingerprint {before}, and "
            f"{data.name} now has {fingerprint}; put the same data back, or start a new run"
        )
    manifest.update(data=describe_data(data))


def build_trainer(settings: dict, run_dir: Path, record: Record):
    allow = settings["allow"]
    nodes = (settings["callbacks"] or {}).values()
    callbacks = [config.build(node, allow) for node in nodes if node]
    chosen = [
        config.build(node, allow, save_dir=str(run_dir))
        for node in (settings["logger"] or {}).values()
        if node
    ]
    return config.build(
        settings["trainer"],
        allow,
        callbacks=[
            record,
            Reseed(settings["seed"]),
            Hyperparameters(),
            *callbacks,
            SharedBuffers(),
        ],
        logger=chosen or False,
        plugins=[runs.AtomicCheckpointIO()],
        default_root_dir=str(run_dir),
    )


def quiet() -> None:
    """Drops what Lightning says that a reader of our own lines does not need."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*number of training batches.*smaller than the logging.*",
        ".*isinstance.treespec, LeafSpec.*",
        "Found .* module.s. in eval mode.*",
        "Total length of `list`.*",
    ):
        warnings.filterwarnings("ignore", message)
