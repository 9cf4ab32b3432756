"""What every recipe of conf/model promises."""

import json
import math
import shlex

import pytest
import torch

import genlab
from genlab import config
from genlab.commands import eval as evaluation
from genlab.commands import export
from genlab.commands.closing import next_commands
from genlab.config.frozen import options
from genlab.data.text.records import Example
from genlab.runs import read_checkpoint
from genlab.systems.base import (
    Classifies,
    Encodes,
    HasLikelihood,
    HasStoredCodes,
    Interpolates,
    Invertible,
    LabelEncoder,
    Samples,
)
from genlab.systems.text.writing import Decoding

MODELS = options("model")

# What makes the networks of flows tiny
BLOCKS = ["net.num_blocks=1", "net.hidden_dim=8"]
FLOWS = {
    "glow": ["net.num_steps=2", "net.hidden_dim=8"],
    "realnvp": BLOCKS,
    "iresnet": BLOCKS,
    "residual_flow": [*BLOCKS, "net.dense_blocks=1", "net.dense_width=8"],
    "iresnet_hybrid": BLOCKS,
    "iresnet_classifier": BLOCKS,
}
# Channels of the other image recipes, if not 4. With fewer than 16, PGGAN's pixel norm enlarges the
# rounding differences between batch sizes.
HIDDEN_DIM = {"dcgan": 8, "imle": 8, "ogan": 8, "pggan": 16, "selfmod": 8, "stylegan": 8}
CONDITIONAL = ("cln_lm", "cln_unilm", "cln_caption")
PRETRAINED = ("pretrain_mlm", "pretrain_gpt", "pretrain_unilm")
TEXTS = ("unilm", "unilm_qa", *CONDITIONAL, *PRETRAINED)
# What makes text models and their data tiny
TINY_BERT = ["net=bert_tiny", "net.hidden_dim=16", "net.num_layers=2", "net.intermediate_dim=32"]
HELD_OUT = ["data.num_val=5", "data.num_test=6"]
PACKED = ["data.field=source", "data.max_length=24", "data.val_fraction=0.1"]
PACKED += ["data.test_fraction=0.2", "model.num_warmup_steps=2", "model.num_decay_steps=10"]


@pytest.fixture(scope="session")
def small(composed, tiny, tmp_path_factory):
    """small(model): the words that train a tiny version of a recipe for six steps."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = []
    for i in range(80):
        row = {"source": f"{i} and {i + 1} are even and odd", "target": f"{i}"}
        rows.append(row | {"label": "even" if i % 4 < 2 else "odd"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    general = [word for word in tiny if not word.startswith("net.generator")]
    without_quality = [word for word in general if "callbacks.quality" not in word]
    without_pictures = [word for word in without_quality if "callbacks.grids" not in word]

    def text_words(model: str) -> list[str]:
        words = [*without_pictures, *TINY_BERT, "data.vocab_size=200"]
        if model in ("unilm", "cln_unilm", *PRETRAINED):
            words += [f"data.path={path}"]
        if model in PRETRAINED:
            return [*words, *PACKED]
        words += ["callbacks.texts.num=5"]
        words += ["data.num_train=80"] if model == "unilm_qa" else []
        return words if model == "cln_caption" else [*words, *HELD_OUT]

    def make(model: str) -> list[str]:
        if model in FLOWS:
            words = [*without_quality, *FLOWS[model]]
        elif model in TEXTS:
            words = text_words(model)
        else:
            words = [*general, f"net.generator.hidden_dim={HIDDEN_DIM.get(model, 4)}"]
            words += ["model.glo_steps=3"] if model == "glann" else []
        return [f"model={model}", *words]

    return make


@pytest.fixture(scope="module", params=MODELS)
def run(request, trained_in, small, tmp_path_factory):
    """A finished run of six steps."""
    run_dir = tmp_path_factory.mktemp(request.param) / "run"
    trained_in(run_dir, *small(request.param))
    return run_dir


def without_gradient(system) -> set[str]:
    """Parameters of levels that are not yet grown, or behind an attention with gain 0."""
    prefixes = []
    for name, module in system.named_modules():
        if hasattr(module, "set_level") or type(module).__name__ == "SelfAttention":
            prefixes.append(f"{name}.")
    names = {name for name, _ in system.named_parameters()}
    return {name for name in names if name.startswith(tuple(prefixes))}


def model_of(run_dir) -> str:
    return json.loads((run_dir / "manifest.json").read_text())["model"]


def skip_texts(run_dir) -> None:
    if model_of(run_dir) in TEXTS:
        pytest.skip("a text model")


def checkpoint(run_dir):
    return read_checkpoint(run_dir / "checkpoints" / "last.ckpt")


def test_a_run_of_six_steps_finishes_and_logs_each(run):
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["steps"] == 6
    assert manifest["images_seen"] == 6 * 16
    assert checkpoint(run)["global_step"] == 6
    rows = (run / "metrics.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == [1, 2, 3, 4, 5, 6]


def test_every_parameter_moves(run):
    torch.manual_seed(json.loads((run / "manifest.json").read_text())["seed"])
    start = config.build_system(config.read_frozen(run))
    end = genlab.load(run, weights="raw")
    other = genlab.load(run, weights="ema")
    unused = without_gradient(end)
    parameters = (model.named_parameters() for model in (start, end, other))
    for (name, before), (_, raw), (_, ema) in zip(*parameters, strict=True):
        assert not torch.equal(before, raw) or name in unused, name
        assert raw.isfinite().all(), name
        assert ema.isfinite().all(), name


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    run, trained_in, small, tmp_path, same_weights
):
    model = model_of(run)
    trained_in(tmp_path / "run", *small(model), "trainer.max_steps=4")
    trained_in(tmp_path / "run", f"run={tmp_path / 'run'}", "trainer.max_steps=6")
    same_weights(checkpoint(tmp_path / "run"), checkpoint(run))


def test_the_commands_it_suggests_work(run, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for suggested in next_commands(str(run), genlab.load(run), 6):
        _, name, *words = shlex.split(suggested.replace("...", "a"))
        if name in ("sample", "encode"):  # eval and train have tests of their own
            command(name, tmp_path / name, *words)


def shape(run) -> tuple[int, int, int]:
    data = config.read_frozen(run)["data"]
    return data["channels"], data["image_size"], data["image_size"]


def some_images(run, model):
    """Five samples, or five test images if the model does not sample."""
    if isinstance(model, Samples):
        return model.sample(5, seed=3)
    return config.build(config.read_frozen(run)["data"]).pick("test", 5)["image"]


def test_samples_have_the_shape_and_range_of_the_data(run):
    skip_texts(run)
    model = genlab.load(run)
    if not isinstance(model, Samples):
        pytest.skip("does not sample")
    images = model.sample(5, seed=3)
    assert images.shape == (5, *shape(run))
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1
    assert images.std() > 0
    assert torch.equal(images, model.sample(5, seed=3))
    assert not torch.equal(images, model.sample(5, seed=4))
    # An image does not depend on the others of its batch.
    assert torch.allclose(model.sample(3, seed=3), images[:3], atol=1e-5)


def test_codes_have_the_shape_and_norm_of_the_recipe(run):
    skip_texts(run)
    model = genlab.load(run)
    if not isinstance(model, Encodes):
        pytest.skip("no encoder")
    images = some_images(run, model)
    codes = model.encode(images)
    assert codes.shape == (5, model.latent_dim)
    assert codes.dtype == torch.float32
    if isinstance(model, HasLikelihood | Invertible):  # a bijection: its codes are exact
        assert torch.equal(model.reconstruct(images), images)
    elif isinstance(model, HasStoredCodes):  # on the sphere
        assert torch.allclose(codes.norm(dim=1), torch.ones(5), atol=1e-5)
        assert torch.allclose(model.stored_codes().norm(dim=1), torch.ones(4250), atol=1e-5)
    else:  # N(E(x))
        assert torch.allclose(codes.mean(1), torch.zeros(5), atol=1e-5)
    assert model.reconstruct(images).shape == images.shape
    if isinstance(model, Interpolates):
        assert model.interpolate(images[:2], images[2:4], 7).shape == (2, 7, *shape(run))


def test_its_likelihood_is_a_function_of_the_seed(run):
    model, again = genlab.load(run), genlab.load(run)
    if not isinstance(model, HasLikelihood):
        pytest.skip("no likelihood")
    images = model.sample(5, seed=3)
    assert torch.equal(model.log_prob(images, seed=1), again.log_prob(images, seed=1))
    assert not torch.equal(model.log_prob(images, seed=1), model.log_prob(images, seed=2))


def test_conditional_texts_depend_on_seed_and_condition_alone(run, composed):
    if model_of(run) not in CONDITIONAL:
        pytest.skip("not conditional")
    model, settings = genlab.load(run), config.resolve(composed(f"run={run}"))
    data = config.build(settings["data"])
    data.setup()
    assert len(model.codec.tokenizer) == model.net.vocab_size
    if isinstance(model.condition, LabelEncoder):  # names of labels are in the run's config
        in_config = settings["model"]["condition"]["values"]
        assert model.condition.values == in_config == data.label_values
    examples = data.examples("test")[:6]
    given = {name: values[torch.arange(6)] for name, values in data.given("test").items()}
    codes = model.encode(given)
    assert codes.shape == (6, 128)
    assert codes.dtype == torch.float32
    assert codes.std(0).max() > 0
    for decoding in (Decoding("beam"), Decoding("sample"), Decoding("greedy", guidance=2.0)):
        texts = model.generate(examples, decoding, given, seed=3)
        assert len(texts) == 6
        assert texts == model.generate(examples, decoding, given, seed=3)
        two = {name: values[:2] for name, values in given.items()}
        assert model.generate(examples[:2], decoding, two, seed=3)[0].texts == texts[0].texts
    (batch, *_) = data.loader("test")
    own, each = model.score([batch])[:, 0], model.score([batch], model.condition(batch))
    assert torch.allclose(each.diagonal(), own, atol=1e-4)
    assert own.max() < 0


def test_texts_are_written_and_encoded_without_the_data(run, composed):
    if model_of(run) not in TEXTS or model_of(run) in CONDITIONAL:
        pytest.skip("an image model, or conditional")
    model, settings = genlab.load(run), config.resolve(composed(f"run={run}"))
    assert len(model.codec.tokenizer) == model.net.vocab_size == settings["net"]["vocab_size"]
    pretrained = model_of(run) in PRETRAINED
    text = "7 and [MASK] are even" if model_of(run) == "pretrain_mlm" else "7 and"
    some = [Example(str(i), (text,), ((),)) for i in range(4)]
    examples = some if pretrained else config.build(settings["data"]).examples("test")
    methods = (None,) if model_of(run) == "pretrain_mlm" else ("greedy", "beam", "sample")
    for method in methods:
        texts = model.generate(examples, Decoding(method), seed=3)
        assert len(texts) == len(examples)
        assert texts == model.generate(examples, Decoding(method), seed=3)
        assert model.generate(examples[:2], Decoding(method), seed=3)[0].texts == texts[0].texts
    texts = [f"{example.sources[0]} {i}" for i, example in enumerate(examples)]
    codes = model.encode(texts)
    assert codes.shape == (len(examples), 16)
    assert codes.dtype == torch.float32
    assert codes.std(0).min() > 0


def test_it_is_measured(run, composed):
    settings = config.resolve(composed(f"run={run}"))
    data = config.build(settings["data"])
    random = {"_target_": "genlab.metrics.features.random"}
    results = evaluation.measure(run, data, features=random, num=60, device="cpu")
    assert json.loads((run / "eval" / "metrics.json").read_text()) == results
    for name, entry in results.items():
        assert not math.isnan(entry["value"]), name
        assert entry.keys() >= {"split", "count", "seed", "weights", "ckpt", "crop", "resize"}, name
        assert entry.keys() >= {"features", "features_hash"}, name
    if model_of(run) in PRETRAINED:
        masked = {"loss", "masked_accuracy", "pseudo_perplexity"}
        wanted = masked if model_of(run) == "pretrain_mlm" else {"loss", "perplexity"}
        assert wanted < results.keys()
        assert results["loss"]["value"] > 0
        return
    if model_of(run) in TEXTS:
        qualities = {"unilm_qa": "f1", "cln_lm": "control_accuracy form"}
        quality = results[qualities.get(model_of(run), "rouge_l")]
        assert results["perplexity"]["value"] > 1
        assert 0 <= quality["value"] <= 1
        texts = (run / "eval" / "texts.jsonl").read_text().splitlines()
        assert len(texts) == quality["count"]
        return
    model = genlab.load(run)
    if isinstance(model, Classifies):
        assert 0 <= results["accuracy"]["value"] <= 1
    if isinstance(model, HasStoredCodes):
        assert results.keys() >= {"fid_gaussian", "fid_reconstructions", "reconstruction_mse"}
        assert "train_reconstruction_mse" in results
        assert results["fid_reconstructions"]["count"] == 4250
    if isinstance(model, Samples):
        assert results["fid"]["features"] == "random convolutions"
        assert results["fid"]["comparable"] is False


def test_a_run_contains_samples_and_a_report(run):
    report = (run / "report.html").read_text()
    if model_of(run) in PRETRAINED:
        assert "val/loss" in report
        return
    if model_of(run) in TEXTS:
        rows = (run / "samples" / "texts_000006.jsonl").read_text().splitlines()
        about = "labels" if model_of(run) in CONDITIONAL else "question"
        assert len(rows) == 5
        assert json.loads(rows[0]).keys() >= {"id", about, "text", "accepted"}
        return
    kind = "fixed" if isinstance(genlab.load(run), Samples) else "reconstruction"
    assert (run / "samples" / f"{kind}_000006.png").stat().st_size > 0
    assert "data:image/png" in report
    assert 'id="curves"' in report
    assert "://" not in report.partition("<body>")[0]


def test_an_export_loads_and_samples_like_its_run(run, tmp_path):
    settings = {"run": str(run), "ckpt": "last", "weights": "ema", "allow": []}
    settings |= {"out": str(tmp_path / "out"), "format": "safetensors", "licence": None}
    export.run(settings, tmp_path, [])
    model, again = genlab.load(run), genlab.load(tmp_path / "out")
    state = again.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert model_of(run) in (tmp_path / "out" / "README.md").read_text()
    if isinstance(model, Samples):
        assert torch.equal(model.sample(4, seed=1), again.sample(4, seed=1))
    elif model.modality == "text" and model_of(run) not in CONDITIONAL:
        assert torch.equal(model.encode(["7 and 8 are even"]), again.encode(["7 and 8 are even"]))


def test_a_classifier_without_a_bound_is_measured_only_as_a_classifier(trained_in, small, tmp_path):
    trained_in(tmp_path, *small("iresnet_classifier"), "net.coeff=null", "evaluate=true")
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert list(metrics) == ["accuracy", "cross_entropy"]
    assert not list((tmp_path / "samples").glob("reconstruction*"))
    with pytest.raises(ValueError, match=r"\bnet\.coeff="):
        genlab.load(tmp_path).reconstruct(torch.zeros(1, 1, 28, 28))
