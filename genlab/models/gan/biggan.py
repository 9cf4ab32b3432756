"""BigGAN's residual networks.

"Large Scale GAN Training for High Fidelity Natural Image Synthesis", Brock et al. 2019, arXiv
1809.11096, appendix B, with the layers of ajbrock/BigGAN-PyTorch.

Shapes: B batch, C image channels, S image size (32, 64, 128, 256), Z latent_dim, E embedding_dim, O
out_dim. The tables below give the channels of each layer as multiples of hidden_dim, which is 96 in
the paper, and 64 at 32 pixels.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from torch.nn.utils import parametrize

from genlab.nn.attention import SelfAttention
from genlab.nn.head import Head
from genlab.nn.init import init_orthogonal
from genlab.nn.spectral_norm import SpectralNorm
from genlab.nn.upsample import Resize, Resizing, pooled_conv, resized_conv
from genlab.ranges import NonNegativeInt, PositiveInt

__all__ = ["DBlock", "Discriminator", "GBlock", "Generator", "LinearModulation"]

# image size -> channels over hidden_dim at 4, 8, ..., S
GENERATOR = {
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
}
# image size -> (channels over hidden_dim after each block, how many of the blocks halve the size:
# the first ones)
DISCRIMINATOR = {
    32: ((4, 4, 4, 4), 2),
    64: ((1, 2, 4, 8, 16), 4),
    128: ((1, 2, 4, 8, 16, 16), 5),
    256: ((1, 2, 4, 8, 8, 16, 16), 6),
}


def _check(image_size: int, attention_size: int | None) -> None:
    if image_size not in GENERATOR:
        known = ", ".join(map(str, GENERATOR))
        raise ValueError(
            f"image_size={image_size}: BigGAN's networks need one of {known} (data.image_size=)"
        )
    sizes = [2**i for i in range(3, image_size.bit_length() - 1)]
    if attention_size is not None and attention_size not in sizes:
        raise ValueError(
            f"attention_size={attention_size}: at image_size={image_size} expected null or one of "
            f"{', '.join(map(str, sizes))} (net.generator.attention_size=)"
        )


def _normalise(network: nn.Module, *kinds: type[nn.Linear | nn.Conv2d | nn.Embedding]) -> None:
    """Spectrally normalises the layers of `kinds` in `network` that are not normalised yet."""
    for module in list(network.modules()):
        if isinstance(module, kinds) and not parametrize.is_parametrized(module, "weight"):
            spectral_norm = SpectralNorm(module.weight, eps=1e-6)
            parametrize.register_parametrization(module, "weight", spectral_norm)


class LinearModulation(nn.Module):
    """(1 + U c) BN(h) + V c, as a layer of genlab.nn.norm.

    U and V (num_features, latent_dim) are spectrally normalised. Labels reach the layer through c.
    """

    def __init__(
        self, num_features: PositiveInt, latent_dim: PositiveInt, num_classes: NonNegativeInt = 0
    ):
        super().__init__()
        self.norm = nn.BatchNorm2d(num_features, eps=1e-5, affine=False)
        self.gain = nn.Linear(latent_dim, num_features, bias=False)
        self.bias = nn.Linear(latent_dim, num_features, bias=False)
        init_orthogonal(self)
        _normalise(self, nn.Linear)

    def forward(self, h: Tensor, c: Tensor, y: Tensor | None = None) -> Tensor:
        bias = self.bias(c)[:, :, None, None]
        return torch.addcmul(bias, self.norm(h), 1 + self.gain(c)[:, :, None, None])


class GBlock(nn.Module):
    """h (B, C_in, H, W), condition c, labels (B,) or None -> (B, C_out, 2H, 2W).

    The branch is norm, ReLU, resize, conv3, norm, ReLU, conv3; the shortcut is resize and conv1.

    Args:
        c_in: C_in.
        c_out: C_out.
        norm: Called as norm(num_features); returns a layer of (h, c, y).
        upsample: nearest, bilinear or zero_insert.
    """

    def __init__(self, c_in: int, c_out: int, norm: Callable[[int], nn.Module], upsample: Resizing):
        super().__init__()
        self.resize = Resize(upsample)
        self.norm1 = norm(c_in)
        self.norm2 = norm(c_out)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.shortcut = nn.Conv2d(c_in, c_out, 1)

    def forward(self, h: Tensor, c: Tensor, y: Tensor | None) -> Tensor:
        branch = resized_conv(self.norm1(h, c, y).relu_(), self.resize, self.conv1)
        branch = self.conv2(self.norm2(branch, c, y).relu_())
        # With the 1x1 convolution before the resize, the result is the same at a quarter of the
        # cost; inserted zeros would lack its bias.
        if self.resize.mode == "zero_insert":
            return branch + self.shortcut(self.resize(h))
        return branch + self.resize(self.shortcut(h))


class DBlock(nn.Module):
    """x (B, C_in, H, W) -> (B, C_out, H/2, W/2), or (B, C_out, H, W) with down=False.

    The branch is ReLU, conv3 to C_out channels, ReLU, conv3, average pooling. The shortcut is conv1
    and average pooling, or x itself where its shape fits.

    Args:
        c_in: C_in.
        c_out: C_out.
        down: Whether to halve the size.
        first: Whether x is an image: then there is no first ReLU.
    """

    def __init__(self, c_in: int, c_out: int, down: bool, first: bool):
        super().__init__()
        self.down = down
        self.first = first
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.shortcut = nn.Conv2d(c_in, c_out, 1) if down or c_in != c_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        # The first ReLU is not in place: the shortcut reads x.
        branch = self.conv1(x if self.first else x.relu()).relu_()
        if not self.down:
            return self.conv2(branch) + self.shortcut(x)
        return pooled_conv(branch, self.conv2) + self.shortcut(avg_pool2d(x, 2))


class Generator(nn.Module):
    """z (B, Z), labels (B,) or None -> images (B, C, S, S) in [-1, 1].

    z is split into equal parts: the first becomes the 4x4 features, and each of the others, beside
    the label's embedding (B, E), is the condition of a block. BN, ReLU, a 3x3 convolution and tanh
    follow the blocks. All weights are orthogonal, and all but the embedding's are spectrally
    normalised.

    Args:
        image_size: S: 32, 64, 128 or 256.
        channels: C.
        latent_dim: Z, a multiple of the number of parts: 4, 5, 6 or 7 by image size.
        num_classes: 0 without labels.
        hidden_dim: Channels that the table multiplies.
        embedding_dim: E.
        attention_size: Height of the features that attend to each other; None: no attention. The
            paper has 64 at 128 and 256 pixels.
        upsample: nearest, bilinear or zero_insert.
        norm: Called as norm(num_features, condition_dim, num_classes); see genlab.nn.norm.

    Raises:
        ValueError: latent_dim cannot be split, or another size is wrong.
    """

    def __init__(
        self,
        image_size: PositiveInt,
        channels: PositiveInt,
        latent_dim: PositiveInt,
        num_classes: NonNegativeInt = 0,
        hidden_dim: PositiveInt = 96,
        embedding_dim: PositiveInt = 128,
        attention_size: PositiveInt | None = None,
        upsample: Resizing = "nearest",
        norm: Callable[[int, int, int], nn.Module] = LinearModulation,
    ):
        super().__init__()
        _check(image_size, attention_size)
        widths = [hidden_dim * multiple for multiple in GENERATOR[image_size]]
        parts = len(widths)
        if latent_dim % parts:
            raise ValueError(
                f"latent_dim={latent_dim}: at image_size={image_size} z is split into {parts} "
                f"equal parts; expected a multiple of {parts}, such as {20 * parts} "
                "(model.latent_dim=)"
            )
        self.part = latent_dim // parts
        self.embedding = nn.Embedding(num_classes, embedding_dim) if num_classes else None
        condition_dim = self.part + (embedding_dim if num_classes else 0)
        self.dense = nn.Linear(self.part, 4 * 4 * widths[0])
        self.blocks = nn.ModuleList(
            GBlock(c_in, c_out, lambda width: norm(width, condition_dim, num_classes), upsample)
            for c_in, c_out in itertools.pairwise(widths)
        )
        self.attention_size = attention_size
        self.attention: SelfAttention | None = None
        if attention_size is not None:
            self.attention = SelfAttention(widths[attention_size.bit_length() - 3])
        self.norm = nn.BatchNorm2d(widths[-1], eps=1e-5)
        self.last = nn.Conv2d(widths[-1], channels, 3, padding=1)
        init_orthogonal(self)
        _normalise(self, nn.Conv2d, nn.Linear)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        first, *parts = z.split(self.part, 1)
        h = self.dense(first).unflatten(1, (-1, 4, 4))
        label = [] if self.embedding is None else [self.embedding(y)]
        for block, part in zip(self.blocks, parts, strict=True):
            h = block(h, torch.cat([part, *label], 1), y)
            if self.attention is not None and h.shape[-1] == self.attention_size:
                h = self.attention(h)
        return self.last(self.norm(h).relu_()).tanh()


class Discriminator(nn.Module):
    """images (B, C, S, S), labels (B,) or None -> outputs (B, O).

    DBlocks, ReLU, the sum over all pixels, a dense layer. All weights are orthogonal and spectrally
    normalised.

    Args:
        image_size: S: 32, 64, 128 or 256.
        channels: C.
        out_dim: O.
        num_classes: 0 without labels.
        hidden_dim: Channels that the table multiplies.
        attention_size: As the generator's; after the first block of that size.
    """

    def __init__(
        self,
        image_size: PositiveInt,
        channels: PositiveInt,
        out_dim: PositiveInt,
        num_classes: NonNegativeInt = 0,
        hidden_dim: PositiveInt = 96,
        attention_size: PositiveInt | None = None,
    ):
        super().__init__()
        _check(image_size, attention_size)
        multiples, num_down = DISCRIMINATOR[image_size]
        widths = [channels, *(hidden_dim * multiple for multiple in multiples)]
        size = image_size
        layers: list[nn.Module] = []
        for i, (c_in, c_out) in enumerate(itertools.pairwise(widths)):
            down = i < num_down
            layers.append(DBlock(c_in, c_out, down, first=i == 0))
            size = size // 2 if down else size
            if down and size == attention_size:
                layers.append(SelfAttention(c_out))
        self.layers = nn.Sequential(*layers)
        self.head = Head(widths[-1], out_dim, num_classes)
        init_orthogonal(self)
        _normalise(self, nn.Conv2d, nn.Linear, nn.Embedding)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.head(self.layers(x).relu_().sum((2, 3)), y)
