"""Configs: compose them, check them as a whole, build objects from an allow-list.

This package turns the words of a command line, or the config.yaml of a run directory, into checked
plain data and then into objects. Nothing here imports torch, and nothing here knows what a model
does.
"""

from genlab.config.builder import PARTS, build, build_system
from genlab.config.frozen import from_run, parse_frozen, read_frozen
from genlab.config.interpolation import resolve
from genlab.config.keys import closest, flatten
from genlab.config.outward import refuse_outward
from genlab.config.registry import allowed_names, locate, registry, targets
from genlab.config.resume import changes, refuse_changes
from genlab.config.types import Node
from genlab.config.validation import (
    check_arguments,
    find_errors,
    join_errors,
    missing_arguments,
    parameters,
    validate,
)
from genlab.errors import ConfigError

__all__ = [
    "PARTS",
    "ConfigError",
    "Node",
    "allowed_names",
    "build",
    "build_system",
    "changes",
    "check_arguments",
    "closest",
    "find_errors",
    "flatten",
    "from_run",
    "join_errors",
    "locate",
    "missing_arguments",
    "parameters",
    "parse_frozen",
    "read_frozen",
    "refuse_changes",
    "refuse_outward",
    "registry",
    "resolve",
    "targets",
    "validate",
]
