"""What a continued run may change, what it keeps, and what is left of a run whose continuation was
refused.
"""

import json
import os
import re
import shutil
import signal

import pytest
import torch
import yaml

from genlab import config, runs

FLOW = [
    "model=realnvp",
    "data=moons",
    "net.num_couplings=2",
    "trainer=cpu",
    "trainer.max_steps=4",
    "trainer.val_check_interval=2",
]
FLOW += ["callbacks.grids=null", "data.num_val=50", "trainer.log_every_n_steps=1", "evaluate=false"]


@pytest.fixture(scope="module")
def flow(trained_in, tmp_path_factory):
    run = tmp_path_factory.mktemp("flow") / "run"
    trained_in(run, *FLOW)
    return run


def content(run) -> dict[str, bytes]:
    return {
        str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()
    }


def last(run) -> dict:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["model=glow"], "model=glow"),
        (["data=rings"], "data=rings"),
        (["optimizer=adam"], "optimizer=adam"),
        (["+penalty=r1"], "penalty=r1"),
        (["net.num_couplings=3"], "net.num_couplings=3"),
        (["data.batch_size=7"], "data.batch_size=7"),
        (["seed=5"], "seed=5"),
        (["model.optimizer._target_=torch.optim.AdamW"], "model.optimizer._target_"),
        (["trainer.max_time=00:00:00:00"], "trainer.max_time"),
        (["data.num_val=60"], "data.num_val=60"),
        (["callbacks.ema.modules=[pixels]"], "callbacks.ema.modules"),
    ],
)
def test_what_a_run_keeps_is_refused_and_nothing_is_touched(flow, trained_in, words, key):
    before = content(flow)
    with pytest.raises(ValueError, match=re.escape(key)) as refused:
        trained_in(
            flow, f"run={flow}", "trainer.max_steps=8", *[word.lstrip("+") for word in words]
        )
    assert "Did you mean" not in str(refused.value)
    assert content(flow) == before


def test_a_finished_run_is_left_alone(flow, trained_in):
    before = content(flow)
    with pytest.raises(config.ConfigError, match=r"^trainer.max_steps=4.*trainer.max_steps=8"):
        trained_in(flow, f"run={flow}", "model.lr=1e-5")
    assert content(flow) == before


def copied(flow, folder):
    return shutil.copytree(flow, folder / "run")


def test_rates_and_decay_of_a_continued_run_are_used(flow, trained_in, tmp_path):
    run = copied(flow, tmp_path)
    before = last(run)
    trained_in(
        run,
        f"run={run}",
        "trainer.max_steps=6",
        "model.lr=1e-9",
        "model.optimizer.betas=[0.5, 0.6]",
    )
    after = last(run)
    for group in after["optimizer_states"][0]["param_groups"]:
        assert group["lr"] <= 1e-9
        assert group["initial_lr"] == 1e-9
        assert list(group["betas"]) == [0.5, 0.6]
    assert after["lr_schedulers"][0]["base_lrs"] == [1e-9] * len(
        after["lr_schedulers"][0]["base_lrs"]
    )
    for name, value in before["state_dict"].items():
        assert torch.allclose(value, after["state_dict"][name], atol=1e-6)
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["lr"] == 1e-9
    trained_in(run, f"run={run}", "trainer.max_steps=7")  # and the run goes on with them
    assert last(run)["optimizer_states"][0]["param_groups"][0]["initial_lr"] == 1e-9


def test_evaluation_that_was_left_out_can_be_made_up_for(flow, trained_in, tmp_path):
    run = copied(flow, tmp_path)
    weights = (run / "checkpoints" / "last.ckpt").read_bytes()
    trained_in(run, f"run={run}", "evaluate=true")
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["stages"]["evaluation"] == manifest["status"] == "finished"
    assert "test/nll" in manifest["metrics"]
    assert {"val/nll", "train/nll"} <= manifest["metrics"].keys()
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == weights


def test_a_failed_evaluation_is_done_again(trained_in, tmp_path, monkeypatch):
    from genlab.commands import closing

    def fail(*args, **kwargs):
        raise RuntimeError("no room")

    run = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(closing.evaluation, "measure", fail)
        trained_in(run, *FLOW, "evaluate=true")
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert manifest["stages"]["evaluation"] == "failed"
    assert manifest["steps"] == 4
    trained_in(run, f"run={run}")
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert "error" not in manifest
    assert "test/nll" in manifest["metrics"]


@pytest.mark.parametrize(
    "words",
    [
        ["trainer.max_time=00:00:00:01", "trainer.max_steps=100000"],
        ["trainer.max_epochs=1", "trainer.max_steps=-1", "trainer.limit_train_batches=3"],
        [
            "+callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping",
            "+callbacks.stop.monitor=val/nll",
            "+callbacks.stop.stopping_threshold=1000",
        ],
    ],
    ids=["max_time", "limit_train_batches", "early_stopping"],
)
def test_the_last_step_is_saved_whatever_ends_the_fit(trained_in, tmp_path, words):
    run = tmp_path / "run"
    trained_in(run, *FLOW, *words, "callbacks.checkpoint.every_num_steps=1000000")
    steps = json.loads((run / "manifest.json").read_text())["steps"]
    assert last(run)["global_step"] == steps > 0
    with pytest.raises(config.ConfigError, match="at step"):
        trained_in(run, f"run={run}")


def test_a_run_without_a_checkpoint_starts_anew(flow, trained_in, tmp_path):
    run = copied(flow, tmp_path)
    (run / "checkpoints" / "last.ckpt").unlink()
    with pytest.raises(runs.RunError, match="ckpt=last"):  # finished: somebody removed it
        trained_in(run, f"run={run}", "trainer.max_steps=9")
    manifest = json.loads((run / "manifest.json").read_text()) | {
        "status": "running",
        "steps": 0,
        "stages": {},
    }
    (run / "manifest.json").write_text(json.dumps(manifest))
    trained_in(run, f"run={run}")
    assert last(run)["global_step"] == 4
    assert all(
        torch.equal(value, last(flow)["state_dict"][name])
        for name, value in last(run)["state_dict"].items()
    )
    assert content(run)["metrics.csv"].count(b"\n") == content(flow)["metrics.csv"].count(b"\n")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_two_signals_at_once_are_one(trained_in, tmp_path, monkeypatch, capsys, signum):
    from genlab.callbacks.reseed import Reseed

    def twice(self, trainer, system, outputs, batch, batch_idx):
        if trainer.global_step == 2:
            os.kill(os.getpid(), signum)
            os.kill(os.getpid(), signum)

    monkeypatch.setattr(Reseed, "on_train_batch_end", twice, raising=False)
    outside = signal.signal(signum, signal.SIG_DFL)  # where tests run in the background, ignored
    try:
        with pytest.raises(SystemExit) as stop:
            trained_in(tmp_path / "run", *FLOW)
        restored = signal.getsignal(signum)
    finally:
        signal.signal(signum, outside)
    assert stop.value.code == 128 + signum
    assert "genlab train run=" in capsys.readouterr().err
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["status"] == "interrupted"
    assert manifest["steps"] == last(tmp_path / "run")["global_step"] == 2
    assert restored is signal.SIG_DFL


def test_a_run_whose_directory_is_moved_stops_and_writes_nothing_more(
    trained_in, tmp_path, monkeypatch
):
    from genlab.callbacks.reseed import Reseed

    run, moved = tmp_path / "run", tmp_path / "moved"

    def move(self, trainer, system, batch, batch_idx):
        if trainer.global_step == 2 and run.exists():
            run.rename(moved)

    monkeypatch.setattr(Reseed, "on_train_batch_start", move)
    with pytest.raises(runs.RunError, match="moved"):
        trained_in(run, *FLOW, "callbacks.checkpoint.every_num_steps=1")
    assert not run.exists()
    monkeypatch.undo()
    trained_in(moved, f"run={moved}")
    assert last(moved)["global_step"] == 4


def test_a_forked_worker_does_not_hold_the_lock(tmp_path):
    reading, writing = os.pipe()
    with runs.lock(tmp_path):
        child = os.fork()
        if not child:
            os.read(reading, 1)  # lives on as a data loader's worker does
            os._exit(0)
        with pytest.raises(runs.RunError, match="another process"), runs.lock(tmp_path):
            pass
    with runs.lock(tmp_path):
        pass
    os.write(writing, b"x")
    os.waitpid(child, 0)
    os.close(reading)
    os.close(writing)


def test_what_a_kill_left_half_written_is_swept_up(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    left = folder / ".last.ckpt.a1b2c3_8.tmp"
    for path in (left, folder / ".mine.tmp", folder / "last.ckpt"):
        path.write_bytes(b"")
    with runs.lock(tmp_path):
        assert sorted(path.name for path in folder.iterdir()) == [".mine.tmp", "last.ckpt"]


def test_a_monitor_that_is_not_measured_is_named_once(trained_in, tmp_path, capsys):
    trained_in(tmp_path / "run", *FLOW, "callbacks.checkpoint.monitor=val/fid")
    told = capsys.readouterr().err
    assert told.count("callbacks.checkpoint.monitor=val/fid") == 1 and "val/nll" in told


def test_a_metric_that_no_job_will_have_is_refused_before_the_first_step(trained_in, tmp_path):
    with pytest.raises(config.ConfigError, match=r"^optimized_metric=test/nll"):
        trained_in(tmp_path / "run", *FLOW, "optimized_metric=test/nll")
    assert not (tmp_path / "run").exists()
