"""`genlab train`: compose, train, measure, report; or continue the run in run=<dir>."""

import logging
import os
import shlex
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import seed_everything
from rich.console import Console

from genlab import config, runs
from genlab.callbacks.checkpoint import Interrupted
from genlab.callbacks.reseed import Reseed
from genlab.commands import eval as evaluation
from genlab.report.html import write_report

__all__ = ["run"]

KEYS = {"name", "run", "ckpt", "seed", "allow", "model", "net", "loss", "data", "trainer", "callbacks", "logger", "evaluate"}
KEYS |= {"optimized_metric", "tags"}
SUPPLIED = {"model": ["net", "loss"], "trainer": ["callbacks", "logger", "plugins", "default_root_dir"],
            "logger.*": ["save_dir"]}  # fmt: skip


def run(cfg, run_dir: Path, overrides: list[str], sweep: bool = False) -> float | None:
    """Trains as `cfg` says in `run_dir`; returns the value of `optimized_metric`, for sweepers.

    Raises ValueError (or a subclass) for whatever the user can put right.
    """
    console = Console(stderr=True)
    settings = check(cfg, sweep)
    quiet()
    main_process = int(os.environ.get("LOCAL_RANK", 0)) == 0
    resume = runs.checkpoint_path(settings["run"], settings["ckpt"]) if settings["run"] else None
    manifest = open_manifest(run_dir, settings, overrides, resume) if main_process else None

    seed_everything(settings["seed"], workers=True, verbose=False)
    data = config.build(settings["data"], settings["allow"])
    data.prepare_data()
    data.setup()
    if manifest is not None:
        same_data(manifest, data, resume)
        runs.save_config(run_dir, settings | {"run": None, "ckpt": "last"})
    system = config.build_system(settings, settings["allow"])
    trainer = build_trainer(settings, run_dir)
    step = 0
    if resume is not None:
        step = runs.read_checkpoint(resume)["global_step"]
        for logger in trainer.loggers:
            if hasattr(logger, "rewind"):
                logger.rewind(step)
        if 0 < trainer.max_steps <= step:
            manifest.update(status="finished")
            raise config.ConfigError(
                f"trainer.max_steps={trainer.max_steps}: this run is at step {step} already; to go on, give more: "
                f"genlab train run={run_dir} trainer.max_steps={2 * step}"
            )
    start, seconds = time.monotonic(), manifest.content.get("seconds", 0.0) if manifest else 0.0
    where = f"from step {step} " if step else ""
    if main_process:
        console.print(f"training [bold]{manifest.content['model']}[/] on {data.name} {where}in {run_dir}", highlight=False)

    def leave(status: str, **content: Any) -> None:
        if manifest is not None:
            progress = {"steps": trainer.global_step, "images_seen": images_seen(trainer)}
            elapsed = round(seconds + time.monotonic() - start, 1)
            manifest.update(status=status, seconds=elapsed, **progress, **content)

    try:
        trainer.fit(system, datamodule=data, ckpt_path=resume, weights_only=True)
    except Interrupted as stop:
        leave("interrupted")
        name = signal.Signals(stop.signum).name
        console.print(f"{name}: step {trainer.global_step} is saved. To go on: genlab train run={run_dir}")
        raise SystemExit(128 + stop.signum) from None
    except BaseException as error:
        leave("failed", error=f"{type(error).__name__}: {error}")
        if isinstance(error, ValueError) and trainer.global_step:
            saved = run_dir / "checkpoints" / "last.ckpt"
            hint = f"{saved} is the last good checkpoint" if saved.exists() else "no checkpoint was saved before"
            raise type(error)(f"{error} ({hint})") from error
        raise
    if not trainer.is_global_zero:
        return None
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name != "step"}
    leave("finished", metrics=metrics)
    if settings["evaluate"]:
        results = evaluation.measure(run_dir, data, console=console, allow=settings["allow"])
        metrics |= {f"test/{name}": entry["value"] for name, entry in results.items()}
        leave("finished", metrics=metrics)
    report = write_report(run_dir)
    announce(console, run_dir, report, system, sweep)
    return chosen_metric(settings["optimized_metric"], metrics)


# --- before ---------------------------------------------------------------------------------------------------------


def check(cfg, sweep: bool) -> dict[str, Any]:
    """`cfg` resolved and validated as a whole, before anything is touched."""
    settings = config.resolve(cfg)
    unknown = [f"{key}: no such key.{config.closest(key, KEYS)}" for key in settings if key not in KEYS]
    if unknown:
        raise config.ConfigError("\n  ".join(["errors in the config:", *unknown]))
    config.validate(settings, SUPPLIED)
    if sweep and str(settings["trainer"].get("strategy", "")).startswith("ddp"):
        raise config.ConfigError(
            "trainer=ddp with -m: every process of a job would run the whole sweep again; start the jobs one by one, "
            "use trainer.strategy=ddp_spawn, or start each under torchrun or a cluster's launcher"
        )
    return settings


def open_manifest(run_dir: Path, settings: dict, overrides: list[str], resume: Path | None) -> runs.Manifest:
    command = shlex.join(["genlab", *sys.argv[1:]])
    if resume is not None:
        manifest = runs.Manifest.read(run_dir)
        manifest.update(status="running", resumed=[*manifest.content.get("resumed", []), command])
        return manifest
    content = {"command": command, "overrides": overrides, "model": settings["name"], "seed": settings["seed"]}
    return runs.Manifest.create(run_dir, **content, **runs.environment(), steps=0, images_seen=0, seconds=0.0)


def same_data(manifest: runs.Manifest, data, resume: Path | None) -> None:
    """Notes which data the run is trained on; ConfigError when a resumed run would go on with other data."""
    fingerprint = data.fingerprint()
    before = manifest.content.get("data", {}).get("fingerprint")
    if resume is not None and before not in (None, fingerprint):
        raise config.ConfigError(
            f"data: the run was trained on {manifest.content['data']['name']} with fingerprint {before}, and "
            f"{data.name} now has {fingerprint}; put the same data back, or start a new run"
        )
    splits = {split: data.describe(split) for split in ("train", "val", "test")}
    manifest.update(data={"name": data.name, "fingerprint": fingerprint, "splits": splits})


def build_trainer(settings: dict, run_dir: Path):
    allow = settings["allow"]
    nodes = (settings["callbacks"] or {}).values()
    callbacks = [config.build(node, allow) for node in nodes if node]
    loggers = [config.build(node, allow, save_dir=str(run_dir)) for node in (settings["logger"] or {}).values() if node]
    return config.build(
        settings["trainer"],
        allow,
        callbacks=[Reseed(settings["seed"]), *callbacks],
        logger=loggers or False,
        plugins=[runs.AtomicCheckpointIO()],
        default_root_dir=str(run_dir),
    )


def quiet() -> None:
    """Drops what Lightning says that a reader of our own lines does not need."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for message in (".*does not have many workers.*", ".*number of training batches.*smaller than the logging.*"):
        warnings.filterwarnings("ignore", message)


# --- after ----------------------------------------------------------------------------------------------------------


def images_seen(trainer) -> int:
    return next((c.images_seen for c in trainer.callbacks if hasattr(c, "images_seen")), 0)


def chosen_metric(name: str | None, metrics: dict[str, float]) -> float | None:
    if name is None:
        return None
    if name not in metrics:
        raise config.ConfigError(f"optimized_metric={name}: this run has {', '.join(metrics)}.{config.closest(name, metrics)}")
    return metrics[name]


def announce(console: Console, run_dir: Path, report: Path, system, sweep: bool) -> None:
    console.print(f"\nrun directory  {run_dir}\nreport         {report}", highlight=False, soft_wrap=True)
    if sweep:
        return
    run = os.path.relpath(run_dir)
    tries = [f"genlab sample run={run} num=64"]
    if hasattr(system, "encode"):
        tries += [f"genlab sample run={run} mode=interpolate", f"genlab encode run={run} split=test out=codes.npz"]
    else:
        tries += [f"genlab eval run={run}", f"genlab train run={run} trainer.max_steps=<more>"]
    console.print("try next\n  " + "\n  ".join(tries), highlight=False, soft_wrap=True)
