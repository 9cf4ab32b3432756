import math

import pytest
import torch
from torch import nn

from genlab.nn.lipschitz import (
    LipschitzMap,
    apply_adjoint,
    apply_map,
    exact_norm,
    fft_bound,
    refresh,
    weight_gradient,
)

SHAPES = [
    (3, 7, 0, None),
    (7, 3, 0, None),
    (2, 5, 3, (4, 4)),
    (5, 2, 3, (4, 4)),
    (4, 6, 1, (3, 3)),
    (2, 3, 5, (6, 4)),
]


def dense(weight, c_in, size):
    """The operator as a matrix, by its action on the identity."""
    shape = (c_in, *size) if size else (c_in,)
    basis = torch.eye(math.prod(shape), dtype=weight.dtype).view(-1, *shape)
    return apply_map(basis, weight).flatten(1).T


def make(c_in, c_out, kernel, size, scale=4.0, **options):
    layer = LipschitzMap(c_in, c_out, kernel_size=kernel, size=size, **options).double()
    with torch.no_grad():
        layer.weight.mul_(scale)
    refresh(layer)
    return layer


@pytest.mark.parametrize("shape", SHAPES)
def test_sigma_is_the_norm_of_the_operator_itself(shape):
    layer = make(*shape)
    norm = torch.linalg.matrix_norm(dense(layer.weight.detach(), shape[0], shape[3]), 2).item()
    assert norm * (1 - 1e-3) <= layer.sigma().item() <= norm * (1 + 1e-12)
    matrix = dense(layer.normalised().detach(), shape[0], shape[3])
    normalised = torch.linalg.matrix_norm(matrix, 2).item()
    assert 0.9 * (1 - 1e-12) <= normalised <= 0.9 * (1 + 1e-3)
    refresh(layer, 1e-9)
    assert layer.sigma().item() == pytest.approx(norm, rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_new_layer_is_below_its_bound_before_any_refresh(shape):
    layer = LipschitzMap(shape[0], shape[1], 0.3, kernel_size=shape[2], size=shape[3]).double()
    norm = torch.linalg.matrix_norm(dense(layer.normalised().detach(), shape[0], shape[3]), 2)
    assert norm <= 0.3 * (1 + 1e-6) and layer.norm() == 0.3
    refresh(layer)
    assert layer.norm() == pytest.approx(norm.item(), rel=1e-3)


def test_a_small_weight_is_left_alone():
    layer = make(3, 4, 3, (4, 4), scale=0.01)
    assert torch.equal(layer.normalised(), layer.weight)


@pytest.mark.parametrize("shape", SHAPES)
def test_adjoint(shape):
    c_in, c_out, _, size = shape
    layer, grid = make(*shape), size or ()
    x, y = torch.randn(3, c_in, *grid).double(), torch.randn(3, c_out, *grid).double()
    left = (y * apply_map(x, layer.weight)).sum()
    right = (x * apply_adjoint(y, layer.weight)).sum()
    torch.testing.assert_close(left, right)
    both = torch.stack([x, 2 * x])
    torch.testing.assert_close(apply_map(both, layer.weight)[1], 2 * apply_map(x, layer.weight))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_bounds_hold(shape):
    c_in, _, kernel, size = shape
    layer = make(*shape)
    norm = torch.linalg.matrix_norm(dense(layer.weight.detach(), c_in, size), 2).item()
    bound = fft_bound(layer.weight, size)
    assert norm * (1 - 1e-12) <= bound <= 1.5 * norm
    if kernel > 1:
        assert exact_norm(layer.weight, size) == pytest.approx(norm, rel=1e-10)
        assert exact_norm(layer.weight, size, max_dims=3) is None
        reshaped = torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item()
        assert reshaped < norm  # so the norm of the kernel as a matrix is no bound
    else:
        assert bound == pytest.approx(norm, rel=1e-12)


def test_the_fft_bound_is_exact_for_circular_convolution():
    weight = torch.randn(3, 2, 3, 3).double()
    basis = torch.eye(2 * 6 * 6).double().view(-1, 2, 6, 6)
    padded = nn.functional.pad(basis, [1] * 4, mode="circular")
    matrix = nn.functional.conv2d(padded, weight).flatten(1).T
    norm = torch.linalg.matrix_norm(matrix, 2).item()
    assert fft_bound(weight, (4, 4)) == pytest.approx(norm, rel=1e-12)


def test_bounds_hold_after_every_step_with_warm_vectors():
    shapes = [(2, 6, 3, (5, 5)), (6, 6, 1, (5, 5)), (6, 2, 3, (5, 5))] * 2
    net = nn.Sequential(*(make(*shape, scale=6.0) for shape in shapes))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    x = torch.randn(8, 2, 5, 5).double()
    counts = []
    for _ in range(30):
        optimizer.zero_grad()
        (net(x) - x.flip(0)).square().mean().backward()
        optimizer.step()
        counts.append(refresh(net))
        for layer in net:
            matrix = dense(layer.normalised().detach(), layer.weight.shape[1], (5, 5))
            assert torch.linalg.matrix_norm(matrix, 2) <= 0.9 * (1 + 1e-3)
    assert max(counts) < 100


def test_vectors_leave_a_singular_value_that_is_no_longer_the_largest():
    layer = make(6, 6, 0, None, scale=1.0)
    u, _, v = torch.linalg.svd(torch.randn(6, 6).double())
    for values in ([3.0, 2.0, 1, 0.5, 0.2, 0.1], [3.0, 3.02, 1, 0.5, 0.2, 0.1]):
        with torch.no_grad():
            layer.weight.copy_(u @ torch.diag(torch.tensor(values).double()) @ v)
        refresh(layer)
    assert layer.sigma().item() == pytest.approx(3.02, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_singular_values_that_lie_close_together_take_tens_of_iterations_not_hundreds(dtype):
    torch.manual_seed(0)
    layer = LipschitzMap(2, 8, kernel_size=3, size=(20, 20)).to(dtype)
    with torch.no_grad():
        # The lowest frequencies are stretched most, and nearly alike.
        layer.weight.mul_(0.3).add_(1.0)
    assert refresh(layer, 1e-4) <= 30  # four vectors by the power method: 68
    assert layer.sigma().item() == pytest.approx(exact_norm(layer.weight, (20, 20)), rel=1e-5)


def test_a_layer_that_has_arrived_is_kept_while_others_iterate():
    torch.manual_seed(0)
    layers = nn.ModuleList([LipschitzMap(2, 8, kernel_size=3, size=(12, 12)) for _ in range(3)])
    with torch.no_grad():
        for layer in layers:
            layer.weight.abs_()
        layers[0].weight.zero_()  # nothing to find here at all
        refresh(layers[1:2], 1e-5)  # nothing left to find here
    refresh(layers, 2e-5)
    for layer in layers[1:]:
        assert torch.isfinite(layer.u).all() and torch.isfinite(layer.basis).all()
        assert layer.sigma().item() == pytest.approx(exact_norm(layer.weight, (12, 12)), rel=1e-5)
    assert layers[0].sigma().item() == 0


def test_sigma_moves_with_the_weight_and_the_vectors_with_refresh_alone():
    layer = make(2, 5, 3, (4, 4))
    u, sigma = layer.u.clone(), layer.sigma().item()
    with torch.no_grad():
        layer.weight.mul_(2)
    assert torch.equal(u, layer.u) and layer.sigma().item() == pytest.approx(2 * sigma)
    with torch.no_grad():
        layer.weight.zero_()
    refresh(layer)
    assert torch.isfinite(layer.u).all() and torch.equal(layer.normalised(), layer.weight)
    with torch.no_grad():
        layer.weight.normal_()
    refresh(layer)  # a weight that was zero once is bounded again
    norm = torch.linalg.matrix_norm(dense(layer.normalised().detach(), 2, (4, 4)), 2)
    assert norm <= 0.9 * (1 + 1e-3)


def test_gradient_of_the_normalised_weight():
    layer = make(3, 4, 0, None)
    weight, direction = layer.weight.detach(), torch.randn(4, 3).double()

    def value(w):
        return (w / (torch.linalg.matrix_norm(w, 2) / 0.9) * direction).sum()

    w = weight.clone().requires_grad_()
    (expected,) = torch.autograd.grad(value(w), w)
    refresh(layer, 1e-12)
    (found,) = torch.autograd.grad((layer.normalised() * direction).sum(), layer.weight)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    # At its bound a layer has no gradient along its own scale.
    assert (found * weight).sum().abs() < 1e-9
    layer.detach_sigma = True
    (found,) = torch.autograd.grad((layer.normalised() * direction).sum(), layer.weight)
    assert (found * weight).sum().abs() > 1e-3


def test_layers_of_one_shape_are_refreshed_together_as_each_alone():
    layers = nn.ModuleList(make(2, 5, 3, (4, 4), scale=s) for s in (2.0, 5.0, 9.0))
    for layer in layers:
        with torch.no_grad():
            layer.weight.add_(0.3 * torch.randn_like(layer.weight))
    refresh(layers, 1e-10)
    together = [layer.sigma().item() for layer in layers]
    for layer, sigma in zip(layers, together, strict=True):
        refresh(layer, 1e-10)
        assert layer.sigma().item() == pytest.approx(sigma, rel=1e-10)


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"net\.coeff=1\.0"):
        LipschitzMap(2, 2, coeff=1.0)
    with pytest.raises(ValueError, match=r"net\.kernel_size=4"):
        LipschitzMap(2, 2, kernel_size=4, size=(4, 4))
    layer = make(9, 9, 0, None)
    with torch.no_grad():
        layer.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"model\.lr="):
        refresh(layer)
    with torch.no_grad():
        layer.weight.normal_()
    with pytest.raises(ValueError, match=r"^net\.refresh_tolerance="):
        refresh(layer, 1e-30, 3)


@pytest.mark.parametrize("channels", [(3, 5), (16, 1), (1, 8)])
def test_the_transpose_and_the_gradient_by_weight(channels):
    c_in, c_out = channels
    x = torch.randn(2, c_in, 6, 5, dtype=torch.double, requires_grad=True)
    weight = torch.randn(c_out, c_in, 3, 3, dtype=torch.double, requires_grad=True)
    y = apply_map(x, weight)
    grad = torch.randn_like(y)
    expected = torch.autograd.grad(y, [x, weight], grad)
    torch.testing.assert_close(apply_adjoint(grad, weight), expected[0])
    torch.testing.assert_close(weight_gradient(grad, x, weight), expected[1])
