"""On a CUDA device: replayed steps equal eager steps."""

import pytest
import torch

from genlab.runs import read_checkpoint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]

COMMON = ["data=digits", "data.batch_size=16", "trainer=gpu", "trainer.precision=64-true"]
COMMON += ["trainer.max_steps=12", "trainer.val_check_interval=6", "trainer.log_every_n_steps=2"]
COMMON += ["callbacks.grids=null", "evaluate=false", "explorer=false"]
GAN = ["callbacks.quality=null", "net.generator.hidden_dim=8"]
GLO = ["callbacks.quality=null", "data.image_size=32"]
GLO += ["net.generator.hidden_dim=4", "net.generator.dense_dim=32"]
TEXT = ["net=bert_tiny", "net.num_layers=2", "net.dropout=0", "net.attention_dropout=0"]
TEXT += ["net.hidden_dim=16", "net.intermediate_dim=32"]
TEXT += ["data.vocab_size=200"]
FEW = ["data.num_train=400", "data.num_val=16", "data.num_test=16"]
PRETRAIN = [*TEXT, "data=fact_texts", "data.num_documents=600", "data.max_length=32"]
PRETRAIN += ["model.num_warmup_steps=2"]
RECIPES = {
    "ogan": ["model=ogan", *GAN],
    "alternating": [
        "model=dcgan",
        "model.update=alternating",
        "model.num_discriminator_steps=2",
        *GAN,
    ],
    "lazy_penalty": [
        "model=dcgan",
        "penalty=r1",
        "penalty.every=3",
        "trainer.gradient_clip_val=1",
        *GAN,
    ],
    "rmsprop": ["model=dcgan", "optimizer=rmsprop", *GAN],
    "sngan": [
        "model=sngan",
        # Powers of two: in a graph rates are float32, and rounding errors would grow here.
        "model.generator_lr=0.000244140625",
        "model.discriminator_lr=0.000244140625",
        "data.image_size=32",
        "callbacks.quality=null",
        "net.generator.hidden_dim=8",
        "net.discriminator.hidden_dim=8",
    ],
    "glo": ["model=glo", *GLO],
    "glo_reset": ["model=glo", "model.reset_optimizer=true", "data.batch_size=512", *GLO],
    "glann": ["model=glann", "model.glo_steps=6", *GLO],
    "glow": [
        "model=glow",
        "net.num_steps=2",
        "net.hidden_dim=8",
        "model.num_warmup_steps=2",
        "model.num_decay_steps=12",
    ],
    "iresnet": [
        "model=iresnet",
        "net.num_blocks=2",
        "net.hidden_dim=8",
        "model.num_warmup_steps=4",
    ],
    "points": [
        "model=iresnet",
        "net=iresnet_points",
        "data=moons",
        "net.num_blocks=2",
        "net.hidden_dim=16",
    ],
    "pretrain_mlm": ["model=pretrain_mlm", *PRETRAIN],
    "pretrain_unilm": ["model=pretrain_unilm", *PRETRAIN],
    "unilm_qa": ["model=unilm_qa", *TEXT, "data=facts", "data.pad_to_multiple_of=64", *FEW],
}


def close(one: dict, other: dict) -> None:
    """Two checkpoints are equal, weights and averages up to rounding."""
    assert one["global_step"] == other["global_step"]
    assert one["lr_schedulers"] == other["lr_schedulers"]
    for part in ("state_dict", "ema"):
        for name, value in one.get(part, {}).items():
            if name.endswith((".u", ".v", ".basis")):
                continue  # singular vectors, whose sign is arbitrary
            value = value.double()
            error = (value - other[part][name].double()).norm()
            assert error <= 1e-4 * value.norm() + 1e-6, (part, name, error)
    for a, b in zip(one["optimizer_states"], other["optimizer_states"], strict=True):
        assert a["param_groups"] == b["param_groups"]
        for key, state in a["state"].items():
            assert float(state["step"]) == float(b["state"][key]["step"])


def last(run):
    return read_checkpoint(run / "checkpoints" / "last.ckpt")


def rows(path) -> list[str]:
    return path.read_text().splitlines()


@pytest.mark.parametrize("name", RECIPES)
def test_replayed_steps_are_the_eager_ones(trained_in, tmp_path, name):
    words = [*COMMON, *RECIPES[name]]
    if any(word.startswith("data=") for word in RECIPES[name]):
        words.remove("data=digits")
    if TEXT[0] in words:
        words.remove("callbacks.grids=null")
    for kind, more in {"eager": [], "graph": ["trainer.graph=true"]}.items():
        trained_in(tmp_path / kind, *words, *more)
    close(last(tmp_path / "eager"), last(tmp_path / "graph"))
    eager, graph = (rows(tmp_path / kind / "metrics.csv") for kind in ("eager", "graph"))
    assert eager[0] == graph[0] and len(eager) == len(graph)
    columns = eager[0].split(",")
    for a, b in zip(eager[1:], graph[1:], strict=True):
        for column, x, y in zip(columns, a.split(","), b.split(","), strict=True):
            if x and not column.startswith("images_per") and "fid" not in column:
                assert float(x) == pytest.approx(float(y), rel=1e-4, abs=1e-5), column


def test_a_run_resumes_with_a_graph_and_without_one(trained_in, tmp_path):
    words = [*COMMON, *RECIPES["ogan"]]
    trained_in(tmp_path / "whole", *words, "trainer.graph=true")
    trained_in(tmp_path / "parts", *words, "trainer.graph=true", "trainer.max_steps=6")
    trained_in(tmp_path / "parts", f"run={tmp_path / 'parts'}", "trainer.max_steps=9")
    more = ["trainer.max_steps=12", "trainer.graph=false"]
    trained_in(tmp_path / "parts", f"run={tmp_path / 'parts'}", *more)
    close(last(tmp_path / "whole"), last(tmp_path / "parts"))


@pytest.mark.parametrize("name", ["ogan", "glow"])
def test_compiled_networks_take_the_same_steps(trained_in, tmp_path, name):
    words = [*COMMON, *RECIPES[name], "trainer.max_steps=6"]
    trained_in(tmp_path / "eager", *words)
    trained_in(tmp_path / "compiled", *words, "trainer.graph=true", "trainer.compile=true")
    close(last(tmp_path / "eager"), last(tmp_path / "compiled"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["model=residual_flow", "net.num_blocks=1", "net.hidden_dim=8"], "net.log_det"),
        (["model=imle", "callbacks.quality=null"], "IMLE"),
        (["model=ogan", "trainer.accumulate_grad_batches=2", *GAN], "accumulate_grad_batches"),
        (["model=ogan", "trainer.detect_anomaly=true", *GAN], "detect_anomaly"),
    ],
)
def test_settings_that_rule_out_capture_are_named(trained_in, tmp_path, words, says):
    with pytest.raises(ValueError, match=says):
        trained_in(tmp_path, *COMMON, *words, "trainer.graph=true")
