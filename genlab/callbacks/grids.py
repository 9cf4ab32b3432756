"""Pictures during training, always of the same latent vectors and the same held-out images."""

from pathlib import Path

import torch
from lightning.pytorch import Callback
from torch import Tensor

from genlab.callbacks.ema import averaged_weights
from genlab.callbacks.loggers import show
from genlab.evaluation.density import density_on_grid
from genlab.ranges import PositiveInt
from genlab.report.images import save_grid, save_pairs, save_rows, with_ends
from genlab.report.points import save_points, window
from genlab.systems.base import HasLikelihood, Interpolates, Samples, num_classes, reconstructs

__all__ = ["Grids"]

# Of the interpolation picture
NUM_ROWS = 8
NUM_STEPS = 10
# Of the picture of points
NUM_POINTS = 5000
GRID_SIDE = 150


class Grids(Callback):
    """Draws samples/fixed_<step>.png and, where the system can, reconstructions and interpolations.

    These are samples/reconstruction_<step>.png and samples/interpolation_<step>.png, of the first
    images of the validation split. Pictures are drawn after the first and the last step and every
    `every_num_steps` steps, with the averaged weights. A system of points gets one picture of
    held-out points, samples and, where it has a likelihood, the density.

    Args:
        every_num_steps: Steps between two pictures.
        num: Images in the fixed grid, and held-out images at most.
    """

    def __init__(self, every_num_steps: PositiveInt = 500, num: PositiveInt = 64):
        self.every_num_steps = every_num_steps
        self.num = num
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
        self.drawn_step = step
        folder = Path(trainer.default_root_dir) / "samples"
        if system.modality == "point":
            self._draw_points(trainer, system, folder / f"fixed_{step:06d}.png")
        else:
            self._draw_images(trainer, system, folder, step)
        for path in sorted(folder.glob(f"*_{step:06d}.png")):
            show(trainer.loggers, f"samples/{path.stem.rpartition('_')[0]}", path, step)

    def _draw_images(self, trainer, system, folder: Path, step: int) -> None:
        with averaged_weights(trainer, system), torch.no_grad():
            if isinstance(system, Samples):
                save_grid(system.sample(self.num, seed=0), folder / f"fixed_{step:06d}.png")
            batch = trainer.datamodule.pick("val", self.num)
            held_out = batch["image"]
            labels = {"labels": batch["label"]} if num_classes(system) else {}
            if reconstructs(system) and len(held_out):
                again = system.reconstruct(held_out, **labels)
                save_pairs(held_out, again, folder / f"reconstruction_{step:06d}.png")
            if isinstance(system, Interpolates) and len(held_out) > 1:
                rows = _interpolations(system, held_out, labels)
                save_rows(rows, folder / f"interpolation_{step:06d}.png")

    def _draw_points(self, trainer, system, path: Path) -> None:
        points = trainer.datamodule.pick("val", NUM_POINTS)["point"]
        view = window(points)
        with averaged_weights(trainer, system):
            panels = {"held out": points, "samples": system.sample(NUM_POINTS, seed=0)}
            if isinstance(system, HasLikelihood):
                panels["density"] = density_on_grid(system, view, GRID_SIDE)
            save_points(panels, path, view)


def _interpolations(system, held_out: Tensor, labels: dict[str, Tensor]) -> Tensor:
    """A row (R, K, C, H, W) for each pair of neighbours in `held_out`, with both at its ends."""
    num_pairs = min(len(held_out) // 2, NUM_ROWS)
    start, end = held_out[: 2 * num_pairs].unflatten(0, (-1, 2)).unbind(1)
    labels = {name: value[0::2][:num_pairs] for name, value in labels.items()}
    return with_ends(start, system.interpolate(start, end, NUM_STEPS, **labels), end)
