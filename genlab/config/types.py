"""Check plain values against the annotations of arguments; pydantic decides, strictly."""

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

# Strict: neither "1" nor true nor 1.0 is an int. An int is also a float.
STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
NAMES = {int: "int", float: "number", str: "text", bool: "true or false", types.NoneType: "null"}
MAPPINGS = (dict, Mapping, typing.get_origin(Mapping[str, int]))
LISTS = (list, tuple, Sequence, Iterable, set, frozenset)


class Node:
    """Annotation of an argument that takes the config of an object: a mapping with `_target_`."""


def is_node(value: Any) -> bool:
    """Whether `value` is the config of an object, which has a `_target_`."""
    return isinstance(value, Mapping) and "_target_" in value


def mismatches(place: str, value: Any, annotation: Any) -> Iterator[str]:
    """Check a plain value against `annotation`.

    Args:
        place: The key of the value.
        value: Plain. Of a mapping or list that holds configs with `_target_`, every child is
            checked on its own.
        annotation: The annotation of the argument.

    Yields:
        One line for each error, which begins with its key.
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
    """Say why a plain value cannot be of the type `annotation`; None if it can.

    A config with `_target_` only has to be in a place for an object; its keys are checked on their
    own.
    """
    if is_node(value):
        if takes_objects(annotation):
            return None
        return f"expected {describe(annotation)}, not a config with _target_"
    if holds_nodes(value) or (adapter := adapter_of(annotation)) is None:
        return None
    try:
        # As JSON, in which a list may be a tuple: YAML has no other way to write one.
        adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        if any(one["type"] == "json_invalid" for one in error.errors()):
            return "is not UTF-8 text"
        choices = [str(choice) for choice in literals(annotation)]
        near = closest(str(value), choices) if choices else ""
        return f"expected {describe(annotation)}.{near}".removesuffix(".")
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
        return None  # of a library: its names exist for its type checker alone


def adapter_of(annotation: Any) -> TypeAdapter | None:
    """pydantic's adapter of `annotation`; None where the annotation says nothing to check."""
    if annotation in (Any, inspect.Parameter.empty) or isinstance(annotation, str):
        return None
    try:
        return _adapter(annotation)
    except TypeError:  # not hashable
        return None


def holds_nodes(value: Any) -> bool:
    """Whether `value` is, or holds at any depth, a config with `_target_`."""
    children: Iterable[Any] = ()
    if isinstance(value, Mapping):
        children = value.values()
    elif isinstance(value, list):
        children = value
    return is_node(value) or any(holds_nodes(child) for child in children)


def child_of(annotation: Any, container: type) -> Any:
    """The annotation of the values of a mapping or the items of a list; Any where there is none."""
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        children = (child_of(one, container) for one in arguments)
        return next((child for child in children if child is not Any), Any)
    kinds = MAPPINGS if container is Mapping else LISTS
    if origin in kinds and arguments and arguments[-1] is not Ellipsis:
        return arguments[-1]
    return Any


def takes_objects(annotation: Any) -> bool:
    """Whether `annotation` allows anything besides numbers, texts and containers of these."""
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin is Annotated:
        return takes_objects(arguments[0])
    if origin in (types.UnionType, typing.Union):
        return any(takes_objects(one) for one in arguments)
    if origin is Literal:
        return False
    if annotation is Any:
        return True
    return annotation not in NAMES and (origin or annotation) not in (*MAPPINGS, *LISTS)


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
    if annotation in NAMES:
        return NAMES[annotation]
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin is Annotated:
        return _describe_annotated(arguments)
    if origin is Literal:
        choices = ", ".join(map(str, arguments))
        return f"one of {choices}" if len(arguments) > 1 else choices
    if origin in (types.UnionType, typing.Union):
        words = list(dict.fromkeys(map(describe, arguments)))
        return " or ".join([w for w in words if w != "null"] + ["null"] * ("null" in words))
    if origin is tuple and Ellipsis not in arguments:
        return f"list of {len(arguments)}: {', '.join(map(describe, arguments))}"
    if (origin or annotation) in MAPPINGS:
        return "mapping"
    if (origin or annotation) in LISTS:
        return f"list of {describe(arguments[0])}" if arguments else "list"
    is_callable = annotation is Callable or origin in (
        Callable,
        typing.get_origin(Callable[..., int]),
    )
    if is_callable or isinstance(annotation, type):
        return "config with _target_"
    return str(annotation)


def _describe_annotated(arguments: tuple[Any, ...]) -> str:
    """The arguments of an Annotated in words: its own description if a Field has one."""
    annotation, *metadata = arguments
    for each in metadata:
        if isinstance(each, FieldInfo) and each.description:
            return each.description
    return f"{describe(annotation)} ({', '.join(map(str, metadata))})"
