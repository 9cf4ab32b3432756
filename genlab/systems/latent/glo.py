"""GLO: a generator trained with one free latent code for each training image, and no adversary."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from genlab.metrics.neighbours import nearest
from genlab.nn.norm import batch_statistics, standing_statistics
from genlab.ranges import Decay, NonNegativeFloat, NonNegativeInt, PositiveInt
from genlab.systems.latent.codes import Codes, check_parts, draw, initial_codes
from genlab.systems.latent.inversion import refine

__all__ = ["GLO"]


class GLO(LightningModule):
    """min over G and all z_i of the mean of d(G(z_i), x_i), the codes z_i (latent_dim,) on the unit
    sphere or in its ball.

    "Optimizing the Latent Space of Generative Networks", Bojanowski et al. 2017, arXiv 1707.05776,
    as the first stage of GLANN, Hoshen and Malik 2019, arXiv 1812.08985 (yedidh/glann), has it. New
    codes are drawn from a Gaussian of full covariance fitted to the stored ones.

    net: {"generator": ...}. loss: a distance of genlab.losses.reconstruction. optimizer: called
    with the networks' groups.
    code_init: normal (random) or pca (principal components). space: sphere (projected after each
    pass) or ball (after each step). halve_every: passes after which both rates are halved; 0 for
    never. reset_optimizer: forget all moments at every pass, as the released code does.
    batch_statistics: generate with the batch's own batch norm statistics, as it does.
    """

    modality = "image"
    samplers: tuple[str, ...] = ("gaussian",)

    def __init__(
        self,
        net: Mapping[str, nn.Module],
        loss: Callable[[Tensor, Tensor], Tensor],
        latent_dim: PositiveInt,
        optimizer: Callable[..., torch.optim.Optimizer],
        generator_lr: NonNegativeFloat = 1e-3,
        code_lr: NonNegativeFloat = 1e-2,
        code_init: Literal["normal", "pca"] = "normal",
        code_betas: tuple[Decay, Decay] = (0.5, 0.999),
        space: Literal["sphere", "ball"] = "sphere",
        halve_every: NonNegativeInt = 20,
        reset_optimizer: bool = False,
        batch_statistics: bool = False,
        channels_last: bool = True,
    ):
        super().__init__()
        check_parts(type(self).__name__, net, loss)
        self.generator, self.loss, self.latent_dim, self.code_init = (
            net["generator"],
            loss,
            latent_dim,
            code_init,
        )
        self.codes = Codes(latent_dim, space, code_betas)
        self.optimizer, self.generator_lr, self.code_lr, self.halve_every = (
            optimizer,
            generator_lr,
            code_lr,
            halve_every,
        )
        self.reset_optimizer, self.batch_statistics, self.sampler = (
            reset_optimizer,
            batch_statistics,
            None,
        )
        self.pending: list[
            tuple[Tensor, Tensor]
        ] = []  # rows and codes whose gradient is being gathered
        self.register_buffer("code_rate", torch.zeros(()), persistent=False)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)

    # --- training ---------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """A code for each image of the training split, of a new run; a checkpoint brings its own."""
        if stage == "fit" and self.trainer.ckpt_path is None:
            images = self.trainer.datamodule.arrays("train").images
            self.codes.allocate(
                initial_codes(images, self.latent_dim, self.code_init, torch.initial_seed())
            )

    def on_fit_start(self) -> None:
        if getattr(self.trainer.strategy, "_ddp_kwargs", {"broadcast_buffers": False}).get(
            "broadcast_buffers", True
        ):
            raise ValueError(
                "trainer.strategy.broadcast_buffers=true: would send all codes to all processes at every step, which keep "
                "them equal themselves; use trainer.strategy.broadcast_buffers=false, as trainer=ddp has it"
            )
        if self.trainer.precision.startswith("16"):
            raise ValueError(
                f"trainer.precision={self.trainer.precision}: the codes' gradient would be loss-scaled; use bf16-mixed"
            )
        if getattr(self.trainer.datamodule, "flip", False):
            raise ValueError(
                "data.flip=true: each code belongs to one image, not to its mirror too; use data.flip=false"
            )
        self.bind(self.trainer.datamodule)

    def bind(self, data) -> None:
        """Lets a distance over a feature network build that, for images of the data module `data`."""
        if hasattr(self.loss, "bind"):
            self.loss.bind(data)

    @property
    def batch_count(self) -> int:
        """Batches trained on so far, resumes included."""
        return self.trainer.fit_loop.epoch_loop.total_batch_idx

    @property
    def batches_a_pass(self) -> int:
        return len(self.trainer.train_dataloader)

    def rates(self) -> dict[str, float]:
        """The learning rate of each group of the optimiser, and of the codes, at this step."""
        factor = (
            0.5 ** (self.batch_count // self.batches_a_pass // self.halve_every)
            if self.halve_every
            else 1.0
        )
        return {"generator": factor * self.generator_lr, "codes": factor * self.code_lr}

    def on_train_batch_start(self, batch, batch_idx) -> None:
        if self.reset_optimizer and self.batch_count % self.batches_a_pass == 0:
            self.forget()

    def forget(self) -> None:
        """Every optimiser's state as it was before its first step, in its place."""
        for state in self.optimizers().state.values():
            for value in state.values():
                value.zero_()
        self.codes.forget()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        x, z = batch["image"].to(memory_format=self.memory_format), self.codes(batch["index"])
        self.pending.append((batch["index"], z))
        loss = self.loss(self.generator(self.codes.point(z), None), x).mean()
        self.log("train/reconstruction", loss.detach())
        return loss

    def graph_key(self) -> tuple:
        return ()  # every step launches the same kernels (trainer.graph=true)

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
        rates = self.rates()
        for group in optimizer.param_groups:
            group["lr"] = rates[group["name"]]
        self.code_rate.fill_(rates["codes"])
        optimizer.step(closure=optimizer_closure)
        if (
            self.codes.moving
            and self.codes.space == "sphere"
            and (self.batch_count + 1) % self.batches_a_pass == 0
        ):
            self.codes.project()

    def on_before_optimizer_step(self, optimizer) -> None:
        """The networks and the batch's codes move together, by gradients taken at the same place.

        Moves the rows of the batches since the last step, those of other processes too, by the mean
        loss's gradient.
        """
        if not self.pending:
            return
        index = torch.cat([rows for rows, _ in self.pending])
        gradient = torch.cat([z.grad for _, z in self.pending]) / self.trainer.world_size
        self.pending.clear()
        if self.trainer.world_size > 1:  # the processes draw different rows
            index, gradient = (self.all_gather(part).flatten(0, 1) for part in (index, gradient))
        self.codes.move(index, gradient, self.code_rate)

    def groups(self) -> list[dict]:
        return [
            {
                "params": list(self.generator.parameters()),
                "lr": self.generator_lr,
                "name": "generator",
            }
        ]

    def configure_optimizers(self):
        return self.optimizer(self.groups())

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        if batch_idx == 0:  # a search: for a few images alone, and not to its end
            x = batch["image"][:32]
            error = (self.decode(self.encode(x, max_steps=50)) - x).square().mean()
            self.log("val/reconstruction_mse", error, batch_size=len(x), sync_dist=True)

    # --- verbs ------------------------------------------------------------------------------------

    def prior(self, num: int, seed: int, temperature: float = 1.0) -> Tensor:
        """`num` codes (num, Z) of the sampler: a function of `seed`. temperature: on the spread;
        < 1 truncates.
        """
        return self.gaussian(num, seed, temperature)

    def gaussian(self, num: int, seed: int, temperature: float = 1.0) -> Tensor:
        """`num` codes (num, Z) of the Gaussian fitted to the stored ones, projected: the baseline
        "GLO" of GLANN's paper.
        """
        mean, root = self.codes.gaussian()
        noise = draw(num, self.latent_dim, seed).to(mean.device, mean.dtype)
        return self.codes.inside((mean + temperature * noise @ root).to(self.dtype))

    @torch.no_grad()
    def decode(self, codes: Tensor, labels: None = None) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] of codes (N, Z), projected first."""
        parts = self.codes.inside(codes.to(self.device, self.dtype)).tensor_split(
            max(1, -(-len(codes) // 256))
        )
        if self.batch_statistics and len(codes) < 2:
            raise ValueError(
                "model.batch_statistics=true: one image is no batch; ask for two or more"
            )
        with batch_statistics(self.generator) if self.batch_statistics else nullcontext():
            return torch.cat([self.generator(z, None).float() for z in parts])

    def generate_images(self, codes: Tensor, labels: None = None) -> Tensor:
        """Images (N, C, H, W) of codes (N, Z), with gradients."""
        return self.generator(codes, None)

    def sample(self, num: int, seed: int = 0, temperature: float = 1.0) -> Tensor:
        """`num` images (num, C, H, W) in [-1, 1] of codes of the sampler."""
        return self.decode(self.prior(num, seed, temperature))

    def stand(self, num_batches: int, seed: int = 0) -> None:
        """Takes the batch statistics anew, from `num_batches` of 256 samples each (standing
        statistics).
        """
        if self.batch_statistics:
            raise ValueError(
                f"standing={num_batches}: model.batch_statistics=true generates with each batch's own"
            )
        with standing_statistics(self):
            self.sample(256 * num_batches, seed)

    def stored_codes(self) -> Tensor:
        """The codes (N, Z) of the training images, projected, in the order of the training split."""
        return self.codes.inside(self.codes.values)

    def encode(self, images: Tensor, tolerance: float = 1e-2, max_steps: int = 1000) -> Tensor:
        """Codes (N, Z) of images (N, C, H, W) in [-1, 1] by descent on the distance that G was
        trained with.

        From the best of 512 stored codes; an image is done when 20 steps bring less than
        `tolerance` of its distance.
        """
        with torch.no_grad():
            some = torch.randperm(len(self.codes), generator=torch.Generator().manual_seed(0))[
                :512
            ].to(self.device)
            start = self.codes.inside(self.codes.values[some])
            begun = self.decode(start).flatten(1)
        codes = []
        for x in images.to(self.device, self.dtype).split(256):
            near = nearest(x.flatten(1), begun).rows[:, 0]
            space, limits = self.codes.space, {"tolerance": tolerance, "max_steps": max_steps}
            codes.append(
                refine(
                    lambda z: self.generator(z, None), self.loss, x, start[near], space, **limits
                )
            )
        return torch.cat(codes).float()

    def reconstruct(self, images: Tensor, code_scale: float | None = None) -> Tensor:
        """G of the codes of images (N, C, H, W) in [-1, 1]; ValueError for a code_scale,
        which a projected code does not have.
        """
        if code_scale is not None:
            raise ValueError(
                f"code_scale={code_scale}: codes are projected before they are decoded; leave it out"
            )
        return self.decode(self.encode(images))

    def interpolate(self, start: Tensor, end: Tensor, num: int) -> Tensor:
        """`num` images between each pair of images, on the sphere's arc or the ball's line: (N,
        num, C, H, W).
        """
        codes = self.codes.between(self.encode(start), self.encode(end), num)
        return self.decode(codes.flatten(0, 1)).unflatten(0, (len(start), num))
