"""Progressive growing: the size that the networks work at, as a function of the images seen."""

import math

from lightning.pytorch import Callback

from genlab.nn import staged
from genlab.ranges import PositiveInt
from genlab.training.distributed import check_unused

__all__ = ["Growing"]

NETWORKS = ("generator", "discriminator")


class Growing(Callback):
    """Trains at a small size first and fades in larger ones, up to the full size.

    The real images grow with the networks. The level (see genlab.nn.staged) depends only on the
    images seen before the step, which follow from `global_step`, so a resume needs no state.

    "Progressive Growing of GANs for Improved Quality, Stability, and Variation", Karras et al.
    2018, arXiv 1710.10196, appendix A (600,000 images for each phase, from 4x4).

    Args:
        train_images: Images seen at one size.
        fade_images: Images seen while the next size fades in.
        start_size: The first size in pixels: 4, 8, 16, ...
        reset_optimizer: Clear the optimiser's moments whenever a size comes or goes, as the paper's
            code does.

    Raises:
        ValueError: A number is out of range, the start size is not one of the networks' sizes, or a
            network cannot grow.
    """

    def __init__(
        self,
        train_images: PositiveInt,
        fade_images: PositiveInt,
        start_size: PositiveInt = 4,
        reset_optimizer: bool = True,
    ):
        if min(train_images, fade_images) < 0 or not train_images + fade_images:
            raise ValueError(
                f"callbacks.growing.train_images={train_images}, fade_images={fade_images}: "
                "expected numbers of 0 or more, not both 0"
            )
        if start_size < 4 or start_size & (start_size - 1):
            raise ValueError(f"callbacks.growing.start_size={start_size}: expected 4, 8, 16, ...")
        self.train_images = train_images
        self.fade_images = fade_images
        self.start_size = start_size
        self.reset_optimizer = reset_optimizer
        self.start = start_size.bit_length() - 3
        self.top = math.inf  # known once the networks are

    def level(self, images_seen: int) -> float:
        """The level after `images_seen` images."""
        num_grown, rest = divmod(images_seen, self.train_images + self.fade_images)
        faded = max(0, rest - self.train_images) / max(1, self.fade_images)
        return min(self.start + num_grown + faded, self.top)

    def on_fit_start(self, trainer, system) -> None:
        children = dict(system.named_children())
        self.networks = [children.get(name) for name in NETWORKS]
        for name, network in zip(NETWORKS, self.networks, strict=True):
            if not isinstance(network, staged.Growing):
                kind = f"{type(network).__module__}.{type(network).__name__}"
                raise ValueError(
                    f"callbacks=growing: net.{name} is a {kind}, which cannot grow; use "
                    "net=growing_dcgan, net=growing_stylegan or net=pggan, or callbacks=default"
                )
        sizes = self.networks[0].sizes
        if self.start_size not in sizes:
            expected = ", ".join(map(str, sizes))
            raise ValueError(
                f"callbacks.growing.start_size={self.start_size}: expected one of {expected}"
            )
        self.top = len(sizes) - 1
        check_unused(trainer, "callbacks=growing: each level uses some of the parameters only")

    def on_train_batch_start(self, trainer, system, batch, batch_idx) -> None:
        images_per_step = len(batch["image"]) * trainer.world_size * trainer.accumulate_grad_batches
        level = self.level(trainer.global_step * images_per_step)
        before = self.level(max(0, trainer.global_step - 1) * images_per_step)
        if self.reset_optimizer and _sizes_in_use(level) != _sizes_in_use(before):
            for optimizer in trainer.optimizers:
                optimizer.state.clear()
        for network in self.networks:
            network.set_level(level)
        batch["image"] = system.discriminator.at_level(batch["image"])
        system.log("train/level", level, rank_zero_only=True)


def _sizes_in_use(level: float) -> tuple[int, int]:
    return math.floor(level), math.ceil(level)
