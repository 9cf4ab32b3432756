"""What docs/composing.md shows, done as it says from outside the package."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

PAGE = Path(__file__).parents[2] / "docs" / "composing.md"


def test_a_model_of_ones_own_from_outside_the_package(genlab, tmp_path):
    shown = re.findall(
        r"^`([\w/.]+)`[^\n]*(?:\n[^`\n][^\n]*)*\n+```(?:yaml|python)\n(.*?)```",
        PAGE.read_text(),
        re.M | re.S,
    )
    assert {name for name, _ in shown} == {
        "my/net/plain.yaml", "my/loss/shifted.yaml", "my/data/stripes.yaml", "my/model/mine.yaml", "mine.py"
    }  # fmt: skip
    for name, text in shown:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "stripes").mkdir()
    for i in range(60):
        stripes = np.tile((np.arange(16) // (1 + i % 4) % 2 * 255).astype(np.uint8), (16, 1))
        Image.fromarray(stripes).save(tmp_path / "stripes" / f"{i:02d}.png")
    words = ["--config-dir", "my", "model=mine"]
    short = [
        "trainer=cpu",
        "trainer.max_steps=3",
        "trainer.val_check_interval=3",
        "data.batch_size=8",
        "evaluate=false",
    ]
    environment = {"PYTHONPATH": str(tmp_path), "GENLAB_DATA": str(tmp_path / "data")}
    options = {"cwd": tmp_path, "env": environment}
    refused = genlab("train", *words, *short, check=False, **options)
    assert refused.returncode == 2 and "allow=[mine]" in refused.stderr
    genlab("train", *words, *short, "allow=[mine]", "hydra.run.dir=run", **options)
    genlab("sample", "run=run", "allow=[mine]", "num=4", "out=made", **options)
    assert np.load(tmp_path / "made" / "grid.npz")["images"].shape == (4, 1, 16, 16)
    wrong = genlab("train", *words, *short, "allow=[mine]", "loss.margni=1", check=False, **options)
    assert wrong.returncode == 2 and "there is no key 'loss.margni'" in wrong.stderr
