"""Codes for generators without an encoder: by optimisation, slowly."""

from collections.abc import Callable

import torch
from torch import Tensor

from genlab.systems.latent.codes import Codes

__all__ = ["invert", "refine"]


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
    """Latent vectors (N, Z) whose images come nearest to `images` (N, C, H, W) in [-1, 1], by Adam
    from the prior.

    Minimises the mean squared error plus prior_weight |z|^2 / Z, from num_restarts starting points
    an image, and keeps the best of each. "Precise Recovery of Latent Vectors from Generative
    Adversarial Networks", Lipton and Tripathi 2017, arXiv 1702.04782, without its clipping.
    Thousands of passes an image: an encoder needs one. progress: called with the steps done, of
    num_steps num_restarts.
    """
    x = images.to(system.device, system.dtype)
    best = x.new_full((len(x),), float("inf"))
    codes = x.new_zeros(len(x), system.latent_dim)
    for restart in range(num_restarts):
        z = system.prior(len(x), seed=seed + restart).requires_grad_()
        optimizer = torch.optim.Adam([z], lr=lr)
        for step in range(num_steps):
            with torch.enable_grad():
                error = (system.generate_images(z, labels) - x).square().mean((1, 2, 3))
                loss = (error + prior_weight * z.square().mean(1)).sum()
                (z.grad,) = torch.autograd.grad(loss, z)
            optimizer.step()
            progress(restart * num_steps + step + 1)
        with torch.no_grad():
            error = (system.generate_images(z, labels) - x).square().mean((1, 2, 3))
        better = error < best
        best = torch.where(better, error, best)
        codes = torch.where(better[:, None], z.detach(), codes)
    return codes.float()


def refine(
    render: Callable[[Tensor], Tensor],
    distance: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    start: Tensor,
    space: str,
    tolerance: float = 1e-2,
    patience: int = 20,
    max_steps: int = 1000,
    lr: float = 0.05,
) -> Tensor:
    """Codes (N, Z) on the sphere or in the ball whose images come nearest to `images` (N, C, H, W),
    by Adam from `start`.

    render: codes -> images, differentiable. An image is done when its least distance fell by less
    than `tolerance` of itself in `patience` steps, and drops out of the batch; at max_steps all
    are. Keeps the best code of each. Measured on digits, 1e-2 takes 140 steps an image and ends 3 %
    above 1e-3, which takes 330.
    """
    with torch.inference_mode(False), torch.enable_grad():
        images = images.clone()  # made under inference mode it would take no part in a graph
        codes = Codes(start.shape[1], space).to(start)
        codes.allocate(codes.inside(start))
        best, found = images.new_full((len(images),), float("inf")), codes.values.clone()
        before, active = best.clone(), torch.arange(len(images), device=images.device)
        for step in range(max_steps + 1):
            z = codes(active)
            error = distance(render(codes.point(z)), images[active])
            (gradient,) = torch.autograd.grad(error.sum(), z)
            with torch.no_grad():
                better = error < best[active]
                rows = active[better]
                best[rows], found[rows] = error[better].to(best.dtype), z[better]
            if step % patience == 0:
                going = best[active] < before[active] * (1 - tolerance)
                before[active] = best[active]
                active, gradient = active[going], gradient[going]
                if not len(active):
                    break
            codes.move(active, gradient, lr)
        return codes.inside(found).detach()
