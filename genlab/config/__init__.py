"""What a config means: composed, checked as a whole, built from an allow-list.

Here lives what turns the words of a command line, or the config.yaml of a run directory, into checked plain data and
then into objects. Nothing here imports torch, and nothing here knows what a model does.
"""

from genlab.config.builder import PARTS, build, build_system
from genlab.config.frozen import from_run, parse_frozen, read_frozen
from genlab.config.interpolation import resolve
from genlab.config.keys import closest, flatten
from genlab.config.outward import refuse_outward
from genlab.config.registry import allowed, locate, registry, targets
from genlab.config.resume import changes, refuse_changes
from genlab.config.validation import parameters, validate
from genlab.errors import ConfigError

__all__ = [
    "PARTS",
    "ConfigError",
    "allowed",
    "build",
    "build_system",
    "changes",
    "closest",
    "flatten",
    "from_run",
    "locate",
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
