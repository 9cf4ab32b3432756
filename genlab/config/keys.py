"""Dotted keys of a config: the closest known one, and all leaves of nested mappings."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["closest", "flatten"]


def closest(word: str, words: Iterable[str], cutoff: float = 0.6) -> str:
    """ " Did you mean 'x'?" for the closest of `words`, or nothing; cutoff: how like it has to be,
    of 1.
    """
    words = list(words)
    match = difflib.get_close_matches(word, words, 1, cutoff)
    if not match and "." not in word:  # a bare leaf name: compare with the leaves of dotted keys
        leaves = {w.rsplit(".", 1)[-1]: w for w in reversed(words)}
        match = [leaves[leaf] for leaf in difflib.get_close_matches(word, leaves, 1)]
    return f" Did you mean '{match[0]}'?" if match else ""


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested mappings under dotted keys."""
    if not isinstance(node, Mapping):
        return {prefix: node}
    items = {}
    for key, value in node.items():
        items |= {prefix: {}} if not value and isinstance(value, Mapping) else {}
        items |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return items
