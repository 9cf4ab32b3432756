"""`genlab encode run=<dir> input=photos/ out=codes.npz`: the codes of images or points."""

from functools import partial
from pathlib import Path

import numpy as np
import torch

from genlab import config, runs
from genlab.commands import options
from genlab.commands.conditional import encode_conditional
from genlab.commands.data import require_own_data, require_split, tell
from genlab.commands.eval import pick_device, require_run, require_verb, with_vocabulary
from genlab.commands.text import encode_texts, refuse
from genlab.console import progress
from genlab.data.images.folder import read_images
from genlab.data.points import read_points
from genlab.systems.latent.inversion import invert
from genlab.tensors import save_arrays

__all__ = ["run"]


def run(cfg, run_dir: Path, overrides: list[str], sweep: bool = False) -> None:
    """Writes an .npz: `codes` (N, D) float32, `paths` or `ids`, `labels` where known, `log_prob`
    (N,) where asked for.
    """
    settings = options.read("encode", cfg, overrides)
    run_path = require_run(settings, "encode")
    if (settings["input"] is None) == (settings["split"] is None):
        raise config.ConfigError(
            "give either input=<folder, zip, image or npz> or split=train|val|test"
        )
    system = runs.load(
        run_path,
        settings["ckpt"],
        settings["weights"],
        pick_device(settings["device"]),
        settings["allow"],
    )
    refuse("encode", system, overrides)
    if "on_error" in options.given(overrides) and settings["input"] is None:
        raise config.ConfigError(
            "on_error: has no effect with split=; it is for input= (data.on_error= for the run's data)"
        )
    if system.modality == "text":
        write = encode_conditional if hasattr(system, "condition") else encode_texts
        data = options.build_data(settings | {"data": with_vocabulary(settings["data"], run_path)})
        if settings["split"]:
            set_up(data, settings["split"], run_path, overrides)
        return write(system, data, settings, run_dir)
    method = settings["method"]
    useful = {"label": method == "optimize", "seed": method == "optimize" or settings["log_prob"]}
    for name in useful.keys() & options.given(overrides):
        if not useful[name]:
            raise config.ConfigError(f"{name}={settings[name]}: has no effect here; it is for method=optimize"
                                     f"{' and log_prob=true' if name == 'seed' else ''}")  # fmt: skip
    require_verb(system, "encode" if method == "encoder" else "generator")
    if settings["log_prob"]:
        require_verb(system, "log_prob")
    tolerance = {} if settings["tolerance"] is None else {"tolerance": settings["tolerance"]}
    if tolerance and not hasattr(system, "stored_codes"):
        raise config.ConfigError(
            f"tolerance={settings['tolerance']}: {type(system).__name__} does not encode by descent"
        )
    data = options.build_data(settings)
    if hasattr(system, "bind"):
        system.bind(data)
    arrays: dict[str, np.ndarray] = {}
    if settings["input"] and system.modality == "point":
        points = read_points(settings["input"])
        if points.shape[1] != system.latent_dim:
            raise config.ConfigError(
                f"input={settings['input']}: expected {system.latent_dim} numbers a point"
            )
        batches, arrays["ids"] = points.split(settings["batch_size"]), np.arange(len(points))
    elif settings["input"]:
        shape = {
            "image_size": data.image_size,
            "channels": data.channels,
            "crop": data.crop,
            "resize": data.resize,
        }
        images, paths, skipped = read_images(
            settings["input"], **shape, on_error=settings["on_error"]
        )
        batches = (batch.float() / 127.5 - 1 for batch in images.split(settings["batch_size"]))
        arrays["paths"] = np.array(paths)
        if skipped:
            print(f"skipped  {len(skipped)} unreadable: {', '.join(map(str, skipped[:5]))}")
    else:
        own = set_up(data, settings["split"], run_path, overrides)
        table = data.arrays(settings["split"])
        batches = (
            batch[system.modality]
            for batch in data.loader(settings["split"], settings["batch_size"])
        )
        arrays["ids"] = np.arange(len(table))
        if getattr(table, "labels", None) is not None:
            arrays["labels"] = np.asarray(table.labels)
    if hasattr(system, "stored_codes"):
        stored = method == "encoder" and settings["split"] == "train" and own
        find = partial(system.encode, **tolerance)
    else:
        stored = False
        optimize = partial(optimized, system, label=settings["label"], seed=settings["seed"])
        find = system.encode if method == "encoder" else optimize
    codes, log_probs = [system.stored_codes().cpu()] if stored else [], []
    for i, batch in enumerate(() if stored else batches):
        codes.append(find(batch).cpu())
        if settings["log_prob"]:
            log_probs.append(system.log_prob(batch, seed=settings["seed"] + i).cpu())
    arrays["codes"] = torch.cat(codes).float().numpy()
    if log_probs:
        arrays["log_prob"] = torch.cat(log_probs).numpy()
    out = Path(settings["out"] or run_dir / "codes.npz")
    if out.suffix != ".npz":
        raise config.ConfigError(f"out={out}: expected a name that ends in .npz")
    save_arrays(out, **arrays)
    print(
        f"codes    {out}  {arrays['codes'].shape[0]} x {arrays['codes'].shape[1]}, with {', '.join(arrays)}"
    )


def set_up(data, split: str, run_path: Path, overrides: list[str]) -> bool | None:
    """Reads `data`, of which `split` is encoded; whether they are those that the run was trained
    on, None: not known.
    """
    data.prepare_data()
    data.setup()
    tell(data)
    require_split(data, split, needed=1)
    return require_own_data(run_path, data, overrides)


def optimized(system, images: torch.Tensor, label, seed: int) -> torch.Tensor:
    """The codes of one batch by optimisation, with its progress."""
    with progress() as bar:
        task = bar.add_task(f"optimising {len(images)} codes", total=None)
        if label is not None and not hasattr(system, "labels"):
            raise config.ConfigError(f"label={label}: {type(system).__name__} knows no labels")
        labels = system.labels(len(images), label) if hasattr(system, "labels") else None
        return invert(
            system,
            images,
            labels,
            seed=seed,
            progress=lambda done: bar.update(task, completed=done, total=1200),
        )
