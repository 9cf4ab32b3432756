"""Where weights start."""

import math

import pytest
import torch

from genlab.models.seq2seq.bert import BERT

SIZES = (50, 32, 1, 4, 64, 40)  # vocab_size, dim, num_layers, num_heads, hidden_dim, max_length


def test_products_of_sinusoidal_positions_depend_on_their_distance_alone():
    net = BERT(*SIZES, init_std=0.05, position_init="sinusoidal")
    position = net.position.weight.detach().double()
    assert position.square().mean().sqrt().item() == pytest.approx(0.05, rel=1e-6)
    products = position @ position.T
    for distance in (0, 1, 7):
        diagonal = products.diagonal(distance)
        expected = 2 * 0.05**2 * sum(math.cos(distance * 1e4 ** (-2 * i / 32)) for i in range(16))
        torch.testing.assert_close(
            diagonal, torch.full_like(diagonal, expected), rtol=1e-4, atol=1e-8
        )
    assert (products[0, 0] > products[0, 1:]).all()


def test_bert_starts_from_a_normal_distribution_cut_at_two_standard_deviations():
    torch.manual_seed(0)
    net = BERT(2000, *SIZES[1:], init_std=0.05)
    for weight in (net.word.weight, net.position.weight, net.layers[0].up.weight):
        assert weight.abs().max() <= 0.1
        # The cut at two standard deviations leaves 88 % of the standard deviation.
        assert weight.std().item() == pytest.approx(0.05 * 0.8796, rel=0.05)
    assert not any(
        module.bias.any() for module in net.modules() if isinstance(module, torch.nn.Linear)
    )


def test_an_unknown_start_is_named():
    with pytest.raises(ValueError, match=r"^net\.position_init=rotary"):
        BERT(*SIZES, position_init="rotary")
