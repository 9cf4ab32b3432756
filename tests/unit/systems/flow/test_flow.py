import inspect
import math
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from genlab.callbacks.ema import EMA
from genlab.config import locate
from genlab.config.renamed import ARGUMENTS, with_new_names
from genlab.data.points import PointSet
from genlab.models.flow.glow import Glow
from genlab.systems.flow.flow import Flow


class Watched(Glow):
    """A Glow that counts its refreshes."""

    refreshed = 0

    def refresh(self):
        self.refreshed += 1


def flow(*shape: int, net=Glow, **options) -> Flow:
    system = Flow(
        net(shape or (1, 4, 4), num_steps=2, hidden_dim=6), torch.optim.Adam, 1e-2, **options
    )
    system.net.train()
    system.net(torch.randn(32, *system.net.shape))
    with torch.no_grad():
        for p in system.net.parameters():
            p += 0.05 * torch.randn_like(p)
    return system.eval()


def images(num: int, num_bins: int = 256) -> torch.Tensor:
    return torch.randint(num_bins, (num, 1, 4, 4)) / (num_bins - 1) * 2 - 1


def test_log_prob_is_prior_and_jacobian_and_bins():
    system, x = flow(num_bins=17, alpha=0.05).double(), images(3, 17).double()
    noise = torch.rand_like(x)
    u = ((x + 1) * 8).round() / 17 + noise / 17
    for i in range(3):
        jacobian = torch.autograd.functional.jacobian(
            lambda v: system.net((0.05 + 0.9 * v[None]).logit())[0].flatten(), u[i]
        ).flatten(1)
        z = system.net((0.05 + 0.9 * u[i : i + 1]).logit())[0]
        prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum()
        expected = prior + torch.linalg.slogdet(jacobian)[1] - 16 * math.log(17)
        assert torch.allclose(system.log_prob_of(x, noise)[i], expected, atol=1e-8)
    assert torch.allclose(
        system.scaled(torch.tensor(-16 * math.log(17))), torch.tensor(math.log2(17))
    )


def test_log_prob_of_points_is_a_density_in_their_own_units():
    system, x = flow(2).double(), torch.randn(3, 2).double()
    jacobian = torch.autograd.functional.jacobian(lambda v: system.net(v[None])[0][0], x[0])
    z = system.encode(x)[0]
    expected = -0.5 * z.square().sum() - math.log(2 * math.pi) + torch.linalg.slogdet(jacobian)[1]
    assert torch.allclose(system.log_prob(x)[0], expected, atol=1e-10)


def test_a_likelihood_is_a_function_of_its_seed_and_leaves_the_generator_alone():
    system, x = flow(), images(300)
    state = torch.get_rng_state()
    one = system.log_prob(x, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, system.log_prob(x, seed=4))
    assert not torch.equal(one, system.log_prob(x, seed=5))
    assert one.shape == (300,) and not one.requires_grad


def test_codes_are_exact_and_images_come_back_to_the_bit():
    system, x = flow(num_bins=17), images(5, 17)
    codes = system.encode(x)
    assert codes.shape == (5, 16) and torch.equal(system.decode(codes), system.reconstruct(x))
    assert torch.allclose(system.reconstruct(x), x, atol=1e-6)
    assert torch.allclose(system.encode(system.decode(codes)), codes, atol=1e-4)
    assert not torch.allclose(system.reconstruct(x, 0.5), x, atol=1e-2)
    rows = system.interpolate(x[:2], x[2:4], 6)
    assert rows.shape == (2, 6, 1, 4, 4)
    assert torch.allclose(rows[:, 0], x[:2], atol=1e-6)
    assert torch.allclose(rows[:, -1], x[2:4], atol=1e-6)


def test_an_inverse_that_overflows_is_an_image_and_warns_once(caplog):
    system = flow()
    system.net.inverse = lambda z: torch.full((len(z), 1, 4, 4), torch.nan)
    assert system.sample(3).abs().max() < 0.01 and system.sample(2).shape == (2, 1, 4, 4)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_temperature_is_the_standard_deviation_of_the_prior():
    system = flow(2)
    cold = system.encode(system.sample(400, seed=1, temperature=0.3))
    assert torch.allclose(cold, 0.3 * system.prior(400, seed=1), atol=1e-3)
    assert torch.equal(system.sample(3, seed=1), system.sample(400, seed=1)[:3])


def test_what_is_logged_is_named_for_what_it_is():
    system, logged = flow().train(), {}
    system.log = lambda name, value, **options: logged.update({name: value})
    loss = system.training_step({"image": images(8)}, 0)
    assert loss.requires_grad and torch.equal(logged["train/bits_per_dim"], loss.detach())
    system.net.surrogate = True
    system.net.estimates = lambda: {"log_det/0": torch.tensor(1.0)}
    system.log_dict = logged.update
    logged.clear()
    system.training_step({"image": images(8)}, 0)
    assert logged.keys() == {"train/surrogate_loss", "train/log_det/0"}
    points = flow(2).train()
    points.log = system.log
    points.training_step({"point": torch.randn(8, 2)}, 0)
    assert "train/nll" in logged


def test_the_rate_warms_up_then_falls_along_a_cosine():
    system = flow(num_warmup_steps=4, num_decay_steps=12)
    assert [system.rate(step) for step in (0, 1, 3, 4)] == [0.25, 0.5, 1.0, 1.0]
    assert system.rate(8) == pytest.approx(0.5) and system.rate(12) == system.rate(100) == 0
    assert flow(num_warmup_steps=4).rate(1000) == 1
    schedule = system.configure_optimizers()["lr_scheduler"]
    assert schedule["interval"] == "step" and schedule["scheduler"].get_last_lr() == [0.0025]
    assert isinstance(flow().configure_optimizers(), torch.optim.Adam)


def test_a_network_is_refreshed_at_every_exchange_of_its_weights():
    system = flow(net=Watched)
    ema = EMA(1000, ["net"])
    ema.on_fit_start(None, system)
    ema.swap(system)
    assert system.net.refreshed == 1
    ema.swap(system)  # the raw weights come back with all that belongs to them
    assert system.net.refreshed == 1


def fit(system: Flow, **options) -> None:
    data = SimpleNamespace(name="toy", modality="image", num_bins=17, **options)
    system._trainer = SimpleNamespace(
        datamodule=data, precision=options.get("precision", "32-true")
    )
    system.on_fit_start()


def test_the_grey_values_are_those_of_the_data_unless_given():
    system = flow()
    fit(system)
    assert system.pixels.levels == 17
    system = flow(num_bins=32)
    fit(system)
    assert system.pixels.levels == 32


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: fit(flow(), precision="bf16-mixed"), r"^trainer\.precision=bf16-mixed"),
        (lambda: fit(flow(2)), "^data: toy"),
        (lambda: flow(2, num_bins=17), r"^model\.num_bins=17"),
        (lambda: flow(num_warmup_steps=9, num_decay_steps=9), r"^model\.num_decay_steps=9"),
        (lambda: flow(alpha=0.7), r"^model\.alpha=0\.7"),
    ],
)
def test_what_cannot_take_effect_is_refused(make, key):
    with pytest.raises(ValueError, match=key):
        make()


def test_a_config_of_earlier_names_is_read_with_todays():
    system = {"_target_": "genlab.systems.flow.Flow", "lr": 1, "warmup_steps": 3, "levels": 17}
    assert with_new_names(system) == {
        "_target_": "genlab.systems.flow.flow.Flow",
        "lr": 1,
        "num_warmup_steps": 3,
        "num_bins": 17,
    }
    net = {
        "_target_": "genlab.models.flow.iresnet.IResNet",
        "width": 8,
        "depth": 1,
        "norm": "after",
    }
    today = with_new_names(net)
    assert today == {
        "_target_": net["_target_"],
        "hidden_dim": 8,
        "num_layers": 1,
        "actnorm": "after",
    }
    assert with_new_names(today) == today


@pytest.mark.parametrize("target", [name for name in ARGUMENTS if "flow" in name])
def test_todays_names_are_arguments_of_their_constructors(target):
    names = set()
    for kind in locate(target).__mro__[:-1]:
        names |= set(inspect.signature(kind.__init__).parameters)
    assert set(ARGUMENTS[target].values()) <= names


def test_some_steps_lower_the_loss():
    torch.manual_seed(0)
    system, x = flow(num_bins=17).train(), images(64, 3)
    optimizer = system.configure_optimizers()
    losses = []
    for _ in range(40):
        loss = system.scaled(system.log_prob_of(x, torch.rand_like(x))).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(system.net.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*")
def test_the_trainer_steps_validates_and_refreshes():
    system = flow(2, net=Watched).train()
    before = [p.clone() for p in system.parameters()]
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    ema = EMA(1000, ["net"])
    trainer = Trainer(
        accelerator="cpu", devices=1, max_steps=4, val_check_interval=4, callbacks=[ema], **quiet
    )
    trainer.fit(system, PointSet("moons", batch_size=32, num_train=128, num_val=64))
    assert trainer.global_step == 4 and trainer.callback_metrics["val/nll"].isfinite()
    # each step, the swap before validation, and that of the sanity check
    assert system.net.refreshed == 4 + 1 + 1
    assert all(not torch.equal(a, b) for a, b in zip(before, system.parameters(), strict=True))
