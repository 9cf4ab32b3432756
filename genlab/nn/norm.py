"""Normalisation layers of the GAN line, and what a training step has to know about them."""

from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["BatchNorm", "SelfModulation", "couples_batch", "discriminator_norm", "frozen_statistics"]

# Keras' BatchNormalization, as the O-GAN scripts use it: momentum 0.99 there is 0.01 here.
KERAS_BATCH_NORM = {"eps": 1e-3, "momentum": 0.01}


class BatchNorm(nn.BatchNorm2d):
    """Plain batch normalisation with the signature of a generator's norm: (B, C, H, W), (B, Z) -> (B, C, H, W)."""

    def __init__(self, num_features: int, latent_dim: int):
        super().__init__(num_features, **KERAS_BATCH_NORM)

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        return super().forward(h)


class SelfModulation(nn.Module):
    """h -> gamma(z) BN(h) + beta(z), BN without affine: (B, C, H, W), (B, Z) -> (B, C, H, W).

    "On Self Modulation for Generative Adversarial Networks", Chen et al. 2019, arXiv 1810.01365, in the
    form of the O-GAN scripts (bojone/o-gan): gamma - 1 and beta are two separate MLPs z -> hidden_dim -> C with a
    ReLU between; the paper shares one hidden layer of 32 units.
    """

    def __init__(self, num_features: int, latent_dim: int, hidden_dim: int | None = None):
        super().__init__()
        hidden_dim = hidden_dim or latent_dim
        self.norm = nn.BatchNorm2d(num_features, affine=False, **KERAS_BATCH_NORM)
        self.gamma, self.beta = (
            nn.Sequential(nn.Linear(latent_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, num_features))
            for _ in range(2)
        )

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        gamma, beta = self.gamma(z)[:, :, None, None], self.beta(z)[:, :, None, None]
        return self.norm(h) * (1 + gamma) + beta


def discriminator_norm(name: str, num_features: int) -> nn.Module:
    """The layer that `name` (batch, group, none) stands for in a discriminator; ValueError for another name."""
    if name == "batch":
        return nn.BatchNorm2d(num_features, **KERAS_BATCH_NORM)
    if name == "group":
        return nn.GroupNorm(min(32, num_features // 4), num_features)
    if name == "none":
        return nn.Identity()
    raise ValueError(f"norm={name!r}: expected batch, group or none")


def couples_batch(network: nn.Module) -> bool:
    """Whether one sample's output depends on the others of its batch in train mode."""
    return any(isinstance(module, _BatchNorm) for module in network.modules())


@contextmanager
def frozen_statistics(network: nn.Module):
    """Inside, batch normalisation in train mode uses the batch's statistics and leaves the running ones alone."""
    layers = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
