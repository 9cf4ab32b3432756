"""`genlab train`: compose, train, measure, report; or resume the run in run=<dir>."""

import json
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
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
from genlab.commands.closing import chosen_metric, close_run, print_results
from genlab.commands.data import describe_data, fit_to_data, print_notes
from genlab.commands.eval import build_metrics
from genlab.commands.job import Job, Record
from genlab.commands.resume import find_job
from genlab.console import command, console
from genlab.data.base import HasLabelValues, HasVocabulary
from genlab.errors import ConfigError, RunError
from genlab.evaluation.base import check_metrics
from genlab.signals import Interrupted, handled, ignored

__all__ = ["run"]

# Arguments that genlab gives to what a config builds, so that the config must not
SUPPLIED = {
    "model": config.PARTS,
    "trainer": ["callbacks", "logger", "plugins", "default_root_dir"],
    "logger.*": ["save_dir"],
    "features": ["data"],
}
# What can end a fit before its first step
LIMITS = ("max_steps", "max_epochs", "max_time", "limit_train_batches")


def run(cfg, run_dir: Path, overrides: list[str], sweep: bool = False) -> float | None:
    """Trains as `cfg` says in `run_dir`.

    Args:
        cfg: The composed config.
        run_dir: The run directory.
        overrides: The words of the command line.
        sweep: Whether this is a job of a sweep.

    Returns:
        The value of optimized_metric=, for sweepers.

    Raises:
        ValueError: Or a subclass, for whatever the user can put right.
        SystemExit: When a signal ended the run.
    """
    settings = check(cfg, overrides, sweep)
    runs.check_layout(run_dir)
    silence_lightning()
    with runs.report_full_disk(run_dir), runs.lock(run_dir, writes=rank_zero_only.rank == 0):
        job = find_job(run_dir, settings, overrides, sweep)
        if job is None:  # of a sweep, and finished before
            return chosen_metric(settings, runs.Manifest.read(run_dir))
        with ending_recorded(job):
            return train(job, sweep)


def train(job: Job, sweep: bool) -> float | None:
    """One job, from its data to its report."""
    seed_everything(job.settings["seed"], workers=True, verbose=False)
    data = config.build(job.settings["data"], job.settings["allow"])
    data.prepare_data()
    data.setup()
    require_same_data(job, data)
    complete_settings(job, data)
    system = config.build_system(job.settings, job.settings["allow"])
    require_metrics(job.settings, system)
    limit_onednn_cache(system)
    record = Record(job)
    trainer = build_trainer(job, record)
    try:
        if job.manifest.writes:
            resumed = f"from step {job.step} " if job.step else ""
            line = f"training {job.settings['name']} on {data.name} {resumed}in {job.run_dir}"
            console().print(line, soft_wrap=True)
        if job.is_trained or not job.manifest.held:
            record.start(trainer.loggers)
        shown = config.flatten(job.settings | {"allow": []})
        loggers.begin(trainer.loggers, shown, job.checkpoint is not None)
        if not job.is_trained:
            fit(job, trainer, system, data)
        if not trainer.is_global_zero:
            return None
        close_run(job, trainer, system, data)
        print_results(job, system, sweep)
        return chosen_metric(job.settings, job.manifest)
    finally:
        loggers.close(trainer.loggers)


def fit(job: Job, trainer, system, data) -> None:
    """Trains, and writes how far it came into the manifest, whatever happens.

    Raises:
        ConfigError: If no step was left to train.
    """
    start_time, seconds_before = time.monotonic(), job.manifest.content["seconds"]
    # Set here, as the argument of `fit` is not known yet where a model's setup asks for it.
    trainer.ckpt_path = job.checkpoint
    trained = False
    try:
        with restoring(trainer, job.checkpoint):
            trainer.fit(system, datamodule=data, weights_only=True)
        trained = trainer.global_step > job.step
    except ValueError as error:
        if not trainer.global_step or isinstance(error, RunError):
            raise
        saved = job.run_dir / "checkpoints" / "last.ckpt"
        hint = "no checkpoint was saved before"
        if saved.exists():
            hint = f"{saved} is the last good checkpoint"
        raise type(error)(f"{error} ({hint})") from error
    finally:
        counting = (one for one in trainer.callbacks if hasattr(one, "images_seen"))
        counter = next(counting, None)
        progress = {
            "steps": trainer.global_step,
            "images_seen": counter.images_seen if counter else 0,
            "seconds": round(seconds_before + time.monotonic() - start_time, 1),
            "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
        }
        if trained:
            progress["stages"] = {"training": "finished"}
        job.manifest.update(**progress)
    if not trained:
        settings = job.settings["trainer"]
        limits = ", ".join(f"trainer.{name}={settings.get(name)}" for name in LIMITS)
        raise ConfigError(f"{limits}: no step is left to train after step {job.step}")


@contextmanager
def ending_recorded(job: Job) -> Iterator[None]:
    """Writes into the manifest how a job ended that did not finish: interrupted, or failed."""
    try:
        with handled():
            yield
    except (Interrupted, KeyboardInterrupt) as stop:
        with ignored():
            signum, saved = signal.SIGINT, False
            if isinstance(stop, Interrupted):
                signum, saved = signal.Signals(stop.signum), stop.saved
            with suppress(OSError, RunError):  # a full disk, or a directory that is gone
                job.manifest.update(status="interrupted")
            state = f"step {job.manifest.content['steps']} is saved" if saved else "stopped at once"
            resume = command("train", run=job.run_dir)
            print(f"{signum.name}: {state}. To resume: {resume}", file=sys.stderr)
        raise SystemExit(128 + signum) from None
    except BaseException as error:
        if isinstance(error, MisconfigurationException):  # how Lightning calls a user's error
            error = ConfigError(f"trainer: {error}")
        with suppress(OSError, RunError):
            job.manifest.update(status="failed", error=f"{type(error).__name__}: {error}")
        raise error


# --- settings -------------------------------------------------------------------------------------


def check(cfg, overrides: list[str], sweep: bool) -> dict[str, Any]:
    """`cfg` resolved and validated as a whole, before anything is touched.

    Raises:
        ConfigError: If something in it is wrong; lists all that is.
    """
    settings = options.read("train", cfg, overrides, SUPPLIED)
    if settings["run"]:
        config.refuse_outward(settings, overrides)
    model = settings["model"]["_target_"]
    known = config.parameters(config.locate(model, settings["allow"]))
    for part in config.PARTS:
        if settings.get(part) is not None and part not in known:
            raise ConfigError(f"{part}: {model} takes none; leave {part}= out")
    metric = settings.get("optimized_metric") or ""
    if metric.startswith("test/") and not settings["evaluate"]:
        raise ConfigError(
            f"optimized_metric={metric} evaluate=false: test/ metrics are measured when training "
            "ends; give evaluate=true, or optimise a val/ metric"
        )
    if sweep and starts_processes(settings["trainer"].get("strategy")):
        raise ConfigError(
            "trainer=ddp with -m: every process of a job would run the whole sweep again; start "
            "the jobs one by one, give trainer=cpu (or gpu) trainer.devices=N "
            "trainer.strategy=ddp_spawn, or start each job under torchrun or a cluster's launcher"
        )
    return settings


def starts_processes(strategy: Any) -> bool:
    """Whether Lightning starts this command again for each further process, as plain DDP does."""
    if isinstance(strategy, dict):
        is_ddp = strategy["_target_"].endswith("DDPStrategy")
        return is_ddp and strategy.get("start_method", "popen") == "popen"
    plain = ("ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false")
    return strategy in plain


def require_same_data(job: Job, data) -> None:
    """Writes into the manifest which data the run is trained on.

    Raises:
        ConfigError: If a resumed run was trained on other data.
    """
    fingerprint = data.fingerprint()
    about = job.manifest.content.get("data", {})
    before = about.get("fingerprint")
    if job.checkpoint is not None and before not in (None, fingerprint):
        raise ConfigError(
            f"data: the run was trained on {about['name']} with fingerprint {before}, and "
            f"{data.name} now has {fingerprint}; put the same data back, or start a new run"
        )
    job.manifest.update(data=describe_data(data))


def complete_settings(job: Job, data) -> None:
    """Fills in the settings that are known once the data are read.

    These are the size of a vocabulary, the names of classes and labels, and the config of a run
    that encodes this one's images. What the data do not allow is left out, with a line about it.
    """
    settings, left_out = fit_to_data(job.settings, data)
    if job.manifest.writes:
        print_notes(data)
        for line in left_out:
            print(line, file=sys.stderr)
        job.manifest.update(left_out=left_out)
    net = settings.get("net") or {}
    if isinstance(data, HasVocabulary) and "vocab_size" in net:
        settings = settings | {"net": net | {"vocab_size": data.vocab_size}}
    condition = settings["model"].get("condition") or {}
    if isinstance(data, HasLabelValues) and "values" in condition:
        condition = condition | {"values": data.label_values}
    if condition.get("run") and not condition.get("run_config"):
        # As JSON, so that the finished run does not need the other one.
        condition = condition | {"run_config": json.dumps(config.read_frozen(condition["run"]))}
    if condition:
        settings = settings | {"model": settings["model"] | {"condition": condition}}
    job.settings = settings


# --- Lightning ------------------------------------------------------------------------------------


def build_trainer(job: Job, record: Record):
    """The trainer of a job, with the callbacks and loggers of its settings and of every run."""
    settings, run_dir = job.settings, str(job.run_dir)
    allow = settings["allow"]
    callbacks = [
        config.build(node, allow) for node in (settings["callbacks"] or {}).values() if node
    ]
    chosen = [
        config.build(node, allow, save_dir=run_dir)
        for node in (settings["logger"] or {}).values()
        if node
    ]
    first = [record, Reseed(settings["seed"]), Hyperparameters()]
    return config.build(
        settings["trainer"],
        allow,
        callbacks=[*first, *callbacks, SharedBuffers()],
        logger=chosen or False,
        plugins=[runs.AtomicCheckpointIO()],
        default_root_dir=run_dir,
    )


def require_metrics(settings: Mapping[str, Any], system) -> None:
    """Refuses metrics that the system cannot be measured by before the first step, not after the
    last.
    """
    if settings["evaluate"] and settings.get("metrics"):
        check_metrics(build_metrics(settings["metrics"], settings["allow"]), system)


def limit_onednn_cache(system) -> None:
    """Bounds the memory that oneDNN keeps on CPUs for the shapes of text batches.

    It keeps kernels and scratch memory of the last 1,024 shapes, and batches of texts have ever new
    ones: 10 GB after 500 steps of unilm_qa_cmrc, 5 with this limit. oneDNN reads it at its first
    kernel.
    """
    if system.modality == "text":
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")


def silence_lightning() -> None:
    """Drops messages of Lightning that repeat what genlab prints, or that do not apply."""
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
