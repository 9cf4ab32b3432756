"""YAML that somebody else may have written, read as plain data, with limits.

What comes out holds None, bool, int, float, str, list and dict alone. It is a tree: an alias is a
copy, and counts as one.
"""

from pathlib import Path
from typing import Any

import yaml

from genlab.errors import RunError
from genlab.reading import read_text

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_NODES", "PlainError", "parse_yaml", "read_yaml"]

MAX_BYTES = 8_000_000
MAX_DEPTH = 40  # a run's config has a depth of about 6
MAX_NODES = 100_000  # values and containers, those of aliases counted at each place
MAX_DIGITS = 400
TYPES = (
    "null",
    "bool",
    "int",
    "float",
    "merge",
)  # that a word without quotes can have, besides text


class PlainError(ValueError):
    """A text that is not plain data, or is beyond the limits; the message says what and, where
    known, at which line.
    """


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """YAML's own types without dates, which JSON and a command line do not have."""

    def construct_scalar(self, node: yaml.Node) -> str:
        is_number = node.tag.rpartition(":")[2] in ("int", "float")
        if (
            is_number and len(node.value) > MAX_DIGITS
        ):  # to read it takes time that grows with its length squared
            raise PlainError(
                f"line {node.start_mark.line + 1}: a number of more than {MAX_DIGITS} digits"
            )
        return super().construct_scalar(node)


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in found if tag.rpartition(":")[2] in TYPES]
    for letter, found in _Loader.yaml_implicit_resolvers.items()
}


def read_yaml(path: str | Path) -> Any:
    """The plain data of a YAML file.

    Args:
        path: A regular file in UTF-8; a named pipe or a device is not opened.

    Raises:
        PlainError: The file cannot be read, is no YAML, holds anything but plain data, or is beyond
        the limits.
    """
    try:
        return parse_yaml(read_text(path, MAX_BYTES))
    except FileNotFoundError:
        raise PlainError(f"{path}: there is no such file") from None
    except PlainError as error:
        raise PlainError(f"{path}: {error}") from None
    except RunError as error:
        raise PlainError(str(error)) from None


def parse_yaml(text: str) -> Any:
    """The plain data of a YAML text. Raises PlainError as `read_yaml` does, without the file."""
    _limit_bytes(text)
    try:
        _limit_events(text)
        return _checked(yaml.load(text, _Loader))
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise PlainError(
            f"{where}not readable as YAML ({problem or str(error).splitlines()[0]})"
        ) from None
    except OverflowError as error:
        raise PlainError(f"not readable as YAML ({error})") from None


def _limit_bytes(text: str) -> None:
    if len(text) > MAX_BYTES:
        raise PlainError(f"larger than {MAX_BYTES // 1_000_000} MB")


def _limit_events(text: str) -> None:
    """Refuses what would grow in memory, before anything is made of it: "billion laughs", thousands
    of brackets.
    """
    count = 0
    sizes: dict[str, int] = {}  # of what an anchor names
    open_nodes: list[tuple[str | None, int]] = []  # anchor, count at its start
    for event in yaml.parse(text, _Loader):
        where = f"line {event.start_mark.line + 1}: "
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise PlainError(f"{where}alias *{event.anchor} of something that is not complete")
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
                raise PlainError(
                    f"{where}not readable as YAML (tag {event.tag}; expected plain data without tags)"
                )
            count += 1
        if len(open_nodes) > MAX_DEPTH:
            raise PlainError(f"{where}nested deeper than {MAX_DEPTH}")
        if count > MAX_NODES:
            raise PlainError(
                f"{where}more than {MAX_NODES:,} values, aliases counted at each place"
            )


def _checked(value: Any, depth: int = 0) -> Any:
    """`value` as a tree of its own: nothing in it is shared, and keys are text or numbers."""
    if depth > MAX_DEPTH:
        raise PlainError(f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str | int | float):
                raise PlainError(f"key {key!r}: expected text")
        return {key: _checked(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list):
        return [_checked(inner, depth + 1) for inner in value]
    return value
