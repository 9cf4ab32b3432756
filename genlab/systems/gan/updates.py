"""Four ways to form one loss from L_D and L_G so that one backward pass trains both players at
once.

Each function takes the system, real images x (B, C, H, W), latent vectors z (B, Z) and labels y
(B,) or None, which the fakes share, and returns the scalar to call backward on and the values to
log. The gradients are those of simultaneous
steps: dL_D/d(D) and dL_G/d(G) at the same parameters. With a = dL_D/df and b = dL_G/df, f the
scores of the fakes:

shared        one D pass on k = detach(G(z)); g = dL_G/dk on its graph; L_D + <g, G(z)>. Exact for everything.
single        L_D(x, sg G) + L_G(D(G)) - L_G(D(sg G)), three D passes. Su, "Save memory and time: train a GAN with a
              single loss" (kexue.fm, archive 6387). Exact where all passes see one D (un-frozen
              spectral norm: not).
scaled        one D pass on G(z); what enters G is multiplied per sample by b/a. "Training Generative Adversarial
              Networks in One Stage", Shen et al. 2021, arXiv 2103.00430. Needs scalar scores, no
              coupled batch.
alternating   the baseline: steps of D, then one of G, each with a loss of its own.
"""

import torch
from torch import Tensor
from torch.nn.utils import parametrizations, spectral_norm

from genlab.nn.norm import couples_batch

__all__ = [
    "check", "check_classes", "check_graph", "check_trainer", "check_unused", "discriminator_turn", "generator_turn",
    "scaled", "shared", "single",
]  # fmt: skip

# The least |a| that `scaled` divides by: below it (a saturated hinge, a confident sigmoid) D's
# gradient for that fake is raised to this value, an error of at most SMALLEST per sample in D, so
# that G's stays exact.
SMALLEST = 1e-6

Step = tuple[Tensor, dict[str, Tensor]]


def shared(system, x: Tensor, z: Tensor, y: Tensor | None = None) -> Step:
    """One D pass on k = detach(G(z)), whose input gradient of L_G is handed to G."""
    fake = system.generator(z, y)
    k = fake.detach().requires_grad_()
    loss_d, loss_g, logs = system.objectives(
        system.discriminate(x, y), system.discriminate(k, y, fake=True), x, k, z
    )
    (g,) = torch.autograd.grad(loss_g, k, retain_graph=True)
    return loss_d + system.penalise(x, k, y, logs) + (g * fake).sum(), logs


def single(system, x: Tensor, z: Tensor, y: Tensor | None = None) -> Step:
    """The stop-gradient form: L_D(x, sg G) + L_G(D(G)) - L_G(D(sg G))."""
    fake = system.generator(z, y)
    k = fake.detach()
    real, stopped = system.discriminate(x, y), system.discriminate(k, y, fake=True)
    loss_d, generator_stopped, logs = system.objectives(real, stopped, x, k, z)
    _, loss_g, _ = system.objectives(real, system.discriminate(fake, y, fake=True), x, k, z)
    return loss_d + system.penalise(x, k, y, logs) + loss_g - generator_stopped, logs


def scaled(system, x: Tensor, z: Tensor, y: Tensor | None = None) -> Step:
    """One D pass on G(z); what enters G is multiplied per sample by b / a."""
    fake = system.generator(z, y)
    k = fake.detach()
    real, passed = system.discriminate(x, y), system.discriminate(fake, y, fake=True)
    scores = passed.detach().requires_grad_()
    loss_d, loss_g, _ = system.objectives(real.detach(), scores, x, k, z)
    (a,) = torch.autograd.grad(loss_d, scores, retain_graph=True)
    (b,) = torch.autograd.grad(loss_g, scores)
    smallest = SMALLEST / len(a)  # the losses are means over the batch
    held = torch.where(a.abs() < smallest, torch.full_like(a, smallest).copysign(a), a)
    ratio = (b / held).view(-1, 1, 1, 1)
    fake.register_hook(lambda gradient: gradient * ratio.to(gradient.dtype))
    loss_d, _, logs = system.objectives(real, passed, x, k, z)
    return loss_d + system.penalise(x, k, y, logs) + ((held - a) * passed).sum(), logs


def discriminator_turn(system, x: Tensor, z: Tensor, y: Tensor | None = None) -> Step:
    """D's own loss, on fakes made without a graph."""
    with torch.no_grad():
        k = system.generator(z, y)
    loss_d, _, logs = system.objectives(
        system.discriminate(x, y), system.discriminate(k, y, fake=True), x, k, z
    )
    return loss_d + system.penalise(x, k, y, logs), logs


def generator_turn(system, x: Tensor, z: Tensor, y: Tensor | None = None) -> Step:
    """G's own loss, through a frozen D; the real scores are taken only where the loss compares with
    them.
    """
    system.discriminator.requires_grad_(False)
    try:
        fake = system.discriminate(system.generator(z, y), y, fake=True)
        real = system.discriminate(x, y, fake=True) if system.loss.relative else fake.detach()
        loss_g = system.generator_objective(real, fake, z)
    finally:
        system.discriminator.requires_grad_(True)
    return loss_g, {"train/loss_g": loss_g.detach()}


def check(
    update: str, discriminator: torch.nn.Module, out_dim: int, loss, num_discriminator_steps: int
) -> None:
    """ValueError where `update` would not give the exact gradients of this discriminator and loss."""
    if update not in ("shared", "single", "scaled", "alternating"):
        raise ValueError(f"model.update={update!r}: expected shared, single, scaled or alternating")
    if num_discriminator_steps != 1 and update != "alternating":
        raise ValueError(
            f"model.num_discriminator_steps={num_discriminator_steps}: only model.update=alternating takes more than one "
            "discriminator step a generator step"
        )
    if update == "scaled" and out_dim > 1:
        raise ValueError(
            "model.update=scaled: needs a discriminator with one output, and an encoder's is a vector whose two "
            "gradients are not parallel; use model.update=shared"
        )
    if update == "scaled" and not loss.symmetric and couples_batch(discriminator):
        raise ValueError(
            "model.update=scaled: wrong with batch normalisation (or another layer that mixes the batch) in D and an "
            "asymmetric loss (26 to 62 % error in G's gradient); use net.discriminator.norm=group or none, loss=wgan, or "
            "model.update=shared"
        )
    if update == "single" and any(map(_iterates_per_pass, discriminator.modules())):
        raise ValueError(
            "model.update=single: torch's spectral_norm changes D between the passes of one step; use "
            "genlab.nn.spectral_norm or model.update=shared"
        )


def check_trainer(update: str, trainer) -> None:
    """ValueError where `update` cannot keep its word under this trainer."""
    if update == "alternating" and trainer.accumulate_grad_batches != 1:
        raise ValueError(
            f"trainer.accumulate_grad_batches={trainer.accumulate_grad_batches}: model.update=alternating steps each player "
            "on its own loss and cannot accumulate; use model.update=shared"
        )
    if update == "alternating":
        check_unused(
            trainer, "model.update=alternating: each turn uses one player's parameters only"
        )
    if trainer.precision.startswith("16"):
        raise ValueError(
            f"trainer.precision={trainer.precision}: the gradient handed from D to G is not loss-scaled and can underflow "
            "in float16; use trainer.precision=bf16-mixed"
        )


def check_classes(num_classes: int, data) -> None:
    """ValueError where a model of `num_classes` is to be trained on data of other labels."""
    if num_classes and num_classes != data.num_classes:
        raise ValueError(
            f"model.num_classes={num_classes}: {data.name} has {data.num_classes or 'no'} classes"
        )


def check_graph(generator: torch.nn.Module) -> None:
    """ValueError for networks whose steps cannot be captured."""
    if hasattr(generator, "set_level"):
        raise ValueError(
            "trainer.graph=true: a growing network (net=pggan, growing_*) changes its shape; leave it out"
        )


def check_unused(trainer, why: str) -> None:
    """ValueError, which starts with `why`, where distributed training would wait for parameters
    that a step leaves out.
    """
    options = getattr(
        trainer.strategy, "_ddp_kwargs", {"find_unused_parameters": True}
    )  # DDP strategies alone have them
    if not options.get("find_unused_parameters"):
        raise ValueError(
            f"{why}, which distributed training must be told: trainer.strategy.find_unused_parameters=true"
        )


def _iterates_per_pass(module: torch.nn.Module) -> bool:
    hooks = getattr(module, "_forward_pre_hooks", {}).values()
    return isinstance(module, parametrizations._SpectralNorm) or any(
        isinstance(hook, spectral_norm.SpectralNorm) for hook in hooks
    )
