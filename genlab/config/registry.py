"""What a config may build: the allow-list, and how a `_target_` is found."""

import importlib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from genlab.config.keys import closest
from genlab.errors import ConfigError

__all__ = ["locate", "targets"]

# genlab's own packages may offer functions; elsewhere only classes are built (torch.hub.load is a function).
OWN = tuple(f"genlab.{name}." for name in ["systems", "models", "losses", "nn", "data", "callbacks", "metrics"])
LIBRARIES = ("torch.nn.", "torch.optim.", "torchvision.models.", "lightning.pytorch.", "torchmetrics.")


def locate(target: str, allow: Iterable[str] = ()) -> Any:
    """The class or function named by the dotted path `target`; ConfigError unless an allow-listed package has it."""
    allow = tuple(prefix.rstrip(".") + "." for prefix in allow)
    if not target.startswith((*OWN, *LIBRARIES, *allow)):
        raise ConfigError(
            f"_target_={target} is not in a package that configs may build from "
            f"({', '.join(p + '*' for p in (*OWN, *LIBRARIES, *allow))}). If you trust it, add its package on the "
            f"command line: allow=[{target.split('.')[0]}]"
        )
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ConfigError(f"_target_={target}: cannot import {module} ({error})") from None
    except AttributeError:
        names = vars(importlib.import_module(module))
        raise ConfigError(f"_target_={target}: {module} has no '{name}'.{closest(name, names)}") from None
    # A path like genlab.runs.os.system must not reach what a module merely imported.
    home = getattr(found, "__module__", "") + "."
    ours = home.startswith((*OWN, *allow))
    if not ours and not (inspect.isclass(found) and home.startswith(tuple(p.split(".")[0] for p in LIBRARIES))):
        raise ConfigError(f"_target_={target}: configs may only build classes, and this is {found!r} of {home[:-1]}")
    return found


def targets(node: Any, key: str = "") -> Iterable[tuple[str, Mapping]]:
    """Every (key, node) below `node` that has a `_target_`."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield key, node
        for name, child in node.items():
            yield from targets(child, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for i, child in enumerate(node):
            yield from targets(child, f"{key}[{i}]")
