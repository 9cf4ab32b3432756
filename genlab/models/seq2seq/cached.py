"""What a decoder remembers: the source once a row, the target once a beam."""

import torch
from torch import Tensor

__all__ = ["Cache"]


class Cache:
    """Keys and values of B sources and of the K targets that are being written to each.

    Source tokens never see the target, so their keys and values do not depend on what is written and are computed once;
    the K beams of a row share them. Shapes: source (B, H, L, Dh) a layer; target (num_layers, B, K, H, T, Dh), of which
    `time` steps are filled. All rows step together; a row's next position is its own source length + time.

    Only `keep` changes a shape or an address. static, the default on CUDA: a step reads the whole target buffer, under a
    mask, and never waits for the host, so that it can be captured; else it reads the filled part alone.
    """

    def __init__(
        self,
        source: list[tuple[Tensor, Tensor]],
        lengths: Tensor,
        num_beams: int = 1,
        max_new_tokens: int = 64,
        target_segment: int = 1,
        condition: Tensor | None = None,
    ):
        key = source[0][0]
        batch, heads, length, head_dim = key.shape
        self.source, self.lengths, self.target_segment, self.condition = source, lengths, target_segment, condition
        self.static = key.is_cuda
        self.visible = (torch.arange(length, device=key.device) < lengths[:, None])[:, None, None]  # (B, 1, 1, L)
        shape = (len(source), batch, num_beams, heads, max_new_tokens, head_dim)
        self.keys, self.values = key.new_zeros(shape), key.new_zeros(shape)
        self.time = torch.zeros(1, dtype=torch.long, device=key.device)
        self.steps = 0  # the same on the host

    @property
    def max_new_tokens(self) -> int:
        return self.keys.shape[4]

    def positions(self) -> Tensor:
        """(B, 1): where the next token of each row stands."""
        return (self.lengths + self.time)[:, None]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(B, H, K, Dh) each, of the token being written -> (B, H, K, Dh): attention to the source and the target so far."""
        source_key, source_value = self.source[layer]
        keys, values = self.keys[layer], self.values[layer]  # (B, K, H, T, Dh)
        keys.index_copy_(3, self.time, key.transpose(1, 2).unsqueeze(3).to(keys.dtype))
        values.index_copy_(3, self.time, value.transpose(1, 2).unsqueeze(3).to(values.dtype))
        if not self.static:
            keys, values = keys[:, :, :, : self.steps + 1], values[:, :, :, : self.steps + 1]
        query = query * query.shape[-1] ** -0.5
        on_source = (query @ source_key.transpose(2, 3)).masked_fill(~self.visible, -torch.inf)  # (B, H, K, L)
        on_target = (keys @ query.transpose(1, 2).unsqueeze(4)).squeeze(4).transpose(1, 2)  # (B, H, K, T)
        later = torch.arange(keys.shape[3], device=keys.device) > self.time
        weights = torch.cat([on_source, on_target.masked_fill(later, -torch.inf)], -1).softmax(-1).to(values.dtype)
        on_source, on_target = weights.split([source_key.shape[2], keys.shape[3]], -1)
        written = (on_target.transpose(1, 2).unsqueeze(3) @ values).squeeze(3).transpose(1, 2)
        return on_source @ source_value + written

    def advance(self) -> None:
        """The token of this step is written in every layer."""
        self.time += 1
        self.steps += 1

    def reorder(self, parents: Tensor) -> None:
        """Beam k of row b goes on from beam parents[b, k] of that row; touches the target alone."""
        batch, beams = parents.shape
        rows = (torch.arange(batch, device=parents.device)[:, None] * beams + parents).flatten()
        for buffer in (self.keys, self.values):
            flat = buffer.flatten(1, 2)
            flat.copy_(flat.index_select(1, rows))

    def keep(self, rows: Tensor) -> None:
        """Goes on with these rows (indices, or a bool a row) alone, in this order."""
        rows = rows.nonzero().flatten() if rows.dtype == torch.bool else rows
        self.source = [(key.index_select(0, rows), value.index_select(0, rows)) for key, value in self.source]
        self.keys, self.values = self.keys.index_select(1, rows), self.values.index_select(1, rows)
        self.lengths, self.visible = self.lengths[rows], self.visible[rows]
        self.condition = None if self.condition is None else self.condition[rows]
