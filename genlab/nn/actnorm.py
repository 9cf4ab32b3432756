"""Activation normalisation: a learned affine map of each feature, which starts from the statistics
of the first training batch.
"""

import torch
from torch import Tensor, distributed, nn

__all__ = ["ActNorm"]


class ActNorm(nn.Module):
    """y = (x + shift) exp(log_scale) for each feature of x (B, D) or (B, C, H, W); returns (y, log
    det (B,) in nats).

    The first batch in training mode (of all processes together) sets shift and log_scale such that
    its features leave with mean 0 and variance 1. The buffer `initialised` remembers that, so that
    a reloaded model keeps what it learned.

    "Glow: Generative Flow with Invertible 1x1 Convolutions", Kingma and Dhariwal 2018, arXiv
    1807.03039, section 3.1.

    Args:
        num_features: D or C.
        variance_floor: The least variance that counts; without one, a constant border pixel would
            get an enormous scale.
    """

    initialised: Tensor

    def __init__(self, num_features: int, variance_floor: float = 1e-4):
        super().__init__()
        self.variance_floor = variance_floor
        self.shift = nn.Parameter(torch.zeros(num_features))
        self.log_scale = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("initialised", torch.tensor(False))
        # Whether the buffer was read: on a GPU, each reading waits for the device.
        self.known = False

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.known = False

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Sets shift and log_scale from the statistics of x."""
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
        """Whether the present batch has to go through `initialise`; True at most once."""
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
