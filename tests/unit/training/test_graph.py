"""Captured steps without a GPU: every step is captured anew, and capturing it runs it."""

import pytest
import torch

import genlab.training.trainer
from genlab.runs import read_checkpoint
from genlab.training import graph

RECIPES = {
    "ogan": ["model=ogan", "net.generator.hidden_dim=8"],
    "alternating": ["model=dcgan", "net.generator.hidden_dim=8", "model.update=alternating"],
    "lazy_penalty": [
        "model=dcgan",
        "net.generator.hidden_dim=8",
        "penalty=r1",
        "penalty.every=2",
    ],
    "glann": ["model=glann", "model.glo_steps=3"],
    "sngan": ["model=sngan", "data.image_size=32", "net.generator.hidden_dim=8"],
    "glow": [
        "model=glow",
        "net.num_steps=2",
        "net.hidden_dim=8",
        "model.num_warmup_steps=2",
        "model.num_decay_steps=6",
    ],
}


class Immediate(graph.GraphStrategy):
    """Captures each step by running it once."""

    def __init__(self):
        super().__init__("cpu")

    def make_capturable(self, optimizer):
        pass  # not needed on the CPU

    def record(self, function):
        function()
        self.steps = Forgetful()
        return lambda: None

    def run_on(self, function):
        return function()


class Forgetful(dict):
    """Steps of which none is found again."""

    def __contains__(self, key):
        return False


def close(one: dict, other: dict) -> None:
    """Two checkpoints are equal, up to the float32 rounding of learning rates in a graph."""
    assert one["global_step"] == other["global_step"]
    assert one["lr_schedulers"] == other["lr_schedulers"]
    for part in ("state_dict", "ema"):
        for name, value in one.get(part, {}).items():
            options = {"rtol": 1e-4, "atol": 1e-6, "msg": lambda m, n=name: f"{n}: {m}"}
            torch.testing.assert_close(value, other[part][name], **options)
    for a, b in zip(one["optimizer_states"], other["optimizer_states"], strict=True):
        assert a["param_groups"] == b["param_groups"]


@pytest.mark.parametrize("name", RECIPES)
def test_captured_steps_are_the_plain_ones(trained_in, tiny, tmp_path, name, monkeypatch):
    monkeypatch.setattr(genlab.training.trainer, "_graph_strategy", lambda options: Immediate())
    few = [w for w in tiny if "hidden_dim" not in w and ("quality" not in w or name != "glow")]
    for kind in ("plain", "graph"):
        words = [*RECIPES[name], *few, "trainer.precision=64-true"]
        trained_in(tmp_path / kind, *words, f"trainer.graph={kind == 'graph'}")
    runs = [tmp_path / kind for kind in ("plain", "graph")]
    close(*(read_checkpoint(run / "checkpoints" / "last.ckpt") for run in runs))
    plain, graphed = ((run / "metrics.csv").read_text().splitlines() for run in runs)
    assert len(plain) == len(graphed) and plain[0] == graphed[0]
    columns = plain[0].split(",")
    for one, other in zip(plain, graphed, strict=True):
        for column, a, b in zip(columns, one.split(","), other.split(","), strict=True):
            if column != "images_per_second" and a != b:
                assert float(a) == pytest.approx(float(b), rel=1e-2), column


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_graph_needs_a_gpu(trained_in, tiny, tmp_path):
    with pytest.raises(ValueError, match=r"^trainer\.graph=true: .*CUDA GPU"):
        trained_in(tmp_path, "model=ogan", *tiny, "trainer.graph=true")
