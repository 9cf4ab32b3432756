"""`genlab export`: a run as files for other programs."""

import importlib.util

import pytest
import torch
import yaml

import genlab as package

ONNX = bool(importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnxscript"))


def test_an_export_has_every_format_and_loads_like_the_run(genlab, trained, tmp_path):
    done = genlab("export", f"run={trained}", "out=made", "licence=MIT", cwd=tmp_path)
    folder = tmp_path / "made"
    names = {"model.safetensors", "config.yaml", "README.md", "explorer.html"}
    names |= {"decode.pt2", "encode.pt2"}
    names |= {"decode.onnx", "encode.onnx"} if ONNX else set()
    assert {path.name for path in folder.iterdir()} == names
    assert all(f"MB  made/{name}" in done.stdout for name in names)
    assert "in all" in done.stdout
    assert ONNX or "format=onnx" in done.stdout
    run, again = package.load(trained), package.load(folder)
    assert torch.equal(run.sample(4, seed=1), again.sample(4, seed=1))
    codes = run.prior(3, seed=0)
    decode = torch.export.load(folder / "decode.pt2").module()  # of the averaged weights, too
    assert torch.allclose(decode(codes), run.decode(codes), atol=1e-5)
    card = (folder / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["license"] == "mit"
    assert "genlab train model=ogan" in card
    genlab("sample", "run=made", "num=2", "out=samples", cwd=tmp_path)
    assert (tmp_path / "samples" / "grid.png").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["format=safetensor"], "Did you mean 'safetensors'?"),
        (["out={run}"], "out={run}: "),
        *([] if ONNX else [(["format=onnx"], "pip install 'genlab[export]'")]),
    ],
)
def test_an_impossible_export_is_an_error_of_one_line(genlab, trained, tmp_path, words, expected):
    words = [word.format(run=trained) for word in words]
    done = genlab("export", f"run={trained}", *words, cwd=tmp_path, check=False)
    assert done.returncode == 2, done.stderr
    assert expected.format(run=trained) in done.stderr
    assert "Traceback" not in done.stderr
