"""Spectral normalisation whose power iteration advances when told to, once a training step."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

__all__ = ["SpectralNorm", "advance_spectral_norm", "normalise_all", "spectral_norm"]


class SpectralNorm(nn.Module):
    """W / sigma(W), sigma estimated by power iteration on W seen as a (C_out, fan_in) matrix.

    "Spectral Normalization for Generative Adversarial Networks", Miyato et al. 2018, arXiv
    1802.05957, Algorithm 1. The source (and torch's own version) iterates at every forward pass.
    Here u and v move only in `advance`, so all passes of one step see the same network: without it
    the stop-gradient form of single-loss training is not exact.
    """

    def __init__(
        self, weight: Tensor, transposed: bool = False, eps: float = 1e-12, num_warmup: int = 15
    ):
        super().__init__()
        self.transposed, self.eps = transposed, eps
        matrix = self._matrix(weight.detach())
        for name, size in zip("uv", matrix.shape, strict=True):
            self.register_buffer(
                name, nn.functional.normalize(matrix.new_empty(size).normal_(), dim=0, eps=eps)
            )
        for _ in range(num_warmup):
            self.advance(weight)

    def _matrix(self, weight: Tensor) -> Tensor:
        """(C_out, fan_in); a transposed convolution keeps its weight as (C_in, C_out, K, K)."""
        return (weight.transpose(0, 1) if self.transposed else weight).flatten(1)

    @torch.no_grad()
    def advance(self, weight: Tensor) -> None:
        """One power iteration on `weight`."""
        matrix = self._matrix(weight)
        self.v.copy_(nn.functional.normalize(matrix.T @ self.u, dim=0, eps=self.eps))
        self.u.copy_(nn.functional.normalize(matrix @ self.v, dim=0, eps=self.eps))

    def forward(self, weight: Tensor) -> Tensor:
        # Clones, because `advance` writes u and v in place while a graph may still need their old
        # values.
        sigma = torch.dot(self.u.clone(), torch.mv(self._matrix(weight), self.v.clone()))
        return weight / sigma


def spectral_norm(module: nn.Module) -> nn.Module:
    """`module` with its `weight` spectrally normalised."""
    transposed = isinstance(module, nn.ConvTranspose2d)
    return parametrize.register_parametrization(
        module, "weight", SpectralNorm(module.weight, transposed)
    )


def normalise_all(network: nn.Module) -> None:
    """Spectrally normalises every convolution, dense layer and embedding of `network`."""
    for module in list(network.modules()):
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.Embedding):
            spectral_norm(module)


def advance_spectral_norm(network: nn.Module) -> None:
    """Advances the power iteration of every spectrally normalised layer of `network` by one."""
    for module in network.modules():
        if parametrize.is_parametrized(module, "weight"):
            weight = module.parametrizations.weight
            for parametrization in weight:
                if isinstance(parametrization, SpectralNorm):
                    parametrization.advance(weight.original)
