"""What docs/composing.md shows, done as it says from outside the package."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

PAGE = Path(__file__).parents[2] / "docs" / "composing.md"
SHOWN = r"^`([\w/.]+\.(?:py|yaml))`[^\n]*(?:\n[^`\n][^\n]*)*\n+```(?:yaml|python)\n(.*?)```"
SHORT = ["trainer=cpu", "trainer.max_steps=2", "trainer.val_check_interval=2", "evaluate=false"]
SMALL_TEXTS = ["net=bert_tiny", "net.hidden_dim=16", "net.num_layers=1", "net.intermediate_dim=16"]


@pytest.fixture(scope="module")
def page(genlab, tmp_path_factory):
    """page("train", ...): the command line in a folder with the files of the page; page.folder."""
    folder = tmp_path_factory.mktemp("page")
    for name, text in re.findall(SHOWN, PAGE.read_text(), re.M | re.S):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    environment = {"PYTHONPATH": str(folder)}

    def run(*words, **options):
        return genlab(*words, cwd=folder, env=environment, **options)

    run.folder = folder
    return run


def weights(run: Path) -> dict:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def test_networks_a_loss_and_data(page):
    (page.folder / "stripes").mkdir()
    for i in range(60):
        stripes = np.tile((np.arange(16) // (1 + i % 4) % 2 * 255).astype(np.uint8), (16, 1))
        Image.fromarray(stripes).save(page.folder / "stripes" / f"{i:02d}.png")
    words = ["--config-dir", "my", "model=mine", *SHORT, "data.batch_size=8"]
    refused = page("train", *words, check=False)
    assert refused.returncode == 2
    assert "allow=[mine]" in refused.stderr
    page("train", *words, "allow=[mine]", "hydra.run.dir=run")
    page("sample", "run=run", "allow=[mine]", "num=4", "out=made")
    assert np.load(page.folder / "made" / "grid.npz")["images"].shape == (4, 1, 16, 16)
    wrong = page("train", *words, "allow=[mine]", "loss.margni=1", check=False)
    assert wrong.returncode == 2
    assert "loss.margni" in wrong.stderr


def test_a_system(page, same_weights):
    words = ["--config-dir", "my", "model=vae", "allow=[vae]", *SHORT, "explorer=false"]
    words += ["data.batch_size=8", "callbacks.grids.num=4", "callbacks.quality.num=8"]
    words = [word for word in words if "max_steps" not in word]
    page("train", *words, "trainer.max_steps=4", "hydra.run.dir=whole")
    page("train", *words, "trainer.max_steps=2", "hydra.run.dir=vae")
    page("train", "run=vae", "allow=[vae]", "trainer.max_steps=4")
    same_weights(weights(page.folder / "vae"), weights(page.folder / "whole"))
    page("sample", "run=vae", "allow=[vae]", "mode=reconstruct", "num=4", "out=made_vae")
    assert (page.folder / "made_vae" / "reconstruct.png").exists()
    page("encode", "run=vae", "allow=[vae]", "split=test", "out=codes.npz")
    assert np.load(page.folder / "codes.npz")["codes"].shape == (180, 16)
    page("eval", "run=vae", "allow=[vae]", "num=50", "features=random")
    found = json.loads((page.folder / "vae" / "eval" / "metrics.json").read_text())
    assert found["fid"]["count"] == 50
    assert found["reconstruction_mse"]["split"] == "test"
    page("export", "run=vae", "allow=[vae]", "out=exported")
    assert (page.folder / "exported" / "decode.pt2").exists()
    assert (page.folder / "exported" / "explorer.html").exists()


def test_a_metric_and_a_callback(page):
    words = ["--config-dir", "my", "model=dcgan", "data=digits", *SHORT, "explorer=false"]
    words += ["callbacks=norms", "allow=[norms]", "callbacks.quality.num=8"]
    page("train", *words, "trainer.log_every_n_steps=1", "hydra.run.dir=normed")
    header = (page.folder / "normed" / "metrics.csv").read_text().partition("\n")[0]
    assert "train/gradient_norm" in header.split(",")
    words = ["run=vae", "--config-dir", "my", "metrics=[contrast]", "allow=[vae,contrast]"]
    page("eval", *words)
    found = json.loads((page.folder / "vae" / "eval" / "metrics.json").read_text())
    assert found["contrast_error"]["higher_is_better"] is False
    assert 0 < found["contrast_error"]["value"] < 2


def test_a_text_format_and_a_decoding_rule(page):
    lines = [f"Where is number {i}?\tWhich one?\tNumber {i} is here." for i in range(40)]
    (page.folder / "dialogues.txt").write_text("\n".join(lines) + "\n")
    words = ["--config-dir", "my", "model=unilm", "data=dialogues", "data.path=dialogues.txt"]
    words += [*SMALL_TEXTS, *SHORT, "data.num_val=4", "data.num_test=4", "data.batch_size=8"]
    page("train", *words, "allow=[dialogues]", "hydra.run.dir=unilm")
    (page.folder / "bad.txt").write_text("no tabs\n")
    bad = page("train", *words, "data.path=bad.txt", "allow=[dialogues]", check=False)
    assert bad.returncode == 2
    assert "bad.txt:1" in bad.stderr
    words = ["run=unilm", "source=Number 7 is 1 2 3", "decoding.method=sample", "decoding.num=8"]
    words += ["allow=[dialogues,rules]"]
    written = []
    for rule in ("[]", "[{_target_: rules.NoDigits}]"):
        page("sample", *words, f"decoding.rules={rule}", "out=texts.jsonl")
        written += ["".join(json.loads((page.folder / "texts.jsonl").read_text())["texts"])]
    assert re.search(r"\d", written[0])
    assert not re.search(r"\d", written[1])


def test_an_encoder_of_conditions(page):
    words = ["--config-dir", "my", "model=cln_caption", "data@data.images=digits", *SHORT]
    words += [*SMALL_TEXTS, "encoder=moments", "allow=[moments]", "data.batch_size=8"]
    page("train", *words, "hydra.run.dir=captions", "callbacks.texts.num=2")
    assert weights(page.folder / "captions")["state_dict"]["condition.map.weight"].shape == (32, 2)
