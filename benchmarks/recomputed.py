"""Decoding without a cache: the baseline of decode.py and the reference of the tests."""

import torch
from torch import Tensor, nn

from genlab.nn.masks import unilm

__all__ = ["RecomputedScorer"]


class RecomputedScorer:
    """CachedScorer without a cache: the whole row is read again for each token.

    The arguments are those of CachedScorer; graph has no effect.
    """

    def __init__(
        self,
        net: nn.Module,
        ids: Tensor,
        segments: Tensor,
        lengths: Tensor,
        num: int,
        max_length: int,
        target_segment: int,
        condition: Tensor | None = None,
        graph: bool | None = None,
    ):
        self.net = net
        self.ids = ids
        self.segments = segments
        self.lengths = lengths
        self.condition = condition
        self.target_segment = target_segment
        self.written = ids.new_zeros(len(ids), num, 0)  # (B, K, t)

    def start(self) -> Tensor:
        return self._logits(self.written[:, :1])[:, 0]

    def step(self, tokens: Tensor) -> Tensor:
        self.written = torch.cat([self.written, tokens[..., None]], 2)
        return self._logits(self.written)

    @torch.no_grad()
    def _logits(self, written: Tensor) -> Tensor:
        """Logits (B, K, V) after the texts (B, K, t)."""
        num, t = written.shape[1:]
        ids, segments = (part.repeat_interleave(num, 0) for part in (self.ids, self.segments))
        lengths = self.lengths.repeat_interleave(num)
        condition = None if self.condition is None else self.condition.repeat_interleave(num, 0)
        ids, segments = (nn.functional.pad(part, (0, t)) for part in (ids, segments))
        place = lengths[:, None] + torch.arange(t, device=ids.device)
        ids.scatter_(1, place, written.flatten(0, 1))
        segments.scatter_(1, place, self.target_segment)
        padding = torch.arange(ids.shape[1], device=ids.device) < (lengths + t)[:, None]
        mask = unilm(segments, padding, target_segment=self.target_segment)
        hidden = self.net(ids, segments, mask, condition=condition)
        logits = self.net.logits(self.net.take_last(hidden, lengths + t), condition)
        return logits.unflatten(0, (-1, num))

    def reorder(self, parents: Tensor) -> None:
        index = parents[..., None].expand(-1, -1, self.written.shape[2])
        self.written = self.written.gather(1, index)

    def keep(self, rows: Tensor) -> None:
        self.ids = self.ids[rows]
        self.segments = self.segments[rows]
        self.lengths = self.lengths[rows]
        self.written = self.written[rows]
        self.condition = None if self.condition is None else self.condition[rows]
