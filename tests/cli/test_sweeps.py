"""Sweeps as a user starts, stops, continues and extends them, by each launcher that is installed."""

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

SHORT = [
    "trainer.max_steps=2",
    "trainer.val_check_interval=2",
    "callbacks.grids=null",
    "hydra.sweep.dir=sweep",
]


def statuses(sweep: Path) -> dict[str, str]:
    return {
        p.parent.name.rpartition("-")[0]: json.loads(p.read_text())["status"]
        for p in sorted(sweep.glob("*/status.json"))
    }


def steps(sweep: Path) -> list[int]:
    return [json.loads(p.read_text())["steps"] for p in sorted(sweep.glob("*/manifest.json"))]


def needs(plugin: str):
    return pytest.mark.skipif(
        importlib.util.find_spec(f"hydra_plugins.{plugin}") is None,
        reason=f"{plugin} is not installed",
    )


def test_a_sweep_is_extended_without_doing_its_jobs_again(genlab, tiny, tmp_path):
    genlab("train", "-m", "seed=1,2", *tiny, *SHORT, cwd=tmp_path)
    before = {
        p: p.stat().st_mtime_ns for p in (tmp_path / "sweep").glob("seed_*/checkpoints/last.ckpt")
    }
    done = genlab("train", "-m", "seed=3,2,1", *tiny, *SHORT, cwd=tmp_path)
    assert len(before) == 2 and all(p.stat().st_mtime_ns == then for p, then in before.items())
    assert statuses(tmp_path / "sweep") == {
        "seed_1": "finished",
        "seed_2": "finished",
        "seed_3": "finished",
    }
    assert done.stderr.count("finished before, with the same config") == 2
    with open(tmp_path / "sweep" / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["seed"] for row in rows} == {"1", "2", "3"}
    assert all(float(row["val/fid_random"]) > 0 for row in rows)


def test_a_killed_sweep_goes_on_and_ends_as_if_it_had_not_been(
    warm, genlab, tiny, tmp_path, same_weights
):
    import torch

    words = [
        *tiny,
        "trainer.max_steps=60",
        "callbacks.checkpoint.every_num_steps=5",
        "trainer.val_check_interval=30",
    ]
    words += ["callbacks.grids=null", "seed=1,2"]
    log = tmp_path / "log.txt"
    process = warm.start(["train", "-m", *words, "hydra.sweep.dir=sweep"], tmp_path, log, log)
    while not list((tmp_path / "sweep").glob("seed_1*/checkpoints/last.ckpt")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert statuses(tmp_path / "sweep").get("seed_1") == "running"
    done = genlab("train", "-m", *words, "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert set(statuses(tmp_path / "sweep").values()) == {"finished"} and "summary" in done.stderr
    genlab("train", *words[:-1], "seed=1", "hydra.run.dir=whole", cwd=tmp_path)
    first = next((tmp_path / "sweep").glob("seed_1*"))
    read = [
        torch.load(d / "checkpoints" / "last.ckpt", weights_only=True)
        for d in (first, tmp_path / "whole")
    ]
    same_weights(*read)
    assert json.loads((first / "manifest.json").read_text())["resumed"]


def test_a_stopped_sweep_says_how_to_go_on(warm, tiny, tmp_path):
    words = [
        *tiny,
        "trainer.max_steps=3000",
        "callbacks.grids=null",
        "seed=1,2",
        "hydra.sweep.dir=sweep",
    ]
    log = tmp_path / "log.txt"
    process = warm.start(["train", "-m", *words], tmp_path, log, log)
    while not list((tmp_path / "sweep").glob("seed_1*/metrics.csv")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    code, _ = process.wait()
    told = log.read_text()
    assert code == 130
    assert "To go on" in told
    assert "hydra.sweep.dir=sweep" in told
    assert "Traceback" not in told
    assert statuses(tmp_path / "sweep") == {"seed_1": "interrupted"}


def test_a_directory_with_another_run_in_it_is_not_gone_on_with(genlab, tiny, tmp_path):
    genlab("train", "-m", "seed=1", *tiny, *SHORT, "hydra.sweep.subdir=x", cwd=tmp_path)
    done = genlab(
        "train", "-m", "seed=2", *tiny, *SHORT, "hydra.sweep.subdir=x", cwd=tmp_path, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "has another config than this job" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("word", "extra"), [("hydra/launcher=joblib", "joblib"), ("sweep=optuna", "optuna")]
)
def test_a_plugin_that_is_not_there_is_named_with_its_extra(word, extra):
    from genlab.explain import explain

    group = {"sweep=optuna": "hydra/sweeper/optuna"}.get(word, word.replace("=", "/"))
    error = f"Could not find '{group}'\n\nAvailable options in 'x':\n\tbasic\nConfig search path:"
    assert f"pip install 'genlab[{extra}]'" in explain(ValueError(error), "train")


@needs("hydra_joblib_launcher")
def test_jobs_on_several_cores_and_one_that_fails(genlab, tiny, tmp_path):
    words = [
        "model.update=scaled,shared",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        *tiny,
        *SHORT,
    ]
    done = genlab("train", "-m", *words, cwd=tmp_path, check=False)
    assert done.returncode == 1, done.stderr
    assert "1 of 2 jobs are not finished" in done.stderr, done.stderr
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
def test_a_lost_ray_worker_costs_what_it_did_since_its_checkpoint(tiny, tmp_path, retries):
    words = [
        *tiny,
        "trainer.max_steps=60",
        "callbacks.checkpoint.every_num_steps=5",
        "trainer.val_check_interval=30",
    ]
    words += [
        "callbacks.grids=null",
        "seed=1,2",
        "hydra/launcher=ray",
        f"+hydra.launcher.ray.remote.max_retries={retries}",
    ]
    command = [
        str(Path(sys.executable).with_name("genlab")),
        "train",
        "-m",
        *words,
        "hydra.sweep.dir=sweep",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    while not (saved := list((tmp_path / "sweep").glob("*/checkpoints/last.ckpt"))):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(json.loads((saved[0].parents[1] / "status.json").read_text())["pid"], signal.SIGKILL)
    _, told = process.communicate(timeout=300)
    if not retries:  # or Ray runs the job again by itself
        assert process.returncode == 1, told
        assert "killed, or its machine was lost" in told, told
        assert "To go on" in told, told
        assert "Traceback" not in told
        subprocess.run(
            command, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=300
        )
    else:
        assert process.returncode == 0, told
    assert set(statuses(tmp_path / "sweep").values()) == {"finished"}
    assert steps(tmp_path / "sweep") == [60, 60]
    assert json.loads((saved[0].parents[1] / "manifest.json").read_text())["resumed"]


@needs("hydra_optuna_sweeper")
def test_a_study_is_a_file_and_goes_on(genlab, tiny, tmp_path):
    words = [
        "sweep=optuna",
        "hydra.sweeper.n_trials=2",
        "model.generator_lr=tag(log,interval(1e-5,1e-3))",
        *tiny,
        *SHORT,
    ]
    for trials in (2, 4):
        genlab("train", "-m", *words, cwd=tmp_path)
        with sqlite3.connect(tmp_path / "sweep" / "study.db") as study:
            found = study.execute("select value from trial_values").fetchall()
        assert len(found) == trials and all(value > 0 for (value,) in found)
        assert len(steps(tmp_path / "sweep")) == trials
