"""A run that is killed, at whatever change of its directory, ends with the files of one that was
not.
"""

import csv
import json
import random
import shutil
from pathlib import Path

import pytest
import torch
import yaml

ALL = [
    "trainer=cpu",
    "data.batch_size=8",
    "trainer.max_steps=6",
    "trainer.log_every_n_steps=1",
    "trainer.val_check_interval=2",
]
ALL += ["callbacks.checkpoint.every_num_steps=2"]
PICTURES = ["callbacks.grids.num=2", "callbacks.grids.every_num_steps=3"]
IMAGES = [
    *PICTURES,
    "data=digits",
    "data.num_train=64",
    "callbacks.quality.num=8",
    "net.generator.hidden_dim=8",
]
CODES = [
    *[word for word in IMAGES if "width" not in word],
    "net.generator.hidden_dim=4",
    "net.generator.dense_dim=16",
]
CODES += ["model.latent_dim=8", "callbacks.grids=null"]
TEXTS = [
    "net=bert_tiny",
    "net.hidden_dim=16",
    "net.num_layers=1",
    "net.intermediate_dim=16",
    "data.vocab_size=150",
]
SMALL_TEXTS = [*TEXTS, "data.num_val=3", "data.num_test=3", "callbacks.texts.num=3"]
OPEN = ["evaluate=false", "explorer=false"]
RECIPES = {
    "gan": ["model=dcgan", *IMAGES, *OPEN],
    "ogan": [
        "model=ogan",
        *IMAGES,
        *OPEN,
        "callbacks.checkpoint.every_num_steps=4",
        "trainer.log_every_n_steps=4",
    ],
    "epochs": [
        "model=dcgan",
        *IMAGES,
        *OPEN,
        "trainer.max_epochs=2",
        "trainer.max_steps=-1",
        "data.batch_size=20",
    ],
    "accumulated": [
        "model=dcgan",
        *IMAGES,
        *OPEN,
        "trainer.accumulate_grad_batches=2",
        "callbacks.grids=null",
    ],
    "glo": ["model=glo", *CODES, *OPEN],
    "imle": ["model=imle", *[word for word in IMAGES if "quality" not in word], *OPEN],
    "glann": ["model=glann", *CODES, *OPEN, "model.glo_steps=3", "data.num_train=16"],
    "glow": [
        "model=glow",
        "data=digits",
        "data.num_train=64",
        *PICTURES,
        *OPEN,
        "net.num_steps=1",
        "net.hidden_dim=4",
    ],
    "points": ["model=realnvp", "data=moons", "net.num_couplings=2", "callbacks.grids=null", *OPEN],
    "classifier": [
        "model=iresnet_classifier",
        "data=digits8",
        "callbacks.grids=null",
        *OPEN,
        "net.num_blocks=1",
    ],
    "unilm": ["model=unilm_qa", *SMALL_TEXTS, *OPEN, "data.num_train=60"],
    "cln_lm": ["model=cln_lm", *SMALL_TEXTS, *OPEN],
    "pretrain_mlm": [
        "model=pretrain_mlm",
        "data=fact_texts",
        *TEXTS,
        *OPEN,
        "data.num_documents=100",
        "model.num_warmup_steps=2",
    ],
    "closing": [
        "model=realnvp",
        "data=moons",
        "net.num_couplings=2",
        "callbacks.grids=null",
        "data.num_test=200",
    ],
    "closing_images": ["model=ogan", *IMAGES, "data.num_test=20"],
    "two_processes": [
        "model=dcgan",
        *IMAGES,
        *OPEN,
        "trainer=ddp_cpu",
        "net.discriminator.norm=group",
    ],
    "early_stop": [
        "model=realnvp",
        "data=moons",
        "net.num_couplings=2",
        "callbacks.grids=null",
        *OPEN,
        "+callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping",
        "+callbacks.stop.monitor=val/nll",
        "+callbacks.stop.patience=1",
        "+callbacks.stop.min_delta=100",
        "trainer.max_steps=100",
    ],
}
TIMES = {"started", "seconds", "resumed", "command"}
DEFAULT = ["ogan", "epochs", "glann", "classifier", "unilm", "pretrain_mlm", "closing"]


def finished(run_dir: Path) -> bool:
    path = run_dir / "manifest.json"
    return path.exists() and json.loads(path.read_text())["status"] == "finished"


class Forks:
    """Runs `genlab train` in children of a warm process, killed where asked."""

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
        """Trains until the run is finished, killed at each of `kills`; returns how many of these
        came to pass.
        """
        run_dir.parent.mkdir(parents=True)
        happened = 0
        for kill_at in (*kills, 0):
            begun = (run_dir / "config.yaml").exists()
            command = [f"run={run_dir}"] if begun else [*words, f"hydra.run.dir={run_dir}"]
            code, _ = self.run(command, run_dir, kill_at)
            happened += code == -9
            if code == 0 or finished(run_dir):  # killed in its very last moment
                break
        return happened


@pytest.fixture(scope="module")
def forks(warm, tmp_path_factory):
    return Forks(warm, tmp_path_factory.mktemp("forks"))


@pytest.fixture(scope="module")
def whole(forks, tmp_path_factory):
    """(run directory, number of its changes) of a recipe that was not killed."""
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
        return [
            {key: value for key, value in row.items() if key != "images_per_second"}
            for row in csv.DictReader(file)
        ]


def assert_same(one, other, where: str) -> None:
    """Nested containers of tensors and plain values are identical."""
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


def assert_same_run(whole: Path, killed: Path) -> None:
    """Every file of two run directories is the same, times and places aside."""
    files = [
        {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()} for run in (whole, killed)
    ]
    hydra = {
        name
        for names in files
        for name in names
        if name.startswith(".hydra/") or name.endswith(".log")
    }
    assert files[0] - hydra == files[1] - hydra
    for name in sorted(files[0] - hydra - {"report.html", "explorer.html", ".lock"}):
        one, other = whole / name, killed / name
        if name.endswith(".ckpt"):
            assert_same(*(torch.load(path, weights_only=True) for path in (one, other)), name)
        elif name == "metrics.csv":
            assert rows(one) == rows(other)
        elif name == "manifest.json":
            contents = [json.loads(path.read_text()) for path in (one, other)]
            for content in contents:
                content["metrics"].pop("images_per_second", None)
                content["overrides"] = [
                    word for word in content["overrides"] if "run.dir" not in word
                ]
            contents = [
                {key: value for key, value in content.items() if key not in TIMES}
                for content in contents
            ]
            assert contents[0] == contents[1]
        elif name == "config.yaml":
            assert yaml.safe_load(one.read_text()) == yaml.safe_load(other.read_text())
        else:
            assert one.read_bytes() == other.read_bytes(), name


def killed(forks, whole, name: str, folder: Path, seed: int, num: int) -> int:
    """Kills a run of a recipe `num` times at seeded changes and compares its end."""
    reference, changes = whole(name)
    draw = random.Random(f"{name} {seed}")
    run_dir = folder / "killed" / "run"
    happened = forks.train(
        [*ALL, *RECIPES[name]], run_dir, [draw.randint(1, changes) for _ in range(num)]
    )
    assert happened
    assert_same_run(reference, run_dir)
    shutil.rmtree(run_dir.parent)
    return happened


@pytest.mark.parametrize("name", DEFAULT)
def test_a_killed_run_ends_as_one_that_was_not(forks, whole, name, tmp_path):
    killed(forks, whole, name, tmp_path, seed=1, num=3)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_many_kills_of_every_system(forks, whole, name, tmp_path):
    total = sum(killed(forks, whole, name, tmp_path, seed, num=3) for seed in range(2, 7))
    print(f"{name}: {total} kills")
