"""Folders of jobs, what a job leaves behind, and the summary."""

import csv
import json

import pytest
from rich.console import Console

from genlab import runs
from genlab.sweeps import jobs as sweep_jobs
from genlab.sweeps import summary


def test_a_folder_names_what_is_swept_and_tells_configs_apart():
    one = sweep_jobs.job_folder(
        ["model=ogan", "seed=1", "trainer.max_steps=4"], ["trainer.max_steps"]
    )
    assert one.startswith("model_ogan-seed_1-")
    assert one == sweep_jobs.job_folder(
        ["seed=1", "trainer.max_steps=4", "model=ogan"], ["trainer.max_steps"]
    )
    assert one != sweep_jobs.job_folder(
        ["seed=1", "trainer.max_steps=8", "model=ogan"], ["trainer.max_steps"]
    )
    assert sweep_jobs.job_folder(["model.generator_lr=0.00012345678"]).startswith(
        "generator_lr_0.0001235-"
    )
    odd = sweep_jobs.job_folder(["data.path=/photos/../a b,c", "x=" + "y" * 500])
    assert (
        "/" not in odd and " " not in odd and "," not in odd and "=" not in odd and len(odd) < 100
    )


def test_words_that_are_the_same_in_all_jobs_are_left_out():
    words = [
        "-m",
        "model=ogan,dcgan",
        "seed=1,2",
        "trainer.max_steps=4",
        "model.generator_lr=tag(log,interval(1e-5,1e-3))",
    ]
    assert sweep_jobs.folder_override(words) == [
        "hydra.sweep.subdir='${job_folder:${hydra.overrides.task},[trainer.max_steps]}'"
    ]
    assert (
        sweep_jobs.folder_override(["seed=1"]) == []
        and sweep_jobs.folder_override([*words, "hydra.sweep.subdir=x"]) == []
    )


def leave(folder, number, seed, result=None, error=None):
    def task():
        if error is not None:
            raise error
        return result

    try:
        return sweep_jobs.run_job(
            task, folder / f"seed_{seed}", [f"seed={seed}", "model=ogan"], "test/fid", number
        )
    except BaseException as raised:
        assert raised is error


def test_every_job_leaves_its_status_and_the_summary_tells_all(tmp_path, capsys):
    assert leave(tmp_path, 0, 1, result=3.5) == 3.5
    leave(tmp_path, 1, 2, error=ValueError("model.x=1: no\nmore"))
    leave(tmp_path, 2, 3, error=SystemExit(130))
    leave(tmp_path, 3, 4, result=2.5)
    status = json.loads((tmp_path / "seed_4" / "status.json").read_text())
    (tmp_path / "seed_4" / "status.json").write_text(json.dumps(status | {"status": "running"}))
    jobs = summary.summarise(tmp_path, Console(width=120))
    assert [job["status"] for job in jobs] == ["finished", "failed", "interrupted", "killed"]
    assert "Traceback" in (tmp_path / "seed_2" / "error.txt").read_text()
    assert not (tmp_path / "seed_3" / "error.txt").exists()
    with open(tmp_path / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["test/fid"] for row in rows] == ["3.5", "", "", "2.5"] and [
        row["seed"] for row in rows
    ] == list("1234")
    assert rows[1]["error"] == "ValueError: model.x=1: no" and "model" not in rows[0]
    printed = capsys.readouterr().out
    assert "job 1: ValueError: model.x=1: no" in printed and "killed" in printed


def test_jobs_are_compared_by_what_all_of_them_have(tmp_path):
    jobs = [{"status": "finished", "metric": None, "metrics": {"test/fid": 1.0, "val/x": 2.0}}]
    assert summary.chosen_metric(jobs) == "test/fid"
    jobs.append({"status": "finished", "metric": None, "metrics": {"val/x": 2.0}})
    assert (
        summary.chosen_metric([*jobs, {"status": "failed", "metric": None, "metrics": {}}])
        == "val/x"
    )
    assert (
        summary.chosen_metric([{"status": "failed", "metric": "val/y", "metrics": {}}]) == "val/y"
    )
    assert summary.chosen_metric([{"status": "failed", "metric": None, "metrics": {}}]) is None


def test_two_processes_cannot_train_in_one_directory(tmp_path):
    with runs.lock(tmp_path / "run"):
        with (
            pytest.raises(runs.RunError, match="another process is training in it"),
            runs.lock(tmp_path / "run"),
        ):
            pass
        with runs.lock(tmp_path / "run", writes=False):
            pass
    with runs.lock(tmp_path / "run"):
        pass


def test_the_best_job_is_that_of_the_lowest_fid_or_the_highest_accuracy_of_those_that_finished():
    values = [
        ("finished", 3.0),
        ("finished", 2.0),
        ("failed", 1.0),
        ("finished", float("nan")),
        ("finished", 4.0),
    ]
    for metric, best in (
        ("test/fid", 2.0),
        ("val/bits_per_dim", 2.0),
        ("test/accuracy", 4.0),
        ("test/em", 4.0),
    ):
        jobs = [{"status": status, "metrics": {metric: value}} for status, value in values]
        assert summary.best_of(jobs, metric)["metrics"][metric] == best
    assert summary.best_of(jobs[:1], "test/em") is None and summary.best_of(jobs, None) is None
