"""IMLE in pixel space: each real image pulls its nearest fake towards itself."""

from collections.abc import Callable, Mapping

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from genlab.losses.reconstruction import BuiltFromData
from genlab.metrics.neighbours import nearest
from genlab.nn.norm import standing_statistics
from genlab.ranges import NonNegativeFloat, PositiveInt
from genlab.systems.latent.codes import check_parts, draw

__all__ = ["IMLE"]


class IMLE(LightningModule):
    """Minimises over G the mean over a batch's images x_i of min_j d(G(z_j), x_i), z_j ~ N(0, 1).

    Every image has a nearest fake, so no mode is dropped. A fake that is nearest to several images
    is pulled to their mean, so fakes are blurred.

    "Implicit Maximum Likelihood Estimation", Li and Malik 2018, arXiv 1809.09087, in the batch-wise
    form of Su's post (kexue.fm, archive 6394) and bojone/gan imle.py.

    Args:
        net: {"generator": G}.
        loss: d, a distance of genlab.losses.reconstruction. Which fake is nearest depends on the
            squared distance of pixels, whatever d is.
        latent_dim: Size of z.
        optimizer: Called with one parameter group.
        generator_lr: Learning rate.
        num_candidates: Fakes per batch; None: as many as images.
        channels_last: Whether networks and images are channels-last in memory.

    Raises:
        ValueError: There is a discriminator, or the loss is no distance.
    """

    modality = "image"

    def __init__(
        self,
        net: Mapping[str, nn.Module],
        loss: Callable[[Tensor, Tensor], Tensor],
        latent_dim: PositiveInt,
        optimizer: Callable[..., torch.optim.Optimizer],
        generator_lr: NonNegativeFloat = 1e-4,
        num_candidates: PositiveInt | None = None,
        channels_last: bool = True,
    ):
        super().__init__()
        check_parts("IMLE", net, loss)
        if num_candidates is not None and num_candidates < 1:
            raise ValueError(
                f"model.num_candidates={num_candidates}: expected a number of fakes, or null for "
                "as many as images"
            )
        self.generator = net["generator"]
        self.loss = loss
        self.latent_dim = latent_dim
        self.optimizer = optimizer
        self.generator_lr = generator_lr
        self.num_candidates = num_candidates
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)

    def on_fit_start(self) -> None:
        self.bind(self.trainer.datamodule)

    def bind(self, data) -> None:
        """Builds a distance that needs the data module `data`, such as one of features."""
        if isinstance(self.loss, BuiltFromData):
            self.loss.bind(data)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        x = batch["image"].to(memory_format=self.memory_format)
        num = self.num_candidates or len(x)
        z = torch.randn(num, self.latent_dim, device=x.device, dtype=x.dtype)
        loss, used = self.objective(x, self.generator(z, None))
        self.log_dict({"train/nearest": loss.detach(), "train/fakes_used": used})
        return loss

    def objective(self, x: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """The mean distance of images to their nearest fakes.

        Args:
            x: Images (B, C, H, W).
            fake: Fakes (M, C, H, W).

        Returns:
            The distance, and the fraction of the fakes that are nearest to an image.
        """
        rows = nearest(x.flatten(1), fake.detach().flatten(1)).rows[:, 0]
        used = rows.new_zeros(len(fake), dtype=torch.float32).index_fill_(0, rows, 1.0).mean()
        return self.loss(fake[rows], x).mean(), used

    def configure_optimizers(self):
        parameters = list(self.generator.parameters())
        return self.optimizer(
            [{"params": parameters, "lr": self.generator_lr, "name": "generator"}]
        )

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        fake = self.decode(self.prior(self.num_candidates or len(batch["image"]), seed=batch_idx))
        loss, _ = self.objective(batch["image"], fake)
        self.log("val/nearest", loss, batch_size=len(batch["image"]), sync_dist=True)

    # --- verbs ------------------------------------------------------------------------------------

    def prior(self, num: int, seed: int, temperature: float = 1.0) -> Tensor:
        """Latent vectors (num, Z) of N(0, temperature^2).

        Args:
            num: How many; the first vectors do not depend on it.
            seed: Of the noise.
            temperature: Standard deviation; below 1 truncates.
        """
        return temperature * draw(num, self.latent_dim, seed).to(self.device, self.dtype)

    @torch.no_grad()
    def decode(self, codes: Tensor, labels: None = None) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] of latent vectors (N, Z)."""
        parts = codes.to(self.device, self.dtype).split(256)
        return torch.cat([self.generator(z, None).float() for z in parts])

    def generate_images(self, codes: Tensor, labels: None = None) -> Tensor:
        """Images (N, C, H, W) of codes (N, Z), with gradients."""
        return self.generator(codes, None)

    def graphs(self) -> dict[str, nn.Module]:
        """The generator as `decode`."""
        return {"decode": self.generator}

    def sample(self, num: int, seed: int = 0, temperature: float = 1.0) -> Tensor:
        """Images (num, C, H, W) in [-1, 1] of latent vectors of `prior`."""
        return self.decode(self.prior(num, seed, temperature))

    def stand(self, num_batches: int, seed: int = 0) -> None:
        """Computes the generator's batch norm statistics anew (standing statistics).

        Args:
            num_batches: Batches of 256 samples that they are the average of.
            seed: Of the samples.
        """
        with standing_statistics(self.generator):
            self.sample(256 * num_batches, seed)
