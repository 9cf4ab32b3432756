"""log det(I + J) from products with J alone: series, what they leave out, and estimators whose
value and gradient are honest.

log det(I + J) = sum_k (-1)^(k+1) tr(J^k) / k where the spectral radius of J is below 1, and v^T J^k
v has the mean tr(J^k) for v of mean 0 and covariance I (Hutchinson). A series draws the weights c_1
.. c_N of its terms for J of norm at most lipschitz() and `dim` dimensions, and bounds the error of
the estimate's mean.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from genlab.ranges import NonNegativeInt, OpenFraction, PositiveFloat, PositiveInt

__all__ = [
    "Exact",
    "Roulette",
    "Truncated",
    "Within",
    "draw_probes",
    "exact_log_det",
    "hutchinson",
    "remainder",
    "series_log_det",
]


def remainder(lipschitz: float, num_terms: int, dim: int) -> float:
    """The most, in nats, that terms after `num_terms` add to the log-determinant of dim x dim J of
    norm `lipschitz`.

    dim (-ln(1 - L) - sum_{k <= n} L^k / k): Theorem 3 of "Invertible Residual Networks", Behrmann
    et al. 2019, arXiv 1811.00995.
    """
    if not lipschitz < 1:
        return math.inf
    return dim * (
        -math.log1p(-lipschitz) - math.fsum(lipschitz**k / k for k in range(1, num_terms + 1))
    )


class Truncated:
    """The first `num_terms` terms: biased by at most `remainder`, the same terms each time."""

    def __init__(self, num_terms: PositiveInt):
        if num_terms < 1:
            raise ValueError(f"num_terms={num_terms}: a series needs one term or more")
        self.num_terms = num_terms

    def draw(self, lipschitz: Callable[[], float], dim: int) -> list[float]:
        return [1.0] * self.num_terms

    def bias(self, lipschitz: float, dim: int) -> float:
        """The bound of the error of the mean, in nats."""
        return remainder(lipschitz, self.num_terms, dim)


class Within:
    """As many terms as keep the bias below `bits` bits a dimension, whatever the norm of J is at
    the time.
    """

    def __init__(self, bits: PositiveFloat = 1e-5, max_terms: PositiveInt = 2000):
        if not bits > 0:
            raise ValueError(f"bits={bits}: expected a positive bound")
        self.bits, self.max_terms = bits, max_terms

    def draw(self, lipschitz: Callable[[], float], dim: int) -> list[float]:
        norm, allowed = lipschitz(), self.bits * math.log(2)
        num_terms = next(
            (n for n in range(1, self.max_terms + 1) if remainder(norm, n, 1) <= allowed), None
        )
        if num_terms is None:
            raise ValueError(
                f"a block of norm {norm:.5g} takes more than {self.max_terms} terms to a bias below {self.bits} bits a "
                "dimension; use genlab.nn.log_det.Roulette, or a lower net.coeff="
            )
        return [1.0] * num_terms

    def bias(self, lipschitz: float, dim: int) -> float:
        """The bound of the error of the mean, in nats."""
        return self.bits * math.log(2) * dim


class Roulette:
    """All terms, by Russian roulette: `num_exact` of them, then N' more, each over its probability
    to be reached; unbiased.

    geometric: N' = 1, 2, ... with P(N' >= j) = (1 - p)^(j - 1), and a finite variance where the
    spectral radius of J is below sqrt(1 - p). poisson: N' = 0, 1, ... of mean `rate`, whose tail is
    lighter than any power: no finite variance at all in theory, as in the authors' image script.
    One N' a call, shared by the batch.

    "Residual Flows for Invertible Generative Modeling", Chen et al. 2019, arXiv 1906.02735,
    equation 6 and section 3.1.
    """

    def __init__(
        self,
        num_exact: NonNegativeInt = 2,
        distribution: Literal["geometric", "poisson"] = "geometric",
        p: OpenFraction | None = None,
        rate: PositiveFloat | None = None,
    ):
        if num_exact < 0:
            raise ValueError(f"num_exact={num_exact}: expected 0 or more")
        if distribution not in ("geometric", "poisson"):
            raise ValueError(f"distribution={distribution!r}: expected geometric or poisson")
        given, other = ("p", rate) if distribution == "geometric" else ("rate", p)
        if other is not None:
            raise ValueError(
                f"distribution={distribution}: takes {given}= alone; drop {'rate' if given == 'p' else 'p'}="
            )
        self.num_exact, self.distribution = num_exact, distribution
        self.p, self.rate = 0.5 if p is None else p, 2.0 if rate is None else rate
        if not 0 < self.p < 1 or not self.rate > 0:
            raise ValueError(
                f"p={self.p}, rate={self.rate}: expected p between 0 and 1, and a positive rate"
            )

    def survival(self, j: int) -> float:
        """P(N' >= j)."""
        if self.distribution == "geometric":
            return (1 - self.p) ** max(j - 1, 0)
        # The upper tail itself: one minus the lower would lose all its digits where it is small.
        tail = (
            math.exp(i * math.log(self.rate) - self.rate - math.lgamma(i + 1))
            for i in range(j, j + 200)
        )
        return math.fsum(tail) if j else 1.0

    def draw(self, lipschitz: Callable[[], float], dim: int) -> list[float]:
        if self.distribution == "geometric":
            extra = int(torch.empty((), dtype=torch.float64).geometric_(self.p))
        else:
            extra = int(torch.poisson(torch.tensor(self.rate, dtype=torch.float64)))
        return [1.0] * self.num_exact + [1 / self.survival(j) for j in range(1, extra + 1)]

    def bias(self, lipschitz: float, dim: int) -> float:
        """0: the mean over draws is exact."""
        return 0.0


class Exact:
    """No series: the determinant of the whole Jacobian, from as many products as there are
    dimensions.
    """

    def bias(self, lipschitz: float, dim: int) -> float:
        """0: nothing is left out."""
        return 0.0


def draw_probes(
    x: Tensor, num: int, kind: Literal["rademacher", "normal"] = "rademacher"
) -> Tensor:
    """(num, *x.shape) independent entries of mean 0 and variance 1; signs alone have the smaller
    variance for Hutchinson.
    """
    probes = torch.stack([torch.empty_like(x)] * num)
    return probes.normal_() if kind == "normal" else probes.random_(2).mul_(2).sub_(1)


def hutchinson(
    vjp: Callable[[Tensor], Tensor], v: Tensor, jv: Tensor, weights: list[float]
) -> tuple[Tensor, Tensor]:
    """(value (P, B), left (P, B, ...)) for probes v (P, B, ...), J v and w -> J^T w, with no graph.

    value = sum_k (-1)^(k+1) c_k / k v^T J^k v, the estimate of log det(I + J). left = sum_k
    (-1)^(k+1) c_k (J^T)^(k-1) v: the derivative of <left, J v>, left and v being constants, is the
    Neumann estimate of the log-determinant's derivative, tr((I + J)^-1 dJ), with the same terms
    ("Residual Flows", equation 8). That is N - 1 products with J^T and one with J, and each power
    serves the value and the gradient.
    """
    with torch.no_grad():
        power, value, left = v, v.new_zeros(v.shape[:2]), torch.zeros_like(v)
        for k, weight in enumerate(weights, 1):
            if k > 1:
                power = vjp(power)
            signed = weight if k % 2 else -weight
            value.add_((power * jv).sum(tuple(range(2, v.dim()))), alpha=signed / k)
            left.add_(power, alpha=signed)
    return value, left


def exact_log_det(jacobian: Tensor) -> Tensor:
    """log det(I + J) (B,) of J (B, D, D), differentiable; where norms are below 1 the determinant
    is positive.
    """
    if jacobian.shape[-1] == 2:
        (a, b), (c, d) = (row.unbind(-1) for row in jacobian.unbind(-2))
        return torch.log1p(a + d + a * d - b * c)
    eye = torch.eye(jacobian.shape[-1], dtype=jacobian.dtype, device=jacobian.device)
    return torch.linalg.slogdet(eye + jacobian).logabsdet


def series_log_det(
    function: Callable[[Tensor], Tensor], x: Tensor, v: Tensor, weights: list[float]
) -> Tensor:
    """The estimate of `hutchinson` for one probe v like x (B, ...), differentiated by autograd term
    by term.

    For any function, at the price of a graph through every term: what the other is tested and
    measured against. x needs a gradient (x.requires_grad_()).
    """
    y, power, value = function(x), v, 0.0
    for k, weight in enumerate(weights, 1):
        (power,) = torch.autograd.grad(y, x, power, create_graph=True)
        value = value + (-1) ** (k + 1) * weight / k * (power * v).flatten(1).sum(1)
    return value
