import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from genlab.models.gan.sndcgan import Discriminator, Generator
from genlab.nn.norm import AdaIN, BatchNorm, ConditionalBatchNorm, SelfModulation
from genlab.nn.spectral_norm import advance_spectral_norm


def conv(kernel: int, c_in: int, c_out: int) -> int:
    return kernel * kernel * c_in * c_out + c_out


def num_parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("num_classes", [0, 10])
@pytest.mark.parametrize("image_size", [16, 32, 48, 64, 128, 256])
def test_shapes_at_every_size(image_size, num_classes):
    y = torch.tensor([0, 9]) if num_classes else None
    generator = Generator(image_size, 3, 7, num_classes, hidden_dim=2)
    discriminator = Discriminator(image_size, 3, 5, num_classes, hidden_dim=2)
    images = generator(torch.randn(2, 7), y)
    assert images.shape == (2, 3, image_size, image_size) and images.abs().max() <= 1
    assert discriminator(images, y).shape == (2, 5)


@pytest.mark.parametrize("image_size", [32, 128])
def test_parameter_counts_follow_the_layer_table(image_size):
    pixels = (image_size // 8) ** 2
    g = 128 * pixels * 512 + pixels * 512  # dense
    g += conv(4, 512, 256) + conv(4, 256, 128) + conv(4, 128, 64) + conv(3, 64, 3)
    g += 2 * (512 + 256 + 128 + 64)  # batch norm
    d = conv(3, 3, 64)
    d += conv(4, 64, 128) + conv(3, 128, 128)
    d += conv(4, 128, 256) + conv(3, 256, 256)
    d += conv(4, 256, 512) + conv(3, 512, 512)
    d += 512 * pixels + 1  # dense
    with torch.device("meta"):
        generator = Generator(image_size, 3, 128)
        discriminator = Discriminator(image_size, 3, 1, spectral_norm=False)
    assert num_parameters(generator) == g
    assert num_parameters(discriminator) == d


@pytest.mark.parametrize(
    "upsample", ["deconv", "nearest", "bilinear", "zero_insert", "pixel_shuffle"]
)
@pytest.mark.parametrize("norm", [BatchNorm, ConditionalBatchNorm, SelfModulation, AdaIN])
def test_every_parameter_gets_a_gradient(norm, upsample):
    generator = Generator(16, 3, 8, 10, hidden_dim=4, upsample=upsample, norm=norm)
    discriminator = Discriminator(16, 3, 4, 10, hidden_dim=4)
    y = torch.arange(4)
    discriminator(generator(torch.randn(4, 8), y), y).square().sum().backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_a_norm_keeps_the_start_that_it_brings():
    generator = Generator(16, 3, 8, 10, hidden_dim=4, norm=ConditionalBatchNorm)
    assert all(not norm.embedding.weight.any() for norm in generator.norms)


def test_convolutions_start_normal_with_a_fiftieth_of_deviation():
    for network in (
        Generator(16, 3, 64, hidden_dim=16),
        Discriminator(16, 3, 1, hidden_dim=16, spectral_norm=False),
    ):
        weights = [
            m.weight
            for m in network.modules()
            if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
        ]
        std = torch.cat([w.flatten() for w in weights]).std().item()
        assert std == pytest.approx(0.02, rel=0.02)


def test_discriminator_is_seven_leaky_convolutions_and_a_dense_layer():
    discriminator = Discriminator(16, 3, 2, hidden_dim=4, spectral_norm=False).double()
    for parameter in discriminator.parameters():
        nn.init.normal_(parameter, 0, 0.3)
    h = x = torch.randn(2, 3, 16, 16).double()
    for i, layer in enumerate(m for m in discriminator.layers if isinstance(m, nn.Conv2d)):
        assert layer.kernel_size == ((4, 4) if i % 2 else (3, 3))
        assert layer.stride == ((2, 2) if i % 2 else (1, 1))
        h = layer(h)
        h = torch.where(h > 0, h, 0.1 * h)
    expected = h.flatten(1) @ discriminator.head.dense.weight.T + discriminator.head.dense.bias
    assert i == 6
    torch.testing.assert_close(discriminator(x), expected)


def test_every_layer_of_the_discriminator_has_spectral_norm_one():
    discriminator = Discriminator(16, 3, 4, 10, hidden_dim=4).double()
    for _ in range(300):
        advance_spectral_norm(discriminator)
    layers = [
        m for m in discriminator.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.Embedding)
    ]
    assert len(layers) == 9
    for layer in layers:
        assert parametrize.is_parametrized(layer, "weight")
        assert torch.linalg.svdvals(layer.weight.flatten(1))[0].item() == pytest.approx(1, rel=1e-3)
    plain = Discriminator(16, 3, 4, 10, hidden_dim=4, spectral_norm=False)
    assert not any(parametrize.is_parametrized(m) for m in plain.modules())


def test_labels_add_their_embeddings_product_with_the_features():
    discriminator = Discriminator(16, 3, 4, 10, hidden_dim=4).double()
    x = torch.randn(3, 3, 16, 16).double()
    y = torch.arange(3)
    features = discriminator.layers(x)
    term = (discriminator.head.embedding.weight[y] * features).sum(1, keepdim=True).expand(3, 4)
    torch.testing.assert_close(discriminator(x, y) - discriminator(x), term)


@pytest.mark.parametrize("norm", [BatchNorm, SelfModulation, AdaIN])
def test_in_eval_mode_an_image_depends_on_its_own_code_alone(norm):
    generator, z = Generator(16, 3, 8, hidden_dim=4, norm=norm).double(), torch.randn(5, 8).double()
    generator(z)  # the running statistics move off their start
    generator.eval()
    torch.testing.assert_close(torch.cat([generator(code[None]) for code in z]), generator(z))


@pytest.mark.parametrize("image_size", [8, 28, 33, 264])
@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_a_size_that_the_rule_does_not_fit_is_refused(network, image_size):
    with pytest.raises(ValueError, match=r"data\.image_size="):
        network(image_size, 3, 8)


def test_an_unknown_upsample_is_refused_with_the_list():
    with pytest.raises(
        ValueError,
        match=r"^upsample='cubic'",
    ):
        Generator(16, 3, 8, hidden_dim=4, upsample="cubic")
