"""What a function launches on a CUDA device, recorded to be launched again at once."""

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["aside", "record"]


def aside(function: Callable[[], Any], stream: torch.cuda.Stream) -> Any:
    """Runs `function` on `stream`, after what was asked for before and before what will be."""
    current = torch.cuda.current_stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        result = function()
    current.wait_stream(stream)
    return result


def record(
    function: Callable[[], Any], stream: torch.cuda.Stream, pool: Any = None
) -> tuple[torch.cuda.CUDAGraph, Any]:
    """(the graph of what `function` launches, none of which runs now; what it returns, to be filled
    by each replay).

    stream: one that the same work has run on before, so that libraries have set themselves up.
    pool: the memory of another graph, to be shared with it by graphs that run one at a time.
    Workspaces of matrix products are dropped before and after: so those of the graph lie in its own
    memory, where neither work between its replays comes by them, nor a graph recorded on the same
    stream takes them along when it goes.
    """
    graph = torch.cuda.CUDAGraph()
    torch._C._cuda_clearCublasWorkspaces()
    with torch.cuda.graph(
        graph, pool, stream, capture_error_mode="thread_local"
    ):  # another thread may pin memory
        result = function()
    torch._C._cuda_clearCublasWorkspaces()
    return graph, result
