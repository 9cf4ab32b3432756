"""Activation normalisation: a learned affine map a feature, started from the statistics of the
first training batch.
"""

import torch
from torch import Tensor, distributed, nn

__all__ = ["ActNorm"]


class ActNorm(nn.Module):
    """y = (x + shift) exp(log_scale) a feature of x (B, D) or (B, C, H, W); returns (y, log det
    (B,)) in nats.

    The first batch seen in training mode (of all processes together) sets shift and log_scale so
    that each feature of it leaves with mean 0 and variance 1; a variance counts as at least
    `variance_floor`, or a constant border pixel would get an enormous scale. That it happened is
    the buffer `initialised`, so that a reloaded model keeps what it learned.

    "Glow: Generative Flow with Invertible 1x1 Convolutions", Kingma and Dhariwal 2018, arXiv
    1807.03039, section 3.1.
    """

    initialised: Tensor

    def __init__(self, num_features: int, variance_floor: float = 1e-4):
        super().__init__()
        self.variance_floor = variance_floor
        self.shift, self.log_scale = (
            nn.Parameter(torch.zeros(num_features)),
            nn.Parameter(torch.zeros(num_features)),
        )
        self.register_buffer("initialised", torch.tensor(False))
        self.known = False  # of the buffer, which on an accelerator takes a synchronisation to read

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.known = False

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        dims = (0, *range(2, x.dim()))
        moments = torch.stack([x.double().mean(dims), x.double().square().mean(dims)])
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(moments)
            moments /= distributed.get_world_size()
        mean, square = moments
        variance = (square - mean.square()).clamp(min=self.variance_floor)
        self.shift.copy_(-mean)
        self.log_scale.copy_(-0.5 * variance.log())
        self.initialised.fill_(True)

    def first_batch(self) -> bool:
        """Whether `initialise` has to see what comes in now; asked once, True is not said again."""
        if self.known or not self.training:
            return False
        self.known = True
        return not self.initialised

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.first_batch():
            self.initialise(x.detach())
        shift, log_scale = self._like(self.shift, x), self._like(self.log_scale, x)
        log_det = x[0, 0].numel() * self.log_scale.sum()
        return (x + shift) * log_scale.exp(), log_det.expand(x.shape[0])

    def inverse(self, y: Tensor) -> Tensor:
        return y * (-self._like(self.log_scale, y)).exp() - self._like(self.shift, y)

    @staticmethod
    def _like(vector: Tensor, x: Tensor) -> Tensor:
        return vector.view(-1, *[1] * (x.dim() - 2))
