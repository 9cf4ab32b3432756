"""SNGAN's residual networks.

"Spectral Normalization for Generative Adversarial Networks", Miyato et al. 2018, arXiv 1802.05957,
and "cGANs with Projection Discriminator", Miyato and Koyama 2018, arXiv 1802.05637, with the layers
of kwotsin/mimicry; the widths at 256 follow BigGAN's pattern.

Shapes: B batch, C image channels, S image size (32, 64, 128, 256), Z latent_dim, O out_dim. hidden_dim is
the base width, 64 in the source, which the tables multiply.
"""

import itertools
from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from genlab.nn.head import Head
from genlab.nn.init import init_xavier
from genlab.nn.norm import BatchNorm
from genlab.nn.spectral_norm import normalise_all
from genlab.nn.upsample import Resize, pooled_conv, resized_conv
from genlab.ranges import NonNegativeInt, PositiveInt

__all__ = ["DBlock", "Discriminator", "GBlock", "Generator", "check_image_size"]

# Widths over hidden_dim at 4, 8, ..., S
GENERATOR = {
    32: (4, 4, 4, 4),
    64: (16, 8, 4, 2, 1),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
}
# Widths over hidden_dim after each block, and how many blocks halve the size: the first ones
DISCRIMINATOR = {
    32: ((2, 2, 2, 2), 2),
    64: ((1, 2, 4, 8, 16), 5),
    128: ((1, 2, 4, 8, 16, 16), 5),
    256: ((1, 2, 4, 8, 8, 16, 16), 6),
}


def check_image_size(image_size: int) -> None:
    """ValueError for a size that the tables lack."""
    if image_size not in GENERATOR:
        expected = ", ".join(map(str, GENERATOR))
        raise ValueError(
            f"image_size={image_size}: a residual network needs one of {expected} (data.image_size=)"
        )


def init_block(block: nn.Module, spectral_norm: bool = False) -> None:
    """Xavier with gain sqrt(2), 1 for the 1x1 convolution of a shortcut, which no ReLU precedes."""
    init_xavier(block)
    for module in block.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
            nn.init.xavier_uniform_(module.weight)
    if spectral_norm:
        normalise_all(block)


class GBlock(nn.Module):
    """h (B, C_in, H, W), z (B, Z), labels (B,) if any -> (B, C_out, 2H, 2W).

    Norm, ReLU, resize, conv3, norm, ReLU, conv3; beside it resize and conv1. norm: called as
    norm(num_features), gives a layer of (h, z, y). upsample: nearest, bilinear or zero_insert.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        norm: Callable[[int], nn.Module],
        upsample: str = "nearest",
        spectral_norm: bool = False,
    ):
        super().__init__()
        self.resize = Resize(upsample)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        conv = nn.Conv2d(c_in, c_out, 1)
        # Averaging and a 1x1 convolution commute: done before the resize it is the same function at
        # a quarter of the cost.
        order = [self.resize, conv] if upsample == "zero_insert" else [conv, self.resize]
        self.shortcut = nn.Sequential(*order)
        init_block(self, spectral_norm)
        # After the initialisation, because each norm brings its own, and spectral norm is for
        # convolutions alone.
        self.norm1, self.norm2 = norm(c_in), norm(c_out)

    def forward(self, h: Tensor, z: Tensor, y: Tensor | None = None) -> Tensor:
        # The shortcut reads h, which no ReLU may rewrite; what a norm returns is its own.
        branch = resized_conv(self.norm1(h, z, y).relu_(), self.resize, self.conv1)
        branch = self.conv2(self.norm2(branch, z, y).relu_())
        return branch + self.shortcut(h)


class DBlock(nn.Module):
    """x (B, C_in, H, W) -> (B, C_out, H/2, W/2), or of x's size with down=False.

    ReLU, conv3 of C_in channels, ReLU, conv3, average pooling; beside it conv1 and average pooling,
    or x itself where its shape does already. first: for images, so no ReLU before the first
    convolution, which widens to C_out.
    """

    def __init__(self, c_in: int, c_out: int, down: bool = True, first: bool = False):
        super().__init__()
        self.down, self.first = down, first
        hidden = c_out if first else c_in
        self.conv1 = nn.Conv2d(c_in, hidden, 3, padding=1)
        self.conv2 = nn.Conv2d(hidden, c_out, 3, padding=1)
        self.shortcut = nn.Conv2d(c_in, c_out, 1) if down or c_in != c_out else nn.Identity()
        init_block(self)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x if self.first else x.relu()).relu_()
        if not self.down:
            return self.conv2(h) + self.shortcut(x)
        return pooled_conv(h, self.conv2) + self.shortcut(
            avg_pool2d(x, 2)
        )  # x before its conv1: a quarter of the cost


class Generator(nn.Module):
    """z (B, Z), labels (B,) if any -> image (B, C, S, S) in [-1, 1]: dense to 4x4, GBlocks, norm,
    ReLU, conv3.

    norm: called as norm(num_features, latent_dim, num_classes), see genlab.nn.norm. upsample:
    nearest (the paper's code), bilinear (mimicry) or zero_insert (compare_gan). spectral_norm: on
    the dense layer and all convolutions, not on norms; SNGAN has none here.
    """

    def __init__(
        self,
        image_size: PositiveInt,
        channels: PositiveInt,
        latent_dim: PositiveInt,
        num_classes: NonNegativeInt = 0,
        hidden_dim: PositiveInt = 64,
        upsample: Literal["deconv", "nearest", "bilinear", "zero_insert"] = "nearest",
        spectral_norm: bool = False,
        norm: Callable[[int, int, int], nn.Module] = BatchNorm,
    ):
        super().__init__()
        check_image_size(image_size)
        widths = [hidden_dim * multiple for multiple in GENERATOR[image_size]]
        self.dense = nn.Linear(latent_dim, 4 * 4 * widths[0])
        self.last = nn.Conv2d(widths[-1], channels, 3, padding=1)
        init_xavier(self, gain=1.0)
        if spectral_norm:
            normalise_all(self)

        def make_norm(width: int) -> nn.Module:
            return norm(width, latent_dim, num_classes)

        self.blocks = nn.ModuleList(
            GBlock(c_in, c_out, make_norm, upsample, spectral_norm)
            for c_in, c_out in itertools.pairwise(widths)
        )
        self.norm = make_norm(widths[-1])

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.dense(z).unflatten(1, (-1, 4, 4))
        for block in self.blocks:
            h = block(h, z, y)
        return self.to_image(h, z, y)

    def to_image(self, h: Tensor, z: Tensor, y: Tensor | None) -> Tensor:
        """The last block's features (B, hidden_dim or 4 hidden_dim, S, S) -> images."""
        return self.last(self.norm(h, z, y).relu_()).tanh()


class Discriminator(nn.Module):
    """image (B, C, S, S), labels (B,) if any -> (B, O): DBlocks, ReLU, sum over all pixels, dense.

    With out_dim = Z it is O-GAN's encoder. spectral_norm: on every weight.
    """

    def __init__(
        self,
        image_size: PositiveInt,
        channels: PositiveInt,
        out_dim: PositiveInt,
        num_classes: NonNegativeInt = 0,
        hidden_dim: PositiveInt = 64,
        spectral_norm: bool = True,
    ):
        super().__init__()
        check_image_size(image_size)
        multiples, num_down = DISCRIMINATOR[image_size]
        widths = [channels, *(hidden_dim * multiple for multiple in multiples)]
        self.blocks = nn.Sequential(
            *(
                DBlock(c_in, c_out, down=i < num_down, first=i == 0)
                for i, (c_in, c_out) in enumerate(itertools.pairwise(widths))
            )
        )
        self.head = Head(widths[-1], out_dim, num_classes)
        init_xavier(self.head)
        if spectral_norm:
            normalise_all(self)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.head(self.blocks(x).relu_().sum((2, 3)), y)
