"""Every `genlab` command in README and docs/ runs as written there.

A shell runs it with keys appended that make it small: two steps of a tiny network on few data.
"""

import gzip
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from glob import glob
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from PIL import Image

from genlab import config
from genlab.files import data_root

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
COMMAND = re.compile(
    r"""
    ^\ *(
        (?:PYTHONPATH=\.\ |srun\ |torchrun\ .*)?
        genlab(?:\.cli)?\ +(?:train|sample|encode|eval|export)\ .*?
    )
    \ *(?:\#.*)?$
    """,
    re.M | re.X,
)
# In composing.md: a line that begins with the name of a file, and the block of its text
OWN_FILE = re.compile(
    r"^`(my/\S+\.yaml|\w+\.py)`[^\n]*(?:\n[^`\n][^\n]*)*\n+```(?:yaml|python)\n(.*?)^```",
    re.M | re.S,
)


def commands() -> list[tuple[str, str]]:
    """(page, command); a command without <dir> once, whatever number of pages shows it."""
    found = {}
    for page in PAGES:
        for command in COMMAND.findall(page.read_text().replace("\\\n", " ")):
            command = re.sub(" {2,}", " ", command)
            key = (page.stem, command) if "<" in command else command
            found[key] = (page.stem, command)
    return list(found.values())


COMMANDS = commands()
POEMS = "data.path=songs.jsonl data.test_path=null data.num_test=20 data.min_count=1"
# How the run that a page calls <dir> is trained, by the first pattern found in "page: command"
RUNS = {
    "topic|statement": "genlab train experiment=cln_tiny",
    "conditional_text.*photos/": "genlab train model=cln_caption",
    "conditional_text.*encoder=run": "genlab train model=ogan",
    "conditional_text": f"genlab train experiment=cln_poems {POEMS}",
    "composing.*/mine/": "PYTHONPATH=. genlab train --config-dir my model=mine allow=[mine]",
    "composing.*/vae/": "PYTHONPATH=. genlab train --config-dir my model=vae allow=[vae]",
    "composing.*/unilm/": "genlab train model=unilm data.path=titles.jsonl",
    "flows": "genlab train model=glow",
    "glann": "genlab train model=glann data=digits",
    'pretraining.*"The capital of"': "genlab train model=pretrain_gpt data.path=b.txt",
    "pretraining": "genlab train model=pretrain_mlm data.path=b.txt",
    "unilm: .*(source=|lines)": "genlab train model=unilm data.path=titles.jsonl",
    "unilm": "genlab train experiment=unilm_tiny",
    "first_hour": "genlab train data=image_folder data.path=photos/ data.image_size=32",
    "": "genlab train model=ogan data=digits",
}
# Values of the keys that a recipe has and sets
SMALL = {
    "trainer.max_steps": 2,
    "trainer.val_check_interval": 2,
    "trainer.log_every_n_steps": 1,
    "callbacks.quality.num": 20,
    "callbacks.grids.num": 4,
    "callbacks.texts.num": 4,
    "evaluate": False,
    "explorer": False,
    "net.generator.hidden_dim": 8,
    "net.num_scales": 1,
    "net.num_blocks": 1,
    "net.num_steps": 2,
    "net.dense_blocks": 1,
    "net.dense_width": 8,
    "net.num_layers": 2,
    "net.hidden_dim": 8,
    "net.intermediate_dim": 48,
    "model.glo_steps": 1,
    "model.num_warmup_steps": 0,
    "data.batch_size": 8,
    "data.num_train": 200,
    "data.num_val": 20,
    "data.num_test": 20,
    "data.num_documents": 300,
    "data.val_fraction": 0.1,
    "data.test_fraction": 0.1,
    "data.max_length": 24,
    "data.processes": 1,
    "data.download": False,
}
# One machine without a GPU, instead of the machines of the pages
HERE = {
    r"^srun ": "",
    r"trainer=ddp\b": "trainer=ddp_cpu",
    r"devices=\d+": "devices=2",
    r"num_nodes=\d+": "num_nodes=1",
    r"--nnodes[ =]\d+": "--nnodes=1",
    r"--nproc-per-node[ =]\d+": "--nproc-per-node=2",
    r"\$?(?i:host):29500": "localhost:0",
    "=/shared/": "=shared/",
}
# Further keys, where the pattern is found
MORE = {
    r"model=ogan data=digits$|model=vae allow=\[vae\]$": "data.num_test=100",
    "sweep=optuna": "hydra.sweeper.n_trials=2",
    "optimized_metric": "evaluate=true data=digits",
    "genlab eval ": "num=60",
}
NEEDS = {"address=auto": "a Ray cluster", "launcher=submitit_slurm": "SLURM"}
EXTRAS = {
    "launcher=joblib": "hydra_plugins.hydra_joblib_launcher",
    "launcher=ray": "hydra_plugins.hydra_ray_launcher",
    "launcher=submitit": "hydra_plugins.hydra_submitit_launcher",
    "sweep=optuna": "hydra_plugins.hydra_optuna_sweeper",
    "format=onnx": "onnxruntime",
    "words=jieba": "jieba",
}
FETCHED = r"fashion|cln_poems$|unilm_qa_|unilm_title"  # data that no package contains
ABSENT = r"is not there|no such file|does not exist|nowhere|is not installed"
WRITTEN = r"[\d.]+ MB|picture|arrays|codes|texts|metrics|run directory|report|summary"
WROTE = rf"^ *(?:{WRITTEN}) +(\S*[./]\S+)"


def shell(command: str, cwd: Path, data: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment |= {"GENLAB_DATA": str(data), "HOST": "localhost"}
    words = ["bash", "-c", command]
    options = {"cwd": cwd, "env": environment, "capture_output": True, "text": True}
    return subprocess.run(words, timeout=900, **options)


def two_jobs(command: str) -> str:
    """The command of a sweep with two values of its first list, and one of each further list."""
    counts = iter([2])

    def first(found: re.Match) -> str:
        return found[1] + ",".join(found[2].split(",")[: next(counts, 1)])

    return re.sub(r"(?<= )([\w./]+=)([^\s\[{('\"]+,[^\s\[{('\"]+)", first, command)


@pytest.fixture(scope="session")
def keys_of(files):
    """keys_of(words): {key: value} of the config of `genlab train <words>`, own groups included."""

    def compose_keys(words: list[str]) -> dict:
        name, extra = config.from_run("train", words)
        own = f"hydra.searchpath=[file://{files / 'my'}]"
        with initialize_config_module("genlab.conf", version_base="1.3"):
            return config.flatten(OmegaConf.to_container(compose(name, [*words, *extra, own])))

    return compose_keys


@pytest.fixture(scope="session")
def shortened(keys_of):
    """shortened(command): the command with further keys that make it small."""

    def make(command: str) -> str:
        for there, here in HERE.items():
            command = re.sub(there, here, command)
        if " -m " in command:
            command = two_jobs(command)
        more = [words for pattern, words in MORE.items() if re.search(pattern, command)]
        if " run=" in command:
            more += ["trainer.max_steps=4"] if "genlab train" in command else []
            return " ".join([command, *more])
        words = shlex.split(re.split(r"\btrain ", command)[1])
        words = [word for word in words if "=" in word and not word.startswith("hydra")]
        words = [re.sub(r"=(tag|interval)\(.*", "=0.5", word) for word in words]
        # A sweep's keys are those that its first and its last job have.
        first = keys_of([word if "[" in word else re.sub(",.*", "", word) for word in words])
        last = keys_of([word if "[" in word else re.sub("(?<==).*,", "", word) for word in words])
        values = dict(SMALL)
        if "net.intermediate_dim" in first:
            values["net.hidden_dim"] = 264  # for whiten=256
        if str(first.get("model.init")).startswith("package:"):  # whose weights fit one network
            values = {key: value for key, value in values.items() if not key.startswith("net.")}
        small = [
            f"{key}={value}" for key, value in values.items() if first.get(key) and key in last
        ]
        return " ".join([command, *small, *more])

    return make


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A $GENLAB_DATA with the user's files and its own caches."""
    folder = tmp_path_factory.mktemp("data")
    for path in data_root().glob("*"):
        if path.name not in ("cache", "features"):
            (folder / path.name).symlink_to(path.resolve())
    return folder


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """The files that the pages name, in the forms that they describe."""
    folder = tmp_path_factory.mktemp("files")

    def lines(name: str, rows: list) -> None:
        texts = [
            row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows
        ]
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        opened = {".gz": gzip.open, ".zst": zstandard.open}.get(path.suffix, open)
        with opened(path, "wt", encoding="utf-8") as file:
            file.write("\n".join(texts) + "\n")

    text = "The capital of land {} is town {}, and its river is number {} of the map."
    texts = [text.format(i, i, i + 1) for i in range(300)]
    lines("lines.txt", texts)
    lines(
        "dialogues.txt", [f"Where is town {i}?\tWhich one?\t{row}" for i, row in enumerate(texts)]
    )
    for name in ("b.txt", "corpus/one.txt.gz", "corpus/two.txt.gz"):
        lines(name, [line for text in texts for line in (f"{name}: {text}", "")])
    lines("a.jsonl.zst", [{"text": text} for text in texts])
    pairs = [
        {"source": text, "target": f"land {i}", "tone": ("kind", "rude")[i % 2]}
        for i, text in enumerate(texts)
    ]
    lines("titles.jsonl", pairs)
    lines("replies.jsonl", pairs)
    lines("reviews.tsv", ["text\tstars", *(f"{text}\t{1 + i % 5}" for i, text in enumerate(texts))])
    questions = [f"What is the capital of land {i}?" for i in range(300)]
    rows = [{"question": questions[i], "passages": texts[i : i + 2]} for i in range(3)]
    lines("questions.jsonl", rows)

    def article(i: int) -> dict:
        answer = {"text": f"town {i}", "answer_start": texts[i].index("town")}
        question = {"id": f"{i}", "question": questions[i], "answers": [answer]}
        return {"title": f"{i}", "paragraphs": [{"context": texts[i], "qas": [question]}]}

    for name in ("train.json", "train-v1.1.json"):
        lines(name, [{"data": [article(i) for i in range(300)]}])
    random = np.random.default_rng(0)
    signs = "春眠不覺曉處處聞啼鳥夜來風雨聲花落知多少"
    poems = []
    for i in range(200):
        a, b, c, d = ("".join(part) for part in random.permutation(list(signs)).reshape(4, 5))
        dynasty, author = (("song", "蘇軾"), ("tang", "李白"))[i % 2]
        times = 1 + (i % 3 == 0)
        poem = {"title": f"{i}", "form": f"5x{4 * times}", "dynasty": dynasty, "author": author}
        poems.append(poem | {"text": f"{a}，{b}。{c}，{d}。" * times})
    lines("songs.jsonl", poems)
    sets = {"photos": (300, 40, 48, 3), "digits": (80, 28, 28), "stripes": (60, 16, 16)}
    for name, shape in sets.items():
        (folder / name).mkdir()
        for i, pixels in enumerate(random.integers(0, 256, shape, np.uint8)):
            Image.fromarray(pixels).save(folder / name / f"{i:03d}.png")
    for name, text in OWN_FILE.findall((ROOT / "docs" / "composing.md").read_text()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="session")
def run_of(shortened, files, data):
    """run_of(page, command): the finished run that the command names; each is trained once."""
    runs = {}

    def find(page: str, command: str) -> Path:
        matching = (key for key in RUNS if re.search(key, f"{page}: {command}"))
        train = RUNS[next(matching)]
        if train not in runs:
            run = files / "runs" / str(len(runs))
            done = shell(f"{shortened(train)} hydra.run.dir={run}", files, data)
            assert done.returncode == 0, f"{train}\n{done.stdout}\n{done.stderr}"
            runs[train] = run
        return runs[train]

    return find


@pytest.mark.parametrize(
    ("page", "command"), COMMANDS, ids=[f"{page}: {command}" for page, command in COMMANDS]
)
def test_a_command_of_a_page_runs(page, command, shortened, run_of, files, data, tmp_path):
    for word, need in NEEDS.items():
        if word in command:
            pytest.skip(f"needs {need}")
    for word, module in EXTRAS.items():
        if word in command and importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    for path in files.iterdir():
        (tmp_path / path.name).symlink_to(path)
    if "<" in command:
        shutil.copytree(run_of(page, command), tmp_path / "run")
        command = re.sub(r"(outputs/train/\w+/|sweep/)?<\w+>", "run", command)
    elif "run=mine/" in command:
        export = f"genlab export run={run_of(page, command)} out=mine/ format=safetensors"
        made = shell(export, tmp_path, data)
        assert made.returncode == 0, made.stderr
    done = shell(shortened(command), tmp_path, data)
    printed = f"{done.stdout}\n{done.stderr}"
    absent = re.search(f".*({ABSENT}).*", printed)
    if done.returncode and absent and re.search(FETCHED, command):
        pytest.skip(absent[0])
    assert done.returncode == 0, f"{shortened(command)}\n{printed}"
    wrote = re.findall(WROTE, printed, re.M) + re.findall(r"\bout=(\S+)", command)
    assert wrote, printed
    for path in wrote:
        assert glob(str(tmp_path / path)), f"{path} is missing\n{printed}"
