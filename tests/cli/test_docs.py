"""Every `genlab` command that README and docs/ show is run as a shell runs it, at two steps of a
tiny net on little data.
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
from omegaconf import OmegaConf
from PIL import Image

from genlab import config
from genlab.files import data_root

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SHOWN = r"^ *((?:PYTHONPATH=\. |srun |torchrun .*)?genlab(?:\.cli)? +(?:train|sample|encode|eval|export) .*?) *(?:#.*)?$"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
FOUND = [
    (page.stem, re.sub(" {2,}", " ", command))
    for page in PAGES
    for command in re.findall(SHOWN, page.read_text().replace("\\\n", " "), re.M)
]
COMMANDS = list(
    {
        command if "<" not in command else (page, command): (page, command)
        for page, command in FOUND
    }.values()
)

# What a page calls <dir>, by the first pattern that is in "page: command", and how it is trained.
RUNS = {
    "topic|statement": "genlab train experiment=cln_tiny",
    "conditional_text.*photos/": "genlab train model=cln_caption",
    "conditional_text.*encoder=run": "genlab train model=ogan",
    "conditional_text": "genlab train experiment=cln_poems data.path=songs.jsonl data.test_path=null data.num_test=20 "
    "data.min_count=1",
    "composing": "PYTHONPATH=. genlab train --config-dir my model=mine allow=[mine]",
    "flows": "genlab train model=glow",
    "glann": "genlab train model=glann data=digits",
    'pretraining.*"The capital of"': "genlab train model=pretrain_gpt data.path=b.txt",
    "pretraining": "genlab train model=pretrain_mlm data.path=b.txt",
    "unilm: .*(source=|lines)": "genlab train model=unilm data.path=titles.jsonl",
    "unilm": "genlab train experiment=unilm_tiny",
    "first_hour": "genlab train data=image_folder data.path=photos/ data.image_size=32",
    "": "genlab train model=ogan data=digits",
}
# Where a key is there and has a value, this is its value here.
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
# One machine without a GPU instead of those that are named.
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
MORE = {
    "model=ogan data=digits$": "data.num_test=100",
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
FETCHED = r"fashion|cln_poems$|unilm_qa_|unilm_title"  # data that come with no package
ABSENT = r"is not there|no such file|does not exist|nowhere|is not installed"
WROTE = r"^ *(?:[\d.]+ MB|picture|arrays|codes|texts|metrics|run directory|report|summary) +(\S*[./]\S+)"


def shell(command: str, cwd: Path, data: Path) -> subprocess.CompletedProcess:
    environment = {
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
        "GENLAB_DATA": str(data),
        "HOST": "localhost",
    }
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    words = ["bash", "-c", command]
    return subprocess.run(
        words, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=900
    )


@pytest.fixture(scope="session")
def shortened(composed):
    """shortened(command): the same one with what makes it small appended."""

    def make(command: str) -> str:
        for there, here in HERE.items():
            command = re.sub(there, here, command)
        if " -m " in command:  # two jobs
            counts = iter([2])
            first = lambda found: found[1] + ",".join(found[2].split(",")[: next(counts, 1)])  # noqa: E731
            command = re.sub(r"(?<= )([\w./]+=)([^\s\[{('\"]+,[^\s\[{('\"]+)", first, command)
        more = [words for pattern, words in MORE.items() if re.search(pattern, command)]
        if " run=" in command:
            return " ".join(
                [command, *more, *(["trainer.max_steps=4"] if "genlab train" in command else [])]
            )
        if "--config-dir" in command:  # as far as genlab's own groups go
            words = ["model=dcgan", "data=image_folder", "net.generator=null"]
        else:
            words = [
                w
                for w in shlex.split(re.split(r"\btrain ", command)[1])
                if "=" in w and not w.startswith("hydra")
            ]
            words = [re.sub(r"=(tag|interval)\(.*", "=0.5", word) for word in words]
        jobs = [
            [w if "[" in w else re.sub(cut, "", w) for w in words] for cut in (",.*", "(?<==).*,")
        ]
        keys, other = (config.flatten(OmegaConf.to_container(composed(*job))) for job in jobs)
        bert = {"net.hidden_dim": 264} if "net.intermediate_dim" in keys else {}  # for whiten=256
        kept = str(keys.get("model.init")).startswith("package:")  # the weights fit one net
        small = [
            f"{key}={value}"
            for key, value in (SMALL | bert).items()
            if keys.get(key) and key in other and not (kept and key.startswith("net."))
        ]
        return " ".join([command, *small, *more])

    return make


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A $GENLAB_DATA that has what the user's has, and caches of its own."""
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
        text = (
            "\n".join(
                row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows
            )
            + "\n"
        )
        (folder / name).parent.mkdir(exist_ok=True)
        opened = (
            gzip.open if name.endswith(".gz") else zstandard.open if name.endswith(".zst") else open
        )
        with opened(folder / name, "wt", encoding="utf-8") as file:
            file.write(text)

    texts = [
        f"The capital of land {i} is town {i}, and its river is number {i + 1} of the map."
        for i in range(300)
    ]
    lines("lines.txt", texts)
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
    asked = [
        {"question": f"What is the capital of land {i}?", "passages": texts[i : i + 2]}
        for i in range(3)
    ]
    lines("questions.jsonl", asked)
    article = lambda i: {
        "context": texts[i],
        "qas": [
            {
                "id": f"{i}",
                "question": f"What is the capital of land {i}?",  # noqa: E731
                "answers": [{"text": f"town {i}", "answer_start": texts[i].index("town")}],
            }
        ],
    }
    for name in ("train.json", "train-v1.1.json"):
        lines(name, [{"data": [{"title": f"{i}", "paragraphs": [article(i)]} for i in range(300)]}])
    random = np.random.default_rng(0)
    signs = "春眠不覺曉處處聞啼鳥夜來風雨聲花落知多少"
    poems = []
    for i in range(200):
        a, b, c, d = ("".join(part) for part in random.permutation(list(signs)).reshape(4, 5))
        who = (
            {"dynasty": "tang", "author": "李白"}
            if i % 2
            else {"dynasty": "song", "author": "蘇軾"}
        )
        times = 1 + (i % 3 == 0)
        poems.append(
            {"title": f"{i}", "form": f"5x{4 * times}", "text": f"{a}，{b}。{c}，{d}。" * times}
            | who
        )
    lines("songs.jsonl", poems)
    for name, count, shape in (
        ("photos", 300, (40, 48, 3)),
        ("digits", 80, (28, 28)),
        ("stripes", 60, (16, 16)),
    ):
        (folder / name).mkdir()
        for i in range(count):
            Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(
                folder / name / f"{i:03d}.png"
            )
    shown = r"^`(my/\S+|mine\.py)`[^\n]*(?:\n[^`\n][^\n]*)*\n+```\w+\n(.*?)```"
    for name, text in re.findall(shown, (ROOT / "docs" / "composing.md").read_text(), re.M | re.S):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="session")
def run_of(shortened, files, data):
    """run_of(page, command): the finished run that the command means by <dir>; each is trained
    once.
    """
    runs = {}

    def find(page: str, command: str) -> Path:
        train = next(
            words for pattern, words in RUNS.items() if re.search(pattern, f"{page}: {command}")
        )
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
def test_a_command_does_what_the_page_says(page, command, shortened, run_of, files, data, tmp_path):
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
    if "run=mine/" in command:
        made = shell(
            f"genlab export run={run_of(page, command)} out=mine/ format=safetensors",
            tmp_path,
            data,
        )
        assert made.returncode == 0, made.stderr
    done = shell(shortened(command), tmp_path, data)
    told = f"{done.stdout}\n{done.stderr}"
    if (
        done.returncode
        and re.search(FETCHED, command)
        and (why := re.search(f".*({ABSENT}).*", told))
    ):
        pytest.skip(why[0])
    assert done.returncode == 0, f"{shortened(command)}\n{told}"
    wrote = re.findall(WROTE, told, re.M) + re.findall(r"\bout=(\S+)", command)
    assert wrote and all(glob(str(tmp_path / path)) for path in wrote), told
