"""Compiled networks are the same networks."""

import shutil

import pytest
import torch

from genlab.runs import read_checkpoint


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs g++")
def test_a_compiled_run_is_the_plain_one(trained_in, tiny, tmp_path):
    for kind in ("plain", "compiled"):
        words = ["model=ogan", *tiny, "trainer.precision=64-true"]
        trained_in(tmp_path / kind, *words, f"trainer.compile={kind == 'compiled'}")
    plain, compiled = (
        read_checkpoint(tmp_path / kind / "checkpoints" / "last.ckpt")["state_dict"]
        for kind in ("plain", "compiled")
    )
    assert plain.keys() == compiled.keys()
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-6, atol=1e-8, msg=name)


def test_a_graph_and_a_strategy_exclude_each_other(trained_in, tiny, tmp_path):
    with pytest.raises(ValueError, match=r"^trainer\.graph=true: .*DDPStrategy"):
        trained_in(tmp_path, "model=ogan", *tiny, "trainer=ddp_cpu", "trainer.graph=true")
