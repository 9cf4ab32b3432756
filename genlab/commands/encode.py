"""`genlab encode run=<dir> input=photos/ out=codes.npz`: the codes of images or points."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from genlab import config, runs
from genlab.commands.conditional import encode_conditional
from genlab.commands.eval import pick_device, require_run, require_verb, trained_on
from genlab.commands.text import encode_texts, refuse
from genlab.data import read_images, read_points
from genlab.systems.inversion import invert
from genlab.tensors import save_arrays

__all__ = ["run"]


def run(cfg, run_dir: Path, overrides: list[str], sweep: bool = False) -> None:
    """Writes an .npz: `codes` (N, D) float32, `paths` or `ids`, `labels` where known, `log_prob` (N,) where asked for."""
    settings = config.resolve(cfg)
    run_path = require_run(settings, "encode")
    if (settings["input"] is None) == (settings["split"] is None):
        raise config.ConfigError("give either input=<folder, zip, image or npz> or split=train|val|test")
    system = runs.load(run_path, settings["ckpt"], settings["weights"], pick_device(settings["device"]), settings["allow"])
    refuse("encode", system, overrides)
    if settings["split"] not in (None, "train", "val", "test"):
        raise config.ConfigError(f"split={settings['split']}: expected train, val or test")
    if system.modality == "text":
        write = encode_conditional if hasattr(system, "condition") else encode_texts
        return write(system, config.build(settings["data"], settings["allow"]), settings, run_dir)
    method = settings["method"]
    if method not in ("encoder", "optimize"):
        raise config.ConfigError(
            f"method={method}: expected encoder or optimize.{config.closest(method, ('encoder', 'optimize'))}"
        )
    require_verb(system, "encode" if method == "encoder" else "generator")
    if settings["log_prob"]:
        require_verb(system, "log_prob")
    tolerance = {} if settings["tolerance"] is None else {"tolerance": settings["tolerance"]}
    if tolerance and not hasattr(system, "stored_codes"):
        raise config.ConfigError(f"tolerance={settings['tolerance']}: {type(system).__name__} does not encode by descent")
    data = config.build(settings["data"], settings["allow"])
    if hasattr(system, "bind"):
        system.bind(data)
    arrays: dict[str, np.ndarray] = {}
    if settings["input"] and system.modality == "point":
        points = read_points(settings["input"])
        if points.shape[1] != system.latent_dim:
            raise config.ConfigError(f"input={settings['input']}: expected {system.latent_dim} numbers a point")
        batches, arrays["ids"] = points.split(settings["batch_size"]), np.arange(len(points))
    elif settings["input"]:
        shape = {"image_size": data.image_size, "channels": data.channels, "crop": data.crop, "resize": data.resize}
        images, paths, skipped = read_images(settings["input"], **shape, on_error=settings["on_error"])
        batches = (batch.float() / 127.5 - 1 for batch in images.split(settings["batch_size"]))
        arrays["paths"] = np.array(paths)
        if skipped:
            print(f"skipped  {len(skipped)} unreadable: {', '.join(map(str, skipped[:5]))}")
    else:
        data.prepare_data()
        data.setup()
        table = data.arrays(settings["split"])
        batches = (batch[system.modality] for batch in data.loader(settings["split"], settings["batch_size"]))
        arrays["ids"] = np.arange(len(table))
        if getattr(table, "labels", None) is not None:
            arrays["labels"] = np.asarray(table.labels)
    if hasattr(system, "stored_codes"):
        stored = method == "encoder" and settings["split"] == "train" and trained_on(run_path, data)
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
    print(f"codes    {out}  {arrays['codes'].shape[0]} x {arrays['codes'].shape[1]}, with {', '.join(arrays)}")


def optimized(system, images: torch.Tensor, label, seed: int) -> torch.Tensor:
    """The codes of one batch by optimisation, with its progress."""
    console = Console(stderr=True)
    with Progress(*Progress.get_default_columns(), console=console, transient=True) as bar:
        task = bar.add_task(f"optimising {len(images)} codes", total=None)
        if label is not None and not hasattr(system, "labels"):
            raise config.ConfigError(f"label={label}: {type(system).__name__} knows no labels")
        labels = system.labels(len(images), label) if hasattr(system, "labels") else None
        return invert(system, images, labels, seed=seed, progress=lambda done: bar.update(task, completed=done, total=1200))
