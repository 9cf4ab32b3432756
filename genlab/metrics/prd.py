"""Precision and recall as a curve: every trade-off between the two."""

import torch
from torch import Tensor

__all__ = ["f_beta", "prd_curve"]


def prd_curve(
    real: Tensor,
    fake: Tensor,
    num_clusters: int = 20,
    num_angles: int = 1001,
    num_runs: int = 10,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """The curve of precision against recall, a mean over several clusterings.

    Both sets become histograms over k-means clusters of their union: precision(t) =
    sum min(t q_real, q_fake) and recall = precision / t for slopes t = tan(angle). "Assessing
    Generative Models via Precision and Recall", Sajjadi et al. 2018, arXiv 1806.00035, Algorithm 1.

    Args:
        real: Features (N, D).
        fake: Features (N, D), as many.
        num_clusters: Of a clustering.
        num_angles: Points of the curve, A.
        num_runs: Clusterings.
        seed: Of their beginnings.

    Returns:
        (precision, recall), each (A,) in [0, 1].

    Raises:
        ValueError: The sets differ in size.
    """
    if len(real) != len(fake):
        raise ValueError(
            f"a PRD curve compares equally many images, and there are {len(real)} real and "
            f"{len(fake)} fake ones"
        )
    angles = torch.linspace(1e-6, torch.pi / 2 - 1e-6, num_angles, dtype=torch.float64)
    slopes = angles.tan()[:, None]
    union = torch.cat([real, fake]).double()
    generator = torch.Generator().manual_seed(seed)
    curves = []
    for _ in range(num_runs):
        rows = _k_means(union, min(num_clusters, len(union)), generator)
        q_real, q_fake = (
            torch.bincount(part, minlength=num_clusters).double() / len(part)
            for part in rows.split(len(real))
        )
        precision = torch.minimum(slopes * q_real, q_fake).sum(1)
        curves.append(torch.stack([precision, precision / slopes[:, 0]]))
    precision, recall = torch.stack(curves).mean(0).clamp(0, 1)
    return precision, recall


def f_beta(precision: Tensor, recall: Tensor, beta: float) -> float:
    """The largest F_beta on the curve: beta=8 weighs recall, beta=1/8 precision."""
    top = (1 + beta**2) * precision * recall
    return (top / (beta**2 * precision + recall).clamp_min(1e-12)).max().item()


def _k_means(points: Tensor, k: int, generator: torch.Generator, num_steps: int = 30) -> Tensor:
    """The cluster (N,) of each of points (N, D), by Lloyd's steps from k-means++ centres.

    Not scikit-learn's, which is no dependency: k-means ends in a local optimum, and others than
    these change the third digit of published PRD numbers.
    """
    first = torch.randint(len(points), (1,), generator=generator)
    centres = points[first]
    distances = torch.cdist(points, centres)[:, 0].square()
    for _ in range(k - 1):
        total = distances.sum()
        chances = distances if total > 0 else torch.ones_like(distances)
        chosen = torch.multinomial(chances, 1, generator=generator)
        centres = torch.cat([centres, points[chosen]])
        distances = torch.minimum(distances, torch.cdist(points, points[chosen])[:, 0].square())
    for _ in range(num_steps):
        rows = torch.cdist(points, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, rows, points)
        counts = torch.bincount(rows, minlength=k)[:, None]
        moved = torch.where(counts > 0, sums / counts.clamp_min(1), centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return torch.cdist(points, centres).argmin(1)
