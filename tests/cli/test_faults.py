"""Mistakes and mishaps around a run: each gives one clear line, and nothing is lost."""

import errno
import json
import os
import subprocess
import sys

import pytest

from genlab import cli, runs

# A user's own configs: {group/option: its lines}
OWN = {
    "loss/mine": ["_target_: genlab.losses.gan.Hinge", "margin: 0.5"],
    "model/mine": [
        "# @package _global_",
        "defaults: [dcgan, override /loss: mine, _self_]",
        "model: {latent_dim: 8}",
        "palette: {colours: 3}",
    ],
    "model/group": ["# @package _global_", "defaults: [dcgan, override /los: mine]"],
    "model/option": ["# @package _global_", "defaults: [dcgan, override /loss: mien]"],
    "model/yaml": ["# @package _global_", "defaults: [dcgan]", "model: {latent_dim: [8}"],
    "model/key": [
        "# @package _global_",
        "defaults: [dcgan, _self_]",
        "model: {latent_dmi: 8}",
        "palete: 3",
        "palette: 3",
    ],
    "experiment/keys": [
        "# @package _global_",
        "defaults: [override /model: ogan]",
        "callbacks: {grids: {nun: 3}}",
        "model: {update: shred}",
    ],
    "experiment/interpolation": [
        "# @package _global_",
        "defaults: [override /model: ogan]",
        "model: {latent_dim: '${model.latnt_dim}'}",
    ],
    "experiment/no_package": ["defaults: [override /model: ogan]"],
    "experiment/twice": ["# @package _global_", "defaults: [/model: ogan]"],
    "experiment/kind": [
        "# @package _global_",
        "defaults: [override /model: ogan, override /data: facts]",
    ],
}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A user's --config-dir."""
    folder = tmp_path_factory.mktemp("own")
    for name, lines in OWN.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("model=mien", "Did you mean 'mine'?"),
        ("model=mine palette.colors=1", "Did you mean 'palette.colours'?"),
        ("model=mine loss.margni=1", "Did you mean 'loss.margin'?"),
        # -m may stand behind the overrides
        ("model=dcgan,mine loss=mine loss.margni=1 -m", "Did you mean 'loss.margin'?"),
        ("model=group", "'los'. Did you mean 'loss'?"),
        ("model=option", "loss=mien. Did you mean 'mine'?"),
        ("model=yaml", "yaml.yaml, line 3, column"),
        ("model=key", "palete: "),
        ("model=key", "Did you mean 'latent_dim'?"),  # both errors at once
        ("experiment=keys", "Did you mean 'num'?"),
        ("experiment=keys", "Did you mean 'shared'?"),
        ("experiment=interpolation", "Did you mean 'model.latent_dim'?"),
        ("experiment=no_package", "'# @package _global_'"),
        ("experiment=twice", "'- override /<group>: <option>'"),
        ("experiment=kind", "choose another data="),
        ("experiment=ogan_mnist5k model.latent_dmi=3", "Did you mean 'model.latent_dim'?"),
        ("experiment=ogan_mnist5k model=glow", "choose another experiment="),
        ("experiment=ogan_mnist5k loss=l2", "loss: "),
        ("experiment=glow_digits data=facts", "net.shape: "),
        ("experiment=ogan_mnist5kk", "Did you mean 'ogan_mnist5k'?"),
    ],
)
def test_a_mistake_in_an_own_config_or_an_override_is_named(
    own, words, expected, monkeypatch, tmp_path, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["genlab", "train", *words.split(), "--config-dir", str(own)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    printed = capsys.readouterr().err
    assert stop.value.code == 2
    assert printed.startswith("genlab: error: ")
    assert expected in printed
    assert "Traceback" not in printed
    assert not list(tmp_path.rglob("checkpoints"))


POINTS = ["model=realnvp", "data=moons", "net.num_couplings=2", "trainer=cpu"]
POINTS += ["callbacks.grids=null", "evaluate=false"]

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


def test_two_runs_started_in_one_microsecond_have_two_directories(tmp_path):
    words = ["train", *POINTS, "trainer.max_steps=1", "trainer.val_check_interval=1"]
    command = [sys.executable, "-c", AT_ONE_MOMENT, *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    options = {"cwd": tmp_path, "env": environment, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, **options) for _ in range(2)]
    printed = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    folders = list((tmp_path / "outputs" / "train" / "realnvp").iterdir())
    assert len(folders) == 2
    assert all(folder.name.startswith("2026-01-02_03-04-05-000678-") for folder in folders)
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in folders]
    assert [manifest["status"] for manifest in manifests] == ["finished", "finished"]


@pytest.mark.parametrize("left", [0, 16_384])
def test_a_full_disk_is_named_and_the_run_resumes_from_its_checkpoint(small_disk, trained_in, left):
    run = small_disk / "run"
    trained_in(run, *POINTS, "trainer.max_steps=2", "trainer.val_check_interval=2")
    before = (run / "checkpoints" / "last.ckpt").read_bytes()
    others = small_disk / "others"
    with pytest.raises(OSError) as full, open(others, "wb", buffering=0) as file:
        while file.write(bytes(4096)) == 4096:
            pass
        raise OSError(errno.ENOSPC, "No space left")
    assert full.value.errno == errno.ENOSPC
    os.truncate(others, max(0, others.stat().st_size - left))
    with pytest.raises(runs.RunError, match=rf"^{run}/\S+: .*genlab train run="):
        trained_in(run, f"run={run}", "trainer.max_steps=6", "trainer.val_check_interval=6")
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == before
    others.unlink()
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
def test_a_text_or_path_means_what_is_typed(word, value):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from genlab.overrides import literal

    assert OverridesParser.create().parse_override(literal(word)).value() == value
