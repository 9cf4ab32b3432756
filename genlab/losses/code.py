"""O-GAN's code loss: how well the encoder reads a latent vector back."""

from torch import Tensor
from torch.nn.functional import cosine_similarity

__all__ = ["pearson", "standardise"]


def standardise(v: Tensor) -> Tensor:
    """N(v) = (v - avg v) / std v over the last axis (B, D), population std, as O-GAN's section 2.1."""
    v = v - v.mean(-1, keepdim=True)
    return v / v.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-8)


def pearson(u: Tensor, v: Tensor) -> Tensor:
    """rho(u, v) = cos(N(u), N(v)) of each sample's two vectors (B, D), over D: (B,) in [-1, 1].

    "O-GAN: Extremely Concise Approach for Auto-Encoding Generative Adversarial Networks", Su 2019,
    arXiv 1903.01931. Blind to the mean and the scale of v, so that it leaves the mean free to be
    the discriminator's score.
    """
    return cosine_similarity(u - u.mean(-1, keepdim=True), v - v.mean(-1, keepdim=True), dim=-1)
