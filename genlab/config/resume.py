"""What a run that is continued may change: nothing of its network, its data and their order."""

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from genlab.config.keys import flatten
from genlab.errors import ConfigError

__all__ = ["changes", "refuse_changes", "refuse_groups"]

# group of configs -> what of a run it decides
GROUPS = {
    "model": "model",
    "net": "network",
    "encoder": "network",
    "experiment": "model and data",
    "data": "data",
    "loss": "loss",
    "penalty": "penalty",
    "augment": "augmentation",
    "optimizer": "optimiser",
    "trainer": "trainer",
    "callbacks": "callbacks",
    "logger": "loggers",
    "metrics": "metrics",
    "features": "feature network",
}
KEPT = {"model", "net", "encoder", "experiment", "data"}  # a new run is needed for another
NETWORK = (
    "net.",
    "encoder.",
    "model.latent_dim",
    "model.num_classes",
    "model._target_",
    "model.codec.",
)
# keys of data that say where and how it is read, not what it is: the fingerprint tells whether it
# is the same
READING = {"path", "root", "test_path", "val_path", "extra_path", "vocab", "simplified", "download"}
READING |= {"num_workers", "processes", "resident", "on_error"}
BEGINNING = ("model.init", "model.code_init")  # of use to a run's first step alone
PROCESSES = ("trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.accelerator")


def changes(before: Mapping, after: Mapping) -> dict[str, Any]:
    """{dotted key: its value in `after`} of what differs between two configs; None for a key that
    is no more there.
    """
    one, other = (
        flatten(
            {key: value for key, value in config.items() if key not in ("run", "ckpt", "allow")}
        )
        for config in (before, after)
    )
    return {key: other.get(key) for key in {**one, **other} if one.get(key) != other.get(key)}


def refuse_changes(changed: Mapping[str, Any], settings: Mapping, run: str) -> None:
    """ConfigError for a change that the weights or the position in the data of a continued run do
    not fit.
    """
    for key, value in changed.items():
        word = f"{key}={value}"
        if key.startswith(NETWORK):
            raise ConfigError(f"{word}: a run keeps its network; {_instead(settings, run, word)}")
        if key.endswith("optimizer._target_"):
            raise ConfigError(
                f"{word}: a run keeps its optimiser, whose state it has; {_instead(settings, run, word)}"
            )
        if key.startswith("callbacks.ema.modules"):
            raise ConfigError(
                f"{word}: a run keeps what it averages; {_instead(settings, run, word)}"
            )
        if key in BEGINNING:
            raise ConfigError(
                f"{word}: takes effect when a run begins; {_instead(settings, run, word)}"
            )
        if key in ("seed", "data.seed"):
            raise ConfigError(
                f"{word}: a run keeps its seed, which orders its data; {_instead(settings, run, word)}"
            )
        if key == "data.batch_size" and any(name.startswith(PROCESSES) for name in changed):
            continue  # the batch of all processes together is compared with the checkpoint's
        if key.startswith("data.") and key.split(".")[1] not in READING:
            raise ConfigError(
                f"{word}: a run keeps its data and their order; {_instead(settings, run, word)}"
            )


def refuse_groups(words: Iterable[str], frozen: Mapping, run: str) -> None:
    """ConfigError for a `group=option` on a command line that continues the run of the config
    `frozen`.
    """
    for word in words:
        group, _, option = word.partition("=")
        if group not in GROUPS or option in ("", "null") or option.startswith("{"):
            continue
        what = GROUPS[group]
        if group in KEPT:
            raise ConfigError(f"{word}: a run keeps its {what}; {_instead(frozen, run, word)}")
        own = [key for key in flatten({group: frozen.get(group) or {}}) if key != group]
        keys = (
            f"change single keys: {', '.join(own)}"
            if own
            else f"give it by its keys: +{group}._target_=..."
        )
        raise ConfigError(
            f"{word}: groups are chosen when a run begins, and this one keeps its {what}; {keys}"
        )


def _instead(settings: Mapping, run: str, word: str) -> str:
    """What to type for a new run, from these weights where the model can."""
    name = settings.get("name")
    words = [word] if word.startswith(("model=", "experiment=")) else [f"model={name}", word]
    if "init" in (settings.get("model") or {}) and not word.startswith(
        ("experiment=", "model.init=")
    ):
        return f"to start from its weights: {shlex.join(['genlab', 'train', *words, f'model.init={run}'])}"
    return f"to train with it, start a new run: {shlex.join(['genlab', 'train', *words])}"
