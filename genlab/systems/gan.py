"""GAN training in one Lightning step: generator and discriminator move together under one optimiser."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from genlab.nn.norm import couples_batch, frozen_statistics
from genlab.nn.spectral_norm import advance_spectral_norm
from genlab.systems import updates

__all__ = ["GAN"]


class GAN(LightningModule):
    """A generator z (B, Z) -> images (B, C, H, W) in [-1, 1] against a discriminator images -> (B, out_dim).

    The score of an image is score_scale times the mean of the discriminator's outputs (high: real), so with out_dim 1
    the output itself. `global_step` counts generator steps. One batch feeds one generator step: with
    update=alternating and num_discriminator_steps n, each discriminator step takes an n-th of it.

    net: {"generator": ..., "discriminator": ...}. loss: an objective of genlab.losses.gan. optimizer: called with two
    parameter groups, whose rates are generator_lr and discriminator_lr. scheduler: called with the optimiser, stepped
    every step. Raises ValueError for an update that is not exact for this network and loss.
    """

    modality = "image"

    def __init__(
        self,
        net: Mapping[str, nn.Module],
        loss,
        latent_dim: int,
        optimizer: Callable[..., torch.optim.Optimizer],
        generator_lr: float,
        discriminator_lr: float,
        out_dim: int = 1,
        update: Literal["shared", "single", "scaled", "alternating"] = "shared",
        num_discriminator_steps: int = 1,
        score_scale: float = 1.0,
        prior: Literal["normal", "uniform"] = "normal",
        scheduler: Callable | None = None,
        channels_last: bool = True,
    ):
        super().__init__()
        self.generator, self.discriminator = net["generator"], net["discriminator"]
        updates.check(update, self.discriminator, out_dim, loss.symmetric, couples_batch(self.discriminator))
        if num_discriminator_steps != 1 and update != "alternating":
            raise ValueError(
                f"model.num_discriminator_steps={num_discriminator_steps}: only model.update=alternating takes more "
                "than one discriminator step a generator step"
            )
        if prior not in ("normal", "uniform"):
            raise ValueError(f"model.prior={prior!r}: expected normal or uniform")
        self.loss, self.latent_dim, self.out_dim, self.update = loss, latent_dim, out_dim, update
        self.num_discriminator_steps, self.score_scale, self.prior_name = num_discriminator_steps, score_scale, prior
        self.optimizer, self.scheduler = optimizer, scheduler
        self.generator_lr, self.discriminator_lr = generator_lr, discriminator_lr
        self.turn: int | None = None  # alternating: 0 .. n-1 are D's, n is G's
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)

    # --- the objective -----------------------------------------------------------------------------------------

    def discriminate(self, images: Tensor, fake: bool = False) -> Tensor:
        """D's outputs (B, out_dim) in float32 or wider; running statistics learn from real images alone."""
        if not fake:
            return _at_least_float32(self.discriminator(images))
        with frozen_statistics(self.discriminator):
            return _at_least_float32(self.discriminator(images))

    def score(self, outputs: Tensor) -> Tensor:
        return self.score_scale * outputs.mean(1)

    def objectives(self, real: Tensor, fake: Tensor, x: Tensor, k: Tensor, z: Tensor):
        """(L_D, L_G, logs) from D's outputs on x and on k = G(z), each loss a mean over the batch."""
        real_score, fake_score = self.score(real), self.score(fake)
        loss_d = self.loss.discriminator(real_score, fake_score, x, k).mean()
        loss_g = self.loss.generator(fake_score).mean()
        logs = {"loss_d": loss_d, "loss_g": loss_g, "score_real": real_score.mean(), "score_fake": fake_score.mean()}
        return loss_d, loss_g, {f"train/{name}": value.detach() for name, value in logs.items()}

    def generator_objective(self, fake: Tensor, z: Tensor) -> Tensor:
        return self.loss.generator(self.score(fake)).mean()

    # --- who steps when ----------------------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        x = batch["image"].to(memory_format=self.memory_format)
        if self.turn in (None, 0):
            advance_spectral_norm(self.discriminator)
        if self.turn is None:
            loss, logs = getattr(updates, self.update)(self, x, self.draw(len(x)))
        elif self.turn < self.num_discriminator_steps:
            x = x.chunk(self.num_discriminator_steps)[self.turn]
            loss, logs = updates.discriminator_turn(self, x, self.draw(len(x)))
            logs.pop("train/loss_g")  # the generator's own turn logs it
        else:
            loss, logs = updates.generator_turn(self, self.draw(len(x) // self.num_discriminator_steps))
        self.log_dict(logs)
        return loss

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
        """All turns of an alternating step happen in here, so that Lightning counts them as one."""
        if self.update != "alternating":
            return optimizer.step(closure=optimizer_closure)
        for turn in range(self.num_discriminator_steps + 1):
            self.turn = turn
            optimizer.step(closure=optimizer_closure)
        self.turn = None

    def configure_optimizers(self):
        generator = {"params": list(self.generator.parameters()), "lr": self.generator_lr, "name": "generator"}
        discriminator = {"params": list(self.discriminator.parameters()), "lr": self.discriminator_lr}
        optimizer = self.optimizer([generator, discriminator | {"name": "discriminator"}])
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        """Clips each player's gradient by itself: a common norm would let one player's step shrink the other's."""
        if gradient_clip_val is None:
            return
        clip = nn.utils.clip_grad_value_ if gradient_clip_algorithm == "value" else nn.utils.clip_grad_norm_
        for group in optimizer.param_groups:
            clip(group["params"], gradient_clip_val)

    def on_fit_start(self) -> None:
        trainer, strategy = self.trainer, self.trainer.strategy
        if self.update == "alternating" and trainer.accumulate_grad_batches != 1:
            raise ValueError(
                f"trainer.accumulate_grad_batches={trainer.accumulate_grad_batches}: model.update=alternating steps "
                "each player on its own loss and cannot accumulate; use model.update=shared"
            )
        unused = getattr(strategy, "_ddp_kwargs", {"find_unused_parameters": True}).get("find_unused_parameters")
        if self.update == "alternating" and not unused:
            raise ValueError(
                "model.update=alternating: each turn uses one player's parameters only, which distributed training must "
                "be told: trainer.strategy.find_unused_parameters=true"
            )
        if trainer.precision.startswith("16"):
            raise ValueError(
                f"trainer.precision={trainer.precision}: the gradient handed from D to G is not loss-scaled and can "
                "underflow in float16; use trainer.precision=bf16-mixed"
            )

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        # Far below train/score_real: the discriminator knows the training images by heart.
        score = self.score(self.outputs(batch["image"])).mean()
        self.log("val/score_real", score, batch_size=len(batch["image"]), sync_dist=True)

    # --- verbs -------------------------------------------------------------------------------------------------

    def draw(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """`num` vectors of the prior, (num, Z), on the system's device."""
        draw = torch.randn if self.prior_name == "normal" else partial(_uniform, -1.0, 1.0)
        z = draw(num, self.latent_dim, generator=generator, device=generator.device if generator else self.device)
        return z.to(self.device, self.dtype)

    def prior(self, num: int, seed: int) -> Tensor:
        """`num` vectors of the prior, (num, Z): a function of `seed`, the same on every device and for every `num`."""
        whole = num + -num % 16  # torch fills its last, incomplete block of 16 numbers in another way
        return self.draw(whole, torch.Generator().manual_seed(seed))[:num]

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] of latent vectors (N, Z)."""
        return torch.cat([self.generator(z).float() for z in codes.to(self.device, self.dtype).split(256)])

    @torch.no_grad()
    def outputs(self, images: Tensor) -> Tensor:
        """The discriminator's plain outputs (N, out_dim) of images (N, C, H, W) in [-1, 1]: their mean is the score."""
        batches = images.to(self.device, self.dtype).split(256)
        return torch.cat([self.discriminator(x).float() for x in batches])

    def sample(self, num: int, seed: int = 0, scale: float = 1.0) -> Tensor:
        """`num` images (num, C, H, W) in [-1, 1] from the prior times `scale` (< 1 truncates)."""
        return self.decode(scale * self.prior(num, seed))


def _uniform(low: float, high: float, *size: int, generator=None, device=None) -> Tensor:
    return torch.rand(*size, generator=generator, device=device) * (high - low) + low


def _at_least_float32(outputs: Tensor) -> Tensor:
    return outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs
