"""log det(I + J) from products with J alone: its series, the bounds of what they leave out, and
estimates whose value and gradient are unbiased or within a bound.

Where the spectral radius of J is below 1, log det(I + J) = sum_k (-1)^(k+1) tr(J^k) / k; and v^T
J^k v has the mean tr(J^k) for v of mean 0 and covariance I (Hutchinson). A series draws the weights
c_1 ... c_N of its terms for J of a norm of at most lipschitz() and of `dim` dimensions, and bounds
the error of the mean of the estimate.

Shapes: P probes, B samples; x and v of the shape of a batch, (B, D) or (B, C, H, W).
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
]


def remainder(lipschitz: float, num_terms: int, dim: int) -> float:
    """The most, in nats, that the terms after `num_terms` add to log det(I + J).

    dim (-ln(1 - L) - sum_{k <= n} L^k / k): theorem 3 of "Invertible Residual Networks", Behrmann
    et al. 2019, arXiv 1811.00995.

    Args:
        lipschitz: L, the norm of J; infinity for 1 or more.
        num_terms: n.
        dim: J is dim x dim.
    """
    if not lipschitz < 1:
        return math.inf
    terms = math.fsum(lipschitz**k / k for k in range(1, num_terms + 1))
    return dim * (-math.log1p(-lipschitz) - terms)


class Truncated:
    """The first `num_terms` terms, the same each time; biased by at most `remainder`."""

    def __init__(self, num_terms: PositiveInt):
        if num_terms < 1:
            raise ValueError(f"num_terms={num_terms}: expected one term or more")
        self.num_terms = num_terms

    def draw(self, lipschitz: Callable[[], float], dim: int) -> list[float]:
        """The weights of the terms."""
        return [1.0] * self.num_terms

    def bias(self, lipschitz: float, dim: int) -> float:
        """The bound of the error of the mean, in nats."""
        return remainder(lipschitz, self.num_terms, dim)


class Within:
    """As many terms as keep the bias below `bits` bits a dimension, for the present norm of J.

    Args:
        bits: Bound of the bias of one block, in bits a dimension.
        max_terms: ValueError in `draw` where more are needed.
    """

    def __init__(self, bits: PositiveFloat = 1e-5, max_terms: PositiveInt = 2000):
        if not bits > 0:
            raise ValueError(f"bits={bits}: expected a positive bound")
        self.bits, self.max_terms = bits, max_terms

    def draw(self, lipschitz: Callable[[], float], dim: int) -> list[float]:
        """The weights of the terms."""
        norm, allowed = lipschitz(), self.bits * math.log(2)
        for num_terms in range(1, self.max_terms + 1):
            if remainder(norm, num_terms, 1) <= allowed:
                return [1.0] * num_terms
        raise ValueError(
            f"max_terms={self.max_terms}: a block of norm {norm:.5g} needs more terms for a bias "
            f"below {self.bits} bits a dimension; use genlab.nn.log_det.Roulette, or train with a "
            "lower net.coeff="
        )

    def bias(self, lipschitz: float, dim: int) -> float:
        """The bound of the error of the mean, in nats."""
        return self.bits * math.log(2) * dim


class Roulette:
    """All terms, by Russian roulette; unbiased.

    The first `num_exact` terms always count, then N' more, each divided by its probability to be
    reached. One N' is drawn for a call, and serves the whole batch.

    "Residual Flows for Invertible Generative Modeling", Chen et al. 2019, arXiv 1906.02735,
    equation 6 and section 3.1.

    Args:
        num_exact: Terms that always count.
        distribution: geometric has N' = 1, 2, ... with P(N' >= j) = (1 - p)^(j - 1), and a finite
            variance where the spectral radius of J is below sqrt(1 - p). poisson has N' = 0, 1, ...
            of mean `rate`. Its tail is lighter than any power, so in theory the variance is not
            finite; the authors' image script has it all the same.
        p: Of geometric, in (0, 1); null: 0.5.
        rate: Of poisson; null: 2.
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
        if distribution == "geometric" and rate is not None:
            raise ValueError(f"rate={rate}: belongs to poisson; geometric takes p=")
        if distribution == "poisson" and p is not None:
            raise ValueError(f"p={p}: belongs to geometric; poisson takes rate=")
        self.num_exact, self.distribution = num_exact, distribution
        self.p = 0.5 if p is None else p
        self.rate = 2.0 if rate is None else rate
        if not 0 < self.p < 1 or not self.rate > 0:
            raise ValueError(
                f"p={self.p}, rate={self.rate}: expected p between 0 and 1, and a positive rate"
            )

    def survival(self, j: int) -> float:
        """P(N' >= j)."""
        if self.distribution == "geometric":
            return (1 - self.p) ** max(j - 1, 0)
        # The sum of the upper tail: 1 minus the lower would lose all digits of a small one.
        tail = (
            math.exp(i * math.log(self.rate) - self.rate - math.lgamma(i + 1))
            for i in range(j, j + 200)
        )
        return math.fsum(tail) if j else 1.0

    def draw(self, lipschitz: Callable[[], float], dim: int) -> list[float]:
        """The weights of the terms."""
        if self.distribution == "geometric":
            extra = int(torch.empty((), dtype=torch.float64).geometric_(self.p))
        else:
            extra = int(torch.poisson(torch.tensor(self.rate, dtype=torch.float64)))
        return [1.0] * self.num_exact + [1 / self.survival(j) for j in range(1, extra + 1)]

    def bias(self, lipschitz: float, dim: int) -> float:
        """0: the mean over draws is exact."""
        return 0.0


class Exact:
    """No series: the determinant of the whole Jacobian, from as many products as J has
    dimensions.
    """

    def bias(self, lipschitz: float, dim: int) -> float:
        """0: nothing is left out."""
        return 0.0


def draw_probes(
    x: Tensor, num: int, kind: Literal["rademacher", "normal"] = "rademacher"
) -> Tensor:
    """Independent entries (num, *x.shape) of mean 0 and variance 1.

    Signs (rademacher) give Hutchinson's estimate the smaller variance.
    """
    probes = torch.stack([torch.empty_like(x)] * num)
    return probes.normal_() if kind == "normal" else probes.random_(2).mul_(2).sub_(1)


def hutchinson(
    vjp: Callable[[Tensor], Tensor], v: Tensor, jv: Tensor, weights: list[float]
) -> tuple[Tensor, Tensor]:
    """The estimate of log det(I + J), and the vector that gives its gradient.

    With N weights it takes N - 1 products with J^T and one with J; each power serves the value and
    the gradient. Neither result has a graph.

    Args:
        vjp: w (P, B, ...) -> J^T w.
        v: Probes (P, B, ...).
        jv: J v.
        weights: c_1 ... c_N of the terms.

    Returns:
        value: (P, B), sum_k (-1)^(k+1) c_k / k v^T J^k v.
        left: (P, B, ...), sum_k (-1)^(k+1) c_k (J^T)^(k-1) v. The derivative of <left, J v>, where
            left and v are constants, is the Neumann estimate, with the same terms, of the
            derivative tr((I + J)^-1 dJ) of the log-determinant ("Residual Flows", equation 8).
    """
    with torch.no_grad():
        power = v
        value = v.new_zeros(v.shape[:2])
        left = torch.zeros_like(v)
        for k, weight in enumerate(weights, 1):
            if k > 1:
                power = vjp(power)
            signed = weight if k % 2 else -weight
            value.add_((power * jv).sum(tuple(range(2, v.dim()))), alpha=signed / k)
            left.add_(power, alpha=signed)
    return value, left


def exact_log_det(jacobian: Tensor) -> Tensor:
    """log det(I + J) (B,) of J (B, D, D) of norm below 1, where the determinant is positive;
    differentiable.
    """
    if jacobian.shape[-1] == 2:
        (a, b), (c, d) = (row.unbind(-1) for row in jacobian.unbind(-2))
        return torch.log1p(a + d + a * d - b * c)
    eye = torch.eye(jacobian.shape[-1], dtype=jacobian.dtype, device=jacobian.device)
    return torch.linalg.slogdet(eye + jacobian).logabsdet
