"""Pretraining on the command line, from raw text to the start of another model."""

import json
import shutil

import pytest
import torch

from genlab.data.text.tokenizer import Tokenizer
from genlab.data.text.vocabulary import build_vocab
from genlab.models.seq2seq.bert import BERT
from genlab.weights.huggingface import save
from genlab.weights.source import WeightsError

NET = ["net=bert_tiny", "net.hidden_dim=16", "net.intermediate_dim=32", "net.num_layers=2"]
NET += ["net.dropout=0", "net.attention_dropout=0"]
WORDS = [*NET, "data=fact_texts", "data.num_documents=300", "data.max_length=32"]
WORDS += ["data.vocab_size=200", "model.num_warmup_steps=1", "model.num_decay_steps=8"]
WORDS += ["model.lr=0.01", "trainer.max_steps=4", "trainer.val_check_interval=2", "evaluate=false"]
QA = ["model=unilm_qa", *NET, "data.num_train=40", "data.num_val=4", "data.num_test=4"]
QA += ["trainer=cpu", "callbacks.texts=null", "evaluate=false"]


def state(run) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["mlm", "unilm"])
def test_two_processes_take_the_steps_of_one(genlab, tmp_path, objective):
    words = ["train", f"model=pretrain_{objective}", *WORDS, "optimizer=lamb"]
    options = {"cwd": tmp_path, "env": {"GENLAB_DATA": str(tmp_path / "data")}}
    genlab(*words, "trainer=cpu", "data.batch_size=8", "hydra.run.dir=one", **options)
    genlab(*words, "trainer=ddp_cpu", "data.batch_size=4", "hydra.run.dir=two", **options)
    one, two = state(tmp_path / "one"), state(tmp_path / "two")
    for name, value in one.items():
        assert torch.allclose(value.float(), two[name].float(), rtol=1e-4, atol=1e-5), name
    paths = [tmp_path / run / "manifest.json" for run in ("one", "two")]
    manifests = [json.loads(path.read_text()) for path in paths]
    assert manifests[0]["images_seen"] == manifests[1]["images_seen"] == 32
    losses = [float(manifest["metrics"]["val/loss"]) for manifest in manifests]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_run_resumes_without_its_pretrained_weights(trained_in, genlab, tmp_path, capfd):
    texts = ["people in peru pay with the sol .", "the capital of chile is santiago ."]
    vocab = build_vocab(texts * 2, kind="characters")
    save(BERT(len(vocab), 16, 2, 4, 32, max_length=512), Tokenizer(vocab), tmp_path / "bert")
    words = [*QA, "net.num_heads=4", "data.simplified=true", f"model.init={tmp_path / 'bert'}"]
    trained_in(tmp_path / "qa", *words, "trainer.max_steps=1")
    assert "tensors loaded" in capfd.readouterr().err
    shutil.rmtree(tmp_path / "bert")
    with pytest.raises(WeightsError, match=r"data\.vocab=<the run>"):
        trained_in(tmp_path / "qa", f"run={tmp_path / 'qa'}", "trainer.max_steps=2")
    own = [f"data.vocab={tmp_path / 'qa'}", "data.simplified=false"]
    trained_in(tmp_path / "qa", f"run={tmp_path / 'qa'}", "trainer.max_steps=2", *own)
    assert "tensors loaded" not in capfd.readouterr().err
    # Its own data, and other data, whose own vocabulary would be another one
    for changes in ([], ["data=facts", "data.num_test=8", "data.num_train=50"]):
        genlab("eval", "run=qa", "num=4", *changes, cwd=tmp_path)
        measured = json.loads((tmp_path / "qa" / "eval" / "metrics.json").read_text())
        untrained = pytest.approx(len(vocab), rel=0.2)
        assert measured["perplexity"]["value"] == untrained, changes


@pytest.mark.slow
def test_from_raw_text_to_the_start_of_another_model(
    genlab, trained_in, tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("GENLAB_DATA", str(tmp_path / "data"))
    trained_in(tmp_path / "run", "model=pretrain_mlm", *WORDS, "trainer=cpu")
    done = genlab("export", "run=run", "out=bert", cwd=tmp_path)
    assert "bert/model.safetensors" in done.stdout
    assert (tmp_path / "bert" / "config.json").exists()
    card = (tmp_path / "bert" / "README.md").read_text()
    assert "library_name: transformers" in card
    assert "import AutoTokenizer, BertForMaskedLM" in card
    done = genlab("export", "run=run", "out=bert", cwd=tmp_path, check=False)
    assert done.returncode == 2, done.stderr
    assert "out=bert: " in done.stderr
    words = [*QA, "trainer.max_steps=1", "model.lr=0"]
    for init in ("run", "bert"):
        capfd.readouterr()
        trained_in(tmp_path / f"qa_{init}", *words, f"model.init={tmp_path / init}")
        printed = capfd.readouterr().err
        assert "tensors loaded" in printed
        assert "missing" not in printed
        assert "not used" not in printed
        start, end = state(tmp_path / "run"), state(tmp_path / f"qa_{init}")
        for name, value in start.items():
            assert not name.startswith("net.") or torch.equal(value, end[name]), name
    done = genlab("sample", "run=run", "source=The capital of [MASK] is Lima, or so.", cwd=tmp_path)
    assert "[MASK]" not in done.stdout.splitlines()[1].split("  ")[-2]
