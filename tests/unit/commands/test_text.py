"""sample, encode and eval of a text model, from a run directory."""

import json

import numpy as np
import pytest
import torch

from genlab import config
from genlab.commands import options
from genlab.commands.text import whiten
from genlab.commands.text_input import read_records


@pytest.fixture(scope="module")
def run(trained_in, tmp_path_factory):
    """A run of three steps on facts."""
    run_dir = tmp_path_factory.mktemp("texts") / "run"
    words = [
        "model=unilm_qa",
        "net=bert_tiny",
        "net.hidden_dim=16",
        "net.num_layers=1",
        "net.intermediate_dim=32",
        "trainer=cpu",
    ]
    words += [
        "trainer.max_steps=3",
        "trainer.val_check_interval=3",
        "data.num_train=64",
        "data.num_val=4",
        "data.num_test=40",
    ]
    trained_in(run_dir, *words, "data.vocab_size=200", "evaluate=false")
    return run_dir


@pytest.fixture
def ask(run, tmp_path, command):
    """ask("sample", "key=value", ...): runs the command on the run; its folder is tmp_path."""
    return lambda name, *words: command(name, tmp_path, f"run={run}", *words)


def test_a_question_is_answered_from_the_command_line(ask, tmp_path, capsys):
    ask(
        "sample",
        "question=What is the capital of Peru?",
        'passages=["The capital of Peru is Lima.", "Cuba is warm."]',
        "decoding.abstain=1",
        "decoding.method=beam",
        "decoding.num=2",
    )
    (row,) = [json.loads(line) for line in (tmp_path / "texts.jsonl").read_text().splitlines()]
    assert (
        row["question"] == "What is the capital of Peru?"
        and len(row["texts"]) == len(row["scores"]) == 2
    )
    assert row["texts"][0] in "the capital of peru is lima. cuba is warm." and row["texts"][0]
    assert "texts.jsonl  1" in capsys.readouterr().out


def test_a_file_of_questions_is_answered(ask, tmp_path):
    peru = {"question": "Where does Peru lie?", "passages": ["Peru lies in South America."]}
    gold = {"question": "How do chemists write it?", "passages": ["They write Au.", "Gold."]}
    rows = [{"id": "x", **peru}, gold]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ask("sample", f"input={tmp_path / 'in.jsonl'}", f"out={tmp_path / 'out.jsonl'}")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["x", "2"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "source="),
        (["source=a", "question=b", "passages=[c]"], "source="),
        (["question=b"], "^question=, passages=: "),
        (["source=a", "mode=walk"], "^mode: "),
        (["source=a", "num=3"], "^num: "),
        (["source=a", "decoding.abstain=0.5"], r"^decoding\.abstain=0\.5: "),
        (
            ["question=a", "passages=[b]", "decoding.beams=4"],
            r"^decoding\.beams=4: ",
        ),
        (["question=a", "passages=[b]", "out=x.txt"], r"out=x\.txt"),
    ],
)
def test_what_cannot_be_done_is_refused(ask, words, message):
    with pytest.raises(ValueError, match=message):
        ask("sample", *words)


@pytest.mark.parametrize(
    "bad",
    [
        '{"x": 1}',
        '{"question": "a"}',
        "{",
        '{"source": ""}',
        '{"question": "a", "passages": [1]}',
    ],
)
def test_a_bad_line_of_input_is_named(tmp_path, bad):
    path = tmp_path / "in.jsonl"
    path.write_text('{"source": "fine"}\n' + bad + "\n")
    with pytest.raises(config.ConfigError, match=r"in\.jsonl:2: "):
        read_records(path)


def test_an_empty_file_of_input_is_refused(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text("\n")
    with pytest.raises(config.ConfigError, match=r"^input="):
        read_records(path)


def test_sentence_vectors_are_written_and_whitened(ask, tmp_path):
    ask("encode", "split=test", "whiten=8")
    stored = np.load(tmp_path / "codes.npz")
    codes = stored["codes"].astype(np.float64)
    assert codes.shape == (40, 8) and list(stored["ids"])[:2] == ["test-0", "test-1"]
    assert np.allclose(codes.mean(0), 0, atol=1e-3) and np.allclose(
        codes.T @ codes / 40, np.eye(8), atol=1e-2
    )
    (tmp_path / "lines.txt").write_text("one\n\ntwo\n")
    ask("encode", f"input={tmp_path / 'lines.txt'}", "pooling=cls", f"out={tmp_path / 'c.npz'}")
    assert np.load(tmp_path / "c.npz")["codes"].shape == (2, 16)
    with pytest.raises(ValueError, match=r"^method: "):
        ask("encode", "split=test", "method=optimize")


def test_whitening_is_what_it_says():
    codes = torch.randn(200, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64) + 3
    white, mean, kernel = whiten(codes, True)
    assert torch.allclose(
        white.double().T @ white.double() / 200, torch.eye(6, dtype=torch.float64), atol=1e-4
    )
    assert torch.allclose((codes.float() - mean) @ kernel, white, atol=1e-4)
    for wrong in (0, 7):
        with pytest.raises(config.ConfigError, match=f"whiten={wrong}"):
            whiten(codes, wrong)
    with pytest.raises(config.ConfigError, match=r"^whiten=6: "):
        whiten(codes[:5], 6)


def test_options_of_text_models_are_refused_for_image_models():
    class Images:
        modality = "image"

    with pytest.raises(config.ConfigError, match=r"^source: "):
        options.refuse_foreign_options("sample", Images(), ["run=x", "source=a"])
    options.refuse_foreign_options("sample", Images(), ["run=x", "mode=walk"])
    with pytest.raises(config.ConfigError, match=r"decoding\.bems.*'beams'"):
        options.read("sample", {"decoding": {"bems": 3}})
