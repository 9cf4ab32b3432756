"""Maximum likelihood by a bijection: one network, exact codes, and a log-probability of every
input.

Shapes: B inputs of a batch or N of a call; x (B, C, H, W) images in [-1, 1] or (B, D) points;
z (B, D) codes, D the number of pixels times channels of an image.
"""

import logging
import math
from collections.abc import Callable
from typing import Annotated

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from genlab.nn.bijection import Bijection, Estimated
from genlab.nn.log_det import Exact, Truncated
from genlab.nn.pixels import Pixels, bits_per_dim
from genlab.nn.precision import float32_convolutions
from genlab.nn.residual import ResidualBlock, without_log_det
from genlab.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt, Range
from genlab.systems.base import Derived
from genlab.systems.flow.graphs import flow_graphs
from genlab.systems.latent.codes import draw
from genlab.training.schedules import check_decay, configure_schedule, warmup_decay

__all__ = ["Flow", "check_precision", "configure_network", "network_estimates"]

log = logging.getLogger(__name__)


class Flow(LightningModule):
    """A bijection x <-> z with a standard normal prior on z, trained on -log p(x).

    Images are dequantised and, with alpha > 0, mapped by a logit first (genlab.nn.pixels). Points
    stay as they are. The loss, logged as bits_per_dim (images) or nll (points, nats), counts these
    maps too.

    Args:
        net: A genlab.nn.bijection.Bijection. An `Estimated` one logs its estimates as well; one
            with `refresh()` is refreshed whenever its weights have changed.
        optimizer: Called with the parameters and lr=.
        lr: The learning rate after the warm-up.
        num_warmup_steps: Steps of a linear rise of the rate.
        num_decay_steps: The step at which a cosine brings the rate to 0; null: it stays.
        num_bins: Grey values of a pixel; null: those of the data. Images only.
        alpha: The margin that keeps the logit of images finite; 0: no logit.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[..., torch.optim.Optimizer],
        lr: NonNegativeFloat,
        num_warmup_steps: NonNegativeInt = 0,
        num_decay_steps: PositiveInt | None = None,
        num_bins: PositiveInt | None = None,
        alpha: Annotated[float, Range(ge=0, lt=0.5)] = 0.05,
    ):
        super().__init__()
        check_decay(num_warmup_steps, num_decay_steps)
        self.net, self.optimizer, self.lr = net, optimizer, lr
        self.num_warmup_steps, self.num_decay_steps = num_warmup_steps, num_decay_steps
        self.num_bins = num_bins
        self.modality = "image" if len(net.shape) == 3 else "point"
        self.measure = "bits_per_dim" if self.modality == "image" else "nll"
        self.latent_dim = net.dims
        self.overflowed = False
        if self.modality == "image":
            self.pixels = Pixels(256 if num_bins is None else num_bins, alpha)
        elif num_bins is not None:
            raise ValueError(
                f"model.num_bins={num_bins}: points have no grey values; set model.num_bins=null"
            )

    # --- the objective ----------------------------------------------------------------------------

    def prepare(self, x: Tensor, noise: Tensor | float = 0.5) -> tuple[Tensor, Tensor]:
        """The network's input for inputs x, and the log-determinant (B,) of that map in nats.

        Args:
            x: Images or points.
            noise: Where in the bin of its grey value a pixel lies, in [0, 1).
        """
        return self.pixels(x, noise) if self.modality == "image" else (x, x.new_zeros(len(x)))

    @float32_convolutions()
    def forward(self, x: Tensor, noise: Tensor | float = 0.5) -> tuple[Tensor, Tensor]:
        """Codes z (B, D), and log |det dz/dx| (B,) in nats, `prepare` included."""
        x, before = self.prepare(x, noise)
        z, log_det = self.net(x)
        return z, log_det + before

    def log_prob_of(self, x: Tensor, noise: Tensor | float = 0.5) -> Tensor:
        """log p (B,) in nats, with gradients."""
        return self._log_density(*self(x, noise))

    def _log_density(self, z: Tensor, log_det: Tensor) -> Tensor:
        return log_det - 0.5 * (z.square().sum(1) + self.latent_dim * math.log(2 * math.pi))

    def scaled(self, log_prob: Tensor) -> Tensor:
        """The loss of each input, from its log p in nats: bits a dimension of images, nats of
        points.
        """
        return bits_per_dim(log_prob, self.latent_dim) if self.modality == "image" else -log_prob

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        x = batch[self.modality]
        loss = self.scaled(self.log_prob_of(x, torch.rand_like(x))).mean()
        self.log(f"train/{self.loss_name}", loss.detach())
        if estimates := network_estimates(self.net):
            self.log_dict({f"train/{name}": value for name, value in estimates.items()})
        return loss

    @property
    def loss_name(self) -> str:
        """The name that the training loss is logged under: a surrogate is no likelihood."""
        surrogate = isinstance(self.net, Estimated) and self.net.surrogate
        return "surrogate_loss" if surrogate else self.measure

    @float32_convolutions()
    def backward(self, loss: Tensor, *args, **kwargs) -> None:
        super().backward(loss, *args, **kwargs)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        x = batch[self.modality]
        value = self.scaled(self.log_prob(x, seed=batch_idx)).mean()
        self.log(f"val/{self.measure}", value, batch_size=len(x), sync_dist=True)

    def configure_optimizers(self):
        return configure_network(self)

    def rate(self, step: int) -> float:
        """The factor of lr in step 0, 1, ..."""
        return warmup_decay(step, self.num_warmup_steps, self.num_decay_steps, "cosine")

    def graph_key(self) -> tuple:
        """Empty: every step launches the same kernels (trainer.graph=true)."""
        return ()

    def check_graph(self) -> None:
        """ValueError if the number of kernels of a step is random, which no graph can replay."""
        blocks = [module for module in self.net.modules() if isinstance(module, ResidualBlock)]
        if any(not isinstance(block.series, Exact | Truncated) for block in blocks):
            raise ValueError(
                "trainer.graph=true: net.log_det draws a number of terms for each step; expected "
                "genlab.nn.log_det.Truncated or Exact"
            )

    def optimizer_step(self, *args, **kwargs) -> None:
        super().optimizer_step(*args, **kwargs)
        self.refresh()

    def refresh(self) -> None:
        """Updates what the network derives from its weights, after they were changed."""
        if isinstance(self.net, Derived):
            self.net.refresh()

    def on_fit_start(self) -> None:
        data = self.trainer.datamodule
        check_precision(self.trainer.precision)
        if data.modality != self.modality:
            raise ValueError(
                f"data: {data.name} has no {self.modality}s, which "
                f"net.shape={list(self.net.shape)} expects"
            )
        if self.modality == "image" and self.num_bins is None:
            self.pixels.levels.fill_(data.num_bins)

    # --- verbs ------------------------------------------------------------------------------------

    def prior(self, num: int, seed: int, temperature: float = 1.0) -> Tensor:
        """Codes (num, D) of the prior.

        Args:
            num: How many. The first codes are the same for every `num`.
            seed: Decides the codes, on every device alike.
            temperature: Their standard deviation.
        """
        return temperature * draw(num, self.latent_dim, seed).to(self.device, self.dtype)

    @torch.no_grad()
    def log_prob(self, inputs: Tensor, seed: int = 0) -> Tensor:
        """log p (N,) in nats of inputs (N, ...).

        Of points it is a density. Of images it is, in the mean over `seed`, a lower bound of the
        log-probability of their grey values.

        Args:
            inputs: Images or points.
            seed: Of the noise that dequantises images, and of the network's own estimates.
        """
        found = []
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            for x in self._batches(inputs):
                noise = torch.rand(x.shape).to(x) if self.modality == "image" else 0.0
                found.append(self.log_prob_of(x, noise))
        return torch.cat(found)

    @torch.no_grad()
    def encode(self, inputs: Tensor) -> Tensor:
        """Codes (N, D) of points, or of images at the middle of the bins of their grey values."""
        with without_log_det(self.net):
            return torch.cat([self(x)[0] for x in self._batches(inputs)])

    @torch.no_grad()
    @float32_convolutions()
    def decode(self, codes: Tensor) -> Tensor:
        """Inputs (N, *shape) of codes (N, D); each pixel of an image is one of the grey values."""
        found = torch.cat([self.net.inverse(z) for z in self._batches(codes)])
        if self.modality == "point":
            return found
        if not self.overflowed and found.isnan().any():
            self.overflowed = True  # warn once
            log.warning(
                "the inverse overflows for some codes, whose pixels become mid grey: train longer, "
                "sample with a lower temperature=, or take couplings of bounded scale "
                "(net.coupling=tanh)"
            )
        return self.pixels.inverse(found)

    def _batches(self, inputs: Tensor, size: int = 256) -> tuple[Tensor, ...]:
        return inputs.to(self.device, self.dtype).split(size)

    def sample(self, num: int, seed: int = 0, temperature: float = 1.0) -> Tensor:
        """Inputs (num, *shape) of codes of the prior with standard deviation `temperature`."""
        return self.decode(self.prior(num, seed, temperature))

    def graphs(self) -> dict[str, nn.Module]:
        """`encode`, and `decode` where the inverse is no iteration."""
        return flow_graphs(self.pixels, self.net) if self.modality == "image" else {}

    def reconstruct(self, inputs: Tensor, code_scale: float | None = None) -> Tensor:
        """Inputs of the exact codes of inputs (N, *shape).

        Args:
            inputs: Images or points.
            code_scale: Factor on the codes; below 1 moves them toward the mean of the prior.
        """
        return self.decode((1.0 if code_scale is None else code_scale) * self.encode(inputs))

    def interpolate(self, start: Tensor, end: Tensor, num: int) -> Tensor:
        """Inputs (N, num, *shape) on the line between the codes of each pair of inputs."""
        weight = torch.linspace(0, 1, num, device=self.device)[None, :, None]
        a, b = self.encode(start)[:, None], self.encode(end)[:, None]  # (N, 1, D)
        codes = ((1 - weight) * a + weight * b).flatten(0, 1)
        return self.decode(codes).unflatten(0, (len(start), num))


def configure_network(system):
    """What `configure_optimizers` of a system with one network and a `rate` returns."""
    optimizer = system.optimizer(system.net.parameters(), lr=system.lr)
    if not system.num_warmup_steps and system.num_decay_steps is None:
        return optimizer
    return configure_schedule(optimizer, system.rate)


def network_estimates(net: Bijection) -> dict[str, Tensor]:
    """What a network that estimates its log-determinant logs of the last batch, by name."""
    return net.estimates() if isinstance(net, Estimated) else {}


def check_precision(precision: str) -> None:
    """ValueError unless the trainer computes in float32 or float64."""
    if precision not in ("32-true", "64-true"):
        raise ValueError(
            f"trainer.precision={precision}: expected 32-true or 64-true, which an inverse needs"
        )
