"""The search for nearest neighbours against a float64 search over all pairs."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from genlab.metrics import neighbours
from genlab.metrics.neighbours import nearest


def brute(points, others, num):
    """Distances and rows by float64 differences; of equals the lowest row."""
    x, y = points.double().numpy(), others.double().numpy()
    squares = np.stack([np.square(row - y).sum(1) for row in x])
    order = np.argsort(squares, axis=1, kind="stable")[:, :num]
    return np.sqrt(np.take_along_axis(squares, order, 1)), order


def assert_same(points, others, num, **options):
    distances, rows = brute(points, others, num)
    found = nearest(points, others, num, **options)
    assert found.rows.tolist() == rows.tolist()
    assert found.distances.dtype == torch.float64
    np.testing.assert_allclose(found.distances.numpy(), distances, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
# all at once, one point at a time, several blocks
@pytest.mark.parametrize("budget", [None, 1 << 12, 1 << 17])
@pytest.mark.parametrize("num", [1, 4])
# more than a block's columns; large groups; more than a stripe of blocks
@pytest.mark.parametrize(
    ("count", "dim"), [(1, 3), (5, 7), (700, 16), (9001, 64), (9001, 8), (40_000, 8)]
)
def test_it_is_the_search_over_all_pairs(count, dim, num, budget, dtype):
    if num > count:
        return
    others = normalize(torch.randn(count, dim, dtype=dtype))
    assert_same(normalize(torch.randn(23, dim, dtype=dtype)), others, num, budget=budget)


@pytest.mark.parametrize("num", [1, 3])
def test_ties_go_to_the_lowest_row(num):
    # each nine times: more than the candidates that are kept
    others = torch.randn(40, 8).repeat(9, 1)[torch.randperm(360)]
    assert_same(others[:50], others, num)
    same = torch.ones(300, 8)
    assert nearest(same[:2], same, num).rows.tolist() == [list(range(num))] * 2


@pytest.mark.parametrize("offset", [0.0, 300.0, 1e4])
def test_what_the_rounding_of_a_matrix_product_hides_is_found(offset):
    points = torch.randn(30, 16) + offset  # |x|^2 is millions of times the distances that count
    others = points.repeat(20, 1) + 0.01 * torch.randn(600, 16)
    assert_same(points, others, 2)


@pytest.mark.parametrize(("count", "dim"), [(5000, 64), (40_000, 8)])
def test_few_points_need_the_search_over_all(count, dim, monkeypatch):
    counted = []
    squares = neighbours._squares

    def counting(*given):
        counted.append(1)
        return squares(*given)

    monkeypatch.setattr(neighbours, "_squares", counting)
    assert_same(normalize(torch.randn(300, dim)), normalize(torch.randn(count, dim)), 1)
    assert len(counted) < 15


def test_a_loose_setting_of_matrix_products_changes_nothing():
    points, others = torch.randn(50, 32), torch.randn(4000, 32)
    expected = nearest(points, others).rows
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(nearest(points, others).rows, expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_the_memory_of_a_block_is_bounded(monkeypatch):
    sizes = []
    addmm = torch.addmm

    def measured(*given, **options):
        out = addmm(*given, **options)
        sizes.append(out.nbytes)
        return out

    monkeypatch.setattr(torch, "addmm", measured)
    assert_same(torch.randn(300, 8), torch.randn(2000, 8), 1, budget=100_000)
    assert max(sizes) <= 100_000 and len(sizes) > 20


def test_more_neighbours_than_points_are_refused():
    with pytest.raises(ValueError, match="num=3"):
        nearest(torch.zeros(2, 2), torch.zeros(2, 2), 3)
    assert nearest(torch.zeros(0, 2), torch.zeros(2, 2)).rows.shape == (0, 1)
