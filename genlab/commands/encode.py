"""`genlab encode run=<dir> input=photos/ out=codes.npz`: the codes of images."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from genlab import config, runs
from genlab.commands.eval import pick_device, require_run
from genlab.commands.sample import require_verb
from genlab.commands.text import encode_texts, refuse
from genlab.data import read_images
from genlab.systems.inversion import invert

__all__ = ["run"]


def run(cfg, run_dir: Path, overrides: list[str], sweep: bool = False) -> None:
    """Writes an .npz with `codes` (N, D) float32 and `paths` or `ids`, and `labels` where known; prints where."""
    settings = config.resolve(cfg)
    run_path = require_run(settings, "encode")
    if (settings["input"] is None) == (settings["split"] is None):
        raise config.ConfigError("give either input=<folder, zip, image or npz> or split=train|val|test")
    system = runs.load(run_path, settings["ckpt"], settings["weights"], pick_device(settings["device"]), settings["allow"])
    refuse("encode", system, overrides)
    if settings["split"] not in (None, "train", "val", "test"):
        raise config.ConfigError(f"split={settings['split']}: expected train, val or test")
    if system.modality == "text":
        return encode_texts(system, config.build(settings["data"], settings["allow"]), settings, run_dir)
    method = settings["method"]
    if method not in ("encoder", "optimize"):
        raise config.ConfigError(
            f"method={method}: expected encoder or optimize.{config.closest(method, ('encoder', 'optimize'))}"
        )
    require_verb(system, "encode" if method == "encoder" else "generator")
    data = config.build(settings["data"], settings["allow"])
    arrays: dict[str, np.ndarray] = {}
    if settings["input"]:
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
        batches = (batch["image"] for batch in data.loader(settings["split"], settings["batch_size"]))
        arrays["ids"] = np.arange(len(table))
        if table.labels is not None:
            arrays["labels"] = np.asarray(table.labels)
    find = (
        system.encode if method == "encoder" else partial(optimized, system, label=settings["label"], seed=settings["seed"])
    )
    arrays["codes"] = torch.cat([find(batch).cpu() for batch in batches]).numpy()
    out = Path(settings["out"] or run_dir / "codes.npz")
    if out.suffix != ".npz":
        raise config.ConfigError(f"out={out}: expected a name that ends in .npz")
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out, **arrays)
    print(f"codes    {out}  {arrays['codes'].shape[0]} x {arrays['codes'].shape[1]}, with {', '.join(arrays)}")


def optimized(system, images: torch.Tensor, label, seed: int) -> torch.Tensor:
    """The codes of one batch by optimisation, with its progress."""
    console = Console(stderr=True)
    with Progress(*Progress.get_default_columns(), console=console, transient=True) as bar:
        task = bar.add_task(f"optimising {len(images)} codes", total=None)
        labels = system.labels(len(images), label)
        return invert(system, images, labels, seed=seed, progress=lambda done: bar.update(task, completed=done, total=1200))
