"""Layer normalisation, plain or conditional on a vector."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ConditionalLayerNorm", "LayerNorm", "Projection", "match_tokens"]


def match_tokens(c: Tensor, h: Tensor) -> Tensor:
    """c (B, N), or with the leading shape of h, such that it broadcasts over h (B, L, D)."""
    return c.unsqueeze(1) if c.ndim < h.ndim else c


class LayerNorm(nn.LayerNorm):
    """nn.LayerNorm that takes a condition and ignores it."""

    def forward(self, h: Tensor, c: Tensor | None = None) -> Tensor:
        return super().forward(h)


class ConditionalLayerNorm(nn.LayerNorm):
    """(gamma + W_g a) (h - mean) / std + (beta + W_b a), where a = c or act(W_h c).

    There are no biases, and W_g and W_b start at zero, so that a pretrained network is at first not
    changed. "Conditional text generation by conditional layer normalisation", Su 2019,
    https://kexue.fm/archives/7124, as in bojone/bert4keras.

    Args:
        dim: D, the width that is normalised.
        eps: Added to the variance.
        condition_dim: C.
        condition_hidden: Units of W_h; 0: a = c.
        act: The activation behind W_h; None: the identity.
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
        self.hidden = None
        if condition_hidden:
            self.hidden = nn.Linear(condition_dim, condition_hidden, bias=False)
        self.act = act or nn.Identity()
        self.gain = nn.Linear(condition_hidden or condition_dim, dim, bias=False)
        self.shift = nn.Linear(condition_hidden or condition_dim, dim, bias=False)
        if self.hidden is not None:
            nn.init.trunc_normal_(self.hidden.weight, std=0.02, a=-0.04, b=0.04)
        nn.init.zeros_(self.gain.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, h: Tensor, c: Tensor | None = None) -> Tensor:
        """h (B, L, D) -> (B, L, D).

        c: (B, C), or with the leading shape of h; None: plain normalisation.
        """
        plain = super().forward(h)
        if c is None:
            return plain
        a = c if self.hidden is None else self.act(self.hidden(c))
        # Added to the plain result, rather than to gamma and beta: then zeros leave it bit-equal.
        normal = F.layer_norm(h, self.normalized_shape, eps=self.eps)
        shift = match_tokens(self.shift(a), h)
        gain = match_tokens(self.gain(a), h)
        return plain + torch.addcmul(shift, normal, gain)


class Projection(nn.Module):
    """W_2 gelu(W_1 c) without biases, W_2 zero at first: c (B, C) -> (B, D), added to embeddings.

    Args:
        condition_dim: C.
        hidden_dim: Units of W_1.
        dim: D.
    """

    def __init__(self, condition_dim: int, hidden_dim: int, dim: int):
        super().__init__()
        self.hidden = nn.Linear(condition_dim, hidden_dim, bias=False)
        self.out = nn.Linear(hidden_dim, dim, bias=False)
        nn.init.trunc_normal_(self.hidden.weight, std=0.02, a=-0.04, b=0.04)
        nn.init.zeros_(self.out.weight)

    def forward(self, c: Tensor) -> Tensor:
        return self.out(F.gelu(self.hidden(c)))
