"""Codes for generators without an encoder: by optimisation, slowly."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["invert"]


def invert(
    system,
    images: Tensor,
    labels: Tensor | None = None,
    num_steps: int = 300,
    num_restarts: int = 4,
    lr: float = 0.05,
    prior_weight: float = 1e-3,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """Latent vectors (N, Z) whose images come nearest to `images` (N, C, H, W) in [-1, 1], by Adam from the prior.

    Minimises the mean squared error plus prior_weight |z|^2 / Z, from num_restarts starting points an image, and keeps the
    best of each. "Precise Recovery of Latent Vectors from Generative Adversarial Networks", Lipton and Tripathi 2017,
    arXiv 1702.04782, without its clipping. Thousands of passes an image: an encoder needs one. progress: called with the
    steps done, of num_steps num_restarts.
    """
    generator, x = system.generator, images.to(system.device, system.dtype)
    best = x.new_full((len(x),), float("inf"))
    codes = x.new_zeros(len(x), system.latent_dim)
    for restart in range(num_restarts):
        z = system.prior(len(x), seed=seed + restart).requires_grad_()
        optimizer = torch.optim.Adam([z], lr=lr)
        for step in range(num_steps):
            with torch.enable_grad():
                error = (generator(z, labels) - x).square().mean((1, 2, 3))
                loss = (error + prior_weight * z.square().mean(1)).sum()
                (z.grad,) = torch.autograd.grad(loss, z)
            optimizer.step()
            progress(restart * num_steps + step + 1)
        with torch.no_grad():
            error = (generator(z, labels) - x).square().mean((1, 2, 3))
        better = error < best
        best = torch.where(better, error, best)
        codes = torch.where(better[:, None], z.detach(), codes)
    return codes.float()
