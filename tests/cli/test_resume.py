"""An interrupted run ends bit for bit where an uninterrupted one does."""

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

LONG = ["trainer.max_steps=60", "trainer.val_check_interval=20"]
LONG += ["callbacks.checkpoint.every_num_steps=7"]


@pytest.fixture
def assert_same_end(same_weights):
    def check(one: Path, other: Path):
        """Two runs' last checkpoints are identical, and the runs have seen as many images."""
        paths = [run / "checkpoints" / "last.ckpt" for run in (one, other)]
        same_weights(*(torch.load(path, weights_only=True) for path in paths))
        manifests = [json.loads((run / "manifest.json").read_text()) for run in (one, other)]
        assert manifests[0]["images_seen"] == manifests[1]["images_seen"]

    return check


@pytest.fixture(scope="module")
def uninterrupted(genlab, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    genlab("train", *tiny, *LONG, "hydra.run.dir=run", cwd=folder)
    return folder / "run"


@pytest.fixture
def start(warm, tmp_path):
    """start(*words) starts `genlab train` beside the test, which writes to log.txt."""
    log = tmp_path / "log.txt"
    return lambda *words: warm.start(["train", *words], tmp_path, log, log)


def wait_for(path: Path, process, seconds=120):
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)


def steps_of(run: Path) -> list[str]:
    rows = (run / "metrics.csv").read_text().splitlines()
    return [row.split(",")[0] for row in rows]


def test_killed_at_random_steps(assert_same_end, genlab, start, tiny, uninterrupted, tmp_path):
    process = start(*tiny, *LONG, "hydra.run.dir=run")
    seed = random.randrange(2**32)
    draw = random.Random(seed)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    for _ in range(3):
        wait_for(last, process)
        time.sleep(draw.uniform(0.0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        # A kill never leaves half a checkpoint.
        if torch.load(last, weights_only=True)["global_step"] == 60:
            break
        last.rename(tmp_path / "from.ckpt")
        process = start("run=run", f"ckpt={tmp_path / 'from.ckpt'}")
    else:
        code, _ = process.wait()
        assert code == 0, (seed, (tmp_path / "log.txt").read_text())
    if json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] != "finished":
        genlab("train", "run=run", cwd=tmp_path)
    assert_same_end(tmp_path / "run", uninterrupted)
    assert steps_of(tmp_path / "run") == steps_of(uninterrupted)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_says_how_to_resume(
    assert_same_end, genlab, start, tiny, uninterrupted, tmp_path, signum, code
):
    process = start(*tiny, *LONG, "hydra.run.dir=run")
    wait_for(tmp_path / "run" / "checkpoints" / "last.ckpt", process)
    process.send_signal(signum)
    found, _ = process.wait()
    output = (tmp_path / "log.txt").read_text()
    assert found == code, output
    assert "genlab train run=" in output
    assert "saved" in output
    assert "Traceback" not in output
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["status"] == "interrupted" and 7 <= manifest["steps"] < 60
    genlab("train", "run=run", cwd=tmp_path)
    assert_same_end(tmp_path / "run", uninterrupted)


def test_more_steps_continue_a_finished_run(assert_same_end, genlab, tiny, uninterrupted, tmp_path):
    words = [word for word in LONG if "max_steps" not in word]
    genlab("train", *tiny, *words, "trainer.max_steps=37", "hydra.run.dir=run", cwd=tmp_path)
    again = genlab("train", "run=run", cwd=tmp_path, check=False)
    assert again.returncode == 2, again.stderr
    assert "trainer.max_steps=37: " in again.stderr
    assert " trainer.max_steps=74" in again.stderr
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
    assert again.returncode == 2, again.stderr
    assert "trainer.max_steps=60: " in again.stderr
    assert "error" not in json.loads((tmp_path / "run" / "manifest.json").read_text())


def test_a_full_disk_leaves_the_previous_checkpoint_whole(warm, genlab, tiny, tmp_path):
    words = [*tiny, *LONG, "trainer.max_steps=7", "callbacks.grids=null", "hydra.run.dir=run"]
    genlab("train", *words, cwd=tmp_path)
    before = (tmp_path / "run" / "checkpoints" / "last.ckpt").read_bytes()
    log = tmp_path / "log.txt"
    words = ["train", "run=run", "trainer.max_steps=20"]
    code, _ = warm.run(words, tmp_path, log, log, largest_file=10_000)
    printed = log.read_text()
    assert code == 2, printed
    assert "checkpoints/last.ckpt: " in printed
    assert "genlab train run=" in printed
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").read_bytes() == before
    assert not list((tmp_path / "run" / "checkpoints").glob("*.tmp"))


def test_other_data_and_damaged_checkpoints_are_refused(genlab, tiny, tmp_path):
    genlab("train", *tiny, "trainer.max_steps=2", "hydra.run.dir=run", cwd=tmp_path)
    words = ["train", "run=run", "trainer.max_steps=4"]
    done = genlab(*words, "data.resize=bilinear", cwd=tmp_path, check=False)
    assert done.returncode == 2, done.stderr
    assert "data.resize=bilinear" in done.stderr
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:1000])
    done = genlab(*words, cwd=tmp_path, check=False)
    assert done.returncode == 2, done.stderr
    assert "checkpoints/last.ckpt: " in done.stderr
