"""Time of the exact nearest-neighbour search of IMLE, against its matrix product alone and scikit-learn's brute force.

    python benchmarks/nearest_neighbour.py                   10,000 codes of 64 numbers among 20,000 candidates
    python benchmarks/nearest_neighbour.py 60000 120000 64   GLANN's own size
    python benchmarks/nearest_neighbour.py --threads 2 --budget 16777216

The floor is the matrix product X Y^T in the same blocks, without looking at it. All return the same rows, which is checked.
"""

import argparse
import os
import platform
import statistics
import time

import torch
from rich.console import Console
from rich.table import Table
from torch.nn.functional import normalize

from genlab.metrics.neighbours import nearest

try:
    from sklearn.neighbors import NearestNeighbors
except ImportError:
    NearestNeighbors = None


def floor(points: torch.Tensor, others: torch.Tensor, columns: int = 8192, budget: int = 16 << 20) -> None:
    for part in points.split(budget // (columns * points.element_size())):
        for block in others.split(columns):
            part @ block.T


def cases(points: torch.Tensor, others: torch.Tensor, budget: int | None) -> dict:
    found = {
        "matrix product alone": lambda: floor(points, others),
        "genlab nearest": lambda: nearest(points, others, budget=budget).rows[:, 0],
    }
    if points.device.type == "cpu" and NearestNeighbors is not None:
        search = NearestNeighbors(n_neighbors=1, algorithm="brute", n_jobs=torch.get_num_threads()).fit(others.numpy())
        found["scikit-learn brute force"] = lambda: torch.from_numpy(search.kneighbors(points.numpy())[1][:, 0])
    return found


def synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", type=int, default=[10_000, 20_000, 64], help="codes, candidates, dimensions")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget", type=int, help="bytes of a block; genlab's own if not given")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    count, num_candidates, dim = arguments.sizes
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    points, others = (normalize(torch.randn(n, dim)).to(device) for n in (count, num_candidates))
    steps = cases(points, others, arguments.budget)
    times = {name: [] for name in steps}
    answers = {name: step() for name, step in steps.items()}  # the first call warms up
    for _ in range(arguments.rounds):
        for name, step in steps.items():
            synchronize(device)
            start = time.perf_counter()
            step()
            synchronize(device)
            times[name].append(time.perf_counter() - start)
    chip = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    table = Table(title=f"{count} x {num_candidates} x {dim}, float32", title_justify="left", box=None)
    for name in ("search", "ms", "x the product alone", "same rows"):
        table.add_column(name, justify="left" if name == "search" else "right")
    base = statistics.median(times["matrix product alone"])
    for name, values in times.items():
        answer = answers[name]
        same = "" if answer is None else f"{(answer.to(device) == answers['genlab nearest']).double().mean():.4%}"
        middle = statistics.median(values)
        table.add_row(name, f"{1e3 * middle:.0f}", f"{middle / base:.2f}", same)
    console = Console(width=max(100, Console().width))
    console.print(
        f"torch {torch.__version__}, {chip}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, median of "
        f"{arguments.rounds} interleaved rounds\n",
        highlight=False,
    )
    console.print(table)


if __name__ == "__main__":
    main()
