"""Measures on two clouds of features (N, D): kernel distance, precision, recall, density, coverage,
spread, nearest.
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

    "Demystifying MMD GANs", Binkowski et al. 2018, arXiv 1801.01401, section 4. subset_size is
    bounded by both sets.
    """
    size = min(subset_size, len(real), len(fake))
    if size < 2:
        raise ValueError(
            f"a kernel distance needs two images or more of each kind, and has {len(real)} and {len(fake)}"
        )
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(num_subsets):
        x, y = (
            f[torch.randperm(len(f), generator=generator)[:size]].double() for f in (real, fake)
        )
        xx, yy, xy = ((a @ b.T / a.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
        same = (xx.sum() - xx.trace() + yy.sum() - yy.trace()) / (size * (size - 1))
        values.append(same - 2 * xy.mean())
    return torch.stack(values).mean().item()


def precision_recall(real: Tensor, fake: Tensor, num_neighbours: int = 3) -> tuple[float, float]:
    """(precision, recall): parts of the fakes inside the real set's balls, and of the real images
    inside the fakes'.

    A point's ball reaches its num_neighbours-th nearest other point. "Improved Precision and Recall
    Metric for Assessing Generative Models", Kynkaanniemi et al. 2019, arXiv 1904.06991, equations 1
    and 2.
    """
    if min(len(real), len(fake)) <= num_neighbours:
        raise ValueError(
            f"precision and recall need more than {num_neighbours} images of each kind"
        )
    real, fake = real.double(), fake.double()
    return _inside(fake, real, num_neighbours), _inside(real, fake, num_neighbours)


def density_coverage(real: Tensor, fake: Tensor, num_neighbours: int = 5) -> tuple[float, float]:
    """(density, coverage): how many real balls hold a fake, over num_neighbours (1 for equal sets,
    unbounded above), and the part of the real balls that hold a fake.

    "Reliable Fidelity and Diversity Metrics for Generative Models", Naeem et al. 2020, arXiv
    2002.09797, equations 3, 4.
    """
    if len(real) <= num_neighbours:
        raise ValueError(f"density and coverage need more than {num_neighbours} real images")
    real, fake = real.double(), fake.double()
    radii = _radii(real, num_neighbours)
    inside = [torch.cdist(part, real) <= radii for part in fake.split(1000)]
    density = sum(part.sum().item() for part in inside) / (num_neighbours * len(fake))
    return density, torch.stack([part.any(0) for part in inside]).any(0).double().mean().item()


COLUMNS = 2048  # of a block of matrix products


def block_budget(device: torch.device) -> int:
    """Bytes of a block that stay in the caches of a CPU (4 MiB a thread) or keep a GPU busy (256
    MiB).
    """
    return torch.get_num_threads() << 22 if device.type == "cpu" else 256 << 20


class Nearest(NamedTuple):
    """distances (N, K), float64 and not squared, and rows (N, K), int64: the nearest first, of
    equals the lowest row.
    """

    distances: Tensor
    rows: Tensor


@torch.no_grad()
def nearest(points: Tensor, others: Tensor, num: int = 1, budget: int | None = None) -> Nearest:
    """The `num` of `others` (M, D) that lie nearest to each of `points` (N, D), as a float64 search
    over all pairs has them.

    Candidates come from matrix products in the points' own precision (float32 or wider), a block of
    `budget` bytes at a time, in groups of which only the minimum is kept. The num + 1 groups with
    the smallest minima are measured anew in float64. What rounding could have hidden is bounded:
    where the minimum of the last of them is not above the rest by more than the bound, the point is
    compared with all, in float64. budget: None for `block_budget`.
    """
    if not 1 <= num <= len(others):
        raise ValueError(f"num={num}: there are {len(others)} points to choose from")
    dtype = torch.promote_types(torch.promote_types(points.dtype, others.dtype), torch.float32)
    points, others = points.to(dtype), others.to(dtype)
    budget = budget or block_budget(points.device)
    norms = others.double().square().sum(1)
    size = (
        16 if len(others) > 1000 * others.shape[1] else 4
    )  # large groups are few to look at and many to measure anew
    columns = min(COLUMNS, -(-len(others) // size) * size)
    rows = max(1, budget // (columns * points.element_size()))
    with _full_precision(points.device.type):
        found = [
            _nearest(part, others, norms, num, columns, size, budget) for part in points.split(rows)
        ]
    if not found:
        return Nearest(
            norms.new_empty(0, num), torch.empty(0, num, dtype=torch.int64, device=points.device)
        )
    return Nearest(*map(torch.cat, zip(*found, strict=True)))


def _nearest(
    points: Tensor, others: Tensor, norms: Tensor, num: int, columns: int, size: int, budget: int
) -> tuple[Tensor, Tensor]:
    lowest, groups = _groups(points, others, norms.to(points.dtype), num + 1, columns, size)
    width = columns // size
    first = groups // width * columns + groups % width
    rows = (
        (first[..., None] + width * torch.arange(size, device=first.device))
        .flatten(1)
        .sort(1)
        .values
    )
    parts = max(1, budget // (rows.shape[1] * points.shape[1]))
    pairs = zip(points.split(parts), rows.clamp(max=len(others) - 1).split(parts), strict=True)
    squares = torch.cat(
        [(x[:, None].double() - others[i].double()).square().sum(2) for x, i in pairs]
    )
    squares, order = squares.masked_fill(rows >= len(others), torch.inf).sort(dim=1, stable=True)
    rows = rows.gather(1, order)[:, :num]
    if len(others) > columns or width > num + 1:  # there are other groups
        own = points.double().square().sum(1)
        unit = torch.finfo(points.dtype).eps / 2
        rounding = 2 * (points.shape[1] + 8) * unit * (own.sqrt() + norms.max().sqrt()).square()
        doubtful = ~(lowest[:, -1].double() + own - rounding > squares[:, num - 1])
        for i in doubtful.nonzero()[:, 0].tolist():
            everything = _squares(points[i], others, budget)
            squares[i, :num], rows[i] = (part[:num] for part in everything.sort(stable=True))
    return squares[:, :num].sqrt(), rows


def _groups(
    points: Tensor, others: Tensor, norms: Tensor, num: int, columns: int, size: int
) -> tuple[Tensor, Tensor]:
    """Minima of |y|^2 - 2 x.y (|x|^2 is common to a row) over groups of `size`, and the groups, (N,
    num): the smallest.

    Group w + b * columns / size has every (columns / size)-th of block b's columns, from the w-th
    on.
    """
    width = columns // size
    block = points.new_empty(len(points), columns)
    values, groups = (
        points.new_empty(len(points), 0),
        torch.empty(len(points), 0, dtype=torch.int64, device=points.device),
    )
    for stripe in range(
        0, len(others), size * columns
    ):  # its minima are as many as a block's numbers
        starts = range(stripe, min(stripe + size * columns, len(others)), columns)
        minima = points.new_empty(len(points), width * len(starts))
        for start, minimum in zip(starts, minima.split(width, 1), strict=True):
            part = others[start : start + columns]
            torch.addmm(
                norms[start : start + columns], points, part.T, alpha=-2, out=block[:, : len(part)]
            )
            block[:, len(part) :] = torch.inf
            torch.amin(block.view(-1, size, width), 1, out=minimum)
        new_values, new_groups = _smallest(minima, num)
        values, groups = (
            torch.cat([values, new_values], 1),
            torch.cat([groups, new_groups + stripe // size], 1),
        )
        values, order = values.topk(min(num, values.shape[1]), largest=False)
        groups = groups.gather(1, order)
    return values, groups


def _smallest(block: Tensor, num: int, size: int = 32) -> tuple[Tensor, Tensor]:
    """Values and columns (N, num) of a row's smallest, by the minima of its M / size interleaved
    groups.
    """
    count = block.shape[1] // size
    if count < 2 * num:
        return block.topk(min(num, block.shape[1]), largest=False)
    groups = block[:, : size * count].unflatten(1, (size, count))
    chosen = (
        groups.amin(1).topk(num, largest=False).indices
    )  # the num smallest lie in the num groups with smallest minima
    values = groups.gather(2, chosen[:, None].expand(-1, size, -1)).flatten(1)
    members = torch.arange(size, device=block.device)[:, None] * count
    columns = (chosen[:, None] + members).flatten(1)
    rest = torch.arange(size * count, block.shape[1], device=block.device).expand(len(block), -1)
    values, columns = (
        torch.cat([values, block[:, size * count :]], 1),
        torch.cat([columns, rest], 1),
    )
    values, order = values.topk(num, largest=False)
    return values, columns.gather(1, order)


def _squares(point: Tensor, others: Tensor, budget: int) -> Tensor:
    """Squared distances (M,) of one point (D,), float64."""
    parts = others.split(max(1, budget // (16 * others.shape[1])))
    return torch.cat([(point.double() - part.double()).square().sum(1) for part in parts])


@contextmanager
def _full_precision(device: str):
    """Inside, matrix products neither autocast nor round their factors to TF32 or bfloat16."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def _radii(centres: Tensor, k: int) -> Tensor:
    """The distance of each centre to its k-th nearest other."""
    return torch.cat([torch.cdist(c, centres).kthvalue(k + 1).values for c in centres.split(1000)])


def _inside(points: Tensor, centres: Tensor, k: int) -> float:
    """The part of `points` that lies in some ball around `centres`."""
    radii = _radii(centres, k)
    inside = [(torch.cdist(p, centres) <= radii).any(1) for p in points.split(1000)]
    return torch.cat(inside).double().mean().item()


def spread(features: Tensor) -> float:
    """The root of the mean squared distance between two features (N, D): 0 where all images look
    alike.
    """
    return (2 * features.double().var(0).sum()).sqrt().item()
