"""A config checked as a whole: every `_target_` bound to its signature, every argument to its annotation."""

import inspect
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from genlab.config.interpolation import resolve
from genlab.config.keys import closest
from genlab.config.registry import locate, targets
from genlab.errors import ConfigError

__all__ = ["parameters", "validate"]

DIRECTIVES = {"_target_", "_partial_", "_args_", "_recursive_", "_convert_"}


def parameters(target: Any) -> dict[str, inspect.Parameter]:
    """The named parameters of a class or function, through **kwargs up to the parents' constructors.

    What a library does with its **kwargs is not known: then a parameter of kind VAR_KEYWORD is among them, and no
    parameter of a parent is required.
    """
    foreign = not target.__module__.startswith("genlab.")
    classes = target.__mro__ if inspect.isclass(target) else [target]
    found: dict[str, inspect.Parameter] = {}
    for cls in classes:
        call = cls.__dict__.get("__init__") if inspect.isclass(cls) else cls
        if call is None:
            continue
        try:
            signature = list(inspect.signature(call).parameters.values())[inspect.isclass(cls) :]
        except (TypeError, ValueError):  # a C slot without a signature
            continue
        named = [p for p in signature if p.kind is not p.VAR_POSITIONAL and (foreign or p.kind is not p.VAR_KEYWORD)]
        if foreign and found:
            named = [p if p.kind is p.VAR_KEYWORD else p.replace(default=None) for p in named]
        found = {p.name: p for p in named} | found
        if not any(p.kind is p.VAR_KEYWORD for p in signature):
            break
    return found


def type_error(value: Any, annotation: Any) -> str | None:
    """Why `value` cannot be of the simple type `annotation`; None if it can, or if that is not checked."""
    options = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        if value in options:
            return None
        return f"expected one of {', '.join(map(str, options))}.{closest(str(value), map(str, options))}"
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        errors = [type_error(value, option) for option in options]
        return None if None in errors else errors[0]
    if annotation is types.NoneType:
        return None if value is None else "expected null"
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return None
    if annotation in (int, float, str, bool):
        if isinstance(value, annotation) and not (annotation is int and isinstance(value, bool)):
            return None
        return f"expected {annotation.__name__}"
    return None


def check_call(key: str, node: Mapping, supplied: Iterable[str], allow: Iterable[str]) -> Iterable[str]:
    """The errors in calling `node`'s target with its keys and the arguments `supplied` in code."""
    try:
        target = locate(node["_target_"], allow)
    except ConfigError as error:
        yield f"{key}: {error}"
        return
    known = parameters(target)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in known.values())
    known = {name: p for name, p in known.items() if p.kind is not p.VAR_KEYWORD}
    given = {name: value for name, value in node.items() if name not in DIRECTIVES}
    for name, value in given.items():
        if name not in known and open_ended:
            continue
        if name not in known:
            yield f"{key}.{name}: {node['_target_']} has no such argument.{closest(name, known)}"
        elif not isinstance(value, Mapping) and (why := type_error(value, known[name].annotation)):
            yield f"{key}.{name}={value}: {why}"
    if not node.get("_partial_") and not node.get("_args_"):
        for name, parameter in known.items():
            if parameter.default is parameter.empty and name not in given and name not in supplied:
                yield f"{key}.{name}: {node['_target_']} needs a value here ({key}.{name}=...)"


def validate(
    cfg: Mapping, supplied: Mapping[str, Iterable[str]] = types.MappingProxyType({}), keys: Iterable[str] | None = None
) -> None:
    """Binds every `_target_` of `cfg` to its signature; one ConfigError lists all that is wrong, with key paths.

    supplied: by key, the arguments that the command adds when it builds the node ("*" for the children of a key). keys:
    those that may be there at the top, None: any.
    """
    errors = [f"{key}: no such key.{closest(key, keys)}" for key in cfg if keys is not None and key not in keys]
    for key, node in targets(resolve(cfg)):
        parent = key.rpartition(".")[0]
        extra = [*supplied.get(key, ()), *(supplied.get(f"{parent}.*", ()))]
        errors += check_call(key, node, extra, cfg.get("allow") or ())
    if errors:
        raise ConfigError("\n  ".join([f"{len(errors)} error{'s' * (len(errors) > 1)} in the config:", *errors]))
