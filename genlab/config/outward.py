"""Where a run's own config may not send anything: services, addresses and stores outside of its
directory.
"""

import os
from collections.abc import Iterable, Mapping

from genlab.config.registry import targets
from genlab.errors import ConfigError
from genlab.overrides import key_of

__all__ = ["refuse_outward"]

# By class, the arguments that say where to, each with the one value that a run's config may have:
# that of the shipped config on this machine, which leads to the user's own account or store.
OUTWARD = {
    "genlab.callbacks.loggers.TrackioLogger": {"space_id": lambda: None},
    "genlab.callbacks.loggers.mlflow": {
        "tracking_uri": lambda: os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///outputs/mlflow.db")
    },
    "genlab.callbacks.loggers.wandb": {"entity": lambda: None},
    "genlab.training.trainer.Trainer": {"model_registry": lambda: None},
}


def refuse_outward(config: Mapping, words: Iterable[str]) -> None:
    """Checks the config of a run that is continued.

    Args:
        config: Plain containers.
        words: The user's own overrides on this command line, which may say where to.

    Raises:
        ConfigError: The run's config sends something out of its directory, to where this machine's
        own settings do not.
    """
    given = set(map(key_of, words))
    for key, node in targets(config):
        for name, usual in OUTWARD.get(node["_target_"], {}).items():
            value = node.get(name, usual())
            full = f"{key}.{name}"
            if value != usual() and full not in given:
                raise ConfigError(
                    f"{full}={value}: the run's config may not say where to send what is trained here; if it should go "
                    f"there, say so on the command line ({full}=...), else leave it out (~{key})"
                )
