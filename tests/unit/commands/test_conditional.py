"""sample and encode of conditional text models, and an image encoder that is another run."""

import json
import shutil

import numpy as np
import pytest
import torch

import genlab
from genlab import config
from genlab.systems.text.encoders import Backbone, RunEncoder

SMALL = [
    "net=bert_tiny",
    "net.hidden_dim=16",
    "net.num_layers=1",
    "net.intermediate_dim=32",
    "trainer=cpu",
    "trainer.max_steps=3",
]
SMALL += [
    "trainer.val_check_interval=3",
    "data.batch_size=16",
    "data.vocab_size=200",
    "evaluate=false",
]


@pytest.fixture(scope="module")
def run(trained_in, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("cln") / "run"
    trained_in(run_dir, "model=cln_lm", *SMALL, "data.num_val=5", "data.num_test=20")
    return run_dir


@pytest.fixture
def ask(tmp_path, command):
    """ask(run, "sample", "key=value", ...): runs the command; its folder is tmp_path."""

    def rows(run, name: str, *words: str) -> list[dict]:
        command(name, tmp_path, f"run={run}", *words)
        path = tmp_path / "texts.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    return rows


def test_texts_are_written_on_labels(run, ask, capsys):
    rows = ask(
        run, "sample", "label={topic: capital, form: question}", "num=2", "prompt=the", "seed=4"
    )
    assert [row["labels"] for row in rows] == [{"topic": "capital", "form": "question"}] * 2
    assert all(row["texts"][0].startswith("the") and row["prompt"] == "the" for row in rows)
    rows = ask(run, "sample", "label=[capital,statement]", "num=4", "decoding.guidance=2")
    assert [row["labels"]["topic"] for row in rows] == ["capital", None, "capital", None]
    assert len(ask(run, "sample", "num=9")) == 9 and "texts.jsonl  9" in capsys.readouterr().out


def test_texts_are_interpolated_between_labels(run, ask):
    rows = ask(
        run,
        "sample",
        "label=[capital,year]",
        "mode=interpolate",
        "steps=3",
        "num=3",
        "decoding.method=greedy",
    )
    assert [row["t"] for row in rows] == [0.0, 0.5, 1.0]
    ends = ask(run, "sample", "label=[capital,year]", "num=2", "decoding.method=greedy")
    assert [rows[0]["texts"], rows[2]["texts"]] == [row["texts"] for row in ends]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["label=captial"], r"^label=captial: .*'capital'"),
        (["label=[capital]", "mode=interpolate"], "^mode=interpolate: "),
        (["source=a"], "^source=a: "),
        (["steps=3"], "^steps=3: "),
        (["mode=walk"], "^mode=walk: "),
        (["question=a"], "^question: "),
        (["num=0"], "num=0: "),
        (["input=x.jsonl"], "^input=: "),
    ],
)
def test_what_cannot_be_done_is_refused(run, ask, words, message):
    with pytest.raises(ValueError, match=message):
        ask(run, "sample", *words)


def test_texts_are_classified_by_bayes_rule(run, ask, tmp_path, capsys):
    ask(run, "encode", "split=test", "field=form", f"out={tmp_path / 'a.npz'}")
    found = np.load(tmp_path / "a.npz")
    assert found["codes"].shape == (20, 2) and sorted(found["values"]) == ["question", "statement"]
    assert np.allclose(found["posterior"].sum(1), 1, atol=1e-5) and set(found["labels"]) == {0, 1}
    right = (found["codes"].argmax(1) == found["labels"]).mean()
    assert f"for {right:.1%} of 20" in capsys.readouterr().out
    (tmp_path / "in.txt").write_text("What is the capital of Peru?\nGold has number 79.\n")
    ask(run, "encode", f"input={tmp_path / 'in.txt'}", f"out={tmp_path / 'b.npz'}")
    found = np.load(tmp_path / "b.npz")
    assert found["codes"].shape == (2, 8) and found["labels"].tolist() == [-1, -1]
    with pytest.raises(config.ConfigError, match=r"^field=from: .*'form'"):
        ask(run, "encode", "split=test", "field=from")


def test_a_run_that_encodes_for_another_is_needed_no_more(trained_in, tiny, ask, tmp_path):
    trained_in(tmp_path / "ogan", "model=ogan", *tiny)
    general = [word for word in SMALL if "max_steps" not in word]
    words = [
        "model=cln_caption",
        "encoder=run",
        f"model.condition.run={tmp_path / 'ogan'}",
        "trainer.max_steps=3",
    ]
    trained_in(tmp_path / "caption", *words, *general)
    shutil.move(tmp_path / "ogan", tmp_path / "moved")
    model, ogan = genlab.load(tmp_path / "caption"), genlab.load(tmp_path / "moved")
    images = torch.rand(3, 1, 32, 32) * 2 - 1
    assert torch.equal(
        model.condition.features(images), ogan.encode(images)
    )  # and so it was not trained
    rows = ask(tmp_path / "caption", "sample", "num=2")
    assert [row["image"] for row in rows] == ["test-0", "test-1"] and all(
        row["texts"] for row in rows
    )
    ask(tmp_path / "caption", "encode", "split=test", f"out={tmp_path / 'c.npz'}")
    assert np.load(tmp_path / "c.npz")["codes"].shape == (500, 128)
    with pytest.raises(ValueError, match=r"^data: .*\(1, 32, 32\).*\(1, 28, 28\)"):
        model.condition({"image": torch.zeros(1, 1, 28, 28)})


def test_a_backbone_takes_pretrained_weights_and_can_be_frozen(tmp_path):
    import torchvision

    other = torchvision.models.get_model("resnet18", weights=None)
    torch.save(other.state_dict(), tmp_path / "w.pt")
    frozen = Backbone("resnet18", str(tmp_path / "w.pt"), True, 8)
    frozen.load_weights()
    other.fc = torch.nn.Flatten()
    x = torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8)
    mean, std = (
        torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1),
        torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1),
    )
    features = other.eval()((x / 255 - mean) / std)
    assert torch.allclose(frozen.train()({"image": x}), frozen.map(features), atol=1e-5)
    assert [name for name, p in frozen.named_parameters() if p.requires_grad] == [
        "none",
        "map.weight",
        "map.bias",
    ]
    for wrong, message in (
        ({"name": "resnet81"}, r"^model\.condition\.name=resnet81: .*'resnet18'"),
        ({"frozen": True}, r"model\.condition\.weights=null"),
    ):
        with pytest.raises(ValueError, match=message):
            Backbone(**wrong)
    with pytest.raises(ValueError, match=r"^model\.condition\.run=null"):
        RunEncoder()
