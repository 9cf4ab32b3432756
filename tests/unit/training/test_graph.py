"""How a step is handed to a graph, without a device: each is captured anew, and capturing runs it."""

import pytest
import torch

import genlab.training.trainer
from genlab.runs import read_checkpoint
from genlab.training import graph

RECIPES = {
    "ogan": ["model=ogan", "net.generator.width_multiple=1"],
    "alternating": ["model=dcgan", "net.generator.width_multiple=1", "model.update=alternating"],
    "lazy_penalty": [
        "model=dcgan",
        "net.generator.width_multiple=1",
        "penalty=r1",
        "penalty.every=2",
    ],
    "glann": ["model=glann", "model.glo_steps=3"],
    "sngan": ["model=sngan", "data.image_size=32", "net.generator.dim=8"],
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
        pass  # which the CPU does not need

    def record(self, function):
        function()
        self.steps = Forgetful()
        return lambda: None

    def aside(self, function):
        return function()


class Forgetful(dict):
    def __contains__(self, key):
        return False


def close(one: dict, other: dict) -> None:
    """The same but for the learning rates' last digits, which a graph reads as float32."""
    assert (
        one["global_step"] == other["global_step"]
        and one["lr_schedulers"] == other["lr_schedulers"]
    )
    for part in ("state_dict", "ema"):
        for name, value in one.get(part, {}).items():
            torch.testing.assert_close(
                value, other[part][name], rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
            )
    for a, b in zip(one["optimizer_states"], other["optimizer_states"], strict=True):
        assert a["param_groups"] == b["param_groups"]


@pytest.mark.parametrize("name", RECIPES)
def test_captured_steps_are_the_plain_ones(trained_in, tiny, tmp_path, name, monkeypatch):
    monkeypatch.setattr(genlab.training.trainer, "_graph_strategy", lambda options: Immediate())
    few = [w for w in tiny if "width" not in w and ("quality" not in w or name != "glow")]
    for kind in ("plain", "graph"):
        trained_in(
            tmp_path / kind,
            *RECIPES[name],
            *few,
            "trainer.precision=64-true",
            f"trainer.graph={kind == 'graph'}",
        )
    close(
        *(
            read_checkpoint(tmp_path / kind / "checkpoints" / "last.ckpt")
            for kind in ("plain", "graph")
        )
    )
    plain, graphed = (
        (tmp_path / kind / "metrics.csv").read_text().splitlines() for kind in ("plain", "graph")
    )
    assert len(plain) == len(graphed) and plain[0] == graphed[0]
    rate = plain[0].split(",").index("images_per_second")
    for one, other in zip(plain, graphed, strict=True):
        for i, (a, b) in enumerate(zip(one.split(","), other.split(","), strict=True)):
            assert i == rate or a == b or float(a) == pytest.approx(float(b), rel=1e-2), plain[
                0
            ].split(",")[i]


def test_a_graph_wants_a_gpu(trained_in, tiny, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match=r"trainer\.graph=true: needs a CUDA GPU"):
        trained_in(tmp_path, "model=ogan", *tiny, "trainer.graph=true")
