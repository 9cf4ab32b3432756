"""Adversarial losses on scores: a high score means real, a low one fake.

Every loss returns one value per sample (B,), not the mean. In the formulas r is the score of a real
image, f the score of a fake one.

Shapes: B batch, C channels, H x W pixels.
"""

from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from genlab.ranges import NonNegativeFloat

__all__ = [
    "GANQP",
    "LSGAN",
    "RSGAN",
    "WGAN",
    "AdversarialLoss",
    "Hinge",
    "NonSaturating",
]


@runtime_checkable
class AdversarialLoss(Protocol):
    """What a GAN trains with: one loss for the discriminator, one for the generator.

    Attributes:
        symmetric: Whether both losses push the score of a fake with equal and opposite force:
            d generator / d fake = - d discriminator / d fake.
        relative: Whether the generator's loss depends on the scores of real images too.
    """

    symmetric: bool
    relative: bool

    def discriminator(self, real: Tensor, fake: Tensor, x: Tensor, k: Tensor) -> Tensor:
        """The discriminator's loss of each sample (B,).

        Args:
            real: Scores (B,) of the real images.
            fake: Scores (B,) of the fakes.
            x: The real images (B, C, H, W).
            k: The fakes (B, C, H, W); no gradient goes through them.
        """
        ...

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        """The generator's loss of each sample (B,) from the same scores."""
        ...


class NonSaturating:
    """Cross-entropy. D: softplus(-r) + softplus(f); G: softplus(-f).

    "Generative Adversarial Nets", Goodfellow et al. 2014, arXiv 1406.2661, section 3.
    """

    symmetric = False
    relative = False

    def discriminator(self, real: Tensor, fake: Tensor, x: Tensor, k: Tensor) -> Tensor:
        return softplus(-real) + softplus(fake)

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        return softplus(-fake)


class Hinge:
    """D: relu(1 - r) + relu(1 + f); G: -f.

    "Geometric GAN", Lim and Ye 2017, arXiv 1705.02894.
    """

    # The discriminator's gradient is 0 for a fake scored below -1; the generator's is not.
    symmetric = False
    relative = False

    def discriminator(self, real: Tensor, fake: Tensor, x: Tensor, k: Tensor) -> Tensor:
        return relu(1 - real) + relu(1 + fake)

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        return -fake


class WGAN:
    """D: f - r + drift r^2; G: -f.

    The discriminator needs a Lipschitz bound: net.discriminator.spectral_norm=true or a penalty.

    "Wasserstein GAN", Arjovsky et al. 2017, arXiv 1701.07875. drift: "Progressive Growing of GANs
    for Improved Quality, Stability, and Variation", Karras et al. 2018, arXiv 1710.10196, appendix
    A.1.

    Args:
        drift: Keeps the scores near zero, as the other terms do not depend on their common offset;
            0.001 in the PGGAN paper.
    """

    symmetric = True
    relative = False

    def __init__(self, drift: NonNegativeFloat = 0.0):
        self.drift = drift

    def discriminator(self, real: Tensor, fake: Tensor, x: Tensor, k: Tensor) -> Tensor:
        return fake - real + self.drift * real.square()

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        return -fake


class LSGAN:
    """D: ((r - 1)^2 + f^2) / 2; G: (f - 1)^2 / 2.

    "Least Squares Generative Adversarial Networks", Mao et al. 2017, arXiv 1611.04076.
    """

    symmetric = False
    relative = False

    def discriminator(self, real: Tensor, fake: Tensor, x: Tensor, k: Tensor) -> Tensor:
        return ((real - 1).square() + fake.square()) / 2

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        return (fake - 1).square() / 2


class RSGAN:
    """D: softplus(f - r); G: softplus(r - f). Real image i is compared with fake i of the batch.

    "The relativistic discriminator: a key element missing from standard GAN", Jolicoeur-Martineau
    2018, arXiv 1807.00734, equations 7 and 8.
    """

    symmetric = False
    relative = True

    def discriminator(self, real: Tensor, fake: Tensor, x: Tensor, k: Tensor) -> Tensor:
        return softplus(fake - real)

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        return softplus(real - fake)


class GANQP:
    """D: -(r - f) + weight (r - f)^2 / d(x, k); G: -f. Real image i is paired with fake i.

    The quadratic term trains the discriminator alone.

    "GAN-QP: A Novel GAN Framework without Gradient Vanishing and Lipschitz Constraint", Su 2018,
    arXiv 1811.07296.

    Args:
        weight: Of the quadratic term. O-GAN has 0.25 with l2, GAN-QP 1 / (2 * 10) with l1.
        distance: d, the mean over C, H, W of |x - k| (l1) or of (x - k)^2 (l2).

    Raises:
        ValueError: The distance is neither l1 nor l2.
    """

    symmetric = False
    relative = False

    def __init__(self, weight: NonNegativeFloat = 0.25, distance: Literal["l1", "l2"] = "l2"):
        if distance not in ("l1", "l2"):
            raise ValueError(f"loss.distance={distance!r}: expected l1 or l2")
        self.weight = weight
        self.distance = distance

    def discriminator(self, real: Tensor, fake: Tensor, x: Tensor, k: Tensor) -> Tensor:
        difference = (x - k.detach()).flatten(1).to(real.dtype)  # (B, C H W)
        d = (difference.abs() if self.distance == "l1" else difference.square()).mean(1)
        margin = real - fake
        return -margin + self.weight * margin.square() / d.clamp_min(torch.finfo(d.dtype).tiny)

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        return -fake
