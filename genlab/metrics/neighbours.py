"""Measures of two sets of features: kernel distance, precision, recall, density, coverage, spread,
and the exact nearest neighbours of many points.

Shapes: N points; M others; D numbers of each; K neighbours.
"""

from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Nearest",
    "density_coverage",
    "kernel_distance",
    "nearest",
    "precision_recall",
    "spread",
]


def kernel_distance(
    real: Tensor, fake: Tensor, num_subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> float:
    """KID: the unbiased squared MMD under (x.y / D + 1)^3, a mean over random subsets; near 0 for
    equal sets.

    "Demystifying MMD GANs", Binkowski et al. 2018, arXiv 1801.01401, section 4.

    Args:
        real: Features (N, D).
        fake: Features (M, D).
        num_subsets: How many subsets.
        subset_size: Of each; at most the size of either set.
        seed: Of the subsets.

    Raises:
        ValueError: A set has fewer than two images.
    """
    size = min(subset_size, len(real), len(fake))
    if size < 2:
        raise ValueError(
            f"a kernel distance needs two images or more of each kind, and there are {len(real)} "
            f"and {len(fake)}"
        )
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(num_subsets):
        x, y = (
            f[torch.randperm(len(f), generator=generator)[:size]].double() for f in (real, fake)
        )
        xx, yy, xy = ((a @ b.T / a.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
        # Without the diagonals, which compare a point with itself
        same = (xx.sum() - xx.trace() + yy.sum() - yy.trace()) / (size * (size - 1))
        values.append(same - 2 * xy.mean())
    return torch.stack(values).mean().item()


def precision_recall(real: Tensor, fake: Tensor, num_neighbours: int = 3) -> tuple[float, float]:
    """(precision, recall): the fraction of the fake images inside the real ones' balls, and of the
    real images inside the fake ones'.

    A point's ball reaches to its num_neighbours-th nearest other point of its set. "Improved
    Precision and Recall Metric for Assessing Generative Models", Kynkaanniemi et al. 2019, arXiv
    1904.06991, equations 1 and 2.

    Args:
        real: Features (N, D).
        fake: Features (M, D).
        num_neighbours: K.

    Raises:
        ValueError: A set has K images or fewer.
    """
    if min(len(real), len(fake)) <= num_neighbours:
        raise ValueError(
            f"precision and recall need more than {num_neighbours} images of each kind"
        )
    real, fake = real.double(), fake.double()
    return _inside(fake, real, num_neighbours), _inside(real, fake, num_neighbours)


def density_coverage(real: Tensor, fake: Tensor, num_neighbours: int = 5) -> tuple[float, float]:
    """(density, coverage): in how many real balls a fake image is on average, over num_neighbours,
    which is 1 for equal sets and unbounded; and the fraction of the real balls with a fake image.

    "Reliable Fidelity and Diversity Metrics for Generative Models", Naeem et al. 2020, arXiv
    2002.09797, equations 3 and 4.

    Args:
        real: Features (N, D).
        fake: Features (M, D).
        num_neighbours: K.

    Raises:
        ValueError: There are K real images or fewer.
    """
    if len(real) <= num_neighbours:
        raise ValueError(f"density and coverage need more than {num_neighbours} real images")
    real, fake = real.double(), fake.double()
    radii = _radii(real, num_neighbours)
    inside = [torch.cdist(part, real) <= radii for part in fake.split(1000)]
    density = sum(part.sum().item() for part in inside) / (num_neighbours * len(fake))
    covered = torch.stack([part.any(0) for part in inside]).any(0)
    return density, covered.double().mean().item()


def spread(features: Tensor) -> float:
    """The root of the mean squared distance between two of features (N, D): 0 where all images look
    alike.
    """
    return (2 * features.double().var(0).sum()).sqrt().item()


def _radii(centres: Tensor, k: int) -> Tensor:
    """The distance (N,) of each centre (N, D) to its k-th nearest other."""
    return torch.cat([torch.cdist(c, centres).kthvalue(k + 1).values for c in centres.split(1000)])


def _inside(points: Tensor, centres: Tensor, k: int) -> float:
    """The fraction of `points` that are in some ball around `centres`."""
    radii = _radii(centres, k)
    inside = [(torch.cdist(p, centres) <= radii).any(1) for p in points.split(1000)]
    return torch.cat(inside).double().mean().item()


# --- nearest neighbours ---------------------------------------------------------------------------

COLUMNS = 2048  # of a block of matrix products


def block_budget(device: torch.device) -> int:
    """Bytes of a block: what stays in the caches of a CPU (4 MiB a thread), or keeps a GPU busy
    (256 MiB).
    """
    return torch.get_num_threads() << 22 if device.type == "cpu" else 256 << 20


class Nearest(NamedTuple):
    """The neighbours of N points, the nearest first, of equals the lowest row.

    Attributes:
        distances: (N, K) float64, not squared.
        rows: (N, K) int64.
    """

    distances: Tensor
    rows: Tensor


@torch.no_grad()
def nearest(points: Tensor, others: Tensor, num: int = 1, budget: int | None = None) -> Nearest:
    """The `num` of `others` that are nearest to each of `points`, as a float64 search over all
    pairs finds them.

    Candidates come from matrix products in the points' own precision (float32 or wider), a block at
    a time, in groups of which only the minimum is kept. The num + 1 groups with the smallest minima
    are measured again in float64. The error of rounding is bounded: where the minimum of the last
    of these groups is not above the others by more than the bound, the point is compared with all,
    in float64.

    Args:
        points: (N, D).
        others: (M, D).
        num: K.
        budget: Bytes of a block; None for `block_budget`.

    Raises:
        ValueError: There are fewer than `num` others.
    """
    if not 1 <= num <= len(others):
        raise ValueError(f"num={num}: expected 1 to {len(others)}, the number of the other points")
    dtype = torch.promote_types(torch.promote_types(points.dtype, others.dtype), torch.float32)
    points, others = points.to(dtype), others.to(dtype)
    budget = budget or block_budget(points.device)
    norms = others.double().square().sum(1)
    # Large groups are few to look at, and many points to measure again.
    size = 16 if len(others) > 1000 * others.shape[1] else 4
    columns = min(COLUMNS, -(-len(others) // size) * size)
    rows = max(1, budget // (columns * points.element_size()))
    with _full_precision(points.device.type):
        parts = points.split(rows)
        found = [_nearest(part, others, norms, num, columns, size, budget) for part in parts]
    if not found:
        no_rows = torch.empty(0, num, dtype=torch.int64, device=points.device)
        return Nearest(norms.new_empty(0, num), no_rows)
    return Nearest(*map(torch.cat, zip(*found, strict=True)))


def _nearest(
    points: Tensor, others: Tensor, norms: Tensor, num: int, columns: int, size: int, budget: int
) -> tuple[Tensor, Tensor]:
    """Squared distances (N, num) float64 and rows of `nearest`, for one block of points."""
    lowest, groups = _groups(points, others, norms.to(points.dtype), num + 1, columns, size)
    width = columns // size
    first = groups // width * columns + groups % width  # (N, num + 1), of each group's members
    members = first[..., None] + width * torch.arange(size, device=first.device)
    rows = members.flatten(1).sort(1).values
    parts = max(1, budget // (rows.shape[1] * points.shape[1]))
    existing = rows.clamp(max=len(others) - 1)
    pairs = zip(points.split(parts), existing.split(parts), strict=True)
    measured = [(x[:, None].double() - others[i].double()).square().sum(2) for x, i in pairs]
    squares = torch.cat(measured)
    squares, order = squares.masked_fill(rows >= len(others), torch.inf).sort(dim=1, stable=True)
    rows = rows.gather(1, order)[:, :num]
    if len(others) > columns or width > num + 1:  # there are other groups
        own = points.double().square().sum(1)
        unit = torch.finfo(points.dtype).eps / 2
        largest = (own.sqrt() + norms.max().sqrt()).square()
        rounding = 2 * (points.shape[1] + 8) * unit * largest
        doubtful = ~(lowest[:, -1].double() + own - rounding > squares[:, num - 1])
        for i in doubtful.nonzero()[:, 0].tolist():
            everything = _squares(points[i], others, budget)
            squares[i, :num], rows[i] = (part[:num] for part in everything.sort(stable=True))
    return squares[:, :num].sqrt(), rows


def _groups(
    points: Tensor, others: Tensor, norms: Tensor, num: int, columns: int, size: int
) -> tuple[Tensor, Tensor]:
    """The smallest minima (N, num) over groups of `size` others, and which groups these are.

    Minima of |y|^2 - 2 x.y, as |x|^2 is common to a row. Group w + b * columns / size has every
    (columns / size)-th of block b's columns, from the w-th on.
    """
    width = columns // size
    block = points.new_empty(len(points), columns)
    values = points.new_empty(len(points), 0)
    groups = torch.empty(len(points), 0, dtype=torch.int64, device=points.device)
    # A stripe's minima are as many as a block's numbers.
    for stripe in range(0, len(others), size * columns):
        starts = range(stripe, min(stripe + size * columns, len(others)), columns)
        minima = points.new_empty(len(points), width * len(starts))
        for start, minimum in zip(starts, minima.split(width, 1), strict=True):
            part = others[start : start + columns]
            own_norms = norms[start : start + columns]
            torch.addmm(own_norms, points, part.T, alpha=-2, out=block[:, : len(part)])
            block[:, len(part) :] = torch.inf
            torch.amin(block.view(-1, size, width), 1, out=minimum)
        new_values, new_groups = _smallest(minima, num)
        values = torch.cat([values, new_values], 1)
        groups = torch.cat([groups, new_groups + stripe // size], 1)
        values, order = values.topk(min(num, values.shape[1]), largest=False)
        groups = groups.gather(1, order)
    return values, groups


def _smallest(block: Tensor, num: int, size: int = 32) -> tuple[Tensor, Tensor]:
    """Values and columns (N, num) of the smallest of each row of block (N, M), by the minima of
    M / size interleaved groups.
    """
    count = block.shape[1] // size
    if count < 2 * num:
        return block.topk(min(num, block.shape[1]), largest=False)
    groups = block[:, : size * count].unflatten(1, (size, count))
    # The num smallest are in the num groups with the smallest minima.
    chosen = groups.amin(1).topk(num, largest=False).indices
    values = groups.gather(2, chosen[:, None].expand(-1, size, -1)).flatten(1)
    members = torch.arange(size, device=block.device)[:, None] * count
    columns = (chosen[:, None] + members).flatten(1)
    rest = torch.arange(size * count, block.shape[1], device=block.device).expand(len(block), -1)
    values = torch.cat([values, block[:, size * count :]], 1)
    columns = torch.cat([columns, rest], 1)
    values, order = values.topk(num, largest=False)
    return values, columns.gather(1, order)


def _squares(point: Tensor, others: Tensor, budget: int) -> Tensor:
    """Squared distances (M,) of others (M, D) from one point (D,), float64."""
    parts = others.split(max(1, budget // (16 * others.shape[1])))
    return torch.cat([(point.double() - part.double()).square().sum(1) for part in parts])


@contextmanager
def _full_precision(device: str):
    """Inside, matrix products neither autocast nor round their factors to TF32 or bfloat16.

    Args:
        device: Its type, as in cuda.
    """
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
