import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.functional import jacobian

from genlab.nn.activations import activation
from genlab.nn.log_det import (
    Exact,
    Roulette,
    Truncated,
    Within,
    draw_probes,
    exact_log_det,
    hutchinson,
    remainder,
)

NAMES = ("elu", "softplus", "lipswish")


def matrix(dim=5, radius=0.5):
    j = torch.randn(dim, dim).double()
    return radius * j / torch.linalg.matrix_norm(j, 2)


def estimates(j, num, weights, kind="rademacher"):
    """`num` estimates of log det(I + J) for a constant Jacobian."""
    v = draw_probes(torch.zeros(num, len(j)).double(), 1, kind)
    return hutchinson(lambda t: t @ j, v, v @ j.T, weights)[0][0]


def within(values, expected, errors=4):
    """Whether the mean of `values` is `expected`, up to so many standard errors."""
    error = values.std().item() / math.sqrt(len(values))
    assert abs(values.mean().item() - expected) < errors * error


def test_the_remainder_bounds_what_is_left_out():
    j = matrix(4, 0.9)
    exact = torch.linalg.slogdet(torch.eye(4) + j).logabsdet.item()
    powers, term = [], torch.eye(4).double()
    for n in range(1, 60):
        term = term @ j
        powers.append((-1) ** (n + 1) / n * term.trace().item())
        assert abs(sum(powers) - exact) <= remainder(0.9, n, 4) + 1e-12
    # Where all eigenvalues are -L, the bound is what is left out.
    worst = -0.9 * torch.eye(4).double()
    left = math.fsum(0.9**k / k for k in range(6, 2000)) * 4
    assert remainder(0.9, 5, 4) == pytest.approx(left, rel=1e-9)
    whole = torch.linalg.slogdet(torch.eye(4) + worst).logabsdet.item()
    assert whole == pytest.approx(-remainder(0.9, 0, 4))
    assert remainder(1.0, 5, 4) == math.inf


@pytest.mark.parametrize("bits", [1e-2, 1e-5])
def test_within_takes_as_few_terms_as_keep_its_bound(bits):
    n = len(Within(bits).draw(lambda: 0.73, 8))
    assert remainder(0.73, n, 1) <= bits * math.log(2) < remainder(0.73, n - 1, 1)
    assert Within(bits).bias(0.73, 8) >= remainder(0.73, n, 8)
    with pytest.raises(ValueError, match=r"^max_terms=10"):
        Within(bits, max_terms=10).draw(lambda: 0.999, 8)


@pytest.mark.parametrize("kind", ["rademacher", "normal"])
def test_hutchinson_is_unbiased(kind):
    j, weights = matrix(), [1.0] * 40
    exact = torch.linalg.slogdet(torch.eye(5) + j).logabsdet.item()
    within(estimates(j, 20_000, weights, kind), exact)


def test_signs_have_the_smaller_variance():
    j = matrix()
    assert estimates(j, 20_000, [1.0] * 20).var() < estimates(j, 20_000, [1.0] * 20, "normal").var()


@pytest.mark.parametrize(
    "series",
    [
        Roulette(),
        Roulette(0),
        Roulette(1, p=0.3),
        Roulette(2, "poisson"),
        Roulette(0, "poisson", rate=3.0),
    ],
)
def test_roulette_is_unbiased(series):
    j = matrix(3, 0.4)
    exact = torch.linalg.slogdet(torch.eye(3) + j).logabsdet.item()
    values = torch.cat([estimates(j, 50, series.draw(lambda: 0.4, 3)) for _ in range(4000)])
    # One N serves 50 probes, so the groups are what is independent.
    within(values.view(-1, 50).mean(1), exact)


def test_survival_and_support():
    geometric, poisson = Roulette(2, p=0.25), Roulette(1, "poisson", rate=2.0)
    # At least one term more.
    assert [geometric.survival(j) for j in (1, 2, 3)] == [1, 0.75, 0.75**2]
    assert poisson.survival(0) == 1 and poisson.survival(1) == pytest.approx(1 - math.exp(-2))
    assert poisson.survival(3) == pytest.approx(1 - 5 * math.exp(-2))
    assert 0 < poisson.survival(60) < 1e-60
    draws = [geometric.draw(lambda: 0.5, 2) for _ in range(4000)]
    assert min(map(len, draws)) == 3 and all(d[:3] == [1, 1, 1] for d in draws)
    longest = max(draws, key=len)
    assert longest == pytest.approx([1, 1] + [0.75 ** -(j - 1) for j in range(1, len(longest) - 1)])
    counts = torch.tensor([len(d) - 2 for d in draws]).double()
    within(counts, 4.0)
    assert min(len(poisson.draw(lambda: 0.5, 2)) for _ in range(200)) == 1


def test_the_neumann_gradient_is_unbiased():
    j = matrix(4, 0.5).requires_grad_()
    (exact,) = torch.autograd.grad(torch.linalg.slogdet(torch.eye(4) + j).logabsdet, j)
    series, found = Roulette(), []
    for _ in range(3000):
        v = draw_probes(torch.zeros(20, 4).double(), 1)
        jv = v @ j.T
        _, left = hutchinson(lambda t: t @ j.detach(), v, jv.detach(), series.draw(lambda: 0.5, 4))
        found.append(torch.autograd.grad((left * jv).sum() / 20, j)[0])
    found = torch.stack(found)
    error = found.std(0) / math.sqrt(len(found))
    assert ((found.mean(0) - exact).abs() < 4.5 * error).all()  # 16 comparisons


def test_the_value_is_that_of_the_differentiable_series(series_log_det):
    torch.manual_seed(3)
    w = matrix(5, 2.0)

    def function(x):
        return 0.3 * torch.tanh(x @ w.T)

    x = torch.randn(7, 5).double().requires_grad_()
    v, weights = draw_probes(x.detach(), 1), [1.0, 1.0, 2.0, 4.0]
    slow = series_log_det(function, x, v[0], weights)
    y = function(x)
    jv = torch.autograd.functional.jvp(function, x.detach(), v[0])[1]
    value, _ = hutchinson(
        lambda t: torch.autograd.grad(y, x, t[0], retain_graph=True)[0][None], v, jv[None], weights
    )
    torch.testing.assert_close(value[0], slow, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dim", [1, 2, 3, 6])
def test_exact_log_det_is_a_determinant(dim):
    j = torch.stack([matrix(dim, 0.8) for _ in range(4)]).requires_grad_()
    expected = torch.linalg.slogdet(torch.eye(dim) + j).logabsdet
    torch.testing.assert_close(exact_log_det(j), expected, rtol=1e-12, atol=1e-12)
    assert gradcheck(exact_log_det, (j,))


@pytest.mark.parametrize("name", NAMES)
def test_activations_give_their_derivative_and_are_no_steeper_than_one(name):
    act = activation(name).double()
    x = torch.linspace(-20, 20, 401).double().requires_grad_()
    y, slope = act(x)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], slope, rtol=1e-12, atol=1e-13)
    parameters = tuple(act.parameters())
    some = (3 * torch.randn(20).double()).requires_grad_()
    assert gradcheck(lambda x, *p: act(x), (some, *parameters))
    assert gradgradcheck(lambda x, *p: act(x)[0], (some, *parameters))
    for beta in (-5.0, 0.0, 0.5, 10.0):
        for p in parameters:
            p.data.fill_(beta)
        assert act(10 * torch.randn(10_000).double())[1].abs().max() <= 1


def test_elu_is_elu():
    x = torch.randn(100).double() * 3
    expected = torch.nn.functional.elu(x)
    torch.testing.assert_close(activation("elu")(x)[0], expected, rtol=1e-12, atol=1e-15)
    j = jacobian(lambda t: activation("lipswish").double()(t)[0], x)
    assert j.diagonal().abs().max() <= 1


def test_what_is_refused():
    for make, key in (
        (lambda: Truncated(0), "^num_terms=0"),
        (lambda: Roulette(-1), "^num_exact=-1"),
        (lambda: Roulette(2, "uniform"), "^distribution="),
        (lambda: Roulette(2, "poisson", p=0.5), "^p=0.5"),
        (lambda: Roulette(2, rate=2.0), "^rate=2.0"),
        (lambda: Roulette(2, p=1.5), "^p=1.5"),
        (lambda: Within(0.0), "^bits="),
        (lambda: activation("relu"), "^net.activation="),
    ):
        with pytest.raises(ValueError, match=key):
            make()
    assert Exact().bias(0.9, 3) == 0 and Roulette().bias(0.9, 3) == 0
