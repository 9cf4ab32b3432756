"""Full and read-only disks: one line names the file, no file is half written, no result is lost."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from genlab import cli, files
from genlab.data.images.cache import cached_images
from genlab.data.images.decode import Transform
from genlab.errors import DataError
from genlab.files import explain_error, why_unwritable, write_text
from genlab.metrics import store as cache


@pytest.fixture(scope="module")
def run(trained_in, tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("disk") / "run"
    trained_in(path, "model=ogan", "data=digits", *tiny)
    return path


@pytest.fixture(scope="module")
def points(trained_in, tmp_path_factory):
    """A run that is measured quickly."""
    path = tmp_path_factory.mktemp("disk") / "points"
    words = ["model=realnvp", "data=moons", "net.num_couplings=2", "data.num_test=50"]
    words += ["trainer=cpu", "trainer.max_steps=2", "trainer.val_check_interval=2"]
    trained_in(path, *words, "callbacks.grids=null", "evaluate=false")
    return path


@pytest.fixture
def full(monkeypatch):
    """A disk without space for the files that genlab writes."""

    def refuse(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", refuse)


COMMANDS = {
    "grid": ("sample", ["num=4"], "grid.png"),
    "walk": ("sample", ["mode=walk", "num=2", "steps=2"], "walk.gif"),
    "encode": ("encode", ["split=test"], "codes.npz"),
    "safetensors": ("export", ["format=safetensors"], "config.yaml"),
    "explorer": ("export", ["format=explorer"], "explorer.html"),
    "torch_export": ("export", ["format=torch_export"], "decode.pt2"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_named_with_the_file_and_leaves_no_files(name, run, command, full, tmp_path):
    verb, words, file = COMMANDS[name]
    out = tmp_path / "out"
    where = {"export": [f"out={out}"], "encode": [f"out={out / file}"]}.get(verb, [])
    with pytest.raises(OSError) as error:
        command(verb, out, f"run={run}", *words, *where)
    assert error.value.errno == errno.ENOSPC
    assert explain_error(error.value).startswith(f"{out / file}: the disk is full")
    assert not [path for path in out.rglob("*") if path.is_file()]


def test_results_are_printed_even_if_they_cannot_be_written(
    points, command, full, tmp_path, capsys
):
    with pytest.raises(OSError) as error:
        command("eval", tmp_path / "out", f"run={points}", "num=20")
    assert error.value.errno == errno.ENOSPC
    assert "nll" in capsys.readouterr().out


def test_results_of_a_read_only_run_are_written_elsewhere(
    points, command, monkeypatch, tmp_path, capsys
):
    def read_only(folder):
        return OSError(errno.EROFS, "Read-only", str(folder))

    monkeypatch.setattr("genlab.commands.eval.why_unwritable", read_only)
    before = {path: path.stat().st_mtime_ns for path in points.rglob("*")}
    command("eval", tmp_path / "out", f"run={points}", "num=20")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"eval", "report.html"}
    assert {path: path.stat().st_mtime_ns for path in points.rglob("*")} == before
    assert f"{points}: the file system is read-only" in capsys.readouterr().err


def test_why_a_folder_cannot_be_written(small_disk):
    assert why_unwritable(small_disk / "new") is None
    assert (small_disk / "new").is_dir()
    assert why_unwritable(small_disk, 4 << 20).errno == errno.ENOSPC
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert why_unwritable(small_disk).errno == errno.EROFS
    path = small_disk / "x.txt"
    with pytest.raises(OSError) as error:
        write_text(path, "x")
    assert error.value.errno == errno.EROFS
    assert explain_error(error.value).startswith(f"{path}: the file system is read-only")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS], ids=["full", "read-only"])
def test_an_image_cache_without_space_names_the_variable_that_moves_it(
    number, tmp_path, monkeypatch
):
    monkeypatch.setenv("GENLAB_DATA", str(tmp_path / "data"))
    for i in range(4):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path / f"{i}.png")

    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "posix_fallocate", refuse)
    with pytest.raises(DataError, match="GENLAB_DATA"):
        cached_images(tmp_path, Transform(8, 1, "none", "pad"), "raise")
    assert not list((tmp_path / "data" / "cache").iterdir())


def test_features_are_computed_even_if_they_cannot_be_stored(small_disk, monkeypatch, capsys):
    monkeypatch.setenv("GENLAB_DATA", str(small_disk))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert cache.load_or_make("x.pt", lambda: {"x": 3}, lambda content: content["x"]) == 3
    assert f"{small_disk / 'features'}: the file system is read-only" in capsys.readouterr().err


def test_the_command_line_prints_one_line(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("x")
    monkeypatch.chdir(tmp_path)
    words = [f"run={run}", "split=test", f"out={tmp_path / 'file' / 'codes.npz'}"]
    words += [f"hydra.run.dir={tmp_path / 'o'}"]
    monkeypatch.setattr(sys, "argv", ["genlab", "encode", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    printed = capsys.readouterr().err
    assert stop.value.code == 2
    assert "Traceback" not in printed
    assert printed.splitlines()[-1].startswith(f"genlab: error: {tmp_path / 'file'}: ")


def test_only_errors_of_disks_are_explained():
    assert explain_error(BrokenPipeError(errno.EPIPE, "Broken pipe")) is None
    assert explain_error(ValueError("x")) is None
    exists = FileExistsError(errno.EEXIST, "File exists", "a", None, "b")
    assert explain_error(exists).startswith("b: ")
