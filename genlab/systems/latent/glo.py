"""GLO: a generator trained with one free latent code per training image, and no discriminator."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from genlab.losses.reconstruction import BuiltFromData
from genlab.metrics.neighbours import nearest
from genlab.nn.norm import batch_statistics, standing_statistics
from genlab.ranges import Decay, NonNegativeFloat, NonNegativeInt, PositiveInt
from genlab.systems.latent.codes import Codes, check_parts, draw, initial_codes
from genlab.systems.latent.inversion import refine
from genlab.training.distributed import ddp_options
from genlab.training.schedules import halving

__all__ = ["GLO"]

NUM_STARTS = 512  # stored codes among which `encode` looks for its starting points


class ProjectedGenerator(nn.Module):
    """Codes -> images of the generator, with the codes projected to their sphere or ball first."""

    def __init__(self, generator: nn.Module, codes: Codes):
        super().__init__()
        self.generator = generator
        self.codes = Codes(codes.values.shape[1], codes.space)  # the space, without stored codes

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.generator(self.codes.inside(z), labels)


class GLO(LightningModule):
    """Minimises over G and all codes z_i the mean of d(G(z_i), x_i) over the training images x_i.

    The codes lie on the unit sphere or in its ball. New codes are drawn from a Gaussian of full
    covariance that is fitted to the stored ones.

    "Optimizing the Latent Space of Generative Networks", Bojanowski et al. 2017, arXiv 1707.05776,
    in the form of the first stage of GLANN: Hoshen and Malik 2019, arXiv 1812.08985 (yedidh/glann).

    Args:
        net: {"generator": G}.
        loss: d, a distance of genlab.losses.reconstruction.
        latent_dim: Size of a code.
        optimizer: Called with the parameter groups of the networks; the codes have an Adam of their
            own.
        generator_lr: Learning rate of the generator.
        code_lr: Learning rate of the codes.
        code_init: Codes start as normal noise, or as principal components of the images (pca).
        code_betas: Of the codes' Adam.
        space: sphere (codes are projected after each epoch) or ball (after each step).
        halve_every: Both learning rates are halved after this many epochs; 0: never.
        reset_optimizer: Clear all moments at every epoch, as the released code does.
        batch_statistics: Generate with the batch norm statistics of each batch, as the released
            code does.
        channels_last: Whether networks and images are channels-last in memory.

    Raises:
        ValueError: There is a discriminator, or the loss is no distance.
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
        self.generator = net["generator"]
        self.loss = loss
        self.latent_dim = latent_dim
        self.code_init = code_init
        self.codes = Codes(latent_dim, space, code_betas)
        self.optimizer = optimizer
        self.generator_lr = generator_lr
        self.code_lr = code_lr
        self.halve_every = halve_every
        self.reset_optimizer = reset_optimizer
        self.batch_statistics = batch_statistics
        self.sampler: str | None = None
        # (rows, codes) of the batches whose gradient is being accumulated
        self.pending: list[tuple[Tensor, Tensor]] = []
        self.register_buffer("code_rate", torch.zeros(()), persistent=False)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)

    # --- training ---------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Makes a code for each training image of a new run; a checkpoint has its own."""
        if stage == "fit" and self.trainer.ckpt_path is None:
            images = self.trainer.datamodule.arrays("train").images
            codes = initial_codes(images, self.latent_dim, self.code_init, torch.initial_seed())
            self.codes.allocate(codes)

    def on_fit_start(self) -> None:
        options = ddp_options(self.trainer)
        if options is not None and options.get("broadcast_buffers", True):
            raise ValueError(
                "trainer.strategy.broadcast_buffers=true: would send all codes to all processes at "
                "every step, although each process keeps them equal itself; use "
                "trainer.strategy.broadcast_buffers=false, as trainer=ddp does"
            )
        if self.trainer.precision.startswith("16"):
            raise ValueError(
                f"trainer.precision={self.trainer.precision}: the gradient of the codes would be "
                "loss-scaled; use trainer.precision=bf16-mixed"
            )
        if getattr(self.trainer.datamodule, "flip", False):
            raise ValueError(
                "data.flip=true: a code belongs to one image, not to its mirror image too; use "
                "data.flip=false"
            )
        self.bind(self.trainer.datamodule)

    def bind(self, data) -> None:
        """Builds a distance that needs the data module `data`, such as one of features."""
        if isinstance(self.loss, BuiltFromData):
            self.loss.bind(data)

    @property
    def batch_count(self) -> int:
        """Batches trained on so far, also before a resume."""
        return self.trainer.fit_loop.epoch_loop.total_batch_idx

    @property
    def batches_per_epoch(self) -> int:
        """Batches per epoch."""
        return len(self.trainer.train_dataloader)

    def rates(self) -> dict[str, float]:
        """The learning rates of this step: of each parameter group by name, and of the codes."""
        factor = halving(self.batch_count // self.batches_per_epoch, self.halve_every)
        return {"generator": factor * self.generator_lr, "codes": factor * self.code_lr}

    def on_train_batch_start(self, batch, batch_idx) -> None:
        if self.reset_optimizer and self.batch_count % self.batches_per_epoch == 0:
            self.forget()

    def forget(self) -> None:
        """Resets the state of all optimisers, in place."""
        for state in self.optimizers().state.values():
            for value in state.values():
                value.zero_()
        self.codes.forget()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        x = batch["image"].to(memory_format=self.memory_format)
        z = self.codes(batch["index"])
        self.pending.append((batch["index"], z))
        loss = self.loss(self.generator(self.codes.point(z), None), x).mean()
        self.log("train/reconstruction", loss.detach())
        return loss

    def graph_key(self) -> tuple:
        """What decides which kernels the next step launches: nothing (trainer.graph=true)."""
        return ()

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
        rates = self.rates()
        for group in optimizer.param_groups:
            group["lr"] = rates[group["name"]]
        self.code_rate.fill_(rates["codes"])
        optimizer.step(closure=optimizer_closure)
        end_of_epoch = (self.batch_count + 1) % self.batches_per_epoch == 0
        if self.codes.moving and self.codes.space == "sphere" and end_of_epoch:
            self.codes.project()

    def on_before_optimizer_step(self, optimizer) -> None:
        """Moves the codes of the accumulated batches, those of other processes too.

        Networks and codes move together, by gradients of the mean loss at the same point.
        """
        if not self.pending:
            return
        index = torch.cat([rows for rows, _ in self.pending])
        gradient = torch.cat([z.grad for _, z in self.pending]) / self.trainer.world_size
        self.pending.clear()
        if self.trainer.world_size > 1:  # each process draws its own rows
            index, gradient = (self.all_gather(part).flatten(0, 1) for part in (index, gradient))
        self.codes.move(index, gradient, self.code_rate)

    def groups(self) -> list[dict]:
        """The parameter groups of the optimiser, with the names that `rates` knows."""
        parameters = list(self.generator.parameters())
        return [{"params": parameters, "lr": self.generator_lr, "name": "generator"}]

    def configure_optimizers(self):
        return self.optimizer(self.groups())

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        if batch_idx == 0:  # encoding is a search: only a few images, and not to convergence
            x = batch["image"][:32]
            error = (self.decode(self.encode(x, max_steps=50)) - x).square().mean()
            self.log("val/reconstruction_mse", error, batch_size=len(x), sync_dist=True)

    # --- verbs ------------------------------------------------------------------------------------

    def _statistics(self, network: nn.Module) -> AbstractContextManager:
        """The context in which `network` generates: with each batch's statistics, or as it is."""
        return batch_statistics(network) if self.batch_statistics else nullcontext()

    def prior(self, num: int, seed: int, temperature: float = 1.0) -> Tensor:
        """Codes (num, Z) of the sampler.

        Args:
            num: How many; the first codes do not depend on it.
            seed: Of the noise.
            temperature: Factor on the spread; below 1 truncates.
        """
        return self.draw_gaussian(num, seed, temperature)

    def draw_gaussian(self, num: int, seed: int, temperature: float = 1.0) -> Tensor:
        """Codes (num, Z) of the Gaussian fitted to the stored ones, projected.

        GLANN's paper compares with them under the name GLO. Arguments as for `prior`.
        """
        mean, root = self.codes.fit_gaussian()
        noise = draw(num, self.latent_dim, seed).to(mean.device, mean.dtype)
        return self.codes.inside((mean + temperature * noise @ root).to(self.dtype))

    @torch.no_grad()
    def decode(self, codes: Tensor, labels: None = None) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] of codes (N, Z), which are projected first.

        Raises:
            ValueError: There is one code alone, which has no batch statistics.
        """
        if self.batch_statistics and len(codes) < 2:
            raise ValueError(
                "model.batch_statistics=true: one image has no batch statistics; ask for at least 2"
            )
        num_parts = max(1, -(-len(codes) // 256))
        parts = self.codes.inside(codes.to(self.device, self.dtype)).tensor_split(num_parts)
        with self._statistics(self.generator):
            return torch.cat([self.generator(z, None).float() for z in parts])

    def generate_images(self, codes: Tensor, labels: None = None) -> Tensor:
        """Images (N, C, H, W) of codes (N, Z), which are projected first, with gradients."""
        with self._statistics(self.generator):
            return self.generator(self.codes.inside(codes), None)

    def graphs(self) -> dict[str, nn.Module]:
        """The projection of codes and the generator as `decode`, unless it needs whole batches."""
        if self.batch_statistics:
            return {}
        return {"decode": ProjectedGenerator(self.generator, self.codes)}

    def sample(self, num: int, seed: int = 0, temperature: float = 1.0) -> Tensor:
        """Images (num, C, H, W) in [-1, 1] of codes of `prior`."""
        return self.decode(self.prior(num, seed, temperature))

    def stand(self, num_batches: int, seed: int = 0) -> None:
        """Computes batch norm statistics anew (standing statistics).

        Args:
            num_batches: Batches of 256 samples that they are the average of.
            seed: Of the samples.

        Raises:
            ValueError: The model generates with the statistics of each batch.
        """
        if self.batch_statistics:
            raise ValueError(
                f"standing={num_batches}: model.batch_statistics=true generates with the "
                "statistics of each batch; leave standing= out"
            )
        with standing_statistics(self):
            self.sample(256 * num_batches, seed)

    def stored_codes(self) -> Tensor:
        """Codes (N, Z) of the training images, projected, in the order of the training split."""
        return self.codes.inside(self.codes.values)

    def encode(self, images: Tensor, tolerance: float = 1e-2, max_steps: int = 1000) -> Tensor:
        """Finds codes by gradient descent on the distance that the generator was trained with.

        It starts from the best of 512 stored codes.

        Args:
            images: (N, C, H, W) in [-1, 1].
            tolerance: An image is done when 20 steps reduce its distance by less than this
                fraction.
            max_steps: After which all images are done.

        Returns:
            Codes (N, Z), projected.
        """
        with torch.no_grad():
            order = torch.randperm(len(self.codes), generator=torch.Generator().manual_seed(0))
            start = self.codes.inside(self.codes.values[order[:NUM_STARTS].to(self.device)])
            rendered = self.decode(start).flatten(1)
        codes = []
        for x in images.to(self.device, self.dtype).split(256):
            near = nearest(x.flatten(1), rendered).rows[:, 0]
            found = refine(
                lambda z: self.generator(z, None),
                self.loss,
                x,
                start[near],
                self.codes.space,
                tolerance=tolerance,
                max_steps=max_steps,
            )
            codes.append(found)
        return torch.cat(codes).float()

    def reconstruct(self, images: Tensor, code_scale: float | None = None) -> Tensor:
        """Encodes and decodes images.

        Args:
            images: (N, C, H, W) in [-1, 1].
            code_scale: None: codes are projected before they are decoded.

        Returns:
            Images (N, C, H, W) in [-1, 1].

        Raises:
            ValueError: A code_scale is given.
        """
        if code_scale is not None:
            raise ValueError(
                f"code_scale={code_scale}: codes are projected before they are decoded; leave "
                "code_scale= out"
            )
        return self.decode(self.encode(images))

    def interpolate(self, start: Tensor, end: Tensor, num: int) -> Tensor:
        """Images between pairs of images, on the sphere's arc or on a line in the ball.

        Args:
            start: Images (N, C, H, W) in [-1, 1].
            end: Images (N, C, H, W) in [-1, 1].
            num: Images per pair, ends included.

        Returns:
            Images (N, num, C, H, W) in [-1, 1].
        """
        codes = self.codes.between(self.encode(start), self.encode(end), num)
        return self.decode(codes.flatten(0, 1)).unflatten(0, (len(start), num))
