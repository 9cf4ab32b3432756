import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from genlab.models.gan import sngan
from genlab.models.gan.sagan import Discriminator, Generator
from genlab.nn.attention import SelfAttention
from genlab.nn.norm import AdaIN, BatchNorm, ConditionalBatchNorm, SelfModulation
from genlab.nn.spectral_norm import advance_spectral_norm

INNER = ("theta", "phi", "g", "o")


def attention_of(network: nn.Module) -> SelfAttention:
    (attention,) = (m for m in network.modules() if isinstance(m, SelfAttention))
    return attention


def seen_by_attention(network: nn.Module, *inputs) -> torch.Size:
    """The shape of what the network's attention was called with."""
    shapes = []
    attention_of(network).register_forward_pre_hook(
        lambda module, args: shapes.append(args[0].shape[1:])
    )
    network(*inputs)
    (shape,) = shapes
    return shape


@pytest.mark.parametrize("num_classes", [0, 10])
@pytest.mark.parametrize("image_size", [32, 64, 128, 256])
def test_shapes_at_every_size(image_size, num_classes):
    y = torch.tensor([0, 9]) if num_classes else None
    generator = Generator(image_size, 3, 7, num_classes, hidden_dim=2)
    discriminator = Discriminator(image_size, 3, 5, num_classes, hidden_dim=2)
    images = generator(torch.randn(2, 7), y)
    assert images.shape == (2, 3, image_size, image_size) and images.abs().max() <= 1
    assert discriminator(images, y).shape == (2, 5)


@pytest.mark.parametrize(
    ("image_size", "attention_size", "expected", "g_width", "d_width"),
    [
        (32, None, 16, 4, 2),
        (64, None, 32, 2, 1),
        (128, None, 64, 2, 1),
        (256, None, 64, 4, 2),
        (32, 8, 8, 4, 2),
        (64, 8, 8, 8, 4),
        (128, 32, 32, 4, 2),
        (256, 16, 16, 8, 8),
        (256, 128, 128, 2, 1),
    ],
)
def test_attention_sits_at_its_size_in_both_networks(
    image_size, attention_size, expected, g_width, d_width
):
    generator = Generator(image_size, 1, 4, hidden_dim=2, attention_size=attention_size)
    discriminator = Discriminator(image_size, 1, 1, hidden_dim=2, attention_size=attention_size)
    assert seen_by_attention(generator, torch.randn(1, 4)) == (2 * g_width, expected, expected)
    images = torch.randn(1, 1, image_size, image_size)
    assert seen_by_attention(discriminator, images) == (2 * d_width, expected, expected)


@pytest.mark.parametrize(("image_size", "g_width", "d_width"), [(32, 256, 128), (128, 128, 64)])
def test_the_papers_sizes_add_one_attention_to_sngans_parameters(image_size, g_width, d_width):
    def attention(c: int) -> int:
        return 2 * c * (c // 8) + 2 * c * (c // 2) + 1  # theta and phi, g and o, gamma

    with torch.device("meta"):
        pairs = [
            (
                Generator(image_size, 3, 128, spectral_norm=False),
                sngan.Generator(image_size, 3, 128),
                g_width,
            ),
            (
                Discriminator(image_size, 3, 1, spectral_norm=False),
                sngan.Discriminator(image_size, 3, 1, spectral_norm=False),
                d_width,
            ),
        ]
    for network, plain, width in pairs:
        ours, theirs = (sum(p.numel() for p in n.parameters()) for n in (network, plain))
        assert ours == theirs + attention(width)


def test_without_attention_the_networks_are_sngans():
    generator = Generator(32, 3, 8, hidden_dim=2, spectral_norm=False)
    discriminator = Discriminator(32, 3, 4, hidden_dim=2, spectral_norm=False)
    plain = sngan.Generator(32, 3, 8, hidden_dim=2)
    plain.load_state_dict({k: v for k, v in generator.state_dict().items() if "attention" not in k})
    z, x = torch.randn(3, 8), torch.randn(3, 3, 32, 32)
    assert torch.equal(generator(z), plain(z))  # gamma is 0
    before = discriminator(x)
    discriminator.blocks = nn.Sequential(
        *(b for b in discriminator.blocks if not isinstance(b, SelfAttention))
    )
    assert torch.equal(discriminator(x), before)


@pytest.mark.parametrize("upsample", ["nearest", "bilinear", "zero_insert"])
@pytest.mark.parametrize("norm", [BatchNorm, ConditionalBatchNorm, SelfModulation, AdaIN])
def test_every_parameter_gets_a_gradient(norm, upsample):
    generator = Generator(32, 3, 8, 10, hidden_dim=4, upsample=upsample, norm=norm)
    discriminator = Discriminator(32, 3, 4, 10, hidden_dim=4)
    for network in (generator, discriminator):
        nn.init.constant_(attention_of(network).gamma, 0.5)
    y = torch.arange(4)
    discriminator(generator(torch.randn(4, 8), y), y).square().sum().backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        inner = [attention_of(network).get_submodule(name) for name in INNER]
        assert all(layer.parametrizations.weight.original.grad.any() for layer in inner)


def test_every_layer_of_both_networks_has_spectral_norm_one_and_norms_have_none():
    generator = Generator(32, 3, 8, 10, hidden_dim=2, norm=ConditionalBatchNorm).double()
    discriminator = Discriminator(32, 3, 4, 10, hidden_dim=2).double()
    for network, num_layers in ((generator, 2 + 9 + 4), (discriminator, 10 + 2 + 4)):
        for _ in range(300):
            advance_spectral_norm(network)
        layers = [m for m in network.modules() if parametrize.is_parametrized(m, "weight")]
        assert len(layers) == num_layers
        for layer in layers:
            assert torch.linalg.svdvals(layer.weight.flatten(1))[0].item() == pytest.approx(
                1, rel=1e-3
            )
    norms = [m for m in generator.modules() if isinstance(m, ConditionalBatchNorm)]
    assert len(norms) == 7 and not any(norm.embedding.weight.any() for norm in norms)
    for network in (
        Generator(32, 3, 8, hidden_dim=2, spectral_norm=False),
        Discriminator(32, 3, 8, hidden_dim=2, spectral_norm=False),
    ):
        assert not any(parametrize.is_parametrized(m) for m in network.modules())


def test_labels_add_their_embeddings_product_with_the_features():
    discriminator = Discriminator(32, 3, 4, 10, hidden_dim=2).double()
    x = torch.randn(3, 3, 32, 32).double()
    y = torch.arange(3)
    nn.init.constant_(attention_of(discriminator).gamma, 0.5)
    features = discriminator.blocks(x).relu().sum((2, 3))
    term = (discriminator.head.embedding.weight[y] * features).sum(1, keepdim=True).expand(3, 4)
    torch.testing.assert_close(discriminator(x, y) - discriminator(x), term)


@pytest.mark.parametrize("norm", [BatchNorm, SelfModulation, AdaIN])
def test_in_eval_mode_an_image_depends_on_its_own_code_alone(norm):
    generator, z = Generator(32, 3, 8, hidden_dim=2, norm=norm).double(), torch.randn(5, 8).double()
    nn.init.constant_(attention_of(generator).gamma, 0.5)
    generator(z)  # the running statistics move off their start
    generator.eval()
    torch.testing.assert_close(torch.cat([generator(code[None]) for code in z]), generator(z))


@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_a_size_that_one_of_the_networks_has_no_map_of_is_refused(network):
    for attention_size in (4, 12, 32):
        with pytest.raises(
            ValueError,
            match=rf"^attention_size={attention_size}: .*net\.generator\.attention_size=",
        ):
            network(32, 3, 8, attention_size=attention_size)
    with pytest.raises(ValueError, match=r"data\.image_size="):
        network(48, 3, 8)
