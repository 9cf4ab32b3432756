"""Measures on two clouds of features (N, D): kernel distance, precision, recall, density, coverage, spread, nearest."""

import torch
from torch import Tensor

__all__ = ["density_coverage", "kernel_distance", "nearest", "precision_recall", "spread"]


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


def density_coverage(real: Tensor, fake: Tensor, num_neighbours: int = 5) -> tuple[float, float]:
    """(density, coverage): how many real balls hold a fake, over num_neighbours (1 for equal sets, unbounded above), and
    the part of the real balls that hold a fake.

    "Reliable Fidelity and Diversity Metrics for Generative Models", Naeem et al. 2020, arXiv 2002.09797, equations 3, 4.
    """
    if len(real) <= num_neighbours:
        raise ValueError(f"density and coverage need more than {num_neighbours} real images")
    real, fake = real.double(), fake.double()
    radii = _radii(real, num_neighbours)
    inside = [torch.cdist(part, real) <= radii for part in fake.split(1000)]
    density = sum(part.sum().item() for part in inside) / (num_neighbours * len(fake))
    return density, torch.stack([part.any(0) for part in inside]).any(0).double().mean().item()


def nearest(points: Tensor, others: Tensor, num: int) -> Tensor:
    """Rows (N, num) of `others` (M, D) that lie nearest to each of `points` (N, D), the nearest first."""
    return torch.cdist(points.double(), others.double()).topk(num, largest=False).indices


def _radii(centres: Tensor, k: int) -> Tensor:
    """The distance of each centre to its k-th nearest other."""
    return torch.cat([torch.cdist(c, centres).kthvalue(k + 1).values for c in centres.split(1000)])


def _inside(points: Tensor, centres: Tensor, k: int) -> float:
    """The part of `points` that lies in some ball around `centres`."""
    radii = _radii(centres, k)
    inside = [(torch.cdist(p, centres) <= radii).any(1) for p in points.split(1000)]
    return torch.cat(inside).double().mean().item()


def spread(features: Tensor) -> float:
    """The root of the mean squared distance between two features (N, D): 0 where all images look alike."""
    return (2 * features.double().var(0).sum()).sqrt().item()
