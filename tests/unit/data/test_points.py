"""Sets of points: fixed splits, known densities, batches, and points read from files."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from genlab.data.points import DENSITIES, SETS, PointSet, read_points
from genlab.errors import DataError


@pytest.mark.parametrize("name", SETS)
def test_splits_are_fixed_and_different(name):
    data = PointSet(name, seed=5, num_train=500, num_test=300)
    again = PointSet(name, seed=6, num_train=500, num_test=300)
    for split, count in (("train", 500), ("val", 2000), ("test", 300)):
        points = data.arrays(split)
        assert points.shape == (count, 2) and points.dtype == torch.float32
        assert points.isfinite().all()
        assert torch.equal(points, again.arrays(split)) and data.describe(split)["count"] == count
    assert not torch.equal(data.arrays("train")[:300], data.arrays("test"))
    assert data.fingerprint() == again.fingerprint() != PointSet(name, num_train=501).fingerprint()
    assert points.abs().max() < 6 and points.mean(0).abs().max() < 0.6  # centred, but for the roll


@pytest.mark.parametrize("name", DENSITIES)
def test_a_known_density_integrates_to_one_and_is_that_of_the_points(name):
    side = 600  # an edge of the checkerboard is an edge of cells
    centres = ((torch.arange(side).double() + 0.5) / side - 0.5) * 12
    grid = torch.cartesian_prod(centres, centres)
    data = PointSet(name, num_test=40_000)
    density = data.log_density(grid).exp()
    assert density.sum().item() * (12 / side) ** 2 == pytest.approx(1, abs=2e-3)
    # Moments by the density and by the points agree within four standard errors.
    points = data.arrays("test").double()
    moments = (
        lambda p: p.square().sum(-1),
        lambda p: p[..., 0] * p[..., 1],
        lambda p: (p * 2).sin().prod(-1),
    )
    for f in moments:
        expected = (f(grid) * density).sum() * (12 / side) ** 2
        assert abs(f(points).mean() - expected) < 4 * f(points).std() / len(points) ** 0.5 + 2e-3
    assert data.log_density(points).isfinite().all()


def test_the_entropy_of_the_checkerboard():
    data = PointSet("checkerboard")
    inside = data.log_density(torch.tensor([[-3.0, -3.0]]))
    assert torch.allclose(-inside, torch.tensor(math.log(32)))
    outside = torch.tensor([[-1.0, -3.0], [5.0, 5.0]])
    assert data.log_density(outside).exp().sum() == 0
    assert PointSet("moons").log_density(torch.zeros(1, 2)) is None


def loader(position: int, rank: int = 0, world: int = 1, batch_size: int = 64):
    data = PointSet("moons", batch_size=batch_size, num_train=1000, seed=3)
    progress = SimpleNamespace(total=SimpleNamespace(processed=position))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(
        global_rank=rank, world_size=world, strategy=strategy, fit_loop=loop, overfit_batches=0
    )
    return data.train_dataloader()


def test_a_batch_is_a_function_of_the_step_and_the_ranks_share_it():
    whole = [batch["point"] for batch in loader(0)]
    assert len(whole) == 15 and whole[0].shape == (64, 2)
    assert torch.equal(next(iter(loader(7)))["point"], whole[7])
    halves = [next(iter(loader(7, rank, 2, 32)))["point"] for rank in range(2)]
    assert torch.equal(torch.cat(halves), whole[7])


def test_held_out_points_come_once_in_order():
    data = PointSet("rings", num_val=100)
    points = [batch["point"] for batch in data.loader("val", 32)]
    assert torch.equal(torch.cat(points), data.arrays("val"))
    picked = data.pick("val", 10, seed=1)
    assert torch.equal(picked["point"], data.arrays("val")[picked["index"]])
    assert len(set(picked["index"].tolist())) == 10


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"name": "moon"}, "data.name"),
        ({"batch_size": 0}, "batch_size"),
        ({"num_val": 0}, "num_val"),
    ],
)
def test_a_wrong_setting_is_named(options, key):
    with pytest.raises(DataError, match=key):
        PointSet(**{"name": "moons"} | options)
    with pytest.raises(DataError, match="split"):
        PointSet("moons").arrays("all")


def test_points_are_read_from_npz_and_csv(tmp_path):
    points = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.savez(tmp_path / "p.npz", points=points)
    np.savetxt(tmp_path / "p.csv", points, delimiter=",")
    for name in ("p.npz", "p.csv"):
        assert torch.equal(read_points(tmp_path / name), torch.from_numpy(points))
    np.savez(tmp_path / "q.npz", images=points)
    np.savez(tmp_path / "r.npz", points=points * np.nan)
    (tmp_path / "s.csv").write_text("a,b\n")
    for name in ("q.npz", "r.npz", "s.csv", "missing.npz", "p.txt"):
        with pytest.raises(DataError, match="input="):
            read_points(tmp_path / name)
