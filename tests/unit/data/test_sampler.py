"""The order of training: a function of (seed, epoch, position), on any number of ranks."""

import itertools

import pytest
import torch

from genlab.data import sampler as module
from genlab.data.sampler import StepSampler, in_order
from genlab.errors import DataError


@pytest.fixture(autouse=True, params=["a table", "computed"])
def how(request, monkeypatch):
    """All that is promised of an order holds whether it is kept or, of a large set, computed."""
    if request.param == "computed":
        monkeypatch.setattr(module, "TABLE", 0)
    return request.param


def draws(sampler, position=0):
    """The epoch's worth of draws from a position on, as lists of (row, flipped) pairs."""
    sampler.position = position
    found = []
    for draw in sampler:
        flips = [False] * len(draw.index) if draw.flip is None else draw.flip.tolist()
        found.append(list(zip(draw.index.tolist(), flips, strict=True)))
    return found


def rows(batches):
    return [row for batch in batches for row, _ in batch]


def test_the_order_is_a_function_of_seed_epoch_and_position_alone():
    first = [draws(StepSampler(50, 4, seed=3, flip=True), step) for step in range(30)]
    torch.manual_seed(7)
    sampler = StepSampler(50, 4, seed=3, flip=True)
    assert [draws(sampler, step) for step in reversed(range(30))] == first[::-1]


def test_the_order_is_the_same_on_every_machine_and_version(how):
    expected = {"a table": [6, 1, 3, 2, 0, 5, 7, 4], "computed": [2, 7, 0, 1, 3, 5, 6, 4]}
    assert rows(draws(StepSampler(8, 2, seed=1))) == expected[how]


@pytest.mark.parametrize("position", range(0, 26, 5))
def test_resuming_at_any_step_draws_the_same_tail(position):
    sampler = StepSampler(50, 4, seed=3, flip=True)
    epochs = [draws(sampler, epoch * len(sampler)) for epoch in range(4)]
    whole = list(itertools.chain(*epochs))
    resumed = draws(StepSampler(50, 4, seed=3, flip=True), position)
    assert resumed == whole[position : position + len(sampler)]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_the_ranks_together_draw_exactly_the_global_batch_of_one_process(world_size):
    one = StepSampler(50, 12, seed=5, flip=True)
    ranks = [
        StepSampler(50, 12 // world_size, seed=5, flip=True, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for position in (0, 3, 6):
        parts = zip(*(draws(rank, position) for rank in ranks), strict=True)
        assert [list(itertools.chain(*part)) for part in parts] == draws(one, position)


@pytest.mark.parametrize(("count", "batch_size"), [(48, 4), (50, 4), (7, 7), (5, 1)])
def test_every_epoch_is_a_permutation_of_full_batches(count, batch_size):
    sampler = StepSampler(count, batch_size, seed=0)
    epochs = [draws(sampler, epoch * len(sampler)) for epoch in range(3)]
    for epoch in epochs:
        assert len(epoch) == len(sampler) == count // batch_size
        assert {len(batch) for batch in epoch} == {batch_size}
        assert len(set(rows(epoch))) == len(sampler) * batch_size
        assert set(rows(epoch)) <= set(range(count))
    assert count == batch_size or epochs[0] != epochs[1] != epochs[2]


def test_no_row_is_left_out_for_good():
    sampler = StepSampler(10, 4, seed=0)
    seen = {row for position in (0, 2, 4) for row in rows(draws(sampler, position))}
    assert seen == set(range(10))


def test_another_seed_gives_another_order():
    assert len({tuple(rows(draws(StepSampler(50, 4, seed=seed)))) for seed in range(20)}) == 20


def test_half_of_the_rows_are_flipped_and_others_in_each_epoch():
    sampler = StepSampler(4000, 40, seed=0, flip=True)
    first, second = (
        {row for batch in draws(sampler, at) for row, flip in batch if flip}
        for at in (0, len(sampler))
    )
    assert 1900 < len(first) < 2100 and 900 < len(first & second) < 1100


def test_flips_do_not_change_the_order_and_are_absent_unless_asked_for():
    flipped, plain = StepSampler(50, 4, seed=3, flip=True), StepSampler(50, 4, seed=3)
    assert rows(draws(flipped)) == rows(draws(plain))
    assert all(draw.flip is None for draw in plain)


@pytest.mark.parametrize(("count", "batch_size", "world_size"), [(7, 8, 1), (7, 4, 2), (0, 1, 1)])
def test_a_split_smaller_than_a_global_batch_is_refused_by_key(count, batch_size, world_size):
    with pytest.raises(DataError, match=rf"data\.batch_size={batch_size} "):
        StepSampler(count, batch_size, world_size=world_size)


@pytest.mark.parametrize("count", [0, 1, 7, 12])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_in_order_covers_every_row_once_over_the_ranks(count, world_size):
    parts = [in_order(count, 2, rank, world_size) for rank in range(world_size)]
    found = [[row for draw in part for row in draw.index.tolist()] for part in parts]
    assert all(part == sorted(part) for part in found)
    assert sorted(itertools.chain(*found)) == list(range(count))
    assert all(0 < len(draw.index) <= 2 and draw.flip is None for part in parts for draw in part)
