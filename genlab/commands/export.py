"""`genlab export run=<dir> out=<dir>`: a trained run in the format of another library."""

from pathlib import Path

from genlab import config, runs
from genlab.commands.eval import require_run, require_verb

__all__ = ["run"]


def run(cfg, run_dir: Path, overrides: list[str], sweep: bool = False) -> None:
    """Writes the files of `format` into `out`, by the verb `export` of the run's system; prints where."""
    settings = config.resolve(cfg)
    run_path = require_run(settings, "export")
    system = runs.load(run_path, settings["ckpt"], settings["weights"], "cpu", settings["allow"])
    require_verb(system, "export")
    wanted, known = settings["format"], system.formats
    if wanted not in known:
        raise config.ConfigError(f"format={wanted}: expected {' or '.join(known)}.{config.closest(str(wanted), known)}")
    out = Path(settings["out"] or run_dir)
    if out.is_file() or (out / "config.json").exists() or (out / "config.yaml").exists():
        raise config.ConfigError(f"out={out}: there is a file, a model or a run there already; name another directory")
    for name in system.export(str(out), wanted):
        print(f"{wanted}  {out / name}")
