"""The manifest and the checkpoints of a run directory."""

import json

import pytest
import torch

from genlab import runs


def test_a_manifest_is_claimed_once_and_written_whole(tmp_path):
    runs.Manifest.create(tmp_path / "run", {"model": "dcgan"})  # killed before its first step
    manifest = runs.Manifest.create(tmp_path / "run", {"model": "ogan"})
    manifest.update(status="finished", steps=3)
    with pytest.raises(runs.RunError, match=r"^hydra\.run\.dir="):
        runs.Manifest.create(tmp_path / "run", {})
    again = runs.Manifest.read(tmp_path / "run")
    assert again.content["status"] == "finished"
    assert again.content["model"] == "ogan" and again.content["steps"] == 3
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["manifest.json"]


def test_a_run_that_failed_before_its_first_step_does_not_keep_its_directory(tmp_path):
    failed = runs.Manifest.create(tmp_path, {"model": "ogan", "steps": 0})
    failed.update(status="failed", error="a typo")
    again = runs.Manifest.create(tmp_path, {"model": "glow", "steps": 0})
    assert again.content["model"] == "glow" and "error" not in runs.Manifest.read(tmp_path).content
    again.update(status="failed", steps=1)
    with pytest.raises(runs.RunError, match=r"^hydra\.run\.dir="):
        runs.Manifest.create(tmp_path, {})


def test_other_processes_of_a_run_write_nothing(tmp_path):
    runs.Manifest.create(tmp_path / "run", {}, writes=False).update(status="failed")
    assert not (tmp_path / "run").exists()


def test_a_damaged_manifest_is_named(tmp_path):
    with pytest.raises(runs.RunError, match=r"manifest\.json"):
        runs.Manifest.read(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(runs.RunError, match=r"manifest\.json: "):
        runs.Manifest.read(tmp_path)


def test_the_environment_names_versions_and_hardware():
    about = json.loads(json.dumps(runs.environment()))
    assert about["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert about["hardware"] and "python" in about["versions"]


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("touch /tmp/genlab_was_executed",)


def test_a_checkpoint_with_objects_in_it_is_refused_and_not_executed(tmp_path):
    from pathlib import Path

    trace = Path("/tmp/genlab_was_executed")
    trace.unlink(missing_ok=True)
    torch.save({"state_dict": {}, "evil": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(runs.RunError, match=r"evil\.ckpt: "):
        runs.read_checkpoint(tmp_path / "evil.ckpt")
    assert not trace.exists()


def test_ckpt_is_best_last_or_a_path(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "last.ckpt").write_bytes(b"")
    last = folder / "last.ckpt"
    assert runs.checkpoint_path(tmp_path) == runs.checkpoint_path("elsewhere", str(last)) == last
    with pytest.raises(runs.RunError, match=r"^ckpt=best: .*last\.ckpt"):
        runs.checkpoint_path(tmp_path, "best")


def test_saving_replaces_a_checkpoint_or_leaves_it_alone(tmp_path):
    io = runs.AtomicCheckpointIO()
    path = tmp_path / "checkpoints" / "last.ckpt"
    io.save_checkpoint({"state_dict": {}}, path)
    with pytest.raises(Exception, match=r"local object .*<lambda>"):
        io.save_checkpoint({"step": lambda: 0}, path)
    assert runs.read_checkpoint(path) == {"state_dict": {}}
    assert len(list(path.parent.iterdir())) == 1


def test_a_held_manifest_is_written_when_it_is_released(tmp_path):
    manifest = runs.Manifest.create(tmp_path / "run", {"steps": 1})
    before = manifest.path.read_bytes()
    manifest.hold()
    manifest.update(steps=2)
    assert manifest.path.read_bytes() == before
    manifest.release(status="running")
    assert runs.Manifest.read(tmp_path / "run").content["steps"] == 2
