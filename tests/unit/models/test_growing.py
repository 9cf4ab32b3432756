"""Strided networks that grow: what they are at each level, and at the last one."""

import inspect

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate
from torch.nn.utils import parametrize

from genlab.models.gan import biggan, dcgan, growing, stylegan
from genlab.models.gan.growing import GrowingDiscriminator, GrowingGenerator
from genlab.nn.norm import SelfModulation

LEVELS = [0, 0.375, 1, 1.75, 2, 2.5, 3]


def pair(num_classes=0, spectral_norm=False, kernel_size=4, style=False):
    """A growing generator and discriminator for 32x32 pixels, sizes 4, 8, 16, 32, in float64."""
    torch.manual_seed(0)
    options = {"hidden_dim": 8, "kernel_size": kernel_size}
    if style:
        generator = stylegan.Generator(32, 3, 6, num_classes, num_layers=2, **options)
    else:
        generator = dcgan.Generator(32, 3, 6, num_classes, norm=SelfModulation, **options)
    discriminator = dcgan.Discriminator(
        32, 3, 5, num_classes, spectral_norm=spectral_norm, **options
    )
    return GrowingGenerator(generator).double(), GrowingDiscriminator(discriminator).double()


@pytest.mark.parametrize("style", [False, True])
@pytest.mark.parametrize("kernel_size", [4, 5])
@pytest.mark.parametrize("spectral_norm", [False, True])
@pytest.mark.parametrize("num_classes", [0, 3])
def test_at_the_last_level_they_are_the_plain_networks_exactly(
    num_classes, spectral_norm, kernel_size, style
):
    generator, discriminator = pair(num_classes, spectral_norm, kernel_size, style)
    z, y = torch.randn(4, 6).double(), torch.tensor([0, 1, 2, 0]) if num_classes else None
    assert generator.level == discriminator.level == 3
    images = generator.network(z, y)
    assert torch.equal(generator(z, y), images)
    assert torch.equal(discriminator(images, y), discriminator.network(images, y))
    assert torch.equal(generator.at_level(images), images)


def test_the_plain_network_is_the_loop_over_its_stages_written_out():
    generator = dcgan.Generator(16, 3, 6, hidden_dim=16, norm=SelfModulation)
    z = torch.randn(4, 6)
    h = generator.dense(z).unflatten(1, (-1, 4, 4))
    for norm, deconv in zip(generator.norms, generator.deconvs, strict=True):
        h = deconv(norm(h, z).relu())
    assert torch.equal(generator(z), h.tanh())
    discriminator, x = dcgan.Discriminator(16, 3, 6, hidden_dim=16), torch.randn(4, 3, 16, 16)
    h = nn.Sequential(*discriminator.stages())(x)
    assert torch.equal(discriminator(x), discriminator.head(h.flatten(1)))
    assert [stage[0].out_channels for stage in discriminator.stages()] == [16, 32]
    assert generator.widths == [32, 16]


@pytest.mark.parametrize("style", [False, True])
@pytest.mark.parametrize("level", LEVELS)
def test_a_generated_image_is_the_written_out_blend(level, style):
    generator, _ = pair(style=style)
    z, (k, a) = torch.randn(4, 6).double(), (int(level), level % 1)
    generator.set_level(level)
    plain = generator.network
    c = plain.mapping(z) if style else z
    h, images = plain.dense(c).unflatten(1, (-1, 4, 4)), []
    for norm, deconv, to_image in zip(plain.norms, plain.deconvs, generator.images, strict=True):
        h = norm(h, c).relu()
        images.append(to_image(h).tanh())
        h = deconv(h)
    images.append(h.tanh())
    low, high = (interpolate(images[i], size=32, mode="nearest") for i in (k, min(k + 1, 3)))
    torch.testing.assert_close(generator(z), (1 - a) * low + a * high)


@pytest.mark.parametrize("level", LEVELS)
def test_the_discriminators_input_is_the_written_out_blend(level):
    _, network = pair(num_classes=3)
    x = torch.randn(4, 3, 32, 32).double()
    y = torch.tensor([0, 1, 2, 0])
    k = int(level)
    a = level % 1
    network.set_level(level)
    layers = network.network.layers
    to_4 = layers[5:8]
    to_8 = layers[2:5]
    to_16 = layers[:2]
    starts = [
        nn.functional.leaky_relu(network.images[i][0](avg_pool2d(x, 32 // size)), 0.2)
        for i, size in enumerate([4, 8, 16])
    ]
    # Features at 4, 8 and 16 that come from the next size
    downs = [to_4(starts[1]), to_8(starts[2]), to_16(x)]
    h = [*starts, None][k] if not a else (1 - a) * starts[k] + a * downs[k]
    if level == 3:
        k, h = 2, to_16(x)
    for part in [to_8, to_4][2 - k :]:
        h = part(h)
    torch.testing.assert_close(network(x, y), network.network.head(h.flatten(1), y))


@pytest.mark.parametrize("level", LEVELS)
def test_real_images_are_shown_as_the_written_out_blend(level):
    generator, discriminator = pair()
    x, (k, a) = torch.randn(2, 3, 32, 32).double(), (int(level), level % 1)
    shown = [interpolate(avg_pool2d(x, n), scale_factor=n, mode="nearest") for n in (8, 4, 2, 1)]
    for network in (generator, discriminator):
        network.set_level(level)
        torch.testing.assert_close(
            network.at_level(x), (1 - a) * shown[k] + a * shown[min(k + 1, 3)]
        )


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_between_fades_the_discriminator_sees_no_more_than_the_level_shows(level):
    _, discriminator = pair()
    x = torch.randn(4, 3, 32, 32).double()
    discriminator.eval().set_level(level)
    torch.testing.assert_close(discriminator(x), discriminator(discriminator.at_level(x)))


@pytest.mark.parametrize("level", LEVELS)
def test_every_parameter_of_a_level_gets_a_gradient_and_no_other(level):
    generator, discriminator = pair(num_classes=3)
    y = torch.tensor([0, 1, 2, 0])
    for network in (generator, discriminator):
        network.set_level(level)
    discriminator(generator(torch.randn(4, 6).double(), y), y).square().sum().backward()
    low, high = int(level), -int(-level // 1)
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            parts = name.split(".")
            if parts[0] == "images":
                expected = low <= int(parts[1]) <= high
            elif parts[1] == "norms":
                expected = int(parts[2]) <= min(high, 2)
            elif parts[1] == "deconvs":
                expected = int(parts[2]) < high
            elif parts[1] == "layers":
                expected = {0: 2, 2: 1, 3: 1, 5: 0, 6: 0}[int(parts[2])] < high
            else:
                expected = True
            assert (parameter.grad is not None) == expected, name


@pytest.mark.parametrize("image_size", [8, 16, 64, 128])
def test_shapes_at_every_size_and_level(image_size):
    generator = growing.Generator(image_size, 1, 6, hidden_dim=8)
    discriminator = growing.Discriminator(image_size, 1, 5, hidden_dim=8)
    assert (
        generator.sizes == discriminator.sizes == [2**i for i in range(2, 10) if 2**i <= image_size]
    )
    for half in range(2 * len(generator.sizes) - 1):
        for network in (generator, discriminator):
            network.set_level(half / 2)
        images = generator(torch.randn(2, 6))
        assert images.shape == (2, 1, image_size, image_size) and images.abs().max() <= 1
        assert discriminator(images).shape == (2, 5)


def test_the_level_is_in_the_state_dict_and_comes_out_of_it():
    generator, _ = pair()
    generator.set_level(1.3)
    assert generator.level == pytest.approx(1.3, abs=1e-6)
    state = {name: value.clone() for name, value in generator.state_dict().items()}
    other, _ = pair()
    assert other.level == 3
    other.load_state_dict(state)
    z = torch.randn(4, 6).double()
    assert other.level == generator.level and torch.equal(other(z), generator(z))


def test_no_precision_and_no_average_of_floats_touches_the_level():
    generator, _ = pair()
    generator.set_level(1.3)
    assert not generator.stored_level.is_floating_point()
    other, _ = pair()
    other.to(torch.bfloat16).load_state_dict(generator.state_dict())
    assert other.level == generator.level


@pytest.mark.parametrize("level", [-0.1, 3.1])
def test_a_level_that_is_not_there_is_refused(level):
    with pytest.raises(ValueError, match=r"^level="):
        pair()[0].set_level(level)


def test_the_way_in_is_spectrally_normalised_where_the_discriminator_is():
    for spectral_norm in (False, True):
        _, discriminator = pair(spectral_norm=spectral_norm)
        for layer, _ in discriminator.images:
            assert parametrize.is_parametrized(layer, "weight") == spectral_norm


def test_the_ways_in_and_out_keep_the_scale_of_what_they_are_given():
    # N(0, 0.02^2) would let a size fade in grey, and its features too weak to count
    torch.manual_seed(0)
    generator, discriminator = growing.Generator(64, 3, 8), growing.Discriminator(64, 3, 8)
    for layer, width in zip(generator.images, (512, 256, 128, 64), strict=True):
        assert layer(torch.randn(4, width, 8, 8)).std().item() == pytest.approx(1, rel=0.3)
    for layer in discriminator.images:
        assert layer[0](torch.randn(4, 3, 8, 8)).std().item() == pytest.approx(2**0.5, rel=0.3)


def test_a_network_that_is_not_strided_is_refused_by_name():
    with pytest.raises(ValueError, match=r"^genlab\.models\.gan\.biggan\.Generator "):
        GrowingGenerator(biggan.Generator(32, 3, 4, hidden_dim=1))
    with pytest.raises(ValueError, match=r"^genlab\.models\.gan\.biggan\.Discriminator "):
        GrowingDiscriminator(biggan.Discriminator(32, 3, 1, hidden_dim=1))


@pytest.mark.parametrize(
    ("grown", "plain"),
    [
        (growing.Generator, dcgan.Generator),
        (growing.StyleGenerator, stylegan.Generator),
        (growing.Discriminator, dcgan.Discriminator),
    ],
)
def test_a_config_gives_them_the_plain_networks_arguments(grown, plain):
    assert inspect.signature(grown) == inspect.signature(plain)
    assert type(grown(32, 3, 6, hidden_dim=8).network) is plain
