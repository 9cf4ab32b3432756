"""Gradients in the memory format of what they are the gradients of."""

import pytest
import torch

from genlab.nn.layout import Flatten, gradient_in_own_layout


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_the_gradient_is_in_the_format_of_x(memory_format):
    x = torch.randn(2, 3, 4, 5).to(memory_format=memory_format).requires_grad_()
    y, seen = x * 2, []
    y.register_hook(lambda grad: seen.append(grad))
    weight = torch.randn(60)
    (gradient_in_own_layout(y).flatten(1) @ weight).sum().backward()
    assert seen[0].is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(x.grad, 2 * weight.view(3, 4, 5).expand(2, 3, 4, 5))


def test_flatten_is_torchs_and_can_be_differentiated_twice():
    x = torch.randn(2, 3, 4, 4).double().to(memory_format=torch.channels_last).requires_grad_()
    torch.testing.assert_close(Flatten()(x), x.flatten(1))
    assert torch.autograd.gradgradcheck(lambda x: Flatten()(x).square().sum(), x)
    with torch.no_grad():
        assert Flatten()(x).grad_fn is None
