"""The keys and values of a decoder: of the source once for each row, of the target for each beam.

Shapes:
    B: rows, each a source; `keep` drops some.
    K: beams of a row, num_beams.
    L: tokens of the longest source.
    H, Dh: attention heads, and the width of one.
    S: places for keys and values in a row: the source's, then for each step one for each beam.
"""

from typing import Any

import torch
from torch import Tensor

from genlab.nn.decoder_step import attend

__all__ = ["Cache", "round_up"]


class Cache:
    """Keys and values of B sources and of the K targets that are generated for each.

    Source tokens never see the target. Their keys and values do not depend on it: they are computed
    once, and the K beams of a row share them. All rows step together; the next position of a row is
    the length of its own source plus `steps`.

    Args:
        num_layers: Layers of the network.
        ids: (B, L) the sources, of which only shape and device are used.
        num_beams: K.
        max_new_tokens: The most tokens that are generated for a source.
        target_segment: The segment of generated tokens.
        static: Whether a step has one shape, over all S places, and never waits for the host, so
            that it can be captured as a CUDA graph; S is then a multiple of 32, so that few shapes
            occur. Otherwise a step reads only the filled places. None: on CUDA.

    Attributes:
        memory: (num_layers, 2, B, H, S, Dh) keys and values.
        bias: (B, 1, K, S), 0 where a beam sees a place, -inf elsewhere.
        lengths: (B,) tokens of each source.
        positions: (B, 1) the position of each row's next token in its text.
        slots: (K,) the places for the keys and values of the next tokens.
        condition: (B, C), or None.
        steps: Tokens generated so far, on the host.

    Only `keep` changes the shape or the address of a tensor.
    """

    def __init__(
        self,
        num_layers: int,
        ids: Tensor,
        num_beams: int,
        max_new_tokens: int,
        target_segment: int,
        static: bool | None = None,
    ):
        self.num_layers = num_layers
        self.num_beams = num_beams
        self.max_new_tokens = max_new_tokens
        self.static = ids.is_cuda if static is None else static
        self.first = round_up(ids.shape[1]) if self.static else ids.shape[1]  # of the target
        self.segments = ids.new_full((1, 1), target_segment)
        self.positions = ids.new_zeros(len(ids), 1)
        self.slots = ids.new_zeros(num_beams)
        # Made with the first keys and values, whose heads give their shapes.
        self.memory: Any = None  # (layers, 2, B, heads, S, Dh)
        self.bias: Any = None  # (B, 1, K, S)
        self.condition: Tensor | None = None

    def expect_sources(self, lengths: Tensor, condition: Tensor | None) -> None:
        """Prepares for the keys and values of new sources, of lengths (B,).

        condition: (B, C), or None.
        """
        self.lengths = lengths
        self.layer = 0  # the next one whose keys and values come
        if self.condition is None or condition is None:
            self.condition = condition if condition is None else condition.clone()
        else:
            self.condition.copy_(condition)  # a captured step reads it at this address

    def store_source(self, keys_values: Tensor) -> None:
        """Stores the keys and values (2, B, H, L, Dh) of the sources in the next layer."""
        _, batch, num_heads, self.length, head_dim = keys_values.shape
        if self.memory is None:
            places = self.first + self.num_beams * self.max_new_tokens
            places = round_up(places) if self.static else places  # SDPA wants a bias like that too
            shape = (self.num_layers, 2, batch, num_heads, places, head_dim)
            self.memory = keys_values.new_empty(shape)
            self.bias = keys_values.new_empty(batch, 1, self.num_beams, places)
        self.memory[self.layer, :, :, :, : self.length].copy_(keys_values)
        self.layer += 1

    def clear_targets(self) -> None:
        """Returns to the state in which no token has been generated."""
        self.steps = 0
        self.memory[..., self.length :, :] = 0  # a weight of 0 does not hide a NaN
        places = torch.arange(self.bias.shape[3], device=self.bias.device)
        is_source = places < self.lengths[:, None, None, None]  # (B, 1, 1, S)
        self.bias.fill_(-torch.inf).masked_fill_(is_source, 0.0)
        self.positions.copy_(self.lengths[:, None])
        torch.arange(self.first, self.first + self.num_beams, out=self.slots)

    def check_space(self) -> None:
        """ValueError if no further token fits."""
        if self.steps >= self.max_new_tokens:
            raise ValueError(
                f"max_new_tokens={self.max_new_tokens}: the cache is full; give prefill a greater "
                "max_new_tokens"
            )

    def open_slots(self) -> Tensor:
        """Lets each beam see its next place, before the layers of a step.

        Returns:
            (B, 1), the positions of the new tokens.
        """
        self.check_space()
        batch, _, beams, _ = self.bias.shape
        self.bias.scatter_(3, self.slots[:, None].expand(batch, 1, beams, 1), 0.0)
        return self.positions

    def attend(self, layer: int, heads: Tensor) -> Tensor:
        """Attention of the new tokens in a layer, whose keys and values are stored.

        Args:
            layer: The number of the layer.
            heads: (3, B, H, K, Dh) query, key and value.

        Returns:
            (B, H, K, Dh).
        """
        filled = self.first + (self.steps + 1) * self.num_beams
        if self.static:
            filled = self.bias.shape[3]
        return attend(heads, self.memory[layer], self.bias, self.slots, filled)

    def advance(self) -> None:
        """Moves on to the next token, after all layers of a step."""
        self.slots += self.num_beams
        self.positions += 1
        self.steps += 1

    def reorder(self, parents: Tensor) -> None:
        """Makes beam k of row b continue what was beam parents[b, k] of that row; parents (B, K).

        Keys and values of the sources stay where they are.
        """
        if self.num_beams == 1 or not self.steps:
            return
        filled = slice(self.first, self.first + self.steps * self.num_beams)
        rows = torch.arange(len(parents), device=parents.device)[:, None]
        for layer in self.memory:  # one at a time, since a copy of it lies beside it
            by_step = layer[:, :, :, filled].unflatten(3, (self.steps, self.num_beams))
            by_beam = by_step.permute(1, 4, 0, 2, 3, 5)  # (B, K, 2, H, steps, Dh)
            by_beam.copy_(by_beam[rows, parents])

    def keep(self, rows: Tensor) -> None:
        """Drops all rows but these, which are indices or a bool for each row, in this order."""
        rows = rows.nonzero().flatten() if rows.dtype == torch.bool else rows
        self.memory = self.memory.index_select(2, rows)
        self.bias = self.bias[rows]
        self.lengths = self.lengths[rows]
        self.positions = self.positions[rows]
        self.condition = None if self.condition is None else self.condition[rows]


def round_up(places: int) -> int:
    """The next multiple of 32."""
    return -(-places // 32) * 32
