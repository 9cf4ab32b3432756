"""Classification by an invertible network: alone, or together with the likelihood of the images.

Shapes: images (B, C, H, W) in [-1, 1]; codes z (B, D); logits (B, K) of K classes.
"""

import math
from collections.abc import Callable

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from genlab.losses.augment import translate
from genlab.nn.bijection import ClassifiesCodes
from genlab.nn.pixels import Pixels
from genlab.nn.precision import float32_convolutions
from genlab.nn.residual import without_log_det
from genlab.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt
from genlab.systems.base import Derived
from genlab.systems.flow.flow import Flow, check_precision, configure_network, network_estimates
from genlab.systems.flow.graphs import flow_graphs
from genlab.training.schedules import check_decay, warmup_decay

__all__ = ["HybridFlow", "InvertibleClassifier"]


class InvertibleClassifier(LightningModule):
    """An invertible network trained by cross-entropy alone; decode(encode(x)) is x.

    Args:
        net: A network with a classifier of its codes (genlab.models.flow.iresnet_classifier).
        optimizer: Called with the parameters and lr=.
        lr: The learning rate after the warm-up.
        num_warmup_steps: Steps of a linear rise of the rate.
        num_decay_steps: The step at which a cosine brings the rate to 0; null: it stays.
        shift: The most pixels by which a training image is moved, along each axis.
    """

    modality, measure = "image", "cross_entropy"

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[..., torch.optim.Optimizer],
        lr: NonNegativeFloat,
        num_warmup_steps: NonNegativeInt = 0,
        num_decay_steps: PositiveInt | None = None,
        shift: NonNegativeInt = 0,
    ):
        super().__init__()
        check_decay(num_warmup_steps, num_decay_steps)
        if shift < 0:
            raise ValueError(f"model.shift={shift}: expected a number of pixels, 0 for none")
        self.net = net
        self.optimizer = optimizer
        self.lr = lr
        self.shift = shift
        self.num_warmup_steps, self.num_decay_steps = num_warmup_steps, num_decay_steps
        self.latent_dim = net.dims
        self.pixels = Pixels(alpha=0)

    @property
    def invertible(self) -> bool:
        """Whether all norms of the network are bounded (net.coeff), so that it has an inverse."""
        return self.net.bounded

    # --- the objective ----------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        logits = self.outputs(shifted(batch["image"], self.shift))
        loss = cross_entropy(logits, batch["label"])
        accuracy = (logits.argmax(1) == batch["label"]).float().mean()
        self.log_dict({"train/cross_entropy": loss.detach(), "train/accuracy": accuracy})
        return loss

    @float32_convolutions()
    def backward(self, loss: Tensor, *args, **kwargs) -> None:
        super().backward(loss, *args, **kwargs)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        log_accuracy(self, self.classify(batch["image"]), batch)

    def configure_optimizers(self):
        return configure_network(self)

    def rate(self, step: int) -> float:
        """The factor of lr in step 0, 1, ..."""
        return warmup_decay(step, self.num_warmup_steps, self.num_decay_steps, "cosine")

    def optimizer_step(self, *args, **kwargs) -> None:
        super().optimizer_step(*args, **kwargs)
        self.refresh()

    def refresh(self) -> None:
        """Updates what the network derives from its weights, after they were changed."""
        if isinstance(self.net, Derived):
            self.net.refresh()

    def on_fit_start(self) -> None:
        check_labels(self)
        self.pixels.levels.fill_(self.trainer.datamodule.num_bins)

    def prepare(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The network's input for images, and the log-determinant (B,) of that map in nats."""
        return self.pixels(images)

    @float32_convolutions()
    def outputs(self, images: Tensor) -> Tensor:
        """Logits of images, with gradients."""
        return self.net.logits(self.net(self.prepare(images)[0])[0])

    # --- verbs ------------------------------------------------------------------------------------

    def _batches(self, inputs: Tensor, size: int = 256) -> tuple[Tensor, ...]:
        return inputs.to(self.device, self.dtype).split(size)

    @torch.no_grad()
    def classify(self, images: Tensor) -> Tensor:
        """Logits of images."""
        return torch.cat([self.outputs(x) for x in self._batches(images)])

    @torch.no_grad()
    @float32_convolutions()
    def encode(self, images: Tensor) -> Tensor:
        """Codes of images."""
        return torch.cat([self.net(self.prepare(x)[0])[0] for x in self._batches(images)])

    @torch.no_grad()
    @float32_convolutions()
    def decode(self, codes: Tensor) -> Tensor:
        """Images of codes, each pixel one of the grey values; injected channels are dropped."""
        return self.pixels.inverse(torch.cat([self.net.inverse(z) for z in self._batches(codes)]))

    def graphs(self) -> dict[str, nn.Module]:
        """`encode`, and `decode` where the inverse is no iteration."""
        return flow_graphs(self.pixels, self.net)

    def reconstruct(self, images: Tensor, code_scale: float | None = None) -> Tensor:
        """Images of the exact codes of images, times `code_scale` where given."""
        return self.decode((1.0 if code_scale is None else code_scale) * self.encode(images))


class HybridFlow(Flow):
    """A Flow of images whose code is classified too; the loss is the cross-entropy in bits plus
    likelihood_weight x bits a dimension.

    The classifier sees the dequantised image.

    "Residual Flows for Invertible Generative Modeling", Chen et al. 2019, arXiv 1906.02735, section
    4.4.

    Args:
        likelihood_weight: 1 weighs the class against one dimension of the image; D, the number of
            pixels times channels, makes the loss the joint likelihood.
    """

    def __init__(self, *args, likelihood_weight: NonNegativeFloat = 1.0, **kwargs):
        super().__init__(*args, **kwargs)
        if not likelihood_weight > 0:
            raise ValueError(
                f"model.likelihood_weight={likelihood_weight}: expected a positive number; to "
                "train without a likelihood use model=iresnet_classifier"
            )
        if not isinstance(self.net, ClassifiesCodes) or self.net.inject:
            raise ValueError(
                "net: expected a classifier that injects no channels (net=iresnet_hybrid)"
            )
        self.likelihood_weight = likelihood_weight

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        x = batch["image"]
        z, log_det = self(x, torch.rand_like(x))
        likelihood = self.scaled(self._log_density(z, log_det)).mean()
        logits = self._logits(z)
        loss = cross_entropy(logits, batch["label"])
        logs = {
            "cross_entropy": loss.detach(),
            "accuracy": (logits.argmax(1) == batch["label"]).float().mean(),
            self.loss_name: likelihood.detach(),
            **network_estimates(self.net),
        }
        self.log_dict({f"train/{name}": value for name, value in logs.items()})
        return loss / math.log(2) + self.likelihood_weight * likelihood

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        log_accuracy(self, self.classify(batch["image"]), batch)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        check_labels(self)

    @float32_convolutions()
    def _logits(self, z: Tensor) -> Tensor:
        return self.net.logits(z)

    @torch.no_grad()
    def classify(self, images: Tensor) -> Tensor:
        """Logits of images."""
        with without_log_det(self.net):
            return torch.cat([self._logits(self(x)[0]) for x in self._batches(images)])


def log_accuracy(system: LightningModule, logits: Tensor, batch: dict[str, Tensor]) -> None:
    """Logs val/accuracy and val/cross_entropy of one batch."""
    y = batch["label"]
    values = {
        "val/cross_entropy": cross_entropy(logits, y),
        "val/accuracy": (logits.argmax(1) == y).float().mean(),
    }
    system.log_dict(values, batch_size=len(y), sync_dist=True)


def check_labels(system: LightningModule) -> None:
    """ValueError unless the data have the classes of the network, and the trainer computes in
    float32 or float64.
    """
    data = system.trainer.datamodule
    if data.num_classes != system.net.num_classes:
        found = f"{data.num_classes} classes" if data.num_classes else "no classes"
        raise ValueError(
            f"net.num_classes={system.net.num_classes}: data {data.name} has {found}; "
            "expected the same number"
        )
    check_precision(system.trainer.precision)


def shifted(images: Tensor, most: int) -> Tensor:
    """Images (B, C, H, W), each moved by up to `most` pixels along both axes; black fills in."""
    if not most:
        return images
    dy, dx = most - torch.randint(2 * most + 1, (2, len(images), 1, 1), device=images.device)
    return translate(images, dy, dx, fill=-1.0)
