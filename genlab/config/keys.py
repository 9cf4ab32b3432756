"""Dotted keys of a config: find the closest known key, list all leaves of nested mappings."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["closest", "flatten"]


def closest(word: str, words: Iterable[str], cutoff: float = 0.6) -> str:
    """Suggest the closest of `words` for a word that is not known.

    Args:
        word: What the user wrote.
        words: What is known.
        cutoff: The least similarity, from 0 to 1.

    Returns:
        " Did you mean 'x'?" with a space in front, or "" if nothing is similar enough.
    """
    words = list(words)
    match = difflib.get_close_matches(word, words, 1, cutoff)
    if not match and "." not in word:
        # A name without a path is compared with the last parts of dotted keys.
        leaves = {w.rsplit(".", 1)[-1]: w for w in reversed(words)}
        match = [leaves[leaf] for leaf in difflib.get_close_matches(word, leaves, 1)]
    return f" Did you mean '{match[0]}'?" if match else ""


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested mappings under dotted keys; an empty mapping is a leaf, too."""
    if not isinstance(node, Mapping) or (prefix and not node):
        return {prefix: node}
    leaves: dict[str, Any] = {}
    for key, value in node.items():
        leaves |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return leaves
