"""Two processes on the CPU leave one run, which resumes."""

import json

import torch

# No BatchNorm in E: its statistics are those of one process's half of the batch.
WORDS = [
    "net.discriminator.norm=group",
    "net.generator.hidden_dim=8",
    "evaluate=false",
    "callbacks.quality=null",
]


def test_two_processes_leave_one_run(genlab, tmp_path):
    words = ["trainer=ddp_cpu", "trainer.max_steps=4", "trainer.val_check_interval=2"]
    words += ["data.batch_size=8", *WORDS, "hydra.run.dir=run"]
    done = genlab("train", "model=ogan", *words, cwd=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["run"], done.stderr
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["steps"] == 4
    assert manifest["images_seen"] == 4 * 16
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(v.isfinite().all() for v in checkpoint["state_dict"].values())
    genlab("train", "run=run", "trainer.max_steps=6", cwd=tmp_path)
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["steps"] == 6


def test_alternating_updates_name_the_setting_they_need(genlab, tmp_path):
    words = ["model.update=alternating", "trainer=ddp_cpu", "trainer.max_steps=2"]
    words += ["data.batch_size=8", *WORDS]
    one = ["trainer.devices=1", "hydra.run.dir=a"]  # refused alike, without a second process
    done = genlab("train", *words, *one, cwd=tmp_path, check=False)
    assert done.returncode == 2, done.stderr
    assert "find_unused_parameters=true" in done.stderr
    words += ["trainer.strategy.find_unused_parameters=true"]
    genlab("train", *words, "hydra.run.dir=b", cwd=tmp_path)
