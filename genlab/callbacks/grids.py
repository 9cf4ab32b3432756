"""Pictures of the same latent vectors and the same held-out images as training goes on."""

from pathlib import Path

import torch
from lightning.pytorch import Callback

from genlab.callbacks.ema import averaged_weights
from genlab.callbacks.loggers import show
from genlab.evaluation.density import density_on_grid
from genlab.ranges import PositiveInt
from genlab.report.images import save_grid, save_pairs, save_rows, with_ends
from genlab.report.points import save_points, window

__all__ = ["Grids"]

NUM_ROWS, NUM_STEPS = 8, 10  # of the interpolation picture
NUM_POINTS, GRID_SIDE = 5000, 150  # of the pictures of points


class Grids(Callback):
    """samples/fixed_<step>.png and, where the system can, reconstruction_<step>.png and
    interpolation_<step>.png.

    Every `every_num_steps` steps and after the first and last, with the averaged weights. num:
    images in the fixed grid. Real images are of the validation split, the same each time. Of
    points: held-out ones, samples and the density.
    """

    def __init__(self, every_num_steps: PositiveInt = 500, num: PositiveInt = 64):
        self.every_num_steps, self.num = every_num_steps, num
        self.drawn_step = -1

    def on_train_batch_end(self, trainer, system, outputs, batch, batch_idx) -> None:
        if trainer.global_step % self.every_num_steps == 0 or trainer.global_step == 1:
            self._draw(trainer, system)

    def on_step_end(self, trainer, system, ended: bool) -> None:
        if ended:
            self._draw(trainer, system)

    def on_train_end(self, trainer, system) -> None:
        self._draw(trainer, system)

    def _draw(self, trainer, system) -> None:
        step = trainer.global_step
        if step == self.drawn_step or not trainer.is_global_zero:
            return
        self.drawn_step, folder = step, Path(trainer.default_root_dir) / "samples"
        if system.modality == "point":
            self._draw_points(trainer, system, folder / f"fixed_{step:06d}.png")
        else:
            self._draw_images(trainer, system, folder, step)
        for path in sorted(folder.glob(f"*_{step:06d}.png")):
            show(trainer.loggers, f"samples/{path.stem.rpartition('_')[0]}", path, step)

    def _draw_images(self, trainer, system, folder: Path, step: int) -> None:
        with averaged_weights(trainer, system), torch.no_grad():
            if hasattr(system, "sample"):
                save_grid(system.sample(self.num, seed=0), folder / f"fixed_{step:06d}.png")
            batch = trainer.datamodule.pick("val", self.num)
            held_out, labels = batch["image"], {}
            if getattr(system, "num_classes", 0):
                labels = {"labels": batch["label"]}
            if (
                hasattr(system, "reconstruct")
                and getattr(system, "invertible", True)
                and len(held_out)
            ):
                save_pairs(
                    held_out,
                    system.reconstruct(held_out, **labels),
                    folder / f"reconstruction_{step:06d}.png",
                )
            if hasattr(system, "interpolate") and len(held_out) > 1:
                start, end = (
                    held_out[: len(held_out) // 2 * 2][: 2 * NUM_ROWS]
                    .unflatten(0, (-1, 2))
                    .unbind(1)
                )
                labels = {name: value[0::2][: len(start)] for name, value in labels.items()}
                rows = with_ends(start, system.interpolate(start, end, NUM_STEPS, **labels), end)
                save_rows(rows, folder / f"interpolation_{step:06d}.png")

    def _draw_points(self, trainer, system, path: Path) -> None:
        points = trainer.datamodule.pick("val", NUM_POINTS)["point"]
        view = window(points)
        with averaged_weights(trainer, system):
            panels = {"held out": points, "samples": system.sample(NUM_POINTS, seed=0)}
            if hasattr(system, "log_prob"):
                panels["density"] = density_on_grid(system, view, GRID_SIDE)
            save_points(panels, path, view)
