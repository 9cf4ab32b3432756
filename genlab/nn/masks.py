"""Who sees whom in attention: boolean masks, right under padding and under packing.

In all of them padding (B, L) is True at a real token; documents (B, L) numbers the documents that
share a packed row, each a run of neighbouring tokens, and None means one document a row. The result
is (B, 1, L, L), or broadcasts to that: True where the query (third axis) sees the key (last axis).
A real token never sees a padded one, nor another document. No query is left with nothing to see,
which softmax would turn into NaN: where every key of a query is masked, which happens at padded
queries alone, it sees itself, or, in the (B, 1, 1, L) form, all of its padded row.

Two masks are known without a tensor, which FlashAttention wants: FULL, where all see all, of rows
without padding, and CAUSAL, of rows that are padded on the right alone: no real token sees what
comes after it.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["CAUSAL", "FULL", "attend", "bidirectional", "causal", "positions_of", "unilm"]

FULL, CAUSAL = "full", "causal"


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | str | None, dropout: float = 0.0
) -> Tensor:
    """Attention of (B, H, L, D) under a mask of this file."""
    if isinstance(mask, str):
        return F.scaled_dot_product_attention(
            query, key, value, None, dropout, is_causal=mask == CAUSAL
        )
    return F.scaled_dot_product_attention(query, key, value, mask, dropout)


def bidirectional(padding: Tensor, documents: Tensor | None = None) -> Tensor:
    """Everything sees everything: BERT's mask, (B, 1, 1, L) without documents."""
    if documents is None:
        return (padding | ~padding.any(-1, keepdim=True))[:, None, None]
    return _finish(padding, documents, None)


def unilm(
    segments: Tensor, padding: Tensor, documents: Tensor | None = None, target_segment: int = 1
) -> Tensor:
    """The source sees the source; a token of the target sees the source and the target up to
    itself.

    UniLM's sequence-to-sequence mask (Dong et al. 2019, arXiv 1905.03197), as in bojone/bert4keras:
    with c the running count of target tokens, query i sees key j iff c_j <= c_i. The target is
    where segments (B, L) is target_segment: 1, or 5 for the released UniLM checkpoints. Within a
    document only differences of c count, so it restarts with each one.
    """
    count = (segments == target_segment).cumsum(-1)
    return _finish(padding, documents, count[:, None, :] <= count[:, :, None])


def causal(padding: Tensor, documents: Tensor | None = None) -> Tensor:
    """Every token sees those before it and itself: the mask of a language model."""
    length = padding.shape[-1]
    earlier = torch.ones(length, length, dtype=torch.bool, device=padding.device).tril()
    return _finish(padding, documents, earlier)


def _finish(padding: Tensor, documents: Tensor | None, sees: Tensor | None) -> Tensor:
    sees = padding[:, None, :] if sees is None else sees & padding[:, None, :]
    if documents is not None:
        sees = sees & (documents[:, None, :] == documents[:, :, None])
    # A real token sees itself anyway.
    itself = torch.eye(padding.shape[-1], dtype=torch.bool, device=padding.device)
    return (sees | itself)[:, None]


def positions_of(documents: Tensor) -> Tensor:
    """documents (B, L) -> (B, L) the place of each token in its own document, from 0."""
    place = torch.arange(documents.shape[-1], device=documents.device).expand_as(documents)
    first = torch.ones_like(documents, dtype=torch.bool)
    first[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return place - (place * first).cummax(-1).values
