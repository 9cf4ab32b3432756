"""A simplified style-based generator on DCGAN's layers. Its discriminator is DCGAN's.

"A Style-Based Generator Architecture for Generative Adversarial Networks", Karras et al. 2019,
arXiv 1812.04948, in the simplified form of Su (kexue.fm, archive 6549): a learned constant instead
of the dense layer, AdaIN instead of each norm, and w = MLP(z). It has no noise inputs, style mixing
or truncation, and equalised learning rates only in the MLP. As in the paper, the MLP learns slowly
and styles start at unit scale: without either of these, all samples of a small run became one
digit.

Shapes: B batch, C image channels, S image size, Z latent_dim, W style_dim.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from genlab.models.gan import dcgan
from genlab.nn.norm import AdaIN
from genlab.nn.upsample import Upsampling
from genlab.ranges import Depth, NonNegativeInt, PositiveFloat, PositiveInt

__all__ = ["Constant", "Generator", "Mapping", "SlowLinear"]


class SlowLinear(nn.Linear):
    """A dense layer that Adam trains at a fraction of its learning rate.

    Weight and bias are stored divided by `rate` and multiplied by it when used. Adam's steps do not
    depend on the scale of gradients, so the product moves `rate` times as fast.

    Args:
        c_in: Inputs.
        c_out: Outputs.
        rate: Fraction of the optimiser's learning rate.
    """

    def __init__(self, c_in: int, c_out: int, rate: float):
        super().__init__(c_in, c_out)
        self.rate = rate
        nn.init.kaiming_normal_(self.weight, 0.2)
        nn.init.zeros_(self.bias)
        with torch.no_grad():
            self.weight.div_(rate)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.rate * self.weight, self.rate * self.bias)


class Mapping(nn.Module):
    """z (B, Z), labels (B,) or None -> styles w (B, W).

    z is scaled to unit root mean square; a label is an embedding of Z numbers beside it. Then come
    num_layers dense layers with LeakyReLU 0.2. They have He's weights: with the N(0, 0.02^2) of the
    convolutions, z would vanish on its way through the layers.

    Args:
        latent_dim: Z.
        num_classes: 0 without labels.
        style_dim: W.
        num_layers: At least 1.
        rate: Fraction of the learning rate; see SlowLinear.

    Raises:
        ValueError: num_layers is 0.
    """

    def __init__(
        self, latent_dim: int, num_classes: int, style_dim: int, num_layers: int, rate: float = 0.01
    ):
        super().__init__()
        if num_layers < 1:
            raise ValueError(
                f"num_layers={num_layers}: a mapping network needs at least one layer "
                "(net.generator.num_layers=)"
            )
        self.embedding = nn.Embedding(num_classes, latent_dim) if num_classes else None
        layers: list[nn.Module] = []
        for i in range(num_layers):
            c_in = style_dim if i else latent_dim * (2 if num_classes else 1)
            layers += [SlowLinear(c_in, style_dim, rate), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        z = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        return self.layers(z if self.embedding is None else torch.cat([z, self.embedding(y)], 1))


class Constant(nn.Module):
    """(B, ...) -> the same learned numbers (B, num_features) for every sample."""

    def __init__(self, num_features: int):
        super().__init__()
        # Not ones, as in the paper. There, noise is added before the norm; without noise, instance
        # norm would turn equal numbers into 0.
        self.constant = nn.Parameter(torch.randn(num_features))

    def forward(self, c: Tensor) -> Tensor:
        return self.constant.expand(len(c), -1)


class Generator(dcgan.Generator):
    """z (B, Z), labels (B,) or None -> images (B, C, S, S) in [-1, 1].

    The other arguments are those of genlab.models.gan.dcgan.Generator, with w in place of z: norm
    is called as norm(num_features, style_dim, num_classes).

    Args:
        style_dim: W; latent_dim if None. The paper has 512 for both.
        num_layers: Of the mapping network; 8 in the paper.
        mapping_rate: Fraction of the learning rate that the mapping network is trained with.
    """

    def __init__(
        self,
        image_size: PositiveInt,
        channels: PositiveInt,
        latent_dim: PositiveInt,
        num_classes: NonNegativeInt = 0,
        hidden_dim: PositiveInt = 64,
        kernel_size: Literal[4, 5] = 4,
        style_dim: PositiveInt | None = None,
        num_layers: Depth = 8,
        mapping_rate: PositiveFloat = 0.01,
        upsample: Upsampling = "deconv",
        norm: Callable[[int, int, int], nn.Module] = AdaIN,
    ):
        style_dim = latent_dim if style_dim is None else style_dim
        super().__init__(
            image_size, channels, style_dim, num_classes, hidden_dim, kernel_size, upsample, norm
        )
        for module in self.norms.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        self.mapping = Mapping(latent_dim, num_classes, style_dim, num_layers, mapping_rate)
        self.dense = Constant(4 * 4 * self.widths[0])

    def condition(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """The styles w (B, W)."""
        return self.mapping(z, y)
