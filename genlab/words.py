"""The words of a command line as Hydra's grammar wants them: what a user types is meant as it is."""

from collections.abc import Mapping
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

__all__ = ["literal"]

TEXTS = {"source", "question", "prompt"}
PATHS = {"run", "ckpt", "input", "out", "data.path", "data.root", "hydra.run.dir", "hydra.sweep.dir"}


def literal(word: str) -> str:
    """A word of the command line, its value quoted where it is a text or path that Hydra's grammar would take apart.

    source="Well, [MASK] (or so)" reaches a program without its quotes. Lists stay lists, and label={author: 李白}, whose
    letters Hydra does not know, a mapping.
    """
    key, equals, value = word.partition("=")
    if not equals or key not in TEXTS | PATHS | {"label"}:
        return word
    try:
        parsed = OverridesParser.create().parse_override(word)
        if key not in TEXTS or (not parsed.is_sweep_override() and isinstance(parsed.value(), str | list | None)):
            return word
    except HydraException:
        if key == "label":
            try:
                value = yaml.safe_load(value)
            except yaml.YAMLError:
                return word
    return f"{key}={_quoted(value)}"


def _quoted(value: Any) -> str:
    """A YAML value in Hydra's grammar, its texts in quotes."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_quoted(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_quoted, value)) + "]"
    if isinstance(value, str):  # `${` would be an interpolation in quotes, too
        return QuotedString(value.replace("${", "\\${"), Quote.single).with_quotes()
    return str(value)
