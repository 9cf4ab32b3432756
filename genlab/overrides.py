"""The words of a command line as Hydra's grammar wants them: what a user types is meant as it is."""

import os
import re
from collections.abc import Mapping
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

__all__ = ["key_of", "literal", "quoted", "value_of"]

TEXTS = ("source", "question", "prompt", "passages", "licence", "hydra.job.name")
# The last part of every key that holds a path (or a name on the Hub): data.path, model.init,
# ood.root, ...
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
LISTS = (
    "path",
    "val_path",
    "test_path",
    "extra_path",
)  # of these, the keys that take several paths, too
FOLDERS = (
    "hydra.run.dir",
    "hydra.sweep.dir",
)  # Hydra's own, in which ${...} is alive: hydra.run.dir='runs/${name}'


def key_of(word: str) -> str:
    """The key of an override, with or without + and ~ before it: data.path of +data.path=photos."""
    return word.lstrip("+~").partition("=")[0]


def literal(word: str, sweep: bool = False) -> str:
    """A word of the command line, its value quoted where it is a text or a path that Hydra would
    take apart.

    run=7, input="holiday, 2019" and source="Well, [MASK] (or so)" reach a program without their
    quotes. A list stays one where a key takes lists: of texts if each is quoted, passages='["one",
    "another"]', since a shell that took the quotes away leaves one text with commas. label={author:
    李白}, whose letters Hydra does not know, stays a mapping.

    Args:
        word: `key=value`, as it reached the program.
        sweep: whether the command has -m, so that out=a,b means two jobs.
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
    """The text that the value of a `literal` word stands for; None for null, and of a sweep its
    words as they are.
    """
    override = _parse(word)
    if override is None or override.is_sweep_override():
        return word.partition("=")[2]
    if override.value() is None:
        return None
    return re.sub(r"(\\*)\\\$\{", lambda match: match[1][::2] + "${", str(override.value()))


def quoted(value: Any) -> str:
    """A plain value in Hydra's grammar, its texts in quotes."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{quoted(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(quoted, value)) + "]"
    if isinstance(value, str):  # `${` would be an interpolation in quotes, too
        escaped = re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + "\\${", value)
        return QuotedString(escaped, Quote.single).with_quotes()
    return str(value)


def _text(key: str, value: str, override: Override | None) -> str:
    if _is_quoted(override):
        return f"{key}={value}"
    if key.lstrip("+") == "passages" and value.startswith("[") and value.endswith("]"):
        return f"{key}=[{quoted(value[1:-1].strip())}]" if value[1:-1].strip() else f"{key}=[]"
    return f"{key}={quoted(value)}"


def _path(key: str, value: str, override: Override | None) -> str:
    word, name = f"{key}={value}", key.lstrip("+")
    if (
        not os.path.exists(value) and override is not None
    ):  # a name that is there is meant, whatever else it could mean
        if _is_quoted(override) and not (
            isinstance(override.value(), list) and name.rpartition(".")[2] not in LISTS
        ):
            return word
        if isinstance(override.value(), list) and name.rpartition(".")[2] in LISTS:
            numbers = not all(isinstance(each, str) for each in override.value())
            return (
                f"{key}={quoted(yaml.load(value, yaml.BaseLoader))}" if numbers else word
            )  # which knows texts alone
        if name in FOLDERS and "${" in value:
            return word
    if override is not None and override.value() == value and "${" not in value:
        return (
            word  # as Hydra reads it already; so the names of a sweep's folders stay what they were
        )
    return f"{key}={quoted(value)}"


def _parse(word: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        return None


def _is_quoted(override: Override | None) -> bool:
    """Whether the value is a text in quotes, or a list of such."""
    if override is None:
        return False
    values = override._value if isinstance(override._value, list) else [override._value]
    return bool(values) and all(isinstance(each, QuotedString) for each in values)
