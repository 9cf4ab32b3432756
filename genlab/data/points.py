"""Points of the plane, drawn once from eight densities that show what a flow can and cannot do.

Shapes: N points of a split, B of a batch.
"""

import hashlib
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genlab.data.loader import StepLoader
from genlab.data.module import StepDataModule
from genlab.data.sampler import Draw, StepSampler, in_order
from genlab.data.splits import SPLITS, check_split
from genlab.errors import DataError
from genlab.ranges import NonNegativeInt, PositiveInt, Seed

__all__ = ["DENSITIES", "SETS", "PointSet", "read_points"]

SPLIT_SEEDS = {"train": 20190321, "val": 20190322, "test": 20190323}
Random = np.random.RandomState  # NumPy has frozen its streams, so a set stays what it is


def moons(count: int, random: Random) -> np.ndarray:
    """Two interleaved half circles of radius 2 with noise 0.2."""
    angle = np.pi * random.random_sample(count)
    upper = random.randint(2, size=count)
    x = np.where(upper, np.cos(angle), 1 - np.cos(angle))
    y = np.where(upper, np.sin(angle), 0.5 - np.sin(angle))
    return 2 * np.stack([x - 0.5, y - 0.25], 1) + 0.2 * random.standard_normal((count, 2))


def circles(count: int, random: Random) -> np.ndarray:
    """Two circles of radius 1.5 and 3 with noise 0.24."""
    return _rings(np.array([1.5, 3.0])[random.randint(2, size=count)], 0.24, random)


def rings(count: int, random: Random) -> np.ndarray:
    """Four circles of radius 0.75, 1.5, 2.25 and 3 with noise 0.08."""
    return _rings(np.array([0.75, 1.5, 2.25, 3.0])[random.randint(4, size=count)], 0.08, random)


def _rings(radius: np.ndarray, noise: float, random: Random) -> np.ndarray:
    angle = 2 * np.pi * random.random_sample(len(radius))
    on = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return on + noise * random.standard_normal((len(radius), 2))


def checkerboard(count: int, random: Random) -> np.ndarray:
    """Uniform on the eight dark squares of side 2 of a 4 x 4 board on [-4, 4]^2."""
    x = random.random_sample(count) * 8 - 4
    # Squares 0 to 3 from below; of each column, every other one.
    square = 2 * random.randint(2, size=count) + np.floor(x / 2) % 2
    y = 2 * (square + random.random_sample(count)) - 4
    return np.stack([x, y], 1)


def eight_gaussians(count: int, random: Random) -> np.ndarray:
    """Eight Gaussians of standard deviation 0.3535 on a circle of radius 2.828."""
    angle = np.pi / 4 * random.randint(8, size=count)
    centres = 8**0.5 * np.stack([np.cos(angle), np.sin(angle)], 1)
    return centres + 8**-0.5 * random.standard_normal((count, 2))


def pinwheel(count: int, random: Random) -> np.ndarray:
    """Five blades, each a Gaussian stretched along the radius and turned more farther out."""
    blade = random.randint(5, size=count)
    scale = np.array([[0.3], [0.1]])
    centre = np.array([[1.0], [0.0]])
    radius, across = random.standard_normal((2, count)) * scale + centre
    angle = 2 * np.pi / 5 * blade + 0.25 * np.exp(radius)
    x = radius * np.cos(angle) - across * np.sin(angle)
    y = radius * np.sin(angle) + across * np.cos(angle)
    return 2 * np.stack([x, y], 1)


def swiss_roll(count: int, random: Random) -> np.ndarray:
    """One and a half turns of a spiral from radius 0.94 to 2.83, with noise 0.2."""
    angle = 1.5 * np.pi * (1 + 2 * random.random_sample(count))
    on = (angle * np.stack([np.cos(angle), np.sin(angle)])).T / 5
    return on + 0.2 * random.standard_normal((count, 2))


def two_spirals(count: int, random: Random) -> np.ndarray:
    """Two arms of one and a half turns to radius 3.1, with noise 0.1."""
    arm = random.randint(2, size=count) * 2 - 1
    angle = np.sqrt(random.random_sample(count)) * 3 * np.pi
    on = (arm * angle / 3) * np.stack([-np.cos(angle), np.sin(angle)])
    return on.T + 0.1 * random.standard_normal((count, 2))


def _checkerboard_density(points: Tensor) -> Tensor:
    column, row = (points / 2).floor().unbind(-1)
    dark = ((column + row) % 2 == 0) & (points.abs() <= 4).all(-1)
    return torch.where(dark, -math.log(32), -math.inf)


def _eight_gaussians_density(points: Tensor) -> Tensor:
    angle = math.pi / 4 * torch.arange(8, dtype=points.dtype)
    centres = 8**0.5 * torch.stack([angle.cos(), angle.sin()], 1)
    square = (points[..., None, :] - centres).square().sum(-1)
    return torch.logsumexp(-4 * square, -1) - math.log(8) + math.log(8 / (2 * math.pi))


SETS: dict[str, Callable[[int, Random], np.ndarray]] = {
    "moons": moons,
    "circles": circles,
    "rings": rings,
    "checkerboard": checkerboard,
    "eight_gaussians": eight_gaussians,
    "pinwheel": pinwheel,
    "swiss_roll": swiss_roll,
    "two_spirals": two_spirals,
}
# log-densities in nats of those sets that have a closed form
DENSITIES = {"checkerboard": _checkerboard_density, "eight_gaussians": _eight_gaussians_density}


class PointBatches:
    """`batches[draw]` is {point float32 (B, 2), index int64 (B,)}."""

    def __init__(self, points: Tensor) -> None:
        self.points = points

    def __getitem__(self, draw: Draw) -> dict[str, Tensor]:
        return {"point": self.points[draw.index.to(self.points.device)], "index": draw.index}


class PointSet(StepDataModule):
    """One of SETS in three splits, each drawn from a seed of its own.

    Batches are {point float32 (B, 2), index int64 (B,)}.

    Args:
        name: Of the set.
        batch_size: Points a process takes at each step.
        num_train: Points of train.
        num_val: Points of val.
        num_test: Points of test.
        seed: Of the order of training; the points do not depend on it.

    Raises:
        DataError: A setting is out of range.
    """

    modality = "point"

    def __init__(
        self,
        name: str,
        batch_size: PositiveInt = 256,
        num_train: PositiveInt = 50_000,
        num_val: NonNegativeInt = 2_000,
        num_test: NonNegativeInt = 10_000,
        seed: Seed = 1,
    ) -> None:
        super().__init__()
        if name not in SETS:
            raise DataError(f"data.name={name}: expected one of {', '.join(SETS)}")
        if not (isinstance(batch_size, int) and batch_size > 0):
            raise DataError(f"data.batch_size={batch_size!r} must be a positive number of points")
        if min(num_train, num_val, num_test) < 1:
            raise DataError("data.num_train, data.num_val and data.num_test must be 1 or more")
        self.name = name
        self.batch_size = batch_size
        self.seed = seed
        self.counts = {"train": num_train, "val": num_val, "test": num_test}
        self._points: dict[str, Tensor] = {}
        self._on_device: dict[tuple[str, torch.device], Tensor] = {}

    def setup(self, stage: str | None = None) -> None:
        """Nothing to do: `arrays` draws a split when it is needed."""

    def arrays(self, split: str) -> Tensor:
        """The points (N, 2) float32 of train, val or test."""
        check_split(split)
        if split not in self._points:
            drawn = SETS[self.name](self.counts[split], Random(SPLIT_SEEDS[split]))
            self._points[split] = torch.from_numpy(drawn.astype(np.float32))
        return self._points[split]

    def log_density(self, points: Tensor) -> Tensor | None:
        """log of the set's own density in nats (N,); None where it has no closed form."""
        return DENSITIES[self.name](points) if self.name in DENSITIES else None

    def split_key(self, split: str) -> str:
        """num_val or num_test."""
        return f"num_{split}"

    def _loader(self, split: str) -> StepLoader:
        points, device = self.arrays(split), self._device()
        points = self._on_device.setdefault((split, device), points.to(device))
        batches = PointBatches(points)
        if split != "train":
            return StepLoader(batches, in_order(len(points), self.batch_size, *self._ranks()))
        sampler = StepSampler(len(points), self.batch_size, self.seed, False, *self._ranks())
        return StepLoader(batches, sampler, self._step)

    def loader(self, split: str, batch_size: int | None = None) -> StepLoader:
        """Every point of a split once, in order, on the CPU; needs no trainer."""
        points = self.arrays(split)
        draws = in_order(len(points), batch_size or self.batch_size)
        return StepLoader(PointBatches(points), draws)

    def pick(self, split: str, num: int, seed: int = 0) -> dict[str, Tensor]:
        """A batch of `num` different points of a split, all where it has fewer.

        Which they are, and their order, is a function of `seed`.
        """
        points = self.arrays(split)
        rows = torch.from_numpy(Random(seed).permutation(len(points))[:num])
        return PointBatches(points)[Draw(rows)]

    def describe(self, split: str) -> dict[str, str | int]:
        """What a number measured on a split must be read with."""
        source = f"genlab.data.points.{self.name}, seed {SPLIT_SEEDS[split]}"
        return {"name": self.name, "split": split, "count": self.counts[split], "source": source}

    def fingerprint(self) -> str:
        """16 hex digits of a sha256 over the points of all splits."""
        digest = hashlib.sha256(json.dumps([self.name, self.counts]).encode())
        for split in SPLITS:
            digest.update(self.arrays(split).numpy().tobytes())
        return digest.hexdigest()[:16]


def read_points(path: str | Path) -> Tensor:
    """Points (N, D) float32 of an .npz with `points` or of a .csv of numbers, a point a row.

    Raises:
        DataError: The file is not there, or does not hold finite points.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if not path.is_file() or suffix not in (".npz", ".csv"):
        raise DataError(
            f"input={path}: expected an .npz with 'points', or a .csv, of one point a row"
        )
    try:
        with warnings.catch_warnings(), np.errstate(over="ignore"):
            warnings.simplefilter("ignore")  # an empty file and an overflow are refused below
            points = _stored_points(path, suffix)
            if points.dtype.kind not in "fiu":
                raise DataError(f"expected numbers, found {points.dtype}")
            points = points.astype(np.float32)
    except Exception as error:  # zipfile and numpy raise nearly anything on a damaged file
        raise DataError(
            f"input={path}: cannot be read as points ({type(error).__name__}: {error})"
        ) from None
    if points.ndim != 2 or not len(points) or not np.isfinite(points).all():
        raise DataError(
            f"input={path}: expected finite numbers of shape (N, D), found {points.shape}"
        )
    return torch.from_numpy(points)


def _stored_points(path: Path, suffix: str) -> np.ndarray:
    if suffix == ".csv":
        return np.loadtxt(path, np.float64, delimiter=",", ndmin=2)
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return arrays["points"]
