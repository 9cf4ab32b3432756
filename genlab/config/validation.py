"""A config checked as a whole: every `_target_` bound to its signature, every argument to its
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
from genlab.config.types import mismatches
from genlab.errors import ConfigError
from genlab.ranges import Decay, NonNegativeFloat

__all__ = ["check_arguments", "faults", "listed", "missing_arguments", "parameters", "validate"]

# Arguments of torch's optimisers, whose own annotations have no ranges.
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
    """The named parameters of a class or function, through **kwargs up to the parents'
    constructors.

    What a library does with its **kwargs is not known: then a parameter of kind VAR_KEYWORD is
    among them, and no parameter of a parent is required. `**options: Unpack[Options]` names the
    keys of the TypedDict Options.
    """
    foreign = not target.__module__.startswith("genlab.")
    classes = target.__mro__ if inspect.isclass(target) else [target]
    found: dict[str, inspect.Parameter] = {}
    for cls in classes:
        call = cls.__dict__.get("__init__") if inspect.isclass(cls) else cls
        if call is None:
            continue
        try:
            signature = list(_signature(call).parameters.values())[inspect.isclass(cls) :]
        except (TypeError, ValueError):  # a C slot without a signature
            continue
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
    if _is_optimizer(target):
        found |= {
            name: found[name].replace(annotation=OPTIMIZER[name])
            for name in found.keys() & OPTIMIZER.keys()
        }
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
    for name, hint in typing.get_type_hints(
        typing.get_args(annotation)[0], include_extras=True
    ).items():
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint)


def _is_optimizer(target: Any) -> bool:
    return target.__module__.startswith("torch.optim.")


def check_arguments(
    key: str, target: Any, given: Mapping[str, Any], owner: str | None = None
) -> list[str]:
    """What is wrong with the plain values `given` to `target`, each line beginning with its key.

    Args:
        key: where the values stand in the config; "" at its top.
        target: a class or function, whose annotations say what it takes.
        given: by name.
        owner: what a user calls the target; its dotted path if None.
    """
    owner = owner or f"{target.__module__}.{target.__qualname__}"
    known = parameters(target)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in known.values())
    known = {name: p for name, p in known.items() if p.kind is not p.VAR_KEYWORD}
    errors = []
    for name, value in given.items():
        place = f"{key}.{name}" if key else str(name)
        if name in known:
            errors += mismatches(place, value, known[name].annotation)
        elif not open_ended:
            what = f"{owner} has no such argument" if key else "no such key"
            errors.append(f"{place}: {what}.{closest(str(name), known)}")
    return errors


def missing_arguments(
    key: str, target: Any, given: Iterable[str], owner: str | None = None
) -> list[str]:
    """The arguments that `target` needs and that are not among the names `given`, a line each."""
    owner = owner or f"{target.__module__}.{target.__qualname__}"
    required = (
        p.name
        for p in parameters(target).values()
        if p.kind is not p.VAR_KEYWORD and p.default is p.empty
    )
    places = [f"{key}.{name}" if key else name for name in required if name not in given]
    return [f"{place}: {owner} needs a value here ({place}=...)" for place in places]


def check_call(
    key: str, node: Mapping, supplied: Iterable[str], allow: Iterable[str]
) -> Iterable[str]:
    """The errors in calling `node`'s target with its keys and the arguments `supplied` in code."""
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
        yield from missing_arguments(key, target, [*given, *supplied], node["_target_"])


def validate(
    cfg: Mapping, supplied: Mapping[str, Iterable[str]] = types.MappingProxyType({})
) -> None:
    """Binds every `_target_` of `cfg` to its signature; one ConfigError lists all that is wrong,
    with key paths.

    supplied: by key, the arguments that the command adds when it builds the node ("*" for the
    children of a key).
    """
    if errors := faults(cfg, supplied):
        raise ConfigError(listed(errors))


def faults(cfg: Mapping, supplied: Mapping[str, Iterable[str]]) -> list[str]:
    """What `validate` finds wrong, a line each."""
    cfg, errors = resolve(cfg), []
    for key, node in targets(cfg):
        parent = key.rpartition(".")[0]
        extra = [*supplied.get(key, ()), *(supplied.get(f"{parent}.*", ()))]
        errors += check_call(key, node, extra, cfg.get("allow") or ())
    return errors


def listed(errors: list[str]) -> str:
    """The message that says all `errors` at once."""
    if len(errors) == 1:
        return errors[0]
    return "\n  ".join([f"{len(errors)} errors in the config:", *errors])
