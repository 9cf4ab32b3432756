"""Where `genlab train` starts: a new run, or a run directory that is continued, from whatever
moment it was left in.
"""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from genlab import config, runs
from genlab.commands.closing import all_closed, finished_stages
from genlab.console import command
from genlab.runs import compare
from genlab.runs.schema import BegunManifest
from genlab.training.steps import state_of

__all__ = ["Start", "continue_job", "continue_run", "new_run"]


@dataclass
class Start:
    """What is trained and from where: checkpoint None for step 0; trained if no step is left, only
    closing stages.
    """

    settings: dict[str, Any]
    manifest: runs.Manifest
    checkpoint: Path | None = None
    step: int = 0
    trained: bool = False

    def begin(self, run_dir: Path, loggers, settings: dict[str, Any]) -> None:
        """Writes down that the run goes on, when its first step is taken; until then the directory
        is as it was.
        """
        if not self.manifest.writes:
            return
        runs.save_config(run_dir, settings | {"run": None, "ckpt": "last"})
        if self.checkpoint is None:
            remove_leftovers(run_dir)
        for logger in loggers:
            if hasattr(logger, "rewind"):
                logger.rewind(self.step)
        self.manifest.release()


def new_run(run_dir: Path, settings: dict[str, Any], overrides: list[str]) -> Start:
    """A new run in `run_dir`, or one anew that was stopped before its first checkpoint; RunError if
    another is there.
    """
    manifest = runs.Manifest.create(
        run_dir, content_of(settings, overrides), writes=rank_zero_only.rank == 0
    )
    if manifest.writes:
        runs.save_config(run_dir, settings | {"run": None, "ckpt": "last"})
    return Start(settings, manifest)


def typed() -> str:
    """This command, as it was typed."""
    return shlex.join(["genlab", *sys.argv[1:]])


def content_of(settings: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    content = {"command": typed(), "overrides": overrides, "model": settings["name"]}
    content |= {
        "seed": settings["seed"],
        **runs.environment(),
        "steps": 0,
        "images_seen": 0,
        "seconds": 0.0,
    }
    return content | {
        "config": compare.digest(settings),
        "differences": compare.differences(settings),
    }


def continue_run(run_dir: Path, settings: dict[str, Any], overrides: list[str]) -> Start:
    """The run in run=<dir> from its checkpoint, or from step 0 if it was stopped before its first
    one.

    Nothing is written before `Start.begin`. ConfigError for a setting that a run keeps, or when
    nothing is left to do.
    """
    writes = rank_zero_only.rank == 0
    if (run_dir / "manifest.json").exists():
        manifest = runs.Manifest.read(run_dir, writes=writes, schema=BegunManifest)
    else:  # stopped between its first two files
        manifest = runs.Manifest(run_dir, content_of(settings, overrides), writes=writes)
    changed = config.changes(config.read_frozen(settings["run"]), settings)
    return _continue(run_dir, settings, manifest, changed)


def continue_job(run_dir: Path, settings: dict[str, Any]) -> Start | None:
    """The job of a continued sweep from where it stopped; None where it is finished.

    RunError where the job's directory holds a run of another config.
    """
    manifest = runs.Manifest.read(run_dir, writes=rank_zero_only.rank == 0)
    if manifest.content.get("config") != compare.digest(settings):
        raise runs.RunError(
            f"{run_dir}: the run in it has another config than this job, so the sweep cannot go on in it; name another "
            "hydra.sweep.dir, or remove that directory"
        )
    if all_closed(settings, manifest):
        print(f"{run_dir}: finished before, with the same config", file=sys.stderr)
        return None
    return _continue(run_dir, settings | {"run": str(run_dir), "ckpt": "last"}, manifest, {})


def _continue(
    run_dir: Path, settings: dict[str, Any], manifest: runs.Manifest, changed: dict[str, Any]
) -> Start:
    manifest.hold()
    content = manifest.content
    resumed = [*content.get("resumed", []), typed()]
    if changed:
        content |= {"config": compare.digest(settings)}
    if settings["ckpt"] == "last" and manifest.is_empty():
        content |= {
            "status": "running",
            "stages": {},
            "steps": 0,
            "images_seen": 0,
            "resumed": resumed,
            "metrics": {},
        }
        content.pop("error", None)
        return Start(settings, manifest)
    path = runs.checkpoint_path(settings["run"], settings["ckpt"])
    runs.read_curves(run_dir)  # of which the run keeps the rows
    config.refuse_changes(changed, settings, settings["run"])
    checkpoint = read_checkpoint(path, run_dir)
    step, state = checkpoint["global_step"], state_of(checkpoint)
    max_steps = settings["trainer"].get("max_steps") or -1
    ended = state.get("ended", content.get("status") == "finished")
    ended = ended and content.get("stages", {}).get("training") != going_on(step)
    ended = ended and not any(key.startswith(("trainer.", "callbacks.")) for key in changed)
    trained = 0 < max_steps <= step or ended
    if trained and all_closed(settings, manifest):
        raise config.ConfigError(
            f"trainer.max_steps={max_steps}: this run is at step {step} already; to go on, give more: "
            f"{command('train', f'trainer.max_steps={2 * step}', run=run_dir)}"
        )
    metrics = {name: float(value) for name, value in state.get("metrics", {}).items()}
    stages = {"training": going_on(step)}
    if trained:
        metrics |= {
            name: value
            for name, value in content.get("metrics", {}).items()
            if name.startswith("test/")
        }
        stages = finished_stages(manifest) | {"training": "finished"}
    content |= {"stages": stages}
    content |= {"status": "running", "steps": step, "resumed": resumed, "metrics": metrics}
    content.pop("error", None)
    for callback in checkpoint["callbacks"].values():
        if "images_seen" in callback:
            content["images_seen"] = callback["images_seen"]
    return Start(settings, manifest, path, step, trained)


def going_on(step: int) -> str:
    """The state of a run that is trained beyond `step`, where a fit had ended: the same command
    goes on, not to its end.
    """
    return f"from step {step}"


def read_checkpoint(path: Path, run_dir: Path) -> dict[str, Any]:
    """Its content; the RunError of a damaged last.ckpt says how the run goes on from best.ckpt, if
    that is there.
    """
    best = run_dir / "checkpoints" / "best.ckpt"
    try:
        return runs.read_resumable(path)
    except runs.RunError as error:
        if path == best or not best.is_file():
            raise
        again = command("train", run=run_dir, ckpt="best")
        raise runs.RunError(f"{error}. best.ckpt is there, to go on from: {again}") from None


def remove_leftovers(run_dir: Path) -> None:
    """Removes what a run wrote that was stopped before its first checkpoint."""
    for path in (run_dir / "metrics.csv", run_dir / "checkpoints" / "best.ckpt"):
        path.unlink(missing_ok=True)
    for path in (run_dir / "samples").glob("*_[0-9]*.*"):
        path.unlink()
