"""A plain value against an annotation: pydantic decides, strictly, and the answer is in a user's
words.
"""

import functools
import inspect
import json
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation
from pydantic.fields import FieldInfo

from genlab.config.keys import closest

__all__ = ["Node", "describe", "is_node", "mismatches", "type_error"]

# Strict: neither "1" nor true nor 1.0 is an int. Only an int is taken for a float.
STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
NAMES = {int: "int", float: "number", str: "text", bool: "true or false", types.NoneType: "null"}
MAPPINGS = (dict, Mapping, typing.get_origin(Mapping[str, int]))
LISTS = (list, tuple, Sequence, Iterable, set, frozenset)


class Node:
    """In an annotation: the description of an object, a mapping with `_target_`."""


def is_node(value: Any) -> bool:
    """Whether `value` describes an object, by its `_target_`."""
    return isinstance(value, Mapping) and "_target_" in value


def mismatches(place: str, value: Any, annotation: Any) -> Iterator[str]:
    """What in the plain value is not of the type `annotation`, a line each that begins with its
    key.

    Args:
        place: the key of the value.
        value: plain; of a mapping or list of configs with `_target_`, each child is looked at by
        itself.
        annotation: of the argument.
    """
    if holds_nodes(value) and not is_node(value):
        if isinstance(value, Mapping):
            for name, child in value.items():
                yield from mismatches(f"{place}.{name}", child, child_of(annotation, Mapping))
        else:
            for i, child in enumerate(value):
                yield from mismatches(f"{place}[{i}]", child, child_of(annotation, list))
    elif why := type_error(value, annotation):
        shown = str(value)
        yield f"{place}={shown if len(shown) <= 60 else shown[:59] + '…'}: {why}"


def type_error(value: Any, annotation: Any) -> str | None:
    """Why the plain value cannot be of the type `annotation`; None if it can.

    A config with `_target_` is checked by itself: here it only has to be in a place for an object.
    """
    if is_node(value):
        return (
            None
            if takes_objects(annotation)
            else f"expected {describe(annotation)}, not a config with _target_"
        )
    if holds_nodes(value) or (adapter := adapter_of(annotation)) is None:
        return None
    try:
        # As JSON, in which a list may be a tuple: YAML knows no other way to write one.
        adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        if any(one["type"] == "json_invalid" for one in error.errors()):
            return "is not UTF-8 text"
        choices = [str(choice) for choice in literals(annotation)]
        return f"expected {describe(annotation)}.{closest(str(value), choices) if choices else ''}".removesuffix(
            "."
        )
    except (TypeError, ValueError, RecursionError):
        return f"expected {describe(annotation)}"
    return None


@functools.lru_cache(maxsize=1024)
def _adapter(annotation: Any) -> TypeAdapter | None:
    try:
        return TypeAdapter(annotation, config=STRICT)
    except (
        PydanticSchemaGenerationError,
        PydanticUndefinedAnnotation,
        PydanticUserError,
        NameError,
        TypeError,
    ):
        return None  # of a library, with names that only its own type checker knows


def adapter_of(annotation: Any) -> TypeAdapter | None:
    if annotation in (Any, inspect.Parameter.empty) or isinstance(annotation, str):
        return None
    try:
        return _adapter(annotation)
    except TypeError:  # not hashable
        return None


def holds_nodes(value: Any) -> bool:
    children = (
        value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    )
    return is_node(value) or any(map(holds_nodes, children))


def child_of(annotation: Any, container: type) -> Any:
    """What `annotation` says of the values of a mapping or of the items of a list; Any where it
    says nothing.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        return next(
            (child for one in arguments if (child := child_of(one, container)) is not Any), Any
        )
    kinds = MAPPINGS if container is Mapping else LISTS
    return arguments[-1] if origin in kinds and arguments and arguments[-1] is not Ellipsis else Any


def takes_objects(annotation: Any) -> bool:
    """Whether `annotation` has room for anything besides numbers, texts and containers of these."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return takes_objects(arguments[0])
    if origin in (types.UnionType, typing.Union):
        return any(map(takes_objects, arguments))
    if origin is Literal:
        return False
    return annotation is Any or (
        annotation not in NAMES and (origin or annotation) not in (*MAPPINGS, *LISTS)
    )


def literals(annotation: Any) -> list[Any]:
    """The choices of all Literals in `annotation`."""
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is Literal:
        return list(arguments)
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return [choice for each in arguments for choice in literals(each)]
    return []


def describe(annotation: Any) -> str:
    """`annotation` in words: "int, 1 or more", "one of mean, cls", "list of text or null"."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in NAMES:
        return NAMES[annotation]
    if origin is Annotated:
        told = [
            each.description
            for each in arguments[1:]
            if isinstance(each, FieldInfo) and each.description
        ]
        return (
            told[0] if told else f"{describe(arguments[0])} ({', '.join(map(str, arguments[1:]))})"
        )
    if origin is Literal:
        return (
            f"one of {', '.join(map(str, arguments))}" if len(arguments) > 1 else str(arguments[0])
        )
    if origin in (types.UnionType, typing.Union):
        words = list(dict.fromkeys(map(describe, arguments)))
        return " or ".join([w for w in words if w != "null"] + ["null"] * ("null" in words))
    if origin is tuple and Ellipsis not in arguments:
        return f"list of {len(arguments)}: {', '.join(map(describe, arguments))}"
    if (origin or annotation) in MAPPINGS:
        return "mapping"
    if (origin or annotation) in LISTS:
        return f"list of {describe(arguments[0])}" if arguments else "list"
    if origin in (Callable, typing.get_origin(Callable[..., int])) or annotation is Callable:
        return "config with _target_"
    return "config with _target_" if isinstance(annotation, type) else str(annotation)
