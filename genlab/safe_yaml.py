"""YAML from an untrusted source, read as plain data with limits on size, depth and aliases.

The result holds None, bool, int, float, str, list and dict only. It is a tree: every alias becomes
a copy, and counts as one.
"""

from pathlib import Path
from typing import Any

import yaml

from genlab.errors import RunError
from genlab.reading import read_text

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_NODES", "YamlError", "parse_yaml", "read_yaml"]

MAX_BYTES = 8_000_000
MAX_DEPTH = 40  # the config of a run is about 6 deep
MAX_NODES = 100_000  # values and containers; an alias counts as often as it is used
MAX_DIGITS = 400
# The types that a word without quotes can have, besides text
TYPES = ("null", "bool", "int", "float", "merge")


class YamlError(ValueError):
    """A text that is not plain data or is beyond the limits; names the line where it is known."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """YAML's own types without dates, which JSON and a command line do not have."""

    def construct_scalar(self, node: yaml.Node) -> str:
        is_number = node.tag.rpartition(":")[2] in ("int", "float")
        # Parsing an int takes time that grows with the square of its length.
        if is_number and len(node.value) > MAX_DIGITS:
            line = node.start_mark.line + 1
            raise YamlError(f"line {line}: a number of more than {MAX_DIGITS} digits")
        return super().construct_scalar(node)


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in found if tag.rpartition(":")[2] in TYPES]
    for letter, found in _Loader.yaml_implicit_resolvers.items()
}


def read_yaml(path: str | Path) -> Any:
    """Read the plain data of a YAML file.

    Args:
        path: A regular file in UTF-8; a named pipe or a device is not opened.

    Raises:
        YamlError: The file cannot be read, is not YAML, holds anything but plain data, or is beyond
            the limits. The message names the file.
    """
    try:
        return parse_yaml(read_text(path, MAX_BYTES))
    except FileNotFoundError:
        raise YamlError(f"{path}: the file does not exist") from None
    except YamlError as error:
        raise YamlError(f"{path}: {error}") from None
    except RunError as error:
        raise YamlError(str(error)) from None


def parse_yaml(text: str) -> Any:
    """Parse a YAML text into plain data.

    Raises:
        YamlError: As `read_yaml`, without the name of a file.
    """
    if len(text) > MAX_BYTES:
        raise YamlError(f"larger than {MAX_BYTES // 1_000_000} MB")
    try:
        _limit_events(text)
        return _copy_tree(yaml.load(text, _Loader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        where = f"line {mark.line + 1}: " if mark else ""
        raise YamlError(f"{where}not readable as YAML ({problem})") from None
    except OverflowError as error:
        raise YamlError(f"not readable as YAML ({error})") from None


def _limit_events(text: str) -> None:
    """Refuse what would grow in memory before any object is made of it.

    Examples are nested aliases ("billion laughs") and thousands of opening brackets.
    """
    count = 0
    sizes: dict[str, int] = {}  # anchor -> number of nodes below it
    open_nodes: list[tuple[str | None, int]] = []  # (anchor, count at its start)
    for event in yaml.parse(text, _Loader):
        where = f"line {event.start_mark.line + 1}: "
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise YamlError(f"{where}alias *{event.anchor} of something that is not complete")
            count += sizes[event.anchor]
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, start = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = count - start
        elif isinstance(event, yaml.NodeEvent):
            if isinstance(event, yaml.CollectionStartEvent):
                open_nodes.append((event.anchor, count))
            elif event.anchor is not None:
                sizes[event.anchor] = 1
            if event.tag is not None:
                raise YamlError(f"{where}not readable as YAML (tag {event.tag}; tags are not read)")
            count += 1
        if len(open_nodes) > MAX_DEPTH:
            raise YamlError(f"{where}nested deeper than {MAX_DEPTH}")
        if count > MAX_NODES:
            raise YamlError(f"{where}more than {MAX_NODES:,} values (each use of an alias counts)")


def _copy_tree(value: Any, depth: int = 0) -> Any:
    """`value` as a tree in which no container is shared and keys are text or numbers."""
    if depth > MAX_DEPTH:
        raise YamlError(f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str | int | float):
                raise YamlError(f"key {key!r}: expected text")
        return {key: _copy_tree(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list):
        return [_copy_tree(inner, depth + 1) for inner in value]
    return value
