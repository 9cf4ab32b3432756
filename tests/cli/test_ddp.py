"""Two processes on the CPU train the model that one process on the whole batch would."""

import json

import torch

# No BatchNorm in E: its statistics belong to one process's part of the batch.
WORDS = [
    "net.discriminator.norm=group",
    "net.generator.hidden_dim=8",
    "evaluate=false",
    "callbacks.quality=null",
]


def test_two_processes_leave_one_run(genlab, tmp_path):
    words = [
        "trainer=ddp_cpu",
        "trainer.max_steps=4",
        "trainer.val_check_interval=2",
        "data.batch_size=8",
    ]
    done = genlab("train", "model=ogan", *words, *WORDS, "hydra.run.dir=run", cwd=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["run"], done.stderr
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["steps"] == 4
    assert manifest["images_seen"] == 4 * 16
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(v.isfinite().all() for v in checkpoint["state_dict"].values())
    genlab("train", "run=run", "trainer.max_steps=6", cwd=tmp_path)
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["steps"] == 6


def test_alternation_asks_for_the_setting_it_needs(genlab, tmp_path):
    words = [
        "trainer=ddp_cpu",
        "trainer.max_steps=2",
        "data.batch_size=8",
        "model.update=alternating",
    ]
    done = genlab("train", *words, *WORDS, "hydra.run.dir=a", cwd=tmp_path, check=False)
    assert done.returncode == 2, done.stderr
    assert "find_unused_parameters=true" in done.stderr
    words += ["trainer.strategy.find_unused_parameters=true", "hydra.run.dir=b"]
    genlab("train", *words, *WORDS, cwd=tmp_path)
