"""Compare configs: whether two describe the same run, and how one differs from its recipe."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from genlab import config

__all__ = ["differences", "digest"]


def digest(settings: Mapping) -> str:
    """A hash of the settings that decide a run: all but `run`, `ckpt` and `allow`."""
    decisive = {
        key: value for key, value in settings.items() if key not in ("run", "ckpt", "allow")
    }
    text = json.dumps(decisive, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def differences(settings: Mapping) -> dict[str, list[Any]] | None:
    """Compare a config with the recipe `model=` that it was composed from.

    Args:
        settings: The resolved config of a job.

    Returns:
        Dotted key -> [value of the recipe, value here] where they differ. None outside a command
        line's job and for a run that is continued.
    """
    if not (HydraConfig.initialized() and GlobalHydra.instance().is_initialized()):
        return None
    model = HydraConfig.get().runtime.choices.get("model")
    if model is None:  # the config of a run that is continued
        return None
    recipe = config.flatten(config.resolve(compose("train", [f"model={model}"])))
    here = config.flatten(settings)
    ignored = ("run", "ckpt", "allow", "name")
    keys = [key for key in {**recipe, **here} if key.partition(".")[0] not in ignored]
    missing = "(none)"
    both = {key: [recipe.get(key, missing), here.get(key, missing)] for key in keys}
    return {key: pair for key, pair in both.items() if pair[0] != pair[1]}
