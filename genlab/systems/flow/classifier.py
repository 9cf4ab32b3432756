"""Classification by an invertible network: alone, or together with the likelihood of the images."""

import math
from collections.abc import Callable

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from genlab.nn.pixels import Pixels
from genlab.nn.residual import without_log_det
from genlab.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt
from genlab.systems.flow.flow import Flow

__all__ = ["HybridFlow", "InvertibleClassifier"]


class InvertibleClassifier(LightningModule):
    """An invertible network (genlab.models.flow.iresnet_classifier) trained by cross-entropy alone.

    optimizer: called with the parameters and lr; weight_decay and the like are its own.
    warmup_steps, decay_steps: as Flow's. shift: move each training image by up to that many pixels.
    Codes are exact: decode(encode(x)) is x.
    """

    modality, measure = "image", "cross_entropy"

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[..., torch.optim.Optimizer],
        lr: NonNegativeFloat,
        warmup_steps: NonNegativeInt = 0,
        decay_steps: PositiveInt | None = None,
        shift: NonNegativeInt = 0,
    ):
        super().__init__()
        torch.backends.cudnn.allow_tf32 = (
            False  # three digits of a convolution, where an inverse is found to six
        )
        if decay_steps is not None and decay_steps <= warmup_steps:
            raise ValueError(
                f"model.decay_steps={decay_steps}: expected null or more than warmup_steps={warmup_steps}"
            )
        if shift < 0:
            raise ValueError(f"model.shift={shift}: expected a number of pixels, 0 for none")
        self.net, self.optimizer, self.lr, self.shift = net, optimizer, lr, shift
        self.warmup_steps, self.decay_steps = warmup_steps, decay_steps
        self.latent_dim, self.pixels = net.dims, Pixels(alpha=0)

    configure_optimizers, rate, refresh = Flow.configure_optimizers, Flow.rate, Flow.refresh

    @property
    def invertible(self) -> bool:
        """Whether the norms of the network are bounded (net.coeff), without which nothing promises
        an inverse.
        """
        return self.net.bounded

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        logits = self.outputs(shifted(batch["image"], self.shift))
        loss = cross_entropy(logits, batch["label"])
        accuracy = (logits.argmax(1) == batch["label"]).float().mean()
        self.log_dict({"train/cross_entropy": loss.detach(), "train/accuracy": accuracy})
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        log_accuracy(self, self.classify(batch["image"]), batch)

    def optimizer_step(self, *args, **kwargs) -> None:
        super().optimizer_step(*args, **kwargs)
        self.refresh()

    def on_fit_start(self) -> None:
        check_labels(self)
        self.pixels.levels.fill_(self.trainer.datamodule.levels)

    def prepare(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the network sees of images, and the log det (B,) of that step."""
        return self.pixels(images)

    def outputs(self, images: Tensor) -> Tensor:
        return self.net.logits(self.net(self.prepare(images)[0])[0])

    # --- verbs ------------------------------------------------------------------------------------

    def _batches(self, inputs: Tensor, size: int = 256):
        return inputs.to(self.device, self.dtype).split(size)

    @torch.no_grad()
    def classify(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W) in [-1, 1]."""
        return torch.cat([self.outputs(x) for x in self._batches(images)])

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """The codes (N, D) of images in [-1, 1]."""
        return torch.cat([self.net(self.prepare(x)[0])[0] for x in self._batches(images)])

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """The images of codes (N, D), each pixel one of the data's grey values; added channels are
        dropped.
        """
        return self.pixels.inverse(torch.cat([self.net.inverse(z) for z in self._batches(codes)]))

    def reconstruct(self, images: Tensor, code_scale: float | None = None) -> Tensor:
        """The images again, through the exact code, times `code_scale` where given."""
        return self.decode((1.0 if code_scale is None else code_scale) * self.encode(images))


class HybridFlow(Flow):
    """A Flow of images whose code is classified as well: cross-entropy (bits) + likelihood_weight x
    bits a dimension.

    likelihood_weight: 1 is the classifier beside a density counted in bits a dimension; D, the
    number of pixels, is the full joint likelihood ("Residual Flows for Invertible Generative
    Modeling", Chen et al. 2019, arXiv 1906.02735, section 4.4). The classifier sees the dequantised
    image.
    """

    def __init__(self, *args, likelihood_weight: NonNegativeFloat = 1.0, **kwargs):
        super().__init__(*args, **kwargs)
        if not likelihood_weight > 0:
            raise ValueError(
                f"model.likelihood_weight={likelihood_weight}: expected a positive number; without a likelihood use "
                "model=iresnet_classifier"
            )
        if not hasattr(self.net, "logits") or self.net.inject:
            raise ValueError(
                "net: expected a classifier that adds no channels (net=iresnet_hybrid)"
            )
        self.likelihood_weight = likelihood_weight

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        x = batch["image"]
        z, log_det = self(x, torch.rand_like(x))
        likelihood = self.scaled(
            log_det - 0.5 * (z.square().sum(1) + self.latent_dim * math.log(2 * math.pi))
        ).mean()
        logits = self.net.logits(z)
        loss = cross_entropy(logits, batch["label"])
        accuracy = (logits.argmax(1) == batch["label"]).float().mean()
        name = "surrogate_loss" if self.net.surrogate else self.measure
        logs = {
            "cross_entropy": loss.detach(),
            "accuracy": accuracy,
            name: likelihood.detach(),
            **self.net.estimates(),
        }
        self.log_dict({f"train/{key}": value for key, value in logs.items()})
        return loss / math.log(2) + self.likelihood_weight * likelihood

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        log_accuracy(self, self.classify(batch["image"]), batch)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        check_labels(self)

    @torch.no_grad()
    def classify(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W) in [-1, 1]."""
        with without_log_det(self.net):
            return torch.cat([self.net.logits(self(x)[0]) for x in self._batches(images)])


def log_accuracy(system, logits: Tensor, batch: dict[str, Tensor]) -> None:
    """val/accuracy and val/cross_entropy of one batch."""
    y = batch["label"]
    values = {
        "val/cross_entropy": cross_entropy(logits, y),
        "val/accuracy": (logits.argmax(1) == y).float().mean(),
    }
    system.log_dict(values, batch_size=len(y), sync_dist=True)


def check_labels(system) -> None:
    """ValueError unless the data have the classes that the network was built for, and numbers are
    32 bits or more.
    """
    data = system.trainer.datamodule
    if data.num_classes != system.net.num_classes:
        raise ValueError(
            f"net.num_classes={system.net.num_classes}: {data.name} has {data.num_classes or 'no'} classes; set it to that"
        )
    if system.trainer.precision not in ("32-true", "64-true"):
        raise ValueError(
            f"trainer.precision={system.trainer.precision}: an inverse needs 32-true or 64-true"
        )


def shifted(images: Tensor, most: int) -> Tensor:
    """Each of the images (B, C, H, W) moved by up to `most` pixels along both axes; -1, which is
    black, comes in.
    """
    if not most:
        return images
    height, width = images.shape[2:]
    dy, dx = torch.randint(2 * most + 1, (2, len(images), 1, 1), device=images.device)
    rows = torch.arange(height, device=images.device)[None, :, None] + dy
    columns = torch.arange(width, device=images.device)[None, None, :] + dx
    samples = torch.arange(len(images), device=images.device)[:, None, None]
    return (
        pad(images, [most] * 4, value=-1.0)
        .permute(0, 2, 3, 1)[samples, rows, columns]
        .permute(0, 3, 1, 2)
    )
