"""Measures on two clouds of features (N, D): kernel distance, precision and recall, spread."""

import torch
from torch import Tensor

__all__ = ["kernel_distance", "precision_recall", "spread"]


def kernel_distance(real: Tensor, fake: Tensor, num_subsets: int = 100, subset_size: int = 1000, seed: int = 0) -> float:
    """KID: the unbiased squared MMD under (x.y / D + 1)^3, a mean over random subsets; near 0 for equal sets.

    "Demystifying MMD GANs", Binkowski et al. 2018, arXiv 1801.01401, section 4. subset_size is bounded by both sets.
    """
    size = min(subset_size, len(real), len(fake))
    if size < 2:
        raise ValueError(f"a kernel distance needs two images or more of each kind, and has {len(real)} and {len(fake)}")
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(num_subsets):
        x, y = (f[torch.randperm(len(f), generator=generator)[:size]].double() for f in (real, fake))
        xx, yy, xy = ((a @ b.T / a.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
        same = (xx.sum() - xx.trace() + yy.sum() - yy.trace()) / (size * (size - 1))
        values.append(same - 2 * xy.mean())
    return torch.stack(values).mean().item()


def precision_recall(real: Tensor, fake: Tensor, num_neighbours: int = 3) -> tuple[float, float]:
    """(precision, recall): parts of the fakes inside the real set's balls, and of the real images inside the fakes'.

    A point's ball reaches its num_neighbours-th nearest other point. "Improved Precision and Recall Metric for
    Assessing Generative Models", Kynkaanniemi et al. 2019, arXiv 1904.06991, equations 1 and 2.
    """
    if min(len(real), len(fake)) <= num_neighbours:
        raise ValueError(f"precision and recall need more than {num_neighbours} images of each kind")
    real, fake = real.double(), fake.double()
    return _inside(fake, real, num_neighbours), _inside(real, fake, num_neighbours)


def _inside(points: Tensor, centres: Tensor, k: int) -> float:
    """The part of `points` that lies in some ball around `centres`."""
    radii = torch.cat([torch.cdist(c, centres).kthvalue(k + 1).values for c in centres.split(1000)])
    inside = [(torch.cdist(p, centres) <= radii).any(1) for p in points.split(1000)]
    return torch.cat(inside).double().mean().item()


def spread(features: Tensor) -> float:
    """The root of the mean squared distance between two features (N, D): 0 where all images look alike."""
    return (2 * features.double().var(0).sum()).sqrt().item()
