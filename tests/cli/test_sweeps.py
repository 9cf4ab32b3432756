"""A user starts, stops, resumes and extends a sweep, with each launcher that is installed."""

import csv
import importlib.util
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

SHORT = ["trainer.max_steps=2", "trainer.val_check_interval=2", "callbacks.grids=null"]
SHORT += ["hydra.sweep.dir=sweep"]
# Long enough to be killed between two checkpoints
LONG = ["trainer.max_steps=60", "trainer.val_check_interval=30", "callbacks.grids=null"]
LONG += ["callbacks.checkpoint.every_num_steps=5"]


def statuses(sweep: Path) -> dict[str, str]:
    """{directory of a job without its hash: its status}."""
    found = {}
    for path in sorted(sweep.glob("*/status.json")):
        found[path.parent.name.rpartition("-")[0]] = json.loads(path.read_text())["status"]
    return found


def steps(sweep: Path) -> list[int]:
    return [json.loads(path.read_text())["steps"] for path in sorted(sweep.glob("*/manifest.json"))]


def needs(plugin: str):
    absent = importlib.util.find_spec(f"hydra_plugins.{plugin}") is None
    return pytest.mark.skipif(absent, reason=f"{plugin} is not installed")


def test_an_extended_sweep_skips_its_finished_jobs(genlab, tiny, tmp_path):
    genlab("train", "-m", "seed=1,2", *tiny, *SHORT, cwd=tmp_path)
    checkpoints = list((tmp_path / "sweep").glob("seed_*/checkpoints/last.ckpt"))
    before = [path.stat().st_mtime_ns for path in checkpoints]
    done = genlab("train", "-m", "seed=3,2,1", *tiny, *SHORT, cwd=tmp_path)
    assert len(before) == 2
    assert [path.stat().st_mtime_ns for path in checkpoints] == before
    assert statuses(tmp_path / "sweep") == dict.fromkeys(("seed_1", "seed_2", "seed_3"), "finished")
    for path in checkpoints:
        assert f"sweep/{path.parts[-3]}: finished before" in done.stderr
    with open(tmp_path / "sweep" / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["seed"] for row in rows} == {"1", "2", "3"}
    assert all(float(row["val/fid_random"]) > 0 for row in rows)


def test_a_killed_sweep_resumes_and_ends_where_an_uninterrupted_one_does(
    warm, genlab, tiny, tmp_path, same_weights
):
    import torch

    words = [*tiny, *LONG, "seed=1,2"]
    log = tmp_path / "log.txt"
    process = warm.start(["train", "-m", *words, "hydra.sweep.dir=sweep"], tmp_path, log, log)
    while not list((tmp_path / "sweep").glob("seed_1*/checkpoints/last.ckpt")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert statuses(tmp_path / "sweep").get("seed_1") == "running"
    done = genlab("train", "-m", *words, "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert set(statuses(tmp_path / "sweep").values()) == {"finished"}
    assert "summary" in done.stderr
    genlab("train", *words[:-1], "seed=1", "hydra.run.dir=whole", cwd=tmp_path)
    first = next((tmp_path / "sweep").glob("seed_1*"))
    paths = [run / "checkpoints" / "last.ckpt" for run in (first, tmp_path / "whole")]
    same_weights(*(torch.load(path, weights_only=True) for path in paths))
    assert json.loads((first / "manifest.json").read_text())["resumed"]


def test_a_stopped_sweep_says_how_to_resume(warm, tiny, tmp_path):
    words = [*tiny, *SHORT, "trainer.max_steps=3000", "trainer.val_check_interval=3", "seed=1,2"]
    log = tmp_path / "log.txt"
    process = warm.start(["train", "-m", *words], tmp_path, log, log)
    while not list((tmp_path / "sweep").glob("seed_1*/metrics.csv")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    code, _ = process.wait()
    printed = log.read_text()
    assert code == 130, printed
    assert "\n  genlab train -m " in printed
    assert "hydra.sweep.dir=sweep" in printed
    assert "Traceback" not in printed
    assert statuses(tmp_path / "sweep") == {"seed_1": "interrupted"}


def test_a_directory_that_holds_another_run_is_refused(genlab, tiny, tmp_path):
    words = ["train", "-m", *tiny, *SHORT, "hydra.sweep.subdir=x"]
    genlab(*words, "seed=1", cwd=tmp_path)
    done = genlab(*words, "seed=2", cwd=tmp_path, check=False)
    assert done.returncode == 1, done.stderr
    assert "sweep/x: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("word", "extra"), [("hydra/launcher=joblib", "joblib"), ("sweep=optuna", "optuna")]
)
def test_a_missing_plugin_is_named_with_its_extra(word, extra):
    from genlab.explain import explain

    group = {"sweep=optuna": "hydra/sweeper/optuna"}.get(word, word.replace("=", "/"))
    error = f"Could not find '{group}'\n\nAvailable options in 'x':\n\tbasic\nConfig search path:"
    assert f"pip install 'genlab[{extra}]'" in explain(ValueError(error), "train")


@needs("hydra_joblib_launcher")
def test_two_jobs_at_once_of_which_one_fails(genlab, tiny, tmp_path):
    words = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", *tiny, *SHORT]
    words += ["model.update=scaled,shared"]
    done = genlab("train", "-m", *words, cwd=tmp_path, check=False)
    assert done.returncode == 1, done.stderr
    assert "1 of 2 jobs" in done.stderr
    assert sorted(statuses(tmp_path / "sweep").values()) == ["failed", "finished"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param("ray", marks=needs("hydra_ray_launcher")),
        pytest.param("submitit_local", marks=needs("hydra_submitit_launcher")),
    ],
)
def test_jobs_on_a_local_cluster(genlab, tiny, tmp_path, launcher):
    genlab("train", "-m", "seed=1,2", f"hydra/launcher={launcher}", *tiny, *SHORT, cwd=tmp_path)
    assert set(statuses(tmp_path / "sweep").values()) == {"finished"}
    assert steps(tmp_path / "sweep") == [2, 2]


@pytest.mark.slow
@needs("hydra_ray_launcher")
@pytest.mark.parametrize("retries", [3, 0])
def test_the_job_of_a_killed_ray_worker_resumes_from_its_checkpoint(tiny, tmp_path, retries):
    words = [*tiny, *LONG, "seed=1,2", "hydra.sweep.dir=sweep", "hydra/launcher=ray"]
    words += [f"+hydra.launcher.ray.remote.max_retries={retries}"]
    command = [str(Path(sys.executable).with_name("genlab")), "train", "-m", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    options = {"cwd": tmp_path, "env": environment}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)
    while not (saved := list((tmp_path / "sweep").glob("*/checkpoints/last.ckpt"))):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(json.loads((saved[0].parents[1] / "status.json").read_text())["pid"], signal.SIGKILL)
    _, printed = process.communicate(timeout=300)
    if retries:  # Ray runs the job again by itself
        assert process.returncode == 0, printed
    else:
        assert process.returncode == 1, printed
        assert "killed" in printed, printed
        assert "\n  genlab train -m " in printed, printed
        assert "Traceback" not in printed
        subprocess.run(command, check=True, capture_output=True, timeout=300, **options)
    assert set(statuses(tmp_path / "sweep").values()) == {"finished"}
    assert steps(tmp_path / "sweep") == [60, 60]
    assert json.loads((saved[0].parents[1] / "manifest.json").read_text())["resumed"]


@needs("hydra_optuna_sweeper")
def test_a_study_is_a_file_and_is_extended(genlab, tiny, tmp_path):
    words = ["sweep=optuna", "hydra.sweeper.n_trials=2", *tiny, *SHORT]
    words += ["model.generator_lr=tag(log,interval(1e-5,1e-3))"]
    for trials in (2, 4):
        genlab("train", "-m", *words, cwd=tmp_path)
        with sqlite3.connect(tmp_path / "sweep" / "study.db") as study:
            found = study.execute("select value from trial_values").fetchall()
        assert len(found) == trials
        assert all(value > 0 for (value,) in found)
        assert len(steps(tmp_path / "sweep")) == trials
