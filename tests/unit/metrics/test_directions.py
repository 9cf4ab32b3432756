"""Which way each metric is better, and that checkpoints agree."""

from importlib.resources import files

import pytest
import yaml

from genlab.callbacks.checkpoint import Checkpoint
from genlab.metrics.directions import HIGHER_IS_BETTER, higher_is_better

FOLDER = files("genlab.conf").joinpath("callbacks")
CALLBACKS = sorted(entry.name for entry in FOLDER.iterdir() if entry.name.endswith(".yaml"))


def test_a_name_is_known_with_its_stage_and_label():
    assert higher_is_better("test/distinct_2") is True
    assert higher_is_better("val/fid_random") is False
    assert higher_is_better("perplexity form=5x8") is False
    assert higher_is_better("bayes_accuracy author") is True
    assert higher_is_better("fid_floor") is None and higher_is_better("psnr") is None


@pytest.mark.parametrize("name", CALLBACKS)
def test_the_checkpoints_of_the_shipped_configs_go_the_right_way(name):
    content = yaml.safe_load(FOLDER.joinpath(name).read_text()) or {}
    checkpoint = content.get("checkpoint") or {}
    monitor = checkpoint.get("monitor")
    if monitor is None:
        return
    metrics = ["bits_per_dim", "nll"] if "${likelihood" in monitor else [monitor]
    for metric in metrics:
        mode = {True: "max", False: "min"}[higher_is_better(metric)]
        assert checkpoint.get("mode", "min") == mode, monitor


def test_a_checkpoint_that_keeps_the_worst_is_refused():
    with pytest.raises(ValueError, match=r"^callbacks\.checkpoint\.mode=min"):
        Checkpoint(monitor="val/diversity")
    with pytest.raises(ValueError, match=r"^callbacks\.checkpoint\.mode=max"):
        Checkpoint(monitor="val/nll", mode="max")
    assert Checkpoint(monitor="val/mine", mode="max").mode == "max"
    assert Checkpoint(monitor="val/accuracy", mode="max").monitor == "val/accuracy"


def test_the_table_has_plain_names():
    assert all("/" not in name and " " not in name for name in HIGHER_IS_BETTER)
