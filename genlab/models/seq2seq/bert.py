"""BERT: one Transformer that its attention mask makes an encoder, a decoder, or both.

"BERT: Pre-training of Deep Bidirectional Transformers", Devlin et al. 2019, arXiv 1810.04805:
post-norm blocks, learned positions, erf GELU, layer norm with eps 1e-12, and the masked-language
head tied to the word embeddings. With the mask of "Unified Language Model Pre-training" (UniLM),
Dong et al. 2019, arXiv 1905.03197, it maps sequences to sequences.

Source tokens do not see the target, so a target is decoded exactly, one token a step:

    hidden, cache = bert.prefill(ids, segments, lengths, num_beams=4, max_new_tokens=32)
    logits = bert.logits(bert.take_last(hidden, lengths))  # (B, V), of the first token
    # Then for each token:
    logits = bert.step(tokens, cache)  # (B, K) -> (B, K, V)
    cache.reorder(parents)  # (B, K), where beams continue other beams
    cache.keep(rows)  # drops finished rows

Shapes:
    B: rows. L: tokens of a row. D: hidden_dim. V: vocabulary. C: condition_dim.
    H: heads. Dh: the width of one, D / H. K: beams, which stand where a sequence would.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

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

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {  # by the names of config.json
    "gelu": nn.GELU,
    "gelu_new": partial(nn.GELU, "tanh"),
    "gelu_pytorch_tanh": partial(nn.GELU, "tanh"),
    "relu": nn.ReLU,
    "silu": nn.SiLU,
}


class Layer(nn.Module):
    """Attention, then a two-layer network, each added to its input and normalised.

    Args:
        hidden_dim: D.
        num_heads: H.
        intermediate_dim: Units of the two-layer network.
        dropout: After each of the two.
        attention_dropout: On the attention weights.
        norm: Makes a layer norm of a width.
        act: A key of ACTIVATIONS.
    """

    def __init__(
        self,
        hidden_dim: int,
        num_heads: int,
        intermediate_dim: int,
        dropout: float,
        attention_dropout: float,
        norm: Callable[[int], nn.Module],
        act: str,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.attention_dropout = attention_dropout
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
        store: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """h (B, L, D) -> (B, L, D).

        Args:
            h: (B, L, D).
            mask: See genlab.nn.masks.
            c: (B, C), the condition.
            store: Is called with keys and values, (2, B, H, L, Dh).
        """
        heads = self.split_heads(h)
        if store is not None:
            store(heads[1:])
        query, key, value = heads
        dropout = self.attention_dropout if self.training else 0.0
        return self.finish(h, attend(query, key, value, mask, dropout), c)

    def split_heads(self, h: Tensor) -> Tensor:
        """h (B, L, D) -> query, key and value, (3, B, H, L, Dh)."""
        return self.qkv(h).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)

    def finish(self, h: Tensor, attended: Tensor, c: Tensor | None = None) -> Tensor:
        """What follows attention: h (B, L, D) and attended (B, H, L, Dh) -> (B, L, D)."""
        attended = self.out(attended.transpose(1, 2).flatten(2))
        attended = F.dropout(attended, self.dropout, self.training)
        h = add_norm(self.attention_norm, h, attended, c)
        update = self.down(self.act(self.up(h)))
        return add_norm(self.norm, h, F.dropout(update, self.dropout, self.training), c)


class Head(nn.Module):
    """Maps hidden states to the width E of the word embeddings, which then score the tokens.

    `bias` (V,) is added to the scores.
    """

    def __init__(
        self,
        hidden_dim: int,
        embedding_dim: int,
        vocab_size: int,
        norm: Callable[[int], nn.Module],
        act: str,
    ):
        super().__init__()
        self.dense = nn.Linear(hidden_dim, embedding_dim)
        self.norm = norm(embedding_dim)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        self.act = ACTIVATIONS[act]()

    def forward(self, hidden: Tensor, c: Tensor | None = None) -> Tensor:
        """hidden (..., D) -> (..., E)."""
        return self.norm(self.act(self.dense(hidden)), c)


class BERT(nn.Module):
    """BERT, or with a condition a BERT that a vector (B, C) steers.

    The condition acts through every layer norm (genlab.nn.conditional_norm), or, to compare with
    that, as a Projection of it that is added to embeddings.

    Args:
        vocab_size: V.
        hidden_dim: D, a multiple of num_heads.
        num_layers: Layers.
        num_heads: H.
        intermediate_dim: Units of the two-layer network of each layer.
        max_length: The most tokens of a row.
        num_segments: Segment types: 2, or 6 for UniLM's checkpoints.
        embedding_dim: The width of the embeddings and of the tied head, mapped to hidden_dim by a
            linear layer (128 in the small Chinese models); None: hidden_dim.
        dropout: After the embeddings, attention and two-layer networks.
        attention_dropout: On the attention weights.
        eps: Of the layer norms.
        activation: Of the two-layer networks and the head: gelu, gelu_new, gelu_pytorch_tanh, relu
            or silu.
        init_std: Standard deviation of the initial weights.
        position_init: How the learned positions start: normal, as in BERT, or sinusoidal, where
            neighbours start alike.
        pad_id: The id that a call without a mask takes for padding; None: no id.
        checkpointing: Whether the backward pass computes each layer again rather than storing it.
        condition_dim: C; 0: no condition.
        condition_by: layer_norm: through every layer norm. prefix: added to the first token's
            embedding. embedding: added to every token's embedding.
        condition_hidden: Hidden units between the condition and what it acts on. 0: of layer_norm
            none; of prefix and embedding as many as give layer_norm's number of weights.
        condition_activation: Of the hidden units of layer_norm, a name as for `activation`; None:
            the identity.
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
        names = ", ".join(ACTIVATIONS)
        if hidden_dim % num_heads:
            raise ValueError(
                f"net.hidden_dim={hidden_dim}: expected a multiple of net.num_heads={num_heads}"
            )
        if activation not in ACTIVATIONS:
            raise ValueError(f"net.activation={activation}: expected one of {names}")
        if condition_activation is not None:
            if condition_activation not in ACTIVATIONS:
                raise ValueError(
                    f"net.condition_activation={condition_activation}: expected one of {names}, "
                    "or null"
                )
            if not condition_hidden:
                raise ValueError(
                    f"net.condition_activation={condition_activation}: has no effect without "
                    "net.condition_hidden="
                )
        if condition_hidden and not condition_dim:
            raise ValueError(
                f"net.condition_hidden={condition_hidden}: has no effect without net.condition_dim="
            )
        width = embedding_dim or hidden_dim
        norm: Callable[..., nn.Module] = partial(LayerNorm, eps=eps)
        if condition_dim and condition_by == "layer_norm":
            act = ACTIVATIONS[condition_activation]() if condition_activation else nn.Identity()
            norm = partial(
                ConditionalLayerNorm,
                eps=eps,
                condition_dim=condition_dim,
                condition_hidden=condition_hidden,
                act=act,
            )
        self.hidden_dim = hidden_dim
        self.max_length = max_length
        self.pad_id = pad_id
        self.dropout = dropout
        self.checkpointing = checkpointing
        self.word = nn.Embedding(vocab_size, width)
        self.position = nn.Embedding(max_length, width)
        self.segment = nn.Embedding(num_segments, width)
        self.norm = norm(width)
        self.widen = nn.Linear(width, hidden_dim) if width != hidden_dim else nn.Identity()
        self.layers: Any = nn.ModuleList(
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
        self.condition_dim = condition_dim
        self.condition_by = condition_by
        self.project = None
        if condition_dim and condition_by != "layer_norm":
            # As many units as give the number of weights of layer_norm's gains and shifts.
            num_weights = 4 * condition_dim * (width + num_layers * hidden_dim)
            units = condition_hidden or round(num_weights / (condition_dim + width))
            self.project = Projection(condition_dim, units, width)
        init_truncated(self, init_std)
        init_positions(self.position.weight, position_init, init_std)

    @property
    def vocab_size(self) -> int:
        return self.word.num_embeddings

    def embed(
        self,
        ids: Tensor,
        segments: Tensor,
        positions: Tensor,
        c: Tensor | None = None,
        start: bool = True,
    ) -> Tensor:
        """Embeddings (B, L, D) of tokens.

        Args:
            ids: (B, L).
            segments, positions: (B, L), or broadcast to it.
            c: (B, C), the condition.
            start: Whether the first token is the first of the row.
        """
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
        store: Callable[[Tensor], None] | None = None,
        condition: Tensor | None = None,
    ) -> Tensor:
        """The hidden states of the last layer, (B, L, D).

        Args:
            ids: (B, L).
            segments: (B, L); None: all 0.
            mask: bool, broadcast to (B, H, L, L), True where a query sees a key; or FULL or CAUSAL
                (genlab.nn.masks). None: every token sees all tokens that are not pad_id.
            positions: (B, L); None: 0 to L-1.
            store: Is called with the keys and values of each layer, (2, B, H, L, Dh).
            condition: (B, C).
        """
        if positions is None:
            if ids.shape[1] > self.max_length:
                raise ValueError(
                    f"net.max_length={self.max_length}: a row has {ids.shape[1]} tokens; shorten "
                    "it, or train with a greater net.max_length"
                )
            positions = torch.arange(ids.shape[1], device=ids.device)
        if mask is None and self.pad_id is not None:
            mask = bidirectional(ids != self.pad_id)
        segments = torch.zeros_like(ids) if segments is None else segments
        h = self.embed(ids, segments, positions, condition)
        for layer in self.layers:
            if self.checkpointing and self.training and torch.is_grad_enabled():
                h = checkpoint(layer, h, mask, condition, use_reentrant=False)
            else:
                h = layer(h, mask, condition, store)
        return h

    def logits(self, hidden: Tensor, condition: Tensor | None = None) -> Tensor:
        """Logits (..., V) of hidden states (..., D).

        Gather the positions that are predicted first: for short rows V is most of the cost.

        Args:
            hidden: (..., D).
            condition: (B, C) for hidden (B, L, D); else a vector for each hidden state.
        """
        return F.linear(self.head(hidden, condition), self.word.weight, self.head.bias)

    @staticmethod
    def take_last(hidden: Tensor, lengths: Tensor) -> Tensor:
        """The hidden state (B, D) of each row's last real token; hidden (B, L, D), lengths (B,)."""
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
        """Reads sources, to decode targets with `step`; in eval mode.

        Args:
            ids: (B, L), padded on the right.
            segments: (B, L); None: all 0.
            lengths: (B,) tokens of each source.
            num_beams: K, targets that are decoded for each source.
            max_new_tokens: The most tokens of a target.
            target_segment: The segment of the target: 1; 5 for UniLM's checkpoints; 0 for a
                language model.
            mask: How the source is read: None: bidirectionally; CAUSAL for a language model.
            condition: (B, C).
            cache: One of these sizes to fill again; None: a new one.

        Returns:
            The hidden states (B, L, D) of the sources, and the cache for `step`.
        """
        if self.training:
            raise ValueError(
                "prefill: the network is in training mode, where dropout makes decoding random; "
                "call eval()"
            )
        if not 0 <= target_segment < self.segment.num_embeddings:
            raise ValueError(
                f"target_segment={target_segment}: expected 0 to {self.segment.num_embeddings - 1}"
            )
        length = ids.shape[1]
        if length + max_new_tokens > self.max_length:
            raise ValueError(
                f"net.max_length={self.max_length}: a source of {length} tokens and "
                f"max_new_tokens={max_new_tokens} do not fit; shorten one of them"
            )
        if mask is None:
            mask = bidirectional(torch.arange(length, device=ids.device) < lengths[:, None])
        if cache is None:
            cache = Cache(len(self.layers), ids, num_beams, max_new_tokens, target_segment)
        cache.expect_sources(lengths, condition)
        hidden = self(ids, segments, mask, store=cache.store_source, condition=condition)
        cache.clear_targets()
        return hidden, cache

    @torch.no_grad()
    def step(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Appends tokens (B, K), one to each beam -> logits (B, K, V) of the next."""
        c = cache.condition
        h = self.embed(tokens, cache.segments, cache.open_slots(), c, start=False)  # (B, K, D)
        for i, layer in enumerate(self.layers):
            attended = cache.attend(i, layer.split_heads(h))
            h = layer.finish(h, attended, c)
        cache.advance()
        return self.logits(h, c)
