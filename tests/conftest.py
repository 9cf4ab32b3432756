"""Fixtures of all tests: they compose configs and train runs inside this process."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module

from genlab import config
from genlab.commands import train
from genlab.overrides import literal

# A run that takes seconds and still uses every part of training.
TINY = [
    "trainer=cpu",
    "net.generator.hidden_dim=8",
    "data.batch_size=16",
    "trainer.max_steps=6",
    "trainer.val_check_interval=3",
    "trainer.log_every_n_steps=1",
    "callbacks.quality.num=20",
    "callbacks.grids.num=4",
    "evaluate=false",
    "explorer=false",
]


def pytest_collection_modifyitems(items):
    """Run files that take minutes first, so that no worker ends with one while others are idle."""
    slow_first = ("contracts/test_models", "cli/", "contracts/")

    def rank(item) -> int:
        path = item.path.as_posix()
        ranks = (i for i, part in enumerate(slow_first) if f"tests/{part}" in path)
        return next(ranks, len(slow_first))

    items.sort(key=rank)


@pytest.fixture(autouse=True)
def seeded():
    """Seed torch before every test."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny():
    return TINY


class Warm:
    """Runs `genlab` in children of one process that has imported everything (see warm.py)."""

    def __init__(self):
        program = [sys.executable, str(Path(__file__).with_name("warm.py"))]
        self.environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        self.process = subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.environment
        )

    def run(self, words, cwd, out, err, **options) -> tuple[int, int]:
        """(exit code, changes of files below `below`) of `genlab <words>`; see `start`."""
        return self.start(words, cwd, out, err, **options).wait()

    def start(
        self, words, cwd, out, err, *, env=None, below="", kill_at=0, largest_file=0
    ) -> "Started":
        """Starts `genlab <words>`, its streams appended to the files `out` and `err`.

        It is killed right before change number `kill_at` of a file below `below`, if that is not 0,
        and no file of it may be larger than `largest_file` bytes.
        """
        wish = {"argv": list(words), "cwd": str(cwd), "out": str(out), "err": str(err)}
        wish |= {"env": self.environment | (env or {}), "below": str(below), "kill_at": kill_at}
        return Started(self, self.ask(wish | {"largest_file": largest_file})["pid"])

    def ask(self, wish: dict) -> dict:
        print(json.dumps(wish), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


class Started:
    """A run of `genlab` beside the test."""

    def __init__(self, warm: Warm, pid: int):
        self.warm = warm
        self.pid = pid

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        return self.warm.ask({"wait": self.pid, "block": False})["code"]

    def send_signal(self, signum: int) -> None:
        os.kill(self.pid, signum)

    def wait(self) -> tuple[int, int]:
        """Its exit code, negative of a signal, and how many changes it made, once it has ended."""
        answer = self.warm.ask({"wait": self.pid, "block": True})
        return answer["code"], answer["changes"]


@pytest.fixture(scope="session")
def warm():
    warm = Warm()
    yield warm
    warm.close()


@pytest.fixture(scope="session")
def composed():
    """Compose the config of `genlab train <words>`: composed("model=ogan", "seed=1")."""

    def make(*words: str):
        name, extra = config.from_run("train", list(words))
        with initialize_config_module("genlab.conf", version_base="1.3"):
            words = [word for word in (*words, *extra) if not word.startswith("hydra.")]
            if name == "train":  # the name comes from Hydra's runtime choices, missing here
                models = [w.partition("=")[2] for w in words if w.startswith("model=")]
                words.append(f"name={models[0] if models else 'ogan'}")
            return compose(name, words)

    return make


@pytest.fixture(scope="session")
def trained_in(composed):
    """Train in this process: trained_in(run_dir, "model=ogan", ...)."""

    def run(run_dir, *words: str):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        before = dict(os.environ)
        try:
            return train.run(composed(*words), run_dir, list(words))
        finally:
            torch.set_num_threads(threads)
            os.environ.clear()
            os.environ.update(before)

    return run


@pytest.fixture(scope="session")
def command():
    """Run `genlab <name> <words>` in this process: command(name, out, "run=...", ...)."""

    def run(name: str, out, *words: str):
        words = [literal(word) for word in words]
        composed, extra = config.from_run(name, words)
        with initialize_config_module("genlab.conf", version_base="1.3"):
            cfg = compose(composed, [*words, *extra])
        out.mkdir(exist_ok=True)
        return importlib.import_module(f"genlab.commands.{name}").run(cfg, out, words)

    return run


def assert_same_weights(one: dict, other: dict) -> None:
    """Assert equal weights, averages, optimiser states and schedules in two checkpoints."""
    assert one["global_step"] == other["global_step"]
    for part in ("state_dict", "ema"):
        a, b = one.get(part, {}), other.get(part, {})  # not every recipe has an average
        assert a.keys() == b.keys()
        for name in a:
            assert torch.equal(a[name], b[name]), (part, name)
    assert one["lr_schedulers"] == other["lr_schedulers"]
    for a, b in zip(one["optimizer_states"], other["optimizer_states"], strict=True):
        assert a["param_groups"] == b["param_groups"]
        for key, state in a["state"].items():
            for name, value in state.items():
                again = torch.as_tensor(b["state"][key][name])
                assert torch.equal(torch.as_tensor(value), again), (key, name)


@pytest.fixture(scope="session")
def same_weights():
    return assert_same_weights


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB; its tests are skipped where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system of a few megabytes can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
