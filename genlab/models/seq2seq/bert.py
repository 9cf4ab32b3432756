"""BERT: one Transformer encoder that a mask makes a reader, a writer, or both.

"BERT: Pre-training of Deep Bidirectional Transformers", Devlin et al. 2019, arXiv 1810.04805:
post-norm blocks, learned positions, erf GELU, layer norm with eps 1e-12, and the masked-language
head tied to the word embeddings. With the mask of "Unified Language Model Pre-training", Dong et
al. 2019, arXiv 1905.03197, it maps sequences to sequences.

Written targets are decoded exactly, a token a step, because the source does not see them:

    hidden, cache = bert.prefill(ids, segments, lengths, num_beams=4, max_new_tokens=32)
    logits = bert.logits(bert.last(hidden, lengths))            # (B, V): the first token, from the source's last [SEP]
    logits = bert.step(tokens, cache)                           # tokens (B, K) -> (B, K, V), again and again
    cache.reorder(parents)                                      # (B, K), when beams go on from other beams
    cache.keep(rows)                                            # when rows are finished

A vector to a row, `condition` (B, C), may steer what is written, through every layer norm
(genlab.nn.conditional_norm).
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from genlab.models.seq2seq.key_value_cache import Cache
from genlab.nn.conditional_norm import ConditionalLayerNorm, LayerNorm, Projection
from genlab.nn.decoder_step import add_norm
from genlab.nn.init import init_positions, init_truncated
from genlab.nn.masks import attend, bidirectional
from genlab.ranges import Depth, NonNegativeInt, PartialFraction, PositiveFloat, PositiveInt

__all__ = ["BERT"]

ACTIVATIONS = {  # the names of config.json
    "gelu": nn.GELU,
    "gelu_new": partial(nn.GELU, "tanh"),
    "gelu_pytorch_tanh": partial(nn.GELU, "tanh"),
    "relu": nn.ReLU,
    "silu": nn.SiLU,
}


class Layer(nn.Module):
    """h (B, L, D) -> (B, L, D): attention, then a two-layer network, each added to its input and
    normalised by norm(hidden_dim).
    """

    def __init__(
        self,
        hidden_dim: int,
        num_heads: int,
        intermediate_dim: int,
        dropout: float,
        attention_dropout: float,
        norm: Callable,
        act: str,
    ):
        super().__init__()
        self.num_heads, self.dropout, self.attention_dropout = num_heads, dropout, attention_dropout
        self.qkv = nn.Linear(hidden_dim, 3 * hidden_dim)
        self.out = nn.Linear(hidden_dim, hidden_dim)
        self.attention_norm = norm(hidden_dim)
        self.up = nn.Linear(hidden_dim, intermediate_dim)
        self.down = nn.Linear(intermediate_dim, hidden_dim)
        self.norm = norm(hidden_dim)
        self.act = ACTIVATIONS[act]()

    def forward(
        self,
        h: Tensor,
        mask: Tensor | str | None,
        c: Tensor | None = None,
        kept: Callable | None = None,
    ) -> Tensor:
        query, key, value = heads = self.heads(h)
        if kept is not None:
            kept(heads[1:])
        dropout = self.attention_dropout if self.training else 0.0
        return self.finish(h, attend(query, key, value, mask, dropout), c)

    def heads(self, h: Tensor) -> Tensor:
        """h (B, L, D) -> query, key and value, (3, B, H, L, Dh)."""
        return self.qkv(h).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)

    def finish(self, h: Tensor, attended: Tensor, c: Tensor | None = None) -> Tensor:
        """Everything after attention; attended (B, H, L, Dh)."""
        attended = self.out(attended.transpose(1, 2).flatten(2))
        h = add_norm(self.attention_norm, h, F.dropout(attended, self.dropout, self.training), c)
        return add_norm(
            self.norm, h, F.dropout(self.down(self.act(self.up(h))), self.dropout, self.training), c
        )


class Head(nn.Module):
    """hidden (..., D) -> (..., E), to be compared with the word embeddings; `bias` (V,) is added to
    the comparison.
    """

    def __init__(
        self, hidden_dim: int, embedding_dim: int, vocab_size: int, norm: Callable, act: str
    ):
        super().__init__()
        self.dense = nn.Linear(hidden_dim, embedding_dim)
        self.norm = norm(embedding_dim)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        self.act = ACTIVATIONS[act]()

    def forward(self, hidden: Tensor, c: Tensor | None = None) -> Tensor:
        return self.norm(self.act(self.dense(hidden)), c)


class BERT(nn.Module):
    """ids (B, L) -> hidden (B, L, D); `logits` of any part of it; `prefill` and `step` to decode.

    num_segments: 2, or 6 for UniLM's checkpoints. embedding_dim: the width of the embeddings and of
    the tied head where it differs from hidden_dim (the small Chinese models: 128, mapped up by a linear
    layer). pad_id: the id that a call without a mask takes for padding; None: none. checkpointing:
    recompute each layer in the backward pass instead of storing it.
    position_init: where the learned positions start, normal (the source) or sinusoidal, where each
    knows its neighbours.

    condition_dim: C of the condition, 0 for none. condition_by: layer_norm, all of them, through
    condition_hidden units (0: straight); or what that is measured against, a Projection of it added
    to the embedding of the first token (prefix) or of every token (embedding), of condition_hidden
    units, 0: as many as give it layer_norm's number of weights.
    """

    def __init__(
        self,
        vocab_size: PositiveInt,
        hidden_dim: PositiveInt = 768,
        num_layers: Depth = 12,
        num_heads: PositiveInt = 12,
        intermediate_dim: PositiveInt = 3072,
        max_length: PositiveInt = 512,
        num_segments: PositiveInt = 2,
        embedding_dim: PositiveInt | None = None,
        dropout: PartialFraction = 0.1,
        attention_dropout: PartialFraction = 0.1,
        eps: PositiveFloat = 1e-12,
        activation: str = "gelu",
        init_std: PositiveFloat = 0.02,
        position_init: Literal["normal", "sinusoidal"] = "normal",
        pad_id: NonNegativeInt | None = 0,
        checkpointing: bool = False,
        condition_dim: NonNegativeInt = 0,
        condition_by: Literal["layer_norm", "prefix", "embedding"] = "layer_norm",
        condition_hidden: NonNegativeInt = 0,
        condition_activation: str | None = None,
    ):
        super().__init__()
        self.arguments = {
            name: value for name, value in locals().items() if name not in ("self", "__class__")
        }
        if hidden_dim % num_heads:
            raise ValueError(
                f"hidden_dim={hidden_dim}: expected a multiple of num_heads={num_heads} (net.hidden_dim=, net.num_heads=)"
            )
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation={activation}: expected one of {', '.join(ACTIVATIONS)} (net.activation=)"
            )
        known = f"null, or with net.condition_hidden= one of {', '.join(ACTIVATIONS)}"
        if condition_activation is not None and (
            condition_activation not in ACTIVATIONS or not condition_hidden
        ):
            raise ValueError(f"net.condition_activation={condition_activation}: expected {known}")
        if condition_hidden and not condition_dim:
            raise ValueError(
                f"net.condition_hidden={condition_hidden}: has no effect without net.condition_dim="
            )
        width, norm = embedding_dim or hidden_dim, partial(LayerNorm, eps=eps)
        if condition_dim and condition_by == "layer_norm":
            act = ACTIVATIONS[condition_activation]() if condition_activation else nn.Identity()
            norm = partial(
                ConditionalLayerNorm,
                eps=eps,
                condition_dim=condition_dim,
                condition_hidden=condition_hidden,
                act=act,
            )
        self.max_length, self.pad_id, self.dropout, self.checkpointing = (
            max_length,
            pad_id,
            dropout,
            checkpointing,
        )
        self.word = nn.Embedding(vocab_size, width)
        self.position = nn.Embedding(max_length, width)
        self.segment = nn.Embedding(num_segments, width)
        self.norm = norm(width)
        self.widen = nn.Linear(width, hidden_dim) if width != hidden_dim else nn.Identity()
        self.layers = nn.ModuleList(
            Layer(
                hidden_dim,
                num_heads,
                intermediate_dim,
                dropout,
                attention_dropout,
                norm,
                activation,
            )
            for _ in range(num_layers)
        )
        self.head = Head(hidden_dim, width, vocab_size, norm, activation)
        self.condition_dim, self.condition_by, self.project = condition_dim, condition_by, None
        if condition_dim and condition_by != "layer_norm":
            weights = (
                4 * condition_dim * (width + num_layers * hidden_dim)
            )  # of layer_norm's gains and shifts
            self.project = Projection(
                condition_dim, condition_hidden or round(weights / (condition_dim + width)), width
            )
        init_truncated(self, init_std)
        init_positions(self.position.weight, position_init, init_std)

    @property
    def vocab_size(self) -> int:
        return self.word.num_embeddings

    @property
    def hidden_dim(self) -> int:
        return self.head.dense.in_features

    def embed(
        self,
        ids: Tensor,
        segments: Tensor,
        positions: Tensor,
        c: Tensor | None = None,
        start: bool = True,
    ) -> Tensor:
        h = self.word(ids) + self.position(positions) + self.segment(segments)
        if c is not None and self.project is not None:
            if self.condition_by == "embedding":
                h = h + self.project(c)[:, None]
            elif start:
                h = torch.cat([h[:, :1] + self.project(c)[:, None], h[:, 1:]], 1)
        return self.widen(F.dropout(self.norm(h, c), self.dropout, self.training))

    def forward(
        self,
        ids: Tensor,
        segments: Tensor | None = None,
        mask: Tensor | str | None = None,
        positions: Tensor | None = None,
        kept: Callable[[Tensor], None] | None = None,
        condition: Tensor | None = None,
    ) -> Tensor:
        """ids (B, L) -> the last layer (B, L, D), under a condition (B, condition_dim) if there is
        one.

        segments (B, L), by default all 0. mask: bool, broadcast to (B, H, L, L), True where a query
        sees a key, or FULL or CAUSAL (genlab.nn.masks); by default every token sees those that are
        not pad_id. positions (B, L): else 0 to L-1.
        kept: is called with each layer's keys and values, (2, B, H, L, Dh).
        """
        if positions is None:
            if ids.shape[1] > self.max_length:
                raise ValueError(
                    f"{ids.shape[1]} tokens in a row: expected at most net.max_length={self.max_length}"
                )
            positions = torch.arange(ids.shape[1], device=ids.device)
        if mask is None and self.pad_id is not None:
            mask = bidirectional(ids != self.pad_id)
        h = self.embed(
            ids, torch.zeros_like(ids) if segments is None else segments, positions, condition
        )
        for layer in self.layers:
            if self.checkpointing and self.training and torch.is_grad_enabled():
                h = checkpoint(layer, h, mask, condition, use_reentrant=False)
            else:
                h = layer(h, mask, condition, kept)
        return h

    def logits(self, hidden: Tensor, condition: Tensor | None = None) -> Tensor:
        """hidden (..., D) -> (..., V). Gather the positions that count first: V is most of the cost
        of a short row.

        condition: (B, C) for hidden (B, L, D), else a vector for each of hidden.
        """
        return F.linear(self.head(hidden, condition), self.word.weight, self.head.bias)

    @staticmethod
    def last(hidden: Tensor, lengths: Tensor) -> Tensor:
        """hidden (B, L, D), lengths (B,) -> (B, D) at each row's last real token."""
        return hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]

    @torch.no_grad()
    def prefill(
        self,
        ids: Tensor,
        segments: Tensor | None,
        lengths: Tensor,
        num_beams: int = 1,
        max_new_tokens: int = 64,
        target_segment: int = 1,
        mask: Tensor | str | None = None,
        condition: Tensor | None = None,
        cache: Cache | None = None,
    ) -> tuple[Tensor, Cache]:
        """Reads sources of `lengths` (B,) tokens, padded on the right -> (hidden (B, L, D), the
        cache to `step` with).

        num_beams, max_new_tokens: how many targets are written to each source, of how many tokens
        at most.
        target_segment: the segment of what is written; 1, UniLM's checkpoints 5, a language model
        0. mask: how the source is read, both ways by default; CAUSAL for a language model. cache:
        one of these sizes to fill anew. In eval mode.
        """
        if self.training:
            raise ValueError(
                "prefill: the network is in training mode, where dropout makes decoding random; call eval()"
            )
        if not 0 <= target_segment < self.segment.num_embeddings:
            raise ValueError(
                f"target_segment={target_segment}: expected 0 to {self.segment.num_embeddings - 1}"
            )
        length = ids.shape[1]
        if length + max_new_tokens > self.max_length:
            both = f"a source of {length} tokens and max_new_tokens={max_new_tokens}"
            raise ValueError(
                f"{both} do not fit into net.max_length={self.max_length}; shorten one of them"
            )
        if mask is None:
            mask = bidirectional(torch.arange(length, device=ids.device) < lengths[:, None])
        if cache is None:
            cache = Cache(len(self.layers), ids, num_beams, max_new_tokens, target_segment)
        cache.read(lengths, condition)
        hidden = self(ids, segments, mask, kept=cache.take, condition=condition)
        cache.begin()
        return hidden, cache

    @torch.no_grad()
    def step(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Writes tokens (B, K), one to each beam -> logits (B, K, V) of the next."""
        c = cache.condition
        h = self.embed(tokens, cache.segments, cache.open(), c, start=False)
        for i, layer in enumerate(self.layers):
            h = layer.finish(
                h, cache.attend(i, layer.heads(h)), c
            )  # the K beams stand where a sequence would
        cache.advance()
        return self.logits(h, c)
