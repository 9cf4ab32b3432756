"""Full and read-only disks: one line that names the file, nothing half written, nothing measured
for nothing.
"""

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
    """A run whose measurement takes a moment."""
    path = tmp_path_factory.mktemp("disk") / "points"
    words = [
        "net.num_couplings=2",
        "trainer=cpu",
        "trainer.max_steps=2",
        "trainer.val_check_interval=2",
        "evaluate=false",
    ]
    trained_in(
        path, "model=realnvp", "data=moons", "data.num_test=50", "callbacks.grids=null", *words
    )
    return path


@pytest.fixture
def full(monkeypatch):
    """A disk that has no room for what was written."""

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
def test_a_full_disk_leaves_nothing_half_written_and_names_the_file(
    name, run, command, full, tmp_path
):
    verb, words, file = COMMANDS[name]
    where = {
        "export": [f"out={tmp_path / 'out'}"],
        "encode": [f"out={tmp_path / 'out' / file}"],
    }.get(verb, [])
    with pytest.raises(OSError, match="No space left") as error:
        command(verb, tmp_path / "out", f"run={run}", *words, *where)
    assert explain_error(error.value).startswith(f"{tmp_path / 'out' / file}: the disk is full")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_what_was_measured_is_printed_though_it_cannot_be_written(
    points, command, full, tmp_path, capsys
):
    with pytest.raises(OSError, match="No space left"):
        command("eval", tmp_path / "out", f"run={points}", "num=20")
    assert "nll" in capsys.readouterr().out


def test_a_run_that_cannot_be_written_is_measured_elsewhere(
    points, command, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(
        "genlab.commands.eval.why_unwritable",
        lambda folder: OSError(errno.EROFS, "Read-only", str(folder)),
    )
    before = {path: path.stat().st_mtime_ns for path in points.rglob("*")}
    command("eval", tmp_path / "out", f"run={points}", "num=20")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"eval", "report.html"}
    assert {path: path.stat().st_mtime_ns for path in points.rglob("*")} == before
    assert f"{points}: the file system is read-only" in capsys.readouterr().err


def test_whether_a_folder_can_be_written(small_disk):
    assert why_unwritable(small_disk / "new") is None and (small_disk / "new").is_dir()
    assert why_unwritable(small_disk, 4 << 20).errno == errno.ENOSPC
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert why_unwritable(small_disk).errno == errno.EROFS
    with pytest.raises(OSError, match="Read-only") as error:
        write_text(small_disk / "x.txt", "x")
    assert explain_error(error.value).startswith(
        f"{small_disk / 'x.txt'}: the file system is read-only"
    )


@pytest.mark.parametrize(
    ("what", "number"), [("a full disk", errno.ENOSPC), ("a read-only one", errno.EROFS)]
)
def test_a_cache_of_pictures_without_room_says_where_it_could_go(
    what, number, tmp_path, monkeypatch
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


def test_features_are_computed_though_they_cannot_be_kept(small_disk, monkeypatch, capsys):
    monkeypatch.setenv("GENLAB_DATA", str(small_disk))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert cache.load_or_make("x.pt", lambda: {"x": 3}, lambda content: content["x"]) == 3
    assert f"{small_disk / 'features'}: the file system is read-only" in capsys.readouterr().err


def test_the_command_line_says_it_in_a_line(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("x")
    monkeypatch.chdir(tmp_path)
    words = [
        f"run={run}",
        f"out={tmp_path / 'file' / 'codes.npz'}",
        "split=test",
        f"hydra.run.dir={tmp_path / 'o'}",
    ]
    monkeypatch.setattr(sys, "argv", ["genlab", "encode", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith(f"genlab: error: {tmp_path / 'file'}: ")


def test_an_error_that_is_no_ones_disk_is_not_explained():
    assert explain_error(BrokenPipeError(errno.EPIPE, "Broken pipe")) is None
    assert explain_error(ValueError("x")) is None
    assert explain_error(FileExistsError(errno.EEXIST, "File exists", "a", None, "b")).startswith(
        "b: "
    )
