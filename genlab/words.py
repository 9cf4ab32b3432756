"""The words of a command line as Hydra's grammar wants them: what a user types is meant as it is."""

from collections.abc import Mapping
from contextlib import suppress
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
    if key == "label":
        try:
            OverridesParser.create().parse_override(word)
        except HydraException:
            with suppress(yaml.YAMLError):
                return f"label={_quoted(yaml.safe_load(value))}"
        return word
    if not equals or key not in TEXTS | PATHS:
        return word
    try:
        parsed = OverridesParser.create().parse_override(word)
        taken = key in TEXTS and (parsed.is_sweep_override() or not isinstance(parsed.value(), str | list | None))
    except HydraException:
        taken = True
    return f"{key}={QuotedString(value.replace('${', chr(92) + '${'), Quote.single).with_quotes()}" if taken else word


def _quoted(value: Any) -> str:
    """A YAML value in Hydra's grammar, its texts in quotes."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_quoted(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_quoted, value)) + "]"
    return QuotedString(value, Quote.single).with_quotes() if isinstance(value, str) else str(value)
