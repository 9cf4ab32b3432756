import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def genlab():
    """Runs the command line in a process of its own: genlab("train", "key=value", cwd=...,
    check=...).
    """

    def run(*words, cwd, check=True, env=None, **options):
        environment = (
            os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"} | (env or {})
        )
        command = [str(Path(sys.executable).with_name("genlab")), *map(str, words)]
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            **options,
        )
        if check:
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture(scope="session")
def trained(genlab, tiny, tmp_path_factory):
    """A finished tiny O-GAN run."""
    folder = tmp_path_factory.mktemp("trained")
    genlab("train", "model=ogan", *tiny, "hydra.run.dir=run", cwd=folder)
    return folder / "run"
