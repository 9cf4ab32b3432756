"""Initial weights of networks."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["init_normal", "init_orthogonal", "init_positions", "init_truncated", "init_xavier"]

WEIGHTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.Embedding)


def _init_each(network: nn.Module, init: Callable[[Tensor], object]) -> None:
    """Calls `init` with every weight of `network` and sets the biases to zero."""
    for module in network.modules():
        if isinstance(module, WEIGHTED):
            init(module.weight)
            if not isinstance(module, nn.Embedding) and module.bias is not None:
                nn.init.zeros_(module.bias)


def init_normal(network: nn.Module, std: float = 0.02) -> None:
    """N(0, std^2) weights and zero biases for convolutions, dense layers and embeddings (DCGAN)."""
    _init_each(network, lambda weight: nn.init.normal_(weight, 0.0, std))


def init_xavier(network: nn.Module, gain: float = 2**0.5) -> None:
    """Xavier-uniform weights and zero biases (SNGAN's residual networks).

    Args:
        network: Its convolutions, dense layers and embeddings are initialised.
        gain: Of convolutions; dense layers and embeddings have gain 1.
    """
    _init_each(
        network, lambda weight: nn.init.xavier_uniform_(weight, gain if weight.ndim == 4 else 1.0)
    )


def init_orthogonal(network: nn.Module) -> None:
    """Orthogonal weights and zero biases for convolutions, dense layers and embeddings (BigGAN)."""
    _init_each(network, nn.init.orthogonal_)


def init_truncated(network: nn.Module, std: float) -> None:
    """N(0, std^2) weights, cut off at two std, and zero biases (BERT).

    Dense layers without a bias keep their weights: they belong to conditional layer norms, which
    initialise themselves.
    """
    for module in network.modules():
        linear = isinstance(module, nn.Linear) and module.bias is not None
        if linear or isinstance(module, nn.Embedding):
            nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
        if linear:
            nn.init.zeros_(module.bias)


def init_positions(weight: Tensor, kind: str, std: float) -> None:
    """Initialises the embeddings of positions.

    Args:
        weight: Embeddings (L, D) of L positions.
        kind: normal leaves the weight as it is. sinusoidal: sine and cosine of each position at
            D / 2 wavelengths from 2 pi to 20,000 pi ("Attention Is All You Need", Vaswani et al.
            2017, arXiv 1706.03762, section 3.5, where they are not trained).
        std: The root mean square of sinusoidal embeddings.

    Raises:
        ValueError: Another kind.
    """
    if kind not in ("normal", "sinusoidal"):
        raise ValueError(f"net.position_init={kind}: expected normal or sinusoidal")
    if kind == "sinusoidal":
        length, dim = weight.shape
        frequencies = torch.exp(-math.log(10_000) * torch.arange(0, dim, 2) / dim)  # (D / 2,)
        angles = torch.arange(length)[:, None] * frequencies  # (L, D / 2)
        waves = torch.stack([angles.sin(), angles.cos()], 2).flatten(1)[:, :dim]  # (L, D)
        weight.data.copy_(math.sqrt(2) * std * waves)
