"""O-GAN: the discriminator's mean is the score, the rest of its output is the code."""

import torch
from torch import Tensor

from genlab.losses.code import pearson, standardise
from genlab.ranges import NonNegativeFloat
from genlab.systems.gan.gan import GAN

__all__ = ["OGAN"]


class OGAN(GAN):
    """A GAN whose discriminator E: images -> (B, Z) is an encoder, with the score avg(E(x)) and no
    head.

    min_E L_D(avg E(x), avg E(G(z))) - code_weight rho(z, E(G(z))) and min_G L_G(avg E(G(z))) -
    code_weight rho(...).

    "O-GAN: Extremely Concise Approach for Auto-Encoding Generative Adversarial Networks", Su 2019,
    arXiv 1903.01931, and bojone/o-gan. The source's scores are energies (real low); here high is
    real, which renames E to -E.
    code_scale: the factor on N(E(x)) before it is decoded, 0.9 in the source's code.
    """

    def __init__(
        self,
        *args,
        code_weight: NonNegativeFloat = 0.5,
        code_scale: NonNegativeFloat = 0.9,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        if self.out_dim != self.latent_dim:
            raise ValueError(
                f"model.out_dim={self.out_dim}: O-GAN's discriminator returns a code, so model.out_dim must equal "
                f"model.latent_dim={self.latent_dim}"
            )
        self.code_weight, self.code_scale = code_weight, code_scale

    def objectives(self, real: Tensor, fake: Tensor, x: Tensor, k: Tensor, z: Tensor):
        loss_d, loss_g, logs = super().objectives(real, fake, x, k, z)
        correlation = pearson(z, fake).mean()
        return (
            loss_d - self.code_weight * correlation,
            loss_g,
            logs | {"train/code_correlation": correlation.detach()},
        )

    def generator_objective(self, real: Tensor, fake: Tensor, z: Tensor) -> Tensor:
        return (
            super().generator_objective(real, fake, z) - self.code_weight * pearson(z, fake).mean()
        )

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        x, y = batch["image"], batch["label"] if self.num_classes else None
        z = self.prior(len(x), seed=batch_idx)
        correlation = pearson(z, self.outputs(self.decode(z, y))).mean()
        error = (x - self.reconstruct(x, labels=y)).square().mean()
        values = {"val/code_correlation": correlation, "val/reconstruction_mse": error}
        self.log_dict(values, batch_size=len(x), sync_dist=True)

    # --- verbs ------------------------------------------------------------------------------------

    def encode(self, images: Tensor) -> Tensor:
        """Codes N(E(x)) (N, Z), each of mean 0 and std 1, of images (N, C, H, W) in [-1, 1]."""
        return standardise(self.outputs(images))

    def reconstruct(
        self, images: Tensor, code_scale: float | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """G(code_scale N(E(x))), (N, C, H, W) in [-1, 1]; code_scale: the model's own unless given;
        labels (N,) where there are classes.
        """
        return self.decode(
            (self.code_scale if code_scale is None else code_scale) * self.encode(images), labels
        )

    def interpolate(
        self, start: Tensor, end: Tensor, num: int, labels: Tensor | None = None
    ) -> Tensor:
        """`num` images on the line between the codes of each pair of images, of class `labels`: (N,
        num, C, H, W).
        """
        steps = torch.linspace(0, 1, num, device=self.device)[None, :, None]
        a, b = self.encode(start)[:, None], self.encode(end)[:, None]
        codes = (self.code_scale * ((1 - steps) * a + steps * b)).flatten(0, 1)
        labels = None if labels is None else labels.repeat_interleave(num)
        return self.decode(codes, labels).unflatten(0, (len(start), num))
