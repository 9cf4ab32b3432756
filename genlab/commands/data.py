"""The data of a run: what the manifest says about them, and whether a command may use them."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genlab import config, runs
from genlab.errors import ConfigError, RunError
from genlab.overrides import key_of

__all__ = [
    "describe_data",
    "fit_to_data",
    "is_data_of_run",
    "print_notes",
    "require_own_data",
    "require_split",
    "set_up",
]

SPLITS = ("train", "val", "test")
# Options of data that change how examples are read, but neither their content nor their splits
READING_OPTIONS = {
    "batch_size",
    "download",
    "flip",
    "masks",
    "num_workers",
    "on_error",
    "pad_to_multiple_of",
    "processes",
    "resident",
    "seed",
    "simplified",
    "vocab",
}
# Examples that a split needs to be measured: statistics of images are compared, which needs two
MIN_EXAMPLES = {"image": 2}
MAY_BE_TRAINED_ON = "examples that this run was trained on may be measured as held out"


def describe_data(data) -> dict[str, Any]:
    """What the manifest says about data that are set up.

    Returns:
        name, fingerprint and splits; classes and left_out where there are any.
    """
    about: dict[str, Any] = {"name": data.name, "fingerprint": data.fingerprint()}
    about["splits"] = {split: data.describe(split) for split in SPLITS}
    if data.classes:
        about["classes"] = list(data.classes)
    if data.left_out:
        about["left_out"] = dict(data.left_out)
    return about


def print_notes(data) -> None:
    """Prints on stderr what a user should know about the data: files left out, splits, classes."""
    for note in data.notes:
        print(f"{data.name}: {note}", file=sys.stderr)


def set_up(data) -> None:
    """Reads the data and prints their notes."""
    data.prepare_data()
    data.setup()
    print_notes(data)


# --- before training ------------------------------------------------------------------------------


def fit_to_data(settings: dict[str, Any], data) -> tuple[dict[str, Any], list[str]]:
    """Fills in what the data know, and leaves out what they do not allow.

    A model with classes gets their names. Evaluation is left out where the test split is too small;
    without a validation split there is no best.ckpt.

    Args:
        settings: Of the run.
        data: The data module, set up.

    Returns:
        The new settings, and a line on each thing that is left out.

    Raises:
        ConfigError: If optimized_metric= is of a split that is too small.
    """
    lines = []
    model = settings["model"]
    known = config.parameters(config.locate(model["_target_"], settings["allow"]))
    if model.get("num_classes") and "classes" in known and data.classes:
        settings = settings | {"model": model | {"classes": list(data.classes)}}
    metric = settings.get("optimized_metric") or ""
    for split, needed in {"val": 1, "test": _min_examples(data)}.items():
        count = data.describe(split)["count"]
        if count >= needed:
            continue
        reason = f"{data.name} has {count} examples in its {split} split"
        if split == "test":
            reason += f", and {needed} or more are needed"
        cure = _how_to_enlarge(data, split)
        if metric.startswith(f"{split}/"):
            raise ConfigError(f"optimized_metric={metric}: {reason}; {cure}")
        if split == "val":
            lines.append(f"no validation and no best.ckpt: {reason}; {cure}")
        elif settings["evaluate"]:
            settings = settings | {"evaluate": False}
            lines.append(f"no evaluation at the end: {reason}; {cure}")
    return settings, lines


def require_split(data, split: str, key: str = "split", needed: int | None = None) -> None:
    """Checks that a split is large enough.

    Args:
        data: The data module, set up.
        split: train, val or test.
        key: The option that chose the split, for the message.
        needed: The least number of examples; None: enough to be measured.

    Raises:
        ConfigError: If there are fewer, or no such split; names the splits that are large enough.
    """
    if split not in SPLITS:
        hint = config.closest(str(split), SPLITS)
        raise ConfigError(f"{key}={split}: expected one of {', '.join(SPLITS)}.{hint}")
    needed = _min_examples(data) if needed is None else needed
    counts = {name: data.describe(name)["count"] for name in SPLITS}
    if counts[split] >= needed:
        return
    others = [f"split={name}" for name in SPLITS if counts[name] >= needed]
    cure = " or ".join([*others, f"data with a larger {split} split"])
    raise ConfigError(
        f"{key}={split}: {data.name} has {counts[split]} examples there, and {needed} or more are "
        f"needed; choose {cure}"
    )


def _min_examples(data) -> int:
    return MIN_EXAMPLES.get(data.modality, 1)


def _how_to_enlarge(data, split: str) -> str:
    key = data.split_key(split)
    return f"set data.{key} to hold more out" if key else "choose data with such a split"


# --- the data of a trained run --------------------------------------------------------------------


def is_data_of_run(run_path: Path, data) -> bool | None:
    """Whether a run was trained on these data; None where its manifest does not say."""
    try:
        about = runs.read_manifest(run_path).get("data")
    except RunError:
        return None
    known = about.get("fingerprint") if isinstance(about, Mapping) else None
    return None if known is None else known == data.fingerprint()


def require_own_data(run_path: Path, data, overrides: Sequence[str]) -> bool | None:
    """Checks that `data` are those that the run was trained on.

    Other data that the command line names are used, with a warning: what they hold out may have
    been trained on.

    Args:
        run_path: The run directory.
        data: The data module, set up.
        overrides: The words of the command line.

    Returns:
        Whether they are; None where the manifest does not say.

    Raises:
        ConfigError: If they have changed since, and the command line does not name them.
    """
    own = is_data_of_run(run_path, data)
    if own:
        return own
    named = [word for word in overrides if _chooses_data(word)]
    if own is None:
        _warn(f"{run_path}: it does not say which data it was trained on; {MAY_BE_TRAINED_ON}")
    elif named:
        words = " ".join(named)
        _warn(f"{words}: not the data that {run_path} was trained on; {MAY_BE_TRAINED_ON}")
    else:
        before = runs.read_manifest(run_path)["data"]
        raise ConfigError(
            f"data: {_difference(before, data)}, so {MAY_BE_TRAINED_ON}. Put the same data back; "
            f"or, to use these nevertheless, name them: {_by_name(data)}"
        )
    return own


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr)


def _chooses_data(word: str) -> bool:
    """Whether an override chooses other examples or other splits."""
    key = key_of(word)
    if key in ("data", "data@_global_"):
        return True
    return key.startswith("data.") and key.split(".")[1] not in READING_OPTIONS


def _difference(before: Mapping[str, Any], data) -> str:
    """How data differ from those that the manifest describes, as far as it describes them."""
    counts = []
    for split, about in (before.get("splits") or {}).items():
        then, now = about.get("count"), data.describe(split)["count"]
        if then != now:
            counts.append(f"{split} {then} -> {now}")
    changed = f" ({', '.join(counts)})" if counts else ""
    return (
        f"the run was trained on {before.get('name')} with fingerprint {before['fingerprint']}, "
        f"and {data.name} now has {data.fingerprint()}{changed}"
    )


def _by_name(data) -> str:
    """The override that names these data."""
    path = getattr(data, "path", None) or getattr(data, "paths", {}).get("path")
    return f"data.path={path}" if isinstance(path, str) else f"data={data.name}"
