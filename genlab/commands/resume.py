"""Where `genlab train` begins: a new run, or a run directory as it was left at any moment."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from genlab import config, runs
from genlab.commands.closing import find_finished_stages, is_closed
from genlab.commands.job import Job
from genlab.console import command
from genlab.errors import ConfigError, RunError
from genlab.runs import compare
from genlab.runs.schema import BegunManifest
from genlab.training.steps import state_of

__all__ = ["find_job"]


def find_job(
    run_dir: Path, settings: dict[str, Any], overrides: list[str], sweep: bool
) -> Job | None:
    """What there is to train in `run_dir`; the caller holds the lock of the directory.

    Args:
        run_dir: That of run= or hydra.run.dir=, or of a sweep's job.
        settings: Of genlab train.
        overrides: The words of the command line.
        sweep: Whether this is a job of a sweep, which may have been stopped before.

    Returns:
        None for a sweep's job that was finished before.

    Raises:
        ConfigError: If a setting changes that a run keeps, or nothing is left to do.
        RunError: If another run is in the directory.
    """
    if settings["run"]:
        return _resume_run(run_dir, settings, overrides)
    if sweep and (run_dir / "manifest.json").exists():
        return _resume_sweep_job(run_dir, settings)
    return _new_run(run_dir, settings, overrides)


def _new_run(run_dir: Path, settings: dict[str, Any], overrides: list[str]) -> Job:
    """A new run, or a fresh start of one that was stopped before its first checkpoint."""
    content = _first_content(settings, overrides)
    manifest = runs.Manifest.create(run_dir, content, writes=_is_main_process())
    if manifest.writes:
        runs.save_config(run_dir, settings | {"run": None, "ckpt": "last"})
    return Job(run_dir, settings, manifest)


def _resume_run(run_dir: Path, settings: dict[str, Any], overrides: list[str]) -> Job:
    """The run of run=. Nothing is written before `Job.write_start`."""
    writes = _is_main_process()
    if (run_dir / "manifest.json").exists():
        manifest = runs.Manifest.read(run_dir, writes=writes, schema=BegunManifest)
    else:  # it was stopped between its first two files
        manifest = runs.Manifest(run_dir, _first_content(settings, overrides), writes=writes)
    changed = config.changes(config.read_frozen(settings["run"]), settings)
    return _resume(run_dir, settings, manifest, changed)


def _resume_sweep_job(run_dir: Path, settings: dict[str, Any]) -> Job | None:
    """The job of a resumed sweep from where it stopped; None where it is finished."""
    manifest = runs.Manifest.read(run_dir, writes=_is_main_process())
    if manifest.content.get("config") != compare.digest(settings):
        raise RunError(
            f"{run_dir}: the run in it has another config than this job, so the sweep cannot be "
            "resumed; name another hydra.sweep.dir, or remove that directory"
        )
    if is_closed(settings, manifest):
        print(f"{run_dir}: finished before, with the same config", file=sys.stderr)
        return None
    return _resume(run_dir, settings | {"run": str(run_dir), "ckpt": "last"}, manifest, {})


def _resume(
    run_dir: Path, settings: dict[str, Any], manifest: runs.Manifest, changed: Mapping[str, Any]
) -> Job:
    """The job that resumes from ckpt=; its manifest changes in memory alone.

    Args:
        run_dir: The run directory.
        settings: Of genlab train.
        manifest: As it was left.
        changed: {dotted key: new value} of the settings that differ from those of the run.
    """
    manifest.hold()
    content = manifest.content
    resumed = [*content.get("resumed", []), _typed_command()]
    if changed:
        content["config"] = compare.digest(settings)
    if settings["ckpt"] == "last" and manifest.is_empty():
        content |= {"status": "running", "stages": {}, "metrics": {}, "resumed": resumed}
        content |= {"steps": 0, "images_seen": 0}
        content.pop("error", None)
        return Job(run_dir, settings, manifest)
    path = runs.checkpoint_path(settings["run"], settings["ckpt"])
    runs.read_curves(run_dir)  # refuses a damaged metrics.csv, whose rows the run keeps
    config.refuse_changes(changed, settings, settings["run"])
    checkpoint = _read_checkpoint(path, run_dir)
    step, state = checkpoint["global_step"], state_of(checkpoint)
    is_trained = _is_trained(step, state, settings, content, changed)
    if is_trained and is_closed(settings, manifest):
        max_steps = settings["trainer"].get("max_steps") or -1
        longer = command("train", f"trainer.max_steps={2 * step}", run=run_dir)
        raise ConfigError(
            f"trainer.max_steps={max_steps}: this run is at step {step} already; to train further, "
            f"give more: {longer}"
        )
    metrics = {name: float(value) for name, value in state.get("metrics", {}).items()}
    stages = {"training": _unfinished(step)}
    if is_trained:
        measured = content.get("metrics", {}).items()
        metrics |= {name: value for name, value in measured if name.startswith("test/")}
        stages = find_finished_stages(manifest) | {"training": "finished"}
    content |= {"status": "running", "steps": step, "stages": stages}
    content |= {"metrics": metrics, "resumed": resumed}
    content.pop("error", None)
    for callback in checkpoint["callbacks"].values():
        if "images_seen" in callback:
            content["images_seen"] = callback["images_seen"]
    return Job(run_dir, settings, manifest, path, step, is_trained)


def _is_trained(
    step: int,
    state: Mapping[str, Any],
    settings: Mapping[str, Any],
    content: Mapping[str, Any],
    changed: Mapping[str, Any],
) -> bool:
    """Whether a checkpoint is the end of the training that `settings` ask for.

    It is at or beyond trainer.max_steps; or its fit had ended (max_epochs, early stopping), nothing
    that could make it longer was changed, and no further training was started since.
    """
    max_steps = settings["trainer"].get("max_steps") or -1
    if 0 < max_steps <= step:
        return True
    ended = state.get("ended", content.get("status") == "finished")
    training_since = content.get("stages", {}).get("training") == _unfinished(step)
    longer = any(key.startswith(("trainer.", "callbacks.")) for key in changed)
    return ended and not training_since and not longer


def _unfinished(step: int) -> str:
    """The state of the training stage of a run that is trained beyond an ended fit.

    If it is stopped, the same command resumes training instead of taking the fit for ended.
    """
    return f"from step {step}"


def _read_checkpoint(path: Path, run_dir: Path) -> dict[str, Any]:
    """The content of a checkpoint; the RunError of a damaged last.ckpt points to best.ckpt."""
    best = run_dir / "checkpoints" / "best.ckpt"
    try:
        return runs.read_resumable(path)
    except RunError as error:
        if path == best or not best.is_file():
            raise
        resume = command("train", run=run_dir, ckpt="best")
        raise RunError(f"{error}. To resume from best.ckpt: {resume}") from None


def _first_content(settings: Mapping[str, Any], overrides: list[str]) -> dict[str, Any]:
    """The manifest of a run at step 0."""
    return {
        "command": _typed_command(),
        "overrides": overrides,
        "model": settings["name"],
        "seed": settings["seed"],
        **runs.environment(),
        "steps": 0,
        "images_seen": 0,
        "seconds": 0.0,
        "config": compare.digest(settings),
        "differences": compare.differences(settings),
    }


def _typed_command() -> str:
    """This command, quoted for a shell."""
    return shlex.join(["genlab", *sys.argv[1:]])


def _is_main_process() -> bool:
    return rank_zero_only.rank == 0
