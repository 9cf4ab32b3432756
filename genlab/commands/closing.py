"""What `genlab train` does after the last step: evaluation, explorer and report, each a stage with
a state of its own.
"""

import os
from pathlib import Path
from typing import Any

from genlab import config, runs
from genlab.callbacks import loggers
from genlab.commands import eval as evaluation
from genlab.console import command, console
from genlab.export.explorer import explore
from genlab.report.html import PICTURES, write_report

__all__ = ["all_closed", "announce", "chosen_metric", "close_run", "finished_stages"]


def open_stages(settings: dict[str, Any], manifest: runs.Manifest) -> list[str]:
    """The stages behind training that `settings` ask for and that the run in the manifest has not
    finished.
    """
    asked = {"evaluation": settings["evaluate"], "explorer": settings.get("explorer", True)}
    wanted = [name for name, wish in asked.items() if wish]
    states = finished_stages(manifest)
    left = [name for name in wanted if name not in states]
    return [*left, "report"] if left or "report" not in states else []


def all_closed(settings: dict[str, Any], manifest: runs.Manifest) -> bool:
    """Whether nothing is left to do for the run."""
    return manifest.content.get("status") == "finished" and not open_stages(settings, manifest)


def finished_stages(manifest: runs.Manifest) -> dict[str, str]:
    """{stage: "finished"} of those that are; of a run from before stages were kept, as its files
    tell.
    """
    content, run_dir = manifest.content, manifest.path.parent
    measured = any(name.startswith("test/") for name in content.get("metrics", {}))
    there = {
        "evaluation": (run_dir / "eval" / "metrics.json").exists() and measured,
        "explorer": (run_dir / "explorer.html").exists() or "no_explorer" in content,
        "report": (run_dir / "report.html").exists(),
    }
    old = dict.fromkeys(there, "finished") if content.get("status") == "finished" else {}
    states = content.get("stages", old)
    return {
        name: state
        for name, state in states.items()
        if state == "finished" and there.get(name, True)
    }


def close_run(
    run_dir: Path, settings: dict[str, Any], manifest: runs.Manifest, trainer, system, data
) -> None:
    """Measures, explores and reports a trained run as far as that is not done yet, and says at last
    that it is finished.
    """
    stages = open_stages(settings, manifest)
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
    manifest.update(
        status="finished", stages=manifest.content.get("stages", {}) | {"report": "finished"}
    )


def _mark(manifest: runs.Manifest, stage: str, state: str) -> None:
    manifest.update(stages=manifest.content.get("stages", {}) | {stage: state})


def chosen_metric(name: str | None, metrics: dict[str, float]) -> float | None:
    """The value of `optimized_metric`; ConfigError where the run has none of that name."""
    if name is None:
        return None
    if name not in metrics:
        raise config.ConfigError(
            f"optimized_metric={name}: this run has {', '.join(metrics)}.{config.closest(name, metrics)}"
        )
    return metrics[name]


def announce(run_dir: Path, system, manifest: runs.Manifest, sweep: bool) -> None:
    """Says where everything is, and what to try next."""
    lines = [f"run directory  {run_dir}", f"report         {run_dir / 'report.html'}"]
    for kind in PICTURES:
        made = sorted((run_dir / "samples").glob(f"{kind}_*.png"))
        lines += [f"{kind:<15}{made[-1]}"] if made else []
    console().print("\n" + "\n".join(lines), soft_wrap=True)
    if sweep:
        return
    held_out = "test" if manifest.content["data"]["splits"]["test"]["count"] else "train"
    run = os.path.relpath(run_dir) if run_dir.is_relative_to(Path.cwd()) else str(run_dir)
    console().print(
        "try next\n  "
        + "\n  ".join(next_commands(run, system, manifest.content["steps"], held_out)),
        soft_wrap=True,
    )


def next_commands(run: str, system, steps: int, split: str = "test") -> list[str]:
    """What to try with a run trained for `steps` steps, as it is typed; `run`: its directory;
    split: one with examples.
    """
    tries = [command("sample", run=run, num=10_000 if system.modality == "point" else 64)]
    if system.modality == "text":
        what = (
            "question='...' passages='[\"...\", \"...\"]'"
            if system.codec.max_question
            else 'source="..."'
        )
        if hasattr(system, "condition") and system.writes_freely:
            what = "num=8"
        what = 'source="... [MASK] ..."' if getattr(system, "objective", "") == "mlm" else what
        tries = [command("sample", what, run=run), command("eval", run=run)]
    elif not hasattr(system, "sample"):
        tries = [command("encode", run=run, split=split, out="codes.npz")]
        if getattr(system, "invertible", True):
            tries.insert(0, command("sample", run=run, mode="reconstruct", num=16))
    elif hasattr(system, "encode"):
        mode = "interpolate" if system.modality == "point" else "walk"
        tries += [command("sample", run=run, mode=mode, num=16)]
        tries += [command("encode", run=run, split=split, out="codes.npz")]
    else:
        tries += [
            command("eval", run=run),
            command("train", f"trainer.max_steps={2 * steps}", run=run),
        ]
    return tries
