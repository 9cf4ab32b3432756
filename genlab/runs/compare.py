"""Whether two configs decide the same run, and in what one differs from its recipe."""

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
    """A hash of what decides a run: all settings but which run is continued, and from where."""
    decisive = {
        key: value for key, value in settings.items() if key not in ("run", "ckpt", "allow")
    }
    return hashlib.blake2b(
        json.dumps(decisive, sort_keys=True, default=str).encode(), digest_size=8
    ).hexdigest()


def differences(settings: Mapping) -> dict[str, list[Any]] | None:
    """{key: [value of the recipe `model=` alone, value here]} where they differ; None outside of a
    command line's job.
    """
    if not (HydraConfig.initialized() and GlobalHydra.instance().is_initialized()):
        return None
    model = HydraConfig.get().runtime.choices.get("model")
    if model is None:  # a run's own config, continued
        return None
    alone = config.flatten(config.resolve(compose("train", [f"model={model}"])))
    here = config.flatten(settings)
    keys = [
        key
        for key in {**alone, **here}
        if key.partition(".")[0] not in ("run", "ckpt", "allow", "name")
    ]
    missing = "(none)"
    both = {key: [alone.get(key, missing), here.get(key, missing)] for key in keys}
    return {key: pair for key, pair in both.items() if pair[0] != pair[1]}
