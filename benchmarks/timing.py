"""What the benchmarks share: cases that take turns, their medians, memory, the machine's name."""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import torch

CLEAR_REFS = Path("/proc/self/clear_refs")


def synchronize(device: torch.device | str) -> None:
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize()


def medians(
    steps: dict[str, Callable], rounds: int, device: torch.device | str = "cpu", warmup: int = 2
) -> dict[str, float]:
    """Median milliseconds of each step.

    In each round all steps take their turn, so that other load on the machine affects all of them.
    """
    for step in steps.values():
        for _ in range(warmup):
            step()
    times = {case: [] for case in steps}
    for _ in range(rounds):
        for case, step in steps.items():
            synchronize(device)
            start = time.perf_counter()
            step()
            synchronize(device)
            times[case].append(1e3 * (time.perf_counter() - start))
    return {case: statistics.median(values) for case, values in times.items()}


def medians_apart(
    make_step: Callable, cases: Iterable[str], rounds: int, *args, device="cpu", warmup: int = 2
) -> dict:
    """`medians` of make_step(case, *args), each case in its own process.

    What a process pays for memory depends on all that it has done before. A process waits while the
    others take their turn; calling it costs about 0.1 ms.
    """
    with ExitStack() as stack:
        steps = {}
        for case in cases:
            setting = (make_step, case, args, torch.get_num_threads())
            pool = stack.enter_context(get_context("spawn").Pool(1, _prepare, setting))
            steps[case] = partial(pool.apply, _turn, (str(device),))
        return medians(steps, rounds, warmup=warmup)


def _prepare(make_step: Callable, case: str, args: tuple, num_threads: int) -> None:
    global _step
    torch.set_num_threads(num_threads)
    _step = make_step(case, *args)


def _turn(device: str) -> None:
    _step()
    synchronize(device)


def added_memory(step: Callable, device: torch.device | str = "cpu", repeats: int = 3) -> float:
    """MiB that a step adds at its peak to the memory in use between steps.

    On a CPU it is of the resident set, and must be called in a process of its own (Linux; NaN
    elsewhere); on CUDA it is the allocator's peak.
    """
    for _ in range(2):
        step()  # allocates the optimiser's state and the libraries' own buffers
    if torch.device(device).type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if not CLEAR_REFS.exists():
        return float("nan")
    before = _status_mib("VmRSS")
    CLEAR_REFS.write_text("5")  # the peak counts from here
    for _ in range(repeats):
        step()
    return _status_mib("VmHWM") - before


def memories(
    make_step: Callable, cases: Iterable[str], *args, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """`added_memory` of make_step(case, *args), each case in a fresh process.

    Its number of threads is that of this process.
    """
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        options = (args, str(device), torch.get_num_threads())
        return {case: pool.apply(_memory, (make_step, case, *options)) for case in cases}


def _memory(make_step: Callable, case: str, args: tuple, device: str, num_threads: int) -> float:
    torch.set_num_threads(num_threads)
    return added_memory(make_step(case, *args), device)


def _status_mib(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 2**10


def chip(device: torch.device | str = "cpu") -> str:
    """The name of the processor or GPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name()
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def machine(device: torch.device | str = "cpu") -> str:
    """One line: version, chip, cores and threads."""
    threads = torch.get_num_threads()
    return f"torch {version('torch')}, {chip(device)}, {os.cpu_count()} cores, {threads} threads"


def arguments(parser: argparse.ArgumentParser, rounds: int) -> argparse.Namespace:
    """Parses the command line, with the options that every benchmark has."""
    parser.add_argument(
        "--rounds", type=int, default=rounds, help="turns of each case; their median counts"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    found = parser.parse_args()
    torch.set_num_threads(found.threads)
    return found


def save(path: Path | None, results: dict[str, dict]) -> None:
    """Writes the results if a path was given.

    They are {work: {"baseline": case, "ms": {case: median}, "mib": {case: memory}}}.
    """
    if path is not None:
        path.write_text(json.dumps(results, indent=2) + "\n")
        print(f"numbers  {path}")
