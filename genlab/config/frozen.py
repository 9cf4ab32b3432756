"""The config that a run directory was trained with, read as plain data."""

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore

from genlab.config.interpolation import escape
from genlab.config.registry import check_forms
from genlab.config.renamed import with_new_names
from genlab.config.resume import refuse_groups
from genlab.errors import ConfigError, RunError
from genlab.files import refuse_links
from genlab.overrides import literal, quoted, value_of
from genlab.plain import PlainError, read_yaml
from genlab.reading import parse_json

__all__ = ["from_run", "parse_frozen", "read_frozen"]

SECTIONS = ("model", "net", "loss", "penalty", "augment", "data", "trainer", "callbacks", "logger")


def read_frozen(run: str | Path) -> dict:
    """The config that the run directory `run` was trained with, as plain containers.

    It may be somebody else's. So `${` in it is text, its `allow` list is emptied, and whatever
    Hydra would act on is dropped.

    Args:
        run: A run directory, or the directory of an export.

    Raises:
        ConfigError: There is no config that can be read, it is beyond the limits of genlab.plain,
            or a section or a node has the wrong form.
    """
    path = Path(run) / "config.yaml"
    if not path.is_file():
        if path.with_name("manifest.json").exists():
            raise ConfigError(
                f"run={run}: the run was stopped before its {path.name} was written; type its command again"
            )
        raise ConfigError(
            f"run={run}: there is no {path.name} in it; expected a directory that `genlab train` left"
        )
    try:
        return _frozen(read_yaml(path))
    except PlainError as error:
        raise ConfigError(str(error)) from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse_frozen(text: str) -> dict:
    """The config of a run out of its JSON, as `read_frozen` gives it."""
    try:
        return _frozen(parse_json(text, dict, "model.condition.run_config"))
    except RunError as error:
        raise ConfigError(str(error)) from None


def _frozen(config: Any) -> dict:
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise ConfigError("expected the config of a genlab run, with a 'model' in it")
    for name in SECTIONS:
        if not isinstance(config.get(name), dict | None):
            raise ConfigError(f"{name}: expected a mapping or null")
    if "_target_" not in config["model"] or config["model"].get("_partial_"):
        raise ConfigError("model: expected a config with _target_, and without _partial_")
    check_forms(config)
    config = with_new_names(config)
    kept = {key: value for key, value in config.items() if key not in ("hydra", "defaults")}
    return _without_defaults(kept) | {"allow": []}


def _without_defaults(node: dict) -> dict:
    """`node` without the `defaults` of its sections, which Hydra would take for a list of configs
    to add.
    """
    return {
        key: {name: inner for name, inner in value.items() if name != "defaults"}
        if isinstance(value, dict)
        else value
        for key, value in node.items()
    }


def options(group: str) -> list[str]:
    """The names of what genlab ships for a config group."""
    entries = files("genlab.conf").joinpath(group).iterdir()
    return sorted(
        entry.name.removesuffix(".yaml") for entry in entries if entry.name.endswith(".yaml")
    )


def from_run(command: str, words: list[str]) -> tuple[str, list[str]]:
    """(config name, overrides to add) for a command line whose `words` may name a run with
    run=<dir>.

    `train run=` composes the run's frozen config itself; the other commands take its `data` as
    their default.
    """
    values = [value_of(literal(word)) for word in words if word.startswith("run=")]
    runs = [run for run in values if run is not None]
    if command == "train":
        if not runs:
            return "train", []
        if "-m" in words or "--multirun" in words:
            raise ConfigError("run= continues one run in place; it cannot be swept with -m")
        refuse_links(runs[-1])
        frozen = read_frozen(runs[-1]) | {"run": None, "ckpt": "last"}
        refuse_groups(words, frozen, runs[-1])
        defaults = ["_self_", {"hydra": "default"}]
        ConfigStore.instance().store(name="resume", node={"defaults": defaults, **escape(frozen)})
        return "resume", [
            f"hydra.run.dir={quoted(str(Path(runs[-1]).absolute()))}",
            "hydra.output_subdir=null",
            "hydra.job.name=train",
        ]
    frozen = read_frozen(runs[-1]) if runs else {}
    ConfigStore.instance().store(group="data", name="of_run", node=escape(frozen.get("data") or {}))
    if command == "eval":
        for name in options(
            "data"
        ):  # every data set may also be the one that is told from the run's: ood=<name>
            ConfigStore.instance().store(
                group="ood", name=name, node={"defaults": [{"/data@_here_": name}]}
            )
    name = re.sub(r"\W", "_", str(frozen.get("name")))[:80]
    return command, [f"name={name}"] if runs else []
