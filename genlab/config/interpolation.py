"""Resolve the interpolations of a composed config to plain containers."""

import re
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from genlab.config.keys import closest, flatten
from genlab.errors import ConfigError

__all__ = ["escape", "resolve"]


def _shape(data: Mapping) -> list[int]:
    """${shape:${data}}: (C, H, W) if `data` holds images, (2,) if it holds points."""
    if "vocab_size" in data:
        raise ConfigError("this recipe is for images or points, and data= holds texts")
    if "image_size" not in data:
        return [2]
    return [data["channels"], data["image_size"], data["image_size"]]


def _likelihood(data: Mapping) -> str:
    """${likelihood:${data}}: the name under which the likelihood of a flow is logged."""
    return "bits_per_dim" if "image_size" in data else "nll"


OmegaConf.register_new_resolver("shape", _shape, replace=True)
OmegaConf.register_new_resolver("likelihood", _likelihood, replace=True)


def resolve(cfg: Any) -> Any:
    """Resolve all interpolations of `cfg` and return plain containers.

    Raises:
        ConfigError: An interpolation leads nowhere or a required value (`???`) is missing; the
            message begins with the key.
    """
    if not isinstance(cfg, DictConfig):
        return cfg
    try:
        return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except InterpolationResolutionError as error:
        raise ConfigError(f"{error.full_key}: {_why_unresolved(error, cfg)}") from None
    except OmegaConfBaseException as error:
        key = error.full_key
        raise ConfigError(f"{key}: a value is required here ({key}=...)") from None


def _why_unresolved(error: InterpolationResolutionError, cfg: DictConfig) -> str:
    first_line = str(error).splitlines()[0]
    why = first_line.removeprefix("ConfigError raised while resolving interpolation: ")
    missing = re.search(r"Interpolation key '([^']+)' not found", why)
    if missing is None:
        return why
    near = closest(missing[1], flatten(OmegaConf.to_container(cfg)), 0.85)
    if near:
        return f"{why}.{near}"
    # A recipe takes sizes from its groups; a group of another kind does not have them.
    group = missing[1].partition(".")[0]
    return f"{why}: the chosen {group}= does not fit this recipe; choose another {group}="


def escape(node: Any) -> Any:
    """Write plain containers so that OmegaConf composes and resolves them to the same containers.

    To OmegaConf, `${` in a text begins an interpolation. Behind a backslash it is text, and the
    backslashes before that one are doubled.
    """
    if isinstance(node, Mapping):
        return {key: escape(value) for key, value in node.items()}
    if isinstance(node, list):
        return [escape(value) for value in node]
    if isinstance(node, str):
        return re.sub(r"(\\*)\$\{", lambda found: f"{2 * found[1]}\\${{", node)
    return node
