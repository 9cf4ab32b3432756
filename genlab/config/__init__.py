"""What a config means: composed, checked as a whole, built from an allow-list.

Here lives what turns the words of a command line, or the config.yaml of a run directory, into
checked plain data and then into objects. Nothing here imports torch, and nothing here knows what a
model does.
"""

from genlab.config.builder import PARTS, build, build_system
from genlab.config.frozen import from_run, parse_frozen, read_frozen
from genlab.config.interpolation import resolve
from genlab.config.keys import closest, flatten
from genlab.config.outward import refuse_outward
from genlab.config.registry import allowed, locate, registry, targets
from genlab.config.resume import changes, refuse_changes
from genlab.config.types import Node
from genlab.config.validation import (
    check_arguments,
    faults,
    listed,
    missing_arguments,
    parameters,
    validate,
)
from genlab.errors import ConfigError

__all__ = [
    "PARTS",
    "ConfigError",
    "Node",
    "allowed",
    "build",
    "build_system",
    "changes",
    "check_arguments",
    "closest",
    "faults",
    "flatten",
    "from_run",
    "listed",
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
