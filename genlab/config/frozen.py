"""The config that a run directory was trained with, read as plain data."""

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore

from genlab.config.bases import hide_bases, is_base
from genlab.config.interpolation import escape
from genlab.config.registry import check_forms
from genlab.config.renamed import with_new_names
from genlab.config.resume import refuse_groups
from genlab.errors import ConfigError, RunError
from genlab.files import refuse_links
from genlab.overrides import literal, quoted, value_of
from genlab.reading import parse_json
from genlab.safe_yaml import YamlError, read_yaml

__all__ = ["from_run", "parse_frozen", "read_frozen"]

SECTIONS = ("model", "net", "loss", "penalty", "augment", "data", "trainer", "callbacks", "logger")


def read_frozen(run: str | Path) -> dict:
    """Read the config that the run directory `run` was trained with, as plain containers.

    The directory may come from somebody else. So `${` in the config is text, its `allow` list is
    emptied, and the keys that Hydra would act on are dropped. Names of earlier versions become
    today's names.

    Args:
        run: A run directory, or the directory of an export.

    Raises:
        ConfigError: The config is missing or not readable, is beyond the limits of
            genlab.safe_yaml, or has a section or node of the wrong form.
    """
    path = Path(run) / "config.yaml"
    if not path.is_file():
        if path.with_name("manifest.json").exists():
            raise ConfigError(
                f"run={run}: the run was stopped before {path.name} was written; "
                "start it again with its original command"
            )
        raise ConfigError(
            f"run={run}: no {path.name} there; expected a directory written by `genlab train`"
        )
    try:
        return _clean(read_yaml(path))
    except YamlError as error:
        raise ConfigError(str(error)) from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse_frozen(text: str) -> dict:
    """Parse the config of a run from its JSON; otherwise as `read_frozen`."""
    try:
        return _clean(parse_json(text, dict, "model.condition.run_config"))
    except RunError as error:
        raise ConfigError(str(error)) from None


def _clean(config: Any) -> dict:
    """Check the form of a run's config, give it today's names, and drop what Hydra would act on."""
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise ConfigError("model: missing; expected the config of a genlab run")
    for name in SECTIONS:
        if not isinstance(config.get(name), dict | None):
            raise ConfigError(f"{name}: expected a mapping or null")
    if "_target_" not in config["model"] or config["model"].get("_partial_"):
        raise ConfigError("model: expected a mapping with _target_ and without _partial_")
    check_forms(config)
    config = with_new_names(config)
    kept = {key: value for key, value in config.items() if key not in ("hydra", "defaults")}
    return _without_defaults(kept) | {"allow": []}


def _without_defaults(node: dict) -> dict:
    """`node` without the `defaults` of its sections: Hydra would compose those configs into it."""
    return {
        key: {name: inner for name, inner in value.items() if name != "defaults"}
        if isinstance(value, dict)
        else value
        for key, value in node.items()
    }


def options(group: str) -> list[str]:
    """The names of the options that genlab ships for a config group."""
    entries = files("genlab.conf").joinpath(group).iterdir()
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in entries
        if entry.name.endswith(".yaml") and not is_base(entry.name)
    )


def from_run(command: str, words: list[str]) -> tuple[str, list[str]]:
    """Prepare Hydra for a command line that may name a run with `run=<dir>`.

    `train run=<dir>` composes the config of that run itself. The other commands take the `data` of
    the run as their default.

    Args:
        command: train, sample, encode, eval or export.
        words: The rest of the command line.

    Returns:
        (name of the config to compose, overrides to add).
    """
    hide_bases()
    values = [value_of(literal(word)) for word in words if word.startswith("run=")]
    runs = [run for run in values if run is not None]
    if command == "train":
        return _resume(runs[-1], words) if runs else ("train", [])
    frozen = read_frozen(runs[-1]) if runs else {}
    store = ConfigStore.instance()
    store.store(group="data", name="of_run", node=escape(frozen.get("data") or {}))
    if command == "eval":
        # ood=<name> takes any data set to compare with the run's own.
        for name in options("data"):
            store.store(group="ood", name=name, node={"defaults": [{"/data@_here_": name}]})
    name = re.sub(r"\W", "_", str(frozen.get("name")))[:80]
    return command, [f"name={name}"] if runs else []


def _resume(run: str, words: list[str]) -> tuple[str, list[str]]:
    """As `from_run`, for `train run=<dir>`: the config of the run is stored under "resume"."""
    if "-m" in words or "--multirun" in words:
        raise ConfigError("run=: continues one run in place and cannot be swept; leave out -m")
    refuse_links(run)
    frozen = read_frozen(run) | {"run": None, "ckpt": "last"}
    refuse_groups(words, frozen, run)
    defaults = ["_self_", {"hydra": "default"}]
    ConfigStore.instance().store(name="resume", node={"defaults": defaults, **escape(frozen)})
    return "resume", [
        f"hydra.run.dir={quoted(str(Path(run).absolute()))}",
        "hydra.output_subdir=null",
        "hydra.job.name=train",
    ]
