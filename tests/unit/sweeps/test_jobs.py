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
    assert not set("/ ,=") & set(odd) and len(odd) < 100


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
    assert sweep_jobs.folder_override(["seed=1"]) == []
    assert sweep_jobs.folder_override([*words, "hydra.sweep.subdir=x"]) == []


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
    assert [row["test/fid"] for row in rows] == ["3.5", "", "", "2.5"]
    assert [row["seed"] for row in rows] == list("1234")
    assert rows[1]["error"] == "ValueError: model.x=1: no" and "model" not in rows[0]
    printed = capsys.readouterr().out
    assert "job 1: ValueError: model.x=1: no" in printed and "killed" in printed


def test_jobs_are_compared_by_what_all_of_them_have(tmp_path):
    jobs = [{"status": "finished", "metric": None, "metrics": {"test/fid": 1.0, "val/x": 2.0}}]
    assert summary.chosen_metric(jobs) == "test/fid"
    jobs.append({"status": "finished", "metric": None, "metrics": {"val/x": 2.0}})
    failed = {"status": "failed", "metric": None, "metrics": {}}
    assert summary.chosen_metric([*jobs, failed]) == "val/x"
    assert summary.chosen_metric([failed | {"metric": "val/y"}]) == "val/y"
    assert summary.chosen_metric([failed]) is None


def test_two_processes_cannot_train_in_one_directory(tmp_path):
    with runs.lock(tmp_path / "run"):
        with (
            pytest.raises(runs.RunError, match=str(tmp_path / "run")),
            runs.lock(tmp_path / "run"),
        ):
            pass
        with runs.lock(tmp_path / "run", writes=False):
            pass
    with runs.lock(tmp_path / "run"):
        pass


def finished(metric, *values, **declared):
    """A job for each value of `metric`; nan: it diverged, a negative one: it failed."""
    return [
        {
            "status": "failed" if value < 0 else "finished",
            "metric": None,
            "metrics": {metric: value},
            "higher_is_better": {name.replace("__", "/"): up for name, up in declared.items()},
        }
        for value in values
    ]


@pytest.mark.parametrize(
    ("metric", "best"),
    [
        ("test/fid", 2.0),
        ("val/bits_per_dim", 2.0),
        ("test/accuracy", 4.0),
        ("test/em", 4.0),
        ("test/distinct_2", 4.0),
        ("test/tokens_per_second", 4.0),
        ("test/self_bleu", 2.0),
        ("test/perplexity form=5x8", 2.0),
        ("fid", 2.0),
    ],
)
def test_the_best_job_follows_the_direction_of_genlabs_metrics(metric, best):
    jobs = finished(metric, 3.0, 2.0, -1.0, float("nan"), 4.0)
    higher = summary.direction_of(jobs, metric)
    assert summary.best_of(jobs, metric, higher)["metrics"][metric] == best
    assert summary.best_of(jobs[:1], metric, higher) is None


def test_the_best_job_follows_what_a_metric_declares():
    for up, best in ((True, 4.0), (False, 3.0)):
        jobs = finished("test/psnr", 3.0, 4.0, test__psnr=up)
        higher = summary.direction_of(jobs, "test/psnr")
        assert summary.best_of(jobs, "test/psnr", higher)["metrics"]["test/psnr"] == best


def test_no_job_is_best_by_a_metric_without_a_direction(tmp_path, capsys):
    for metric in ("test/mine", "test/nearest_train", "val/score_real", None):
        jobs = finished(metric or "x", 3.0, 4.0)
        assert summary.direction_of(jobs, metric) is None
        assert summary.best_of(jobs, metric, None) is None
    summary.print_best(tmp_path, finished("test/mine", 3.0, 4.0), None)
    assert "higher_is_better" in capsys.readouterr().err
    jobs = [job | {"metric": "val/mine"} for job in finished("val/mine", 3.0, 4.0)]
    summary.print_best(tmp_path, [job | {"folder": "a"} for job in jobs], None)
    assert "callbacks.checkpoint.monitor=val/mine" in capsys.readouterr().err
    summary.print_best(tmp_path, [job | {"folder": "a"} for job in jobs], True)
    assert "val/mine 4" in capsys.readouterr().err


def test_directions_are_read_from_what_jobs_left(tmp_path):
    entry = {"value": 3.0, "higher_is_better": True}
    runs.write_text(tmp_path / "a" / "eval" / "metrics.json", json.dumps({"psnr": entry}))
    config = "callbacks: {checkpoint: {monitor: val/mine, mode: max}}"
    runs.write_text(tmp_path / "a" / "config.yaml", config)
    results = {"other": {"value": 1.0, "higher_is_better": False, "split": "test"}}
    sweep_jobs.run_job(lambda: results, tmp_path / "a", [], None, 0)
    (job,) = summary.jobs_of(tmp_path)
    assert job["higher_is_better"] == {"val/mine": True, "test/psnr": True, "other": False}
    assert job["metrics"] == {"other": 1.0} and summary.chosen_metric([job]) == "other"


def test_a_sweepers_direction_is_that_of_the_optimised_metric(tmp_path):
    for sweeper, higher in (
        ({"direction": "maximize"}, True),
        ({"direction": "minimize"}, False),
        ({"direction": ["minimize", "maximize"]}, None),
        ({}, None),
    ):
        assert sweep_jobs.sweeper_direction(sweeper) is higher
    for number in range(2):
        leave(tmp_path, number, number, result=float(number))
    summary.summarise(tmp_path, Console(quiet=True), higher=True)
    page = (tmp_path / "report.html").read_text()
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert data["higher_is_better"] == {"test/fid": True}
