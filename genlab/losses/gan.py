"""Adversarial objectives on scores: high means real, low means fake.

Every objective has the same two methods, each returning one value per sample (B,):
`discriminator(real, fake, x, k)` of the scores real, fake (B,) and the images x, k (B, C, H, W)
that earned them (k carries no gradient into a generator), and `generator(real, fake)`. `symmetric`
says that the two pull a fake's score with equal and opposite force, d generator / d fake = - d
discriminator / d fake; `relative` that the generator looks at the real scores too.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from genlab.ranges import NonNegativeFloat

__all__ = ["GANQP", "LSGAN", "RSGAN", "WGAN", "Hinge", "NonSaturating"]


class NonSaturating:
    """softplus(-r) + softplus(f); G: softplus(-f).

    "Generative Adversarial Nets", Goodfellow et al. 2014, arXiv 1406.2661, section 3.
    """

    symmetric, relative = False, False

    def discriminator(self, real: Tensor, fake: Tensor, x: Tensor, k: Tensor) -> Tensor:
        return softplus(-real) + softplus(fake)

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        return softplus(-fake)


class Hinge:
    """relu(1 - r) + relu(1 + f); G: -f. "Geometric GAN", Lim and Ye 2017, arXiv 1705.02894."""

    symmetric, relative = (
        False,
        False,
    )  # the discriminator lets go of a fake scored below -1, the generator does not

    def discriminator(self, real: Tensor, fake: Tensor, x: Tensor, k: Tensor) -> Tensor:
        return relu(1 - real) + relu(1 + fake)

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        return -fake


class WGAN:
    """f - r + drift r^2; G: -f. "Wasserstein GAN", Arjovsky et al. 2017, arXiv 1701.07875.

    Needs a Lipschitz bound on the discriminator: net.discriminator.spectral_norm=true or a penalty.
    drift: keeps the scores near zero, which the rest of the loss leaves free; 0.001 in "Progressive
    Growing of GANs for Improved Quality, Stability, and Variation", Karras et al. 2018, arXiv
    1710.10196, appendix A.1.
    """

    symmetric, relative = True, False

    def __init__(self, drift: NonNegativeFloat = 0.0):
        self.drift = drift

    def discriminator(self, real: Tensor, fake: Tensor, x: Tensor, k: Tensor) -> Tensor:
        return fake - real + self.drift * real.square()

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        return -fake


class LSGAN:
    """((r - 1)^2 + f^2) / 2; G: (f - 1)^2 / 2. "Least Squares GANs", Mao et al. 2017, arXiv
    1611.04076.
    """

    symmetric, relative = False, False

    def discriminator(self, real: Tensor, fake: Tensor, x: Tensor, k: Tensor) -> Tensor:
        return ((real - 1).square() + fake.square()) / 2

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        return (fake - 1).square() / 2


class RSGAN:
    """softplus(f - r); G: softplus(r - f): real i should score above fake i, and the generator
    wants it below.

    "The relativistic discriminator: a key element missing from standard GAN", Jolicoeur-Martineau
    2018, arXiv 1807.00734, equations 7 and 8.
    """

    symmetric, relative = False, True

    def discriminator(self, real: Tensor, fake: Tensor, x: Tensor, k: Tensor) -> Tensor:
        return softplus(fake - real)

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        return softplus(real - fake)


class GANQP:
    """-(r - f) + weight (r - f)^2 / d(x, k); G: -f, d the mean over C, H, W of (x - k)^2 (l2) or of
    |x - k| (l1).

    "GAN-QP: A Novel GAN Framework without Gradient Vanishing and Lipschitz Constraint", Su 2018,
    arXiv 1811.07296. Real i is paired with fake i of the batch. weight 0.25 with l2 is O-GAN's;
    GAN-QP's own is 1 / (2 * 10) with l1. The penalty trains the discriminator alone.
    """

    symmetric, relative = False, False

    def __init__(self, weight: NonNegativeFloat = 0.25, distance: Literal["l1", "l2"] = "l2"):
        if distance not in ("l1", "l2"):
            raise ValueError(f"loss.distance={distance!r}: expected l1 or l2")
        self.weight, self.distance = weight, distance

    def discriminator(self, real: Tensor, fake: Tensor, x: Tensor, k: Tensor) -> Tensor:
        difference = (x - k.detach()).flatten(1).to(real.dtype)
        d = (difference.abs() if self.distance == "l1" else difference.square()).mean(1)
        margin = real - fake
        return -margin + self.weight * margin.square() / d.clamp_min(torch.finfo(d.dtype).tiny)

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        return -fake
