"""BigGAN's residual networks.

"Large Scale GAN Training for High Fidelity Natural Image Synthesis", Brock et al. 2019, arXiv
1809.11096, appendix B, with the layers of ajbrock/BigGAN-PyTorch.

Shapes: B batch, C image channels, S image size (32, 64, 128, 256), Z latent_dim, E embedding_dim, O
out_dim. hidden_dim is the base width, 96 in the source (64 at 32 pixels), which the tables multiply.
"""

import itertools
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from torch.nn.utils import parametrize

from genlab.nn.attention import SelfAttention
from genlab.nn.head import Head
from genlab.nn.init import init_orthogonal
from genlab.nn.spectral_norm import SpectralNorm
from genlab.nn.upsample import Resize, pooled_conv, resized_conv
from genlab.ranges import NonNegativeInt, PositiveInt

__all__ = ["DBlock", "Discriminator", "GBlock", "Generator", "LinearModulation"]

# Widths over hidden_dim at 4, 8, ..., S
GENERATOR = {
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
}
# Widths over hidden_dim after each block, and how many blocks halve the size: the first ones
DISCRIMINATOR = {
    32: ((4, 4, 4, 4), 2),
    64: ((1, 2, 4, 8, 16), 4),
    128: ((1, 2, 4, 8, 16, 16), 5),
    256: ((1, 2, 4, 8, 8, 16, 16), 6),
}


def _check(image_size: int, attention_size: int | None) -> None:
    if image_size not in GENERATOR:
        sizes = ", ".join(map(str, GENERATOR))
        raise ValueError(
            f"image_size={image_size}: a BigGAN is for one of {sizes} (data.image_size=)"
        )
    sizes = [2**i for i in range(3, image_size.bit_length() - 1)]
    if attention_size is not None and attention_size not in sizes:
        raise ValueError(
            f"attention_size={attention_size}: at image_size={image_size} expected null or one of {', '.join(map(str, sizes))}"
        )


def _normalise(network: nn.Module, *kinds: type[nn.Module]) -> None:
    """Spectrally normalises what is of `kinds` in `network` and is not yet."""
    for module in list(network.modules()):
        if isinstance(module, kinds) and not parametrize.is_parametrized(module, "weight"):
            parametrize.register_parametrization(
                module, "weight", SpectralNorm(module.weight, eps=1e-6)
            )


class LinearModulation(nn.Module):
    """h -> (1 + U c) BN(h) + V c, BN without affine and U, V (C, latent_dim) spectrally normalised;
    as in genlab.nn.norm.

    Labels reach it through c.
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
        return torch.addcmul(
            self.bias(c)[:, :, None, None], self.norm(h), 1 + self.gain(c)[:, :, None, None]
        )


class GBlock(nn.Module):
    """h (B, C_in, H, W), c, labels (B,) if any -> (B, C_out, 2H, 2W).

    norm, ReLU, resize, conv3, norm, ReLU, conv3; beside it resize and conv1. norm: called as
    norm(num_features).
    """

    def __init__(self, c_in: int, c_out: int, norm: Callable[[int], nn.Module], upsample: str):
        super().__init__()
        self.resize = Resize(upsample)
        self.norm1, self.norm2 = norm(c_in), norm(c_out)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.shortcut = nn.Conv2d(c_in, c_out, 1)

    def forward(self, h: Tensor, c: Tensor, y: Tensor | None) -> Tensor:
        branch = resized_conv(self.norm1(h, c, y).relu_(), self.resize, self.conv1)
        branch = self.conv2(self.norm2(branch, c, y).relu_())
        # Before the resize the 1x1 convolution costs a quarter, and gives the same but where zeros
        # are inserted.
        if self.resize.mode == "zero_insert":
            return branch + self.shortcut(self.resize(h))
        return branch + self.resize(self.shortcut(h))


class DBlock(nn.Module):
    """x (B, C_in, H, W) -> (B, C_out, H/2, W/2), or of x's size with down=False.

    ReLU, conv3, ReLU, conv3, average pooling, the first convolution already of C_out channels;
    beside it conv1 and average pooling, or x itself where its shape does. first: for images, which
    no ReLU meets.
    """

    def __init__(self, c_in: int, c_out: int, down: bool, first: bool):
        super().__init__()
        self.down, self.first = down, first
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.shortcut = nn.Conv2d(c_in, c_out, 1) if down or c_in != c_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        # The first ReLU works on a copy: the shortcut reads x.
        branch = self.conv1(x if self.first else x.relu()).relu_()
        if not self.down:
            return self.conv2(branch) + self.shortcut(x)
        return pooled_conv(branch, self.conv2) + self.shortcut(avg_pool2d(x, 2))


class Generator(nn.Module):
    """z (B, Z), labels (B,) if any -> image (B, C, S, S) in [-1, 1].

    z is split evenly: the first part makes the 4x4 features, each further one, beside the label's
    embedding (B, E), is the condition of a block. Then BN with an affine of its own, ReLU, conv3,
    tanh. Orthogonal weights, all but embeddings spectrally normalised. norm: called as
    norm(num_features, condition_dim, num_classes), see genlab.nn.norm. attention: the size of the
    features that attend to each other; the source has 64 at 128 and 256 pixels, null at 32.
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
        upsample: Literal["deconv", "nearest", "bilinear", "zero_insert"] = "nearest",
        norm: Callable[[int, int, int], nn.Module] = LinearModulation,
    ):
        super().__init__()
        _check(image_size, attention_size)
        widths = [hidden_dim * multiple for multiple in GENERATOR[image_size]]
        parts = len(widths)
        if latent_dim % parts:
            raise ValueError(
                f"latent_dim={latent_dim}: at image_size={image_size} z is split into {parts} equal parts; expected a "
                f"multiple, as {20 * parts} (model.latent_dim=)"
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
        self.attention = (
            None
            if attention_size is None
            else SelfAttention(widths[attention_size.bit_length() - 3])
        )
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
            if h.shape[-1] == self.attention_size:
                h = self.attention(h)
        return self.last(self.norm(h).relu_()).tanh()


class Discriminator(nn.Module):
    """image (B, C, S, S), labels (B,) if any -> (B, O): DBlocks, ReLU, sum over all pixels, dense.

    Orthogonal weights, all of them spectrally normalised. attention: as the generator's, after the
    first block of that size.
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
        size, layers = image_size, []
        for i, (c_in, c_out) in enumerate(
            itertools.pairwise([channels, *(hidden_dim * multiple for multiple in multiples)])
        ):
            layers += [DBlock(c_in, c_out, down=i < num_down, first=i == 0)]
            size = size // 2 if i < num_down else size
            layers += [SelfAttention(c_out)] if size == attention_size and i < num_down else []
        self.layers = nn.Sequential(*layers)
        self.head = Head(c_out, out_dim, num_classes)
        init_orthogonal(self)
        _normalise(self, nn.Conv2d, nn.Linear, nn.Embedding)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.head(self.layers(x).relu_().sum((2, 3)), y)
