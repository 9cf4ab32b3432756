"""The data of a run: what is said of them, and whether they are still those that it was trained on."""

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
    "require_own_data",
    "require_split",
    "tell",
    "trained_on",
]

SPLITS = ("train", "val", "test")
# What changes neither the examples of a split nor what they hold, only how they are read.
HOW_READ = {
    "batch_size",
    "num_workers",
    "resident",
    "flip",
    "seed",
    "on_error",
    "download",
    "masks",
    "processes",
}
HOW_READ |= {"pad_to_multiple_of", "vocab", "simplified"}
LEAST = {
    "image": 2
}  # examples that a split needs to be measured; of images, statistics are compared
ASIDE = "examples that this run was trained on may be measured as held out"


def describe_data(data) -> dict[str, Any]:
    """What the manifest says of `data`, set up: name, fingerprint, splits, and classes and what was
    left out, if any.
    """
    about: dict[str, Any] = {"name": data.name, "fingerprint": data.fingerprint()}
    about["splits"] = {split: data.describe(split) for split in SPLITS}
    about |= {"classes": list(data.classes)} if getattr(data, "classes", None) else {}
    return about | ({"left_out": dict(data.left_out)} if getattr(data, "left_out", None) else {})


def tell(data, more: Sequence[str] = ()) -> None:
    """Says on stderr what a user should know of `data`: files left out, splits, classes; and the
    lines `more`.
    """
    for line in [*(f"{data.name}: {note}" for note in getattr(data, "notes", ())), *more]:
        print(line, file=sys.stderr)


def fit_to_data(settings: dict[str, Any], data) -> tuple[dict[str, Any], list[str]]:
    """`settings` of a run as `data`, set up, allow: (settings, what is left out and why, a line
    each).

    A model that knows classes learns their names; what needs a split without examples is left out,
    or refused where the user asked for it by name. Raises ConfigError.
    """
    model, lines = settings["model"], []
    if model.get("num_classes") and getattr(data, "classes", None):
        known = config.parameters(config.locate(model["_target_"], settings["allow"]))
        if "classes" in known:
            settings = settings | {"model": model | {"classes": list(data.classes)}}
    wanted = settings.get("optimized_metric") or ""
    counts = {split: data.describe(split)["count"] for split in ("val", "test")}
    least = LEAST.get(getattr(data, "modality", None), 1)
    for split, uses in {"val": "validation, best.ckpt", "test": "evaluation"}.items():
        needed = least if split == "test" else 1
        if counts[split] >= needed:
            continue
        has = f"{data.name} has {counts[split]} examples in its {split} split"
        if wanted.startswith(f"{split}/"):
            raise ConfigError(
                f"optimized_metric={wanted}: {has}, {needed} or more are needed; {_more(data, split)}"
            )
        if split == "val":
            lines.append(f"no {uses}: {has}; {_more(data, split)}")
        elif settings["evaluate"]:
            settings = settings | {"evaluate": False}
            lines.append(
                f"no {uses} at the end: {has}, {needed} or more are needed; {_more(data, split)}"
            )
    return settings, lines


def require_split(data, split: str, key: str = "split", needed: int | None = None) -> None:
    """ConfigError if `split` of `data`, set up, has fewer than `needed` examples; None: too few to
    be measured.
    """
    if split not in SPLITS:
        raise ConfigError(
            f"{key}={split}: expected one of {', '.join(SPLITS)}.{config.closest(str(split), SPLITS)}"
        )
    needed = LEAST.get(getattr(data, "modality", None), 1) if needed is None else needed
    counts = {name: data.describe(name)["count"] for name in SPLITS}
    if counts[split] < needed:
        others = " or ".join(f"split={name}" for name in SPLITS if counts[name] >= needed)
        raise ConfigError(
            f"{key}={split}: {data.name} has {counts[split]} examples there, {needed} or more are needed; choose {others}, "
            f"or data with a larger {split} split"
        )


def _more(data, split: str) -> str:
    key = data.split_key(split)
    return f"set data.{key} to hold more out" if key else "choose data with such a split"


def trained_on(run_path: Path, data) -> bool | None:
    """Whether `data` are those that the run was trained on, so that what it stored for them holds;
    None: not known.
    """
    try:
        about = runs.read_manifest(run_path).get("data")
    except RunError:
        return None
    known = about.get("fingerprint") if isinstance(about, Mapping) else None
    return None if known is None else known == data.fingerprint()


def require_own_data(run_path: Path, data, overrides: Sequence[str]) -> bool | None:
    """Whether `data`, set up, are those that the run was trained on; None where the run does not
    say.

    Data that have changed since then are refused. Others that the command line names are used, and
    it is said: what they hold may have been trained on. Raises ConfigError.
    """
    own = trained_on(run_path, data)
    if own:
        return own
    named = [word for word in overrides if _names_data(word)]
    if own is None:
        tell_aside(f"{run_path}: it does not say which data it was trained on; {ASIDE}")
    elif named:
        tell_aside(
            f"{' '.join(named)}: not the data or the splits that {run_path} was trained on; {ASIDE}"
        )
    else:
        before = runs.read_manifest(run_path)["data"]
        raise ConfigError(
            f"data: {_difference(before, data)}, so {ASIDE}. Put the same data back; or, to use these all the same, "
            f"name them: {_by_name(data)}"
        )
    return own


def tell_aside(line: str) -> None:
    """A warning on stderr."""
    print(f"warning: {line}", file=sys.stderr)


def _names_data(word: str) -> bool:
    key = key_of(word)
    return key in ("data", "data@_global_") or (
        key.startswith("data.") and key.split(".")[1] not in HOW_READ
    )


def _difference(before: Mapping[str, Any], data) -> str:
    """How `data` differ from what the manifest says of those of the run, as far as it says."""
    counts = []
    for split, about in (before.get("splits") or {}).items():
        then, now = about.get("count"), data.describe(split)["count"]
        counts += [f"{split} {then} -> {now}"] if then != now else []
    changed = f" ({', '.join(counts)})" if counts else ""
    return (
        f"the run was trained on {before.get('name')} with fingerprint {before['fingerprint']}, and {data.name} now has "
        f"{data.fingerprint()}{changed}"
    )


def _by_name(data) -> str:
    path = getattr(data, "path", None) or getattr(data, "paths", {}).get("path")
    return f"data.path={path}" if isinstance(path, str) else f"data={data.name}"
