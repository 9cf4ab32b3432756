"""Dense layers and convolutions whose operator norm stays below a chosen c: the normalisation, the
power iteration behind it, and upper bounds that prove it.

All norms are spectral norms, of the map itself: of a zero-padded convolution on its image size, not
of its kernel as a matrix, whose norm is smaller ("Regularisation of Neural Networks by Enforcing
Lipschitz Continuity", Gouk et al. 2018, arXiv 1804.04368). u and v are the left and right
singular vectors of the largest singular value.

Shapes: x (B, D) or (B, C, H, W), or (N, B, ...) of N batches; a weight is a matrix (D_out, D_in) or
a kernel (C_out, C_in, K, K). In the power iteration G maps of one shape are iterated together, each
with a subspace of p vectors: (G, p, D) or (G, p, C, H, W).
"""

from collections import defaultdict

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d

__all__ = ["LipschitzMap", "exact_norm", "fft_bound", "refresh"]

TOLERANCE = 1e-3  # relative, of the norm
NUM_VECTORS = 4  # p, of the subspace that is iterated
MAX_ITERATIONS = 10_000


class LipschitzMap(nn.Module):
    """A dense layer, or a convolution that keeps the image size, of weight W / max(1, sigma(W) /
    coeff).

    The soft normalisation of equation 2 in "Invertible Residual Networks", Behrmann et al. 2019,
    arXiv 1811.00995. sigma comes from u and v, which only `refresh` moves. Weights start as torch's
    do, scaled down where `fft_bound` is above coeff: so the bound holds from the start, and u and v
    may wait for the first `refresh`.

    Args:
        c_in: Features or channels of x.
        c_out: Features or channels of the result.
        coeff: c, in (0, 1); null: a plain layer.
        kernel_size: 0 for a dense layer, else an odd number.
        size: (H, W) of the images, for a convolution.
        detach_sigma: Whether sigma is a constant in the gradient. Else a layer at its bound gets no
            gradient along its own scale.
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
                f"net.kernel_size={kernel_size}: expected an odd number, which keeps the image size"
            )
        layer = nn.Conv2d(c_in, c_out, kernel_size) if kernel_size else nn.Linear(c_in, c_out)
        self.weight, self.bias = layer.weight, layer.bias
        self.coeff, self.detach_sigma = coeff, detach_sigma
        self.kernel_size, self.size = kernel_size, size
        self.dims = c_in * (size[0] * size[1] if kernel_size else 1)  # of one x
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
        orthonormal = torch.linalg.qr(start.flatten(1).T)[0].T
        self.register_buffer("basis", orthonormal.reshape(start.shape).contiguous())

    def operator(self) -> Tensor:
        """The weight that `apply_map` takes for u and v; a 1x1 kernel becomes a matrix."""
        return self.weight.flatten(1) if self.kernel_size <= 1 else self.weight

    def sigma(self) -> Tensor:
        """The estimate u^T W v of the norm, linear in W; never above it."""
        # Clones: `refresh` writes u and v in place while a graph may still need their old values.
        return (self.u.clone() * apply_map(self.v.clone(), self.operator())).sum()

    def normalised(self) -> Tensor:
        """W / max(1, sigma / c), for any number of passes."""
        if self.coeff is None:
            return self.weight
        sigma = self.sigma().detach() if self.detach_sigma else self.sigma()
        return self.weight / (sigma / self.coeff).clamp(min=1)

    def norm(self) -> float:
        """The estimated norm of the normalised map: c before the first `refresh`, infinite where c
        is null.
        """
        if self.coeff is None:
            return float("inf")
        sigma = self.sigma().item()
        return min(self.coeff, sigma) if sigma > 0 else self.coeff

    def forward(self, x: Tensor) -> Tensor:
        return apply_map(x, self.normalised(), self.bias)


def apply_map(x: Tensor, weight: Tensor, bias: Tensor | None = None, groups: int = 1) -> Tensor:
    """W x + b of a matrix and x (..., D), or of a kernel and x (B, C, H, W) or (N, B, C, H, W)."""
    if weight.dim() == 2:
        return nn.functional.linear(x, weight, bias)
    if x.dim() == 5:
        return apply_map(x.flatten(0, 1), weight, bias).unflatten(0, x.shape[:2])
    return conv2d(x, weight, bias, padding=_padding(weight), groups=groups)


def apply_adjoint(y: Tensor, weight: Tensor, groups: int = 1) -> Tensor:
    """W^T y, the transpose of what `apply_map` computes."""
    if groups == 1:
        return apply_map(y, adjoint(weight))
    return conv_transpose2d(y, weight, padding=weight.shape[-1] // 2, groups=groups)


def adjoint(weight: Tensor) -> Tensor:
    """The weight of the transposed map: apply_map(y, adjoint(W)) is apply_adjoint(y, W)."""
    if weight.dim() == 2:
        return weight.T
    # A copy: with one channel, contiguous() would leave the strides open, and with them the format
    # of the result.
    return weight.flip(2, 3).transpose(0, 1).clone(memory_format=torch.channels_last)


def weight_gradient(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The gradient by weight of <grad, apply_map(x, weight)>."""
    if weight.dim() == 2:
        return grad.flatten(0, -2).T @ x.flatten(0, -2)
    if x.dim() == 5:
        return weight_gradient(grad.flatten(0, 1), x.flatten(0, 1), weight)
    # The other arguments: no bias, no dilation, not transposed; the gradient of the weight alone.
    return torch.ops.aten.convolution_backward(
        grad,
        x,
        weight,
        None,
        [1, 1],
        _padding(weight),
        [1, 1],
        False,
        [0, 0],
        1,
        [False, True, False],
    )[1]


def _padding(weight: Tensor) -> list[int]:
    return [side // 2 for side in weight.shape[2:]]


# --- power iteration ------------------------------------------------------------------------------


@torch.no_grad()
def refresh(
    module: nn.Module, tolerance: float = TOLERANCE, max_iterations: int = MAX_ITERATIONS
) -> int:
    """Updates u and v of every LipschitzMap in a module; call it whenever weights have changed.

    For each map it iterates a small subspace until |W^T W v - sigma^2 v| <= tolerance sigma^2; then
    sigma is within tolerance / 2 of a singular value. A single vector would rest at the second
    largest after the two largest have changed places, and take hundreds of iterations to leave; a
    subspace of four holds both. The singular values of a convolution lie close together, where the
    power method is slow. So each iteration takes the best of all combinations of the subspace, its
    residuals and its last step ("Toward the Optimal Preconditioned Eigensolver", Knyazev 2001,
    algorithm 4.1, without a preconditioner), which applies W and its transpose once. Maps of one
    shape are iterated together.

    Args:
        module: With LipschitzMaps.
        tolerance: Of the residual, relative to sigma^2.
        max_iterations: The most iterations.

    Returns:
        The number of iterations.

    Raises:
        ValueError: max_iterations were not enough, or a weight is not finite.
    """
    groups = defaultdict(list)
    for layer in module.modules():
        if isinstance(layer, LipschitzMap) and layer.coeff is not None:
            weight = layer.weight
            key = (layer.operator().shape, layer.u.shape, weight.dtype, weight.device)
            groups[key].append(layer)
    counts = [_iterate(layers, tolerance, max_iterations) for layers in groups.values()]
    return max(counts, default=0)


def _iterate(layers: list[LipschitzMap], tolerance: float, max_iterations: int) -> int:
    """`refresh` of maps of one shape; returns the number of iterations."""
    weights = torch.stack([layer.operator() for layer in layers])
    if not torch.isfinite(weights).all():
        raise ValueError(
            "a weight of the network is not finite; lower model.lr=, or set "
            "trainer.gradient_clip_val=1"
        )
    # (G, p, features, ...): vectors of x or of y, whichever has fewer features
    basis = torch.stack([layer.basis for layer in layers])
    of_x = layers[0].basis_of_x
    there, back = (_apply_each, _adjoint_each) if of_x else (_adjoint_each, _apply_each)
    num, span, done = basis.shape[1], basis, 1
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
                f"net.refresh_tolerance={tolerance:.1e}: the power iteration did not reach it in "
                f"{max_iterations} iterations; set a larger one"
            )
        done += 1
        # The last step; zeros at first.
        step, gram_step = (_combined(turn[:, :, num:], x[:, num:]) for x in (span, gram_span))
        span = torch.cat([basis, residual, step], 1)
        gram_span = torch.cat([again, back(there(residual, weights), weights), gram_step], 1)
    images = there(basis[:, :1], weights)
    ends = (images, basis) if of_x else (basis, images)  # of u and of v
    for i, layer in enumerate(layers):
        layer.basis.copy_(basis[i])
        for vector, end in zip((layer.u, layer.v), ends, strict=True):
            length = end[i, :1].norm()
            if length > 0:  # a weight of zeros leaves u where it was
                vector.copy_(end[i, :1] / length)
    return done


def _ritz(span: Tensor, gram_span: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Rayleigh-Ritz: the combinations of vectors that W^T W stretches most.

    Args:
        span: Vectors (G, q, ...).
        gram_span: Their images under W^T W.
        num: How many combinations, the most stretched first.

    Returns:
        Values (G, num) and coefficients (G, num, q).
    """
    eps = torch.finfo(span.dtype).eps
    span, gram_span = span.flatten(2), gram_span.flatten(2)
    length = span.norm(dim=2).double()
    # Vectors that are mere rounding beside the others, and directions that lie in the others, are
    # dropped: they become zeros, the least of all values.
    kept = length > eps**2 * length.amax(1, keepdim=True)
    scale = (kept / length.clamp(min=eps**4)).unsqueeze(2)
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
    """W_g^T y_g for G maps at once; y (G, p, features, ...)."""
    if weights.dim() == 3:
        return y @ weights
    x = apply_adjoint(y.transpose(0, 1).flatten(1, 2), weights.flatten(0, 1), len(y))
    return x.unflatten(1, (len(y), -1)).transpose(0, 1)


# --- certified norms ------------------------------------------------------------------------------


@torch.no_grad()
def fft_bound(weight: Tensor, size: tuple[int, int] | None = None) -> float:
    """An upper bound of the norm of a map, in float64: the norm itself of a matrix, the norm of a
    larger map of a zero-padded convolution.

    On a circular grid of n + k - 1 or more pixels a side nothing wraps around. So there the
    convolution acts on images of n pixels, with zeros around them, as the zero-padded one does, and
    its norm bounds that one's. Its singular values are those of the Fourier transform of the
    kernel, frequency by frequency ("The Singular Values of Convolutional Layers", Sedghi et al.
    2018, arXiv 1805.10408).

    Args:
        weight: A matrix or a kernel.
        size: (H, W) of the images, for a kernel.
    """
    weight = weight.double()
    if weight.dim() == 2 or weight.shape[-1] == 1:
        spectrum = weight.flatten(1)[None]
    else:
        grid = [n + k - 1 for n, k in zip(size, weight.shape[2:], strict=True)]
        # (frequencies, C_out, C_in)
        spectrum = torch.fft.rfft2(weight, grid).flatten(2).permute(2, 0, 1)
    tall = spectrum.shape[1] > spectrum.shape[2]
    gram = spectrum.mH @ spectrum if tall else spectrum @ spectrum.mH
    return torch.linalg.eigvalsh(gram)[:, -1].max().clamp(min=0).sqrt().item()


@torch.no_grad()
def exact_norm(weight: Tensor, size: tuple[int, int], max_dims: int = 1024) -> float | None:
    """The norm of a zero-padded convolution, in float64.

    Args:
        weight: A kernel.
        size: (H, W) of the images.
        max_dims: None is returned where the smaller of its sides, whose Gram matrix it takes, has
            more dimensions.
    """
    c_out, c_in, *_ = weight.shape
    forward = c_in <= c_out
    dim = size[0] * size[1] * min(c_in, c_out)
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
