"""Check a config as a whole: every `_target_` against its signature, every argument against its
annotation.
"""

import inspect
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from genlab.config.interpolation import resolve
from genlab.config.keys import closest
from genlab.config.registry import arguments, form_errors, locate, targets
from genlab.config.renamed import ARGUMENTS, unit_note
from genlab.config.types import mismatches
from genlab.errors import ConfigError
from genlab.ranges import Decay, NonNegativeFloat

__all__ = [
    "check_arguments",
    "find_errors",
    "join_errors",
    "missing_arguments",
    "parameters",
    "validate",
]

# Arguments of torch's optimisers, whose own annotations have no ranges
OPTIMIZER = {
    "lr": NonNegativeFloat,
    "betas": tuple[Decay, Decay],
    "alpha": Decay,
    "rho": Decay,
    "eps": NonNegativeFloat,
    "weight_decay": NonNegativeFloat,
    "momentum": NonNegativeFloat,
}


def parameters(target: Any) -> dict[str, inspect.Parameter]:
    """The named parameters of a class or function, followed through **kwargs to its parents.

    Where the code of a library has **kwargs, what it does with them is not known. Then the result
    has a parameter of kind VAR_KEYWORD, and no parameter of a parent is required. The annotation
    `**options: Unpack[Options]` stands for the keys of the TypedDict Options.

    Args:
        target: A class or a function.

    Returns:
        Name -> parameter.
    """
    foreign = not target.__module__.startswith("genlab.")
    is_class = inspect.isclass(target)
    found: dict[str, inspect.Parameter] = {}
    for cls in target.__mro__ if is_class else [target]:
        call = cls.__dict__.get("__init__") if is_class else cls
        if call is None:
            continue
        try:
            signature = list(_signature(call).parameters.values())
        except (TypeError, ValueError):  # a C slot without a signature
            continue
        if is_class:
            signature = signature[1:]  # without self
        named = [
            p
            for p in signature
            if p.kind is not p.VAR_POSITIONAL and (foreign or p.kind is not p.VAR_KEYWORD)
        ]
        if foreign and found:
            named = [p if p.kind is p.VAR_KEYWORD else p.replace(default=None) for p in named]
        more = next((p.annotation for p in signature if p.kind is p.VAR_KEYWORD), None)
        found = {p.name: p for p in [*_unpacked(more), *named]} | found
        if not any(p.kind is p.VAR_KEYWORD for p in signature):
            break
    if target.__module__.startswith("torch.optim."):
        for name in found.keys() & OPTIMIZER.keys():
            found[name] = found[name].replace(annotation=OPTIMIZER[name])
    return found


def _signature(call: Any) -> inspect.Signature:
    try:
        return inspect.signature(call, eval_str=True)
    except (NameError, TypeError, AttributeError):  # names that only a type checker imports
        return inspect.signature(call)


def _unpacked(annotation: Any) -> Iterable[inspect.Parameter]:
    """The keys of Unpack[Options] as keyword parameters that may be left out."""
    if typing.get_origin(annotation) is not typing.Unpack:
        return
    (options,) = typing.get_args(annotation)
    for name, hint in typing.get_type_hints(options, include_extras=True).items():
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint)


def check_arguments(
    key: str, target: Any, given: Mapping[str, Any], owner: str | None = None
) -> list[str]:
    """Check the plain values given to `target` against its parameters.

    Args:
        key: Where the values stand in the config; "" at its top.
        target: A class or function, whose annotations say what it takes.
        given: Name -> value.
        owner: What messages call the target; its dotted name if None.

    Returns:
        One line for each error, which begins with its key.
    """
    owner = owner or f"{target.__module__}.{target.__qualname__}"
    known = parameters(target)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in known.values())
    known = {name: p for name, p in known.items() if p.kind is not p.VAR_KEYWORD}
    dot = f"{key}." if key else ""
    errors: list[str] = []
    for name, value in given.items():
        place = f"{dot}{name}"
        if name in known:
            errors += mismatches(place, value, known[name].annotation)
        elif today := _new_name(target, name):
            errors.append(f"{place}: it is now called {dot}{today}{unit_note(name)}")
        elif not open_ended:
            what = f"{owner} has no such argument" if key else "no such key"
            errors.append(f"{place}: {what}.{closest(str(name), known)}")
    return errors


def _new_name(target: Any, name: str) -> str | None:
    """Today's name of an argument of `target` or of a class that it inherits from."""
    classes = inspect.getmro(target) if inspect.isclass(target) else (target,)
    tables = (ARGUMENTS.get(f"{cls.__module__}.{cls.__qualname__}", {}) for cls in classes)
    return next((table[name] for table in tables if name in table), None)


def missing_arguments(
    key: str, target: Any, given: Iterable[str], owner: str | None = None
) -> list[str]:
    """Find the required arguments of `target` that are not among the names `given`.

    Args:
        key, target, owner: As of `check_arguments`.
        given: Names.

    Returns:
        One line for each error, which begins with its key.
    """
    owner = owner or f"{target.__module__}.{target.__qualname__}"
    required = (
        p.name
        for p in parameters(target).values()
        if p.kind is not p.VAR_KEYWORD and p.default is p.empty
    )
    places = [f"{key}.{name}" if key else name for name in required if name not in given]
    return [f"{place}: {owner} needs a value here ({place}=...)" for place in places]


def _check_call(
    key: str, node: Mapping, supplied: Iterable[str], allow: Iterable[str]
) -> Iterable[str]:
    """Errors in a call of the node's target with its keys and the arguments `supplied` by code."""
    if errors := form_errors(key, node):
        yield from errors
        return
    try:
        target = locate(node["_target_"], allow)
    except ConfigError as error:
        yield f"{key}: {error}"
        return
    given = arguments(node)
    yield from check_arguments(key, target, given, node["_target_"])
    if not node.get("_partial_") and not node.get("_args_"):
        # Whoever typed an old name has given the argument.
        names = [_new_name(target, name) or name for name in given]
        yield from missing_arguments(key, target, [*given, *names, *supplied], node["_target_"])


def validate(
    cfg: Mapping, supplied: Mapping[str, Iterable[str]] = types.MappingProxyType({})
) -> None:
    """Check every `_target_` of `cfg` against its signature.

    Args:
        cfg: A whole config.
        supplied: Key of a node -> the arguments that the command adds when it builds the node. The
            key `<parent>.*` stands for all children of a node.

    Raises:
        ConfigError: It lists all errors, each with its key.
    """
    if errors := find_errors(cfg, supplied):
        raise ConfigError(join_errors(errors))


def find_errors(cfg: Mapping, supplied: Mapping[str, Iterable[str]]) -> list[str]:
    """The errors that `validate` reports, one line each."""
    cfg = resolve(cfg)
    errors: list[str] = []
    for key, node in targets(cfg):
        parent = key.rpartition(".")[0]
        extra = [*supplied.get(key, ()), *supplied.get(f"{parent}.*", ())]
        errors += _check_call(key, node, extra, cfg.get("allow") or ())
    return errors


def join_errors(errors: list[str]) -> str:
    """One message for all `errors`."""
    if len(errors) == 1:
        return errors[0]
    return "\n  ".join([f"{len(errors)} errors in the config:", *errors])
