"""Recording what a function launches on a CUDA device, to launch it again at once."""

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["record", "run_on"]


def run_on(stream: torch.cuda.Stream, function: Callable[[], Any]) -> Any:
    """Runs `function` on `stream`, in order with the work before and after on the current one."""
    current = torch.cuda.current_stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        result = function()
    current.wait_stream(stream)
    return result


def record(
    function: Callable[[], Any], stream: torch.cuda.Stream, pool: Any = None
) -> tuple[torch.cuda.CUDAGraph, Any]:
    """Records what `function` launches; nothing of it runs now.

    The workspaces of matrix products are dropped before and after. So those of the graph lie in its
    own memory: work between its replays does not use them, and a graph recorded on the same stream
    does not free them when it is destroyed.

    Args:
        function: Launches the work.
        stream: One that the same work has run on before, so that libraries have set themselves up.
        pool: The memory of another graph, to share it; such graphs run one at a time.

    Returns:
        The graph, and what `function` returned, which each replay fills anew.
    """
    graph = torch.cuda.CUDAGraph()
    torch._C._cuda_clearCublasWorkspaces()
    # thread_local: another thread may pin memory meanwhile
    with torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"):
        result = function()
    torch._C._cuda_clearCublasWorkspaces()
    return graph, result
