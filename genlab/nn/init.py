"""How the weights of a network start."""

import math

import torch
from torch import Tensor, nn

__all__ = ["init_normal", "init_orthogonal", "init_positions", "init_truncated", "init_xavier"]

WEIGHTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.Embedding)


def _each(network: nn.Module, init) -> None:
    for module in network.modules():
        if isinstance(module, WEIGHTED):
            init(module.weight)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)


def init_normal(network: nn.Module, std: float = 0.02) -> None:
    """N(0, std^2) weights and zero biases for every convolution, dense layer and embedding (DCGAN)."""
    _each(network, lambda weight: nn.init.normal_(weight, 0.0, std))


def init_xavier(network: nn.Module, gain: float = 2**0.5) -> None:
    """Xavier-uniform weights and zero biases, dense layers and embeddings with gain 1 (SNGAN's
    ResNets).
    """
    _each(
        network, lambda weight: nn.init.xavier_uniform_(weight, gain if weight.ndim == 4 else 1.0)
    )


def init_orthogonal(network: nn.Module) -> None:
    """Orthogonal weights and zero biases (BigGAN)."""
    _each(network, nn.init.orthogonal_)


def init_truncated(network: nn.Module, std: float) -> None:
    """N(0, std^2) weights, cut at two std, of embeddings and of dense layers with a bias, which is
    0 (BERT). A condition's layers have none, and start by themselves.
    """
    for module in network.modules():
        linear = isinstance(module, nn.Linear) and module.bias is not None
        if linear or isinstance(module, nn.Embedding):
            nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
        if linear:
            nn.init.zeros_(module.bias)


def init_positions(weight: Tensor, kind: str, std: float) -> None:
    """The embeddings of positions (L, D): normal, as they are; sinusoidal, sine and cosine of each
    position at D / 2 wavelengths from 2 pi to 20,000 pi, of root mean square std. ValueError for
    another kind.

    "Attention Is All You Need", Vaswani et al. 2017, arXiv 1706.03762, section 3.5, where they stay
    so.
    """
    if kind not in ("normal", "sinusoidal"):
        raise ValueError(f"net.position_init={kind}: expected normal or sinusoidal")
    if kind == "sinusoidal":
        length, dim = weight.shape
        angles = torch.arange(length)[:, None] * torch.exp(
            -math.log(10_000) * torch.arange(0, dim, 2) / dim
        )
        waves = torch.stack([angles.sin(), angles.cos()], 2).flatten(1)[:, :dim]
        weight.data.copy_(math.sqrt(2) * std * waves)
