"""What Hydra says of a command line that does not compose, said again in one or two lines with the
closest key or option.
"""

import argparse
import functools
import re
from collections.abc import Sequence
from pathlib import Path

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.initialize import initialize_config_module
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from genlab.config import closest, flatten
from genlab.overrides import key_of

__all__ = ["explain"]

EXTRAS = {"hydra/launcher/joblib": "joblib", "hydra/launcher/ray": "ray", "hydra/launcher/submitit_slurm": "slurm",
          "hydra/launcher/submitit_local": "slurm", "hydra/sweeper/optuna": "optuna"}  # fmt: skip

FEATURES = ("auto", "classifier", "inception", "random")  # options that metrics= had


@functools.cache
def known_keys(command: str, words: tuple[str, ...] = ()) -> list[str]:
    """Every key of a command's config, dotted, groups and nodes included; of the recipe and groups
    that `words` choose.
    """
    GlobalHydra.instance().clear()
    with initialize_config_module("genlab.conf", version_base="1.3"):
        node = OmegaConf.to_container(compose(command, list(words)))
    keys = [key for key in flatten(node) if not key.rpartition(".")[2].startswith("_")]
    return keys + sorted(
        {key.rsplit(".", i)[0] for key in keys for i in range(1, key.count(".") + 1)}
    )


def chosen(words: Sequence[str]) -> tuple[str, ...]:
    """The choices of groups on a command line, one value each, and its --config-dir, as overrides."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd")
    own, rest = parser.parse_known_args(list(words))
    pairs = [word.partition("=") for word in rest if re.match(r"[\w/]+=[\w/,-]+$", word)]
    found = [
        f"{key}={value.split(',')[0]}" for key, _, value in pairs if not key.startswith("hydra")
    ]
    folder = (
        [f"hydra.searchpath=['file://{Path(own.config_dir).absolute()}']"] if own.config_dir else []
    )
    return (*folder, *found)


def explain(error: Exception, command: str, words: Sequence[str] = ()) -> str:
    """Hydra's, OmegaConf's or YAML's complaint about the command line `words`, shortened and with
    what was meant.
    """
    text = str(error) + "\n" + str(error.__cause__ or "")
    if isinstance(error, YAMLError):
        mark = getattr(error, "problem_mark", None)
        where = (
            f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}" if mark else "a config"
        )
        return f"{where}: not readable as YAML ({getattr(error, 'problem', None) or text.splitlines()[0]})."
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match[1].lstrip("+~")
        if (
            "@" in key
        ):  # an `override /model:` of a file whose keys are not those of the whole config
            return f"override /{key.partition('@')[0]}: the file with it needs the first line '# @package _global_'."
        try:
            keys = known_keys(command, chosen(words))
        except (HydraException, OmegaConfBaseException, ValueError):  # a choice is wrong, too
            keys = known_keys(command)
        if key in known_keys(command):  # of the default recipe
            given = key in map(key_of, words)
            cure = (
                "leave it out"
                if given
                else "a chosen config overrides it: choose another experiment= or model="
            )
            return (
                f"{match[1]}: the chosen recipe has no '{key}', so it cannot take effect; {cure}."
            )
        return f"there is no key '{key}'.{closest(key, keys)} 'genlab {command} --help' lists all."
    if match := re.search(r"Could not (?:find|load) '([^']+)'", text):
        group, _, option = match[1].rpartition("/")
        if group == "metrics" and option in FEATURES:  # the name of before
            return (
                f"metrics={option}: metrics= names what is measured; the network that images are "
                f"compared by is features={option}."
            )
        options = re.findall(
            r"^\t(\S+)$", text.partition("Available options")[2].partition("Config search")[0], re.M
        )
        extra = EXTRAS.get(match[1])
        hint = (
            f" It comes with an extra: pip install 'genlab[{extra}]'."
            if extra
            else closest(option, options)
        )
        listed = f" Options: {', '.join(options)}." if options else ""  # not of a list's
        return f"{group}={option} is not there.{hint}{listed}"
    if "Config group override must be a string or a list" in text:
        left_out = [
            word.partition("=")[0] for word in words if re.fullmatch(r"\+*[\w/@]+=(null)?", word)
        ]
        named = " or ".join(f"~{key.lstrip('+')}" for key in left_out) or "~<group>"
        return f"{', '.join(left_out)}: a group needs one of its options; to leave it out: {named}"
    if match := re.search(r"(\S+) appears more than once in the final defaults list", text):
        return f"{match[1]} is chosen twice; a defaults list changes what is chosen by '- override /<group>: <option>'."
    return text.partition("Config search path")[0].strip().replace("\n\n", "\n")
