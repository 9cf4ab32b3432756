"""O-GAN's code loss: how well an encoder recovers a latent vector."""

from torch import Tensor
from torch.nn.functional import cosine_similarity

__all__ = ["pearson", "standardise"]


def standardise(v: Tensor) -> Tensor:
    """N(v) = (v - mean v) / std v over the last axis of v (..., D), with the population std.

    "O-GAN: Extremely Concise Approach for Auto-Encoding Generative Adversarial Networks", Su 2019,
    arXiv 1903.01931, section 2.1.
    """
    v = v - v.mean(-1, keepdim=True)
    return v / v.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-8)


def pearson(u: Tensor, v: Tensor) -> Tensor:
    """Pearson's correlation rho(u, v) = cos(N(u), N(v)) of each pair of rows of u, v (B, D).

    It does not depend on the mean and the scale of v, so the mean is free to be the
    discriminator's score.

    "O-GAN: Extremely Concise Approach for Auto-Encoding Generative Adversarial Networks", Su 2019,
    arXiv 1903.01931.

    Returns:
        Correlations (B,) in [-1, 1].
    """
    return cosine_similarity(u - u.mean(-1, keepdim=True), v - v.mean(-1, keepdim=True), dim=-1)
