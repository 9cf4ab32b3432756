"""sample, encode and eval of flows on points and on images."""

import json

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module

import genlab
from genlab import config
from genlab.commands.eval import build_ood

COMMON = ["trainer=cpu", "trainer.max_steps=6", "trainer.val_check_interval=3"]
COMMON += ["trainer.log_every_n_steps=1", "net.num_steps=2", "net.hidden_dim=8"]
COMMON += ["data.batch_size=32"]
POINTS = ["model=glow", "data=eight_gaussians", *COMMON]
POINTS += ["data.num_train=200", "data.num_val=64", "data.num_test=100"]


@pytest.fixture(scope="module")
def points(trained_in, tmp_path_factory):
    run = tmp_path_factory.mktemp("points") / "run"
    trained_in(run, *POINTS)
    return run


@pytest.fixture(scope="module")
def images(trained_in, tmp_path_factory):
    run = tmp_path_factory.mktemp("images") / "run"
    trained_in(run, "model=glow", *COMMON, "evaluate=false", "callbacks.grids.num=4")
    return run


def test_a_run_on_points_has_pictures_metrics_and_a_report(points):
    manifest = json.loads((points / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["images_seen"] == 6 * 32
    assert {"test/nll", "test/nll_floor", "test/integral", "val/nll"} <= manifest["metrics"].keys()
    for picture in ("samples/fixed_000006.png", "eval/density.png"):
        assert (points / picture).is_file()
    report = (points / "report.html").read_text()
    assert "192 points" in report
    assert "density" in report
    rows = (points / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "1", "2", "3", "4", "5", "6"]
    best = torch.load(points / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["global_step"] in (3, 6)


def test_points_are_sampled(points, tmp_path, command):
    command("sample", tmp_path, f"run={points}", "num=50", "seed=2", "temperature=0.5")
    assert (tmp_path / "grid.png").is_file()
    found = torch.from_numpy(np.load(tmp_path / "grid.npz")["points"])
    assert torch.equal(found, genlab.load(points).sample(50, seed=2, temperature=0.5))
    words = [f"run={points}", "mode=reconstruct", "num=20", f"input={tmp_path / 'grid.npz'}"]
    command("sample", tmp_path, *words)
    arrays = np.load(tmp_path / "reconstruct.npz")
    assert np.allclose(arrays["points"], arrays["reconstructions"], atol=1e-4)
    command("sample", tmp_path, f"run={points}", "mode=interpolate", "num=3", "steps=7")
    assert np.load(tmp_path / "interpolate.npz")["points"].shape == (3, 9, 2)


def test_points_are_encoded_with_their_log_probability(points, tmp_path, command):
    out = tmp_path / "codes.npz"
    words = [f"run={points}", "split=test", f"out={out}", "log_prob=true", "batch_size=64"]
    command("encode", tmp_path, *words)
    arrays, model = np.load(out), genlab.load(points)
    assert arrays["codes"].shape == (100, 2)
    assert len(arrays["ids"]) == 100
    held_out = model.decode(torch.from_numpy(arrays["codes"]))
    assert np.allclose(model.log_prob(held_out), arrays["log_prob"], atol=1e-3)


def test_images_are_compared_with_those_of_another_set(images, tmp_path, command):
    words = [f"run={images}", "num=40", "features=random", "ood=mnist5k"]  # 28 pixels, shrunk to 8
    results = command("eval", tmp_path, *words)
    values = {name: entry["value"] for name, entry in results.items()}
    assert 0 <= values["ood_auroc"] <= 1
    assert values["pixels_changed"] == 0
    assert values["reconstruction_error"] < 1e-3
    found = json.loads((images / "eval" / "metrics.json").read_text())
    assert found["bits_per_dim"]["levels"] == 17
    assert found["bits_per_dim"]["dims"] == 64
    assert found["bits_per_dim"]["standard_error"] > 0
    assert found["ood_auroc"]["reference"] == "mnist5k"
    assert (images / "eval" / "ood.png").is_file()
    out = tmp_path / "codes.npz"
    command("encode", tmp_path, f"run={images}", "split=test", f"out={out}", "log_prob=true")
    bits = -np.load(out)["log_prob"] / 64 / np.log(2)
    assert bits.mean() == pytest.approx(values["bits_per_dim"], abs=0.1)  # other noise


def test_a_walk_with_temperature_0_stays_at_one_image(images, tmp_path, command):
    command("sample", tmp_path, f"run={images}", "mode=walk", "num=2", "steps=3", "temperature=0")
    frames = np.load(tmp_path / "walk.npz")["images"]
    assert frames.shape[:2] == (12, 2)
    assert (frames == frames[0, 0]).all()


def test_ood_images_get_the_shape_of_the_runs_images(images):
    data = config.build(config.read_frozen(images)["data"])
    with initialize_config_module("genlab.conf", version_base="1.3"):
        config.from_run("eval", [f"run={images}"])
        node = config.resolve(compose("eval", [f"run={images}", "ood=mnist5k"]))["ood"]
    assert build_ood(node, data, []).arrays("test").images.shape == (500, 1, 8, 8)


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("sample", ["mode=walk"], "mode=walk: "),
        ("sample", ["mode=reconstruct", "temperature=0.5"], "temperature=0.5: "),
        ("sample", ["code_scale=0.5"], "code_scale=0.5: "),
        ("sample", ["label=1"], "label=1: "),
        ("sample", ["mode=interpolate", "temperature=0.5"], "temperature=0.5: "),
        ("sample", ["mode=reconstruct", "num=1000"], "num: "),
        ("encode", ["input=photos"], "input=photos: "),
        ("eval", ["ood=mnist5k"], "ood: "),
        ("eval", ["standing=2"], "standing=2 "),
        ("eval", ["temperature=0.5"], "temperature=0.5: "),
        ("encode", ["split=test", "method=optimize"], "method=optimize "),
    ],
)
def test_an_option_without_meaning_for_points_is_refused(
    points, tmp_path, name, words, message, command
):
    with pytest.raises(ValueError, match=f"^{message}"):
        command(name, tmp_path, f"run={points}", *words)


def test_a_group_that_a_recipe_does_not_use_is_refused(trained_in, tmp_path):
    with pytest.raises(ValueError, match=r"^penalty: "):
        trained_in(tmp_path / "run", "model=glow", "penalty=r1")
    with pytest.raises(ValueError, match=r"^data: "):
        trained_in(tmp_path / "run", "model=glow", "data=moons", *COMMON, "net.shape=[1,8,8]")


def test_a_resumed_run_on_points_ends_where_an_uninterrupted_one_does(
    points, trained_in, tmp_path, same_weights
):
    run = tmp_path / "run"
    trained_in(run, *POINTS, "evaluate=false", "trainer.max_steps=4")
    trained_in(run, f"run={run}", "trainer.max_steps=6")
    paths = [folder / "checkpoints" / "last.ckpt" for folder in (run, points)]
    same_weights(*(torch.load(path, weights_only=True) for path in paths))
