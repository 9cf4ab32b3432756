"""What a config means: composed, checked as a whole, built from an allow-list.

Here lives what turns the words of a command line, or the config.yaml of a run directory, into checked plain data and
then into objects. Nothing here imports torch, and nothing here knows what a model does.
"""

from genlab.config.builder import PARTS, build, build_system
from genlab.config.frozen import from_run, read_frozen
from genlab.config.interpolation import resolve
from genlab.config.keys import closest, flatten
from genlab.config.registry import locate, targets
from genlab.config.resume import changes, refuse_changes
from genlab.config.validation import parameters, validate
from genlab.errors import ConfigError

__all__ = [
    "PARTS",
    "ConfigError",
    "build",
    "build_system",
    "changes",
    "closest",
    "flatten",
    "from_run",
    "locate",
    "parameters",
    "read_frozen",
    "refuse_changes",
    "resolve",
    "targets",
    "validate",
]
