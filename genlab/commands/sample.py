"""`genlab sample run=<dir>`: images from a trained run, as a PNG grid, a GIF and an .npz."""

from pathlib import Path

import numpy as np
import torch
import yaml

from genlab import config, runs
from genlab.commands.eval import pick_device, require_run
from genlab.commands.text import refuse, sample_texts
from genlab.data import read_images
from genlab.report.images import save_gif, save_grid, save_pairs, save_rows, with_ends

__all__ = ["require_verb", "run"]

MODES = ("grid", "interpolate", "reconstruct", "walk")


def run(cfg, run_dir: Path, overrides: list[str], sweep: bool = False) -> None:
    """Writes <out>/<mode>.png (walk: .gif) and <mode>.npz, out being `run_dir` unless given; prints where."""
    settings = config.resolve(cfg)
    run_path = require_run(settings, "sample")
    system = runs.load(run_path, settings["ckpt"], settings["weights"], pick_device(settings["device"]), settings["allow"])
    refuse("sample", system, overrides)
    if system.modality == "text":
        return sample_texts(system, settings, run_dir)
    mode, num, seed, scale = settings["mode"], settings["num"], settings["seed"], settings["scale"]
    if mode not in MODES:
        raise config.ConfigError(f"mode={mode}: expected one of {', '.join(MODES)}.{config.closest(mode, MODES)}")
    if num < 1:
        raise config.ConfigError(f"num={num}: expected 1 or more")
    for name, useful in {"scale": ("grid", "walk", "reconstruct"), "steps": ("interpolate", "walk"),
                         "input": ("reconstruct", "interpolate")}.items():  # fmt: skip
        if settings[name] is not None and mode not in useful:
            raise config.ConfigError(
                f"{name}={settings[name]}: has no effect with mode={mode}; it is for {', '.join(useful)}"
            )
    if settings["standing"]:
        require_verb(system, "stand")
        system.stand(settings["standing"])
    out = Path(settings["out"] or run_dir)
    arrays: dict[str, torch.Tensor] = {}

    if mode == "grid":
        require_verb(system, "sample")
        given = {} if settings["label"] is None else {"label": settings["label"]}
        if given and not hasattr(system, "labels"):
            raise config.ConfigError(f"label={settings['label']}: {type(system).__name__} knows no labels")
        images = system.sample(num, seed=seed, scale=1.0 if scale is None else scale, **given)
        picture, arrays["images"] = save_grid(images, out / "grid.png"), images
    elif mode == "walk":
        require_verb(system, "sample")
        frames = walk(system, num, settings["steps"] or 24, seed, 1.0 if scale is None else scale, settings["label"])
        picture, arrays["images"] = save_gif(frames, out / "walk.gif"), frames
    elif mode == "reconstruct":
        require_verb(system, "reconstruct")
        x, labels = real_images(settings, system, num)
        images = system.reconstruct(x, scale, **labels).cpu()
        picture = save_pairs(x, images, out / "reconstruct.png")
        arrays |= {"images": x, "reconstructions": images}
    else:
        require_verb(system, "interpolate")
        x, labels = real_images(settings, system, 2 * num)
        start, end, labels = x[0::2], x[1::2], {name: y[0::2] for name, y in labels.items()}
        rows = with_ends(start, system.interpolate(start, end, settings["steps"] or 10, **labels), end)
        picture, arrays["images"] = save_rows(rows, out / "interpolate.png"), rows
    np.savez_compressed(out / f"{mode}.npz", **{name: value.cpu().numpy() for name, value in arrays.items()})
    print(f"picture  {picture}\narrays   {out / f'{mode}.npz'}  (float32 in [-1, 1])")


def walk(system, num: int, steps: int, seed: int, scale: float, label) -> torch.Tensor:
    """(T, num, C, H, W): a closed walk on straight lines through four latent vectors a cell, T = 4 steps."""
    stops = torch.stack([scale * system.prior(num, seed=4 * seed + i) for i in range(4)])
    parts = torch.linspace(0, 1, steps + 1, device=stops.device)[:-1]
    # A mean of two Gaussian vectors is shorter than either: keep the spread of the prior along the line.
    lines = [(1 - t) * stops[i] + t * stops[(i + 1) % 4] for i in range(4) for t in parts]
    norms = [((1 - t) ** 2 + t**2) ** 0.5 for _ in range(4) for t in parts]
    given = (system.labels(num, label),) if hasattr(system, "labels") else ()
    return torch.stack([system.decode(z / n, *given).cpu() for z, n in zip(lines, norms, strict=True)])


def real_images(settings: dict, system, num: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """`num` images (num, C, H, W) in [-1, 1], and {"labels": (num,)} for a system that needs them.

    They are the first of input=, else drawn from the test split of the run's data; label= goes before the data's own.
    """
    data = config.build(settings["data"], settings["allow"])
    if settings["input"]:
        shape = {"image_size": data.image_size, "channels": data.channels, "crop": data.crop, "resize": data.resize}
        images, _, _ = read_images(settings["input"], **shape, on_error="raise")
        batch = {"image": images[:num].float() / 127.5 - 1}
    else:
        data.prepare_data()
        batch = data.pick("test", num, settings["seed"])
    if len(batch["image"]) < num:
        where = f"input={settings['input']}" if settings["input"] else "the test split"
        raise config.ConfigError(f"num: {num} images are needed and {where} has {len(batch['image'])}; give a smaller num=")
    if not getattr(system, "num_classes", 0):
        return batch["image"], {}
    if settings["label"] is None and "label" not in batch:
        raise config.ConfigError("label: this model was trained with labels, and input= has none; give label=")
    labels = batch["label"] if settings["label"] is None else system.labels(num, settings["label"])
    return batch["image"], {"labels": labels}


def require_verb(system, verb: str) -> None:
    """ValueError naming the models that can, unless `system` answers `verb`."""
    if hasattr(system, verb):
        return
    from importlib.resources import files

    able = []
    for entry in sorted(files("genlab.conf").joinpath("model").iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".yaml"):
            target = yaml.safe_load(entry.read_text()).get("model", {}).get("_target_")
            if target is not None and hasattr(config.locate(target), verb):  # a variant of another recipe names none
                able.append(entry.name.removesuffix(".yaml"))
    raise runs.RunError(f"{type(system).__name__} cannot {verb}; models that can: {', '.join(able) or 'none'}")
