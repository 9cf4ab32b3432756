"""Normalisation layers of GANs, and control over batch statistics.

A generator builds its layers as norm(num_features, latent_dim, num_classes) and calls them with
(h, c, y). Each returns gamma h' + beta (B, C, H, W), where h' is h normalised.

    h  features (B, C, H, W), with C = num_features
    c  condition (B, latent_dim), in most networks the latent vector z
    y  labels (B,) int64, or None without classes
"""

from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from genlab.ranges import NonNegativeInt, PositiveInt

__all__ = [
    "AdaIN",
    "BatchNorm",
    "ConditionalBatchNorm",
    "CouplesBatch",
    "SelfModulation",
    "batch_statistics",
    "couples_batch",
    "discriminator_norm",
    "frozen_statistics",
    "standing_statistics",
]

# As Keras' BatchNormalization, which Su's O-GAN code uses: momentum 0.99 there is 0.01 here.
KERAS_BATCH_NORM = {"eps": 1e-3, "momentum": 0.01}


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that ignores condition and label."""

    def __init__(
        self, num_features: PositiveInt, latent_dim: PositiveInt, num_classes: NonNegativeInt = 0
    ):
        super().__init__(num_features, **KERAS_BATCH_NORM)

    def forward(self, h: Tensor, c: Tensor, y: Tensor | None = None) -> Tensor:
        return super().forward(h)


class ConditionalBatchNorm(nn.Module):
    """(1 + gamma_y) BN(h) + beta_y, with a learned gamma and beta for each class.

    "A Learned Representation For Artistic Style", Dumoulin et al. 2017, arXiv 1610.07629, section
    2.2, as used by "cGANs with Projection Discriminator", Miyato and Koyama 2018, arXiv 1802.05637.

    Raises:
        ValueError: num_classes is 0.
    """

    def __init__(
        self, num_features: PositiveInt, latent_dim: PositiveInt, num_classes: NonNegativeInt = 0
    ):
        super().__init__()
        if not num_classes:
            raise ValueError("net/modulation=conditional: needs labels; give model.num_classes=")
        self.norm = nn.BatchNorm2d(num_features, affine=False, **KERAS_BATCH_NORM)
        self.embedding = nn.Embedding(num_classes, 2 * num_features)
        nn.init.zeros_(self.embedding.weight)

    def forward(self, h: Tensor, c: Tensor, y: Tensor | None = None) -> Tensor:
        return _modulate(self.norm(h), self.embedding(y))


class SelfModulation(nn.Module):
    """(1 + gamma(c)) BN(h) + beta(c), with MLPs gamma and beta.

    With classes, c is replaced by c + E(y) + E'(y) * c with two learned embeddings (section 3.2 of
    the paper).

    "On Self Modulation for Generative Adversarial Networks", Chen et al. 2019, arXiv 1810.01365.

    Args:
        num_features: C.
        latent_dim: The size of c.
        num_classes: 0 without labels.
        hidden_dim: Units of the hidden layer; latent_dim if None. 0: gamma and beta are linear in
            c.
        shared: True: one hidden layer for gamma and beta, as the paper and compare_gan have it,
            with 32 units. False: two separate MLPs, as in Su's O-GAN code (bojone/o-gan).
    """

    def __init__(
        self,
        num_features: PositiveInt,
        latent_dim: PositiveInt,
        num_classes: NonNegativeInt = 0,
        hidden_dim: NonNegativeInt | None = None,
        shared: bool = False,
    ):
        super().__init__()
        hidden_dim = latent_dim if hidden_dim is None else hidden_dim
        self.norm = nn.BatchNorm2d(num_features, affine=False, **KERAS_BATCH_NORM)
        self.label = nn.Embedding(num_classes, 2 * latent_dim) if num_classes else None
        if self.label is not None:
            nn.init.normal_(self.label.weight, 0.0, 0.02)
        outputs = [2 * num_features] if shared or not hidden_dim else [num_features, num_features]
        self.mlps = nn.ModuleList(_mlp(latent_dim, hidden_dim, size) for size in outputs)

    def forward(self, h: Tensor, c: Tensor, y: Tensor | None = None) -> Tensor:
        if self.label is not None:
            shift, scale = self.label(y).chunk(2, 1)
            c = c + shift + scale * c
        return _modulate(self.norm(h), torch.cat([mlp(c) for mlp in self.mlps], 1))


class AdaIN(nn.Module):
    """(1 + gamma(c)) IN(h) + beta(c): instance normalisation, with gamma and beta affine in c.

    Labels reach the layer through c, the output of a mapping network.

    "A Style-Based Generator Architecture for Generative Adversarial Networks", Karras et al. 2019,
    arXiv 1812.04948, equation 1.
    """

    def __init__(
        self, num_features: PositiveInt, latent_dim: PositiveInt, num_classes: NonNegativeInt = 0
    ):
        super().__init__()
        self.norm = nn.InstanceNorm2d(num_features, eps=1e-5)
        self.affine = nn.Linear(latent_dim, 2 * num_features)

    def forward(self, h: Tensor, c: Tensor, y: Tensor | None = None) -> Tensor:
        return _modulate(self.norm(h), self.affine(c))


def _mlp(c_in: int, hidden_dim: int, c_out: int) -> nn.Module:
    if not hidden_dim:
        return nn.Linear(c_in, c_out)
    return nn.Sequential(nn.Linear(c_in, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, c_out))


def _modulate(h: Tensor, gamma_beta: Tensor) -> Tensor:
    """(1 + gamma) h + beta, of h (B, C, H, W) and both in one tensor (B, 2 C)."""
    gamma, beta = gamma_beta[:, :, None, None].chunk(2, 1)
    return torch.addcmul(beta, h, 1 + gamma)


def discriminator_norm(name: str, num_features: int) -> nn.Module:
    """A normalisation layer of a discriminator.

    Args:
        name: batch, group or none.
        num_features: C.

    Raises:
        ValueError: Another name.
    """
    if name == "batch":
        # Momentum 0.1, ten times that of Su's O-GAN code. Where weights move by a hundredth of
        # their size in a hundred steps, a slower average lags behind, and encoding uses the
        # average. Measured with O-GAN on digits: reconstructions kept 67 % of the classes at 0.01,
        # and 88 % with statistics computed anew.
        return nn.BatchNorm2d(num_features, eps=1e-3, momentum=0.1)
    if name == "group":
        return nn.GroupNorm(min(32, num_features // 4), num_features)
    if name == "none":
        return nn.Identity()
    raise ValueError(f"norm={name!r}: expected batch, group or none (net.discriminator.norm=)")


@runtime_checkable
class CouplesBatch(Protocol):
    """A layer that says whether its output for one sample depends on the rest of the batch."""

    couples_batch: bool


def couples_batch(network: nn.Module) -> bool:
    """Whether the output for one sample depends on the rest of its batch in train mode."""
    return any(
        isinstance(module, _BatchNorm)
        or (isinstance(module, CouplesBatch) and module.couples_batch)
        for module in network.modules()
    )


@contextmanager
def frozen_statistics(network: nn.Module):
    """Inside, batch normalisation in train mode does not update its running statistics.

    It still normalises with the statistics of the batch.
    """
    layers = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


@contextmanager
def batch_statistics(network: nn.Module):
    """Inside, batch normalisation uses the statistics of the batch, also in eval mode.

    It does not update its running statistics.
    """
    layers = {
        module: module.training for module in network.modules() if isinstance(module, _BatchNorm)
    }
    with frozen_statistics(network):
        for layer in layers:
            layer.train()
        try:
            yield
        finally:
            for layer, training in layers.items():
                layer.training = training


@contextmanager
def standing_statistics(network: nn.Module):
    """Inside, batch normalisation computes its running statistics anew.

    All batches passed inside have the same weight in the average.

    "Large Scale GAN Training for High Fidelity Natural Image Synthesis", Brock et al. 2019, arXiv
    1809.11096, appendix B.
    """
    layers = {
        m: (m.momentum, m.training)
        for m in network.modules()
        if isinstance(m, _BatchNorm) and m.track_running_stats
    }
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain average over the batches
        layer.train()
    try:
        yield
    finally:
        for layer, (momentum, training) in layers.items():
            layer.momentum = momentum
            layer.train(training)
