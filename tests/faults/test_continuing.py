"""What a resume may change, what the run keeps, and that a refused resume touches nothing."""

import json
import os
import re
import shutil
import signal

import pytest
import torch
import yaml

from genlab import config, runs

FLOW = ["model=realnvp", "data=moons", "net.num_couplings=2", "data.num_val=50"]
FLOW += ["trainer=cpu", "trainer.max_steps=4", "trainer.val_check_interval=2"]
FLOW += ["trainer.log_every_n_steps=1", "callbacks.grids=null", "evaluate=false"]


@pytest.fixture(scope="module")
def flow(trained_in, tmp_path_factory):
    run = tmp_path_factory.mktemp("flow") / "run"
    trained_in(run, *FLOW)
    return run


def content(run) -> dict[str, bytes]:
    files = [path for path in run.rglob("*") if path.is_file()]
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


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
def test_a_change_of_what_a_run_keeps_is_refused_and_touches_nothing(flow, trained_in, words, key):
    before = content(flow)
    words = [word.lstrip("+") for word in words]
    with pytest.raises(ValueError, match=re.escape(key)) as refused:
        trained_in(flow, f"run={flow}", "trainer.max_steps=8", *words)
    assert "Did you mean" not in str(refused.value)
    assert content(flow) == before


def test_a_finished_run_is_left_alone(flow, trained_in):
    before = content(flow)
    with pytest.raises(config.ConfigError, match=r"^trainer\.max_steps=4: .*trainer\.max_steps=8"):
        trained_in(flow, f"run={flow}", "model.lr=1e-5")
    assert content(flow) == before


def copied(flow, folder):
    return shutil.copytree(flow, folder / "run")


def test_a_resumed_run_uses_new_rates_and_decays(flow, trained_in, tmp_path):
    run = copied(flow, tmp_path)
    before = last(run)
    words = ["model.lr=1e-9", "model.optimizer.betas=[0.5, 0.6]"]
    trained_in(run, f"run={run}", "trainer.max_steps=6", *words)
    after = last(run)
    for group in after["optimizer_states"][0]["param_groups"]:
        assert group["lr"] <= 1e-9
        assert group["initial_lr"] == 1e-9
        assert list(group["betas"]) == [0.5, 0.6]
    assert set(after["lr_schedulers"][0]["base_lrs"]) == {1e-9}
    for name, value in before["state_dict"].items():
        assert torch.allclose(value, after["state_dict"][name], atol=1e-6)
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["lr"] == 1e-9
    trained_in(run, f"run={run}", "trainer.max_steps=7")  # and keeps them
    assert last(run)["optimizer_states"][0]["param_groups"][0]["initial_lr"] == 1e-9


def test_a_finished_run_is_evaluated_later(flow, trained_in, tmp_path):
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
    with pytest.raises(config.ConfigError, match=r"^trainer\.max_steps="):
        trained_in(run, f"run={run}")


def test_a_run_without_a_checkpoint_starts_anew(flow, trained_in, tmp_path):
    run = copied(flow, tmp_path)
    (run / "checkpoints" / "last.ckpt").unlink()
    with pytest.raises(runs.RunError, match="ckpt=last"):  # the run finished: it was removed
        trained_in(run, f"run={run}", "trainer.max_steps=9")
    killed = {"status": "running", "steps": 0, "stages": {}}
    manifest = json.loads((run / "manifest.json").read_text()) | killed
    (run / "manifest.json").write_text(json.dumps(manifest))
    trained_in(run, f"run={run}")
    assert last(run)["global_step"] == 4
    whole = last(flow)["state_dict"]
    for name, value in last(run)["state_dict"].items():
        assert torch.equal(value, whole[name]), name
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


def test_a_run_stops_when_its_directory_is_moved(trained_in, tmp_path, monkeypatch):
    from genlab.callbacks.reseed import Reseed

    run, moved = tmp_path / "run", tmp_path / "moved"

    def move(self, trainer, system, batch, batch_idx):
        if trainer.global_step == 2 and run.exists():
            run.rename(moved)

    monkeypatch.setattr(Reseed, "on_train_batch_start", move)
    with pytest.raises(runs.RunError, match=re.escape(str(run))):
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
            os.read(reading, 1)  # outlives the lock, as a data loader's worker may
            os._exit(0)
        held = pytest.raises(runs.RunError, match=rf"^{re.escape(str(tmp_path))}: ")
        with held, runs.lock(tmp_path):
            pass
    with runs.lock(tmp_path):
        pass
    os.write(writing, b"x")
    os.waitpid(child, 0)
    os.close(reading)
    os.close(writing)


def test_files_that_a_kill_left_half_written_are_removed(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    left = folder / ".last.ckpt.a1b2c3_8.tmp"
    for path in (left, folder / ".mine.tmp", folder / "last.ckpt"):
        path.write_bytes(b"")
    with runs.lock(tmp_path):
        assert sorted(path.name for path in folder.iterdir()) == [".mine.tmp", "last.ckpt"]


def test_a_warning_names_an_unknown_monitor_once(trained_in, tmp_path, capsys):
    trained_in(tmp_path / "run", *FLOW, "callbacks.checkpoint.monitor=val/fid")
    printed = capsys.readouterr().err
    assert printed.count("callbacks.checkpoint.monitor=val/fid") == 1
    assert "val/nll" in printed


def test_an_optimized_metric_that_is_not_measured_is_refused_at_the_start(trained_in, tmp_path):
    with pytest.raises(config.ConfigError, match=r"^optimized_metric=test/nll"):
        trained_in(tmp_path / "run", *FLOW, "optimized_metric=test/nll")
    assert not (tmp_path / "run").exists()
