"""GAN training in one Lightning step: generator and discriminator move together under one
optimiser.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from genlab.errors import ConfigError
from genlab.nn.norm import frozen_statistics, standing_statistics
from genlab.nn.spectral_norm import advance_spectral_norm
from genlab.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from genlab.systems.classes import class_numbers
from genlab.systems.gan import updates

__all__ = ["GAN"]


class GAN(LightningModule):
    """A generator (z (B, Z), y) -> images (B, C, H, W) in [-1, 1] against a discriminator (images,
    y) -> (B, out_dim).

    The score of an image is score_scale times the mean of the discriminator's outputs (high: real),
    so with out_dim 1 the output itself. `global_step` counts generator steps. One batch feeds one
    generator step: with update=alternating and num_discriminator_steps n, each discriminator step
    takes an n-th of it.

    net: {"generator": ..., "discriminator": ...}. loss, penalty, augment: of genlab.losses.
    num_classes: of the data, to train with labels y (B,); 0 without. classes: their names, which
    genlab train fills in. optimizer: called with two parameter groups, whose rates are generator_lr
    and discriminator_lr. scheduler: called with the optimiser, stepped every step. Raises
    ValueError for an update that is not exact for this network and loss.
    """

    modality = "image"
    check_unused = staticmethod(updates.check_unused)

    def __init__(
        self,
        net: Mapping[str, nn.Module],
        loss: object,
        latent_dim: PositiveInt,
        optimizer: Callable[..., torch.optim.Optimizer],
        generator_lr: NonNegativeFloat,
        discriminator_lr: NonNegativeFloat,
        num_classes: NonNegativeInt = 0,
        out_dim: PositiveInt = 1,
        update: Literal["shared", "single", "scaled", "alternating"] = "shared",
        num_discriminator_steps: PositiveInt = 1,
        score_scale: PositiveFloat = 1.0,
        prior: Literal["normal", "uniform"] = "normal",
        scheduler: Callable | None = None,
        channels_last: bool = True,
        penalty: Callable | None = None,
        augment: Callable | None = None,
        classes: Sequence[str] | None = None,
    ):
        super().__init__()
        self.generator, self.discriminator = net["generator"], net["discriminator"]
        updates.check(update, self.discriminator, out_dim, loss, num_discriminator_steps)
        if not hasattr(loss, "generator"):
            raise ValueError(
                f"loss: {type(self).__name__} needs an adversarial one (loss=hinge, ...), not a distance"
            )
        if prior not in ("normal", "uniform"):
            raise ValueError(f"model.prior={prior!r}: expected normal or uniform")
        self.loss, self.penalty, self.augment = loss, penalty, augment
        self.latent_dim, self.num_classes, self.out_dim, self.update = (
            latent_dim,
            num_classes,
            out_dim,
            update,
        )
        self.classes = None if classes is None else list(map(str, classes))
        self.num_discriminator_steps, self.score_scale, self.prior_name = (
            num_discriminator_steps,
            score_scale,
            prior,
        )
        self.optimizer, self.scheduler = optimizer, scheduler
        self.generator_lr, self.discriminator_lr = generator_lr, discriminator_lr
        self.turn: int | None = None  # alternating: 0 .. n-1 are D's, n is G's
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)

    # --- the objective ----------------------------------------------------------------------------

    def discriminate(self, images: Tensor, y: Tensor | None = None, fake: bool = False) -> Tensor:
        """D's outputs (B, out_dim) in float32 or wider; running statistics learn from real images
        alone.
        """
        images = images if self.augment is None else self.augment(images)
        with frozen_statistics(self.discriminator) if fake else nullcontext():
            outputs = self.discriminator(images, y)
        return outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs

    def score(self, outputs: Tensor) -> Tensor:
        return self.score_scale * outputs.mean(1)

    def objectives(self, real: Tensor, fake: Tensor, x: Tensor, k: Tensor, z: Tensor):
        """(L_D, L_G, logs) from D's outputs on x and on k = G(z), each loss a mean over the batch."""
        real_score, fake_score = self.score(real), self.score(fake)
        loss_d = self.loss.discriminator(real_score, fake_score, x, k).mean()
        loss_g = self.generator_objective(real, fake, z)
        logs = {
            "loss_d": loss_d,
            "loss_g": loss_g,
            "score_real": real_score.mean(),
            "score_fake": fake_score.mean(),
        }
        return loss_d, loss_g, {f"train/{name}": value.detach() for name, value in logs.items()}

    def generator_objective(self, real: Tensor, fake: Tensor, z: Tensor) -> Tensor:
        """L_G from D's outputs; real ones count in relativistic losses alone, and as constants for
        D.
        """
        return self.loss.generator(self.score(real), self.score(fake)).mean()

    def penalise(
        self, x: Tensor, k: Tensor, y: Tensor | None, logs: dict[str, Tensor]
    ) -> Tensor | float:
        """The penalty's mean over the batch at the steps that it is due at, else 0."""
        if not self._penalty_due:
            return 0.0
        value = self.penalty(
            lambda images: self.score(self.discriminate(images, y, fake=True)), x, k.detach()
        ).mean()
        logs["train/penalty"] = value.detach()
        return self.penalty.every * value

    # --- who steps when ---------------------------------------------------------------------------

    def graph_key(self) -> tuple:
        """What decides which kernels the next turn launches (trainer.graph=true); ValueError where
        that changes freely.
        """
        updates.check_graph(self.generator)
        return self.turn, self._penalty_due

    @property
    def _penalty_due(self) -> bool:
        return self.penalty is not None and self.global_step % self.penalty.every == 0

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        x = batch["image"].to(self.dtype, memory_format=self.memory_format)
        y = batch["label"] if self.num_classes else None
        if self.turn in (None, 0):
            advance_spectral_norm(self)
        if (
            self.turn is not None
        ):  # one n-th of the batch a turn; the generator's turn goes with the last
            n, turn = self.num_discriminator_steps, min(self.turn, self.num_discriminator_steps - 1)
            x, y = x.tensor_split(n)[turn], None if y is None else y.tensor_split(n)[turn]
        if self.augment is not None:
            self.augment.draw(len(x), x.device)
        z = self.draw(len(x))
        if self.turn is None:
            loss, logs = getattr(updates, self.update)(self, x, z, y)
        elif self.turn < self.num_discriminator_steps:
            loss, logs = updates.discriminator_turn(self, x, z, y)
            logs.pop("train/loss_g")  # the generator's own turn logs it
        else:
            loss, logs = updates.generator_turn(self, x, z, y)
        self.log_dict(logs)
        return loss

    def backward(self, loss: Tensor, *args, **kwargs) -> None:
        """Backward to the parameters alone: the fakes of `shared` are a leaf too, whose gradient
        nobody needs twice.
        """
        loss.backward(*args, inputs=[p for p in self.parameters() if p.requires_grad], **kwargs)

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
        """All turns of an alternating step happen in here, so that Lightning counts them as one."""
        if self.update != "alternating":
            return optimizer.step(closure=optimizer_closure)
        for turn in range(self.num_discriminator_steps + 1):
            self.turn = turn
            optimizer.step(closure=optimizer_closure)
        self.turn = None

    def configure_optimizers(self):
        generator = {
            "params": list(self.generator.parameters()),
            "lr": self.generator_lr,
            "name": "generator",
        }
        discriminator = {
            "params": list(self.discriminator.parameters()),
            "lr": self.discriminator_lr,
        }
        optimizer = self.optimizer([generator, discriminator | {"name": "discriminator"}])
        if self.scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"},
        }

    def configure_gradient_clipping(
        self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None
    ):
        """Clips each player's gradient by itself: a common norm would let one player's step shrink
        the other's.
        """
        if gradient_clip_val is None:
            return
        clip = (
            nn.utils.clip_grad_value_
            if gradient_clip_algorithm == "value"
            else nn.utils.clip_grad_norm_
        )
        for group in optimizer.param_groups:
            clip(group["params"], gradient_clip_val)

    def on_fit_start(self) -> None:
        updates.check_trainer(self.update, self.trainer)
        updates.check_classes(self.num_classes, self.trainer.datamodule)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        # Far below train/score_real: the discriminator knows the training images by heart.
        score = self.score(
            self.outputs(batch["image"], batch["label"] if self.num_classes else None)
        ).mean()
        self.log("val/score_real", score, batch_size=len(batch["image"]), sync_dist=True)

    # --- verbs ------------------------------------------------------------------------------------

    def draw(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """`num` vectors of the prior, (num, Z), on the system's device."""
        draw = torch.randn if self.prior_name == "normal" else torch.rand
        z = draw(
            num,
            self.latent_dim,
            generator=generator,
            device=generator.device if generator else self.device,
        )
        return (z if self.prior_name == "normal" else 2 * z - 1).to(self.device, self.dtype)

    def prior(self, num: int, seed: int, temperature: float = 1.0) -> Tensor:
        """`num` vectors of the prior times `temperature`, (num, Z): by `seed`, the same on every
        device and for every `num`.
        """
        whole = (
            num + -num % 16
        )  # torch fills its last, incomplete block of 16 numbers in another way
        return temperature * self.draw(whole, torch.Generator().manual_seed(seed))[:num]

    def labels(self, num: int, label: int | str | list[int | str] | None = None) -> Tensor | None:
        """`num` labels (num,): `label` or all classes in turn, as class_numbers means them; None
        without classes.
        """
        if not self.num_classes:
            if label is not None:
                raise ConfigError(
                    f"label={label}: this model was trained without labels (model.num_classes=)"
                )
            return None
        wanted = class_numbers(label, self.num_classes, self.classes).to(self.device)
        return wanted.repeat(num // len(wanted) + 1)[:num]

    @torch.no_grad()
    def decode(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] of latent vectors (N, Z) and, where there are classes,
        labels (N,).
        """
        return torch.cat([self.generator(z, y).float() for z, y in self._batches(codes, labels)])

    def generate_images(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) of codes (N, Z), with gradients."""
        return self.generator(codes, labels)

    @torch.no_grad()
    def outputs(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The discriminator's plain outputs (N, out_dim) of images (N, C, H, W) in [-1, 1]: their
        mean is the score.
        """
        return torch.cat(
            [self.discriminator(x, y).float() for x, y in self._batches(images, labels)]
        )

    def _batches(self, inputs: Tensor, labels: Tensor | None, size: int = 256):
        inputs = inputs.to(self.device, self.dtype).split(size)
        return zip(
            inputs,
            [None] * len(inputs) if labels is None else labels.to(self.device).split(size),
            strict=True,
        )

    def sample(
        self,
        num: int,
        seed: int = 0,
        temperature: float = 1.0,
        label: int | str | list[int | str] | None = None,
    ) -> Tensor:
        """`num` images (num, C, H, W) in [-1, 1] from the prior times `temperature` (< 1 truncates),
        of class `label`.
        """
        return self.decode(self.prior(num, seed, temperature), self.labels(num, label))

    def stand(self, num_batches: int, seed: int = 0) -> None:
        """Takes the generator's batch statistics anew, from `num_batches` of 256 samples each
        (standing statistics).
        """
        with standing_statistics(self.generator):
            self.sample(256 * num_batches, seed)
