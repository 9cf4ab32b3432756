from typing import get_args

import pytest
import torch
from torch import nn

from genlab import config
from genlab.config.renamed import with_new_names
from genlab.models.gan.dcgan import Discriminator, Generator
from genlab.nn.norm import SelfModulation
from genlab.nn.upsample import Upsampling


@pytest.mark.parametrize("kernel_size", [4, 5])
@pytest.mark.parametrize("image_size", [8, 16, 32, 64, 128, 256])
def test_shapes_at_every_size(image_size, kernel_size):
    generator = Generator(image_size, 3, 7, hidden_dim=8, kernel_size=kernel_size)
    discriminator = Discriminator(image_size, 3, 5, hidden_dim=8, kernel_size=kernel_size)
    images = generator(torch.randn(2, 7))
    assert images.shape == (2, 3, image_size, image_size) and images.abs().max() <= 1
    assert discriminator(images).shape == (2, 5)


def test_widths_and_parameter_counts_of_the_o_gan_script_at_128():
    # bojone/o-gan at 128: about 19.5 M parameters each with 5x5 kernels and widths 64 to 1024
    generator = Generator(128, 3, 128, kernel_size=5)
    encoder = Discriminator(128, 3, 128, kernel_size=5)
    assert [m.out_channels for m in encoder.modules() if isinstance(m, nn.Conv2d)] == [
        64,
        128,
        256,
        512,
        1024,
    ]
    assert [m.out_channels for m in generator.modules() if isinstance(m, nn.ConvTranspose2d)] == [
        512,
        256,
        128,
        64,
        3,
    ]
    for network in (generator, encoder):
        assert sum(p.numel() for p in network.parameters()) == pytest.approx(19.5e6, rel=0.01)


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("spectral_norm", [False, True])
def test_every_parameter_gets_a_gradient(norm, spectral_norm):
    generator = Generator(16, 3, 8, hidden_dim=16, norm=lambda n, z, c: SelfModulation(n, z, c, 8))
    discriminator = Discriminator(16, 3, 4, hidden_dim=16, norm=norm, spectral_norm=spectral_norm)
    discriminator(generator(torch.randn(4, 8))).square().sum().backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name


@pytest.mark.parametrize("upsample", get_args(Upsampling))
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_only_biases_that_a_norm_takes_out_are_left_out(norm, upsample):
    generator = Generator(16, 3, 8, hidden_dim=16, upsample=upsample)
    discriminator = Discriminator(16, 3, 4, hidden_dim=16, norm=norm)
    z = torch.randn(6, 8)
    for network, x in ((generator, z), (discriminator, generator(z).detach())):
        before = network(x)
        for conv in (m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)):
            own, conv.bias = conv.bias, nn.Parameter(torch.randn(conv.out_channels))
            same = torch.allclose(network(x), before, atol=1e-3)
            conv.bias = own
            assert same == (own is None), conv


@pytest.mark.parametrize("image_size", [4, 28, 33])
def test_a_size_that_does_not_halve_to_four_is_refused(image_size):
    with pytest.raises(ValueError, match=r"data\.image_size="):
        Generator(image_size, 3, 8)


def test_kernel_size_is_checked():
    with pytest.raises(ValueError, match=r"^kernel_size=3"):
        Discriminator(32, 3, 8, kernel_size=3)


@pytest.mark.parametrize("image_size", [8, 32, 128])
def test_a_config_with_width_multiple_gives_the_network_that_it_gave(image_size):
    node = {
        "_target_": "genlab.models.gan.dcgan.Discriminator",
        "image_size": image_size,
        "channels": 1,
        "out_dim": 1,
        "width_multiple": 3,
    }
    network = config.build(with_new_names(node))
    assert network.head.dense.in_features == 4 * 4 * 3 * image_size  # 3 image_size channels at 4x4


def test_every_upsampler_passes_the_checks_of_a_config():
    for upsample in get_args(Upsampling):
        node = {
            "_target_": "genlab.models.gan.dcgan.Generator",
            "image_size": 8,
            "channels": 1,
            "latent_dim": 4,
            "upsample": upsample,
        }
        config.validate({"net": node})
