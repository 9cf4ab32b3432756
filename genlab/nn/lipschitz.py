"""Dense layers and convolutions whose operator norm stays below a chosen c, and how one makes sure
of it.

The norm is that of the map itself, of a zero-padded convolution on its own image size, not of the
kernel seen as a matrix, which is too small by half as much again ("Regularisation of Neural
Networks by Enforcing Lipschitz Continuity", Gouk et al. 2018, arXiv 1804.04368). Norms below are
spectral norms; u and v are the left and right vectors of the largest.
"""

from collections import defaultdict

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d

from genlab.nn.narrow_conv import adjoint_kernel, conv2d_same, conv2d_same_weight_gradient

__all__ = ["LipschitzMap", "exact_norm", "fft_bound", "refresh"]

TOLERANCE = 1e-3
NUM_VECTORS = 4  # of the subspace that is iterated
MAX_ITERATIONS = 10_000


class LipschitzMap(nn.Module):
    """A dense layer (kernel_size 0) or a convolution that keeps the size, with weight W / max(1,
    sigma(W) / coeff).

    Soft normalisation: equation 2 of "Invertible Residual Networks", Behrmann et al. 2019, arXiv
    1811.00995, with sigma from u and v, which only `refresh` moves. size: (H, W) of the images, for
    a convolution. coeff: c, or null for a plain layer.
    detach_sigma: take sigma as a constant in the gradient, or a layer once at its bound gets none
    along its own scale. Weights start as torch's do, scaled down where `fft_bound` is above coeff:
    so the bound holds from the start, and u and v may wait for the first `refresh`.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        coeff: float | None = 0.9,
        kernel_size: int = 0,
        size: tuple[int, int] | None = None,
        detach_sigma: bool = False,
    ):
        super().__init__()
        if coeff is not None and not 0 < coeff < 1:
            raise ValueError(
                f"net.coeff={coeff}: expected a number between 0 and 1, or null for no bound"
            )
        if kernel_size and kernel_size % 2 == 0:
            raise ValueError(
                f"net.kernel_size={kernel_size}: expected an odd number, which keeps the size"
            )
        layer = nn.Conv2d(c_in, c_out, kernel_size) if kernel_size else nn.Linear(c_in, c_out)
        self.weight, self.bias = layer.weight, layer.bias
        self.coeff, self.kernel_size, self.size, self.detach_sigma = (
            coeff,
            kernel_size,
            size,
            detach_sigma,
        )
        self.dims = c_in * (size[0] * size[1] if kernel_size else 1)  # of x
        if coeff is None:
            return
        grid = size if kernel_size > 1 else ()  # a 1x1 convolution has the norm of its matrix
        for name, features in (("u", c_out), ("v", c_in)):
            self.register_buffer(name, torch.zeros(1, features, *grid))
        self.basis_of_x = c_in <= c_out
        smaller = (self.v if self.basis_of_x else self.u)[0]
        start = torch.randn(min(NUM_VECTORS, self.u.numel(), self.v.numel()), *smaller.shape)
        with torch.no_grad():
            self.weight /= max(1.0, fft_bound(self.weight, size) / coeff)
        self.register_buffer(
            "basis", torch.linalg.qr(start.flatten(1).T)[0].T.reshape(start.shape).contiguous()
        )

    def operator(self) -> Tensor:
        """The weight as `apply_map` wants it for u and v: a matrix where the map is one, pixel by
        pixel.
        """
        return self.weight.flatten(1) if self.kernel_size <= 1 else self.weight

    def sigma(self) -> Tensor:
        """The estimate u^T W v of the norm, linear in W; never above it."""
        # Clones, because `refresh` writes u and v in place while a graph may still need their old
        # values.
        return (self.u.clone() * apply_map(self.v.clone(), self.operator())).sum()

    def normalised(self) -> Tensor:
        """W / max(1, sigma / c), to be used for any number of passes."""
        if self.coeff is None:
            return self.weight
        sigma = self.sigma().detach() if self.detach_sigma else self.sigma()
        return self.weight / (sigma / self.coeff).clamp(min=1)

    def norm(self) -> float:
        """The estimated norm of the normalised map, c where there is no estimate yet; infinite
        where there is no bound.
        """
        if self.coeff is None:
            return float("inf")
        sigma = self.sigma().item()
        return min(self.coeff, sigma) if sigma > 0 else self.coeff

    def forward(self, x: Tensor) -> Tensor:
        return apply_map(x, self.normalised(), self.bias)


def apply_map(x: Tensor, weight: Tensor, bias: Tensor | None = None, groups: int = 1) -> Tensor:
    """W x + b: x (..., D) for a matrix W, x (B, C, H, W) or (N, B, C, H, W) for a kernel that keeps
    the size.
    """
    if weight.dim() == 2:
        return nn.functional.linear(x, weight, bias)
    if x.dim() == 5:
        return apply_map(x.flatten(0, 1), weight, bias).unflatten(0, x.shape[:2])
    if groups == 1:
        return conv2d_same(x, weight, bias)
    return conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=groups)


def apply_adjoint(y: Tensor, weight: Tensor, groups: int = 1) -> Tensor:
    """W^T y, of the map that `apply_map` applies."""
    if groups == 1:
        return apply_map(y, adjoint(weight))
    return conv_transpose2d(y, weight, padding=weight.shape[-1] // 2, groups=groups)


def adjoint(weight: Tensor) -> Tensor:
    """The weight of the transposed map, of which `apply_map` makes what `apply_adjoint` makes of
    this one.
    """
    return weight.T if weight.dim() == 2 else adjoint_kernel(weight)


def weight_gradient(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The gradient of <grad, apply_map(x, weight)> by weight."""
    if weight.dim() == 2:
        return grad.flatten(0, -2).T @ x.flatten(0, -2)
    if x.dim() == 5:
        return weight_gradient(grad.flatten(0, 1), x.flatten(0, 1), weight)
    return conv2d_same_weight_gradient(grad, x, weight)


# --- power iteration ------------------------------------------------------------------------------


@torch.no_grad()
def refresh(
    module: nn.Module, tolerance: float = TOLERANCE, max_iterations: int = MAX_ITERATIONS
) -> int:
    """Brings u and v of every LipschitzMap in `module` up to date with its weight W.

    Iterates a small subspace until |W^T W v - sigma^2 v| <= tolerance sigma^2, when sigma is within
    tolerance / 2 of a singular value. A single vector would rest at the second largest after the
    two have changed places, and take hundreds of iterations to leave; a subspace of four holds
    both. The singular values of a convolution lie close together, where the power method is slow,
    so each iteration chooses the best of all combinations of the subspace, its residuals and its
    last step ("Toward the Optimal Preconditioned Eigensolver", Knyazev 2001, algorithm 4.1, without
    a preconditioner), at a cost of W and its transpose once. Call it whenever weights have changed:
    after an optimiser step, after an exchange of weights. Maps of one shape are iterated together.
    Returns the number of iterations; ValueError if `max_iterations` were not enough, or a weight is
    not finite.
    """
    groups = defaultdict(list)
    for layer in module.modules():
        if isinstance(layer, LipschitzMap) and layer.coeff is not None:
            groups[
                layer.operator().shape, layer.u.shape, layer.weight.dtype, layer.weight.device
            ].append(layer)
    return max(
        (_iterate(layers, tolerance, max_iterations) for layers in groups.values()), default=0
    )


def _iterate(layers: list[LipschitzMap], tolerance: float, max_iterations: int) -> int:
    weights, done = torch.stack([layer.operator() for layer in layers]), 1
    if not torch.isfinite(weights).all():
        raise ValueError(
            "power iteration met a weight that is not finite; lower model.lr=, or trainer.gradient_clip_val=1"
        )
    basis = torch.stack(
        [layer.basis for layer in layers]
    )  # (G, p, features, ...), of x or of y, the smaller
    there, back = (
        (_apply_each, _adjoint_each) if layers[0].basis_of_x else (_adjoint_each, _apply_each)
    )
    num, span = basis.shape[1], basis
    gram_span = back(there(span, weights), weights)  # W^T W of each vector of the span
    while True:
        values, turn = _ritz(span, gram_span, num)
        basis, again = _combined(turn, span), _combined(turn, gram_span)
        residual = again - values.view(*values.shape, *[1] * (basis.dim() - 2)) * basis
        largest = values[:, 0].clamp(min=0)
        worst = (residual[:, 0].flatten(1).norm(dim=1) - tolerance * largest).max().item()
        if worst <= 0:
            break
        if done == max_iterations:
            raise ValueError(
                f"power iteration did not reach the tolerance {tolerance:.1e} in {max_iterations} iterations; give a larger "
                "one (net.refresh_tolerance=)"
            )
        done += 1
        step, gram_step = (
            _combined(turn[:, :, num:], x[:, num:]) for x in (span, gram_span)
        )  # zeros at first
        span = torch.cat([basis, residual, step], 1)
        gram_span = torch.cat([again, back(there(residual, weights), weights), gram_step], 1)
    images = there(basis[:, :1], weights)
    ends = {True: (images, basis), False: (basis, images)}[layers[0].basis_of_x]
    for i, layer in enumerate(layers):
        layer.basis.copy_(basis[i])
        for vector, end in zip((layer.u, layer.v), ends, strict=True):
            length = end[i, :1].norm()
            if length > 0:  # a weight of nothing but zeros leaves u where it was
                vector.copy_(end[i, :1] / length)
    return done


def _ritz(span: Tensor, gram_span: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Rayleigh-Ritz: of the combinations of the vectors (G, q, ...), whose images under W^T W are
    `gram_span`, the `num` that are stretched most, largest first: their values (G, num) and
    coefficients (G, num, q).
    """
    span, gram_span, eps = span.flatten(2), gram_span.flatten(2), torch.finfo(span.dtype).eps
    length = span.norm(dim=2).double()
    # A vector of rounding alone, beside the others, is dropped, and so are directions that lie in
    # the others: they become zeros, the least of all values.
    scale = ((length > eps**2 * length.amax(1, keepdim=True)) / length.clamp(min=eps**4)).unsqueeze(
        2
    )
    overlaps, whiten = torch.linalg.eigh(scale * (span @ span.mT).double() * scale.mT)
    kept = overlaps > 10 * span.shape[1] * eps
    whiten = scale * whiten * (kept * overlaps.clamp(min=eps).rsqrt()).unsqueeze(1)
    values, vectors = torch.linalg.eigh(whiten.mT @ (span @ gram_span.mT).double() @ whiten)
    return values[:, -num:].flip(-1).to(span), (whiten @ vectors[:, :, -num:].flip(-1)).mT.to(span)


def _combined(turn: Tensor, x: Tensor) -> Tensor:
    """Combinations (G, p, q) of vectors (G, q, ...)."""
    return (turn @ x.flatten(2)).view(*turn.shape[:2], *x.shape[2:])


def _apply_each(x: Tensor, weights: Tensor) -> Tensor:
    """W_g x_g for G maps at once; x (G, p, features, ...)."""
    if weights.dim() == 3:
        return x @ weights.mT
    y = apply_map(x.transpose(0, 1).flatten(1, 2), weights.flatten(0, 1), groups=len(x))
    return y.unflatten(1, (len(x), -1)).transpose(0, 1)


def _adjoint_each(y: Tensor, weights: Tensor) -> Tensor:
    if weights.dim() == 3:
        return y @ weights
    x = apply_adjoint(y.transpose(0, 1).flatten(1, 2), weights.flatten(0, 1), len(y))
    return x.unflatten(1, (len(y), -1)).transpose(0, 1)


# --- certified norms ------------------------------------------------------------------------------


@torch.no_grad()
def fft_bound(weight: Tensor, size: tuple[int, int] | None = None) -> float:
    """An upper bound of the norm of a map: the exact norm of a matrix, of a zero-padded convolution
    that of a larger one.

    On a circular grid of n + k - 1 or more pixels a side, where nothing wraps around, the
    convolution acts on images of n pixels with zeros around them as the zero-padded one does, which
    it therefore bounds. There its singular values are those of the kernel's Fourier transform,
    frequency by frequency ("The Singular Values of Convolutional Layers", Sedghi et al. 2018, arXiv
    1805.10408). Computed in float64.
    """
    weight = weight.double()
    if weight.dim() == 2 or weight.shape[-1] == 1:
        spectrum = weight.flatten(1)[None]
    else:
        grid = [n + k - 1 for n, k in zip(size, weight.shape[2:], strict=True)]
        spectrum = (
            torch.fft.rfft2(weight, grid).flatten(2).permute(2, 0, 1)
        )  # (frequencies, C_out, C_in)
    tall = spectrum.shape[1] > spectrum.shape[2]
    gram = spectrum.mH @ spectrum if tall else spectrum @ spectrum.mH
    return torch.linalg.eigvalsh(gram)[:, -1].max().clamp(min=0).sqrt().item()


@torch.no_grad()
def exact_norm(weight: Tensor, size: tuple[int, int], max_dims: int = 1024) -> float | None:
    """The norm of the zero-padded convolution, from its Gram matrix over its smaller side; None
    beyond `max_dims`.
    """
    c_out, c_in, *_ = weight.shape
    pixels, forward = size[0] * size[1], c_in <= c_out
    dim = pixels * min(c_in, c_out)
    if dim > max_dims:
        return None
    weight = weight.double()
    basis = torch.eye(dim, dtype=weight.dtype, device=weight.device).view(dim, -1, *size)
    columns = [
        apply_map(part, weight) if forward else apply_adjoint(part, weight)
        for part in basis.split(64)
    ]
    matrix = torch.cat([part.flatten(1) for part in columns])
    return torch.linalg.eigvalsh(matrix @ matrix.T)[-1].clamp(min=0).sqrt().item()
