"""What every recipe of conf/model promises."""

import json
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

# How to make recipes tiny that are no GANs
SMALL = {
    "glow": ["net.num_steps=2", "net.hidden_dim=8"],
    "realnvp": ["net.num_blocks=1", "net.hidden_dim=8"],
    "iresnet": ["net.num_blocks=1", "net.hidden_dim=8"],
    "residual_flow": [
        "net.num_blocks=1",
        "net.hidden_dim=8",
        "net.dense_blocks=1",
        "net.dense_width=8",
    ],
    "iresnet_hybrid": ["net.num_blocks=1", "net.hidden_dim=8"],
    "iresnet_classifier": ["net.num_blocks=1", "net.hidden_dim=8"],
}
# Channels of the other image recipes, if not 4. With fewer, PGGAN's pixel norm enlarges rounding
# differences between batch sizes.
HIDDEN_DIM = {"dcgan": 8, "imle": 8, "ogan": 8, "pggan": 16, "selfmod": 8, "stylegan": 8}
CONDITIONAL = ("cln_lm", "cln_unilm", "cln_caption")
PRETRAINED = ("pretrain_mlm", "pretrain_gpt", "pretrain_unilm")
TEXTS = ("unilm", "unilm_qa", *CONDITIONAL, *PRETRAINED)
FEW_WORDS = [
    "net=bert_tiny",
    "net.hidden_dim=16",
    "net.num_layers=2",
    "net.intermediate_dim=32",
    "data.vocab_size=200",
]
HELD_OUT = ["callbacks.texts.num=5", "data.num_val=5", "data.num_test=6"]
PACKED = [
    "data.max_length=24",
    "data.val_fraction=0.1",
    "data.test_fraction=0.2",
    "model.num_warmup_steps=2",
    "model.num_decay_steps=10",
]


@pytest.fixture(scope="session")
def small(composed, tiny, tmp_path_factory):
    """small(model): the words that train a tiny version of a recipe for six steps."""
    pairs = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    row = '{{"source": "{0} and {1} are even and odd", "target": "{0}", "label": "{2}"}}\n'
    pairs.write_text(
        "".join(row.format(i, i + 1, "even" if i % 4 < 2 else "odd") for i in range(80))
    )

    def words(model: str) -> list[str]:
        if model in SMALL:
            there = [
                word
                for word in tiny
                if "net.generator" not in word and "callbacks.quality" not in word
            ]
            return [f"model={model}", *there, *SMALL[model]]
        if model in TEXTS:
            paired = [f"data.path={pairs}"] if model in ("unilm", "cln_unilm", *PRETRAINED) else []
            data = ["data.num_train=80"] if model == "unilm_qa" else paired
            data += (
                [*PACKED, "data.field=source"]
                if model in PRETRAINED
                else HELD_OUT[: 1 if model == "cln_caption" else None]
            )
            general = [
                w
                for w in tiny
                if not w.startswith(("net.generator", "callbacks.quality", "callbacks.grids"))
            ]
            return [f"model={model}", *general, *FEW_WORDS, *data]
        general = [w for w in tiny if not w.startswith("net.generator.hidden_dim")]
        width = f"net.generator.hidden_dim={HIDDEN_DIM.get(model, 4)}"
        stages = ["model.glo_steps=3"] if model == "glann" else []
        return [f"model={model}", *general, width, *stages]

    return words


@pytest.fixture(scope="module", params=MODELS)
def run(request, trained_in, small, tmp_path_factory):
    """A finished run of six steps."""
    run_dir = tmp_path_factory.mktemp(request.param) / "run"
    trained_in(run_dir, *small(request.param))
    return run_dir


def growing_parts(system) -> set[str]:
    """Parameters without a gradient: of levels not yet grown, or behind an attention of gain 0."""
    levels = [name for name, module in system.named_modules() if hasattr(module, "set_level")]
    inner = [
        name for name, module in system.named_modules() if type(module).__name__ == "SelfAttention"
    ]
    names = {name for name, _ in system.named_parameters()}
    return {
        name for name in names if name.startswith(tuple(f"{prefix}." for prefix in levels + inner))
    }


def model_of(run_dir) -> str:
    return json.loads((run_dir / "manifest.json").read_text())["model"]


def only_images(run_dir) -> None:
    if model_of(run_dir) in TEXTS:
        pytest.skip("it writes texts")


def checkpoint(run_dir):
    return read_checkpoint(run_dir / "checkpoints" / "last.ckpt")


def test_six_steps_are_six_steps(run):
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["steps"] == 6 and manifest["images_seen"] == 6 * 16
    assert checkpoint(run)["global_step"] == 6
    rows = (run / "metrics.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == [1, 2, 3, 4, 5, 6]


def test_every_parameter_moves(run):
    torch.manual_seed(json.loads((run / "manifest.json").read_text())["seed"])
    start = config.build_system(config.read_frozen(run))
    end = genlab.load(run, weights="raw")
    other = genlab.load(run, weights="ema")
    unused = growing_parts(end)
    parameters = (model.named_parameters() for model in (start, end, other))
    for (name, before), (_, raw), (_, ema) in zip(*parameters, strict=True):
        assert not torch.equal(before, raw) or name in unused, name
        assert raw.isfinite().all() and ema.isfinite().all(), name


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    run, trained_in, small, tmp_path, same_weights
):
    model = model_of(run)
    trained_in(tmp_path / "run", *small(model), "trainer.max_steps=4")
    trained_in(tmp_path / "run", f"run={tmp_path / 'run'}", "trainer.max_steps=6")
    same_weights(checkpoint(tmp_path / "run"), checkpoint(run))


def test_what_it_says_to_try_next_works(run, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for tried in next_commands(str(run), genlab.load(run), 6):
        _, name, *words = shlex.split(tried.replace("...", "a"))
        if name in ("sample", "encode"):  # eval and train have tests of their own
            command(name, tmp_path / name, *words)


def shape(run) -> tuple[int, int, int]:
    data = config.read_frozen(run)["data"]
    return data["channels"], data["image_size"], data["image_size"]


def some_images(run, model):
    """Five images: samples, or of its data if it does not sample."""
    if isinstance(model, Samples):
        return model.sample(5, seed=3)
    return config.build(config.read_frozen(run)["data"]).pick("test", 5)["image"]


def test_it_samples_the_shape_and_range_it_should(run):
    only_images(run)
    model = genlab.load(run)
    if not isinstance(model, Samples):
        pytest.skip("it does not sample")
    images = model.sample(5, seed=3)
    assert images.shape == (5, *shape(run)) and images.dtype == torch.float32
    assert images.abs().max() <= 1 and images.std() > 0
    assert torch.equal(images, model.sample(5, seed=3))
    assert not torch.equal(images, model.sample(5, seed=4))
    # An image does not depend on the others of its batch.
    assert torch.allclose(model.sample(3, seed=3), images[:3], atol=1e-5)


def test_it_encodes_if_it_says_so(run):
    only_images(run)
    model = genlab.load(run)
    if not isinstance(model, Encodes):
        pytest.skip("it has no encoder")
    images = some_images(run, model)
    codes = model.encode(images)
    assert codes.shape == (5, model.latent_dim) and codes.dtype == torch.float32
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
        pytest.skip("it has no likelihood")
    images = model.sample(5, seed=3)
    assert torch.equal(model.log_prob(images, seed=1), again.log_prob(images, seed=1))
    assert not torch.equal(model.log_prob(images, seed=1), model.log_prob(images, seed=2))


def test_it_writes_conditional_texts(run, composed):
    if model_of(run) not in CONDITIONAL:
        pytest.skip("it has no condition")
    model, settings = genlab.load(run), config.resolve(composed(f"run={run}"))
    data = config.build(settings["data"])
    data.setup()
    assert len(model.codec.tokenizer) == model.net.vocab_size
    if isinstance(model.condition, LabelEncoder):  # their names are in the run's config
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
        assert len(texts) == 6 and texts == model.generate(examples, decoding, given, seed=3)
        two = {name: values[:2] for name, values in given.items()}
        assert model.generate(examples[:2], decoding, two, seed=3)[0].texts == texts[0].texts
    (batch, *_) = data.loader("test")
    own, each = model.score([batch])[:, 0], model.score([batch], model.condition(batch))
    assert torch.allclose(each.diagonal(), own, atol=1e-4) and own.max() < 0


def test_it_writes_texts_and_encodes_them_without_its_data(run, composed):
    if model_of(run) not in TEXTS or model_of(run) in CONDITIONAL:
        pytest.skip("it makes images, or needs a condition")
    model, settings = genlab.load(run), config.resolve(composed(f"run={run}"))
    assert len(model.codec.tokenizer) == model.net.vocab_size == settings["net"]["vocab_size"]
    pretrained = model_of(run) in PRETRAINED
    text = "7 and [MASK] are even" if model_of(run) == "pretrain_mlm" else "7 and"
    some = [Example(str(i), (text,), ((),)) for i in range(4)]
    examples = some if pretrained else config.build(settings["data"]).examples("test")
    for method in (None,) if model_of(run) == "pretrain_mlm" else ("greedy", "beam", "sample"):
        texts = model.generate(examples, Decoding(method), seed=3)
        assert len(texts) == len(examples)
        assert texts == model.generate(examples, Decoding(method), seed=3)
        assert model.generate(examples[:2], Decoding(method), seed=3)[0].texts == texts[0].texts
    codes = model.encode([f"{e.sources[0]} {i}" for i, e in enumerate(examples)])
    assert codes.shape == (len(examples), 16) and codes.dtype == torch.float32
    assert codes.std(0).min() > 0


def test_it_is_measured(run, composed):
    settings = config.resolve(composed(f"run={run}"))
    data = config.build(settings["data"])
    random = {"_target_": "genlab.metrics.features.random"}
    results = evaluation.measure(run, data, features=random, num=60, device="cpu")
    assert json.loads((run / "eval" / "metrics.json").read_text()) == results
    for name, entry in results.items():
        assert entry["value"] == entry["value"], name
        assert {
            "split",
            "count",
            "seed",
            "weights",
            "ckpt",
            "crop",
            "resize",
            "features",
            "features_hash",
        } <= entry.keys()
    if model_of(run) in PRETRAINED:
        wanted = (
            {"loss", "masked_accuracy", "pseudo_perplexity"}
            if model_of(run) == "pretrain_mlm"
            else {"loss", "perplexity"}
        )
        assert wanted < results.keys() and results["loss"]["value"] > 0
        return
    if model_of(run) in TEXTS:
        qualities = {"unilm_qa": "f1", "cln_lm": "control_accuracy form"}
        quality = results[qualities.get(model_of(run), "rouge_l")]
        assert results["perplexity"]["value"] > 1 and 0 <= quality["value"] <= 1
        texts = (run / "eval" / "texts.jsonl").read_text().splitlines()
        assert len(texts) == quality["count"]
        return
    model = genlab.load(run)
    if isinstance(model, Classifies):
        assert 0 <= results["accuracy"]["value"] <= 1
    if isinstance(model, HasStoredCodes):
        assert {
            "fid_gaussian",
            "fid_reconstructions",
            "train_reconstruction_mse",
            "reconstruction_mse",
        } <= results.keys()
        assert results["fid_reconstructions"]["count"] == 4250
    if isinstance(model, Samples):
        assert results["fid"]["features"] == "random convolutions"
        assert results["fid"]["comparable"] is False


def test_it_leaves_pictures_and_a_report(run):
    report = (run / "report.html").read_text()
    if model_of(run) in PRETRAINED:
        assert "val/loss" in report
        return
    if model_of(run) in TEXTS:
        rows = (run / "samples" / "texts_000006.jsonl").read_text().splitlines()
        about = "labels" if model_of(run) in CONDITIONAL else "question"
        assert len(rows) == 5 and {"id", about, "text", "accepted"} <= json.loads(rows[0]).keys()
        return
    kind = "fixed" if isinstance(genlab.load(run), Samples) else "reconstruction"
    assert (run / "samples" / f"{kind}_000006.png").stat().st_size > 0
    assert "data:image/png" in report and 'id="curves"' in report
    assert "://" not in report.partition("<body>")[0]


def test_its_export_is_read_back_and_samples_the_same(run, tmp_path):
    settings = {
        "run": str(run),
        "ckpt": "last",
        "weights": "ema",
        "format": "safetensors",
        "licence": None,
        "allow": [],
    }
    export.run(settings | {"out": str(tmp_path / "out")}, tmp_path, [])
    model, again = genlab.load(run), genlab.load(tmp_path / "out")
    state = again.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert model_of(run) in (tmp_path / "out" / "README.md").read_text()
    if isinstance(model, Samples):
        assert torch.equal(model.sample(4, seed=1), again.sample(4, seed=1))
    elif model.modality == "text" and model_of(run) not in CONDITIONAL:
        assert torch.equal(model.encode(["7 and 8 are even"]), again.encode(["7 and 8 are even"]))


def test_a_classifier_without_a_bound_trains_and_is_measured_as_a_classifier_alone(
    trained_in, small, tmp_path
):
    trained_in(tmp_path, *small("iresnet_classifier"), "net.coeff=null", "evaluate=true")
    assert list(json.loads((tmp_path / "eval" / "metrics.json").read_text())) == [
        "accuracy",
        "cross_entropy",
    ]
    assert not list((tmp_path / "samples").glob("reconstruction*"))
    with pytest.raises(ValueError, match="need not have an inverse"):
        genlab.load(tmp_path).reconstruct(torch.zeros(1, 1, 28, 28))
