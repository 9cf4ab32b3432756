"""Learning rates are functions of the step, to the last bit those of earlier versions."""

import math

import pytest

from genlab.training.schedules import check_decay, halving, warmup_decay


def flow(step, warmup, decay):
    """The rate of flows before schedules had a module."""
    if step < warmup:
        return (step + 1) / warmup
    if decay is None:
        return 1.0
    done = min((step - warmup) / (decay - warmup), 1.0)
    return 0.5 * (1 + math.cos(math.pi * done))


def text(step, warmup, decay, floor, stride=1):
    """That of text models, in steps or in tokens."""
    done = step * stride
    if done < warmup:
        return (done + stride) / (warmup + stride)
    return 1.0 if decay is None else max((decay - done) / (decay - warmup), floor)


@pytest.mark.parametrize(("warmup", "decay"), [(0, None), (0, 9), (7, None), (7, 8), (7, 30)])
def test_every_rate_is_what_it_was(warmup, decay):
    for step in range(40):
        assert warmup_decay(step, warmup, decay, "cosine") == flow(step, warmup, decay)
        seq2seq = warmup_decay(step, warmup, decay, "linear", floor=0.01, after=1)
        assert seq2seq == text(step, warmup, decay, 0.01)
        tokens = (warmup * 96, None if decay is None else decay * 96)
        pretraining = warmup_decay(step * 100, *tokens, "linear", stride=100, after=100)
        assert pretraining == text(step, *tokens, 0.0, 100)


def test_a_rate_is_halved_after_so_many_passes():
    assert [halving(passes, 2) for passes in range(5)] == [1, 1, 0.5, 0.5, 0.25]
    assert halving(10, 0) == 1


def test_a_decay_ends_after_the_warmup():
    check_decay(4, None)
    check_decay(4, 5)
    with pytest.raises(ValueError, match=r"^model\.num_decay_steps=4"):
        check_decay(4, 4)
