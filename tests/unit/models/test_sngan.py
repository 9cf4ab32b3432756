import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d
from torch.nn.utils import parametrize

from genlab.models.gan.sngan import DBlock, Discriminator, GBlock, Generator
from genlab.nn.norm import AdaIN, BatchNorm, ConditionalBatchNorm, SelfModulation
from genlab.nn.spectral_norm import advance_spectral_norm
from genlab.nn.upsample import Resize


def conv(kernel: int, c_in: int, c_out: int) -> int:
    return kernel * kernel * c_in * c_out + c_out


def g_block(c_in: int, c_out: int) -> int:
    return (
        2 * c_in + conv(3, c_in, c_out) + 2 * c_out + conv(3, c_out, c_out) + conv(1, c_in, c_out)
    )


def d_block(c_in: int, c_out: int, first: bool = False, shortcut: bool = True) -> int:
    hidden = c_out if first else c_in
    return (
        conv(3, c_in, hidden) + conv(3, hidden, c_out) + (conv(1, c_in, c_out) if shortcut else 0)
    )


def num_parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


# What follows the dense layer of G and precedes its last norm and convolution, and D's blocks
BLOCKS = {
    32: (
        [(256, 256)] * 3,
        d_block(3, 128, first=True) + d_block(128, 128) + 2 * d_block(128, 128, shortcut=False),
    ),
    64: (
        [(1024, 512), (512, 256), (256, 128), (128, 64)],
        d_block(3, 64, first=True)
        + d_block(64, 128)
        + d_block(128, 256)
        + d_block(256, 512)
        + d_block(512, 1024),
    ),
    128: (
        [(1024, 1024), (1024, 512), (512, 256), (256, 128), (128, 64)],
        d_block(3, 64, first=True)
        + d_block(64, 128)
        + d_block(128, 256)
        + d_block(256, 512)
        + d_block(512, 1024)
        + d_block(1024, 1024, shortcut=False),
    ),
    256: (
        [(1024, 1024), (1024, 512), (512, 512), (512, 256), (256, 128), (128, 64)],
        d_block(3, 64, first=True)
        + d_block(64, 128)
        + d_block(128, 256)
        + d_block(256, 512)
        + d_block(512, 512)
        + d_block(512, 1024)
        + d_block(1024, 1024, shortcut=False),
    ),
}


@pytest.mark.parametrize("num_classes", [0, 10])
@pytest.mark.parametrize("image_size", [32, 64, 128, 256])
def test_shapes_at_every_size(image_size, num_classes):
    y = torch.tensor([0, 9]) if num_classes else None
    generator = Generator(image_size, 3, 7, num_classes, hidden_dim=2)
    discriminator = Discriminator(image_size, 3, 5, num_classes, hidden_dim=2)
    images = generator(torch.randn(2, 7), y)
    assert images.shape == (2, 3, image_size, image_size) and images.abs().max() <= 1
    assert discriminator(images, y).shape == (2, 5)


@pytest.mark.parametrize("image_size", BLOCKS)
def test_parameter_counts_follow_the_layer_table(image_size):
    blocks, d = BLOCKS[image_size]
    first, last = blocks[0][0], blocks[-1][1]
    g = (128 + 1) * 16 * first  # dense
    g += sum(g_block(*widths) for widths in blocks)
    g += 2 * last + conv(3, last, 3)
    d += {32: 128}.get(image_size, 1024) + 1  # dense
    with torch.device("meta"):
        generator = Generator(image_size, 3, 128)
        discriminator = Discriminator(image_size, 3, 1, spectral_norm=False)
    assert num_parameters(generator) == g
    assert num_parameters(discriminator) == d


@pytest.mark.parametrize(("image_size", "num_down"), [(32, 2), (64, 5), (128, 5), (256, 6)])
def test_discriminator_halves_the_size_in_its_first_blocks(image_size, num_down):
    blocks = Discriminator(image_size, 1, 1, hidden_dim=1).blocks
    sizes = [image_size >> i for i in range(1, num_down + 1)] + [image_size >> num_down] * (
        len(blocks) - num_down
    )
    x = torch.zeros(1, 1, image_size, image_size)
    for block, size in zip(blocks, sizes, strict=True):
        x = block(x)
        assert x.shape[-1] == size


@pytest.mark.parametrize("upsample", ["nearest", "bilinear", "zero_insert"])
def test_generator_block_is_its_formula_in_the_papers_order(upsample):
    block = GBlock(4, 3, lambda width: BatchNorm(width, 1), upsample).double()
    for norm in (block.norm1, block.norm2):
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    for layer in block.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.bias)
    (conv1x1,) = (layer for layer in block.shortcut if isinstance(layer, nn.Conv2d))
    resize, x = Resize(upsample), torch.randn(2, 4, 4, 4).double()
    h = block.conv1(resize(nn.functional.relu(block.norm1(x, None))))
    h = block.conv2(nn.functional.relu(block.norm2(h, None)))
    torch.testing.assert_close(block(x, None), h + conv1x1(resize(x)))


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("c_out", [4, 6])
def test_discriminator_block_is_its_formula_in_the_papers_order(c_out, down, first):
    block, x = DBlock(4, c_out, down, first).double(), torch.randn(2, 4, 4, 4).double()
    for layer in block.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.bias)
    assert block.conv1.out_channels == (c_out if first else 4)
    relu = nn.functional.relu
    h = block.conv2(relu(block.conv1(x if first else relu(x))))
    shortcut = block.shortcut(x) if down or c_out != 4 else x
    expected = avg_pool2d(h, 2) + avg_pool2d(shortcut, 2) if down else h + shortcut
    torch.testing.assert_close(block(x), expected)


def test_no_block_changes_its_input():
    x = torch.randn(2, 4, 4, 4)
    before = x.clone()
    (
        DBlock(4, 4)(x),
        DBlock(4, 4, down=False)(x),
        GBlock(4, 4, lambda width: BatchNorm(width, 1))(x, None),
    )
    assert torch.equal(x, before)


def test_discriminator_sums_over_all_pixels():
    discriminator = Discriminator(32, 3, 2, hidden_dim=2).double()
    x = torch.randn(2, 3, 32, 32).double()
    dense = discriminator.head.dense
    features = discriminator.blocks(x).clamp_min(0).mean((2, 3)) * 8 * 8
    torch.testing.assert_close(discriminator(x), features @ dense.weight.T + dense.bias)


@pytest.mark.parametrize("upsample", ["nearest", "bilinear", "zero_insert"])
@pytest.mark.parametrize("norm", [BatchNorm, ConditionalBatchNorm, SelfModulation, AdaIN])
def test_every_parameter_gets_a_gradient(norm, upsample):
    generator = Generator(32, 3, 8, 10, hidden_dim=2, upsample=upsample, norm=norm)
    discriminator = Discriminator(32, 3, 4, 10, hidden_dim=2)
    y = torch.arange(4)
    discriminator(generator(torch.randn(4, 8), y), y).square().sum().backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_convolutions_start_with_gain_root_two_and_shortcuts_dense_and_output_layers_with_one():
    generator = Generator(32, 3, 64, hidden_dim=4)
    discriminator = Discriminator(32, 3, 16, hidden_dim=16, spectral_norm=False)
    for network in (generator, discriminator):
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                gain = 2 if "conv" in name else 1  # squared
                area = layer.weight[0, 0].numel()
                bound = (gain * 6 / area / sum(layer.weight.shape[:2])) ** 0.5
                assert 0.9 * bound < layer.weight.abs().max() <= bound, name
                assert not layer.bias.any()


def test_a_norm_keeps_the_start_that_it_brings_and_its_weights_without_spectral_norm():
    generator = Generator(32, 3, 8, 10, hidden_dim=2, spectral_norm=True, norm=ConditionalBatchNorm)
    norms = [m for m in generator.modules() if isinstance(m, ConditionalBatchNorm)]
    assert len(norms) == 7 and not any(norm.embedding.weight.any() for norm in norms)
    normalised = [m for m in generator.modules() if parametrize.is_parametrized(m)]
    # Three convolutions per block, the dense layer and the last convolution
    assert len(normalised) == 3 * 3 + 2


def test_every_layer_of_the_discriminator_has_spectral_norm_one():
    discriminator = Discriminator(32, 3, 4, 10, hidden_dim=2).double()
    for _ in range(300):
        advance_spectral_norm(discriminator)
    layers = [
        m for m in discriminator.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.Embedding)
    ]
    assert len(layers) == 3 + 3 + 2 + 2 + 2
    for layer in layers:
        assert parametrize.is_parametrized(layer, "weight")
        assert torch.linalg.svdvals(layer.weight.flatten(1))[0].item() == pytest.approx(1, rel=1e-3)
    for network in (
        Discriminator(32, 3, 4, hidden_dim=2, spectral_norm=False),
        Generator(32, 3, 4, hidden_dim=2),
    ):
        assert not any(parametrize.is_parametrized(m) for m in network.modules())


def test_labels_add_their_embeddings_product_with_the_features():
    discriminator = Discriminator(32, 3, 4, 10, hidden_dim=2).double()
    x = torch.randn(3, 3, 32, 32).double()
    y = torch.arange(3)
    features = discriminator.blocks(x).relu().sum((2, 3))
    term = (discriminator.head.embedding.weight[y] * features).sum(1, keepdim=True).expand(3, 4)
    torch.testing.assert_close(discriminator(x, y) - discriminator(x), term)


@pytest.mark.parametrize("norm", [BatchNorm, SelfModulation, AdaIN])
def test_in_eval_mode_an_image_depends_on_its_own_code_alone(norm):
    generator, z = Generator(32, 3, 8, hidden_dim=2, norm=norm).double(), torch.randn(5, 8).double()
    generator(z)  # the running statistics move off their start
    generator.eval()
    torch.testing.assert_close(torch.cat([generator(code[None]) for code in z]), generator(z))


@pytest.mark.parametrize("image_size", [16, 28, 48, 512])
@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_a_size_without_a_layer_table_is_refused(network, image_size):
    with pytest.raises(ValueError, match=r"^image_size=.*data\.image_size="):
        network(image_size, 3, 8)


@pytest.mark.parametrize("upsample", ["deconv", "pixel_shuffle", "cubic"])
def test_an_upsample_with_weights_or_unknown_is_refused_with_the_list(upsample):
    with pytest.raises(ValueError, match=f"^upsample='{upsample}'"):
        Generator(32, 3, 8, hidden_dim=2, upsample=upsample)
