"""BigGAN against the counts of compare_gan and against its formulas written out."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate
from torch.nn.utils import parametrize

from genlab.models.gan.biggan import DBlock, Discriminator, GBlock, Generator, LinearModulation
from genlab.nn.attention import SelfAttention
from genlab.nn.norm import AdaIN, ConditionalBatchNorm, SelfModulation
from genlab.nn.spectral_norm import SpectralNorm, advance_spectral_norm

NUM_PARTS = {32: 4, 64: 5, 128: 6, 256: 7}


@pytest.mark.parametrize("num_classes", [0, 3])
@pytest.mark.parametrize("image_size", NUM_PARTS)
def test_shapes_at_every_size_with_and_without_labels(image_size, num_classes):
    latent_dim = 2 * NUM_PARTS[image_size]
    generator = Generator(image_size, 3, latent_dim, num_classes, hidden_dim=1, embedding_dim=4)
    discriminator = Discriminator(image_size, 3, 5, num_classes, hidden_dim=1)
    y = torch.tensor([0, 2]) if num_classes else None
    images = generator(torch.randn(2, latent_dim), y)
    assert images.shape == (2, 3, image_size, image_size) and images.abs().max() <= 1
    assert discriminator(images, y).shape == discriminator(images).shape == (2, 5)


def count_of_generator(widths, part, embedding_dim, num_classes, attention_width):
    condition = part + embedding_dim
    blocks = 0
    for c_in, c_out in itertools.pairwise(widths):
        blocks += 2 * condition * (c_in + c_out)  # gain and bias of two norms
        blocks += 9 * c_in * c_out + c_out + 9 * c_out * c_out + c_out + c_in * c_out + c_out
    dense = part * 16 * widths[0] + 16 * widths[0]
    last = 2 * widths[-1] + 9 * widths[-1] * 3 + 3
    return num_classes * embedding_dim + dense + blocks + count_of_attention(attention_width) + last


def count_of_discriminator(widths, flat, num_classes, attention_width):
    blocks = 0
    for c_in, c_out in itertools.pairwise(widths):
        blocks += 9 * c_in * c_out + c_out + 9 * c_out * c_out + c_out
        blocks += 0 if c_in == c_out in flat else c_in * c_out + c_out
    return blocks + widths[-1] + 1 + num_classes * widths[-1] + count_of_attention(attention_width)


def count_of_attention(c):
    return 2 * c * c // 8 + 2 * c * c // 2 + 1


def count(network):
    return sum(p.numel() for p in network.parameters())


def test_parameter_counts_at_128_are_those_of_compare_gan():
    # google/compare_gan, resnet_biggan_test.py: ImageNet's 1000 classes at 128 pixels, attention at
    # 64
    with torch.device("meta"):
        generator = Generator(128, 3, 120, 1000, attention_size=64)
        discriminator = Discriminator(128, 3, 1, 1000, attention_size=64)
    widths = [96 * m for m in (16, 16, 8, 4, 2, 1)]
    assert count(generator) == count_of_generator(widths, 20, 128, 1000, 2 * 96) == 70_433_988
    assert (
        count(discriminator)
        == count_of_discriminator([3, *widths[:0:-1], widths[0]], [16 * 96], 1000, 96)
        == 87_982_370
    )


@pytest.mark.parametrize(
    ("size", "multiples", "halvings"),
    [
        (32, (4, 4, 4, 4), 2),
        (64, (1, 2, 4, 8, 16), 4),
        (128, (1, 2, 4, 8, 16, 16), 5),
        (256, (1, 2, 4, 8, 8, 16, 16), 6),
    ],
)
def test_widths_of_the_discriminator_and_where_it_halves(size, multiples, halvings):
    layers = Discriminator(size, 3, 1, hidden_dim=2).layers
    assert [block.conv2.out_channels for block in layers] == [2 * m for m in multiples]
    assert [block.conv1.out_channels for block in layers] == [2 * m for m in multiples]  # wide
    assert [block.down for block in layers] == [i < halvings for i in range(len(layers))]


@pytest.mark.parametrize(
    ("size", "multiples"),
    [
        (32, (4, 4, 4, 4)),
        (64, (16, 16, 8, 4, 2)),
        (128, (16, 16, 8, 4, 2, 1)),
        (256, (16, 16, 8, 8, 4, 2, 1)),
    ],
)
def test_widths_of_the_generator(size, multiples):
    generator = Generator(size, 3, NUM_PARTS[size], hidden_dim=2)
    widths = [generator.blocks[0].conv1.in_channels] + [
        block.conv2.out_channels for block in generator.blocks
    ]
    assert widths == [2 * m for m in multiples] and generator.dense.out_features == 16 * widths[0]


@pytest.mark.parametrize("num_classes", [0, 3])
def test_every_parameter_gets_a_gradient(num_classes):
    generator = Generator(32, 3, 8, num_classes, hidden_dim=2, embedding_dim=3, attention_size=16)
    discriminator = Discriminator(32, 3, 4, num_classes, hidden_dim=2, attention_size=16)
    y = torch.tensor([0, 1, 2, 0]) if num_classes else None
    discriminator(generator(torch.randn(4, 8), y), y).square().sum().backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name


def test_the_modulation_is_its_formula():
    torch.manual_seed(0)
    layer = LinearModulation(6, 5).double()
    h = torch.randn(8, 6, 3, 3).double()
    c = torch.randn(8, 5).double()
    gain, bias = (torch.randn(6, 5).double() for _ in range(2))
    with torch.no_grad():
        layer.gain.parametrizations.weight.original.copy_(gain)
        layer.bias.parametrizations.weight.original.copy_(bias)
    for _ in range(500):
        advance_spectral_norm(layer)
    gamma, beta = (c @ (w / torch.linalg.svdvals(w)[0]).T for w in (gain, bias))
    normed = (h - h.mean((0, 2, 3), keepdim=True)) / (
        h.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    expected = (1 + gamma[:, :, None, None]) * normed + beta[:, :, None, None]
    torch.testing.assert_close(layer(h, c), expected)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "zero_insert"])
def test_a_generator_block_is_its_formula(mode):
    torch.manual_seed(0)
    block = GBlock(4, 3, lambda width: LinearModulation(width, 5), mode).double()
    h, c = torch.randn(2, 4, 6, 6).double(), torch.randn(2, 5).double()
    before = h.clone()

    def up(x):
        if mode != "zero_insert":
            return interpolate(x, scale_factor=2, mode=mode)
        wide = torch.zeros(*x.shape[:2], 12, 12).double()
        wide[..., ::2, ::2] = x
        return wide

    branch = block.conv1(up(block.norm1(h, c).relu()))
    expected = block.conv2(block.norm2(branch, c).relu()) + block.shortcut(up(h))
    torch.testing.assert_close(block(h, c, None), expected)
    assert torch.equal(h, before)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(("c_out", "down"), [(6, True), (6, False), (4, True), (4, False)])
def test_a_discriminator_block_is_its_formula(c_out, down, first):
    torch.manual_seed(0)
    block, x = DBlock(4, c_out, down, first).double(), torch.randn(2, 4, 6, 6).double()
    before = x.clone()
    branch = block.conv2(block.conv1(x if first else x.relu()).relu())
    shortcut = block.shortcut(x)
    expected = avg_pool2d(branch, 2) + avg_pool2d(shortcut, 2) if down else branch + shortcut
    torch.testing.assert_close(block(x), expected)
    assert torch.equal(x, before)
    assert isinstance(block.shortcut, nn.Identity) == (c_out == 4 and not down)


@pytest.mark.parametrize("num_classes", [0, 3])
def test_each_block_is_conditioned_on_its_own_part_of_z_beside_the_shared_embedding(num_classes):
    generator = Generator(32, 1, 8, num_classes, hidden_dim=1, embedding_dim=3)
    seen = []
    for block in generator.blocks:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    z, y = torch.randn(2, 8), torch.tensor([2, 0]) if num_classes else None
    generator(z, y)
    label = [generator.embedding(y)] if num_classes else []
    assert len(seen) == 3
    for k, c in enumerate(seen, start=1):
        assert torch.equal(c, torch.cat([z[:, 2 * k : 2 * k + 2], *label], 1))


def test_weights_are_orthogonal_and_normalised_all_but_the_generators_embedding():
    generator = Generator(32, 3, 8, 3, hidden_dim=4, embedding_dim=6, attention_size=16)
    discriminator = Discriminator(32, 3, 5, 3, hidden_dim=4, attention_size=16)
    for network in (generator, discriminator):
        for name, module in network.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
                free = module is generator.embedding
                assert parametrize.is_parametrized(module, "weight") != free, name
                values = torch.linalg.svdvals(module.weight.flatten(1))
                torch.testing.assert_close(values, torch.ones_like(values), rtol=0, atol=0.02)
                assert getattr(module, "bias", None) is None or not module.bias.any()
        assert all(
            module.eps == 1e-6 for module in network.modules() if isinstance(module, SpectralNorm)
        )


def test_the_last_norm_ignores_the_condition():
    assert type(Generator(32, 3, 8, 3, hidden_dim=1).norm) is nn.BatchNorm2d


@pytest.mark.parametrize(
    ("image_size", "attention"), [(32, 8), (32, 16), (64, 32), (128, 64), (128, 8)]
)
def test_features_attend_once_at_attention_size(image_size, attention):
    latent_dim = NUM_PARTS[image_size]
    generator = Generator(image_size, 1, latent_dim, hidden_dim=1, attention_size=attention)
    discriminator = Discriminator(image_size, 1, 1, hidden_dim=1, attention_size=attention)
    sizes = []
    for network in (generator, discriminator):
        for module in network.modules():
            if isinstance(module, SelfAttention):
                module.register_forward_hook(
                    lambda _, inputs, output: sizes.append(output.shape[-1])
                )
    discriminator(generator(torch.randn(2, latent_dim)))
    assert sizes == [attention, attention]


@pytest.mark.parametrize("norm", [AdaIN, SelfModulation, ConditionalBatchNorm])
def test_other_modulations_fit(norm):
    generator = Generator(32, 1, 8, 3, hidden_dim=1, embedding_dim=3, norm=norm)
    assert generator(torch.randn(2, 8), torch.tensor([0, 2])).shape == (2, 1, 32, 32)


def test_what_it_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"^latent_dim=100: .*model\.latent_dim="):
        Generator(128, 3, 100, hidden_dim=1)
    with pytest.raises(ValueError, match=r"^image_size=48: .*data\.image_size="):
        Discriminator(48, 3, 1)
    with pytest.raises(ValueError, match=r"^attention_size=64"):
        Generator(64, 3, 5, attention_size=64)
