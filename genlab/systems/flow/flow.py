"""Maximum likelihood by a bijection: one network, its exact codes, and a log-probability for every
input.
"""

import logging
import math
from collections.abc import Callable
from typing import Annotated

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from genlab.nn.log_det import Exact, Truncated
from genlab.nn.pixels import Pixels, bits_per_dim
from genlab.nn.residual import ResidualBlock, without_log_det
from genlab.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt, Range
from genlab.systems.latent.codes import draw

__all__ = ["Flow"]

log = logging.getLogger(__name__)


class Flow(LightningModule):
    """A bijection x (B, *net.shape) <-> z (B, D) of a standard normal, trained on -log p(x).

    Images in [-1, 1] are dequantised and, with alpha > 0, taken through a logit first
    (genlab.nn.pixels); points are taken as they are. The loss and the logged bits_per_dim (images,
    of `levels` grey values) or nll (points, nats) count all of that. net: forward(x) -> (z, log det
    (B,)), inverse(z) -> x, attributes shape and dims. A net may also have `refresh()`, called
    whenever its weights have changed, `surrogate` (true while training if its log det has a right
    gradient but is no estimate of the value: then train/surrogate_loss is logged), `estimates()`
    (more to log) and `certificate()`.
    optimizer: called with the parameters and lr. warmup_steps: the rate rises linearly.
    decay_steps: then falls by a cosine, to 0 at that step; null: stays. levels: null for those of
    the data.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[..., torch.optim.Optimizer],
        lr: NonNegativeFloat,
        warmup_steps: NonNegativeInt = 0,
        decay_steps: PositiveInt | None = None,
        levels: PositiveInt | None = None,
        alpha: Annotated[float, Range(ge=0, lt=0.5)] = 0.05,
    ):
        super().__init__()
        torch.backends.cudnn.allow_tf32 = (
            False  # three digits of a convolution, where an inverse is found to six
        )
        self.net, self.optimizer, self.lr = net, optimizer, lr
        self.warmup_steps, self.decay_steps, self.find_levels = (
            warmup_steps,
            decay_steps,
            levels is None,
        )
        if decay_steps is not None and decay_steps <= warmup_steps:
            raise ValueError(
                f"model.decay_steps={decay_steps}: expected null or more than warmup_steps={warmup_steps}"
            )
        self.modality = "image" if len(net.shape) == 3 else "point"
        self.measure = "bits_per_dim" if self.modality == "image" else "nll"
        self.latent_dim, self.overflowed = net.dims, False
        if self.modality == "image":
            self.pixels = Pixels(256 if levels is None else levels, alpha)
        elif levels is not None:
            raise ValueError(
                f"model.levels={levels}: points have no grey values; set model.levels=null"
            )

    # --- the objective ----------------------------------------------------------------------------

    def prepare(self, x: Tensor, noise: Tensor | float = 0.5) -> tuple[Tensor, Tensor]:
        """What the network sees of inputs x, and the log det (B,) of that step."""
        return self.pixels(x, noise) if self.modality == "image" else (x, x.new_zeros(len(x)))

    def forward(self, x: Tensor, noise: Tensor | float = 0.5) -> tuple[Tensor, Tensor]:
        """(z (B, D), log |det dz/dx| (B,)) of inputs x, the step before the network included."""
        x, before = self.prepare(x, noise)
        z, log_det = self.net(x)
        return z, log_det + before

    def log_prob_of(self, x: Tensor, noise: Tensor | float = 0.5) -> Tensor:
        z, log_det = self(x, noise)
        return log_det - 0.5 * (z.square().sum(1) + self.latent_dim * math.log(2 * math.pi))

    def scaled(self, log_prob: Tensor) -> Tensor:
        """What is minimised and logged: bits a dimension of images, nats of points."""
        return bits_per_dim(log_prob, self.latent_dim) if self.modality == "image" else -log_prob

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        x = batch[self.modality]
        loss = self.scaled(self.log_prob_of(x, torch.rand_like(x))).mean()
        name = "surrogate_loss" if getattr(self.net, "surrogate", False) else self.measure
        self.log(f"train/{name}", loss.detach())
        if hasattr(self.net, "estimates"):
            self.log_dict({f"train/{name}": value for name, value in self.net.estimates().items()})
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        x = batch[self.modality]
        value = self.scaled(self.log_prob(x, seed=batch_idx)).mean()
        self.log(f"val/{self.measure}", value, batch_size=len(x), sync_dist=True)

    def configure_optimizers(self):
        optimizer = self.optimizer(self.net.parameters(), lr=self.lr)
        if not self.warmup_steps and self.decay_steps is None:
            return optimizer
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def rate(self, step: int) -> float:
        """The part of lr that step `step`, from 0, is made with."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.decay_steps is None:
            return 1.0
        done = min((step - self.warmup_steps) / (self.decay_steps - self.warmup_steps), 1.0)
        return 0.5 * (1 + math.cos(math.pi * done))

    def graph_key(self) -> tuple:
        return ()  # every step launches the same kernels (trainer.graph=true)

    def check_graph(self) -> None:
        """ValueError where each step draws anew which kernels it launches."""
        blocks = [module for module in self.net.modules() if isinstance(module, ResidualBlock)]
        if any(not isinstance(block.series, Exact | Truncated) for block in blocks):
            raise ValueError(
                "trainer.graph=true: net.log_det draws how many terms each step takes; use log_det=truncated"
            )

    def optimizer_step(self, *args, **kwargs) -> None:
        super().optimizer_step(*args, **kwargs)
        self.refresh()

    def refresh(self) -> None:
        """To be called when weights were changed from outside: what the network derives from them
        is brought up to date.
        """
        if hasattr(self.net, "refresh"):
            self.net.refresh()

    def on_fit_start(self) -> None:
        data = self.trainer.datamodule
        if self.trainer.precision not in ("32-true", "64-true"):
            raise ValueError(
                f"trainer.precision={self.trainer.precision}: an inverse and a log-determinant need 32-true or 64-true"
            )
        if getattr(data, "modality", "image") != self.modality:
            raise ValueError(
                f"data: {data.name} has no {self.modality}s, which net.shape={list(self.net.shape)} asks for"
            )
        if self.modality == "image" and self.find_levels:
            self.pixels.levels.fill_(data.levels)

    # --- verbs ------------------------------------------------------------------------------------

    def prior(self, num: int, seed: int, temperature: float = 1.0) -> Tensor:
        """`num` vectors of the prior times `temperature`, (num, D): by `seed`, the same on every
        device, for every `num`.
        """
        return temperature * draw(num, self.latent_dim, seed).to(self.device, self.dtype)

    @torch.no_grad()
    def log_prob(self, inputs: Tensor, seed: int = 0) -> Tensor:
        """log p (N,) in nats: of points a density, of images a lower bound, on average over `seed`,
        of the probability of their pixel values. A function of `seed`, the network's own estimates
        included.
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
        """The codes (N, D) of images in [-1, 1], taken at the middle of each pixel value's bin, or
        of points.
        """
        with without_log_det(self.net):
            return torch.cat([self(x)[0] for x in self._batches(inputs)])

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """The inputs (N, *shape) of codes (N, D); images in [-1, 1], each pixel one of the data's
        grey values.
        """
        found = torch.cat([self.net.inverse(z) for z in self._batches(codes)])
        if self.modality == "point":
            return found
        if not self.overflowed and found.isnan().any():
            self.overflowed = True  # said once
            log.warning(
                "the inverse overflows for some codes, and their pixels are mid grey: train longer, draw them by a lower "
                "temperature=, or take couplings whose scale is bounded (net.coupling=tanh)"
            )
        return self.pixels.inverse(found)

    def _batches(self, inputs: Tensor, size: int = 256):
        return inputs.to(self.device, self.dtype).split(size)

    def sample(self, num: int, seed: int = 0, temperature: float = 1.0) -> Tensor:
        """`num` inputs (num, *shape) from the prior with standard deviation `temperature`."""
        return self.decode(self.prior(num, seed, temperature))

    def reconstruct(self, inputs: Tensor, code_scale: float | None = None) -> Tensor:
        """The inputs again, through the exact code; `code_scale` on the code moves them toward
        (below 1) the prior's mean.
        """
        return self.decode((1.0 if code_scale is None else code_scale) * self.encode(inputs))

    def interpolate(self, start: Tensor, end: Tensor, num: int) -> Tensor:
        """`num` inputs on the line between the codes of each pair: (N, num, *shape)."""
        steps = torch.linspace(0, 1, num, device=self.device)[None, :, None]
        a, b = self.encode(start)[:, None], self.encode(end)[:, None]
        return self.decode(((1 - steps) * a + steps * b).flatten(0, 1)).unflatten(
            0, (len(start), num)
        )
