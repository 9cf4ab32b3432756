"""What a config means: composed, checked as a whole, built from an allow-list.

Here lives what turns the words of a command line, or the config.yaml of a run directory, into checked plain data and
then into objects. Nothing here imports torch, and nothing here knows what a model does.
"""

from genlab.config.builder import PARTS, build, build_system
from genlab.config.frozen import from_run, read_frozen
from genlab.config.interpolation import resolve
from genlab.config.keys import closest, flatten
from genlab.config.registry import locate, targets
from genlab.config.types import Node
from genlab.config.validation import check_arguments, faults, listed, missing_arguments, parameters, validate
from genlab.errors import ConfigError

__all__ = [
    "PARTS",
    "ConfigError",
    "Node",
    "build",
    "build_system",
    "check_arguments",
    "closest",
    "faults",
    "flatten",
    "from_run",
    "listed",
    "locate",
    "missing_arguments",
    "parameters",
    "read_frozen",
    "resolve",
    "targets",
    "validate",
]
