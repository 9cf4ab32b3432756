"""Four ways to train generator G and discriminator D in one training step.

The first three form one loss whose gradient is, for both players, that of simultaneous steps:
dL_D/d(D) and dL_G/d(G) at the same parameters. Below, f are the scores of the fakes, a = dL_D/df
and b = dL_G/df; sg stops gradients.

shared        One D pass on k = sg(G(z)) and its input gradient g = dL_G/dk; the loss is
              L_D + <g, G(z)>. Exact for every network and loss.
single        L_D(x, sg G) + L_G(D(G)) - L_G(D(sg G)), three D passes. Su, "Save memory and time:
              train a GAN with a single loss" (kexue.fm, archive 6387). Exact where all passes see
              the same D, so not with a spectral norm that iterates at each pass.
scaled        One D pass on G(z); the gradient that enters G is multiplied per sample by b / a.
              "Training Generative Adversarial Networks in One Stage", Shen et al. 2021, arXiv
              2103.00430. Needs one score per image, and no batch norm in D unless b = -a.
alternating   The baseline: steps of D, then one of G, each with its own loss.

Each of these functions takes the system, real images x (B, C, H, W), latent vectors z (B, Z) and
labels y (B,) or None, which the fakes share. It returns the scalar to call backward on and the
values to log.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm

from genlab.losses.gan import AdversarialLoss
from genlab.nn.norm import couples_batch
from genlab.nn.staged import Growing
from genlab.training.distributed import check_unused

__all__ = [
    "JOINT",
    "check",
    "check_classes",
    "check_graph",
    "check_trainer",
    "discriminator_turn",
    "generator_turn",
    "scaled",
    "shared",
    "single",
]

# The least |a| that `scaled` divides by. Where |a| is smaller (a saturated hinge, a confident
# sigmoid), a is raised to this value: D's gradient is off by at most SMALLEST per sample, and G's
# stays exact.
SMALLEST = 1e-6

Step = tuple[Tensor, dict[str, Tensor]]


def shared(system, x: Tensor, z: Tensor, y: Tensor | None = None) -> Step:
    """One D pass on k = sg(G(z)); dL_G/dk is passed on to G."""
    fake = system.generator(z, y)
    k = fake.detach().requires_grad_()
    real_outputs = system.discriminate(x, y)
    fake_outputs = system.discriminate(k, y, fake=True)
    loss_d, loss_g, logs = system.objectives(real_outputs, fake_outputs, x, k, z)
    (g,) = torch.autograd.grad(loss_g, k, retain_graph=True)
    return loss_d + system.penalise(x, k, y, logs) + (g * fake).sum(), logs


def single(system, x: Tensor, z: Tensor, y: Tensor | None = None) -> Step:
    """The stop-gradient form: L_D(x, sg G) + L_G(D(G)) - L_G(D(sg G))."""
    fake = system.generator(z, y)
    k = fake.detach()
    real_outputs = system.discriminate(x, y)
    stopped_outputs = system.discriminate(k, y, fake=True)
    loss_d, stopped_loss_g, logs = system.objectives(real_outputs, stopped_outputs, x, k, z)
    fake_outputs = system.discriminate(fake, y, fake=True)
    _, loss_g, _ = system.objectives(real_outputs, fake_outputs, x, k, z)
    return loss_d + system.penalise(x, k, y, logs) + loss_g - stopped_loss_g, logs


def scaled(system, x: Tensor, z: Tensor, y: Tensor | None = None) -> Step:
    """One D pass on G(z); the gradient that enters G is multiplied per sample by b / a."""
    fake = system.generator(z, y)
    k = fake.detach()
    real_outputs = system.discriminate(x, y)
    fake_outputs = system.discriminate(fake, y, fake=True)
    scores = fake_outputs.detach().requires_grad_()
    loss_d, loss_g, _ = system.objectives(real_outputs.detach(), scores, x, k, z)
    (a,) = torch.autograd.grad(loss_d, scores, retain_graph=True)  # (B, 1)
    (b,) = torch.autograd.grad(loss_g, scores)  # (B, 1)
    smallest = SMALLEST / len(a)  # the losses are means over the batch
    held = torch.where(a.abs() < smallest, torch.full_like(a, smallest).copysign(a), a)
    ratio = (b / held).view(-1, 1, 1, 1)
    fake.register_hook(lambda gradient: gradient * ratio.to(gradient.dtype))
    loss_d, _, logs = system.objectives(real_outputs, fake_outputs, x, k, z)
    # The last term raises D's gradient from a to held.
    loss = loss_d + system.penalise(x, k, y, logs) + ((held - a) * fake_outputs).sum()
    return loss, logs


JOINT = {"shared": shared, "single": single, "scaled": scaled}


def discriminator_turn(system, x: Tensor, z: Tensor, y: Tensor | None = None) -> Step:
    """D's own loss, on fakes made without a graph."""
    with torch.no_grad():
        k = system.generator(z, y)
    real_outputs = system.discriminate(x, y)
    fake_outputs = system.discriminate(k, y, fake=True)
    loss_d, _, logs = system.objectives(real_outputs, fake_outputs, x, k, z)
    return loss_d + system.penalise(x, k, y, logs), logs


def generator_turn(system, x: Tensor, z: Tensor, y: Tensor | None = None) -> Step:
    """G's own loss, through a frozen D.

    D passes over the real images only if the loss compares the fakes with them.
    """
    system.discriminator.requires_grad_(False)
    try:
        fake_outputs = system.discriminate(system.generator(z, y), y, fake=True)
        if system.loss.relative:
            real_outputs = system.discriminate(x, y, fake=True)
        else:
            real_outputs = fake_outputs.detach()
        loss_g = system.generator_objective(real_outputs, fake_outputs, z)
    finally:
        system.discriminator.requires_grad_(True)
    return loss_g, {"train/loss_g": loss_g.detach()}


def check(
    update: str,
    discriminator: nn.Module,
    out_dim: int,
    loss: AdversarialLoss,
    num_discriminator_steps: int,
) -> None:
    """Checks that an update is exact for a discriminator and a loss.

    Args:
        update: shared, single, scaled or alternating.
        discriminator: D.
        out_dim: Outputs of D.
        loss: The adversarial loss.
        num_discriminator_steps: Steps of D per step of G.

    Raises:
        ValueError: The update would give other gradients, or is unknown.
    """
    if update not in (*JOINT, "alternating"):
        raise ValueError(f"model.update={update!r}: expected shared, single, scaled or alternating")
    if num_discriminator_steps != 1 and update != "alternating":
        raise ValueError(
            f"model.num_discriminator_steps={num_discriminator_steps}: more than one discriminator "
            "step per generator step needs model.update=alternating"
        )
    if update == "scaled" and out_dim > 1:
        raise ValueError(
            "model.update=scaled: needs a discriminator with one output. The two gradients of an "
            "encoder's outputs are vectors and not parallel; use model.update=shared"
        )
    if update == "scaled" and not loss.symmetric and couples_batch(discriminator):
        raise ValueError(
            "model.update=scaled: the generator's gradient is wrong by 26 to 62 % with an "
            "asymmetric loss and batch normalisation (or another layer that couples the batch) in "
            "the discriminator; use net.discriminator.norm=group or none, loss=wgan, or "
            "model.update=shared"
        )
    if update == "single" and any(map(_iterates_per_pass, discriminator.modules())):
        raise ValueError(
            "model.update=single: torch's spectral_norm changes the discriminator between the "
            "passes of a step; use genlab.nn.spectral_norm or model.update=shared"
        )


def check_trainer(update: str, trainer) -> None:
    """Raises ValueError where an update is not exact under this Lightning trainer."""
    if update == "alternating" and trainer.accumulate_grad_batches != 1:
        raise ValueError(
            f"trainer.accumulate_grad_batches={trainer.accumulate_grad_batches}: "
            "model.update=alternating steps each player on its own loss and cannot accumulate "
            "gradients; use model.update=shared"
        )
    if update == "alternating":
        check_unused(trainer, "model.update=alternating uses one player's parameters in each turn")
    if trainer.precision.startswith("16"):
        raise ValueError(
            f"trainer.precision={trainer.precision}: the gradient passed from the discriminator to "
            "the generator is not loss-scaled and can underflow in float16; use "
            "trainer.precision=bf16-mixed"
        )


def check_classes(num_classes: int, data) -> None:
    """Raises ValueError if a conditional model has another number of classes than its data."""
    if num_classes and num_classes != data.num_classes:
        raise ValueError(
            f"model.num_classes={num_classes}: {data.name} has {data.num_classes or 'no'} classes; "
            f"use model.num_classes={data.num_classes or 0}"
        )


def check_graph(generator: nn.Module) -> None:
    """Raises ValueError if the steps of a network cannot be captured as a CUDA graph."""
    if isinstance(generator, Growing):
        raise ValueError(
            "trainer.graph=true: the steps of a growing network (net=pggan, growing_dcgan, "
            "growing_stylegan) change shape and cannot be captured; use trainer.graph=false"
        )


def _iterates_per_pass(module: nn.Module) -> bool:
    """Whether `module` is one of torch's own spectral norms, old or new."""
    hooks = module._forward_pre_hooks.values()
    return isinstance(module, parametrizations._SpectralNorm) or any(
        isinstance(hook, spectral_norm.SpectralNorm) for hook in hooks
    )
