"""The Frechet distance between two sets of features."""

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["Gaussian", "Moments", "frechet_distance"]

Gaussian = tuple[Tensor, Tensor]  # mean (D,), covariance (D, D)


class Moments(Metric):
    """Mean (D,) and unbiased covariance (D, D) of features (N, D), by float64 sums of all updates.

    Args:
        dim: D.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    def __init__(self, dim: int):
        super().__init__()
        self.add_state("sum", torch.zeros(dim, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("outer", torch.zeros(dim, dim, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, features: Tensor) -> None:
        """Adds features (N, D)."""
        features = features.double()
        self.sum += features.sum(0)
        self.outer += features.T @ features
        self.count += len(features)

    def compute(self) -> Gaussian:
        """(mean, covariance), float64.

        Raises:
            ValueError: There are fewer than two images.
        """
        if self.count < 2:
            raise ValueError(
                "a Frechet distance needs two images or more on each side, and one side has "
                f"{int(self.count)}"
            )
        mean = self.sum / self.count
        return mean, (self.outer - self.count * mean.outer(mean)) / (self.count - 1)


def frechet_distance(a: Gaussian, b: Gaussian) -> Tensor:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), a float64 scalar, negative by rounding
    alone.

    The trace of the root is the sum of the roots of the eigenvalues of C_a^(1/2) C_b C_a^(1/2),
    which is symmetric and has the eigenvalues of C_a C_b. "GANs Trained by a Two Time-Scale Update
    Rule Converge to a Local Nash Equilibrium", Heusel et al. 2017, arXiv 1706.08500, equation 6.
    """
    (mean_a, cov_a), (mean_b, cov_b) = a, b
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    product = torch.linalg.eigvalsh(root @ cov_b @ root)
    trace = cov_a.trace() + cov_b.trace() - 2 * product.clamp_min(0).sqrt().sum()
    return (mean_a - mean_b).square().sum() + trace
