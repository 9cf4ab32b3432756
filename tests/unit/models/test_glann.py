"""GLANN's generator and mapping: sizes, ends, and what they refuse."""

import pytest
import torch
from torch import nn

from genlab.models.glann import Generator, Mapping


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3)])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_an_image_of_the_right_shape_and_range_and_a_gradient_everywhere(
    size, channels, batch_norm
):
    network = Generator(size, channels, 10, hidden_dim=4, dense_dim=32, batch_norm=batch_norm)
    images = network(torch.randn(5, 10))
    assert images.shape == (5, channels, size, size) and images.abs().max() <= 1
    images.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in network.parameters())
    assert any(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == batch_norm


def test_the_layers_are_those_of_the_released_code():
    network = Generator(28, 1, 64)
    shapes = [
        tuple(m.weight.shape)
        for m in network.modules()
        if isinstance(m, nn.Linear | nn.ConvTranspose2d)
    ]
    assert shapes == [(1024, 64), (128 * 7 * 7, 1024), (128, 64, 4, 4), (64, 1, 4, 4)]
    assert not any(
        "bias" in name
        for name, _ in network.named_parameters()
        if ".3." not in name and ".1." not in name
    )
    std = network.dense[2].weight.std().item()
    xavier = 2**0.5 * (2 / (1024 + 128 * 49)) ** 0.5  # with gain sqrt(2)
    assert std == pytest.approx(xavier, rel=0.01)


def test_its_end_is_the_released_codes_sigmoid_on_0_to_1():
    network = Generator(28, 1, 8, hidden_dim=2, dense_dim=16).double().eval()
    z = torch.randn(4, 8, dtype=torch.double)
    torch.testing.assert_close(network(z), 2 * network.deconvs(network.dense(z)).sigmoid() - 1)


def test_labels_and_odd_sizes_are_refused_by_key():
    with pytest.raises(ValueError, match=r"^net\.generator\.num_classes=10"):
        Generator(32, 1, 8, num_classes=10)
    with pytest.raises(ValueError, match=r"^image_size=30"):
        Generator(30, 1, 8)


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_the_mapping_goes_from_noise_to_codes(num_layers):
    mapping = Mapping(6, 10, hidden_dim=12, num_layers=num_layers)
    codes = mapping(torch.randn(7, 6))
    assert codes.shape == (7, 10) and mapping.noise_dim == 6
    codes.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in mapping.parameters())
    assert sum(isinstance(m, nn.BatchNorm1d) for m in mapping.modules()) == num_layers
