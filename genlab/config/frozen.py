"""The config that a run directory was trained with, read as plain data."""

import re
from importlib.resources import files
from pathlib import Path

import yaml
from hydra.core.config_store import ConfigStore

from genlab.errors import ConfigError
from genlab.words import literal, quoted, value_of

__all__ = ["from_run", "read_frozen"]


def read_frozen(run: str | Path) -> dict:
    """The config that the run directory `run` was trained with, as plain containers.

    Its `allow` list is emptied and anything for Hydra itself is dropped: what comes out of a run directory may be
    somebody else's, and must not widen what can be built. Raises ConfigError where there is no readable config.
    """
    path = Path(run) / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"run={run}: there is no {path.name} in it; expected a directory that `genlab train` left")
    try:
        frozen = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not readable as YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(frozen, dict) or not isinstance(frozen.get("model"), dict):
        raise ConfigError(f"{path}: expected the config of a genlab run, with a 'model' in it")
    return {key: value for key, value in frozen.items() if key not in ("hydra", "defaults")} | {"allow": []}


def options(group: str) -> list[str]:
    """The names of what genlab ships for a config group."""
    entries = files("genlab.conf").joinpath(group).iterdir()
    return sorted(entry.name.removesuffix(".yaml") for entry in entries if entry.name.endswith(".yaml"))


def from_run(command: str, words: list[str]) -> tuple[str, list[str]]:
    """(config name, overrides to add) for a command line whose `words` may name a run with run=<dir>.

    `train run=` composes the run's frozen config itself; the other commands take its `data` as their default.
    """
    values = [value_of(literal(word)) for word in words if word.startswith("run=")]
    runs = [run for run in values if run is not None]
    if command == "train":
        if not runs:
            return "train", []
        if "-m" in words or "--multirun" in words:
            raise ConfigError("run= continues one run in place; it cannot be swept with -m")
        frozen = read_frozen(runs[-1])
        defaults = ["_self_", {"hydra": "default"}]
        ConfigStore.instance().store(name="resume", node={"defaults": defaults, **frozen})
        return "resume", [
            f"hydra.run.dir={quoted(str(Path(runs[-1]).absolute()))}",
            "hydra.output_subdir=null",
            "hydra.job.name=train",
        ]
    frozen = read_frozen(runs[-1]) if runs else {}
    ConfigStore.instance().store(group="data", name="of_run", node=frozen.get("data", {}))
    if command == "eval":
        for name in options("data"):  # every data set may also be the one that is told from the run's: ood=<name>
            ConfigStore.instance().store(group="ood", name=name, node={"defaults": [{"/data@_here_": name}]})
    name = re.sub(r"\W", "_", str(frozen.get("name")))
    return command, [f"name={name}"] if runs else []
