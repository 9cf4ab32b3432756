"""SNGAN's residual networks.

"Spectral Normalization for Generative Adversarial Networks", Miyato et al. 2018, arXiv 1802.05957,
and "cGANs with Projection Discriminator", Miyato and Koyama 2018, arXiv 1802.05637, with the layers
of kwotsin/mimicry. The widths at 256 pixels follow BigGAN's pattern.

Shapes: B batch, C image channels, S image size (32, 64, 128, 256), Z latent_dim, O out_dim. The
tables below give the channels of each layer as multiples of hidden_dim, which is 64 in the papers.
"""

import itertools
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from genlab.nn.head import Head
from genlab.nn.init import init_xavier
from genlab.nn.norm import BatchNorm
from genlab.nn.spectral_norm import normalise_all
from genlab.nn.upsample import Resize, Resizing, pooled_conv, resized_conv
from genlab.ranges import NonNegativeInt, PositiveInt

__all__ = ["DBlock", "Discriminator", "GBlock", "Generator", "check_image_size"]

# image size -> channels over hidden_dim at 4, 8, ..., S
GENERATOR = {
    32: (4, 4, 4, 4),
    64: (16, 8, 4, 2, 1),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
}
# image size -> (channels over hidden_dim after each block, how many of the blocks halve the size:
# the first ones)
DISCRIMINATOR = {
    32: ((2, 2, 2, 2), 2),
    64: ((1, 2, 4, 8, 16), 5),
    128: ((1, 2, 4, 8, 16, 16), 5),
    256: ((1, 2, 4, 8, 8, 16, 16), 6),
}


def check_image_size(image_size: int) -> None:
    """Raises ValueError for a size that is not in the tables."""
    if image_size not in GENERATOR:
        expected = ", ".join(map(str, GENERATOR))
        raise ValueError(
            f"image_size={image_size}: a residual network needs one of {expected} "
            "(data.image_size=)"
        )


def init_block(block: nn.Module, spectral_norm: bool = False) -> None:
    """Xavier weights with gain sqrt(2); gain 1 for the 1x1 convolution of a shortcut.

    No ReLU comes before the shortcut.
    """
    init_xavier(block)
    for module in block.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
            nn.init.xavier_uniform_(module.weight)
    if spectral_norm:
        normalise_all(block)


class GBlock(nn.Module):
    """h (B, C_in, H, W), z (B, Z), labels (B,) or None -> (B, C_out, 2H, 2W).

    The branch is norm, ReLU, resize, conv3, norm, ReLU, conv3; the shortcut is resize and conv1.

    Args:
        c_in: C_in.
        c_out: C_out.
        norm: Called as norm(num_features); returns a layer of (h, z, y).
        upsample: nearest, bilinear or zero_insert.
        spectral_norm: Whether to normalise the convolutions.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        norm: Callable[[int], nn.Module],
        upsample: Resizing = "nearest",
        spectral_norm: bool = False,
    ):
        super().__init__()
        self.resize = Resize(upsample)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        conv = nn.Conv2d(c_in, c_out, 1)
        # Interpolation and a 1x1 convolution commute: with the convolution first, the result is the
        # same at a quarter of the cost. Inserted zeros would lack its bias.
        order = [self.resize, conv] if upsample == "zero_insert" else [conv, self.resize]
        self.shortcut = nn.Sequential(*order)
        init_block(self, spectral_norm)
        # After init_block, because norms initialise themselves and spectral norm is for
        # convolutions alone.
        self.norm1 = norm(c_in)
        self.norm2 = norm(c_out)

    def forward(self, h: Tensor, z: Tensor, y: Tensor | None = None) -> Tensor:
        # In-place ReLUs are safe here: a norm returns a new tensor, and the shortcut reads h.
        branch = resized_conv(self.norm1(h, z, y).relu_(), self.resize, self.conv1)
        branch = self.conv2(self.norm2(branch, z, y).relu_())
        return branch + self.shortcut(h)


class DBlock(nn.Module):
    """x (B, C_in, H, W) -> (B, C_out, H/2, W/2), or (B, C_out, H, W) with down=False.

    The branch is ReLU, conv3 to C_in channels, ReLU, conv3, average pooling. The shortcut is conv1
    and average pooling, or x itself where its shape fits.

    Args:
        c_in: C_in.
        c_out: C_out.
        down: Whether to halve the size.
        first: Whether x is an image: then there is no first ReLU, and the first convolution has
            C_out channels.
    """

    def __init__(self, c_in: int, c_out: int, down: bool = True, first: bool = False):
        super().__init__()
        self.down = down
        self.first = first
        hidden_dim = c_out if first else c_in
        self.conv1 = nn.Conv2d(c_in, hidden_dim, 3, padding=1)
        self.conv2 = nn.Conv2d(hidden_dim, c_out, 3, padding=1)
        self.shortcut = nn.Conv2d(c_in, c_out, 1) if down or c_in != c_out else nn.Identity()
        init_block(self)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x if self.first else x.relu()).relu_()
        if not self.down:
            return self.conv2(h) + self.shortcut(x)
        # Pooling before the 1x1 convolution gives the same at a quarter of the cost.
        return pooled_conv(h, self.conv2) + self.shortcut(avg_pool2d(x, 2))


class Generator(nn.Module):
    """z (B, Z), labels (B,) or None -> images (B, C, S, S) in [-1, 1].

    A dense layer to 4x4, GBlocks, norm, ReLU, a 3x3 convolution, tanh.

    Args:
        image_size: S: 32, 64, 128 or 256.
        channels: C.
        latent_dim: Z.
        num_classes: 0 without labels.
        hidden_dim: Channels that the table multiplies.
        upsample: nearest (the paper's code), bilinear (mimicry) or zero_insert (compare_gan).
        spectral_norm: On the dense layer and all convolutions, not on norms. SNGAN has none in the
            generator.
        norm: Called as norm(num_features, latent_dim, num_classes); see genlab.nn.norm.
    """

    def __init__(
        self,
        image_size: PositiveInt,
        channels: PositiveInt,
        latent_dim: PositiveInt,
        num_classes: NonNegativeInt = 0,
        hidden_dim: PositiveInt = 64,
        upsample: Resizing = "nearest",
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
        """The images (B, C, S, S) of the last block's features h (B, C', S, S)."""
        return self.last(self.norm(h, z, y).relu_()).tanh()


class Discriminator(nn.Module):
    """images (B, C, S, S), labels (B,) or None -> outputs (B, O).

    DBlocks, ReLU, the sum over all pixels, a dense layer. With out_dim = Z it is O-GAN's encoder.

    Args:
        image_size: S: 32, 64, 128 or 256.
        channels: C.
        out_dim: O.
        num_classes: 0 without labels.
        hidden_dim: Channels that the table multiplies.
        spectral_norm: Whether to normalise every weight.
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
