"""Quotes the words of a command line, so that Hydra's grammar takes texts and paths literally."""

import os
import re
from collections.abc import Mapping
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

__all__ = ["key_of", "literal", "quoted", "value_of"]

# Keys whose value is a text
TEXTS = ("source", "question", "prompt", "passages", "licence", "hydra.job.name")
# The last part of every key whose value is a path or a name on the Hub: data.path, model.init, ...
PATHS = (
    "run",
    "ckpt",
    "input",
    "out",
    "path",
    "val_path",
    "test_path",
    "extra_path",
    "root",
    "vocab",
    "init",
    "weights_path",
)
# Those that also take a list of paths
LISTS = ("path", "val_path", "test_path", "extra_path")
# Hydra's own folders, in which ${...} is an interpolation: hydra.run.dir='runs/${name}'
FOLDERS = ("hydra.run.dir", "hydra.sweep.dir")


def key_of(word: str) -> str:
    """The key of an override without a + or ~ in front: data.path for +data.path=photos."""
    return word.lstrip("+~").partition("=")[0]


def literal(word: str, sweep: bool = False) -> str:
    """A word of the command line; its value is quoted if Hydra would take a text or path apart.

    So run=7, input="holiday, 2019" and source="Well, [MASK] (or so)" need no second pair of quotes.
    A list stays a list where the key takes one: a list of texts if each text is quoted,
    passages='["one", "another"]'. A mapping stays a mapping also with letters that Hydra's grammar
    does not have, as in label={author: 李白}.

    Args:
        word: `key=value` as the shell passed it.
        sweep: Whether the command has -m, so that out=a,b means two jobs.
    """
    key, equals, value = word.partition("=")
    name = key.lstrip("+")
    if not equals or key.startswith("~") or value in ("", "null", "???"):
        return word
    override = _parse(word)
    if sweep and override is not None and override.is_sweep_override():
        return word
    if name in TEXTS:
        return _text(key, value, override)
    if name in FOLDERS or name.rpartition(".")[2] in PATHS:
        return _path(key, value, override)
    if name == "label" and override is None:
        try:
            return f"{key}={quoted(yaml.safe_load(value))}"
        except yaml.YAMLError:
            return word
    return word


def value_of(word: str) -> str | None:
    """The text that the value of a `literal` word stands for.

    None for null; the values of a sweep are returned as they are typed.
    """
    override = _parse(word)
    if override is None or override.is_sweep_override():
        return word.partition("=")[2]
    if override.value() is None:
        return None
    return re.sub(r"(\\*)\\\$\{", lambda match: match[1][::2] + "${", str(override.value()))


def quoted(value: Any) -> str:
    """A plain value in Hydra's grammar, with its texts in quotes."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{quoted(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(quoted, value)) + "]"
    if isinstance(value, str):
        # `${` would be an interpolation even inside quotes.
        escaped = re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + "\\${", value)
        return QuotedString(escaped, Quote.single).with_quotes()
    return str(value)


def _text(key: str, value: str, override: Override | None) -> str:
    if _is_quoted(override):
        return f"{key}={value}"
    if key.lstrip("+") == "passages" and value.startswith("[") and value.endswith("]"):
        # The shell removed the quotes, so this is one text, whatever commas it has.
        passage = value[1:-1].strip()
        return f"{key}=[{quoted(passage)}]" if passage else f"{key}=[]"
    return f"{key}={quoted(value)}"


def _path(key: str, value: str, override: Override | None) -> str:
    word = f"{key}={value}"
    name = key.lstrip("+")
    takes_list = name.rpartition(".")[2] in LISTS
    # A file that exists is meant, whatever else its name could mean.
    if override is not None and not os.path.exists(value):
        is_list = isinstance(override.value(), list)
        if _is_quoted(override) and (takes_list or not is_list):
            return word
        if is_list and takes_list:
            if all(isinstance(each, str) for each in override.value()):
                return word
            # Hydra reads 2019 in a list as a number; BaseLoader reads every value as text.
            return f"{key}={quoted(yaml.load(value, yaml.BaseLoader))}"
        if name in FOLDERS and "${" in value:
            return word
    if override is not None and override.value() == value and "${" not in value:
        return word  # without quotes, which would change the folder names of a sweep
    return f"{key}={quoted(value)}"


def _parse(word: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        return None


def _is_quoted(override: Override | None) -> bool:
    """Whether the value is a text in quotes, or a list of such texts."""
    if override is None:
        return False
    values = override._value if isinstance(override._value, list) else [override._value]
    return bool(values) and all(isinstance(each, QuotedString) for each in values)
