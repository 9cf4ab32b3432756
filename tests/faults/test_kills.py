"""A run killed at any change of its directory ends with the files of a run that was not killed."""

import csv
import json
import random
import shutil
from pathlib import Path

import pytest
import torch
import yaml

ALL = ["trainer=cpu", "data.batch_size=8", "trainer.max_steps=6", "trainer.log_every_n_steps=1"]
ALL += ["trainer.val_check_interval=2", "callbacks.checkpoint.every_num_steps=2"]
PICTURES = ["callbacks.grids.num=2", "callbacks.grids.every_num_steps=3"]
NO_PICTURES = ["callbacks.grids=null"]
DIGITS = ["data=digits", "data.num_train=64"]
IMAGES = [*DIGITS, *PICTURES, "net.generator.hidden_dim=8"]
QUALITY = ["callbacks.quality.num=8"]
CODES = [*DIGITS, *QUALITY, *NO_PICTURES, "model.latent_dim=8"]
CODES += ["net.generator.hidden_dim=4", "net.generator.dense_dim=16"]
POINTS = ["model=realnvp", "data=moons", "net.num_couplings=2", *NO_PICTURES]
TEXTS = ["net=bert_tiny", "net.hidden_dim=16", "net.num_layers=1", "net.intermediate_dim=16"]
TEXTS += ["data.vocab_size=150"]
SMALL_TEXTS = [*TEXTS, "data.num_val=3", "data.num_test=3", "callbacks.texts.num=3"]
FACTS = ["data=fact_texts", "data.num_documents=100"]
CLASSIFIER = ["data=digits8", "net.num_blocks=1", *NO_PICTURES]
EPOCHS = ["trainer.max_epochs=2", "trainer.max_steps=-1", "data.batch_size=20"]
ACCUMULATED = ["trainer.accumulate_grad_batches=2", *NO_PICTURES]
RARELY = ["callbacks.checkpoint.every_num_steps=4", "trainer.log_every_n_steps=4"]
TWO_PROCESSES = ["trainer=ddp_cpu", "net.discriminator.norm=group"]
EARLY_STOP = [
    "trainer.max_steps=100",
    "+callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping",
    "+callbacks.stop.monitor=val/nll",
    "+callbacks.stop.patience=1",
    "+callbacks.stop.min_delta=100",
]
UNCLOSED = ["evaluate=false", "explorer=false"]
RECIPES = {
    "gan": ["model=dcgan", *IMAGES, *QUALITY, *UNCLOSED],
    "ogan": ["model=ogan", *IMAGES, *QUALITY, *UNCLOSED, *RARELY],
    "epochs": ["model=dcgan", *IMAGES, *QUALITY, *UNCLOSED, *EPOCHS],
    "accumulated": ["model=dcgan", *IMAGES, *QUALITY, *UNCLOSED, *ACCUMULATED],
    "glo": ["model=glo", *CODES, *UNCLOSED],
    "imle": ["model=imle", *IMAGES, *UNCLOSED],
    "glann": ["model=glann", *CODES, *UNCLOSED, "model.glo_steps=3", "data.num_train=16"],
    "glow": ["model=glow", *DIGITS, *PICTURES, *UNCLOSED, "net.num_steps=1", "net.hidden_dim=4"],
    "points": [*POINTS, *UNCLOSED],
    "classifier": ["model=iresnet_classifier", *CLASSIFIER, *UNCLOSED],
    "unilm": ["model=unilm_qa", *SMALL_TEXTS, *UNCLOSED, "data.num_train=60"],
    "cln_lm": ["model=cln_lm", *SMALL_TEXTS, *UNCLOSED],
    "pretrain_mlm": ["model=pretrain_mlm", *FACTS, *TEXTS, *UNCLOSED, "model.num_warmup_steps=2"],
    "closing": [*POINTS, "data.num_test=200"],
    "closing_images": ["model=ogan", *IMAGES, *QUALITY, "data.num_test=20"],
    "two_processes": ["model=dcgan", *IMAGES, *QUALITY, *UNCLOSED, *TWO_PROCESSES],
    "early_stop": [*POINTS, *UNCLOSED, *EARLY_STOP],
}
TIMES = {"started", "seconds", "resumed", "command"}
DEFAULT = ["ogan", "epochs", "glann", "classifier", "unilm", "pretrain_mlm", "closing"]


def finished(run_dir: Path) -> bool:
    path = run_dir / "manifest.json"
    return path.exists() and json.loads(path.read_text())["status"] == "finished"


class Forks:
    """Runs `genlab train` in children of a warm process and kills them at given changes."""

    def __init__(self, warm, folder: Path):
        self.warm = warm
        self.environment = {"GENLAB_DATA": str(folder / "data")}

    def run(self, words, run_dir: Path, kill_at: int = 0) -> tuple[int, int]:
        """(exit code, changes below run_dir) of `genlab train <words>`."""
        log = run_dir.parent / "log.txt"
        watched = {"env": self.environment, "below": run_dir, "kill_at": kill_at}
        code, changes = self.warm.run(["train", *words], run_dir.parent, log, log, **watched)
        assert code in (0, -9), log.read_text()[-2000:]
        return code, changes

    def train(self, words, run_dir: Path, kills=()) -> int:
        """Trains until the run is finished; returns how many of `kills` happened.

        A kill is the number of a change of the run directory, counted from the last resume.
        """
        run_dir.parent.mkdir(parents=True)
        happened = 0
        for kill_at in (*kills, 0):
            begun = (run_dir / "config.yaml").exists()
            command = [f"run={run_dir}"] if begun else [*words, f"hydra.run.dir={run_dir}"]
            code, _ = self.run(command, run_dir, kill_at)
            happened += code == -9
            if code == 0 or finished(run_dir):  # it may be killed after its last change
                break
        return happened


@pytest.fixture(scope="module")
def forks(warm, tmp_path_factory):
    return Forks(warm, tmp_path_factory.mktemp("forks"))


@pytest.fixture(scope="module")
def whole(forks, tmp_path_factory):
    """whole(name): (run directory, number of changes) of a recipe's run that was not killed."""
    made = {}

    def make(name: str):
        if name not in made:
            run_dir = tmp_path_factory.mktemp(name) / "run"
            words = [*ALL, *RECIPES[name]]
            made[name] = run_dir, forks.run([*words, f"hydra.run.dir={run_dir}"], run_dir)[1]
        return made[name]

    return make


def rows(path: Path) -> list[dict]:
    with open(path, newline="") as file:
        found = list(csv.DictReader(file))
    for row in found:
        row.pop("images_per_second", None)
    return found


def assert_same(one, other, where: str) -> None:
    """Asserts that nested containers of tensors and plain values are identical."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other) or (one.isnan() == other.isnan()).all(), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}[{i}]")
    else:
        assert one == other or one != one, f"{where}: {one!r}, {other!r}"


def compared_files(run_dir: Path) -> set[str]:
    """The files of a run, without those that Hydra and loggers append to."""
    files = {str(path.relative_to(run_dir)) for path in run_dir.rglob("*") if path.is_file()}
    return {name for name in files if not name.startswith(".hydra/") and not name.endswith(".log")}


def compared_manifest(path: Path) -> dict:
    """The content of a manifest without times and paths."""
    content = json.loads(path.read_text())
    content["metrics"].pop("images_per_second", None)
    content["overrides"] = [word for word in content["overrides"] if "run.dir" not in word]
    return {key: value for key, value in content.items() if key not in TIMES}


def assert_same_run(whole: Path, killed: Path) -> None:
    """Asserts that two run directories have the same files, except for times and paths in them."""
    files = compared_files(whole)
    assert files == compared_files(killed)
    for name in sorted(files - {"report.html", "explorer.html", ".lock"}):
        one, other = whole / name, killed / name
        if name.endswith(".ckpt"):
            assert_same(*(torch.load(path, weights_only=True) for path in (one, other)), name)
        elif name == "metrics.csv":
            assert rows(one) == rows(other)
        elif name == "manifest.json":
            assert compared_manifest(one) == compared_manifest(other)
        elif name == "config.yaml":
            assert yaml.safe_load(one.read_text()) == yaml.safe_load(other.read_text())
        else:
            assert one.read_bytes() == other.read_bytes(), name


def killed(forks, whole, name: str, folder: Path, seed: int, num: int) -> int:
    """Kills a run of a recipe `num` times at seeded changes, compares it with a whole run."""
    reference, changes = whole(name)
    draw = random.Random(f"{name} {seed}")
    run_dir = folder / "killed" / "run"
    kills = [draw.randint(1, changes) for _ in range(num)]
    happened = forks.train([*ALL, *RECIPES[name]], run_dir, kills)
    assert happened
    assert_same_run(reference, run_dir)
    shutil.rmtree(run_dir.parent)
    return happened


@pytest.mark.parametrize("name", DEFAULT)
def test_a_killed_run_ends_like_a_whole_run(forks, whole, name, tmp_path):
    killed(forks, whole, name, tmp_path, seed=1, num=3)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_many_kills_of_every_recipe(forks, whole, name, tmp_path):
    total = sum(killed(forks, whole, name, tmp_path, seed, num=3) for seed in range(2, 7))
    print(f"{name}: {total} kills")
