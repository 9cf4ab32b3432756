"""DCGAN's pair of strided networks, in the widths and kernels of the O-GAN scripts.

"Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks", Radford et al. 2015,
arXiv 1511.06434; widths, kernels and initialisation from "O-GAN: Extremely Concise Approach for Auto-Encoding
Generative Adversarial Networks", Su 2019, arXiv 1903.01931 (bojone/o-gan).

Shapes: B batch, C image channels, S image size, Z latent_dim, O out_dim. The width at 4x4 is width_multiple x S, 8 S in
the source: at S = 128 the discriminator's widths are 64, 128, 256, 512, 1024, the generator's the reverse.
"""

import itertools
from collections.abc import Callable

from torch import Tensor, nn

from genlab.nn.norm import BatchNorm, discriminator_norm
from genlab.nn.spectral_norm import spectral_norm

__all__ = ["Discriminator", "Generator"]


def num_strides(image_size: int) -> int:
    """How often 4 doubles up to `image_size`; ValueError unless it is 8, 16, 32, ..."""
    n = (image_size // 4).bit_length() - 1
    if n < 1 or image_size != 4 * 2**n:
        raise ValueError(f"image_size={image_size}: a strided network needs 8, 16, 32, 64, 128, 256 (data.image_size=)")
    return n


def check_kernel_size(kernel_size: int) -> None:
    if kernel_size not in (4, 5):
        raise ValueError(f"kernel_size={kernel_size}: expected 4 or 5, the kernels that halve a size at stride 2")


def init_normal(network: nn.Module, std: float = 0.02) -> None:
    """N(0, std^2) weights and zero biases for every convolution and dense layer of `network`."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, 0.0, std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class Generator(nn.Module):
    """z (B, Z) -> image (B, C, S, S) in [-1, 1]: dense, norm, ReLU, then deconvolutions that halve the width.

    norm: called as norm(num_features, latent_dim), gives a layer of (h, z).
    The source pads a 5x5 deconvolution as TensorFlow's 'same' does, (1, 2); here it is PyTorch's symmetric 2.
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        latent_dim: int,
        width_multiple: int = 8,
        kernel_size: int = 4,
        norm: Callable[[int, int], nn.Module] = BatchNorm,
    ):
        super().__init__()
        check_kernel_size(kernel_size)
        n, dim = num_strides(image_size), width_multiple * image_size
        widths = [dim // 2**i for i in range(n)]  # at 4, 8, ..., S/2
        padding = {"padding": (kernel_size - 1) // 2, "output_padding": kernel_size % 2}
        self.dense = nn.Linear(latent_dim, 4 * 4 * dim)
        self.norms = nn.ModuleList(norm(width, latent_dim) for width in widths)
        self.deconvs = nn.ModuleList(
            nn.ConvTranspose2d(c_in, c_out, kernel_size, 2, **padding)
            for c_in, c_out in zip(widths, [*widths[1:], channels], strict=True)
        )
        init_normal(self)

    def forward(self, z: Tensor) -> Tensor:
        h = self.dense(z).unflatten(1, (-1, 4, 4))
        for norm, deconv in zip(self.norms, self.deconvs, strict=True):
            h = deconv(norm(h, z).relu())
        return h.tanh()


class Discriminator(nn.Module):
    """image (B, C, S, S) -> (B, O): strided convolutions that double the width, LeakyReLU 0.2, one dense layer.

    With out_dim = Z it is O-GAN's encoder, and its mean over O the score; with 1 it is a plain discriminator.
    norm: batch, group or none, on all convolutions but the first. spectral_norm: on every weight.
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        out_dim: int,
        width_multiple: int = 8,
        kernel_size: int = 4,
        norm: str = "batch",
        spectral_norm: bool = False,
    ):
        super().__init__()
        check_kernel_size(kernel_size)
        n, dim = num_strides(image_size), width_multiple * image_size
        widths = [channels] + [dim // 2**i for i in reversed(range(n))]
        layers: list[nn.Module] = []
        for i, (c_in, c_out) in enumerate(itertools.pairwise(widths)):
            layers += [nn.Conv2d(c_in, c_out, kernel_size, 2, (kernel_size - 1) // 2)]
            layers += [discriminator_norm(norm, c_out)] if i else []
            layers += [nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 4 * dim, out_dim))
        init_normal(self)
        if spectral_norm:
            _normalise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def _normalise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            spectral_norm(module)
