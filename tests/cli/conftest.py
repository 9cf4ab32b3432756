import os
import subprocess
import sys
from pathlib import Path

import pytest

# A run that trains in seconds and still goes through every part of the machinery.
TINY = [
    "trainer=cpu",
    "net.generator.width_multiple=1",
    "data.batch_size=16",
    "trainer.max_steps=6",
    "trainer.val_check_interval=3",
    "trainer.log_every_n_steps=1",
    "callbacks.quality.num=20",
    "callbacks.grids.num=4",
    "evaluate=false",
]


@pytest.fixture(scope="session")
def genlab():
    """Runs the command line in a process of its own: genlab("train", "key=value", cwd=..., check=...)."""

    def run(*words, cwd, check=True, env=None, **options):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"} | (env or {})
        command = [str(Path(sys.executable).with_name("genlab")), *map(str, words)]
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, **options)
        if check:
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture(scope="session")
def tiny():
    return TINY


@pytest.fixture(scope="session")
def trained(genlab, tmp_path_factory):
    """A finished tiny O-GAN run."""
    folder = tmp_path_factory.mktemp("trained")
    genlab("train", "model=ogan", *TINY, "hydra.run.dir=run", cwd=folder)
    return folder / "run"
