"""IMLE in the space of images: each real image pulls its nearest fake towards itself."""

from collections.abc import Callable, Mapping

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from genlab.metrics.neighbours import nearest
from genlab.nn.norm import standing_statistics
from genlab.ranges import NonNegativeFloat, PositiveInt
from genlab.systems.latent.codes import check_parts, draw

__all__ = ["IMLE"]


class IMLE(LightningModule):
    """min over G of the mean over a batch's images x_i of min_j d(G(z_j), x_i), z_j ~ N(0, 1).

    "Implicit Maximum Likelihood Estimation", Li and Malik 2018, arXiv 1809.09087, in the batch-wise
    form of Su's post (kexue.fm, archive 6394) and bojone/gan imle.py. Every image has a nearest
    fake, so no mode is dropped; all fakes that are near to several are pulled to their mean, so
    they are blurred.

    net: {"generator": ...}. loss: d, a distance of genlab.losses.reconstruction; which fake is
    nearest is decided by the squared distance of pixels whatever d is. num_candidates: fakes a
    batch, as many as images unless given.
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
                f"model.num_candidates={num_candidates}: expected a number of fakes, or null for the batch's size"
            )
        self.generator, self.loss, self.latent_dim = net["generator"], loss, latent_dim
        self.optimizer, self.generator_lr, self.num_candidates = (
            optimizer,
            generator_lr,
            num_candidates,
        )
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)

    def on_fit_start(self) -> None:
        self.bind(self.trainer.datamodule)

    def bind(self, data) -> None:
        """Lets a distance over a feature network build that, for images of the data module `data`."""
        if hasattr(self.loss, "bind"):
            self.loss.bind(data)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        x = batch["image"].to(memory_format=self.memory_format)
        z = torch.randn(
            self.num_candidates or len(x), self.latent_dim, device=x.device, dtype=x.dtype
        )
        loss, used = self.objective(x, self.generator(z, None))
        self.log_dict({"train/nearest": loss.detach(), "train/fakes_used": used})
        return loss

    def objective(self, x: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """The mean distance of images x (B, C, H, W) to the nearest of `fake` (M, C, H, W), and the
        part that is nearest to some.
        """
        rows = nearest(x.flatten(1), fake.detach().flatten(1)).rows[:, 0]
        used = rows.new_zeros(len(fake), dtype=torch.float32).index_fill_(0, rows, 1.0).mean()
        return self.loss(fake[rows], x).mean(), used

    def configure_optimizers(self):
        return self.optimizer(
            [
                {
                    "params": list(self.generator.parameters()),
                    "lr": self.generator_lr,
                    "name": "generator",
                }
            ]
        )

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        fake = self.decode(self.prior(self.num_candidates or len(batch["image"]), seed=batch_idx))
        loss, _ = self.objective(batch["image"], fake)
        self.log("val/nearest", loss, batch_size=len(batch["image"]), sync_dist=True)

    # --- verbs ------------------------------------------------------------------------------------

    def prior(self, num: int, seed: int, temperature: float = 1.0) -> Tensor:
        """`num` latent vectors (num, Z) of N(0, temperature^2): a function of `seed`, the same for
        every `num`.
        """
        return temperature * draw(num, self.latent_dim, seed).to(self.device, self.dtype)

    @torch.no_grad()
    def decode(self, codes: Tensor, labels: None = None) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] of latent vectors (N, Z)."""
        return torch.cat(
            [self.generator(z, None).float() for z in codes.to(self.device, self.dtype).split(256)]
        )

    def generate_images(self, codes: Tensor, labels: None = None) -> Tensor:
        """Images (N, C, H, W) of codes (N, Z), with gradients."""
        return self.generator(codes, None)

    def sample(self, num: int, seed: int = 0, temperature: float = 1.0) -> Tensor:
        """`num` images (num, C, H, W) in [-1, 1] from the prior times `temperature` (< 1 truncates)."""
        return self.decode(self.prior(num, seed, temperature))

    def stand(self, num_batches: int, seed: int = 0) -> None:
        """Takes the generator's batch statistics anew, from `num_batches` of 256 samples each
        (standing statistics).
        """
        with standing_statistics(self.generator):
            self.sample(256 * num_batches, seed)
