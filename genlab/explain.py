"""Rewords Hydra's errors about a command line: one or two lines, with the closest key or option."""

import argparse
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.initialize import initialize_config_module
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from genlab.config import closest, flatten
from genlab.config.renamed import ARGUMENTS, OPTIONS, unit_note
from genlab.overrides import key_of

__all__ = ["explain"]

# Options that come with an extra of the package: group/option -> extra
EXTRAS = {
    "hydra/launcher/joblib": "joblib",
    "hydra/launcher/ray": "ray",
    "hydra/launcher/submitit_local": "slurm",
    "hydra/launcher/submitit_slurm": "slurm",
    "hydra/sweeper/optuna": "optuna",
}

# Options of features=, which earlier versions called metrics=
FEATURES = ("auto", "classifier", "inception", "random")


def explain(error: Exception, command: str, words: Sequence[str] = ()) -> str:
    """The message for an error of Hydra, OmegaConf or YAML, with what the user may have meant.

    Args:
        error: What composing the config raised.
        command: train, sample, encode, eval or export.
        words: The command line behind the command.
    """
    text = f"{error}\n{error.__cause__ or ''}"
    if isinstance(error, YAMLError):
        return _unreadable(error)
    if match := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(match[1], command, words)
    if match := re.search(r"Could not (?:find|load) '([^']+)'", text):
        return _unknown_option(match[1], text)
    if "Config group override must be a string or a list" in text:
        return _group_without_option(words)
    if match := re.search(r"(\S+) appears more than once in the final defaults list", text):
        return (
            f"{match[1]} is chosen twice; to change a choice, write "
            "'- override /<group>: <option>' in the defaults list"
        )
    return text.partition("Config search path")[0].strip().replace("\n\n", "\n")


def _unreadable(error: YAMLError) -> str:
    mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
    if mark is None:
        return f"a config is not readable as YAML ({str(error).partition(chr(10))[0]})."
    where = f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}"
    return f"{where}: not readable as YAML ({error.problem})."


def _unknown_key(word: str, command: str, words: Sequence[str]) -> str:
    key = word.lstrip("+~")
    if "@" in key:
        # An `override /model:` in a file whose keys are not those of the whole config
        return (
            f"override /{key.partition('@')[0]}: the file that contains it needs the first line "
            "'# @package _global_'."
        )
    default = composed(command)
    try:
        config = composed(command, choices(words))
    except (HydraException, OmegaConfBaseException, ValueError):  # a choice is wrong, too
        config = default
    if today := renamed(key, command, config):
        note = unit_note(key.rpartition(".")[2])
        return f"there is no key '{key}'; it is now called {today}{note}"
    if key in keys_of(default):
        given = key in map(key_of, words)
        chosen = "a chosen config overrides it: choose another experiment= or model="
        cure = "leave it out" if given else chosen
        return f"{word}: the chosen recipe has no '{key}', so it cannot take effect; {cure}."
    hint = closest(key, keys_of(config))
    return f"there is no key '{key}'.{hint} 'genlab {command} --help' lists all."


def _unknown_option(path: str, text: str) -> str:
    group, _, option = path.rpartition("/")
    if group == "metrics" and option in FEATURES:
        return (
            f"metrics={option}: metrics= is a list of metrics; the network whose features are "
            f"compared is now features={option}"
        )
    listing = text.partition("Available options")[2].partition("Config search")[0]
    # Names that begin with _ are parts of other options.
    options = re.findall(r"^\t([^_\s]\S*)$", listing, re.MULTILINE)
    extra = EXTRAS.get(path)
    install = f" It comes with an extra: pip install 'genlab[{extra}]'."
    hint = install if extra else closest(option, options)
    # Hydra lists no options where one of a list of choices is wrong.
    listed = f" Options: {', '.join(options)}." if options else ""
    return f"unknown option {group}={option}.{hint}{listed}"


def _group_without_option(words: Sequence[str]) -> str:
    empty = [word.partition("=")[0] for word in words if re.fullmatch(r"\+*[\w/@]+=(null)?", word)]
    named = " or ".join(f"~{key.lstrip('+')}" for key in empty) or "~<group>"
    return f"{', '.join(empty)}: a group needs one of its options; to leave it out, type {named}"


def renamed(key: str, command: str, config: dict[str, Any]) -> str | None:
    """What to write today for a key of an earlier version; None if it never had another name.

    Args:
        key: Dotted.
        command: train, sample, encode, eval or export; a key without a dot is one of its options.
        config: The composed config, whose `_target_` beside the key says what the key belongs to.
    """
    parent, _, name = key.rpartition(".")
    if not parent:
        return OPTIONS.get(command, {}).get(name)
    node: Any = config
    for part in parent.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    target = node.get("_target_") if isinstance(node, dict) else None
    today = ARGUMENTS.get(target, {}).get(name)
    return f"'{parent}.{today}'" if today else None


@functools.cache
def composed(command: str, words: tuple[str, ...] = ()) -> dict[str, Any]:
    """A command's config with the overrides `words`, as plain containers."""
    GlobalHydra.instance().clear()
    with initialize_config_module("genlab.conf", version_base="1.3"):
        return OmegaConf.to_container(compose(command, list(words)))


def keys_of(config: dict[str, Any]) -> list[str]:
    """The dotted keys of a config: first the leaves, then the nodes above them."""
    leaves = [key for key in flatten(config) if not key.rpartition(".")[2].startswith("_")]
    nodes = {key.rsplit(".", i)[0] for key in leaves for i in range(1, key.count(".") + 1)}
    return leaves + sorted(nodes)


def choices(words: Sequence[str]) -> tuple[str, ...]:
    """The options that a command line chooses (one of each group), and its --config-dir."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd")
    own, rest = parser.parse_known_args(list(words))
    pairs = [word.partition("=") for word in rest if re.match(r"[\w/]+=[\w/,-]+$", word)]
    found = [
        f"{key}={value.split(',')[0]}" for key, _, value in pairs if not key.startswith("hydra")
    ]
    if own.config_dir:
        found.insert(0, f"hydra.searchpath=['file://{Path(own.config_dir).absolute()}']")
    return tuple(found)
