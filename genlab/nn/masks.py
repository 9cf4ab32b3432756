"""Attention masks: which tokens each token sees, exact under padding and packing.

Shapes:
    padding (B, L) bool: True at real tokens.
    documents (B, L) int64: numbers the documents that share a packed row, each a run of
        neighbouring tokens; None: one document a row.
    Masks are bool, (B, 1, L, L) or broadcast to it, True where a query (third axis) sees a key
        (last axis).

A real token never sees padding or another document. No query is left without a key, for which
softmax would give NaN: where every key of a query is masked, which only happens at padding, it sees
itself, or, in a mask (B, 1, 1, L), all of its padded row.

Two masks have a name instead of a tensor, so that FlashAttention can be used: FULL, where all
tokens see each other, for rows without padding; and CAUSAL, for rows padded on the right, where no
real token sees what comes after it.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["CAUSAL", "FULL", "attend", "bidirectional", "causal", "positions_of", "unilm"]

FULL = "full"
CAUSAL = "causal"


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | str | None, dropout: float = 0.0
) -> Tensor:
    """Attention of query, key and value (B, H, L, D) -> (B, H, L, D); mask: of this file."""
    if isinstance(mask, str):
        return F.scaled_dot_product_attention(
            query, key, value, None, dropout, is_causal=mask == CAUSAL
        )
    return F.scaled_dot_product_attention(query, key, value, mask, dropout)


def bidirectional(padding: Tensor, documents: Tensor | None = None) -> Tensor:
    """BERT's mask: every token sees every token. (B, 1, 1, L) without documents."""
    if documents is None:
        return (padding | ~padding.any(-1, keepdim=True))[:, None, None]
    return _restrict(padding, documents, None)


def unilm(
    segments: Tensor, padding: Tensor, documents: Tensor | None = None, target_segment: int = 1
) -> Tensor:
    """UniLM's mask: the source sees the source; the target sees the source and its own past.

    With c the running count of target tokens, query i sees key j where c_j <= c_i. Only differences
    of c within a document count, so it need not restart. Dong et al. 2019, arXiv 1905.03197, as in
    bojone/bert4keras.

    Args:
        segments: (B, L).
        padding: (B, L).
        documents: (B, L), or None.
        target_segment: The segment of the target: 1, or 5 in the released UniLM checkpoints.
    """
    count = (segments == target_segment).cumsum(-1)
    return _restrict(padding, documents, count[:, None, :] <= count[:, :, None])


def causal(padding: Tensor, documents: Tensor | None = None) -> Tensor:
    """A language model's mask: every token sees itself and those before it."""
    length = padding.shape[-1]
    earlier = torch.ones(length, length, dtype=torch.bool, device=padding.device).tril()
    return _restrict(padding, documents, earlier)


def _restrict(padding: Tensor, documents: Tensor | None, sees: Tensor | None) -> Tensor:
    """`sees` without padding and other documents; None: everything."""
    sees = padding[:, None, :] if sees is None else sees & padding[:, None, :]
    if documents is not None:
        sees = sees & (documents[:, None, :] == documents[:, :, None])
    # This changes the queries at padding alone: a real token sees itself anyway.
    itself = torch.eye(padding.shape[-1], dtype=torch.bool, device=padding.device)
    return (sees | itself)[:, None]


def positions_of(documents: Tensor) -> Tensor:
    """The position (B, L) of each token in its own document, from 0; documents (B, L)."""
    place = torch.arange(documents.shape[-1], device=documents.device).expand_as(documents)
    first = torch.ones_like(documents, dtype=torch.bool)
    first[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return place - (place * first).cummax(-1).values
