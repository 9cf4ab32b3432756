"""Labels, standing statistics, and codes by optimisation."""

import pytest
import torch
from torch import nn

from genlab.losses.gan import Hinge
from genlab.models.gan.dcgan import Discriminator, Generator
from genlab.nn.norm import ConditionalBatchNorm
from genlab.systems.base import HasGenerator
from genlab.systems.gan.gan import GAN
from genlab.systems.latent.inversion import invert


def build(num_classes=0, **options):
    torch.manual_seed(0)
    norm = {"norm": ConditionalBatchNorm} if num_classes else {}
    net = {
        "generator": Generator(16, 1, 6, num_classes, hidden_dim=16, **norm),
        "discriminator": Discriminator(16, 1, 1, num_classes, hidden_dim=16),
    }
    return GAN(
        net, Hinge(), 6, torch.optim.SGD, 1e-3, 1e-3, num_classes=num_classes, **options
    ).eval()


def test_labels_are_the_given_ones_or_all_in_turn():
    system = build(3)
    assert system.labels(7).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert system.labels(4, 2).tolist() == [2, 2, 2, 2]
    assert system.labels(3, [2, 0]).tolist() == [2, 0, 2]
    for wrong in (3, -1, [0, 9], []):
        with pytest.raises(ValueError, match=r"^label="):
            system.labels(4, wrong)
    assert build().labels(4) is None
    with pytest.raises(ValueError, match=r"^label=1"):
        build().labels(4, 1)


def test_a_label_changes_the_image_and_nothing_else_does():
    system = build(3)
    nn.init.normal_(system.generator.norms[0].embedding.weight)
    images = system.sample(6, seed=1, label=[0, 1, 2])
    again = system.sample(6, seed=1, label=1)
    assert torch.equal(images[1], again[1]) and torch.equal(images[4], again[4])
    assert not torch.equal(images[0], again[0])


def test_standing_statistics_are_those_of_the_samples():
    system = build()
    before = {
        name: value.clone()
        for name, value in system.state_dict().items()
        if "running" not in name and "num_b" not in name
    }
    system.stand(3, seed=5)
    inputs = system.generator.dense(system.prior(768, seed=5)).unflatten(1, (-1, 4, 4)).split(256)
    norm = system.generator.norms[0]
    torch.testing.assert_close(
        norm.running_mean, torch.stack([h.mean((0, 2, 3)) for h in inputs]).mean(0)
    )
    torch.testing.assert_close(
        norm.running_var, torch.stack([h.var((0, 2, 3)) for h in inputs]).mean(0)
    )
    assert not norm.training and norm.momentum == 0.01
    assert all(torch.equal(system.state_dict()[name], value) for name, value in before.items())


def test_generated_images_are_the_decoded_ones_with_gradients():
    system = build(3)
    y = torch.tensor([0, 2])
    z = system.prior(2, seed=0).requires_grad_()
    images = system.generate_images(z, y)
    assert isinstance(system, HasGenerator) and torch.equal(images, system.decode(z.detach(), y))
    (gradient,) = torch.autograd.grad(images.sum(), z)
    assert gradient.abs().sum() > 0


def test_optimisation_finds_the_codes_of_a_generators_own_images():
    system = build()
    z = system.prior(5, seed=3)
    nn.init.normal_(system.generator.deconvs[1].layers[0].weight, std=0.3)
    images = system.decode(z)
    done = []
    codes = invert(
        system, images, num_steps=150, num_restarts=3, prior_weight=0.0, progress=done.append
    )
    error = (system.decode(codes) - images).square().mean()
    start = (system.decode(system.prior(5, seed=0)) - images).square().mean()
    assert error < 0.02 * start and done[-1] == 450
    assert not any(p.grad is not None for p in system.generator.parameters())
