"""Layer normalisation, plain or steered by a vector."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ConditionalLayerNorm", "LayerNorm", "Projection", "along"]


def along(c: Tensor, h: Tensor) -> Tensor:
    """c (B, N), or with h's own leading shape, made to broadcast over the tokens of h (B, L, D)."""
    return c.unsqueeze(1) if c.ndim < h.ndim else c


class LayerNorm(nn.LayerNorm):
    """nn.LayerNorm, blind to the condition it is called with."""

    def forward(self, h: Tensor, c: Tensor | None = None) -> Tensor:
        return super().forward(h)


class ConditionalLayerNorm(nn.LayerNorm):
    """h (B, L, D), c (B, C) -> (gamma + W_g a) (h - mean) / std + (beta + W_b a), with a = c, or
    act(W_h c).

    "Conditional text generation by conditional layer normalisation", Su 2019,
    https://kexue.fm/archives/7124, as in bojone/bert4keras: no biases, and W_g and W_b start at
    zero, so that what was trained without a condition is not changed by one. condition_hidden: the units
    of W_h; 0: none. c may also have the leading shape of h, and None is plain normalisation.
    """

    def __init__(
        self,
        dim: int,
        eps: float,
        condition_dim: int,
        condition_hidden: int = 0,
        act: nn.Module | None = None,
    ):
        super().__init__(dim, eps)
        self.hidden = (
            nn.Linear(condition_dim, condition_hidden, bias=False) if condition_hidden else None
        )
        self.act = act or nn.Identity()
        self.gain = nn.Linear(condition_hidden or condition_dim, dim, bias=False)
        self.shift = nn.Linear(condition_hidden or condition_dim, dim, bias=False)
        if self.hidden is not None:
            nn.init.trunc_normal_(self.hidden.weight, std=0.02, a=-0.04, b=0.04)
        nn.init.zeros_(self.gain.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, h: Tensor, c: Tensor | None = None) -> Tensor:
        plain = super().forward(h)
        if c is None:
            return plain
        a = c if self.hidden is None else self.act(self.hidden(c))
        # Added to the plain result, not to gamma and beta: zeros then leave it as it is to the last
        # bit.
        normal = F.layer_norm(h, self.normalized_shape, eps=self.eps)
        return plain + torch.addcmul(along(self.shift(a), h), normal, along(self.gain(a), h))


class Projection(nn.Module):
    """c (B, C) -> (B, D), W_2 gelu(W_1 c) without biases, W_2 zero at first: what is added to
    embeddings instead.
    """

    def __init__(self, condition_dim: int, hidden_dim: int, dim: int):
        super().__init__()
        self.hidden = nn.Linear(condition_dim, hidden_dim, bias=False)
        self.out = nn.Linear(hidden_dim, dim, bias=False)
        nn.init.trunc_normal_(self.hidden.weight, std=0.02, a=-0.04, b=0.04)
        nn.init.zeros_(self.out.weight)

    def forward(self, c: Tensor) -> Tensor:
        return self.out(F.gelu(self.hidden(c)))
