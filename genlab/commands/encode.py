"""`genlab encode run=<dir> input=photos/ out=codes.npz`: the codes of images, points or texts."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genlab.commands import options
from genlab.commands.common import (
    bind_data,
    build_data,
    image_form,
    load_system,
    output_file,
    print_codes,
    require,
    require_run,
    with_vocabulary,
)
from genlab.commands.conditional import encode_conditional
from genlab.commands.data import require_own_data, require_split, set_up
from genlab.commands.text import encode_texts
from genlab.console import progress
from genlab.data.images.folder import read_images
from genlab.data.points import read_points
from genlab.errors import ConfigError
from genlab.systems.base import (
    Encodes,
    HasConditions,
    HasGenerator,
    HasLabels,
    HasLikelihood,
    HasStoredCodes,
)
from genlab.systems.latent.inversion import invert
from genlab.tensors import save_arrays

__all__ = ["run"]

NUM_STEPS = 1200  # of a search by `invert`: 300 steps from each of 4 starting points

Settings = Mapping[str, Any]


def run(cfg, run_dir: Path, overrides: list[str], sweep: bool = False) -> None:
    """Writes an .npz: `codes` (N, Z) float32, `paths` or `ids`, and `labels` where known.

    With log_prob=true also `log_prob` (N,), in nats.
    """
    settings = options.read("encode", cfg, overrides)
    run_path = require_run(settings, "encode")
    if (settings["input"] is None) == (settings["split"] is None):
        raise ConfigError("give either input=<folder, zip, image or npz> or split=train|val|test")
    if "on_error" in options.top_keys(overrides) and settings["input"] is None:
        raise ConfigError("on_error: has no effect with split=; for the data, give data.on_error=")
    system = load_system(settings, run_path)
    options.refuse_foreign_options("encode", system, overrides)
    if system.modality == "text":
        data = build_data({**settings, "data": with_vocabulary(settings["data"], run_path)})
        if settings["split"]:
            _set_up_split(data, settings["split"], run_path, overrides)
        encode = encode_conditional if isinstance(system, HasConditions) else encode_texts
        return encode(system, data, settings, run_dir)
    _check_options(system, settings, overrides)
    out = output_file(settings, run_dir, "codes.npz")
    data = build_data(settings)
    bind_data(system, data)
    own_data = None
    if settings["split"]:
        own_data = _set_up_split(data, settings["split"], run_path, overrides)
        batches, arrays = _of_split(system, data, settings)
    elif system.modality == "point":
        batches, arrays = _of_points(system, settings)
    else:
        batches, arrays = _of_images(data, settings)
    # Stored codes belong to the images of the training split that the run was trained on.
    of_training = own_data and settings["split"] == "train" and settings["method"] == "encoder"
    if isinstance(system, HasStoredCodes) and of_training:
        codes, log_prob = system.stored_codes().cpu(), None
    else:
        codes, log_prob = _encode(system, batches, settings)
    arrays["codes"] = codes.float().numpy()
    if log_prob is not None:
        arrays["log_prob"] = log_prob.numpy()
    save_arrays(out, **arrays)
    print_codes(out, arrays)


def _check_options(system, settings: Settings, overrides: list[str]) -> None:
    """Refuses what this model cannot do, and options that have no effect."""
    optimize, given = settings["method"] == "optimize", options.top_keys(overrides)
    if "label" in given and not optimize:
        raise ConfigError(f"label={settings['label']}: has an effect with method=optimize alone")
    if "seed" in given and not (optimize or settings["log_prob"]):
        raise ConfigError(
            f"seed={settings['seed']}: has an effect with method=optimize or log_prob=true alone"
        )
    if optimize:
        require(system, HasGenerator, "method=optimize", "a model with a generator")
    else:
        require(system, Encodes, "method=encoder", "a model with an encoder")
    if settings["log_prob"]:
        require(system, HasLikelihood, "log_prob=true", "a model with a likelihood")
    if settings["tolerance"] is not None:
        option = f"tolerance={settings['tolerance']}"
        require(system, HasStoredCodes, option, "a model that encodes by descent")
    if settings["label"] is not None:
        require(system, HasLabels, f"label={settings['label']}", "a model with labels")


def _set_up_split(data, split: str, run_path: Path, overrides: list[str]) -> bool | None:
    """Reads the data; returns whether the run was trained on them, None where it is not known."""
    set_up(data)
    require_split(data, split, needed=1)
    return require_own_data(run_path, data, overrides)


# --- what is encoded: batches of inputs, and the arrays that go beside their codes ----------------


def _of_split(system, data, settings: Settings) -> tuple[Iterable[Tensor], dict[str, np.ndarray]]:
    table = data.arrays(settings["split"])
    arrays = {"ids": np.arange(len(table))}
    if getattr(table, "labels", None) is not None:
        arrays["labels"] = np.asarray(table.labels)
    loader = data.loader(settings["split"], settings["batch_size"])
    return (batch[system.modality] for batch in loader), arrays


def _of_points(system, settings: Settings) -> tuple[Iterable[Tensor], dict[str, np.ndarray]]:
    points = read_points(settings["input"])
    if points.shape[1] != system.latent_dim:
        raise ConfigError(
            f"input={settings['input']}: expected {system.latent_dim} numbers a point, as the "
            f"model has, and found {points.shape[1]}"
        )
    return points.split(settings["batch_size"]), {"ids": np.arange(len(points))}


def _of_images(data, settings: Settings) -> tuple[Iterable[Tensor], dict[str, np.ndarray]]:
    on_error = settings["on_error"]
    images, paths, skipped = read_images(settings["input"], **image_form(data), on_error=on_error)
    if skipped:
        print(f"skipped  {len(skipped)} unreadable: {', '.join(map(str, skipped[:5]))}")
    batches = (batch.float() / 127.5 - 1 for batch in images.split(settings["batch_size"]))
    return batches, {"paths": np.array(paths)}


# --- their codes ----------------------------------------------------------------------------------


def _encode(system, batches: Iterable[Tensor], settings: Settings) -> tuple[Tensor, Tensor | None]:
    """The codes (N, Z) of all batches and, if log_prob=true, log p (N,), on the CPU."""
    encode = _encoder(system, settings)
    codes, log_prob = [], []
    for i, batch in enumerate(batches):
        codes.append(encode(batch).cpu())
        if settings["log_prob"]:
            log_prob.append(system.log_prob(batch, seed=settings["seed"] + i).cpu())
    return torch.cat(codes), torch.cat(log_prob) if log_prob else None


def _encoder(system, settings: Settings) -> Callable[[Tensor], Tensor]:
    """What turns a batch into its codes."""
    if isinstance(system, HasStoredCodes):
        # Its encode is a search already, by the distance that the model was trained with.
        tolerance = settings["tolerance"]
        return system.encode if tolerance is None else partial(system.encode, tolerance=tolerance)
    if settings["method"] == "encoder":
        return system.encode
    return partial(_optimize, system, label=settings["label"], seed=settings["seed"])


def _optimize(system, images: Tensor, label: Any, seed: int) -> Tensor:
    """The codes of one batch of images by optimisation, with a progress bar."""
    labels = system.labels(len(images), label) if isinstance(system, HasLabels) else None
    with progress() as bar:
        task = bar.add_task(f"optimising {len(images)} codes", total=NUM_STEPS)

        def show(done: int) -> None:
            bar.update(task, completed=done)

        return invert(system, images, labels, seed=seed, progress=show)
