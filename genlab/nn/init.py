"""How the weights of a network start."""

from torch import nn

__all__ = ["init_normal", "init_orthogonal", "init_xavier"]

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
    """Xavier-uniform weights and zero biases, dense layers and embeddings with gain 1 (SNGAN's ResNets)."""
    _each(network, lambda weight: nn.init.xavier_uniform_(weight, gain if weight.ndim == 4 else 1.0))


def init_orthogonal(network: nn.Module) -> None:
    """Orthogonal weights and zero biases (BigGAN)."""
    _each(network, nn.init.orthogonal_)
