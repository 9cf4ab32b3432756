import math

import pytest
import torch
from torch import nn
from torch.autograd.functional import jacobian

from genlab.nn import fixed_point
from genlab.nn.fixed_point import NotInverted, iterations_needed, solve
from genlab.nn.lipschitz import refresh
from genlab.nn.log_det import (
    Exact,
    Roulette,
    Truncated,
    Within,
    draw_probes,
    remainder,
)
from genlab.nn.residual import (
    ResidualBlock,
    conv_branch,
    dense_branch,
    estimator_moments,
    without_log_det,
)

KINDS = ("points", "images")
NAMES = ("elu", "softplus", "lipswish")


def branch(kind="points", activation="elu", leading=True, scale=3.0, coeff=0.9):
    if kind == "points":
        found = dense_branch(3, [6, 5], activation, leading, coeff=coeff)
    else:
        found = conv_branch(1, 4, (4, 4), activation, leading, coeff=coeff)
    found = found.double()
    with torch.no_grad():
        for layer in found.maps:
            layer.weight.mul_(scale)
            layer.bias.normal_()
    refresh(found, 1e-10)
    return found


def inputs(kind, num=5):
    return torch.randn(num, *((3,) if kind == "points" else (1, 4, 4))).double()


def brute_force(block, x):
    """log |det| of the Jacobian of each sample, by autograd."""
    one = [jacobian(lambda t: block(t[None])[0][0].flatten(), sample).flatten(1) for sample in x]
    return torch.linalg.slogdet(torch.stack(one)).logabsdet


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", NAMES)
@pytest.mark.parametrize("leading", [True, False])
def test_exact_log_det_and_the_bound_of_a_truncated_one(kind, activation, leading):
    g = branch(kind, activation, leading)
    block, x = ResidualBlock(g, Exact()), inputs(kind)
    expected = brute_force(block, x)
    torch.testing.assert_close(block(x)[1], expected, rtol=0, atol=1e-8)
    lipschitz, dim = block.lipschitz(), x[0].numel()
    assert dim * math.log(1 - lipschitz) <= expected.min()
    assert expected.max() <= dim * math.log(1 + lipschitz)
    for n in (1, 8):
        truncated = ResidualBlock(g, Truncated(n), num_probes=512)
        values = torch.stack([truncated(x)[1] for _ in range(4)])
        error = (values.mean(0) - expected).abs()
        assert (error <= remainder(lipschitz, n, dim) + 4 * values.std(0) / 2).all()


@pytest.mark.parametrize("series", [Truncated(6), Roulette()])
@pytest.mark.parametrize("backward", ["recompute", "store"])
def test_the_estimate_is_the_series_that_autograd_computes(series, backward, series_log_det):
    g, x = branch("images", "lipswish"), inputs("images").requires_grad_()
    torch.manual_seed(5)
    weights = series.draw(lambda: 0.5, 16)
    torch.manual_seed(5)
    block = ResidualBlock(g, series, backward=backward)
    y, log_det = block(x)
    torch.manual_seed(5)
    series.draw(lambda: 0.5, 16)
    v = draw_probes(x.detach().contiguous(memory_format=torch.channels_last), 1)[0]
    tensors = g.tensors()
    slow = series_log_det(lambda t: g.linear(t, tensors)[0], x, v, weights)
    torch.testing.assert_close(log_det, slow, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(y, x + g.linear(x, tensors)[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("probes", [1, 3])
def test_memory_saving_backward_is_the_plain_one_with_unequal_weights(kind, probes):
    g, x, found = branch(kind, "lipswish"), inputs(kind), []
    weights = torch.rand(len(x)).double()
    for backward in ("recompute", "store"):
        torch.manual_seed(2)
        block = ResidualBlock(g, Roulette(), num_probes=probes, backward=backward)
        t = x.clone().requires_grad_()
        z, log_det = block(t)
        loss = (weights * log_det).sum() + (weights * z.square().flatten(1).sum(1)).sum()
        found.append((z, log_det, *torch.autograd.grad(loss, [t, *block.parameters()])))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("series", [Truncated(40), Roulette()])
@pytest.mark.parametrize("backward", ["recompute", "store"])
def test_the_gradient_is_unbiased_for_each_sample(series, backward):
    g, x = branch("points", "elu", scale=1.0), inputs("points", 2)
    weights = torch.tensor([1.0, -3.0]).double()
    exact = ResidualBlock(g, Exact())
    parameters = [x.requires_grad_(), *g.parameters()]
    expected = torch.autograd.grad((weights * exact(x)[1]).sum(), parameters, allow_unused=True)
    block, found = ResidualBlock(g, series, num_probes=32, backward=backward), []
    for _ in range(200):
        found.append(
            torch.autograd.grad((weights * block(x)[1]).sum(), parameters, allow_unused=True)
        )
    for i, exact_gradient in enumerate(expected):
        gradients = [one[i] for one in found if one[i] is not None]
        if exact_gradient is None:  # of the last bias, which moves no derivative
            assert not gradients or all(g.abs().max() == 0 for g in gradients)
            continue
        values = torch.stack(gradients)
        error = values.std(0) / math.sqrt(len(values))
        assert ((values.mean(0) - exact_gradient).abs() <= 5 * error + 1e-12).all()


@pytest.mark.parametrize("series", [Truncated(5), Roulette(), Exact()])
@pytest.mark.parametrize("backward", ["recompute", "store"])
def test_every_weight_gets_a_gradient_from_the_log_determinant_alone(series, backward):
    g, x = branch("images"), inputs("images")
    ResidualBlock(g, series, backward=backward)(x)[1].sum().neg().backward()
    for layer in g.maps:
        assert layer.weight.grad.abs().min() >= 0 and (layer.weight.grad != 0).any()
    assert all((layer.bias.grad != 0).any() for layer in list(g.maps)[:-1])


@pytest.mark.parametrize("kind", KINDS)
def test_more_probes_and_the_right_number_of_terms_bring_evaluation_to_the_exact_value(kind):
    g, x = branch(kind), inputs(kind)
    expected = ResidualBlock(g, Exact())(x)[1]
    block = ResidualBlock(g, Truncated(1), Within(1e-6), eval_num_probes=100).eval()
    values = torch.stack([block(x)[1] for _ in range(8)])
    error = 5 * values.std(0) / math.sqrt(8) + 1e-6 * x[0].numel()
    assert ((values.mean(0) - expected).abs() < error).all()
    torch.manual_seed(1)
    first = block(x)[1]
    torch.manual_seed(1)
    assert torch.equal(first, block(x)[1])


# Points have three numbers: five steps are more than there are dimensions.
@pytest.mark.parametrize("anderson", [0, 3, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_inverse(kind, anderson):
    g, eps = branch(kind, scale=6.0), 1e-11
    block = ResidualBlock(g, tolerance=eps, anderson=anderson)
    for x in (inputs(kind, 50), 100 * inputs(kind, 50), torch.zeros_like(inputs(kind))):
        z, log_det = block(x)
        assert log_det.isnan().all()
        found = block.inverse(z.detach())
        rms = (found - x).flatten(1).norm(dim=1) / math.sqrt(x[0].numel())
        bound = max(eps, 1e-12 * x.abs().max().item())
        assert rms.max() <= block.inversion.error + 1e-14 * x.abs().max()
        assert block.inversion.error <= bound
        step = (z - x).detach().flatten(1).norm(dim=1).max().item() + 10
        if not anderson:
            assert block.inversion.iterations <= iterations_needed(block.lipschitz(), eps, step) + 2


@pytest.mark.parametrize("anderson", [0, 5])
def test_inverse_in_single_precision_after_training(anderson):
    torch.manual_seed(1)
    g = conv_branch(2, 8, (6, 6), "elu", True, coeff=0.9)
    block = ResidualBlock(g, Truncated(5), tolerance=1e-6, anderson=anderson)
    optimizer, x = torch.optim.Adam(block.parameters(), 1e-2), torch.randn(32, 2, 6, 6)
    for _ in range(50):
        z, log_det = block(x)
        optimizer.zero_grad()
        (0.5 * z.square().flatten(1).sum(1) - log_det).mean().backward()
        optimizer.step()
        refresh(block)
    for data in (x, torch.randn(32, 2, 6, 6), 20 * torch.randn(32, 2, 6, 6)):
        error = (block.inverse(block(data)[0].detach()) - data).abs().max()
        assert error <= 1e-5 * max(1, data.abs().max() / 4)


@pytest.mark.parametrize("wrong", [torch.nan, 1e9])
def test_an_acceleration_that_does_not_converge_is_given_up(wrong, monkeypatch):
    monkeypatch.setattr(fixed_point, "_mix", lambda history, x, new, memory: new * wrong)
    y = torch.randn(4, 3).double()
    x, how = solve(lambda x: -0.5 * x, y, 0.5, 1e-10, memory=3)
    torch.testing.assert_close(x, 2 * y, atol=2e-10, rtol=0)
    assert how.error <= 1e-10
    with pytest.raises(NotInverted, match="root mean square"):
        solve(lambda x: -0.5 * x, y, 0.5, 1e-10, memory=3, max_iterations=5)


def test_what_is_no_contraction_is_refused():
    y = torch.randn(4, 3).double()
    with pytest.raises(NotInverted, match="Lipschitz bound inf"):
        ResidualBlock(branch(coeff=None)).inverse(y)
    with pytest.raises(NotInverted, match="root mean square"):
        solve(lambda x: 1.5 * x, y, 0.9, 1e-6)  # a bound that does not hold
    with pytest.raises(NotInverted, match="after 3 iterations"):
        solve(lambda x: 0.5 * x, y, 0.5, 1e-10, max_iterations=3)
    with pytest.raises(NotInverted, match="by nan"):
        solve(lambda x: x * torch.nan, y, 0.5)
    x, how = solve(lambda x: -0.9 * x, y, 0.9, 1e-10)
    assert (x - 10 * y).flatten(1).norm(dim=1).max() / math.sqrt(3) <= how.error <= 1e-10


def test_moments_are_those_of_the_last_batch():
    block, x = ResidualBlock(branch(), Exact()), inputs("points")
    _, log_det = block(x)
    found = estimator_moments(block)
    torch.testing.assert_close(
        found["block_00_mean"].double(), log_det.mean().detach(), rtol=1e-6, atol=0
    )
    torch.testing.assert_close(
        found["block_00_std"].double(), log_det.std(correction=0).detach(), rtol=1e-6, atol=0
    )
    block.eval()(10 * x)
    assert torch.equal(estimator_moments(block)["block_00_mean"], found["block_00_mean"])


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"net\.backward="):
        ResidualBlock(branch(), Exact(), backward="forget")
    with pytest.raises(ValueError, match=r"net\.probe="):
        ResidualBlock(branch(), Exact(), probe="uniform")


def test_codes_need_no_log_determinant():
    torch.manual_seed(0)
    block = ResidualBlock(
        dense_branch(3, [8], "elu", leading=False, coeff=0.9), Truncated(4)
    ).double()
    x = torch.randn(5, 3).double()
    full, log_det = block(x)
    with without_log_det(nn.Sequential(block)):
        alone, nothing = block(x)
    assert torch.equal(alone, full) and nothing.isnan().all() and log_det.isfinite().all()
    assert block(x)[1].isfinite().all()
