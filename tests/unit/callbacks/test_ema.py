"""The moving average against an explicit sum, through validation and through checkpoints."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from genlab.callbacks.ema import EMA, averaged_weights


class System(nn.Module):
    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        self.discriminator = nn.Linear(3, 1)


def trainer(ema, accumulate=1):
    return SimpleNamespace(callbacks=[ema], world_size=1, accumulate_grad_batches=accumulate)


def drive(ema, system, values, batch=10, accumulate=1):
    """Sets every weight to each of `values` in turn, a step each."""
    driver = trainer(ema, accumulate)
    ema.on_fit_start(driver, system)
    for i, value in enumerate(values):
        with torch.no_grad():
            for tensor in system.state_dict().values():
                tensor.fill_(value)
        ema.on_train_batch_end(driver, system, None, {"image": torch.zeros(batch, 1)}, i)
    return driver


def test_the_average_halves_its_memory_every_half_life_of_images():
    ema, system = EMA(half_life=20, modules=["generator"], ramp_up=None), System()
    with torch.no_grad():
        for tensor in system.state_dict().values():
            tensor.fill_(1)
    drive(ema, system, [0.0] * 6)  # 60 images: three half-lives
    for name, value in ema.average.items():
        expected = torch.tensor(0 if "num_batches" in name else 0.5**3)
        torch.testing.assert_close(value, expected.to(value.dtype).expand_as(value))
    assert {name.split(".")[0] for name in ema.average} == {"generator"}
    assert any("running_mean" in name for name in ema.average)


def test_the_average_with_ramp_up_is_the_explicit_sum():
    ema, system = EMA(half_life=1000, modules=["generator"], ramp_up=0.5), System()
    values = [3.0, -1.0, 2.0, 7.0]
    start = system.generator[0].weight.detach().clone()
    drive(ema, system, values)
    expected = start
    seen = 0
    for value in values:
        seen += 10
        decay = 0.5 ** (10 / min(1000, 0.5 * seen))
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(ema.average["generator.0.weight"], expected)


def test_an_accumulated_step_counts_all_its_images_once():
    once, twice = EMA(40, ["generator"], None), EMA(40, ["generator"], None)
    torch.manual_seed(0)
    one = System()
    other = System()
    other.load_state_dict(one.state_dict())
    drive(once, one, [1.0, 2.0], batch=20)
    drive(twice, other, [9.0, 1.0, 9.0, 2.0], batch=10, accumulate=2)
    assert once.images_seen == twice.images_seen == 40
    for name in once.average:
        torch.testing.assert_close(once.average[name], twice.average[name])


def test_averaged_weights_are_swapped_in_and_out():
    ema, system = EMA(20, ["generator"], None), System()
    driver = drive(ema, system, [1.0, 5.0])
    raw = {name: value.clone() for name, value in system.state_dict().items()}
    average = {name: value.clone() for name, value in ema.average.items()}
    with averaged_weights(driver, system):
        assert not system.generator.training
        for name, value in average.items():
            assert torch.equal(system.state_dict()[name], value)
        with pytest.raises(AssertionError):
            ema.on_save_checkpoint(driver, system, {})
    assert system.generator.training
    assert all(torch.equal(system.state_dict()[name], value) for name, value in raw.items())
    saved = {}
    ema.on_save_checkpoint(driver, system, saved)
    again = EMA(20, ["generator"], None)
    again.on_load_checkpoint(driver, system, saved)
    again.load_state_dict(ema.state_dict())
    again.on_fit_start(driver, system)
    assert again.images_seen == 20
    assert all(torch.equal(again.average[name], value) for name, value in average.items())


def test_an_unknown_module_is_named():
    with pytest.raises(
        ValueError,
        match=r"^callbacks\.ema\.modules=\['genrator'\]: .*generator, discriminator",
    ):
        drive(EMA(20, ["genrator"]), System(), [1.0])
