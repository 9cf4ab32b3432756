"""`genlab sample run=<dir>`: images, points or texts from a trained run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genlab.commands import options
from genlab.commands.common import (
    bind_data,
    build_data,
    choose_sampler,
    image_form,
    load_system,
    options_for,
    recompute_statistics,
    require,
    require_run,
)
from genlab.commands.conditional import sample_conditional
from genlab.commands.data import require_own_data
from genlab.commands.text import sample_texts
from genlab.data.images.folder import read_images
from genlab.data.points import read_points
from genlab.errors import ConfigError
from genlab.evaluation.density import density_on_grid
from genlab.report.images import save_gif, save_grid, save_pairs, save_rows, with_ends
from genlab.report.points import save_lines, save_points, window
from genlab.systems.base import (
    HasConditions,
    HasLabels,
    HasLikelihood,
    Interpolates,
    Reconstructs,
    Samples,
    num_classes,
)
from genlab.tensors import save_arrays

__all__ = ["run"]

# Options that have an effect in some modes alone
MODES_OF = {
    "temperature": ("grid", "walk"),
    "code_scale": ("reconstruct",),
    "sampler": ("grid", "walk"),
    "steps": ("interpolate", "walk"),
    "input": ("reconstruct", "interpolate"),
    "data": ("reconstruct", "interpolate"),
}
NUM_STEPS = {"walk": 24, "interpolate": 10, "interpolate points": 50}  # where steps= is not given
NUM_STOPS = 4  # of a walk
GRID_SIDE = 300  # of the density beside points

Settings = Mapping[str, Any]


def run(cfg, run_dir: Path, overrides: list[str], sweep: bool = False) -> None:
    """Writes a picture and the arrays in it, or texts, and prints where.

    The files are <out>/<mode>.png (walk: .gif) and <mode>.npz, of texts <out>; out= is `run_dir`
    unless given.
    """
    settings = options.read("sample", cfg, overrides)
    run_path = require_run(settings, "sample")
    system = load_system(settings, run_path)
    options.refuse_foreign_options("sample", system, overrides)
    if system.modality != "text":
        return _draw(system, settings, run_path, run_dir, overrides)
    if isinstance(system, HasConditions):
        return sample_conditional(system, settings, run_dir, overrides)
    return sample_texts(system, settings, run_dir)


def _draw(system, settings: Settings, run_path: Path, run_dir: Path, overrides: list[str]) -> None:
    """Images or points, in the way of mode=."""
    mode, are_points = settings["mode"], system.modality == "point"
    _refuse_options_of_other_modes(settings, overrides)
    if are_points and mode == "walk":
        raise ConfigError("mode=walk: needs an image model; of points, take mode=interpolate")
    choose_sampler(system, settings["sampler"])
    recompute_statistics(system, settings["standing"])
    out, name = Path(settings["out"] or run_dir), "points" if are_points else "images"
    if mode == "grid":
        require(system, Samples, "mode=grid", "a model that samples")
        given = options_for(system.sample, settings, "temperature", "label")
        found = system.sample(settings["num"], seed=settings["seed"], **given)
        save = _save_points if are_points else _save_images
        picture, arrays = save(system, found, out / "grid.png"), {name: found}
    elif mode == "walk":
        require(system, Samples, "mode=walk", "a model that samples")
        frames = _walk(system, settings)
        picture, arrays = save_gif(frames, out / "walk.gif"), {name: frames}
    elif mode == "reconstruct":
        require(system, Reconstructs, "mode=reconstruct", "a model that reconstructs its inputs")
        given = options_for(system.reconstruct, settings, "code_scale")
        x, labels = _real_inputs(system, settings, settings["num"], run_path, overrides)
        found = system.reconstruct(x, **given, **labels).cpu()
        arrays = {name: x, "reconstructions": found}
        if are_points:
            panels = {"points": x, "reconstructions": found}
            picture = save_points(panels, out / "reconstruct.png", window(x))
        else:
            picture = save_pairs(x, found, out / "reconstruct.png")
    else:
        require(system, Interpolates, "mode=interpolate", "a model that interpolates")
        x, labels = _real_inputs(system, settings, 2 * settings["num"], run_path, overrides)
        start, end = x[0::2], x[1::2]
        labels = {key: values[0::2] for key, values in labels.items()}
        default = NUM_STEPS["interpolate points" if are_points else "interpolate"]
        between = system.interpolate(start, end, settings["steps"] or default, **labels)
        rows = with_ends(start, between, end)
        save_lines_or_rows = save_lines if are_points else save_rows
        picture, arrays = save_lines_or_rows(rows, out / "interpolate.png"), {name: rows}
    save_arrays(out / f"{mode}.npz", **{key: value.cpu().numpy() for key, value in arrays.items()})
    values = "float32" if are_points else "float32 in [-1, 1]"
    print(f"picture  {picture}\narrays   {out / f'{mode}.npz'}  ({values})")


def _refuse_options_of_other_modes(settings: Settings, overrides: Sequence[str]) -> None:
    given, mode = options.top_keys(overrides), settings["mode"]
    for name, modes in MODES_OF.items():
        if name in given and settings[name] is not None and mode not in modes:
            raise ConfigError(
                f"{name}={settings[name]}: has no effect with mode={mode}; it is for "
                f"mode={' or '.join(modes)}"
            )


def _save_images(system, images: Tensor, path: Path) -> Path:
    return save_grid(images, path)


def _save_points(system, points: Tensor, path: Path) -> Path:
    """A picture of points (N, D) by their first two numbers.

    Beside it the model's density, where it has one and the points lie in the plane.
    """
    view, panels = window(points[:, :2].cpu()), {"samples": points[:, :2]}
    if isinstance(system, HasLikelihood) and points.shape[1] == 2:
        panels["density"] = density_on_grid(system, view, GRID_SIDE)
    return save_points(panels, path, view)


def _walk(system, settings: Settings) -> Tensor:
    """Frames (T, num, C, H, W) of a closed walk through four codes a cell, T = 4 steps."""
    num, seed = settings["num"], settings["seed"]
    given = options_for(system.sample, settings, "temperature", "label")
    label = given.pop("label", None)
    seeds = range(NUM_STOPS * seed, NUM_STOPS * (seed + 1))
    stops = torch.stack([system.prior(num, seed=one, **given) for one in seeds])
    num_steps = settings["steps"] or NUM_STEPS["walk"]
    fractions = torch.linspace(0, 1, num_steps + 1, device=stops.device)[:-1]
    labels = (system.labels(num, label),) if isinstance(system, HasLabels) else ()
    frames = []
    for i in range(NUM_STOPS):
        for t in fractions:
            codes = (1 - t) * stops[i] + t * stops[(i + 1) % NUM_STOPS]
            # A weighted mean of two Gaussian vectors is shorter than either; this keeps the
            # spread of the prior along the line.
            codes = codes / ((1 - t) ** 2 + t**2) ** 0.5
            frames.append(system.decode(codes, *labels).cpu())
    return torch.stack(frames)


def _real_inputs(
    system, settings: Settings, num: int, run_path: Path, overrides: Sequence[str]
) -> tuple[Tensor, dict[str, Tensor]]:
    """`num` real images (num, C, H, W) in [-1, 1] or points (num, D).

    They are the first of input=, or drawn from the test split of the run's data.

    Returns:
        The inputs, and {"labels": (num,)} for a system trained with labels: those of label=, or
        else of the data.
    """
    data = build_data(settings)
    bind_data(system, data)
    if settings["input"] and system.modality == "point":
        batch = {"point": read_points(settings["input"])[:num]}
    elif settings["input"]:
        images, _, _ = read_images(settings["input"], **image_form(data), on_error="raise")
        batch = {"image": images[:num].float() / 127.5 - 1}
    else:
        data.prepare_data()
        require_own_data(run_path, data, overrides)
        batch = data.pick("test", num, settings["seed"])
    found = batch[system.modality]
    if len(found) < num:
        where = f"input={settings['input']}" if settings["input"] else "the test split"
        raise ConfigError(
            f"num: {num} {system.modality}s are needed and {where} has {len(found)}; give a "
            "smaller num="
        )
    if not num_classes(system):
        return found, {}
    if settings["label"] is not None:
        return found, {"labels": system.labels(num, settings["label"])}
    if "label" not in batch:
        raise ConfigError(
            "label: this model was trained with labels, and input= has none; give label="
        )
    return found, {"labels": batch["label"]}
