"""Interpolations of a composed config, resolved to plain containers."""

import re
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from genlab.config.keys import closest, flatten
from genlab.errors import ConfigError

__all__ = ["escape", "resolve"]


def _shape(data: Mapping) -> list[int]:
    """${shape:${data}}: (C, H, W) of the images of a `data` node, (2,) of points of the plane."""
    if "vocab_size" in data:
        raise ConfigError(
            "the chosen data are texts, and this recipe is for images or points; choose another data="
        )
    return (
        [data["channels"], data["image_size"], data["image_size"]] if "image_size" in data else [2]
    )


def _likelihood(data: Mapping) -> str:
    """${likelihood:${data}}: what a flow's likelihood of a `data` node is logged as."""
    return "bits_per_dim" if "image_size" in data else "nll"


OmegaConf.register_new_resolver("shape", _shape, replace=True)
OmegaConf.register_new_resolver("likelihood", _likelihood, replace=True)


def resolve(cfg: Any) -> Any:
    """`cfg` as plain containers with all interpolations resolved; ConfigError names the key that
    cannot be.
    """
    if not isinstance(cfg, DictConfig):
        return cfg
    try:
        return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except InterpolationResolutionError as error:
        why = (
            str(error)
            .splitlines()[0]
            .removeprefix("ConfigError raised while resolving interpolation: ")
        )
        if missing := re.search(r"Interpolation key '([^']+)' not found", why):
            near = closest(missing[1], flatten(OmegaConf.to_container(cfg)), 0.85)
            group = missing[1].partition(".")[0]
            why += (
                f".{near}"
                if near
                else f": the chosen {group}= is of another kind than this recipe is for"
            )
        raise ConfigError(f"{error.full_key}: {why}") from None
    except OmegaConfBaseException as error:
        raise ConfigError(
            f"{error.full_key}: a value is required here ({error.full_key}=...)"
        ) from None


def escape(node: Any) -> Any:
    """`node` of plain containers in OmegaConf's writing, so that composed and resolved it is `node`
    again.

    A `${` in a text is an interpolation to OmegaConf; behind a backslash it is text, and
    backslashes before are doubled.
    """
    if isinstance(node, Mapping):
        return {key: escape(value) for key, value in node.items()}
    if isinstance(node, list):
        return [escape(value) for value in node]
    if isinstance(node, str):
        return re.sub(r"(\\*)\$\{", lambda found: f"{2 * found[1]}\\${{", node)
    return node
