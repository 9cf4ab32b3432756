"""PGGAN: the counts of the paper's table 2, its layers written out, and its growth."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate

from genlab.models.gan.pggan import Discriminator, Generator, MinibatchStddev, PixelNorm, equalise
from genlab.nn.norm import AdaIN, SelfModulation, couples_batch


@pytest.mark.parametrize("num_classes", [0, 3])
@pytest.mark.parametrize("image_size", [8, 16, 32, 64, 128, 256])
def test_shapes_at_every_size_with_and_without_labels(image_size, num_classes):
    generator = Generator(image_size, 3, 7, num_classes, hidden_dim=4)
    discriminator = Discriminator(image_size, 3, 5, num_classes, hidden_dim=4)
    y = torch.tensor([0, 2]) if num_classes else None
    for level in (0, 0.5, len(generator.sizes) - 1):
        generator.set_level(level)
        discriminator.set_level(level)
        images = generator(torch.randn(2, 7), y)
        assert images.shape == (2, 3, image_size, image_size) and images.abs().max() <= 1
        assert discriminator(images, y).shape == discriminator(images).shape == (2, 5)


def test_parameter_counts_are_those_of_the_paper_at_1024():
    with torch.device("meta"):
        generator, discriminator = Generator(1024, 3, 512), Discriminator(1024, 3, 1)
    widths = [512, 512, 512, 512, 256, 128, 64, 32, 16]
    pairs = list(itertools.pairwise(widths))

    def conv(c_in, c_out, kernel_size=3):
        return kernel_size**2 * c_in * c_out + c_out

    in_blocks = sum(conv(a, b) + conv(b, b) for a, b in pairs)
    images = sum(conv(width, 3, 1) for width in widths)
    expected = 512 * 16 * 512 + 16 * 512 + conv(512, 512) + in_blocks + images
    assert sum(p.numel() for p in generator.parameters()) == expected
    assert expected == pytest.approx(23.1e6, rel=2e-3)
    in_blocks = sum(conv(b, b) + conv(b, a) for a, b in pairs)
    images = sum(conv(3, width, 1) for width in widths)
    expected = images + in_blocks + conv(513, 512) + 16 * 512 * 512 + 512 + 512 + 1
    assert sum(p.numel() for p in discriminator.parameters()) == expected
    assert expected == pytest.approx(23.1e6, rel=2e-3)


@pytest.mark.parametrize("num_classes", [0, 3])
@pytest.mark.parametrize("level", [0, 0.25, 1, 1.75, 2])
def test_every_parameter_of_a_level_gets_a_gradient_and_no_other(level, num_classes):
    generator = Generator(16, 3, 6, num_classes, hidden_dim=4)
    discriminator = Discriminator(16, 3, 4, num_classes, hidden_dim=4)
    y = torch.tensor([0, 1, 2, 0]) if num_classes else None
    for network in (generator, discriminator):
        network.set_level(level)
    discriminator(generator(torch.randn(4, 6), y), y).square().sum().backward()
    low, high = int(level), -int(-level // 1)
    of_size = {
        "first": range(high + 1),
        "second": range(high + 1),
        "images": range(low, high + 1),
        "blocks": range(high),
    }
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            part, index = name.split(".")[:2]
            expected = part in ("last", "head") or int(index) in of_size[part]
            assert (parameter.grad is not None) == expected, name


@pytest.mark.parametrize("gain", [1.0, 2**0.5])
def test_the_equalised_rate_is_its_formula(gain):
    torch.manual_seed(0)
    x = torch.randn(3, 5, 6, 6).double()
    conv = equalise(nn.Conv2d(5, 7, 3), gain).double()
    stored = conv.parametrizations.weight.original
    torch.testing.assert_close(
        conv(x), nn.functional.conv2d(x, stored * gain / (5 * 3 * 3) ** 0.5, conv.bias)
    )
    dense = equalise(nn.Linear(5, 4), gain).double()
    stored = dense.parametrizations.weight.original
    torch.testing.assert_close(
        dense(x[:, :, 0, 0]), x[:, :, 0, 0] @ (stored * gain / 5**0.5).T + dense.bias
    )
    embedding = equalise(nn.Embedding(3, 16), gain)
    torch.testing.assert_close(
        embedding.weight, embedding.parametrizations.weight.original * gain / 4
    )


def test_every_weight_is_stored_at_unit_scale_and_keeps_the_scale_of_what_it_is_given():
    torch.manual_seed(0)
    generator = Generator(32, 3, 64, 5, hidden_dim=64)
    discriminator = Discriminator(32, 3, 64, 5, hidden_dim=64)
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                assert not parameter.any(), name
            else:
                assert parameter.std().item() == pytest.approx(1, abs=0.1), name
    h = generator.first[1][1](torch.randn(8, 64, 8, 8))
    # He's gain: the ReLU that follows halves the mean square.
    assert h.std().item() == pytest.approx(2**0.5, rel=0.15)


def test_pixel_norm_is_its_formula():
    h = torch.randn(2, 5, 3, 3).double()
    torch.testing.assert_close(
        PixelNorm(5, 4)(h), h / (h.square().sum(1, keepdim=True) / 5 + 1e-8).sqrt()
    )


@pytest.mark.parametrize(
    ("batch", "size"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 2), (8, 4), (10, 2), (12, 4)]
)
def test_minibatch_stddev_is_its_formula(batch, size):
    torch.manual_seed(0)
    h = torch.randn(batch, 3, 2, 2).double()
    out = MinibatchStddev(4)(h)
    assert out.shape == (batch, 4, 2, 2) and torch.equal(out[:, :3], h)
    for i in range(batch):
        group = h[[j for j in range(batch) if (j - i) % (batch // size) == 0]]
        assert len(group) == size
        variance = (group - group.mean(0)).square().mean(0)
        torch.testing.assert_close(out[i, 3], (variance + 1e-8).sqrt().mean().expand(2, 2))


def test_minibatch_stddev_says_that_it_couples_a_batch_and_can_be_left_out():
    assert couples_batch(Discriminator(16, 3, 1, hidden_dim=4))
    alone = Discriminator(16, 3, 1, hidden_dim=4, group_size=1)
    assert not couples_batch(alone)
    x = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(alone(x)[:1], alone(x[:1]))


def unit(z):
    return z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()


def features(generator, c, size):
    """The generator's features at 4, 8, ..., written out."""

    def norm(h):
        h = torch.where(h > 0, h, 0.2 * h)
        return h / (h.square().mean(1, keepdim=True) + 1e-8).sqrt()

    dense = generator.first[0][0]
    found = [
        norm(generator.second[0](norm((c @ dense.weight.T + dense.bias).view(len(c), -1, 4, 4))))
    ]
    while found[-1].shape[-1] < size:
        i = len(found)
        h = norm(generator.first[i][1](interpolate(found[-1], scale_factor=2, mode="nearest")))
        found.append(norm(generator.second[i](h)))
    return found


@pytest.mark.parametrize("num_classes", [0, 3])
@pytest.mark.parametrize(("k", "a"), [(0, 0), (0, 0.375), (1, 0), (1, 0.75), (2, 0)])
def test_a_generated_image_is_the_written_out_blend(k, a, num_classes):
    torch.manual_seed(0)
    generator = Generator(16, 3, 6, num_classes, hidden_dim=4).double()
    z = torch.randn(2, 6).double()
    y = torch.tensor([2, 0]) if num_classes else None
    c = torch.cat([unit(z), torch.eye(3).double()[y]], 1) if num_classes else unit(z)
    generator.set_level(k + a)
    images = [
        convolution(h).tanh()
        for convolution, h in zip(generator.images, features(generator, c, 16), strict=True)
    ]
    low, high = (interpolate(images[i], size=16, mode="nearest") for i in (k, min(k + 1, 2)))
    torch.testing.assert_close(generator(z, y), (1 - a) * low + a * high)


@pytest.mark.parametrize(("k", "a"), [(0, 0), (0, 0.375), (1, 0), (1, 0.75), (2, 0)])
def test_the_discriminators_input_is_the_written_out_blend(k, a):
    torch.manual_seed(0)
    network, x = Discriminator(16, 3, 4, hidden_dim=4).double(), torch.randn(4, 3, 16, 16).double()
    network.set_level(k + a)

    def leaky(h):
        return torch.where(h > 0, h, 0.2 * h)

    def down(i, h):
        first, second = network.blocks[i - 1][0], network.blocks[i - 1][2]
        return avg_pool2d(leaky(second(leaky(first(h)))), 2)

    shown = [avg_pool2d(x, 4), avg_pool2d(x, 2), x]
    starts = [leaky(layer[0](image)) for layer, image in zip(network.images, shown, strict=True)]
    h = (1 - a) * starts[k] + a * down(k + 1, starts[k + 1]) if a else starts[k]
    for i in range(k, 0, -1):
        h = down(i, h)
    _, conv, _, _, dense, _ = network.last
    h = leaky(dense(leaky(conv(network.last[0](h))).flatten(1)))
    torch.testing.assert_close(network(x), network.head.dense(h))


@pytest.mark.parametrize("norm", [AdaIN, SelfModulation])
def test_other_modulations_fit(norm):
    generator = Generator(16, 1, 6, 3, hidden_dim=4, norm=norm)
    assert generator(torch.randn(2, 6), torch.tensor([0, 2])).shape == (2, 1, 16, 16)
