import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def genlab(warm, tmp_path_factory):
    """genlab("train", "key=value", cwd=...) runs the command line in its own process.

    It must exit with 0, unless check=False.
    """
    logs = tmp_path_factory.mktemp("logs")
    program = str(Path(sys.executable).with_name("genlab"))

    def run(*words, cwd, check=True, env=None):
        files = [logs / "out.txt", logs / "err.txt"]
        for file in files:
            file.unlink(missing_ok=True)
        code, _ = warm.run(map(str, words), cwd, *files, env=env)
        command = [program, *map(str, words)]
        out, err = (file.read_text() for file in files)
        if check:
            assert code == 0, f"{' '.join(command)}\n{out}\n{err}"
        return subprocess.CompletedProcess(command, code, out, err)

    return run


@pytest.fixture(scope="session")
def trained(genlab, tiny, tmp_path_factory):
    """The directory of a finished, tiny O-GAN run."""
    folder = tmp_path_factory.mktemp("trained")
    genlab("train", "model=ogan", *tiny, "hydra.run.dir=run", cwd=folder)
    return folder / "run"
