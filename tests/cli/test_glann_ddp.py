"""Two processes on the CPU train GLO and GLANN as one process on the whole batch does."""

import torch

WORDS = ["data=digits", "data.num_train=64", "model.latent_dim=8", "loss=l2", "evaluate=false"]
WORDS += ["net.generator.hidden_dim=4", "net.generator.dense_dim=32"]
WORDS += ["net.generator.batch_norm=false", "callbacks.quality=null", "callbacks.grids=null"]
WORDS += ["trainer.val_check_interval=1000"]


def state(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_codes_of_two_processes_are_those_of_one(genlab, tmp_path):
    # Codes are projected after steps 4 and 8.
    words = ["train", "model=glo", "trainer.max_steps=9", *WORDS]
    genlab(*words, "trainer=cpu", "data.batch_size=16", "hydra.run.dir=one", cwd=tmp_path)
    genlab(*words, "trainer=ddp_cpu", "data.batch_size=8", "hydra.run.dir=two", cwd=tmp_path)
    one, two = state(tmp_path / "one"), state(tmp_path / "two")
    assert torch.equal(one["codes.moves"], two["codes.moves"])
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-4, msg=name)


def test_both_stages_run_in_two_processes_and_resume(genlab, tmp_path):
    words = ["model=glann", "model.glo_steps=3", "trainer=ddp_cpu", "data.batch_size=8", *WORDS]
    words += ["trainer.max_steps=6"]
    one = ["trainer.devices=1", "hydra.run.dir=run"]  # refused alike, without a second process
    done = genlab("train", *words, *one, cwd=tmp_path, check=False)
    assert done.returncode == 2, done.stderr
    assert "find_unused_parameters=true" in done.stderr
    words += ["trainer.strategy.find_unused_parameters=true"]
    genlab("train", *words, "hydra.run.dir=again", cwd=tmp_path)
    genlab("train", "run=again", "trainer.max_steps=9", cwd=tmp_path)
    end = state(tmp_path / "again")
    assert end["matches.noise"].shape == (64, 32)
    assert end["matches.begun"] == 3
    assert len(end["codes.mean"]) == 0
    assert all(value.isfinite().all() for value in end.values())
