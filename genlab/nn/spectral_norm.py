"""Spectral normalisation whose power iteration advances once per training step."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

__all__ = ["SpectralNorm", "advance_spectral_norm", "normalise_all", "spectral_norm"]


class SpectralNorm(nn.Module):
    """W -> W / sigma(W), with sigma estimated by power iteration.

    The paper's code and torch's own version iterate at every forward pass. Here u and v change only
    in `advance`, so that all passes of a step see the same network; otherwise the stop-gradient
    form of single-loss training is not exact.

    "Spectral Normalization for Generative Adversarial Networks", Miyato et al. 2018, arXiv
    1802.05957, algorithm 1.

    Args:
        weight: W, seen as a matrix (C_out, fan_in).
        transposed: Whether W belongs to a transposed convolution, (C_in, C_out, K, K).
        eps: The least norm that u and v are divided by.
        num_warmup: Power iterations before the first step.
    """

    def __init__(
        self, weight: Tensor, transposed: bool = False, eps: float = 1e-12, num_warmup: int = 15
    ):
        super().__init__()
        self.transposed = transposed
        self.eps = eps
        matrix = self._matrix(weight.detach())
        for name, size in zip("uv", matrix.shape, strict=True):
            vector = matrix.new_empty(size).normal_()
            self.register_buffer(name, nn.functional.normalize(vector, dim=0, eps=eps))
        for _ in range(num_warmup):
            self.advance(weight)

    def _matrix(self, weight: Tensor) -> Tensor:
        """The weight as a matrix (C_out, fan_in)."""
        return (weight.transpose(0, 1) if self.transposed else weight).flatten(1)

    @torch.no_grad()
    def advance(self, weight: Tensor) -> None:
        """Does one power iteration on `weight`."""
        matrix = self._matrix(weight)
        self.v.copy_(nn.functional.normalize(matrix.T @ self.u, dim=0, eps=self.eps))
        self.u.copy_(nn.functional.normalize(matrix @ self.v, dim=0, eps=self.eps))

    def forward(self, weight: Tensor) -> Tensor:
        # Clones, because `advance` overwrites u and v while a graph may still need their old
        # values.
        sigma = torch.dot(self.u.clone(), torch.mv(self._matrix(weight), self.v.clone()))
        return weight / sigma


def spectral_norm(module: nn.Module) -> nn.Module:
    """Returns `module` with its `weight` spectrally normalised."""
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
    """Does one power iteration in every spectrally normalised layer of `network`."""
    for module in network.modules():
        if parametrize.is_parametrized(module, "weight"):
            weight = module.parametrizations.weight
            for parametrization in weight:
                if isinstance(parametrization, SpectralNorm):
                    parametrization.advance(weight.original)
