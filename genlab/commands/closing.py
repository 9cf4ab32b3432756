"""What `genlab train` does after the last step: evaluation, explorer and report.

Each is a stage with a state of its own in the manifest, so that a run that was stopped in one of
them resumes there.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genlab import config, runs
from genlab.callbacks import loggers
from genlab.commands import eval as evaluation
from genlab.commands.job import Job
from genlab.console import command, console
from genlab.errors import ConfigError
from genlab.export.explorer import explore
from genlab.report.html import PICTURES, write_report
from genlab.systems.base import Encodes, HasConditions, Pretrained, Samples, System, reconstructs

__all__ = [
    "chosen_metric",
    "close_run",
    "find_finished_stages",
    "is_closed",
    "next_commands",
    "print_results",
]


def close_run(job: Job, trainer, system: System, data) -> None:
    """Runs the stages after training that are not finished; sets the status to finished at last."""
    manifest = job.manifest
    settings = job.settings
    run_dir = job.run_dir
    stages = _open_stages(settings, manifest)
    if "evaluation" in stages:
        _mark(manifest, "evaluation", "running")
        try:
            chosen = {key: settings[key] for key in ("metrics", "features") if settings.get(key)}
            results = evaluation.measure(run_dir, data, allow=settings["allow"], **chosen)
        except Exception:
            _mark(manifest, "evaluation", "failed")
            raise
        measured = {f"test/{name}": entry["value"] for name, entry in results.items()}
        manifest.update(metrics=manifest.content.get("metrics", {}) | measured)
        pictures = sorted((run_dir / "eval").glob("*.png"))
        loggers.finish(trainer.loggers, measured, pictures, manifest.content["steps"])
        _mark(manifest, "evaluation", "finished")
    if "explorer" in stages:
        reason = explore(run_dir, data, settings["allow"]) if system.modality == "image" else None
        manifest.update(no_explorer=reason)
        _mark(manifest, "explorer", "finished")
    if "report" in stages:
        write_report(run_dir, status="finished")
    states = manifest.content.get("stages", {})
    manifest.update(status="finished", stages=states | {"report": "finished"})


def _mark(manifest: runs.Manifest, stage: str, state: str) -> None:
    manifest.update(stages=manifest.content.get("stages", {}) | {stage: state})


def _open_stages(settings: Mapping[str, Any], manifest: runs.Manifest) -> list[str]:
    """The stages that `settings` ask for and that are not finished; the report is the last."""
    chosen = {"evaluation": settings["evaluate"], "explorer": settings.get("explorer", True)}
    finished = find_finished_stages(manifest)
    stages = [name for name, wanted in chosen.items() if wanted and name not in finished]
    if stages or "report" not in finished:
        stages.append("report")
    return stages


def is_closed(settings: Mapping[str, Any], manifest: runs.Manifest) -> bool:
    """Whether a run is finished, with all stages that `settings` ask for."""
    return manifest.content.get("status") == "finished" and not _open_stages(settings, manifest)


def find_finished_stages(manifest: runs.Manifest) -> dict[str, str]:
    """{stage: "finished"} of the stages that are finished and whose files are there.

    The manifest of an older version has no stages: then the files alone decide.
    """
    content, run_dir = manifest.content, manifest.path.parent
    measured = any(name.startswith("test/") for name in content.get("metrics", {}))
    has_files = {
        "evaluation": (run_dir / "eval" / "metrics.json").exists() and measured,
        "explorer": (run_dir / "explorer.html").exists() or "no_explorer" in content,
        "report": (run_dir / "report.html").exists(),
    }
    older = dict.fromkeys(has_files, "finished") if content.get("status") == "finished" else {}
    states = content.get("stages", older)
    finished = [name for name, state in states.items() if state == "finished"]
    return {name: "finished" for name in finished if has_files.get(name, True)}


def chosen_metric(settings: Mapping[str, Any], manifest: runs.Manifest) -> float | None:
    """The value of optimized_metric=, if it is set; ConfigError if the run has no such metric."""
    name, metrics = settings["optimized_metric"], manifest.content.get("metrics", {})
    if name is None:
        return None
    if name not in metrics:
        hint = config.closest(name, metrics)
        raise ConfigError(f"optimized_metric={name}: this run has {', '.join(metrics)}.{hint}")
    return metrics[name]


def print_results(job: Job, system: System, sweep: bool) -> None:
    """Prints where the run's files are and, unless it is a job of a sweep, what to try next."""
    run_dir, content = job.run_dir, job.manifest.content
    lines = [f"run directory  {run_dir}", f"report         {run_dir / 'report.html'}"]
    for kind in PICTURES:
        pictures = sorted((run_dir / "samples").glob(f"{kind}_*.png"))
        if pictures:
            lines.append(f"{kind:<15}{pictures[-1]}")
    console().print("\n" + "\n".join(lines), soft_wrap=True)
    if sweep:
        return
    split = "test" if content["data"]["splits"]["test"]["count"] else "train"
    run = os.path.relpath(run_dir) if run_dir.is_relative_to(Path.cwd()) else str(run_dir)
    commands = next_commands(run, system, content["steps"], split)
    console().print("\n  ".join(["try next", *commands]), soft_wrap=True)


def next_commands(run: str, system: System, steps: int, split: str = "test") -> list[str]:
    """What to try with a trained run, as it is typed.

    Args:
        run: Its directory.
        system: The trained system.
        steps: How many it was trained for.
        split: One that has examples.
    """
    if system.modality == "text":
        return [command("sample", _example_of_text(system), run=run), command("eval", run=run)]
    encode = command("encode", run=run, split=split, out="codes.npz")
    if not isinstance(system, Samples):
        reconstruct = command("sample", run=run, mode="reconstruct", num=16)
        return [reconstruct, encode] if reconstructs(system) else [encode]
    is_point = system.modality == "point"
    sample = command("sample", run=run, num=10_000 if is_point else 64)
    if isinstance(system, Encodes):
        mode = "interpolate" if is_point else "walk"
        return [sample, command("sample", run=run, mode=mode, num=16), encode]
    longer = command("train", f"trainer.max_steps={2 * steps}", run=run)
    return [sample, command("eval", run=run), longer]


def _example_of_text(system) -> str:
    """What to give `genlab sample` of a text model."""
    if isinstance(system, Pretrained) and system.objective == "mlm":
        return 'source="... [MASK] ..."'
    if isinstance(system, HasConditions) and system.writes_freely:
        return "num=8"
    if system.codec.max_question:
        return "question='...' passages='[\"...\", \"...\"]'"
    return 'source="..."'
