"""O-GAN: the mean of the discriminator's outputs is the score, the rest of them is the code."""

import torch
from torch import Tensor, nn

from genlab.losses.code import pearson, standardise
from genlab.ranges import NonNegativeFloat
from genlab.systems.gan.gan import GAN

__all__ = ["OGAN"]


class Encoder(nn.Module):
    """Images x -> N(E(x)), the code of O-GAN."""

    def __init__(self, discriminator: nn.Module):
        super().__init__()
        self.discriminator = discriminator

    def forward(self, images: Tensor) -> Tensor:
        return standardise(self.discriminator(images, None))


class OGAN(GAN):
    """A GAN whose discriminator is an encoder E: images -> (B, Z), with the score mean(E(x)).

    With f = E(G(z)), it minimises

        over E: L_D(mean E(x), mean f) - code_weight rho(z, f)
        over G: L_G(mean f) - code_weight rho(z, f)

    "O-GAN: Extremely Concise Approach for Auto-Encoding Generative Adversarial Networks", Su 2019,
    arXiv 1903.01931, and bojone/o-gan. The paper's scores are energies, low for real images; here
    high means real, which replaces E by -E.

    The other arguments are those of GAN.

    Args:
        code_weight: Weight of the correlation rho between z and its code.
        code_scale: Factor on a code N(E(x)) before it is decoded; 0.9 in Su's code.

    Raises:
        ValueError: out_dim is not latent_dim, or as for GAN.
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
                f"model.out_dim={self.out_dim}: the outputs of O-GAN's discriminator are a code; "
                f"expected model.latent_dim={self.latent_dim}"
            )
        self.code_weight = code_weight
        self.code_scale = code_scale

    def objectives(
        self, real: Tensor, fake: Tensor, x: Tensor, k: Tensor, z: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        loss_d, loss_g, logs = super().objectives(real, fake, x, k, z)
        correlation = pearson(z, fake).mean()
        logs |= {"train/code_correlation": correlation.detach()}
        return loss_d - self.code_weight * correlation, loss_g, logs

    def generator_objective(self, real: Tensor, fake: Tensor, z: Tensor) -> Tensor:
        loss = super().generator_objective(real, fake, z)
        return loss - self.code_weight * pearson(z, fake).mean()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        x = batch["image"]
        y = batch["label"] if self.num_classes else None
        z = self.prior(len(x), seed=batch_idx)
        correlation = pearson(z, self.outputs(self.decode(z, y))).mean()
        error = (x - self.reconstruct(x, labels=y)).square().mean()
        values = {"val/code_correlation": correlation, "val/reconstruction_mse": error}
        self.log_dict(values, batch_size=len(x), sync_dist=True)

    # --- verbs ------------------------------------------------------------------------------------

    def encode(self, images: Tensor) -> Tensor:
        """Codes N(E(x)) (N, Z) of images (N, C, H, W) in [-1, 1]; each has mean 0 and std 1."""
        return standardise(self.outputs(images))

    def graphs(self) -> dict[str, nn.Module]:
        """`decode` and `encode`."""
        return super().graphs() | {"encode": Encoder(self.discriminator)}

    def reconstruct(
        self, images: Tensor, code_scale: float | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """Encodes and decodes images: G(code_scale N(E(x))).

        Args:
            images: (N, C, H, W) in [-1, 1].
            code_scale: Factor on the codes; None: the model's own.
            labels: (N,) where there are classes.

        Returns:
            Images (N, C, H, W) in [-1, 1].
        """
        scale = self.code_scale if code_scale is None else code_scale
        return self.decode(scale * self.encode(images), labels)

    def interpolate(
        self, start: Tensor, end: Tensor, num: int, labels: Tensor | None = None
    ) -> Tensor:
        """Images on the line between the codes of each pair of images.

        Args:
            start: Images (N, C, H, W) in [-1, 1].
            end: Images (N, C, H, W) in [-1, 1].
            num: Images per pair, ends included.
            labels: (N,) where there are classes.

        Returns:
            Images (N, num, C, H, W) in [-1, 1].
        """
        t = torch.linspace(0, 1, num, device=self.device)[None, :, None]
        a = self.encode(start)[:, None]  # (N, 1, Z)
        b = self.encode(end)[:, None]
        codes = (self.code_scale * ((1 - t) * a + t * b)).flatten(0, 1)  # (N num, Z)
        labels = None if labels is None else labels.repeat_interleave(num)
        return self.decode(codes, labels).unflatten(0, (len(start), num))
