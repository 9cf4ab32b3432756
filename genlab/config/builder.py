"""Objects out of checked configs."""

from collections.abc import Iterable, Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from genlab.config.blame import blame
from genlab.config.interpolation import resolve
from genlab.config.registry import locate, targets

__all__ = ["PARTS", "build", "build_system"]

PARTS = ("net", "loss", "penalty", "augment")  # groups that are arguments of the system


def build(node: Mapping, allow: Iterable[str] = (), **kwargs: Any) -> Any:
    """The object that `node` describes, nested nodes first; `kwargs` are added to the outermost call."""
    with blame(str(node.get("_target_"))):
        return _build(node, allow, **kwargs)


def _build(node: Mapping, allow: Iterable[str], **kwargs: Any) -> Any:
    node = resolve(node)
    for _, inner in targets(node):
        locate(inner["_target_"], allow)
    try:
        return instantiate(node, _convert_="all", **kwargs)
    except InstantiationException as error:
        raise error.__cause__ or error from None  # what the constructor said, without Hydra's wrapping


def build_system(cfg: Mapping, allow: Iterable[str] = ()) -> Any:
    """The system of `cfg.model`, handed those of PARTS that the config has."""
    parts = {}
    for name in PARTS:
        if cfg.get(name) is not None:
            with blame(name):
                parts[name] = _build(cfg[name], allow)
    with blame("model"):
        return _build(cfg["model"], allow, **parts)
