"""What a run that is continued may change: not its network, its data or their order."""

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from genlab.config.keys import flatten
from genlab.errors import ConfigError

__all__ = ["changes", "refuse_changes", "refuse_groups"]

# Config group -> what it decides about a run
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
NEED_A_NEW_RUN = {"model", "net", "encoder", "experiment", "data"}
NETWORK = (
    "net.",
    "encoder.",
    "model.latent_dim",
    "model.num_classes",
    "model._target_",
    "model.codec.",
)
# Keys of data that say where and how data are read. They may change: the fingerprint says whether
# the data are the same.
READING = {"path", "root", "test_path", "val_path", "extra_path", "vocab", "simplified", "download"}
READING |= {"num_workers", "processes", "resident", "on_error"}
FIRST_STEP = ("model.init", "model.code_init")  # without effect after the first step
PROCESSES = ("trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.accelerator")
NOT_COMPARED = ("run", "ckpt", "allow")


def changes(before: Mapping, after: Mapping) -> dict[str, Any]:
    """Compare two configs.

    Returns:
        Dotted key -> value in `after`, for every key that differs; None for a key that `after` does
        not have.
    """
    old = flatten({key: value for key, value in before.items() if key not in NOT_COMPARED})
    new = flatten({key: value for key, value in after.items() if key not in NOT_COMPARED})
    return {key: new.get(key) for key in {**old, **new} if old.get(key) != new.get(key)}


def refuse_changes(changed: Mapping[str, Any], settings: Mapping, run: str) -> None:
    """Check what a command line changes of the run that it continues.

    Args:
        changed: As `changes` gives it.
        settings: The config with these changes.
        run: The run directory, as the user wrote it.

    Raises:
        ConfigError: The weights, or the position in the data, do not fit a change.
    """
    for key, value in changed.items():
        if why := _why_refused(key, changed):
            word = f"{key}={value}"
            raise ConfigError(f"{word}: {why}; {_alternative(settings, run, word)}")


def _why_refused(key: str, changed: Mapping[str, Any]) -> str | None:
    if key.startswith(NETWORK):
        return "a continued run keeps its network"
    if key.endswith("optimizer._target_"):
        return "a continued run keeps its optimiser, whose state is in the checkpoint"
    if key.startswith("callbacks.ema.modules"):
        return "a continued run keeps the modules that it averages"
    if key in FIRST_STEP:
        return "takes effect only when a run begins"
    if key in ("seed", "data.seed"):
        return "a continued run keeps its seed, which orders the data"
    if key == "data.batch_size" and any(name.startswith(PROCESSES) for name in changed):
        return None  # the total batch of all processes is compared with the checkpoint later
    if key.startswith("data.") and key.split(".")[1] not in READING:
        return "a continued run keeps its data and their order"
    return None


def refuse_groups(words: Iterable[str], frozen: Mapping, run: str) -> None:
    """Refuse `group=option` on a command line that continues a run.

    Args:
        words: The command line.
        frozen: The config of the run.
        run: The run directory, as the user wrote it.

    Raises:
        ConfigError: A word chooses an option of a group.
    """
    for word in words:
        group, _, option = word.partition("=")
        if group not in GROUPS or option in ("", "null") or option.startswith("{"):
            continue
        what = GROUPS[group]
        if group in NEED_A_NEW_RUN:
            raise ConfigError(
                f"{word}: a continued run keeps its {what}; {_alternative(frozen, run, word)}"
            )
        own = [key for key in flatten({group: frozen.get(group) or {}}) if key != group]
        instead = f"set single keys: {', '.join(own)}" if own else f"set +{group}._target_=..."
        raise ConfigError(f"{word}: a continued run keeps its {what}; {instead}")


def _alternative(settings: Mapping, run: str, word: str) -> str:
    """The command that trains a new run with `word`, from these weights if the model can."""
    words = [f"model={settings.get('name')}", word]
    if word.startswith(("model=", "experiment=")):
        words = [word]
    can_start_from_weights = "init" in (settings.get("model") or {})
    if can_start_from_weights and not word.startswith(("experiment=", "model.init=")):
        command = shlex.join(["genlab", "train", *words, f"model.init={run}"])
        return f"to start a new run from its weights: {command}"
    return f"to train with it, start a new run: {shlex.join(['genlab', 'train', *words])}"
