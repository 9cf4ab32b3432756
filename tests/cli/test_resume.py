"""A run that was interrupted ends bit for bit where one that was not would have."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

LONG = [
    "trainer.max_steps=60",
    "callbacks.checkpoint.every_num_steps=7",
    "trainer.val_check_interval=20",
]
GENLAB = str(Path(sys.executable).with_name("genlab"))


@pytest.fixture
def assert_same_end(same_weights):
    def check(one: Path, other: Path):
        """Two runs' last checkpoints are identical and have seen as much."""
        same_weights(
            *(
                torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
                for run in (one, other)
            )
        )
        manifests = [json.loads((run / "manifest.json").read_text()) for run in (one, other)]
        assert manifests[0]["images_seen"] == manifests[1]["images_seen"]

    return check


@pytest.fixture(scope="module")
def uninterrupted(genlab, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    genlab("train", *tiny, *LONG, "hydra.run.dir=run", cwd=folder)
    return folder / "run"


def start(tiny, folder, *words):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [GENLAB, "train", *tiny, *LONG, *words]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(path: Path, process, seconds=120):
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end, process.stdout.read()
        time.sleep(0.01)


def test_killed_at_random_steps(assert_same_end, genlab, tiny, uninterrupted, tmp_path):
    process = start(tiny, tmp_path, "hydra.run.dir=run")
    seed = random.randrange(2**32)
    draw = random.Random(seed)
    for _ in range(3):
        wait_for(tmp_path / "run" / "checkpoints" / "last.ckpt", process)
        time.sleep(draw.uniform(0.0, 0.5))
        process.kill()
        process.communicate()
        last = tmp_path / "run" / "checkpoints" / "last.ckpt"
        step = torch.load(last, weights_only=True)[
            "global_step"
        ]  # a kill never leaves half a checkpoint
        if (
            step == 60
        ):  # killed in its last moments, perhaps before it could say that it had finished
            break
        last.rename(tmp_path / "from.ckpt")
        process = subprocess.Popen(
            [GENLAB, "train", "run=run", f"ckpt={tmp_path / 'from.ckpt'}"],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    output, _ = process.communicate(timeout=300)
    assert process.returncode in (0, -9), (seed, output)
    if json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] != "finished":
        genlab("train", "run=run", cwd=tmp_path)
    assert_same_end(tmp_path / "run", uninterrupted)
    ours, theirs = (
        (run / "metrics.csv").read_text().splitlines() for run in (tmp_path / "run", uninterrupted)
    )
    assert [row.split(",")[0] for row in ours] == [row.split(",")[0] for row in theirs]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_says_how_to_go_on(
    assert_same_end, genlab, tiny, uninterrupted, tmp_path, signum, code
):
    process = start(tiny, tmp_path, "hydra.run.dir=run")
    wait_for(tmp_path / "run" / "checkpoints" / "last.ckpt", process)
    process.send_signal(signum)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == code, output
    assert "genlab train run=" in output and "saved" in output and "Traceback" not in output
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["status"] == "interrupted" and 7 <= manifest["steps"] < 60
    genlab("train", "run=run", cwd=tmp_path)
    assert_same_end(tmp_path / "run", uninterrupted)


def test_more_steps_continue_a_finished_run(assert_same_end, genlab, tiny, uninterrupted, tmp_path):
    words = [word for word in LONG if "max_steps" not in word]
    genlab("train", *tiny, *words, "trainer.max_steps=37", "hydra.run.dir=run", cwd=tmp_path)
    again = genlab("train", "run=run", cwd=tmp_path, check=False)
    assert (
        again.returncode == 2
        and "at step 37 already" in again.stderr
        and "trainer.max_steps=" in again.stderr
    )
    (tmp_path / "run").rename(tmp_path / "moved")
    genlab("train", "run=moved", "trainer.max_steps=60", cwd=tmp_path)
    assert_same_end(tmp_path / "moved", uninterrupted)
    assert not (tmp_path / "run").exists()


def test_a_run_killed_after_its_last_step_is_still_reported(genlab, uninterrupted, tmp_path):
    shutil.copytree(uninterrupted, tmp_path / "run")
    before = json.loads((tmp_path / "run" / "manifest.json").read_text())
    killed = before | {"status": "running", "steps": 0, "images_seen": 0}
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(killed))
    (tmp_path / "run" / "report.html").unlink()
    genlab("train", "run=run", cwd=tmp_path)
    after = json.loads((tmp_path / "run" / "manifest.json").read_text())
    for key in ("status", "steps", "images_seen"):
        assert after[key] == before[key]
    assert (tmp_path / "run" / "report.html").exists()
    again = genlab("train", "run=run", cwd=tmp_path, check=False)
    assert again.returncode == 2 and "at step 60 already" in again.stderr
    assert "error" not in json.loads((tmp_path / "run" / "manifest.json").read_text())


def test_a_full_disk_leaves_the_previous_checkpoint_whole(tiny, tmp_path):
    def limit():  # no file of this process may grow beyond what the first checkpoint fits in
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    words = ["trainer.max_steps=7", "callbacks.grids=null", "hydra.run.dir=run"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    subprocess.run(
        [GENLAB, "train", *tiny, *LONG, *words],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
    )
    before = (tmp_path / "run" / "checkpoints" / "last.ckpt").read_bytes()
    done = subprocess.run(
        [GENLAB, "train", "run=run", "trainer.max_steps=20"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, preexec_fn=limit,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert (
        "last.ckpt: could not be saved" in done.stderr
        and "the previous last.ckpt is whole" in done.stderr
    )
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").read_bytes() == before
    assert not list((tmp_path / "run" / "checkpoints").glob("*.tmp"))


def test_other_data_and_damaged_checkpoints_are_refused(genlab, tiny, tmp_path):
    genlab("train", *tiny, "trainer.max_steps=2", "hydra.run.dir=run", cwd=tmp_path)
    done = genlab(
        "train", "run=run", "trainer.max_steps=4", "data.resize=bilinear", cwd=tmp_path, check=False
    )
    assert done.returncode == 2 and "data.resize=bilinear" in done.stderr
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:1000])
    done = genlab("train", "run=run", "trainer.max_steps=4", cwd=tmp_path, check=False)
    assert done.returncode == 2 and "not a readable checkpoint" in done.stderr
