"""Keep the config of a run from sending data anywhere outside its directory."""

import os
from collections.abc import Callable, Iterable, Mapping

from genlab.config.registry import targets
from genlab.errors import ConfigError
from genlab.overrides import key_of

__all__ = ["refuse_outward"]

# Class -> the arguments that name a destination, each with the only value that the config of a run
# may have: the one of the shipped config on this machine, which is the user's own account or store.
OUTWARD: dict[str, dict[str, Callable[[], str | None]]] = {
    "genlab.callbacks.loggers.TrackioLogger": {"space_id": lambda: None},
    "genlab.callbacks.loggers.mlflow": {
        "tracking_uri": lambda: os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///outputs/mlflow.db")
    },
    "genlab.callbacks.loggers.wandb": {"entity": lambda: None},
    "genlab.training.trainer.Trainer": {"model_registry": lambda: None},
}


def refuse_outward(config: Mapping, words: Iterable[str]) -> None:
    """Check the config of a run before training continues it.

    Args:
        config: Plain containers.
        words: The user's own overrides on this command line, which may name a destination.

    Raises:
        ConfigError: The config names a destination that this machine's own settings do not name.
    """
    given = {key_of(word) for word in words}
    for key, node in targets(config):
        for name, usual in OUTWARD.get(node["_target_"], {}).items():
            value = node.get(name, usual())
            full = f"{key}.{name}"
            if value != usual() and full not in given:
                raise ConfigError(
                    f"{full}={value}: the config of a run may not choose where results are sent; "
                    f"confirm it on the command line ({full}=...), or leave it out (~{key})"
                )
