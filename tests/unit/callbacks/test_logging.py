"""metrics.csv, the divergence guard and the seed of each step."""

import csv
import itertools
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from genlab.callbacks.csv_logger import CSVLogger
from genlab.callbacks.divergence import Diverged, DivergenceGuard, check_weights
from genlab.callbacks.reseed import Reseed, step_seed


def rows(path):
    with open(path / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_values_of_one_step_share_a_row_even_if_saved_in_between(tmp_path):
    logger = CSVLogger(str(tmp_path))
    for step in (10, 20):
        logger.log_metrics({"a": step + 0.5}, step)
        logger.save()
        logger.log_metrics({"b": step}, step)
        logger.save()
        assert rows(tmp_path)[-1] == {"step": str(step), "a": str(step + 0.5), "b": str(step)}
    logger.log_metrics({"a": 1}, 30)
    logger.finalize("success")
    assert [row["step"] for row in rows(tmp_path)] == ["10", "20", "30"]
    assert rows(tmp_path)[2]["b"] == ""


def test_a_resume_drops_later_rows_and_a_cut_line(tmp_path):
    logger = CSVLogger(str(tmp_path))
    for step in (10, 20, 30):
        logger.log_metrics({"a": step}, step)
    logger.save()
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write("4")
    again = CSVLogger(str(tmp_path))
    again.rewind(20)
    assert [row["step"] for row in rows(tmp_path)] == ["10", "20"]
    again.log_metrics({"a": 21, "new": 1}, 21)
    again.finalize("success")
    assert [row["step"] for row in rows(tmp_path)] == ["10", "20", "21"]
    assert rows(tmp_path)[0]["new"] == ""


def test_the_guard_stops_at_nan_and_inf():
    guard, trainer = DivergenceGuard(), SimpleNamespace(global_step=7)
    guard.on_train_batch_end(trainer, None, {"loss": torch.tensor(1.0)}, None, 0)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(Diverged, match=r"^step 7: .*model\.generator_lr="):
            guard.on_train_batch_end(trainer, None, {"loss": torch.tensor(bad)}, None, 0)
    network = nn.Linear(2, 2)
    check_weights(network, 3)
    network.bias.data[0] = float("nan")
    with pytest.raises(Diverged, match=r"^step 3: bias "):
        check_weights(network, 3)


def test_randomness_is_a_function_of_seed_step_and_rank():
    seeds = {step_seed(*numbers) for numbers in itertools.product(range(5), repeat=3)}
    assert len(seeds) == 125
    fit_loop = SimpleNamespace(epoch_loop=SimpleNamespace(total_batch_idx=12))
    trainer = SimpleNamespace(fit_loop=fit_loop, global_rank=0)
    system = SimpleNamespace(device=torch.device("cpu"))
    draws = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        Reseed(5).on_train_batch_start(trainer, system, None, 0)
        draws.append(torch.randn(3))
    assert torch.equal(*draws)
