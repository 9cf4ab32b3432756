"""The simplified style-based generator against its formulas written out."""

import pytest
import torch
from torch import nn

from genlab.models.gan.stylegan import Generator, Mapping, SlowLinear
from genlab.nn.norm import ConditionalBatchNorm, SelfModulation


@pytest.mark.parametrize("num_classes", [0, 3])
@pytest.mark.parametrize("image_size", [8, 16, 32, 64, 128, 256])
def test_shapes_at_every_size_with_and_without_labels(image_size, num_classes):
    generator = Generator(image_size, 3, 7, num_classes, hidden_dim=8, style_dim=5, num_layers=2)
    images = generator(torch.randn(2, 7), torch.tensor([0, 2]) if num_classes else None)
    assert images.shape == (2, 3, image_size, image_size) and images.abs().max() <= 1


def test_parameter_count_at_128_with_the_papers_mapping():
    with torch.device("meta"):
        generator = Generator(128, 3, 512)
    widths = [1024, 512, 256, 128, 64]
    mapping = 8 * (512 * 512 + 512)
    adain = sum(2 * width * (512 + 1) for width in widths)
    deconvs = sum(16 * a * b for a, b in zip(widths, [*widths[1:], 3], strict=True)) + 3
    assert sum(p.numel() for p in generator.parameters()) == mapping + 16 * 1024 + adain + deconvs


@pytest.mark.parametrize("num_classes", [0, 3])
def test_every_parameter_gets_a_gradient(num_classes):
    generator = Generator(16, 3, 8, num_classes, hidden_dim=16)
    y = torch.tensor([0, 1, 2, 0]) if num_classes else None
    (generator(torch.randn(4, 8), y) * torch.randn(3, 16, 16)).sum().backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


@pytest.mark.parametrize("num_classes", [0, 3])
def test_the_mapping_is_its_formula(num_classes):
    torch.manual_seed(0)
    mapping, z = Mapping(4, num_classes, 5, 3, rate=0.01).double(), torch.randn(6, 4).double()
    y = torch.tensor([0, 1, 2, 2, 1, 0]) if num_classes else None
    w = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
    if num_classes:
        w = torch.cat([w, mapping.embedding.weight[y]], 1)
    for dense in mapping.layers[::2]:
        nn.init.normal_(dense.bias)
        w = w @ (0.01 * dense.weight).T + 0.01 * dense.bias
        w = torch.where(w > 0, w, 0.2 * w)
    torch.testing.assert_close(mapping(z, y), w)
    torch.testing.assert_close(mapping(3 * z, y), w)  # the length of z says nothing


def test_a_deep_mapping_keeps_the_scale_of_z():
    torch.manual_seed(0)
    w = Mapping(64, 0, 64, 8)(torch.randn(500, 64))
    assert 0.3 < w.square().mean().sqrt() < 3 and w.std(0).mean() > 0.1


@pytest.mark.parametrize("rate", [1.0, 0.01])
def test_adam_moves_a_slow_layer_by_that_part_of_its_rate(rate):
    torch.manual_seed(0)
    layer = SlowLinear(4, 3, rate).double()
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-3, eps=0)

    def bias_and_weight():
        bias = layer(torch.zeros(1, 4).double())
        return torch.cat([bias, layer(torch.eye(4).double()) - bias]).detach()

    before = bias_and_weight()
    layer(torch.randn(8, 4).double()).square().sum().backward()
    optimizer.step()
    torch.testing.assert_close(
        (bias_and_weight() - before).abs(), torch.full_like(before, rate * 1e-3)
    )


def test_the_mapping_is_slow_by_default():
    assert Generator(8, 3, 6, hidden_dim=8).mapping.layers[0].rate == 0.01
    assert Generator(8, 3, 6, hidden_dim=8, mapping_rate=0.5).mapping.layers[0].rate == 0.5


def test_styles_start_at_unit_scale():
    torch.manual_seed(0)
    generator = Generator(32, 3, 64)
    w = generator.mapping(torch.randn(500, 64))
    for norm in generator.norms:
        assert 0.3 < norm.affine(w).std(0).mean() < 2


def test_an_image_grows_from_a_constant_through_adain():
    torch.manual_seed(0)
    generator = Generator(16, 3, 6, hidden_dim=16, num_layers=2).double()
    z = torch.randn(5, 6).double()
    w = generator.mapping(z)
    h = generator.dense.constant.view(1, 32, 4, 4).expand(5, -1, -1, -1)
    for norm, deconv in zip(generator.norms, generator.deconvs, strict=True):
        gamma, beta = (w @ norm.affine.weight.T + norm.affine.bias)[:, :, None, None].chunk(2, 1)
        normed = (h - h.mean((2, 3), keepdim=True)) / (
            h.var((2, 3), unbiased=False, keepdim=True) + 1e-5
        ).sqrt()
        h = deconv(((1 + gamma) * normed + beta).relu())
    torch.testing.assert_close(generator(z), h.tanh())


def test_the_constant_survives_its_normalisation():
    torch.manual_seed(0)
    generator = Generator(16, 3, 6, hidden_dim=16)
    assert (
        generator.norms[0]
        .norm(generator.dense(torch.randn(2, 6)).unflatten(1, (-1, 4, 4)))
        .std((2, 3))
        .min()
        > 0.9
    )


def test_an_image_does_not_depend_on_its_company():
    generator, z = Generator(16, 3, 6, hidden_dim=16).train(), torch.randn(5, 6)
    torch.testing.assert_close(generator(z)[:2], generator(z[:2]))


def test_a_label_changes_the_image():
    generator, z = Generator(16, 3, 6, 3, hidden_dim=16).eval(), torch.randn(1, 6)
    one, other = (generator(z, torch.tensor([label])) for label in (0, 1))
    assert (one - other).abs().max() > 1e-4


@pytest.mark.parametrize("norm", [SelfModulation, ConditionalBatchNorm])
def test_other_modulations_fit(norm):
    generator = Generator(16, 1, 6, 3, hidden_dim=16, style_dim=5, norm=norm)
    assert generator(torch.randn(2, 6), torch.tensor([0, 2])).shape == (2, 1, 16, 16)


def test_a_mapping_without_layers_is_refused():
    with pytest.raises(ValueError, match=r"^num_layers=0: .*net\.generator\.num_layers="):
        Generator(16, 3, 6, num_layers=0)
