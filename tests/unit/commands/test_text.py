"""sample, encode and eval of a text model, from a run directory."""

import json

import numpy as np
import pytest
import torch

from genlab import config
from genlab.commands import options
from genlab.commands.text import read_input, refuse, whiten


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
    ask("sample", "question=What is the capital of Peru?", 'passages=["The capital of Peru is Lima.", "Cuba is warm."]',
        "decoding.abstain=1", "decoding.method=beam", "decoding.num=2")  # fmt: skip
    (row,) = [json.loads(line) for line in (tmp_path / "texts.jsonl").read_text().splitlines()]
    assert (
        row["question"] == "What is the capital of Peru?"
        and len(row["texts"]) == len(row["scores"]) == 2
    )
    assert row["texts"][0] in "the capital of peru is lima. cuba is warm." and row["texts"][0]
    assert "texts.jsonl  1" in capsys.readouterr().out


def test_a_file_of_questions_is_answered(ask, tmp_path):
    given = [{"id": "x", "question": "Where does Peru lie?", "passages": ["Peru lies in South America."]},
             {"question": "How do chemists write gold?", "passages": ["They write Au for gold.", "Gold."]}]  # fmt: skip
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    ask("sample", f"input={tmp_path / 'in.jsonl'}", f"out={tmp_path / 'out.jsonl'}")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["x", "2"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give one of source="),
        (["source=a", "question=b", "passages=[c]"], "give one of"),
        (["question=b"], "go together"),
        (["source=a", "mode=walk"], "mode: is for models of images"),
        (["source=a", "num=3"], "num: is for models of images"),
        (["source=a", "decoding.abstain=0.5"], r"^decoding\.abstain=0\.5"),
        (
            ["question=a", "passages=[b]", "decoding.beams=4"],
            r"^decoding\.beams=4",
        ),
        (["question=a", "passages=[b]", "out=x.txt"], r"out=x\.txt"),
    ],
)
def test_what_cannot_be_done_is_refused(ask, words, message):
    with pytest.raises(ValueError, match=message):
        ask("sample", *words)


def test_a_bad_line_of_input_is_named(tmp_path):
    path = tmp_path / "in.jsonl"
    for bad, why in (('{"x": 1}', "expected an object"), ('{"question": "a"}', "passages"), ("{", "in.jsonl:2"),
                     ('{"source": ""}', "empty"), ('{"question": "a", "passages": [1]}', "expected a text")):  # fmt: skip
        path.write_text('{"source": "fine"}\n' + bad + "\n")
        with pytest.raises(config.ConfigError, match=rf"in\.jsonl:2: .*|{why}") as caught:
            read_input(path)
        assert why in str(caught.value)
    path.write_text("\n")
    with pytest.raises(config.ConfigError, match="nothing in it"):
        read_input(path)


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
    with pytest.raises(ValueError, match="method: is for models of images"):
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
    with pytest.raises(config.ConfigError, match="fewer than the 5 texts"):
        whiten(codes[:5], 6)


def test_settings_of_texts_mean_nothing_to_images():
    class Images:
        modality = "image"

    with pytest.raises(config.ConfigError, match="source: is for models of texts"):
        refuse("sample", Images(), ["run=x", "source=a"])
    refuse("sample", Images(), ["run=x", "mode=walk"])
    with pytest.raises(config.ConfigError, match=r"decoding\.bems.*Did you mean 'beams'"):
        options.read("sample", {"decoding": {"bems": 3}})
