"""The progress line: speed, time left and losses."""

from types import SimpleNamespace

import pytest

from genlab.callbacks.progress import RunProgress


def line(capsys, logged: dict[str, float], seconds_a_step: float, monkeypatch) -> str:
    """What is printed after the second of ten steps, of 8 images each."""
    clock = iter(seconds_a_step * step for step in range(3))
    monkeypatch.setattr("genlab.callbacks.progress.time.monotonic", lambda: next(clock))
    progress, system = (
        RunProgress(every_seconds=2 * seconds_a_step),
        SimpleNamespace(modality="image"),
    )
    counts = {
        "max_steps": 10,
        "max_epochs": None,
        "world_size": 1,
        "log_every_n_steps": 50,
        "is_global_zero": True,
    }
    trainer = SimpleNamespace(global_step=0, logged_metrics=logged, **counts)
    progress.on_train_start(trainer, system)
    for trainer.global_step in (1, 2):
        progress.on_train_batch_end(trainer, system, None, {"image": range(8)}, 0)
    return capsys.readouterr().err


@pytest.mark.parametrize(("seconds", "rate", "left"), [(0.1, "80", "1"), (64.0, "0.12", "512")])
def test_the_speed_of_slow_steps_has_two_digits(capsys, monkeypatch, seconds, rate, left):
    shown = line(capsys, {"train/loss": 0.25}, seconds, monkeypatch)
    assert shown == f"step 2/10  {rate} images/s  {left} s left  loss 0.25\n"


def test_groups_of_values_are_left_out_of_the_line(capsys, monkeypatch):
    logged = {
        "train/bits_per_dim": 1.5,
        "val/bits_per_dim": 2.0,
        "train/log_det/block_00_mean": 0.1,
    }
    assert line(capsys, logged, 1.0, monkeypatch).endswith("left  bits_per_dim 1.5\n")
