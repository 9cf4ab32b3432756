"""`genlab train`: compose, train, measure, report; or continue the run in run=<dir>."""

import json
import logging
import os
import shlex
import signal
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch import seed_everything
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.console import Console

from genlab import compare, config, runs
from genlab.callbacks import loggers
from genlab.callbacks.checkpoint import Interrupted
from genlab.callbacks.reseed import Reseed
from genlab.commands import eval as evaluation
from genlab.commands.data import describe_data, fit_to_data, tell
from genlab.export.explorer import explore
from genlab.report.html import PICTURES, write_report

__all__ = ["run"]

KEYS = {"name", "run", "ckpt", "seed", "allow", "model", "data", "trainer", "callbacks", "logger", "evaluate", "explorer"}
KEYS |= {"optimized_metric", "tags", *config.PARTS}
SUPPLIED = {"model": config.PARTS, "trainer": ["callbacks", "logger", "plugins", "default_root_dir"],
            "logger.*": ["save_dir"]}  # fmt: skip


def run(cfg, run_dir: Path, overrides: list[str], sweep: bool = False) -> float | None:
    """Trains as `cfg` says in `run_dir`; returns the value of `optimized_metric`, for sweepers.

    Raises ValueError (or a subclass) for whatever the user can put right, SystemExit when a signal ended the run.
    """
    settings = check(cfg, sweep)
    quiet()
    with runs.on_disk(run_dir), runs.held(run_dir, writes=rank_zero_only.rank == 0):
        if sweep and (run_dir / "manifest.json").exists():
            settings, metrics = continue_job(run_dir, settings)
            if metrics is not None:
                return chosen_metric(settings["optimized_metric"], metrics)
        return run_held(settings, run_dir, overrides, sweep)


def run_held(settings: dict, run_dir: Path, overrides: list[str], sweep: bool) -> float | None:
    """`run` in a directory that no other process trains in."""
    resume = runs.checkpoint_path(settings["run"], settings["ckpt"]) if settings["run"] else None
    manifest = open_manifest(run_dir, settings, overrides, resume, sweep)
    try:
        return train(settings, run_dir, resume, manifest, sweep)
    except (Interrupted, KeyboardInterrupt) as stop:
        signum = signal.Signals(getattr(stop, "signum", signal.SIGINT))
        if manifest.content["status"] == "running":
            manifest.update(status="interrupted")
        saved = f"step {manifest.content['steps']} is saved" if isinstance(stop, Interrupted) else "stopped"
        print(f"{signum.name}: {saved}. To go on: genlab train run={run_dir}", file=sys.stderr)
        raise SystemExit(128 + signum) from None
    except BaseException as error:
        if isinstance(error, MisconfigurationException):  # Lightning's word for a user's error
            error = config.ConfigError(f"trainer: {error}")
        if manifest.content["status"] == "running":  # not if all that failed is to measure a finished run, or to resume it
            with suppress(OSError):  # of a full disk
                manifest.update(status="failed", error=f"{type(error).__name__}: {error}")
        raise error


def train(settings: dict, run_dir: Path, resume: Path | None, manifest: runs.Manifest, sweep: bool) -> float | None:
    """One run from data to report."""
    seed_everything(settings["seed"], workers=True, verbose=False)
    data = config.build(settings["data"], settings["allow"])
    data.prepare_data()
    data.setup()
    same_data(manifest, data, resume)
    settings, left_out = fit_to_data(settings, data)
    if manifest.writes:
        tell(data, left_out)
        manifest.update(left_out=left_out)
    if hasattr(data, "vocab_size") and "vocab_size" in settings.get("net", {}):  # known once the data is read
        settings = settings | {"net": settings["net"] | {"vocab_size": data.vocab_size}}
    if hasattr(data, "label_values") and "values" in settings["model"].get("condition", {}):
        condition = {"condition": settings["model"]["condition"] | {"values": data.label_values}}
        settings = settings | {"model": settings["model"] | condition}
    settings = with_frozen_run(settings)
    if manifest.writes:
        runs.save_config(run_dir, settings | {"run": None, "ckpt": "last"})
    system = config.build_system(settings, settings["allow"])
    if system.modality == "text":
        # On CPUs oneDNN keeps kernel and scratch memory of each of the last 1,024 shapes that it met, and batches of texts
        # have ever new ones: 10 GB after 500 steps of unilm_qa_cmrc, 5 with this. It is read once, at the first kernel.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    trainer = build_trainer(settings, run_dir)
    try:
        return train_with(trainer, system, data, settings, run_dir, resume, manifest, sweep)
    finally:
        loggers.close(trainer.loggers)


def train_with(
    trainer, system, data, settings: dict, run_dir: Path, resume: Path | None, manifest: runs.Manifest, sweep: bool
) -> float | None:
    """`train` from the first step on."""
    console = Console(stderr=True)
    step, trained = continue_from(resume, trainer, manifest, run_dir) if resume is not None else (0, False)
    if manifest.writes:
        where = f"from step {step} " if step else ""
        console.print(
            f"training [bold]{settings['name']}[/] on {data.name} {where}in {run_dir}", highlight=False, soft_wrap=True
        )
    loggers.begin(trainer.loggers, config.flatten(settings), resume is not None)
    if not trained:
        fit(trainer, system, data, resume, manifest, run_dir)
    if not trainer.is_global_zero:
        return None
    manifest.update(status="finished")
    metrics = dict(manifest.content.get("metrics", {}))
    if settings["evaluate"]:
        results = evaluation.measure(run_dir, data, console=console, allow=settings["allow"])
        measured = {f"test/{name}": entry["value"] for name, entry in results.items()}
        metrics |= measured
        manifest.update(metrics=metrics)
        loggers.finish(trainer.loggers, measured, sorted((run_dir / "eval").glob("*.png")), trainer.global_step or step)
    if settings.get("explorer", True) and system.modality == "image":
        manifest.update(no_explorer=explore(run_dir, data, settings["allow"]))
    announce(console, run_dir, write_report(run_dir), system, sweep)
    return chosen_metric(settings["optimized_metric"], metrics)


def with_frozen_run(settings: dict) -> dict:
    """The config of a run that is the encoder of this one's images, as JSON, so that the finished run needs that no more."""
    condition = settings["model"].get("condition", {})
    if not condition.get("run") or condition.get("frozen"):
        return settings
    frozen = {"frozen": json.dumps(config.read_frozen(condition["run"]))}
    return settings | {"model": settings["model"] | {"condition": condition | frozen}}


def fit(trainer, system, data, resume: Path | None, manifest: runs.Manifest, run_dir: Path) -> None:
    """Trains, and writes down how far it came whatever happens."""
    start, seconds = time.monotonic(), manifest.content["seconds"]
    trainer.ckpt_path = resume  # an argument of fit is not known yet where a model's setup asks whether the run is new
    try:
        trainer.fit(system, datamodule=data, weights_only=True)
    except ValueError as error:
        if not trainer.global_step:
            raise
        saved = run_dir / "checkpoints" / "last.ckpt"
        hint = f"{saved} is the last good checkpoint" if saved.exists() else "no checkpoint was saved before"
        raise type(error)(f"{error} ({hint})") from error
    finally:
        images = next((c.images_seen for c in trainer.callbacks if hasattr(c, "images_seen")), 0)
        elapsed = round(seconds + time.monotonic() - start, 1)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name != "step"}
        manifest.update(steps=trainer.global_step, images_seen=images, seconds=elapsed, metrics=metrics)


# --- before ---------------------------------------------------------------------------------------------------------


def check(cfg, sweep: bool) -> dict[str, Any]:
    """`cfg` resolved and validated as a whole, before anything is touched."""
    settings = config.resolve(cfg)
    config.validate(settings, SUPPLIED, KEYS)
    known = config.parameters(config.locate(settings["model"]["_target_"], settings["allow"]))
    for part in config.PARTS:
        if settings.get(part) is not None and part not in known:
            raise config.ConfigError(f"{part}: {settings['model']['_target_']} takes none; leave {part}= out")
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
        return strategy["_target_"].endswith("DDPStrategy") and strategy.get("start_method", "popen") == "popen"
    return strategy in ("ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false")


def open_manifest(run_dir: Path, settings: dict, overrides: list[str], resume: Path | None, sweep: bool) -> runs.Manifest:
    if resume is not None:
        manifest = runs.Manifest.read(run_dir, writes=rank_zero_only.rank == 0)
        if not sweep and [word for word in overrides if not word.startswith(("run=", "ckpt="))]:
            manifest.update(config=compare.digest(settings))
        return manifest
    content = {"command": shlex.join(["genlab", *sys.argv[1:]]), "overrides": overrides, "model": settings["name"]}
    content |= {"seed": settings["seed"], **runs.environment(), "steps": 0, "images_seen": 0, "seconds": 0.0}
    content |= {"config": compare.digest(settings), "differences": compare.differences(settings)}
    return runs.Manifest.create(run_dir, content, writes=rank_zero_only.rank == 0)


def continue_job(run_dir: Path, settings: dict) -> tuple[dict, dict[str, float] | None]:
    """(settings, None) to run a job of a continued sweep from where it stopped, or (settings, its metrics): it is done.

    RunError where the job's directory holds a run of another config.
    """
    manifest = runs.Manifest.read(run_dir)
    status, metrics = manifest.content["status"], manifest.content.get("metrics", {})
    if manifest.content.get("config") != compare.digest(settings):
        raise runs.RunError(
            f"{run_dir}: the run in it has another config than this job, so the sweep cannot go on in it; name another "
            "hydra.sweep.dir, or remove that directory"
        )
    measured = not settings["evaluate"] or any(name.startswith("test/") for name in metrics)
    if status == "finished" and measured:
        print(f"{run_dir}: finished before, with the same config", file=sys.stderr)
        return settings, metrics
    if (run_dir / "checkpoints" / "last.ckpt").is_file():
        manifest.update(status="interrupted")
        return settings | {"run": str(run_dir), "ckpt": "last"}, None
    for name in ("manifest.json", "metrics.csv"):  # it had saved nothing yet
        (run_dir / name).unlink(missing_ok=True)
    return settings, None


def same_data(manifest: runs.Manifest, data, resume: Path | None) -> None:
    """Notes which data the run is trained on; ConfigError when a resumed run would go on with other data."""
    fingerprint = data.fingerprint()
    before = manifest.content.get("data", {}).get("fingerprint")
    if resume is not None and before not in (None, fingerprint):
        raise config.ConfigError(
            f"data: the run was trained on {manifest.content['data']['name']} with fingerprint {before}, and "
            f"{data.name} now has {fingerprint}; put the same data back, or start a new run"
        )
    manifest.update(data=describe_data(data))


def continue_from(resume: Path, trainer, manifest: runs.Manifest, run_dir: Path) -> tuple[int, bool]:
    """The step of the checkpoint `resume`, and whether all is trained: a run killed after that is measured and reported.

    ConfigError for a finished run of which nothing more is asked. Puts the loggers back to that step.
    """
    checkpoint = runs.read_checkpoint(resume)
    step = checkpoint["global_step"]
    trained = 0 < trainer.max_steps <= step
    if trained and manifest.content["status"] == "finished":
        raise config.ConfigError(
            f"trainer.max_steps={trainer.max_steps}: this run is at step {step} already; to go on, give more: "
            f"genlab train run={run_dir} trainer.max_steps={2 * step}"
        )
    for logger in trainer.loggers:
        if hasattr(logger, "rewind"):
            logger.rewind(step)
    command = shlex.join(["genlab", *sys.argv[1:]])
    manifest.update(status="running", steps=step, resumed=[*manifest.content.get("resumed", []), command])
    for state in checkpoint["callbacks"].values():
        if "images_seen" in state:
            manifest.update(images_seen=state["images_seen"])
    return step, trained


def build_trainer(settings: dict, run_dir: Path):
    allow = settings["allow"]
    nodes = (settings["callbacks"] or {}).values()
    callbacks = [config.build(node, allow) for node in nodes if node]
    chosen = [config.build(node, allow, save_dir=str(run_dir)) for node in (settings["logger"] or {}).values() if node]
    return config.build(
        settings["trainer"],
        allow,
        callbacks=[Reseed(settings["seed"]), *callbacks],
        logger=chosen or False,
        plugins=[runs.AtomicCheckpointIO()],
        default_root_dir=str(run_dir),
    )


def quiet() -> None:
    """Drops what Lightning says that a reader of our own lines does not need."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for message in (".*does not have many workers.*", ".*number of training batches.*smaller.*", "Total length of.*",
                    ".*isinstance.treespec, LeafSpec.*", "Found .* module.s. in eval mode.*"):  # fmt: skip
        warnings.filterwarnings("ignore", message)


# --- after ----------------------------------------------------------------------------------------------------------


def chosen_metric(name: str | None, metrics: dict[str, float]) -> float | None:
    if name is None:
        return None
    if name not in metrics:
        raise config.ConfigError(
            f"optimized_metric={name}: this run has {', '.join(metrics)}.{config.closest(name, metrics)}"
        )
    return metrics[name]


def announce(console: Console, run_dir: Path, report: Path, system, sweep: bool) -> None:
    """Says where everything is, and what to try next."""
    lines = [f"run directory  {run_dir}", f"report         {report}"]
    for kind in PICTURES:
        made = sorted((run_dir / "samples").glob(f"{kind}_*.png"))
        lines += [f"{kind:<15}{made[-1]}"] if made else []
    console.print("\n" + "\n".join(lines), highlight=False, soft_wrap=True)
    if sweep:
        return
    run = shlex.quote(os.path.relpath(run_dir) if run_dir.is_relative_to(Path.cwd()) else str(run_dir))
    console.print("try next\n  " + "\n  ".join(next_commands(run, system)), highlight=False, soft_wrap=True)


def next_commands(run: str, system) -> list[str]:
    """What to try with a trained run, as it is typed; `run`: its directory, quoted."""
    tries = [f"genlab sample run={run} num={10_000 if system.modality == 'point' else 64}"]
    if system.modality == "text":
        what = 'question="..." passages=["..."]' if system.codec.max_question else 'source="..."'
        if hasattr(system, "condition") and system.writes_freely:
            what = "num=8"
        what = 'source="... [MASK] ..."' if getattr(system, "objective", "") == "mlm" else what
        tries = [f"genlab sample run={run} {what}", f"genlab eval run={run}"]
    elif not hasattr(system, "sample"):
        tries = [f"genlab encode run={run} split=test out=codes.npz"]
        if getattr(system, "invertible", True):
            tries.insert(0, f"genlab sample run={run} mode=reconstruct num=16")
    elif hasattr(system, "encode"):
        mode = "interpolate" if system.modality == "point" else "walk"
        tries += [f"genlab sample run={run} mode={mode} num=16", f"genlab encode run={run} split=test out=codes.npz"]
    else:
        tries += [f"genlab eval run={run}", f"genlab train run={run} trainer.max_steps={2 * system.global_step}"]
    return tries
