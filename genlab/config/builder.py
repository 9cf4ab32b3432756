"""Objects out of checked configs."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from genlab.config.blame import blame
from genlab.config.interpolation import resolve
from genlab.config.registry import arguments, check_added, check_forms, locate, targets

__all__ = ["PARTS", "build", "build_system"]

PARTS = ("net", "loss", "penalty", "augment")  # groups that are arguments of the system


def build(node: Mapping, allow: Iterable[str] = (), **kwargs: Any) -> Any:
    """The object that `node` describes, nested nodes first.

    A mapping with `_target_` is a call of that class with its other keys as arguments: with
    `_partial_: true` a functools.partial of it, with `_args_` a list of arguments without names.
    Everything else is itself.

    Args:
        node: Of a config, plain or composed.
        allow: Names and packages besides the registry; see genlab.config.registry.
        kwargs: Added to the outermost call.

    Raises:
        ConfigError: A target is not allowed or not there, the form of a node is wrong, or a
            constructor fails for what it was given. A ValueError that names its key, and errors of
            genlab's own kinds, come through as they are.
    """
    with blame(str(node.get("_target_"))):
        return _build(node, allow, **kwargs)


def _build(node: Mapping, allow: Iterable[str], **kwargs: Any) -> Any:
    node = resolve(node)
    check_forms(node)
    check_added(node, kwargs)
    for _, inner in targets(node):
        locate(inner["_target_"], allow)
    return _made(node, allow, kwargs)


def _made(node: Any, allow: Iterable[str], kwargs: Mapping[str, Any]) -> Any:
    """`node` of `build`, checked."""
    if isinstance(node, list):
        return [_made(inner, allow, {}) for inner in node]
    if not isinstance(node, Mapping):
        return node
    values = {
        key: _made(value, allow, {}) for key, value in node.items() if key not in kwargs
    } | kwargs
    if "_target_" not in values:
        return values
    call = locate(values["_target_"], allow)
    args = values.get("_args_", [])
    options = arguments(values)
    return partial(call, *args, **options) if values.get("_partial_") else call(*args, **options)


def build_system(cfg: Mapping, allow: Iterable[str] = ()) -> Any:
    """The system of `cfg.model`, handed those of PARTS that the config has."""
    parts = {}
    for name in PARTS:
        if cfg.get(name) is not None:
            with blame(name):
                parts[name] = _build(cfg[name], allow)
    with blame("model"):
        return _build(cfg["model"], allow, **parts)
