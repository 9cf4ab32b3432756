"""What goes wrong around a run: each ends in a clear line, and nothing is lost."""

import errno
import json
import os
import subprocess
import sys

import pytest

from genlab import cli, runs

OWN = {
    "model/mine": "defaults: [dcgan, override /loss: mine, _self_]\nmodel: {latent_dim: 8}\npalette: {colours: 3}",
    "model/group": "defaults: [dcgan, override /los: mine]",
    "model/option": "defaults: [dcgan, override /loss: mien]",
    "model/yaml": "defaults: [dcgan]\nmodel: {latent_dim: [8}",
    "model/key": "defaults: [dcgan, _self_]\nmodel: {latent_dmi: 8}\npalete: 3\npalette: 3",
    "loss/mine": "_target_: genlab.losses.gan.Hinge\nmargin: 0.5",
    "experiment/keys": "defaults: [override /model: ogan]\ncallbacks: {grids: {nun: 3}}\nmodel: {update: shred}",
    "experiment/interpolation": "defaults: [override /model: ogan]\nmodel: {latent_dim: '${model.latnt_dim}'}",
    "experiment/nowhere": "defaults: [override /model: ogan]",
    "experiment/twice": "defaults: [/model: ogan]",
    "experiment/kind": "defaults: [override /model: ogan, override /data: facts]",
}
WHOLE = ("model", "experiment")


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A user's --config-dir."""
    folder = tmp_path_factory.mktemp("own")
    for name, text in OWN.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        whole = name.startswith(WHOLE) and name != "experiment/nowhere"
        path.write_text(f"{'# @package _global_' if whole else ''}\n{text}\n")
    return folder


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("model=mien", "Did you mean 'mine'?"),
        (
            "model=mine palette.colors=1",
            "there is no key 'palette.colors'. Did you mean 'palette.colours'?",
        ),
        ("model=mine loss.margni=1", "Did you mean 'loss.margin'?"),
        (
            "model=dcgan,mine loss=mine loss.margni=1 -m",
            "Did you mean 'loss.margin'?",
        ),  # words in any order
        ("model=group", "there is no key 'los'. Did you mean 'loss'?"),
        ("model=option", "loss=mien. Did you mean 'mine'?"),
        ("model=yaml", "yaml.yaml, line 3, column"),
        ("model=key", "palete: no such key."),
        ("model=key", "Did you mean 'latent_dim'?"),  # both at once
        ("experiment=keys", "Did you mean 'num'?"),
        ("experiment=keys", "Did you mean 'shared'?"),
        ("experiment=interpolation", "Did you mean 'model.latent_dim'?"),
        ("experiment=nowhere", "the first line '# @package _global_'"),
        ("experiment=twice", "'- override /<group>: <option>'"),
        ("experiment=kind", "the chosen data= is of another kind than this recipe is for"),
        ("experiment=ogan_mnist5k model.latent_dmi=3", "Did you mean 'model.latent_dim'?"),
        (
            "experiment=ogan_mnist5k model=glow",
            "a chosen config overrides it: choose another experiment=",
        ),
        ("experiment=ogan_mnist5k loss=l2", "needs an adversarial one"),
        ("experiment=glow_digits data=facts", "the chosen data are texts"),
        ("experiment=ogan_mnist5kk", "Did you mean 'ogan_mnist5k'?"),
    ],
)
def test_a_typo_in_a_config_of_ones_own_or_a_wrong_override(
    own, words, expected, monkeypatch, tmp_path, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["genlab", "train", *words.split(), "--config-dir", str(own)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    told = capsys.readouterr().err
    assert stop.value.code == 2
    assert told.startswith("genlab: error: ")
    assert expected in told
    assert "Traceback" not in told
    assert not list(tmp_path.rglob("checkpoints"))


AT_ONE_MOMENT = """
import datetime
from genlab import cli
from genlab.sweeps import jobs as sweeps

class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 1, 2, 3, 4, 5, 678, tz)

sweeps.datetime = Clock
cli.main()
"""


def test_two_runs_of_one_microsecond_have_directories_of_their_own(tmp_path):
    words = [
        "model=realnvp",
        "data=moons",
        "net.num_couplings=2",
        "trainer=cpu",
        "trainer.max_steps=1",
        "callbacks.grids=null",
    ]
    command = [
        sys.executable,
        "-c",
        AT_ONE_MOMENT,
        "train",
        *words,
        "trainer.val_check_interval=1",
        "evaluate=false",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    options = {"cwd": tmp_path, "env": environment, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, **options) for _ in range(2)]
    told = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    folders = list((tmp_path / "outputs" / "train" / "realnvp").iterdir())
    assert len(folders) == 2
    assert all(folder.name.startswith("2026-01-02_03-04-05-000678-") for folder in folders)
    assert all(
        json.loads((folder / "manifest.json").read_text())["status"] == "finished"
        for folder in folders
    )


@pytest.mark.parametrize("left", [0, 16_384])
def test_a_run_whose_disk_is_full_says_so_and_goes_on_from_its_checkpoint(
    small_disk, trained_in, left
):
    run = small_disk / "run"
    words = [
        "model=realnvp",
        "data=moons",
        "net.num_couplings=2",
        "trainer=cpu",
        "trainer.max_steps=2",
        "callbacks.grids=null",
    ]
    trained_in(run, *words, "trainer.val_check_interval=2", "evaluate=false")
    before = (run / "checkpoints" / "last.ckpt").read_bytes()
    with (
        pytest.raises(OSError, match="No space left") as full,
        open(small_disk / "others", "wb", buffering=0) as file,
    ):
        while file.write(bytes(4096)) == 4096:
            pass
        raise OSError(errno.ENOSPC, "No space left")
    assert full.value.errno == errno.ENOSPC
    os.truncate(small_disk / "others", max(0, (small_disk / "others").stat().st_size - left))
    with pytest.raises(runs.RunError, match=r"disk is full.*genlab train run="):
        trained_in(run, f"run={run}", "trainer.max_steps=6", "trainer.val_check_interval=6")
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == before
    (small_disk / "others").unlink()
    trained_in(run, f"run={run}", "trainer.max_steps=6", "trainer.val_check_interval=6")
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "finished" and manifest["steps"] == 6


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("source=The capital of Chile is [MASK].", "The capital of Chile is [MASK]."),
        ("source=Well, (or so) it's said: ${x}", "Well, (or so) it's said: \\${x}"),
        ("prompt=12", "12"),
        ('source=["a","b"]', ["a", "b"]),
        ("source='quoted, as Hydra wants it'", "quoted, as Hydra wants it"),
        ("input=holiday (1).png", "holiday (1).png"),
        ("label={form: 5x4, author: 李白}", {"form": "5x4", "author": "李白"}),
        ("label=[李白, 杜甫]", ["李白", "杜甫"]),
        ("label=李白", "李白"),
        ("label=3", 3),
        ("seed=3", 3),
    ],
)
def test_a_text_or_path_is_taken_as_it_is_typed(word, value):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from genlab import overrides as words

    assert OverridesParser.create().parse_override(words.literal(word)).value() == value
