"""Exports compute what the model computes."""

import importlib.util
import json

import pytest
import torch
import yaml

import genlab
from genlab import config, runs
from genlab.export import images as export
from genlab.export.card import model_card
from genlab.systems.base import Derived

SMALL = {
    "ogan": ["net.generator.hidden_dim=8"],
    "dcgan": [
        "net.generator.hidden_dim=8",
        "net/modulation=conditional",
        "model.num_classes=10",
    ],
    "glow": ["net.num_steps=2", "net.hidden_dim=8"],
    "realnvp": ["data=digits8", "net.num_scales=2", "net.num_blocks=1", "net.hidden_dim=8"],
    "iresnet": ["data=digits8", "net.num_blocks=1", "net.hidden_dim=8"],
    "glann": [],
}
VERBS = {
    "ogan": {"decode", "encode"},
    "dcgan": {"decode"},
    "glow": {"decode", "encode"},
    "realnvp": {"decode", "encode"},
    "iresnet": {"encode"},
    "glann": {"decode"},
}


def system_of(composed, model):
    """(settings, system, (C, H, W)) of an untrained model, with noise on its weights."""
    settings = config.resolve(composed(f"model={model}", *SMALL[model]))
    system = config.build_system(settings).eval().requires_grad_(False)
    if isinstance(system, Derived):
        system.refresh()
    generator = torch.Generator().manual_seed(1)
    for value in system.parameters():  # without noise a flow would be the identity
        if value.dim() > 1:
            value.add_(0.02 * torch.randn(value.shape, generator=generator))
    if isinstance(system, Derived):
        system.refresh()
    size = settings["data"]["image_size"]
    return settings, system, (settings["data"]["channels"], size, size)


@pytest.fixture(scope="module", params=list(SMALL))
def model(request, composed):
    return request.param, *system_of(composed, request.param)


def outputs(system, verb, inputs):
    return getattr(system, verb)(*inputs)


def test_every_verb_that_is_one_pass_has_a_graph(model):
    name, _, system, shape = model
    verbs = export.graphs(system, shape)
    assert set(verbs) == VERBS[name]
    for verb, module in verbs.items():
        inputs = module.example(5)
        assert torch.allclose(module(*inputs), outputs(system, verb, inputs), atol=1e-5), verb


@pytest.mark.filterwarnings("ignore")
def test_a_torch_export_program_is_the_model_for_any_batch(model, tmp_path):
    _, _, system, shape = model
    for verb, module in export.graphs(system, shape).items():
        path = export.to_torch_export(module, tmp_path / f"{verb}.pt2")
        program = torch.export.load(path).module()
        for num in (1, 5):
            inputs = module.example(num)
            assert torch.allclose(program(*inputs), outputs(system, verb, inputs), atol=1e-5), verb


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(
    not importlib.util.find_spec("onnxruntime"), reason="onnxruntime is not installed"
)
def test_an_onnx_graph_is_the_model_for_any_batch(model, tmp_path):
    import onnxruntime

    _, _, system, shape = model
    for verb, module in export.graphs(system, shape).items():
        session = onnxruntime.InferenceSession(export.to_onnx(module, tmp_path / f"{verb}.onnx"))
        assert [one.name for one in session.get_inputs()] == list(module.inputs)
        inputs = module.example(7)
        feed = {name: value.numpy() for name, value in zip(module.inputs, inputs, strict=True)}
        error = torch.from_numpy(session.run(None, feed)[0]) - outputs(system, verb, inputs)
        largest = outputs(system, verb, inputs).abs().max().item()
        assert error.abs().max() <= 1e-4 * max(1.0, largest), verb


def test_an_export_is_loaded_like_a_run(model, tmp_path):
    name, settings, system, _ = model
    export.to_safetensors(system, tmp_path / "out", settings)
    again = genlab.load(tmp_path / "out")
    state = again.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in system.state_dict().items())
    if name == "ogan":
        assert torch.equal(again.sample(4, seed=1), system.sample(4, seed=1))
        with pytest.raises(runs.RunError, match="weights=raw"):
            genlab.load(tmp_path / "out", weights="raw")
        (tmp_path / "out" / "model.safetensors").write_bytes(b"no")
        with pytest.raises(runs.RunError, match=r"model\.safetensors"):
            genlab.load(tmp_path / "out")


def test_a_system_of_points_has_no_graph(composed):
    system = config.build_system(config.resolve(composed("model=glow", "data=moons")))
    with pytest.raises(ValueError, match=r"^Flow is a point model"):
        export.graphs(system, (1, 8, 8))


def test_a_model_card_is_in_hugging_faces_form(trained_in, tmp_path, tiny):
    words = [word for word in tiny if not word.startswith("evaluate")]
    words += ["trainer.max_steps=2", "callbacks.grids=null", "evaluate=false"]
    trained_in(tmp_path / "run", "model=ogan", *words)
    entry = {"value": 3.25, "split": "test", "count": 500, "reference": None}
    entry |= {"features": "classifier", "comparable": False}
    entry |= {"weights": "ema", "ckpt": "last", "seed": 0}
    runs.write_text(tmp_path / "run" / "eval" / "metrics.json", json.dumps({"fid": entry}))
    system = genlab.load(tmp_path / "run")
    files = {"model.safetensors": "weights"}
    card = model_card(tmp_path / "run", system, files, licence="MIT", use=["import genlab"])
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "mit" and front["library_name"] == "genlab"
    (result,) = front["model-index"][0]["results"]
    assert result["dataset"]["name"] == "mnist5k" and result["metrics"][0]["value"] == 3.25
    for part in ("train 4250", "not comparable", "genlab train model=ogan", "import genlab"):
        assert part in card, part
    without = model_card(tmp_path / "run", system, {})
    assert "license" not in yaml.safe_load(without.split("---")[1])
