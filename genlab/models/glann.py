"""GLANN's networks: a generator of small images, and the mapping from noise to its codes.

"Non-Adversarial Image Synthesis with Generative Latent Nearest Neighbors", Hoshen and Malik 2019,
arXiv 1812.08985, with the layers of its released code (yedidh/glann).

Shapes: B batch, C image channels, S image size, Z latent_dim, E noise_dim.
"""

from itertools import pairwise

from torch import Tensor, nn

from genlab.ranges import Depth, NonNegativeInt, PositiveInt

__all__ = ["Generator", "Mapping"]


class Generator(nn.Module):
    """z (B, Z) -> images (B, C, S, S) in [-1, 1].

    Two dense layers to S/4 x S/4, then two transposed convolutions, with LeakyReLU 0.2 between. The
    released code ends in a sigmoid for images in [0, 1]; for [-1, 1] that is tanh(h / 2).

    Args:
        image_size: S, a multiple of 4; 28 or 32 in the paper.
        channels: C.
        latent_dim: Z.
        num_classes: 0; the generator has no use for labels.
        hidden_dim: Channels between the transposed convolutions; there are twice as many before.
        dense_dim: Outputs of the first dense layer.
        batch_norm: Whether the inner layers have batch norm. The released code has it for MNIST and
            Fashion-MNIST, not for CIFAR-10.

    Raises:
        ValueError: num_classes is not 0, or 4 does not divide image_size.
    """

    def __init__(
        self,
        image_size: PositiveInt,
        channels: PositiveInt,
        latent_dim: PositiveInt,
        num_classes: NonNegativeInt = 0,
        hidden_dim: PositiveInt = 64,
        dense_dim: PositiveInt = 1024,
        batch_norm: bool = True,
    ):
        super().__init__()
        if num_classes:
            raise ValueError(
                f"net.generator.num_classes={num_classes}: GLANN's generator does not use labels; "
                "choose another net="
            )
        if image_size % 4:
            raise ValueError(
                f"image_size={image_size}: GLANN's generator needs a multiple of 4 "
                "(data.image_size=)"
            )
        side = image_size // 4
        num_features = 2 * hidden_dim * side * side
        self.dense = nn.Sequential(
            nn.Linear(latent_dim, dense_dim, bias=False),
            nn.LeakyReLU(0.2),
            nn.Linear(dense_dim, num_features, bias=False),
            nn.BatchNorm1d(num_features) if batch_norm else nn.Identity(),
            nn.LeakyReLU(0.2),
            nn.Unflatten(1, (2 * hidden_dim, side, side)),
        )
        self.deconvs = nn.Sequential(
            nn.ConvTranspose2d(2 * hidden_dim, hidden_dim, 4, 2, 1, bias=False),
            nn.BatchNorm2d(hidden_dim) if batch_norm else nn.Identity(),
            nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(hidden_dim, channels, 4, 2, 1, bias=False),
        )
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.ConvTranspose2d):
                nn.init.xavier_normal_(module.weight, 2**0.5)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return (self.deconvs(self.dense(z)) / 2).tanh()


class Mapping(nn.Module):
    """Normal noise e (B, E) -> codes z (B, Z): an MLP with batch norm and ReLU, without biases.

    Args:
        noise_dim: E.
        latent_dim: Z.
        hidden_dim: Units of a hidden layer.
        num_layers: How many hidden layers.
    """

    def __init__(
        self,
        noise_dim: PositiveInt,
        latent_dim: PositiveInt,
        hidden_dim: PositiveInt = 128,
        num_layers: Depth = 2,
    ):
        super().__init__()
        self.noise_dim = noise_dim
        dims = [noise_dim] + num_layers * [hidden_dim]
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise(dims):
            layers += [nn.Linear(c_in, c_out, bias=False), nn.BatchNorm1d(c_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(dims[-1], latent_dim, bias=False))

    def forward(self, e: Tensor) -> Tensor:
        return self.layers(e)
