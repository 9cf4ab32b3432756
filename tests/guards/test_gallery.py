"""The gallery makes every picture of README and docs, with commands that compose."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from genlab import config
from genlab.commands.train import SUPPLIED

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gallery.py"
spec = importlib.util.spec_from_file_location("gallery", SCRIPT)
gallery = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gallery)
TRAINED = [
    words
    for _, commands in gallery.COMMANDS.values()
    for words in commands
    if words.startswith("genlab train")
]


@pytest.mark.parametrize("name", gallery.ENTRIES)
def test_an_entry_composes(name, composed, tmp_path):
    entry = gallery.ENTRIES[name]
    command = gallery.training(entry, 1, tmp_path / "run", [])
    config.validate(config.resolve(composed(*command[2:])), SUPPLIED)
    config.from_run("sample", [])
    with initialize_config_module("genlab.conf", version_base="1.3"):
        for how in entry.pictures.values():
            compose("sample", how.split())


@pytest.mark.parametrize("command", TRAINED)
def test_a_sweep_composes(command, composed):
    command = command.format(images="images", runs="runs", more="trainer.max_steps=300")
    words = [word.split(",")[0] for word in shlex.split(command)[2:] if word != "-m"]
    config.validate(config.resolve(composed(*words)), SUPPLIED)


def test_the_gallery_makes_every_picture_that_is_shown():
    made = {
        f"{name}_{picture}.png"
        for name, entry in gallery.ENTRIES.items()
        for picture in entry.pictures
    }
    made |= {
        name
        for _, commands in gallery.COMMANDS.values()
        for name in re.findall(r"images}/(\S+)", " ".join(commands))
    }
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    shown = {
        name for page in pages for name in re.findall(r"images/([\w.]+png)\)", page.read_text())
    }
    assert len(shown) >= 10 and shown <= made


def test_a_finished_run_is_kept_and_a_stopped_one_continues(tmp_path):
    entry = gallery.ENTRIES["ogan"]
    folder = tmp_path / "1"
    assert "seed=1" in gallery.training(entry, 1, folder, [])
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "manifest.json").write_text('{"status": "failed"}')
    assert "seed=1" in gallery.training(entry, 1, folder, [])  # without a checkpoint
    (folder / "checkpoints" / "last.ckpt").write_text("")
    (folder / "manifest.json").write_text('{"status": "interrupted"}')
    assert gallery.training(entry, 1, folder, []) == ["genlab", "train", f"run={folder}"]
    (folder / "manifest.json").write_text('{"status": "finished"}')
    assert gallery.training(entry, 1, folder, []) == ["genlab", "eval", f"run={folder}"]
    (folder / "eval").mkdir()
    (folder / "eval" / "metrics.json").write_text("{}")
    assert gallery.training(entry, 1, folder, []) is None


def test_the_list_does_nothing(tmp_path):
    words = [sys.executable, SCRIPT, "--list"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("genlab train") >= 10
    assert not list(tmp_path.iterdir())
