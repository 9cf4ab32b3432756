"""Decoding steps as CUDA graphs: each is captured once, then replayed for every token.

A captured step belongs to one scorer at a time. Idle ones are kept for each network, and the next
scorer of the same shapes takes one over.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, finalize

import torch
from torch import Tensor, nn

from genlab.models.seq2seq.key_value_cache import Cache, round_up
from genlab.nn.cuda_graph import record, run_on

__all__ = ["CapturedStep", "borrow_step"]

MAX_IDLE = 8  # captured steps of a network
MAX_IDLE_MEMORY = 1 / 8  # of the device's memory, for the caches of a network's idle steps


class CapturedStep:
    """The decoding step of a network over one static cache, as a CUDA graph.

    All rows are computed to the end, since a graph has one shape: `keep` only stops reading the
    rows that left. Logits hold until the next step. After another prefill into the cache the same
    graph serves other sources.
    """

    def __init__(self, cache: Cache):
        self.cache = cache
        self.replay: Any = None  # runs the graph; None: not captured yet
        self.rows: Tensor | None = None  # the rows that are left; None: all

    def step(self, net: Any, tokens: Tensor) -> Tensor:
        """Tokens (B, K) of the rows that are left -> logits (B, K, V)."""
        cache = self.cache
        cache.check_space()
        if self.replay is None:
            self._capture(net)
        if self.rows is None:
            self.tokens.copy_(tokens)
        else:
            self.tokens.index_copy_(0, self.rows, tokens)
        steps = cache.steps
        self.replay()
        cache.steps = steps + 1  # a replay moves only what is on the device
        return self.logits if self.rows is None else self.logits.index_select(0, self.rows)

    def _capture(self, net: Any) -> None:
        cache = self.cache
        self.tokens = cache.positions.new_zeros(len(cache.positions), cache.num_beams)
        kind = self.tokens.device.type

        def step() -> Tensor:
            cache.steps = 0
            # Autocast frees its cached weights when it ends, but the graph would still read them.
            with torch.autocast(
                kind,
                torch.get_autocast_dtype(kind),
                torch.is_autocast_enabled(kind),
                cache_enabled=False,
            ):
                return net.step(self.tokens, cache)

        self.replay, self.logits = capture(step)
        cache.clear_targets()  # of what the warm-up wrote

    def reorder(self, parents: Tensor) -> None:
        """As Cache.reorder, parents (B, K) of the rows that are left."""
        if self.rows is not None:
            same = torch.arange(self.cache.num_beams, device=parents.device).expand_as(self.tokens)
            parents = same.index_copy(0, self.rows, parents)
        self.cache.reorder(parents)

    def keep(self, rows: Tensor) -> None:
        """As Cache.keep."""
        rows = rows.nonzero().flatten() if rows.dtype == torch.bool else rows
        self.rows = rows if self.rows is None else self.rows[rows]


def capture(step: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Captures `step` -> (a function that repeats its work, the tensor that holds the result)."""
    stream = torch.cuda.Stream()
    run_on(stream, step)  # libraries set themselves up, which cannot be captured
    graph, result = record(step, stream)
    return graph.replay, result


class IdleSteps:
    """The idle captured steps of a network whose parameters lie at `addresses`, last used last."""

    def __init__(self, addresses: tuple):
        self.addresses = addresses
        self.steps: OrderedDict[tuple, CapturedStep] = OrderedDict()

    def put(self, key: tuple, step: CapturedStep) -> None:
        """Keeps `step`, and drops the longest idle ones beyond the limits."""
        if step.replay is None:
            return
        self.steps[key] = step
        self.steps.move_to_end(key)
        limit = memory_limit(step.cache.memory.device)
        while len(self.steps) > MAX_IDLE or self.memory() > limit:
            self.steps.popitem(last=False)

    def memory(self) -> int:
        """Bytes of the caches."""
        return sum(step.cache.memory.nbytes for step in self.steps.values())


# Beside the networks rather than in them, so that no copy or checkpoint of a network holds a graph
IDLE: WeakKeyDictionary[nn.Module, IdleSteps] = WeakKeyDictionary()


def memory_limit(device: torch.device) -> float:
    """Bytes that the idle captured steps of a network may hold."""
    return MAX_IDLE_MEMORY * torch.cuda.get_device_properties(device).total_memory


def borrow_step(
    user: Any,
    net: Any,
    ids: Tensor,
    num_beams: int,
    max_new_tokens: int,
    target_segment: int,
    condition: Tensor | None,
) -> CapturedStep:
    """A captured step that belongs to `user` as long as that object lives.

    It is an idle one of the same shapes, settings of autocast, precision of matrix products and
    inference mode, else a new one. Where the parameters have moved, no idle one is taken.

    Args:
        user: The scorer; the step is idle again when it is collected.
        net: A BERT.
        ids: (B, L) the sources.
        num_beams, max_new_tokens, target_segment, condition: See BERT.prefill.
    """
    parameters = list(net.parameters())
    kind = parameters[0].device.type
    addresses = tuple((p.data_ptr(), p.dtype) for p in parameters)
    if net not in IDLE or IDLE[net].addresses != addresses:
        IDLE[net] = IdleSteps(addresses)
    sizes = (num_beams, max_new_tokens, target_segment)
    key = (
        len(ids),
        round_up(ids.shape[1]),
        *sizes,
        None if condition is None else (condition.shape, condition.dtype),
        torch.is_autocast_enabled(kind),
        torch.get_autocast_dtype(kind),
        torch.get_float32_matmul_precision(),
        torch.is_inference_mode_enabled(),
    )
    step = IDLE[net].steps.pop(key, None)
    if step is None:
        step = CapturedStep(Cache(len(net.layers), ids, *sizes, static=True))
    step.rows = None
    finalize(user, IDLE[net].put, key, step).atexit = False
    return step
