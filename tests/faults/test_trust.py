"""Runs, exports and sweeps of a stranger are plain data: nothing in them runs or is followed."""

import html as entities
import json
import os
import random
import re
import shutil
import socket
from functools import partial

import pytest
import yaml
from omegaconf import OmegaConf

import genlab
from genlab import config, files, runs, safe_yaml
from genlab.config.interpolation import escape
from genlab.export.card import fenced, model_card
from genlab.export.card import plain as piece
from genlab.export.explorer import known_of_data
from genlab.report.html import page, write_report
from genlab.sweeps.summary import summarise
from genlab.weights import source

SECRET = "hunter2-5f1c"
HOSTILE = [
    "<script>window.ran=1</script>",
    "</script><img src=x onerror=window.ran=2>",
    "\"'><svg onload=window.ran=3>",
    "[x](javascript:window.ran=4)",
    "```\n# heading\n| a | b |",
    "[bold]{{7*7}}[/] & https://e.vil www.e.vil",
    "javascript:window.ran=5",
]


@pytest.fixture(scope="module")
def run(trained_in, tiny, tmp_path_factory):
    """A run of the user's own, from which the stranger's are made."""
    folder = tmp_path_factory.mktemp("trust") / "run"
    words = ["model=ogan", "data=digits", *tiny, "trainer.max_steps=2", "callbacks.grids=null"]
    trained_in(folder, *words)
    return folder


def payloads(marker):
    """Values that would create the file `marker`, leak SECRET or call a function if run."""
    touch = f"touch {marker}"
    hub = {"_target_": "torch.hub.load", "source": "local"}
    hub |= {"repo_or_dir": str(marker.parent), "model": "entry"}
    replace = {"_target_": "genlab.data.corpus.shards.replace"}
    replace |= {"file": str(marker), "content": b"x".hex()}
    package = {"_target_": "genlab.data.images.sets._package_file"}
    package |= {"package": "antigravity", "file": "x", "install": "x"}
    data = {"_target_": "genlab.data.images.sets.MNIST"}
    return [
        {"_target_": "os.system", "command": touch},
        {"_target_": "os.system", "_partial_": True, "command": touch},
        {"_target_": "subprocess.Popen", "_args_": [["touch", str(marker)]]},
        {"_target_": "builtins.eval", "_args_": [f"open({str(marker)!r}, 'w')"]},
        {"_target_": "${oc.env:HOME}"},
        replace,
        {"_target_": "genlab.files.write_text", "path": str(marker), "text": "x"},
        {"_target_": "genlab.runs.write_text", "path": str(marker), "text": "x"},
        {"_target_": "genlab.metrics.store.fetch_weights", "name": "x", "url": f"file://{marker}"},
        package,
        {"_target_": "genlab.callbacks.loggers.wandb", "save_dir": str(marker)},
        {"_target_": "genlab.callbacks.loggers.mlflow", "_args_": [str(marker)]},
        {"_target_": "genlab.callbacks.csv_logger.CSVLogger", "save_dir": str(marker)},
        {"_target_": "genlab.metrics.features.auto", "data": data},
        {"_target_": "genlab.training.trainer.Trainer", "default_root_dir": str(marker)},
        {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath": str(marker)},
        {"_target_": 7},
        {"_target_": "torch.nn.ReLU", "_partial_": "1"},
        {"_target_": "torch.nn.ReLU", "_args_": 5},
        hub,
        "${oc.env:TRUST_SECRET}",
        "${oc.create:{_target_:torch.hub.load,repo_or_dir:.,model:entry,source:local}}",
        "${oc.decode:'{_target_: os.system, command: touch x}'}",
        "${evil}",
        "\\${oc.env:TRUST_SECRET}",
        "${job_folder:[a]}${stamp:}${hydra:runtime.cwd}",
    ]


def spread(node, groups, payload, rng):
    """Inserts `payload` at a random place of the config `node`; returns a name of the place."""
    group = rng.choice(groups)
    place = node.setdefault(group, {})
    inner = [value for _, value in config.targets(place)]
    place = rng.choice(inner) if inner else place
    wrap = rng.choice(["key", "list", "deep", "args", "replace"])
    known = [key for key in place if not key.startswith("_")]
    if wrap == "replace" and known:
        place[rng.choice(known)] = payload
    elif wrap == "args":
        place["_args_"] = [payload]
    else:
        place["extra"] = {"list": [payload], "deep": [[{"y": [payload]}]]}.get(wrap, payload)
    return f"{group} {wrap}"


@pytest.fixture
def stranger(run, tmp_path, monkeypatch):
    """stranger(change): the path of a stranger's run directory, its config changed by `change`."""
    monkeypatch.setenv("TRUST_SECRET", SECRET)
    monkeypatch.chdir(tmp_path)
    marker = str(tmp_path / "marker")
    hubconf = f"open({marker!r}, 'w')\ndef entry(): return 0.25\n"
    (tmp_path / "hubconf.py").write_text(hubconf)

    def make(change=lambda settings: None, name="stranger"):
        folder = tmp_path / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(run, folder)
        settings = yaml.safe_load((folder / "config.yaml").read_text())
        change(settings)
        (folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        return folder

    return make


def contents(folder):
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def assert_harmless(call, tmp_path, where):
    """`call` returns or gives the user an error, and no payload had an effect."""
    try:
        call()
    except ValueError as error:
        assert SECRET not in str(error), where
    assert not (tmp_path / "marker").exists(), where


def test_nothing_of_a_strangers_config_runs(stranger, tmp_path, command):
    groups = ["model", "net", "loss", "data"]
    rng = random.Random(25)
    verbs = [["encode", "split=test"], ["sample", "num=2"]]
    verbs += [["eval", "num=8", "features=random"], ["export", "format=safetensors"]]
    for number, payload in enumerate(payloads(tmp_path / "marker")):
        places = []

        def change(settings, payload=payload, places=places):
            places.append(spread(settings, groups, payload, rng))

        folder = stranger(change)
        where = f"{payload} {places}"
        assert_harmless(partial(genlab.load, folder), tmp_path, where)
        verb, *words = [*verbs[number % 4], f"run={folder}"]
        if verb == "export":
            words += [f"out={tmp_path / 'made' / str(number)}"]
        assert_harmless(partial(command, verb, tmp_path / "out", *words), tmp_path, where)
        for name, content in contents(tmp_path).items():
            assert SECRET.encode() not in content, (name, where)


def test_a_resume_of_a_strangers_run_leaks_nothing_and_keeps_its_text(
    stranger, tmp_path, trained_in
):
    text = ["${oc.env:TRUST_SECRET}", "a\\${x} \\\\${y}", "${"]
    hydra = {"callbacks": {"x": {"_target_": "os.system"}}}
    folder = stranger(lambda settings: settings.update(tags=text, hydra=hydra))
    trained_in(folder, f"run={folder}", "trainer.max_steps=3")
    assert yaml.safe_load((folder / "config.yaml").read_text())["tags"] == text
    for name, content in contents(folder).items():
        assert SECRET.encode() not in content, name
    assert "${oc.env:TRUST_SECRET}" in entities.unescape((folder / "report.html").read_text())


@pytest.mark.parametrize("group", ["loss", "callbacks", "trainer", "data", "logger"])
def test_a_resume_builds_only_what_the_registry_names(stranger, tmp_path, trained_in, group):
    rng = random.Random(group)
    nodes = [node for node in payloads(tmp_path / "marker") if isinstance(node, dict)]
    for payload in rng.sample(nodes, 4):
        folder = stranger(lambda settings, p=payload: settings[group].update(extra=p))
        with pytest.raises(ValueError):
            trained_in(folder, f"run={folder}", "trainer.max_steps=3")
        assert not (tmp_path / "marker").exists(), payload


def test_a_resume_logs_to_no_service_of_a_strangers_config(stranger, trained_in):
    node = {"_target_": "genlab.callbacks.loggers.mlflow", "tracking_uri": "http://127.0.0.1:9/"}
    folder = stranger(lambda settings: settings["logger"].update(mlflow=node))
    with pytest.raises(config.ConfigError, match=r"^logger\.mlflow\.tracking_uri="):
        trained_in(folder, f"run={folder}", "trainer.max_steps=3")


def test_the_defaults_and_paths_of_a_config_are_not_followed(stranger, composed):
    def change(settings):
        settings["data"]["defaults"] = [{"override /hydra/launcher": "joblib"}]
        settings |= {"defaults": ["evil"], "run": "/elsewhere", "ckpt": "/elsewhere/last.ckpt"}

    folder = stranger(change)
    settings = config.resolve(composed(f"run={folder}"))
    assert "defaults" not in settings["data"] and "defaults" not in settings
    assert (settings["run"], settings["ckpt"]) == (str(folder), "last")


def test_only_the_command_line_allows_more_than_the_registry():
    assert config.locate("lightning.pytorch.callbacks.EarlyStopping")
    name = "lightning.pytorch.callbacks.ModelCheckpoint"
    with pytest.raises(config.ConfigError, match=re.escape(name)):
        config.locate(name, config.allowed_names([], ["a=1"]))
    assert config.locate(name, config.allowed_names([], [f"+callbacks.x={{_target_: {name}}}"]))
    added = config.allowed_names([], ["+x._target_=torchvision.models.resnet18"])
    for allow in (["torchvision.models"], added):
        with pytest.raises(config.ConfigError, match=r"^_target_=torchvision"):
            config.locate("torchvision.models.resnet18", allow)


FUNCTIONS = {
    "genlab.callbacks.loggers": ("mlflow", "tensorboard", "wandb"),
    "genlab.metrics.features": ("auto", "classifier", "inception", "random"),
    "genlab.metrics.perceptual": ("features", "vgg"),
    "genlab.systems.text.pretraining": ("sharded_layers",),
}


def test_the_registry_is_the_targets_of_the_shipped_configs_and_inert_classes():
    names = config.registry()
    assert {"genlab.systems.gan.ogan.OGAN", "genlab.data.images.sets.MNIST5k"} <= names
    assert "torch.optim.SGD" in names
    packages = ("genlab.", "torch.nn.", "torch.optim.", "lightning.pytorch.")
    others = {name for name in names if not name.startswith(packages)}
    assert others == {"torchmetrics.image.PeakSignalNoiseRatio"}
    for name in sorted(names):
        found = config.locate(name)
        assert isinstance(found, type) or name.startswith("genlab."), name
    functions = {name for name in names if not isinstance(config.locate(name), type)}
    assert functions == {f"{module}.{name}" for module in FUNCTIONS for name in FUNCTIONS[module]}


# --- plain data -----------------------------------------------------------------------------------


def test_text_is_the_same_after_composing():
    rng = random.Random(1)
    parts = ["\\", "$", "{", "}", "${", "oc.env:HOME", "a", "'", '"', " ", ":", ",", "[", "\n"]
    for _ in range(500):
        text = "".join(rng.choices(parts, k=rng.randint(1, 9)))
        node = {"a": text, "b": [{"c": text}]}
        assert config.resolve(OmegaConf.create(escape(node))) == node


LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS,
        "x: " + "[" * 5000 + "]" * 5000,
        "x: " + "{a: " * 60,
        "- " * 3000,
        "x: &a [*a]",
        "x: *a",
        "? [a]\n: 1",
        "x: " + "9" * 5000,
        "x: " + ":".join(["59"] * 100_000),
        "x: !!python/name:os.system",
        "x: !!binary aGk=",
        "x: [" + "1," * 200_000 + "]",
        "x: " + "y" * 9_000_000,
        "~: 1",
        "x: \0",
        "a\n- b:",
        "<<: x",
    ],
)
def test_yaml_beyond_the_limits_is_an_error_of_one_line(tmp_path, text):
    (tmp_path / "config.yaml").write_text("model: {}\n" + text)
    with pytest.raises(config.ConfigError) as caught:
        config.read_frozen(tmp_path)
    assert "config.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(source.WeightsError):
        source.find(tmp_path)


def test_yaml_reads_what_a_run_writes_and_nothing_else():
    rng = random.Random(3)

    def value(depth=0):
        kinds = [None, True, 3, -0.5, "2019-01-01", "1e-3", "yes", "~", "a: b", "=", "0x1f"]
        kinds += ["1:20", "\u4e2d", ""]
        if depth < 4 and rng.random() < 0.6:
            inner = [value(depth + 1) for _ in range(rng.randint(0, 4))]
            return inner if rng.random() < 0.5 else {f"k{i}": part for i, part in enumerate(inner)}
        return rng.choice(kinds)

    for _ in range(200):
        node = value()
        assert safe_yaml.parse_yaml(yaml.safe_dump(node)) == node
        text = "".join(rng.choices("[]{}:,-&*!|>'\"%@` \n#ab01.e+_~?=<x", k=rng.randint(1, 25)))
        try:
            safe_yaml.parse_yaml(text)
        except safe_yaml.YamlError as error:
            assert "\n" not in str(error)


def test_the_frozen_config_of_an_encoder_is_checked_like_that_of_a_run():
    model = {"_target_": "os.system", "command": "true"}
    node = {"model": model, "data": {}, "hydra": {}, "allow": ["os"]}
    frozen = config.parse_frozen(json.dumps(node))
    assert frozen == {"model": model, "data": {}, "allow": []}
    with pytest.raises(config.ConfigError, match=r"os\.system"):
        config.build_system(frozen)
    with pytest.raises(config.ConfigError) as error:
        config.parse_frozen("[" * 100_000)
    assert len(str(error.value)) < 600


# --- links ----------------------------------------------------------------------------------------

WRITTEN = [".lock", "config.yaml", "manifest.json", "metrics.csv", "train.log", "report.html"]
WRITTEN += ["explorer.html", ".x.tmp", "checkpoints", "samples", "eval", "checkpoints/last.ckpt"]
WRITTEN += ["checkpoints/best.ckpt", "samples/fixed_000003.png", "eval/metrics.json"]
WRITTEN += ["eval/prd.png"]


@pytest.mark.parametrize("name", WRITTEN)
def test_commands_that_write_refuse_a_link_in_place_of_a_file(
    stranger, tmp_path, trained_in, command, name
):
    rng = random.Random(name)
    folder, outside = stranger(), tmp_path / "outside"
    path = folder / name
    kind = rng.choice(["file", "folder", "dangling", "fifo", "socket"])
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            os.chdir(path.parent)
            made.bind(path.name)
            os.chdir(tmp_path)
    else:
        if kind == "folder":
            outside.mkdir()
        if kind == "file":
            outside.write_text("precious")
        path.symlink_to(outside)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        trained_in(folder, f"run={folder}")
    with pytest.raises(ValueError, match=re.escape(str(path))):
        command("eval", tmp_path / "out", f"run={folder}")
    assert kind != "file" or outside.read_text() == "precious"
    assert kind != "folder" or not any(outside.iterdir())
    assert kind != "dangling" or not outside.exists()


def test_links_to_a_run_and_in_folders_of_loggers_are_accepted(stranger, tmp_path):
    folder = stranger()
    (folder / "wandb").mkdir()
    (folder / "wandb" / "latest-run").symlink_to(tmp_path)
    (tmp_path / "latest").symlink_to(folder)
    files.refuse_links(tmp_path / "latest")
    with runs.lock(tmp_path / "latest"):
        pass


def test_a_link_in_place_of_a_lock_is_not_opened(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "precious")
    # As if the link were made after the check
    monkeypatch.setattr("genlab.runs.manifest.refuse_links", lambda folder: None)
    with pytest.raises(runs.RunError, match=r"\.lock"), runs.lock(tmp_path / "run"):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


# --- pages and cards ------------------------------------------------------------------------------


def poisoned(value, rng):
    """A JSON value with hostile text before each of its texts."""
    if isinstance(value, str):
        return rng.choice(HOSTILE) + value
    if isinstance(value, dict):
        return {key: poisoned(inner, rng) for key, inner in value.items()}
    return [poisoned(inner, rng) for inner in value] if isinstance(value, list) else value


def assert_inert(text):
    """Asserts that a page has one script, named by its policy, and no element of hostile text."""
    body = text.partition("<body>")[2]
    tags = re.findall(r"<\s*(script|img|svg|iframe|object|base|form)\b([^>]*)", body)
    scripts = [rest for tag, rest in tags if tag == "script"]
    assert scripts == [' type="application/json" id="data"', ""]
    assert all("onerror" not in rest and "onload" not in rest for _, rest in tags)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert "default-src 'none'" in entities.unescape(policy)
    assert "sha256-" in policy
    assert not re.search(r"(?i)(href|src)\s*=\s*[\"']?\s*javascript:", text)


def test_a_report_escapes_hostile_text(stranger):
    rng = random.Random(8)
    folder = stranger(lambda settings: settings.update(tags=HOSTILE))
    manifest = poisoned(json.loads((folder / "manifest.json").read_text()), rng)
    manifest |= {"error": HOSTILE[1], "resumed": HOSTILE}
    manifest["differences"] = {HOSTILE[0]: HOSTILE[:2]}
    manifest["versions"] |= {HOSTILE[0]: "1"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    header, *rows = (folder / "metrics.csv").read_text().splitlines()
    quoted = HOSTILE[1].replace('"', '""')
    lines = [f'{header},"{quoted}"', *(f"{row},1" for row in rows)]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    text = json.dumps({HOSTILE[0]: HOSTILE[1], "b": HOSTILE[2]})
    (folder / "samples").mkdir(exist_ok=True)
    (folder / "samples" / "texts_000002.jsonl").write_text(text + "\n")
    assert_inert(write_report(folder).read_text())
    content = {"num_classes": 0, "about": HOSTILE[0], "shape": [1, 1, 1], "x": HOSTILE}
    content |= {"held_out": None, "encode": None}
    assert_inert(page("explorer.html.j2", manifest=manifest, content=content, linked=True))


def test_a_sweeps_report_escapes_hostile_text_and_links_inside_the_sweep(tmp_path):
    for number, name in enumerate(["javascript:window.ran=1", "a<b>#?%20", "[bold]c"]):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.html").write_text("")
        status = {"status": "finished", "number": number, "error": HOSTILE[0], "seconds": 1}
        status["overrides"] = [f"tags={HOSTILE[number]}"]
        status["metrics"] = {"val/nll": 1.0 + number, HOSTILE[1]: 2.0}
        status["metric"] = HOSTILE[1]
        (tmp_path / name / "status.json").write_text(json.dumps(status))
    summarise(tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert_inert(text)
    jobs = json.loads(text.partition('id="data">')[2].partition("</script>")[0])["jobs"]
    links = [job["report"] for job in jobs]
    assert links == [
        "./javascript%3Awindow.ran%3D1/report.html",
        "./a%3Cb%3E%23%3F%2520/report.html",
        "./%5Bbold%5Dc/report.html",
    ]


def test_a_card_shows_hostile_text_as_text(stranger):
    rng, folder = random.Random(4), stranger()
    manifest = poisoned(json.loads((folder / "manifest.json").read_text()), rng)
    manifest["overrides"] = [*HOSTILE, "a=\n```\n# x"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    entry = {"value": 3.25, "count": 500, "comparable": False, "seed": 0}
    entry |= {"split": HOSTILE[3], "reference": HOSTILE[4], "features": HOSTILE[0]}
    entry |= {"weights": HOSTILE[0], "ckpt": HOSTILE[1]}
    runs.write_text(folder / "eval" / "metrics.json", json.dumps({HOSTILE[2]: entry}))
    exported = {"model.safetensors": "weights"}
    card = model_card(folder, genlab.load(folder), exported, licence=HOSTILE[3])
    front, body = card.split("\n---\n", 1)
    assert yaml.safe_load(front.removeprefix("---\n"))["library_name"] == "genlab"
    fences = re.findall(r"^`{3,}.*$", body, re.M)
    assert len(fences) >= 2
    outside = body.partition("## Reproduce")[0] + body.rpartition(max(fences, key=len))[2]
    assert not re.search(r"(?<!\\)[<\[]", outside)
    assert "https:" not in outside
    assert "www." not in outside
    headings = [line for line in outside.splitlines() if line.startswith("# ")]
    assert headings == [outside.splitlines()[1]]


def test_parts_of_a_card_are_one_line_and_stay_in_their_fences():
    rng = random.Random(6)
    for _ in range(300):
        text = "".join(rng.choices("`*_[]<>|#&~$!@:{}\\ab \n\t\u2028\x1b", k=rng.randint(1, 20)))
        shown = piece(text)
        assert shown.isprintable()
        assert not re.search(r"(?<!\\)(?:\\\\)*[`*_\[\]<>|#&~$!@:{}]", shown)
        opening, *_, closing = fenced(text)
        assert opening == closing and opening not in text


def test_an_export_takes_nothing_from_a_strangers_page(stranger):
    folder = stranger()
    data = '<script type="application/json" id="data">{"mean": "<b>", "about": "x"}</script>'
    (folder / "explorer.html").write_text(f"<script>window.ran=1</script>{data}")
    assert known_of_data(folder / "explorer.html", genlab.load(folder)) is None


@pytest.mark.slow
def test_an_export_writes_a_page_of_its_own(stranger, tmp_path, command):
    folder = stranger()
    (folder / "explorer.html").write_text("<script>window.ran=1</script>")
    words = [f"run={folder}", f"out={tmp_path / 'made'}", "format=explorer"]
    command("export", tmp_path / "out", *words)
    assert_inert((tmp_path / "made" / "explorer.html").read_text())
