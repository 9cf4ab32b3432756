"""GLANN's two networks: the generator of 28 and 32 pixels, and the mapping from noise to its codes.

"Non-Adversarial Image Synthesis with Generative Latent Nearest Neighbors", Hoshen and Malik 2019,
arXiv 1812.08985, in the layers of its released code (yedidh/glann). Shapes: B batch, C image
channels, S image size, Z latent_dim, E noise_dim.
"""

from itertools import pairwise

from torch import Tensor, nn

from genlab.ranges import Depth, NonNegativeInt, PositiveInt

__all__ = ["Generator", "Mapping"]


class Generator(nn.Module):
    """z (B, Z) -> image (B, C, S, S) in [-1, 1]: two dense layers to S/4 x S/4, then two
    deconvolutions, LeakyReLU 0.2.

    hidden_dim: channels between the deconvolutions, twice as many before. The source ends in a sigmoid on
    images in [0, 1]; on [-1, 1] that is tanh(h / 2). batch_norm: on all but the first and last
    layer (the source: MNIST and Fashion-MNIST yes, CIFAR-10 no). ValueError for labels, which it
    has no use for, or an image size that is not a multiple of 4.
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
                f"net.generator.num_classes={num_classes}: GLANN's generator knows no labels; choose another net="
            )
        if image_size % 4:
            raise ValueError(
                f"image_size={image_size}: GLANN's generator needs a multiple of 4 (data.image_size=)"
            )
        side = image_size // 4
        self.dense = nn.Sequential(
            nn.Linear(latent_dim, dense_dim, bias=False),
            nn.LeakyReLU(0.2),
            nn.Linear(dense_dim, 2 * hidden_dim * side * side, bias=False),
            nn.BatchNorm1d(2 * hidden_dim * side * side) if batch_norm else nn.Identity(),
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
    """e (B, E), normal noise -> z (B, Z), a code: num_layers hidden layers with batch norm and
    ReLU, no biases.
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
        dims, layers = [noise_dim] + num_layers * [hidden_dim], []
        for before, after in pairwise(dims):
            layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(dims[-1], latent_dim, bias=False))

    def forward(self, e: Tensor) -> Tensor:
        return self.layers(e)
