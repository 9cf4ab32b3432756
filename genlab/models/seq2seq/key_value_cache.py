"""What a decoder remembers, the source once a row and the target once a beam; and its steps as a
CUDA graph.
"""

from collections import OrderedDict
from collections.abc import Callable
from weakref import WeakKeyDictionary, finalize

import torch
from torch import Tensor

from genlab.nn.cuda_graph import aside, record
from genlab.nn.decoder_step import attend

__all__ = ["Cache", "Captured", "captured"]

MOST = 8  # captured steps that wait for further calls, a network
PART = 1 / 8  # of the device's memory that they hold at most


class Cache:
    """Keys and values of B sources and of the K targets that are being written to each,
    (num_layers, 2, B, H, S, Dh).

    Source tokens never see the target, so their keys and values do not depend on what is written
    and are computed once; the K beams of a row share them. Of the S places the first are the
    source's; then come, step after step, one a beam. All rows step together; a row's next position
    is its own source length + `steps`. What a beam sees is in `bias`.

    Only `keep` changes a shape or an address. static, the default on CUDA: a step has one shape,
    over all S places, and never waits for the host, so that it can be captured, and few numbers of
    places occur; else it has those filled.
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
        self.num_layers, self.num_beams, self.max_new_tokens = num_layers, num_beams, max_new_tokens
        self.static = ids.is_cuda if static is None else static
        batch, self.first = len(ids), padded(ids.shape[1]) if self.static else ids.shape[1]
        self.segments = ids.new_full((1, 1), target_segment)
        self.positions = ids.new_zeros(batch, 1)  # where the next token of each row stands
        self.slots = ids.new_zeros(num_beams)  # where its keys go
        self.memory, self.bias, self.condition = None, None, None

    def read(self, lengths: Tensor, condition: Tensor | None) -> None:
        """Other sources are about to come, of lengths (B,), to be written to under condition (B,
        C).
        """
        self.lengths, self.layer = lengths, 0
        if self.condition is None or condition is None:
            self.condition = condition if condition is None else condition.clone()
        else:
            self.condition.copy_(condition)

    def take(self, heads: Tensor) -> None:
        """The keys and values of the sources in the next layer, (2, B, H, L, Dh)."""
        _, batch, num_heads, self.length, head_dim = heads.shape
        if self.memory is None:
            places = self.first + self.num_beams * self.max_new_tokens
            places = (
                padded(places) if self.static else places
            )  # what SDPA's kernels want of a bias, too
            self.memory = heads.new_empty(self.num_layers, 2, batch, num_heads, places, head_dim)
            self.bias = heads.new_empty(batch, 1, self.num_beams, places)
        self.memory[self.layer, :, :, :, : self.length].copy_(heads)
        self.layer += 1

    def begin(self) -> None:
        """Nothing is written yet."""
        self.steps = 0  # on the host; all that follows is on the device
        self.memory[..., self.length :, :] = 0  # weights of 0 do not hide a NaN
        visible = (
            torch.arange(self.bias.shape[3], device=self.bias.device)
            < self.lengths[:, None, None, None]
        )
        self.bias.fill_(-torch.inf).masked_fill_(visible, 0.0)
        self.positions.copy_(self.lengths[:, None])
        torch.arange(self.first, self.first + self.num_beams, out=self.slots)

    def check_room(self) -> None:
        if self.steps >= self.max_new_tokens:
            raise ValueError(
                f"the cache is full: prefill asked for max_new_tokens={self.max_new_tokens}"
            )

    def open(self) -> Tensor:
        """Before the layers of a step: each beam sees its own next place. -> (B, 1): where its
        token stands in the text.
        """
        self.check_room()
        batch, _, beams, _ = self.bias.shape
        self.bias.scatter_(3, self.slots[:, None].expand(batch, 1, beams, 1), 0.0)
        return self.positions

    def attend(self, layer: int, heads: Tensor) -> Tensor:
        """Query, key and value of the tokens being written, (3, B, H, K, Dh) -> what they attend
        to, (B, H, K, Dh).
        """
        filled = (
            self.bias.shape[3] if self.static else self.first + (self.steps + 1) * self.num_beams
        )
        return attend(heads, self.memory[layer], self.bias, self.slots, filled)

    def advance(self) -> None:
        """The tokens of this step are written in every layer."""
        self.slots += self.num_beams
        self.positions += 1
        self.steps += 1

    def reorder(self, parents: Tensor) -> None:
        """Beam k of row b goes on from beam parents[b, k] of that row; touches the target alone."""
        if self.num_beams == 1 or not self.steps:
            return
        filled = slice(self.first, self.first + self.steps * self.num_beams)
        rows = torch.arange(len(parents), device=parents.device)[:, None]
        for memory in self.memory:  # a layer at a time, which bounds what lies beside it
            beams = (
                memory[:, :, :, filled]
                .unflatten(3, (self.steps, self.num_beams))
                .permute(1, 4, 0, 2, 3, 5)
            )
            beams.copy_(beams[rows, parents])

    def keep(self, rows: Tensor) -> None:
        """Goes on with these rows (indices, or a bool a row) alone, in this order."""
        rows = rows.nonzero().flatten() if rows.dtype == torch.bool else rows
        self.memory, self.bias = self.memory.index_select(2, rows), self.bias[rows]
        self.lengths, self.positions = self.lengths[rows], self.positions[rows]
        self.condition = None if self.condition is None else self.condition[rows]


def padded(places: int) -> int:
    """A multiple of 32: few numbers occur."""
    return -(-places // 32) * 32


# --- a step as a CUDA graph -----------------------------------------------------------------------


class Captured:
    """The steps of a network with one static cache, captured as a CUDA graph once and replayed for
    each token.

    All rows are computed to the end, since a graph has one shape: `keep` but forgets those that
    left. Logits hold until the next step. After another prefill with this cache, other sources are
    written to by the same graph.
    """

    def __init__(self, cache: Cache):
        self.cache, self.replay, self.rows = cache, None, None

    def step(self, net, tokens: Tensor) -> Tensor:
        """Tokens (B, K) of the rows that are left -> logits (B, K, V)."""
        cache = self.cache
        cache.check_room()
        if self.replay is None:
            self._capture(net)
        if self.rows is None:
            self.tokens.copy_(tokens)
        else:
            self.tokens.index_copy_(0, self.rows, tokens)
        now = cache.steps
        self.replay()
        cache.steps = now + 1
        return self.logits if self.rows is None else self.logits.index_select(0, self.rows)

    def _capture(self, net) -> None:
        cache = self.cache
        self.tokens = cache.positions.new_zeros(len(cache.positions), cache.num_beams)
        kind = self.tokens.device.type

        def step() -> Tensor:
            cache.steps = 0
            # What autocast keeps of the weights is freed when it ends, and the graph would go on to
            # read it.
            with torch.autocast(
                kind,
                torch.get_autocast_dtype(kind),
                torch.is_autocast_enabled(kind),
                cache_enabled=False,
            ):
                return net.step(self.tokens, cache)

        self.replay, self.logits = capture(step)
        cache.begin()  # what warming up wrote

    def reorder(self, parents: Tensor) -> None:
        if self.rows is not None:
            alone = torch.arange(self.cache.num_beams, device=parents.device).expand_as(self.tokens)
            parents = alone.index_copy(0, self.rows, parents)
        self.cache.reorder(parents)

    def keep(self, rows: Tensor) -> None:
        rows = rows.nonzero().flatten() if rows.dtype == torch.bool else rows
        self.rows = rows if self.rows is None else self.rows[rows]


def capture(step: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """(what does a step's work on the device again, the tensor that it leaves its result in)."""
    stream = torch.cuda.Stream()
    aside(step, stream)  # libraries set themselves up, which cannot be captured
    graph, result = record(step, stream)
    return graph.replay, result


class Shelf:
    """Captured steps of a network whose parameters lie at `addresses`, the last used ones, until
    they are needed again.
    """

    def __init__(self, addresses: tuple):
        self.addresses, self.steps = addresses, OrderedDict()

    def put(self, key: tuple, step: Captured) -> None:
        if step.replay is None:
            return
        self.steps[key] = step
        self.steps.move_to_end(key)
        most = room(step.cache.memory.device)
        while (
            len(self.steps) > MOST
            or sum(one.cache.memory.nbytes for one in self.steps.values()) > most
        ):
            self.steps.popitem(last=False)


SHELVES: WeakKeyDictionary = (
    WeakKeyDictionary()
)  # beside the networks, so that no copy or checkpoint of them holds a graph


def room(device: torch.device) -> float:
    """Bytes that captured steps may hold while nobody writes."""
    return PART * torch.cuda.get_device_properties(device).total_memory


def captured(
    user,
    net,
    ids: Tensor,
    num_beams: int,
    max_new_tokens: int,
    target_segment: int,
    condition: Tensor | None,
) -> Captured:
    """Steps for the use of `user` alone as long as it lives, old ones of these shapes if there are;
    see BERT.prefill.

    Where autocast, the precision of matrix products or inference mode differ, or the parameters
    moved, they are others.
    """
    parameters = list(net.parameters())
    kind = parameters[0].device.type
    addresses = tuple((p.data_ptr(), p.dtype) for p in parameters)
    if net not in SHELVES or SHELVES[net].addresses != addresses:
        SHELVES[net] = Shelf(addresses)
    sizes = (num_beams, max_new_tokens, target_segment)
    under = None if condition is None else (condition.shape, condition.dtype)
    mode = (
        torch.is_autocast_enabled(kind),
        torch.get_autocast_dtype(kind),
        torch.get_float32_matmul_precision(),
    )
    key = (len(ids), padded(ids.shape[1]), *sizes, under, *mode, torch.is_inference_mode_enabled())
    step = SHELVES[net].steps.pop(key, None) or Captured(
        Cache(len(net.layers), ids, *sizes, static=True)
    )
    step.rows = None
    finalize(user, SHELVES[net].put, key, step).atexit = False
    return step
