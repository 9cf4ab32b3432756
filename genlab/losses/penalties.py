"""Gradient penalties on a discriminator.

A penalty is called with (critic, x, k) and returns one value per sample (B,), its weight included:

    critic  maps images (B, C, H, W) to scores (B,)
    x       real images (B, C, H, W)
    k       fakes (B, C, H, W), detached from the generator

`every` n applies a penalty at every n-th step with n times its weight (lazy regularisation:
"Analyzing and Improving the Image Quality of StyleGAN", Karras et al. 2020, arXiv 1912.04958,
section 3.1). All gradients are taken in float32 or wider, also under autocast.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from genlab.ranges import NonNegativeFloat, PositiveFloat, PositiveInt

__all__ = ["DRAGAN", "R1", "WGANGP", "WGANDiv", "ZeroCentred"]

Critic = Callable[[Tensor], Tensor]


def squared_gradient(critic: Critic, images: Tensor) -> Tensor:
    """|grad D|^2 at each of `images` (B, C, H, W): values (B,), differentiable themselves."""
    images = images.detach().requires_grad_()
    with torch.autocast(images.device.type, enabled=False):
        (gradient,) = torch.autograd.grad(critic(images).sum(), images, create_graph=True)
        return gradient.flatten(1).square().sum(1)


def norm(squared: Tensor) -> Tensor:
    """The square root, with a derivative that is finite at 0."""
    return (squared + 1e-12).sqrt()


def between(x: Tensor, k: Tensor) -> Tensor:
    """A random point, uniform, on the line from each image of x to that of k."""
    return torch.lerp(x, k, torch.rand(len(x), 1, 1, 1, device=x.device, dtype=x.dtype))


class WGANGP:
    """weight (|grad D(x^)| - 1)^2 at points x^ between real and fake images.

    "Improved Training of Wasserstein GANs", Gulrajani et al. 2017, arXiv 1704.00028, equation 3.
    """

    def __init__(self, weight: NonNegativeFloat = 10.0, every: PositiveInt = 1):
        self.weight = weight
        self.every = every

    def __call__(self, critic: Critic, x: Tensor, k: Tensor) -> Tensor:
        return self.weight * (norm(squared_gradient(critic, between(x, k))) - 1).square()


class ZeroCentred:
    """weight |grad D(x^)|^2 at points x^ between real and fake images.

    "Improving Generalization and Stability of Generative Adversarial Networks", Thanh-Tung et al.
    2019, arXiv 1902.03984.
    """

    def __init__(self, weight: NonNegativeFloat = 10.0, every: PositiveInt = 1):
        self.weight = weight
        self.every = every

    def __call__(self, critic: Critic, x: Tensor, k: Tensor) -> Tensor:
        return self.weight * squared_gradient(critic, between(x, k))


class R1:
    """weight / 2 |grad D(x)|^2 at real images.

    "Which Training Methods for GANs do actually Converge?", Mescheder et al. 2018, arXiv
    1801.04406, equation 9.
    """

    def __init__(self, weight: NonNegativeFloat = 10.0, every: PositiveInt = 1):
        self.weight = weight
        self.every = every

    def __call__(self, critic: Critic, x: Tensor, k: Tensor) -> Tensor:
        return self.weight / 2 * squared_gradient(critic, x)


class WGANDiv:
    """weight / 2 (|grad D(x)|^power + |grad D(k)|^power) at real and fake images.

    "Wasserstein Divergence for GANs", Wu et al. 2018, arXiv 1712.01026, whose k = 2 and p = 6 Su
    uses too (bojone/gan). The paper takes the gradient between real and fake images instead.
    """

    def __init__(
        self, weight: NonNegativeFloat = 2.0, power: PositiveFloat = 6.0, every: PositiveInt = 1
    ):
        self.weight = weight
        self.power = power
        self.every = every

    def __call__(self, critic: Critic, x: Tensor, k: Tensor) -> Tensor:
        real, fake = (squared_gradient(critic, images) + 1e-12 for images in (x, k))
        return self.weight / 2 * (real ** (self.power / 2) + fake ** (self.power / 2))


class DRAGAN:
    """weight (|grad D(x + std(x) u)| - 1)^2 around real images, with u uniform in [-1/2, 1/2].

    "On Convergence and Stability of GANs", Kodali et al. 2017, arXiv 1705.07215, in the form of
    compare_gan, where std is that of the whole batch.
    """

    def __init__(self, weight: NonNegativeFloat = 10.0, every: PositiveInt = 1):
        self.weight = weight
        self.every = every

    def __call__(self, critic: Critic, x: Tensor, k: Tensor) -> Tensor:
        around = x + x.std() * (torch.rand_like(x) - 0.5)
        return self.weight * (norm(squared_gradient(critic, around)) - 1).square()
