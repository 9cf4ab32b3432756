"""An invertible matrix on the features: Glow's 1x1 convolution, a linear map for points."""

import torch
from torch import Tensor, nn

__all__ = ["InvertibleLinear", "apply_matrix"]


class InvertibleLinear(nn.Module):
    """y = W x for the features of x (B, D), or of each pixel of x (B, C, H, W); returns (y, log det
    (B,) in nats).

    W starts as a random rotation.

    "Glow: Generative Flow with Invertible 1x1 Convolutions", Kingma and Dhariwal 2018, arXiv
    1807.03039, section 3.2.

    Args:
        num_features: D or C.
        lu: Whether W is kept as P L (U + diag(sign exp(log_scale))), with P and the signs fixed.
            Then it cannot become singular, and its log-determinant is a sum. Else W is free, and
            its log-determinant is computed in float64.
    """

    def __init__(self, num_features: int, lu: bool = True):
        super().__init__()
        self.lu = lu
        rotation = torch.linalg.qr(torch.randn(num_features, num_features))[0]
        if not lu:
            self.weight = nn.Parameter(rotation)
            return
        permutation, lower, upper = torch.linalg.lu(rotation.double())
        scale = upper.diagonal()
        self.register_buffer("permutation", permutation.float())
        self.register_buffer("sign", scale.sign().float())
        self.lower = nn.Parameter(lower.tril(-1).float())
        self.upper = nn.Parameter(upper.triu(1).float())
        self.log_scale = nn.Parameter(scale.abs().log().float())

    def matrix(self) -> tuple[Tensor, Tensor]:
        """(W (D, D), log |det W|)."""
        if not self.lu:
            log_det = torch.linalg.slogdet(self.weight.double())[1]
            return self.weight, log_det.to(self.weight.dtype)
        one = torch.eye(len(self.sign), dtype=self.lower.dtype, device=self.lower.device)
        lower = self.lower.tril(-1) + one
        upper = self.upper.triu(1) + torch.diag(self.sign * self.log_scale.exp())
        return self.permutation @ lower @ upper, self.log_scale.sum()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weight, log_det = self.matrix()
        return apply_matrix(weight, x), (x[0, 0].numel() * log_det).expand(x.shape[0])

    def inverse(self, y: Tensor) -> Tensor:
        weight, _ = self.matrix()
        return apply_matrix(torch.linalg.inv(weight.double()).to(y.dtype), y)


def apply_matrix(weight: Tensor, x: Tensor) -> Tensor:
    """W x for the features of x (B, D), or of each pixel of x (B, C, H, W)."""
    return x @ weight.T if x.dim() == 2 else nn.functional.conv2d(x, weight[:, :, None, None])
