"""Every allowed loss x norm x update gives the gradients that separate steps would, in float64."""

import itertools
from functools import partial

import pytest
import torch
from torch import nn

from genlab.losses import gan as losses
from genlab.losses import penalties
from genlab.losses.augment import DiffAugment
from genlab.losses.code import pearson
from genlab.models.gan.dcgan import Discriminator, Generator
from genlab.nn.norm import ConditionalBatchNorm, SelfModulation
from genlab.nn.spectral_norm import advance_spectral_norm
from genlab.systems.gan import updates
from genlab.systems.gan.gan import GAN
from genlab.systems.gan.ogan import OGAN

SIZE = 16
LATENT = 6
BATCH = 5
LOSSES = {
    "non_saturating": losses.NonSaturating(),
    "hinge": losses.Hinge(),
    "wgan": losses.WGAN(),
    "lsgan": losses.LSGAN(),
    "rsgan": losses.RSGAN(),
    "gan_qp": losses.GANQP(),
    "gan_qp_l1": losses.GANQP(1 / 20, "l1"),
}
PENALTIES = {name: getattr(penalties, name)(weight=0.5) for name in penalties.__all__}
NORMS = ("batch", "group", "none", "spectral")


def build(kind: str, norm: str, loss, update: str, **options):
    torch.manual_seed(0)
    out_dim = LATENT if kind == "ogan" else 1
    spectral = norm == "spectral"
    discriminator = Discriminator(
        SIZE,
        3,
        out_dim,
        hidden_dim=16,
        norm="none" if spectral else norm,
        spectral_norm=spectral,
    )
    net = {
        "generator": Generator(SIZE, 3, LATENT, hidden_dim=16),
        "discriminator": discriminator,
    }
    optimizer = partial(torch.optim.SGD)
    cls = OGAN if kind == "ogan" else GAN
    system = cls(
        net, loss, LATENT, optimizer, 1e-3, 1e-3, out_dim=out_dim, update=update, **options
    ).double()
    # Scores and images far from zero, so that every branch of a loss is visited
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    for _ in range(20):
        advance_spectral_norm(system)
    x = torch.rand(BATCH, 3, SIZE, SIZE, dtype=torch.double) * 2 - 1
    return system, x, torch.randn(BATCH, LATENT, dtype=torch.double)


def separate(system, x, z):
    """Gradients of each player from its own loss, written out without the system's step."""
    ogan = isinstance(system, OGAN)
    generator = system.generator
    discriminator = system.discriminator
    scale = system.score_scale

    def code(outputs):
        return system.code_weight * pearson(z, outputs).mean() if ogan else 0.0

    fake = generator(z).detach()
    real_out, fake_out = discriminator(x), discriminator(fake)
    loss_d = system.loss.discriminator(
        scale * real_out.mean(1), scale * fake_out.mean(1), x, fake
    ).mean()
    if system.penalty is not None:
        torch.manual_seed(7)

        def critic(images):
            return scale * discriminator(images).mean(1)

        loss_d = loss_d + system.penalty(critic, x, fake).mean()
    d = torch.autograd.grad(loss_d - code(fake_out), list(discriminator.parameters()))
    fake_out = discriminator(generator(z))
    real_out = discriminator(x)
    loss_g = system.loss.generator(scale * real_out.mean(1), scale * fake_out.mean(1)).mean()
    g = torch.autograd.grad(loss_g - code(fake_out), list(generator.parameters()))
    return d, g


def assert_equal(system, expected, atol=1e-10):
    for network, gradients in zip((system.discriminator, system.generator), expected, strict=True):
        for (name, parameter), gradient in zip(network.named_parameters(), gradients, strict=True):
            error = (parameter.grad - gradient).abs().max()
            assert error <= atol * max(1.0, gradient.abs().max()), (name, error)


@pytest.mark.parametrize("kind", ["gan", "ogan"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("update", ["shared", "single", "scaled"])
def test_one_backward_gives_the_gradients_of_separate_losses(update, name, norm, kind):
    loss = LOSSES[name]
    if update == "scaled" and (kind == "ogan" or (norm == "batch" and not loss.symmetric)):
        with pytest.raises(ValueError, match=r"^model\.update=scaled"):
            build(kind, norm, loss, update)
        return
    # scaled is exact where D's gradient for a fake is not 0; a test below has the other case
    scale = 0.2 if update == "scaled" and name in ("hinge", "rsgan") else 3.0
    system, x, z = build(kind, norm, loss, update, score_scale=scale)
    expected = separate(system, x, z)
    assert all(g.abs().max() > 0 for g in itertools.chain(*expected) if g.numel() > 64)
    objective, _ = getattr(updates, update)(system, x, z)
    system.zero_grad()
    objective.backward()
    assert_equal(system, expected)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("update", ["shared", "single", "scaled", "alternating"])
def test_a_penalty_is_the_discriminators_alone(update, penalty, name, norm):
    loss, kind = LOSSES[name], "gan" if update == "scaled" else "ogan"
    if update == "scaled" and norm == "batch" and not loss.symmetric:
        return  # refused, as the test above has it
    scale = 0.2 if update == "scaled" and name in ("hinge", "rsgan") else 3.0
    system, x, z = build(kind, norm, loss, update, score_scale=scale, penalty=PENALTIES[penalty])
    d, g = separate(system, x, z)
    torch.manual_seed(7)  # the penalty's own draw
    system.zero_grad()
    if update == "alternating":
        updates.discriminator_turn(system, x, z)[0].backward()
        assert all(p.grad is None for p in system.generator.parameters())
        updates.generator_turn(system, x, z)[0].backward()
    else:
        getattr(updates, update)(system, x, z)[0].backward()
    assert_equal(system, (d, g))


def test_a_lazy_penalty_is_due_at_every_nth_step_and_n_times_as_strong(monkeypatch):
    system, x, z = build(
        "gan", "none", losses.Hinge(), "shared", penalty=penalties.R1(weight=2.0, every=4)
    )
    once = penalties.R1(weight=2.0)(
        lambda images: system.score(system.discriminator(images)), x, z
    ).mean()
    for step in range(9):
        monkeypatch.setattr(type(system), "global_step", step)
        value = system.penalise(x, x, None, {})
        torch.testing.assert_close(
            torch.as_tensor(value),
            torch.as_tensor(4 * once if step % 4 == 0 else 0.0),
            check_dtype=False,
        )


@pytest.mark.parametrize("update", ["shared", "single", "alternating"])
@pytest.mark.parametrize("modulation", [ConditionalBatchNorm, SelfModulation])
def test_with_labels_and_augmentation_the_gradients_are_still_those_of_separate_losses(
    update, modulation
):
    torch.manual_seed(0)
    net = {
        "generator": Generator(SIZE, 3, LATENT, 4, hidden_dim=16, norm=modulation),
        "discriminator": Discriminator(SIZE, 3, LATENT, 4, hidden_dim=16, norm="group"),
    }
    augment = DiffAugment(["color", "translation", "cutout"])
    options = {"out_dim": LATENT, "num_classes": 4, "update": update, "augment": augment}
    system = OGAN(net, losses.Hinge(), LATENT, torch.optim.SGD, 1e-3, 1e-3, **options).double()
    x = torch.rand(BATCH, 3, SIZE, SIZE, dtype=torch.double) * 2 - 1
    z = torch.randn(BATCH, LATENT, dtype=torch.double)
    y = torch.tensor([0, 3, 1, 3, 2])
    augment.draw(BATCH, x.device)
    generator, discriminator = system.generator, system.discriminator

    def code(outputs):
        return 0.5 * pearson(z, outputs).mean()

    fake = generator(z, y)
    real_out, fake_out = discriminator(augment(x), y), discriminator(augment(fake.detach()), y)
    loss_d = system.loss.discriminator(real_out.mean(1), fake_out.mean(1), x, fake).mean() - code(
        fake_out
    )
    d = torch.autograd.grad(loss_d, list(discriminator.parameters()))
    fake_out = discriminator(augment(fake), y)
    loss_g = -fake_out.mean(1).mean() - code(fake_out)
    g = torch.autograd.grad(loss_g, list(generator.parameters()))
    system.zero_grad()
    if update == "alternating":
        updates.discriminator_turn(system, x, z, y)[0].backward()
        updates.generator_turn(system, x, z, y)[0].backward()
    else:
        getattr(updates, update)(system, x, z, y)[0].backward()
    assert_equal(system, (d, g))


@pytest.mark.parametrize("kind", ["gan", "ogan"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", LOSSES)
def test_turns_of_alternation_move_one_player_each(name, norm, kind):
    system, x, z = build(kind, norm, LOSSES[name], "alternating")
    d, g = separate(system, x, z)
    objective, _ = updates.discriminator_turn(system, x, z)
    objective.backward()
    assert all(p.grad is None for p in system.generator.parameters())
    for parameter, gradient in zip(system.discriminator.parameters(), d, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-12)
    system.zero_grad()
    objective, _ = updates.generator_turn(system, x, z)
    objective.backward()
    assert all(p.grad is None and p.requires_grad for p in system.discriminator.parameters())
    for parameter, gradient in zip(system.generator.parameters(), g, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-12)


def test_scaled_keeps_the_generator_exact_where_the_hinge_is_saturated():
    system, x, z = build("gan", "none", losses.Hinge(), "scaled", score_scale=50.0)
    with torch.no_grad():  # push all fakes far below -1, where dL_D/df is zero
        system.discriminator.head.dense.bias -= 10
    expected = separate(system, x, z)
    objective, _ = updates.scaled(system, x, z)
    system.zero_grad()
    objective.backward()
    for parameter, gradient in zip(system.generator.parameters(), expected[1], strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-12)
    for parameter, gradient in zip(system.discriminator.parameters(), expected[0], strict=True):
        assert (parameter.grad - gradient).abs().max() <= 1e-2 * max(1e-3, gradient.abs().max())


def test_single_refuses_a_network_that_changes_between_passes():
    net = {
        "generator": Generator(SIZE, 3, LATENT, hidden_dim=16),
        "discriminator": nn.Sequential(
            nn.Flatten(), nn.utils.parametrizations.spectral_norm(nn.Linear(768, 1))
        ),
    }
    with pytest.raises(ValueError, match=r"^model\.update=single"):
        GAN(net, losses.Hinge(), LATENT, torch.optim.SGD, 1e-3, 1e-3, update="single")


def test_code_and_score_gradients_are_orthogonal_at_the_encoders_output():
    torch.manual_seed(0)
    code = torch.randn(7, 32, dtype=torch.double, requires_grad=True)
    z = torch.randn(7, 32, dtype=torch.double)
    (of_code,) = torch.autograd.grad(pearson(z, code).sum(), code)
    (of_score,) = torch.autograd.grad(code.mean(1).sum(), code)
    centred = (code - code.mean(1, keepdim=True)).detach()
    assert of_code.abs().max() > 1e-2
    assert (of_code * of_score).sum(1).abs().max() < 1e-15
    assert (of_code * centred).sum(1).abs().max() < 1e-14


@pytest.mark.parametrize("update", ["shared", "single", "alternating"])
def test_running_statistics_come_from_real_images_alone(update):
    system, x, z = build("ogan", "batch", losses.GANQP(), update)
    norms = [m for m in system.discriminator.modules() if isinstance(m, nn.BatchNorm2d)]
    twin, _, _ = build("ogan", "batch", losses.GANQP(), update)
    twin.discriminator(x)
    expected = [
        m.running_mean for m in twin.discriminator.modules() if isinstance(m, nn.BatchNorm2d)
    ]
    if update == "alternating":
        updates.discriminator_turn(system, x, z)
        updates.generator_turn(system, x, z)
    else:
        getattr(updates, update)(system, x, z)
    for norm, mean in zip(norms, expected, strict=True):
        torch.testing.assert_close(norm.running_mean, mean, rtol=1e-12, atol=0)
        assert norm.num_batches_tracked == 1


def test_encoding_in_eval_mode_agrees_with_train_mode_on_a_large_batch():
    system, _, _ = build("ogan", "batch", losses.GANQP(), "shared")
    x = torch.rand(512, 3, SIZE, SIZE, dtype=torch.double) * 2 - 1
    for _ in range(1500):  # momentum 0.01: the running statistics forget where they started
        updates_x = x[torch.randint(512, (64,))]
        with torch.no_grad():
            system.discriminate(updates_x)
            system.discriminate(-3 * updates_x, fake=True)
    system.train()
    by_batch = system.encode(x)[:256]  # encode splits at 256: statistics of that batch
    system.eval()
    error = (system.encode(x)[:256] - by_batch).norm() / by_batch.norm()
    assert error < 0.1, error
