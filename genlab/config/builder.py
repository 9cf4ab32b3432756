"""Build objects from checked configs."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from genlab.config.blame import blame
from genlab.config.interpolation import resolve
from genlab.config.registry import arguments, check_added, check_forms, locate, targets

__all__ = ["PARTS", "build", "build_system"]

PARTS = ("net", "loss", "penalty", "augment")  # the groups that are arguments of the system


def build(node: Mapping, allow: Iterable[str] = (), **kwargs: Any) -> Any:
    """Build the object that `node` describes, nested nodes first.

    A mapping with `_target_` is a call of that class, and its other keys are the arguments. With
    `_partial_: true` the result is a functools.partial; `_args_` is a list of positional arguments.
    Every other value stays as it is.

    Args:
        node: A node of a config, plain or composed.
        allow: Names and packages allowed besides the registry; see genlab.config.registry.
        kwargs: Arguments added to the outermost call.

    Raises:
        ConfigError: A target is not allowed or does not exist, a node has the wrong form, or a
            constructor fails on its arguments. A ValueError that names its key, and genlab's own
            error types, pass unchanged.
    """
    with blame(str(node.get("_target_"))):
        return _build(node, allow, **kwargs)


def build_system(cfg: Mapping, allow: Iterable[str] = ()) -> Any:
    """Build the system of `cfg.model` with those of PARTS that the config has.

    Args:
        cfg: The whole config of a run.
        allow: As of `build`.

    Raises:
        ConfigError: As `build`; the message begins with `model` or the name of the part.
    """
    parts = {}
    for name in PARTS:
        if cfg.get(name) is not None:
            with blame(name):
                parts[name] = _build(cfg[name], allow)
    with blame("model"):
        return _build(cfg["model"], allow, **parts)


def _build(node: Mapping, allow: Iterable[str], **kwargs: Any) -> Any:
    node = resolve(node)
    check_forms(node)
    check_added(node, kwargs)
    # Every target is checked before the first one is built.
    for _, inner in targets(node):
        locate(inner["_target_"], allow)
    return _call(node, allow, kwargs)


def _call(node: Any, allow: Iterable[str], kwargs: Mapping[str, Any]) -> Any:
    """Build a checked node; `kwargs` replace keys of the same name."""
    if isinstance(node, list):
        return [_call(inner, allow, {}) for inner in node]
    if not isinstance(node, Mapping):
        return node
    values = {key: _call(value, allow, {}) for key, value in node.items() if key not in kwargs}
    values.update(kwargs)
    if "_target_" not in values:
        return values
    target = locate(values["_target_"], allow)
    positional = values.get("_args_", [])
    options = arguments(values)
    if values.get("_partial_"):
        return partial(target, *positional, **options)
    return target(*positional, **options)
