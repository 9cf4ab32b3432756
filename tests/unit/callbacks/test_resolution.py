"""The schedule of progressive growing, its effect on a step, and a resume inside a fade."""

import csv
import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import genlab
from genlab.callbacks.resolution import Growing
from genlab.models.gan import dcgan, growing
from genlab.runs import read_checkpoint


@pytest.mark.parametrize(
    ("images", "level"),
    [
        (0, 0),
        (99, 0),
        (100, 0),
        (110, 0.2),
        (125, 0.5),
        (149, 0.98),
        (150, 1),
        (250, 1),
        (275, 1.5),
        (300, 2),
        (10**9, 3),
    ],
)
def test_the_level_is_a_function_of_the_images_seen(images, level):
    callback = Growing(train_images=100, fade_images=50)
    callback.top = 3
    assert callback.level(images) == pytest.approx(level)


def test_the_schedule_may_start_later_or_have_one_phase_only():
    assert [Growing(100, 50, start_size=16).level(n) for n in (0, 125, 150)] == [2, 2.5, 3]
    assert [Growing(100, 0).level(n) for n in (0, 99, 100, 200)] == [0, 0, 1, 2]
    assert [Growing(0, 100).level(n) for n in (0, 50, 100, 150)] == [0, 0.5, 1, 1.5]


class System(nn.Module):
    def __init__(self, generator=growing.Generator, discriminator=growing.Discriminator):
        super().__init__()
        self.generator = generator(16, 1, 6, hidden_dim=8)
        self.discriminator = discriminator(16, 1, 5, hidden_dim=8)
        self.logs = []

    def log(self, name, value, **options):
        self.logs.append((name, value))


def trainer(step=0, accumulate=1, world_size=1, **strategy):
    return SimpleNamespace(
        global_step=step,
        accumulate_grad_batches=accumulate,
        world_size=world_size,
        strategy=SimpleNamespace(**strategy),
        optimizers=[SimpleNamespace(state={"moments": 1})],
    )


@pytest.mark.parametrize(("accumulate", "world_size"), [(1, 1), (2, 1), (1, 3)])
def test_a_step_grows_both_networks_and_the_real_images(accumulate, world_size):
    callback, system = Growing(100, 50), System()
    # 120 images, 4 in a batch, are seen before this step.
    driver = trainer(30 // accumulate // world_size, accumulate, world_size)
    callback.on_fit_start(driver, system)
    images = torch.randn(4, 1, 16, 16)
    batch = {"image": images, "label": torch.zeros(4)}
    callback.on_train_batch_start(driver, system, batch, 0)
    assert system.generator.level == system.discriminator.level == pytest.approx(0.4, abs=1e-6)
    assert torch.equal(batch["image"], system.discriminator.at_level(images))
    assert system.logs == [("train/level", pytest.approx(0.4))]


@pytest.mark.parametrize("reset", [True, False])
def test_the_optimiser_forgets_when_a_size_comes_or_goes(reset):
    callback, system = Growing(8, 8, reset_optimizer=reset), System()
    cleared = []
    for step in range(12):  # 4 images a step: levels 0 0 0 .5 | 1 1 1 1.5 | 2 2 2 2
        driver = trainer(step)
        callback.on_fit_start(driver, system)
        callback.on_train_batch_start(driver, system, {"image": torch.zeros(4, 1, 16, 16)}, step)
        cleared += [] if driver.optimizers[0].state else [step]
    assert cleared == ([3, 4, 7, 8] if reset else [])


def test_a_network_that_cannot_grow_is_refused_by_name():
    with pytest.raises(
        ValueError,
        match=r"^callbacks=growing: net\.generator is a genlab\.models\.gan\.dcgan\.Generator",
    ):
        Growing(1, 1).on_fit_start(trainer(), System(generator=dcgan.Generator))
    with pytest.raises(
        ValueError, match=r"net\.discriminator is a .*dcgan\.Discriminator.* net=growing_dcgan"
    ):
        Growing(1, 1).on_fit_start(trainer(), System(discriminator=dcgan.Discriminator))


def test_settings_without_effect_are_refused():
    with pytest.raises(ValueError, match=r"^callbacks\.growing\.start_size=32: .*4, 8, 16"):
        Growing(1, 1, start_size=32).on_fit_start(trainer(), System())
    with pytest.raises(ValueError, match=r"^callbacks\.growing\.start_size=12: .*4, 8, 16"):
        Growing(1, 1, start_size=12)
    with pytest.raises(ValueError, match=r"^callbacks\.growing\.train_images=-1, fade_images=5"):
        Growing(-1, 5)
    with pytest.raises(ValueError, match=r"^callbacks\.growing\.train_images=0, fade_images=0"):
        Growing(0, 0)


def test_distributed_training_needs_find_unused_parameters():
    with pytest.raises(
        ValueError, match=r"^trainer\.strategy\.find_unused_parameters=false: callbacks=growing"
    ):
        Growing(1, 1).on_fit_start(trainer(_ddp_kwargs={}), System())
    Growing(1, 1).on_fit_start(trainer(_ddp_kwargs={"find_unused_parameters": True}), System())


# --- in a run -------------------------------------------------------------------------------------

GROW = [
    "callbacks=growing",
    "callbacks.growing.train_images=32",
    "callbacks.growing.fade_images=48",
]
RECIPES = {
    "dcgan": ["model=ogan", "net=growing_dcgan", "net.generator.hidden_dim=8", *GROW],
    "pggan": ["model=pggan", "net.generator.hidden_dim=4", "model.latent_dim=8", *GROW],
}


@pytest.fixture(scope="module", params=RECIPES)
def run(request, trained_in, tiny, tmp_path_factory):
    """(run directory, its overrides): six steps of 16 images; the fade ends at the last one."""
    words = [*(word for word in tiny if not word.startswith("net.")), *RECIPES[request.param]]
    run_dir = tmp_path_factory.mktemp(request.param) / "run"
    trained_in(run_dir, *words)
    return run_dir, words


def last(run_dir):
    return read_checkpoint(run_dir / "checkpoints" / "last.ckpt")


def test_the_level_is_logged(run):
    with open(run[0] / "metrics.csv", newline="") as file:
        levels = [float(row["train/level"]) for row in csv.DictReader(file)]
    assert levels == pytest.approx([0, 0, 0, 1 / 3, 2 / 3, 1], abs=1e-6)


@pytest.mark.parametrize("stop", [4, 5])
def test_a_resume_inside_a_fade_ends_where_an_uninterrupted_run_does(
    run, stop, trained_in, tmp_path, same_weights
):
    run_dir, words = run
    trained_in(tmp_path / "run", *words, f"trainer.max_steps={stop}")
    assert 0 < genlab.load(tmp_path / "run").generator.level < 1
    trained_in(tmp_path / "run", f"run={tmp_path / 'run'}", "trainer.max_steps=6")
    same_weights(last(tmp_path / "run"), last(run_dir))
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["steps"] == 6


def test_raw_and_averaged_networks_are_saved_at_the_same_level(run):
    saved = last(run[0])
    for part in ("ema", "state_dict"):
        assert saved[part]["generator.stored_level"] == 2**20
    for weights in ("raw", "ema"):
        assert genlab.load(run[0], weights=weights).generator.level == 1


def test_a_network_half_grown_draws_blocks_of_equal_pixels(run):
    images = genlab.load(run[0]).sample(3)
    assert images.shape == (3, 1, 32, 32)
    small = images[:, :, ::4, ::4]
    assert torch.equal(images, small.repeat_interleave(4, 2).repeat_interleave(4, 3))
    assert small.std() > 0


def test_moments_are_as_old_as_the_last_reset(run):
    state = last(run[0])["optimizer_states"][0]["state"]
    # Cleared when 4x4 was left at step 6
    assert {int(moments["step"]) for moments in state.values()} == {1}
