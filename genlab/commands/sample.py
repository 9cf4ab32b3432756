"""`genlab sample run=<dir>`: images or points from a trained run, as a PNG, a GIF and an .npz."""

from pathlib import Path

import torch

from genlab import config, runs
from genlab.commands import options
from genlab.commands.conditional import sample_conditional
from genlab.commands.data import require_own_data
from genlab.commands.eval import choose_sampler, pick_device, require_run, require_verb, taken
from genlab.commands.text import refuse, sample_texts
from genlab.data.images.folder import read_images
from genlab.data.points import read_points
from genlab.evaluation.density import density_on_grid
from genlab.report.images import save_gif, save_grid, save_pairs, save_rows, with_ends
from genlab.report.points import save_lines, save_points, window
from genlab.tensors import save_arrays

__all__ = ["require_verb", "run"]

MODES_OF = {  # in which alone an option has an effect
    "scale": ("grid", "walk", "reconstruct"),
    "temperature": ("grid", "walk"),
    "sampler": ("grid", "walk"),
    "steps": ("interpolate", "walk"),
    "input": ("reconstruct", "interpolate"),
    "data": ("reconstruct", "interpolate"),
}
GRID_SIDE = 300  # of the density beside points


def run(cfg, run_dir: Path, overrides: list[str], sweep: bool = False) -> None:
    """Writes <out>/<mode>.png (walk: .gif) and <mode>.npz, out being `run_dir` unless given; prints
    where.
    """
    settings = options.read("sample", cfg, overrides)
    run_path = require_run(settings, "sample")
    system = runs.load(
        run_path,
        settings["ckpt"],
        settings["weights"],
        pick_device(settings["device"]),
        settings["allow"],
    )
    refuse("sample", system, overrides)
    if system.modality == "text":
        if hasattr(system, "condition"):
            return sample_conditional(system, settings, run_dir, overrides)
        return sample_texts(system, settings, run_dir)
    mode, num, seed, scale = settings["mode"], settings["num"], settings["seed"], settings["scale"]
    given = options.given(overrides)
    for name, useful in MODES_OF.items():
        if name in given and settings[name] is not None and mode not in useful:
            modes = " or ".join(useful)
            raise config.ConfigError(
                f"{name}={settings[name]}: has no effect with mode={mode}; it is for mode={modes}"
            )
    choose_sampler(system, settings["sampler"])
    if settings["standing"]:
        require_verb(system, "stand")
        system.stand(settings["standing"])
    points = system.modality == "point"
    if points and mode == "walk":
        raise config.ConfigError(
            "mode=walk: draws images, and this is a model of points; use mode=interpolate"
        )
    out = Path(settings["out"] or run_dir)
    arrays: dict[str, torch.Tensor] = {}

    if mode == "grid":
        require_verb(system, "sample")
        found = system.sample(num, seed=seed, **taken(system.sample, settings))
        picture = (
            save_grid(found, out / "grid.png")
            if not points
            else draw_points(system, found, out / "grid.png")
        )
        arrays["points" if points else "images"] = found
    elif mode == "walk":
        require_verb(system, "sample")
        given = taken(system.sample, settings)
        label = given.pop("label", None)
        frames = walk(system, num, settings["steps"] or 24, seed, label, **given)
        picture, arrays["images"] = save_gif(frames, out / "walk.gif"), frames
    elif mode == "reconstruct":
        require_verb(system, "reconstruct")
        x, labels = real_inputs(settings, system, num, run_path, overrides)
        found = system.reconstruct(x, scale, **labels).cpu()
        if points:
            picture = save_points(
                {"points": x, "reconstructions": found}, out / "reconstruct.png", window(x)
            )
        else:
            picture = save_pairs(x, found, out / "reconstruct.png")
        arrays |= {"points" if points else "images": x, "reconstructions": found}
    else:
        require_verb(system, "interpolate")
        x, labels = real_inputs(settings, system, 2 * num, run_path, overrides)
        start, end, labels = x[0::2], x[1::2], {name: y[0::2] for name, y in labels.items()}
        rows = with_ends(
            start,
            system.interpolate(start, end, settings["steps"] or (50 if points else 10), **labels),
            end,
        )
        picture = (save_lines if points else save_rows)(rows, out / "interpolate.png")
        arrays["points" if points else "images"] = rows
    save_arrays(
        out / f"{mode}.npz", **{name: value.cpu().numpy() for name, value in arrays.items()}
    )
    print(
        f"picture  {picture}\narrays   {out / f'{mode}.npz'}  (float32{'' if points else ' in [-1, 1]'})"
    )


def draw_points(system, points: torch.Tensor, path: Path) -> Path:
    """A picture of points (N, D) by their first two numbers, beside the model's density where it
    has one of the plane.
    """
    view, panels = window(points[:, :2].cpu()), {"samples": points[:, :2]}
    if hasattr(system, "log_prob") and points.shape[1] == 2:
        panels["density"] = density_on_grid(system, view, GRID_SIDE)
    return save_points(panels, path, view)


def walk(system, num: int, steps: int, seed: int, label, **spread: float) -> torch.Tensor:
    """(T, num, C, H, W): a closed walk on straight lines through four latent vectors a cell, T = 4
    steps.

    spread: of the prior, as the model calls it (scale or temperature).
    """
    stops = torch.stack([system.prior(num, seed=4 * seed + i, **spread) for i in range(4)])
    parts = torch.linspace(0, 1, steps + 1, device=stops.device)[:-1]
    # A mean of two Gaussian vectors is shorter than either: keep the spread of the prior along the
    # line.
    lines = [(1 - t) * stops[i] + t * stops[(i + 1) % 4] for i in range(4) for t in parts]
    norms = [((1 - t) ** 2 + t**2) ** 0.5 for _ in range(4) for t in parts]
    given = (system.labels(num, label),) if hasattr(system, "labels") else ()
    return torch.stack(
        [system.decode(z / n, *given).cpu() for z, n in zip(lines, norms, strict=True)]
    )


def real_inputs(
    settings: dict, system, num: int, run_path: Path, overrides: list[str]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """`num` images (num, C, H, W) in [-1, 1] or points (num, D), and {"labels": (num,)} for a
    system that needs them.

    They are the first of input=, else drawn from the test split of the run's data; label= goes
    before the data's own.
    """
    data = options.build_data(settings)
    if hasattr(system, "bind"):  # what it searches codes by may be a network over these data
        system.bind(data)
    if settings["input"] and system.modality == "point":
        batch = {"point": read_points(settings["input"])[:num]}
    elif settings["input"]:
        shape = {
            "image_size": data.image_size,
            "channels": data.channels,
            "crop": data.crop,
            "resize": data.resize,
        }
        images, _, _ = read_images(settings["input"], **shape, on_error="raise")
        batch = {"image": images[:num].float() / 127.5 - 1}
    else:
        data.prepare_data()
        require_own_data(run_path, data, overrides)
        batch = data.pick("test", num, settings["seed"])
    found = batch[system.modality]
    if len(found) < num:
        where = f"input={settings['input']}" if settings["input"] else "the test split"
        raise config.ConfigError(
            f"num: {num} {system.modality}s are needed and {where} has {len(found)}; give a smaller num="
        )
    if not getattr(system, "num_classes", 0):
        return found, {}
    if settings["label"] is None and "label" not in batch:
        raise config.ConfigError(
            "label: this model was trained with labels, and input= has none; give label="
        )
    labels = batch["label"] if settings["label"] is None else system.labels(num, settings["label"])
    return found, {"labels": labels}
