"""Four ways to form one loss from L_D and L_G so that one backward pass trains both players at once.

Each function takes the system, real images x (B, C, H, W) and latent vectors z (B, Z), and returns the scalar to call
backward on and the values to log. The gradients are those of simultaneous steps: dL_D/d(D) and dL_G/d(G) at the same
parameters. With a = dL_D/df and b = dL_G/df, f the scores of the fakes:

shared        one D pass on k = detach(G(z)); g = dL_G/dk on its graph; L_D + <g, G(z)>. Exact for everything.
single        L_D(x, sg G) + L_G(D(G)) - L_G(D(sg G)), three D passes. Su, "Save memory and time: train a GAN with a
              single loss" (kexue.fm, archive 6387). Exact where all passes see one D (un-frozen spectral norm: not).
scaled        one D pass on G(z); what enters G is multiplied per sample by b/a. "Training Generative Adversarial
              Networks in One Stage", Shen et al. 2021, arXiv 2103.00430. Needs scalar scores, no coupled batch.
alternating   the baseline: steps of D, then one of G, each with a loss of its own.
"""

import torch
from torch import Tensor
from torch.nn.utils import parametrizations, spectral_norm

__all__ = ["check", "discriminator_turn", "generator_turn", "scaled", "shared", "single"]

# The least |a| that `scaled` divides by: below it (a saturated hinge, a confident sigmoid) D's gradient for that fake
# is raised to this value, an error of at most SMALLEST per sample in D, so that G's stays exact.
SMALLEST = 1e-6

Step = tuple[Tensor, dict[str, Tensor]]


def shared(system, x: Tensor, z: Tensor) -> Step:
    """One D pass on k = detach(G(z)), whose input gradient of L_G is handed to G."""
    fake = system.generator(z)
    k = fake.detach().requires_grad_()
    loss_d, loss_g, logs = system.objectives(system.discriminate(x), system.discriminate(k, fake=True), x, k, z)
    (g,) = torch.autograd.grad(loss_g, k, retain_graph=True)
    return loss_d + (g * fake).sum(), logs


def single(system, x: Tensor, z: Tensor) -> Step:
    """The stop-gradient form: L_D(x, sg G) + L_G(D(G)) - L_G(D(sg G))."""
    fake = system.generator(z)
    k = fake.detach()
    real, stopped = system.discriminate(x), system.discriminate(k, fake=True)
    loss_d, generator_stopped, logs = system.objectives(real, stopped, x, k, z)
    _, loss_g, _ = system.objectives(real, system.discriminate(fake, fake=True), x, k, z)
    return loss_d + loss_g - generator_stopped, logs


def scaled(system, x: Tensor, z: Tensor) -> Step:
    """One D pass on G(z); what enters G is multiplied per sample by b / a."""
    fake = system.generator(z)
    real, passed = system.discriminate(x), system.discriminate(fake, fake=True)
    scores = passed.detach().requires_grad_()
    loss_d, loss_g, _ = system.objectives(real.detach(), scores, x, fake.detach(), z)
    (a,) = torch.autograd.grad(loss_d, scores, retain_graph=True)
    (b,) = torch.autograd.grad(loss_g, scores)
    smallest = SMALLEST / len(a)  # the losses are means over the batch
    held = torch.where(a.abs() < smallest, torch.full_like(a, smallest).copysign(a), a)
    ratio = (b / held).view(-1, 1, 1, 1)
    fake.register_hook(lambda gradient: gradient * ratio.to(gradient.dtype))
    loss_d, _, logs = system.objectives(real, passed, x, fake.detach(), z)
    return loss_d + ((held - a) * passed).sum(), logs


def discriminator_turn(system, x: Tensor, z: Tensor) -> Step:
    """D's own loss, on fakes made without a graph."""
    with torch.no_grad():
        k = system.generator(z)
    loss_d, _, logs = system.objectives(system.discriminate(x), system.discriminate(k, fake=True), x, k, z)
    return loss_d, logs


def generator_turn(system, z: Tensor) -> Step:
    """G's own loss, through a frozen D."""
    system.discriminator.requires_grad_(False)
    try:
        loss_g = system.generator_objective(system.discriminate(system.generator(z), fake=True), z)
    finally:
        system.discriminator.requires_grad_(True)
    return loss_g, {"train/loss_g": loss_g.detach()}


def check(update: str, discriminator: torch.nn.Module, out_dim: int, symmetric: bool, coupled: bool) -> None:
    """ValueError where `update` would not give the exact gradients of this discriminator and loss."""
    if update not in ("shared", "single", "scaled", "alternating"):
        raise ValueError(f"model.update={update!r}: expected shared, single, scaled or alternating")
    if update == "scaled" and out_dim > 1:
        raise ValueError(
            "model.update=scaled: needs a discriminator with one output, and an encoder's is a vector whose two "
            "gradients are not parallel; use model.update=shared"
        )
    if update == "scaled" and coupled and not symmetric:
        raise ValueError(
            "model.update=scaled: wrong with batch normalisation in D and an asymmetric loss (26 to 62 % error in "
            "G's gradient); use net.discriminator.norm=group or none, loss=wgan, or model.update=shared"
        )
    if update == "single" and any(map(_iterates_per_pass, discriminator.modules())):
        raise ValueError(
            "model.update=single: torch's spectral_norm changes D between the passes of one step; use "
            "genlab.nn.spectral_norm or model.update=shared"
        )


def _iterates_per_pass(module: torch.nn.Module) -> bool:
    hooks = getattr(module, "_forward_pre_hooks", {}).values()
    return isinstance(module, parametrizations._SpectralNorm) or any(
        isinstance(hook, spectral_norm.SpectralNorm) for hook in hooks
    )
