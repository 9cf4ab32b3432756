"""The command line as a user types it, in real processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import genlab as package

TRAIN_HELP = """
import sys
from genlab.cli import main

sys.argv = ["genlab", "train", "--help"]
try:
    main()
except SystemExit as stop:
    assert not stop.code
assert "torch" not in sys.modules
"""


def test_help_lists_commands_and_needs_no_torch(genlab, tmp_path):
    assert "train" in genlab("--help", cwd=tmp_path).stdout
    code = "import sys, genlab.cli; sys.exit('torch' in sys.modules or 'lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    done = subprocess.run([sys.executable, "-c", TRAIN_HELP], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    groups = dict(line.split(": ", 1) for line in done.stdout.splitlines() if line.count(": ") == 1)
    assert {"dcgan", "ogan"} <= set(groups["model"].split(", "))
    assert "hinge" in groups["loss"].split(", ")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["train", "seedd=3"], "Did you mean 'seed'?"),
        (["train", "model.latent_dmi=3"], "Did you mean 'model.latent_dim'?"),
        (["train", "model=ogna"], "Did you mean 'ogan'?"),
        (["train", "loss=hing"], "Did you mean 'hinge'?"),
        (["train", "+model.latent_dmi=3"], "Did you mean 'latent_dim'?"),
        (["train", "+evalaute=false"], "Did you mean 'evaluate'?"),
        (["train", "model.update=shred"], "Did you mean 'shared'?"),
        (["train", "model.update=scaled"], "use model.update=shared"),
        (["train", "model.out_dim=3"], "model.out_dim"),
        (["train", "model=glow", "loss=hinge"], "error: loss: "),
        (["train", "run=nowhere"], "run=nowhere: "),
        (["sample"], "run=: "),
        (["eval", "run=nowhere"], "run=nowhere"),
        (["train", "-m", "trainer=ddp_cpu", "seed=1,2"], "trainer=ddp with -m"),
        (["train", "--experimental-rerun", "x.pickle"], "--experimental-rerun "),
    ],
)
def test_a_users_error_is_one_line_and_exit_code_2(genlab, tmp_path, words, expected):
    done = genlab(*words, cwd=tmp_path, check=False)
    assert done.returncode == 2 or ("-m" in words and done.returncode), done.stderr
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_a_traceback_on_request(genlab, tmp_path):
    done = genlab("train", "seedd=3", cwd=tmp_path, check=False, env={"HYDRA_FULL_ERROR": "1"})
    assert done.returncode
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("words", [["--help"], ["train", "--cfg", "job"], ["sample", "num=4"]])
def test_a_closed_output_is_no_error(trained, tmp_path, words):
    words = [*words, f"run={trained}", f"out={tmp_path}"] if words[0] == "sample" else words
    read, write = os.pipe()
    os.close(read)  # as `| head -0` does
    done = subprocess.run(
        [sys.executable, "-m", "genlab.cli", *words],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    os.close(write)
    assert (done.returncode, "Error" in done.stderr) == (141, False), done.stderr


def test_a_run_writes_its_files(trained):
    manifest = json.loads((trained / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["steps"] == 6
    assert manifest["images_seen"] == 96
    assert manifest["data"]["name"] == "mnist5k" and manifest["metrics"]
    names = {str(p.relative_to(trained)) for p in trained.rglob("*") if p.is_file()}
    assert {"config.yaml", "metrics.csv", "report.html"} <= names
    assert {"checkpoints/last.ckpt", "checkpoints/best.ckpt"} <= names
    assert {"samples/fixed_000006.png", "samples/reconstruction_000006.png"} <= names
    rows = (trained / "metrics.csv").read_text().splitlines()
    assert len(rows) == 7
    assert [r.split(",")[0] for r in rows] == ["step", "1", "2", "3", "4", "5", "6"]


def test_checkpoints_load_weights_only(trained):
    for name in ("last", "best"):
        checkpoint = torch.load(trained / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert checkpoint["global_step"] in (3, 6)
        assert checkpoint["ema"]
        assert checkpoint["state_dict"]


def test_a_run_is_used_from_python(trained):
    model = package.load(trained)
    images = model.sample(4, seed=3)
    codes = model.encode(images)
    again = model.reconstruct(images)
    assert images.shape == again.shape == (4, 1, 32, 32) and codes.shape == (4, 32)
    assert torch.equal(images, model.sample(4, seed=3))
    assert not torch.equal(images, model.sample(4, seed=4))
    raw = package.load(trained, weights="raw")
    assert not torch.equal(raw.sample(4, seed=3), images)


def test_the_other_commands_need_only_the_run_directory(genlab, trained, tmp_path):
    for picture in ("grid.png", "interpolate.png", "reconstruct.png", "walk.gif"):
        mode = picture.partition(".")[0]
        done = genlab("sample", f"run={trained}", f"mode={mode}", "num=4", "out=made", cwd=tmp_path)
        for name in (picture, f"{mode}.npz"):
            assert (tmp_path / "made" / name).stat().st_size > 0
            assert name in done.stdout
    genlab("encode", f"run={trained}", "split=test", "out=codes.npz", cwd=tmp_path)
    codes = np.load(tmp_path / "codes.npz")
    assert codes["codes"].shape == (500, 32) and codes["codes"].dtype == np.float32
    assert len(codes["labels"]) == len(codes["ids"]) == 500
    words = ["input=made/grid.png", "data.resize=lanczos", "out=one.npz"]
    genlab("encode", f"run={trained}", *words, cwd=tmp_path)
    assert np.load(tmp_path / "one.npz")["codes"].shape == (1, 32)
    done = genlab("eval", f"run={trained}", "features=random", "num=50", cwd=tmp_path)
    results = json.loads((trained / "eval" / "metrics.json").read_text())
    assert results["fid"]["features"].startswith("random") and results["fid"]["comparable"] is False
    assert results["fid"]["weights"] == "ema"
    assert "metrics.json" in done.stdout
    wrong = genlab("sample", f"run={trained}", "mode=gird", cwd=tmp_path, check=False)
    assert wrong.returncode == 2, wrong.stderr
    assert "Did you mean 'grid'?" in wrong.stderr
    useless = genlab("sample", f"run={trained}", "steps=4", cwd=tmp_path, check=False)
    assert useless.returncode == 2, useless.stderr
    assert "error: steps=4: " in useless.stderr


def test_what_a_model_cannot_do_is_refused(genlab, tiny, tmp_path):
    genlab("train", "model=dcgan", *tiny, "trainer.max_steps=2", "hydra.run.dir=run", cwd=tmp_path)
    done = genlab("encode", "run=run", "split=test", cwd=tmp_path, check=False)
    assert done.returncode == 2, done.stderr
    assert "error: method=encoder " in done.stderr
    assert "OGAN" in done.stderr  # one that has an encoder
    genlab("sample", "run=run", "num=2", "out=made", cwd=tmp_path)
    words = ["input=made/grid.npz", "method=optimize", "out=codes.npz"]
    genlab("encode", "run=run", *words, cwd=tmp_path)
    assert np.load(tmp_path / "codes.npz")["codes"].shape == (2, 100)


def test_a_sweep_continues_after_a_failed_job(genlab, tiny, tmp_path):
    words = ["model.update=scaled,shared", *tiny, "trainer.max_steps=2", "hydra.sweep.dir=sweep"]
    done = genlab("train", "-m", *words, cwd=tmp_path, check=False)
    assert done.returncode != 0, done.stderr
    assert "job 0 failed" in done.stderr
    manifests = (tmp_path / "sweep").glob("*/manifest.json")
    statuses = [json.loads(path.read_text())["status"] for path in manifests]
    assert sorted(statuses) == ["failed", "finished"]


def test_a_run_directory_is_used_once(genlab, trained, tiny):
    done = genlab("train", *tiny, "hydra.run.dir=run", cwd=trained.parent, check=False)
    assert done.returncode == 2, done.stderr
    assert "hydra.run.dir=" in done.stderr


def test_tab_completes_commands_and_their_keys(tmp_path):
    bin_dir = Path(sys.executable).parent

    def complete(line):
        environment = os.environ | {"PATH": f"{bin_dir}:{os.environ['PATH']}"}
        environment |= {"COMP_LINE": line, "COMP_POINT": str(len(line))}
        command = ["genlab", "-sc", "query=bash"]
        options = {"env": environment, "cwd": tmp_path, "capture_output": True, "text": True}
        done = subprocess.run(command, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    assert complete("genlab ") == ["train", "sample", "encode", "eval", "export"]
    assert complete("genlab tr") == ["train"]
    assert {"model=dcgan", "model=ogan"} <= set(complete("genlab train model="))
    assert "trainer.max_steps=" in complete("genlab train model=ogan trainer.max_s")
    assert "weights=" in complete("genlab sample w")
    install = [bin_dir / "genlab", "-sc", "install=bash"]
    script = subprocess.run(install, capture_output=True, text=True).stdout
    assert script.strip().endswith("genlab")
