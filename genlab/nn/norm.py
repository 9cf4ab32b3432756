"""Normalisation layers of the GAN line, and what a training step has to know about them.

A generator's layer is made by norm(num_features, latent_dim, num_classes) and called with (h, c,
y): features h (B, C, H, W), a condition c (B, latent_dim), which is z in most networks, and labels
y int64 (B,), or None without classes. Each of them returns gamma h' + beta, h' being h normalised.
"""

from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from genlab.ranges import NonNegativeInt, PositiveInt

__all__ = [
    "AdaIN",
    "BatchNorm",
    "ConditionalBatchNorm",
    "SelfModulation",
    "batch_statistics",
    "couples_batch",
    "discriminator_norm",
    "frozen_statistics",
    "standing_statistics",
]

# Keras' BatchNormalization, as the O-GAN scripts use it: momentum 0.99 there is 0.01 here.
KERAS_BATCH_NORM = {"eps": 1e-3, "momentum": 0.01}


class BatchNorm(nn.BatchNorm2d):
    """Plain batch normalisation: blind to condition and label."""

    def __init__(
        self, num_features: PositiveInt, latent_dim: PositiveInt, num_classes: NonNegativeInt = 0
    ):
        super().__init__(num_features, **KERAS_BATCH_NORM)

    def forward(self, h: Tensor, c: Tensor, y: Tensor | None = None) -> Tensor:
        return super().forward(h)


class ConditionalBatchNorm(nn.Module):
    """gamma and beta of each class, learned: (1 + gamma_y) BN(h) + beta_y.

    "A Learned Representation For Artistic Style", Dumoulin et al. 2017, arXiv 1610.07629, section
    2.2, as used by "cGANs with Projection Discriminator", Miyato and Koyama 2018, arXiv 1802.05637.
    ValueError without classes.
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
    """h -> (1 + gamma(c)) BN(h) + beta(c), BN without affine.

    "On Self Modulation for Generative Adversarial Networks", Chen et al. 2019, arXiv 1810.01365.
    shared=False is the form of the O-GAN scripts (bojone/o-gan): gamma and beta are two separate
    MLPs c -> hidden_dim -> C with a ReLU between, hidden_dim being latent_dim unless given.
    shared=True is the paper's and compare_gan's: one hidden layer (32 units there) for both.
    hidden_dim 0: linear in c, no hidden layer. With classes c becomes c + E(y) + E'(y) * c with two
    learned embeddings (section 3.2 of the paper).
    """

    def __init__(
        self,
        num_features: PositiveInt,
        latent_dim: PositiveInt,
        num_classes: NonNegativeInt = 0,
        hidden_dim: PositiveInt | None = None,
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
    """h -> (1 + gamma(c)) IN(h) + beta(c): each sample's channels normalised by themselves, gamma
    and beta affine in c.

    "A Style-Based Generator Architecture for Generative Adversarial Networks", Karras et al. 2019,
    arXiv 1812.04948, equation 1; c is the output of the mapping network there. Labels reach it
    through c.
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
    """(1 + gamma) h + beta of (B, C, H, W) and (B, 2 C)."""
    gamma, beta = gamma_beta[:, :, None, None].chunk(2, 1)
    return torch.addcmul(beta, h, 1 + gamma)


def discriminator_norm(name: str, num_features: int) -> nn.Module:
    """The layer that `name` (batch, group, none) stands for in a discriminator; ValueError for
    another name.

    Running statistics follow ten times as fast as the source's (momentum 0.1 for 0.01): weights
    that move by a hundredth of their size in a hundred steps leave a slower average behind, and an
    encoder is used with it. Measured on digits, an O-GAN whose reconstructions kept 67 % of the
    classes kept 88 % with statistics taken anew.
    """
    if name == "batch":
        return nn.BatchNorm2d(num_features, eps=1e-3, momentum=0.1)
    if name == "group":
        return nn.GroupNorm(min(32, num_features // 4), num_features)
    if name == "none":
        return nn.Identity()
    raise ValueError(f"norm={name!r}: expected batch, group or none")


def couples_batch(network: nn.Module) -> bool:
    """Whether one sample's output depends on the others of its batch in train mode."""
    return any(
        isinstance(module, _BatchNorm) or getattr(module, "couples_batch", False)
        for module in network.modules()
    )


@contextmanager
def frozen_statistics(network: nn.Module):
    """Inside, batch normalisation in train mode uses the batch's statistics and leaves the running
    ones alone.
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
    """Inside, batch normalisation uses the batch's statistics and leaves the running ones alone, in
    eval mode too.
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
    """Inside, batch normalisation in train mode averages its running statistics afresh, all batches
    counting alike.

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
        layer.momentum = None
        layer.train()
    try:
        yield
    finally:
        for layer, (momentum, training) in layers.items():
            layer.momentum = momentum
            layer.train(training)
