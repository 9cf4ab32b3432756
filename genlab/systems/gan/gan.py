"""A GAN whose generator and discriminator train in one Lightning step, with one optimiser."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from genlab.errors import ConfigError
from genlab.losses.gan import AdversarialLoss
from genlab.nn.norm import frozen_statistics, standing_statistics
from genlab.nn.spectral_norm import advance_spectral_norm
from genlab.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from genlab.systems.classes import class_numbers
from genlab.systems.gan import updates

__all__ = ["GAN"]


class GAN(LightningModule):
    """A generator of images against a discriminator that scores them.

    The generator maps latent vectors (B, Z) and labels to images (B, C, H, W) in [-1, 1], the
    discriminator images and labels to outputs (B, O). The score of an image is score_scale times
    the mean of its outputs; high means real.

    `global_step` counts generator steps, and each takes one batch. With update=alternating, each of
    the num_discriminator_steps n takes an n-th of the batch.

    Args:
        net: {"generator": ..., "discriminator": ...}.
        loss: An adversarial loss of genlab.losses.gan.
        latent_dim: Z.
        optimizer: Called with two parameter groups, which have the two learning rates.
        generator_lr: Learning rate of the generator.
        discriminator_lr: Learning rate of the discriminator.
        num_classes: Classes of the data, to train with labels (B,); 0 without labels.
        out_dim: O.
        update: How the loss of a step is formed; see genlab.systems.gan.updates.
        num_discriminator_steps: Discriminator steps per generator step; more than 1 needs
            update=alternating.
        score_scale: Factor on the mean output.
        prior: Latent vectors are normal, or uniform in [-1, 1].
        scheduler: Called with the optimiser; its schedule is stepped at every step.
        channels_last: Whether networks and images are channels-last in memory.
        penalty: A gradient penalty of genlab.losses.penalties.
        augment: An augmentation of genlab.losses.augment, for real images and fakes.
        classes: Names of the classes; `genlab train` fills them in.

    Raises:
        ValueError: The update is not exact for this network and loss, or the loss is not
            adversarial.
    """

    modality = "image"

    def __init__(
        self,
        net: Mapping[str, nn.Module],
        loss: AdversarialLoss,
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
        self.generator = net["generator"]
        self.discriminator = net["discriminator"]
        if not isinstance(loss, AdversarialLoss):
            raise ValueError(
                f"loss: {type(self).__name__} needs an adversarial loss such as loss=hinge; "
                f"{type(loss).__name__} is none (see genlab.losses.gan.AdversarialLoss)"
            )
        updates.check(update, self.discriminator, out_dim, loss, num_discriminator_steps)
        if prior not in ("normal", "uniform"):
            raise ValueError(f"model.prior={prior!r}: expected normal or uniform")
        self.loss = loss
        self.penalty = penalty
        self.augment = augment
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        self.out_dim = out_dim
        self.update = update
        self.classes = None if classes is None else list(map(str, classes))
        self.num_discriminator_steps = num_discriminator_steps
        self.score_scale = score_scale
        self.prior_name = prior
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.generator_lr = generator_lr
        self.discriminator_lr = discriminator_lr
        # Of an alternating step: 0 to n - 1 are turns of the discriminator, n is the generator's.
        self.turn: int | None = None
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)

    # --- the objective ----------------------------------------------------------------------------

    def discriminate(self, images: Tensor, y: Tensor | None = None, fake: bool = False) -> Tensor:
        """The discriminator's outputs for augmented images.

        Args:
            images: (B, C, H, W).
            y: Labels (B,) or None.
            fake: Whether the images are fakes: running statistics are updated by real ones alone.

        Returns:
            Outputs (B, O), in float32 or wider.
        """
        images = images if self.augment is None else self.augment(images)
        with frozen_statistics(self.discriminator) if fake else nullcontext():
            outputs = self.discriminator(images, y)
        return outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs

    def score(self, outputs: Tensor) -> Tensor:
        """Scores (B,) of the discriminator's outputs (B, O)."""
        return self.score_scale * outputs.mean(1)

    def objectives(
        self, real: Tensor, fake: Tensor, x: Tensor, k: Tensor, z: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The losses of both players, each a mean over the batch.

        Args:
            real: The discriminator's outputs (B, O) for x.
            fake: The discriminator's outputs (B, O) for k.
            x: Real images (B, C, H, W).
            k: Fakes (B, C, H, W).
            z: Their latent vectors (B, Z).

        Returns:
            The discriminator's loss, the generator's loss, and values to log.
        """
        real_score = self.score(real)
        fake_score = self.score(fake)
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
        """The generator's loss, a mean over the batch.

        Args:
            real: The discriminator's outputs (B, O) for real images, which relativistic losses use.
            fake: The discriminator's outputs (B, O) for fakes.
            z: The latent vectors (B, Z) of the fakes.
        """
        return self.loss.generator(self.score(real), self.score(fake)).mean()

    def penalise(
        self, x: Tensor, k: Tensor, y: Tensor | None, logs: dict[str, Tensor]
    ) -> Tensor | float:
        """The gradient penalty, a mean over the batch; 0 at steps without one.

        Args:
            x: Real images (B, C, H, W).
            k: Fakes (B, C, H, W).
            y: Labels (B,) or None.
            logs: Gets the penalty's value.
        """
        if not self._penalty_due:
            return 0.0

        def critic(images: Tensor) -> Tensor:
            return self.score(self.discriminate(images, y, fake=True))

        value = self.penalty(critic, x, k.detach()).mean()
        logs["train/penalty"] = value.detach()
        return self.penalty.every * value

    # --- training ---------------------------------------------------------------------------------

    def graph_key(self) -> tuple:
        """What decides which kernels the next turn launches (trainer.graph=true).

        Raises:
            ValueError: The network cannot be captured.
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
        if self.turn is not None:
            # Each turn of the discriminator takes an n-th of the batch, the generator's the last.
            n = self.num_discriminator_steps
            part = min(self.turn, n - 1)
            x = x.tensor_split(n)[part]
            y = None if y is None else y.tensor_split(n)[part]
        if self.augment is not None:
            self.augment.draw(len(x), x.device)
        z = self.draw(len(x))
        if self.turn is None:
            loss, logs = updates.JOINT[self.update](self, x, z, y)
        elif self.turn < self.num_discriminator_steps:
            loss, logs = updates.discriminator_turn(self, x, z, y)
            logs.pop("train/loss_g")  # the generator's own turn logs it
        else:
            loss, logs = updates.generator_turn(self, x, z, y)
        self.log_dict(logs)
        return loss

    def backward(self, loss: Tensor, *args, **kwargs) -> None:
        """Computes the gradients of the parameters alone.

        The fakes of update=shared are a leaf of the graph too, and their gradient is not needed.
        """
        loss.backward(*args, inputs=[p for p in self.parameters() if p.requires_grad], **kwargs)

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
        """Does all turns of an alternating step, so that Lightning counts them as one."""
        if self.update != "alternating":
            return optimizer.step(closure=optimizer_closure)
        for turn in range(self.num_discriminator_steps + 1):
            self.turn = turn
            optimizer.step(closure=optimizer_closure)
        self.turn = None

    def configure_optimizers(self):
        rates = {"generator": self.generator_lr, "discriminator": self.discriminator_lr}
        groups = [
            {"params": list(getattr(self, name).parameters()), "lr": lr, "name": name}
            for name, lr in rates.items()
        ]
        optimizer = self.optimizer(groups)
        if self.scheduler is None:
            return optimizer
        schedule = {"scheduler": self.scheduler(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def configure_gradient_clipping(
        self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None
    ):
        """Clips each player's gradient on its own.

        With a common norm, a large gradient of one player would shrink the other's step.
        """
        if gradient_clip_val is None:
            return
        by_value = gradient_clip_algorithm == "value"
        clip = nn.utils.clip_grad_value_ if by_value else nn.utils.clip_grad_norm_
        for group in optimizer.param_groups:
            clip(group["params"], gradient_clip_val)

    def on_fit_start(self) -> None:
        updates.check_trainer(self.update, self.trainer)
        updates.check_classes(self.num_classes, self.trainer.datamodule)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        # A score far below train/score_real means that the discriminator has memorised the training
        # images.
        y = batch["label"] if self.num_classes else None
        score = self.score(self.outputs(batch["image"], y)).mean()
        self.log("val/score_real", score, batch_size=len(batch["image"]), sync_dist=True)

    # --- verbs ------------------------------------------------------------------------------------

    def draw(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """Latent vectors (num, Z) of the prior, on the system's device.

        Args:
            num: How many.
            generator: Torch's random generator; None: the global one of the system's device.
        """
        device = generator.device if generator else self.device
        draw = torch.randn if self.prior_name == "normal" else torch.rand
        z = draw(num, self.latent_dim, generator=generator, device=device)
        z = z if self.prior_name == "normal" else 2 * z - 1
        return z.to(self.device, self.dtype)

    def prior(self, num: int, seed: int, temperature: float = 1.0) -> Tensor:
        """Latent vectors (num, Z) of the prior, the same on every device.

        Args:
            num: How many; the first vectors do not depend on it.
            seed: Of the noise.
            temperature: Factor on the vectors; below 1 truncates.
        """
        whole = num + -num % 16  # torch fills an incomplete last block of 16 numbers differently
        return temperature * self.draw(whole, torch.Generator().manual_seed(seed))[:num]

    def labels(self, num: int, label: int | str | list[int | str] | None = None) -> Tensor | None:
        """Labels (num,) int64 to sample with; None without classes.

        Args:
            num: How many.
            label: A class by name or number, or a list of them, taken in turn; None: all classes in
                turn.

        Raises:
            ConfigError: There is no such class, or the model has no classes.
        """
        if not self.num_classes:
            if label is not None:
                raise ConfigError(
                    f"label={label}: this model was trained without labels (model.num_classes=0); "
                    "leave label= out"
                )
            return None
        wanted = class_numbers(label, self.num_classes, self.classes).to(self.device)
        return wanted.repeat(num // len(wanted) + 1)[:num]

    @torch.no_grad()
    def decode(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] of latent vectors (N, Z).

        Args:
            codes: Latent vectors (N, Z).
            labels: (N,) where there are classes.
        """
        return torch.cat([self.generator(z, y).float() for z, y in self._batches(codes, labels)])

    def generate_images(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) of codes (N, Z), with gradients."""
        return self.generator(codes, labels)

    def graphs(self) -> dict[str, nn.Module]:
        """The generator as `decode`."""
        return {"decode": self.generator}

    @torch.no_grad()
    def outputs(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The discriminator's outputs (N, O) for images without augmentation.

        Args:
            images: (N, C, H, W) in [-1, 1].
            labels: (N,) where there are classes.
        """
        return torch.cat(
            [self.discriminator(x, y).float() for x, y in self._batches(images, labels)]
        )

    def _batches(
        self, inputs: Tensor, labels: Tensor | None, size: int = 256
    ) -> Iterable[tuple[Tensor, Tensor | None]]:
        """Inputs and labels in batches of at most `size`, on the system's device."""
        parts = inputs.to(self.device, self.dtype).split(size)
        if labels is None:
            return ((part, None) for part in parts)
        return zip(parts, labels.to(self.device).split(size), strict=True)

    def sample(
        self,
        num: int,
        seed: int = 0,
        temperature: float = 1.0,
        label: int | str | list[int | str] | None = None,
    ) -> Tensor:
        """Images (num, C, H, W) in [-1, 1] from the prior.

        Args:
            num: How many.
            seed: Of the noise.
            temperature: Factor on the latent vectors; below 1 truncates.
            label: As for `labels`.
        """
        return self.decode(self.prior(num, seed, temperature), self.labels(num, label))

    def stand(self, num_batches: int, seed: int = 0) -> None:
        """Computes the generator's batch norm statistics anew (standing statistics).

        Args:
            num_batches: Batches of 256 samples that they are the average of.
            seed: Of the samples.
        """
        with standing_statistics(self.generator):
            self.sample(256 * num_batches, seed)
