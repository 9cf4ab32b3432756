"""Time of IMLE's exact nearest-neighbour search, against its matrix product and scikit-learn.

    python benchmarks/nearest_neighbour.py
    python benchmarks/nearest_neighbour.py 60000 120000 64
    python benchmarks/nearest_neighbour.py --threads 2 --budget 8388608

The first searches 10,000 codes of 64 numbers among 20,000 candidates; the second has the size of
GLANN's own. The floor is the matrix product X Y^T in the same blocks, whose result is not used.
scikit-learn's search is by brute force. Both searches return the same rows, which is checked.
"""

import argparse

import timing
import torch
from rich.console import Console
from rich.table import Table
from torch.nn.functional import normalize

from genlab.metrics.neighbours import COLUMNS, block_budget, nearest

try:
    from sklearn.neighbors import NearestNeighbors
except ImportError:
    NearestNeighbors = None


def floor(points: torch.Tensor, others: torch.Tensor) -> None:
    rows = block_budget(points.device) // (COLUMNS * points.element_size())
    block = points.new_empty(rows, COLUMNS)
    for part in points.split(rows):
        for those in others.split(COLUMNS):
            torch.mm(part, those.T, out=block[: len(part), : len(those)])


def cases(points: torch.Tensor, others: torch.Tensor, budget: int | None) -> dict:
    found = {
        "matrix product alone": lambda: floor(points, others),
        "genlab nearest": lambda: nearest(points, others, budget=budget).rows[:, 0],
    }
    if points.device.type == "cpu" and NearestNeighbors is not None:
        search = NearestNeighbors(
            n_neighbors=1, algorithm="brute", n_jobs=torch.get_num_threads()
        ).fit(others.numpy())
        found["scikit-learn brute force"] = lambda: torch.from_numpy(
            search.kneighbors(points.numpy())[1][:, 0]
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "sizes",
        nargs="*",
        type=int,
        default=[10_000, 20_000, 64],
        help="codes, candidates, dimensions",
    )
    parser.add_argument("--budget", type=int, help="bytes of a block; genlab's own if not given")
    arguments = timing.arguments(parser, rounds=7)
    count, num_candidates, dim = arguments.sizes
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    points, others = (normalize(torch.randn(n, dim)).to(device) for n in (count, num_candidates))
    steps = cases(points, others, arguments.budget)
    answers = {name: step() for name, step in steps.items()}
    times = timing.medians(steps, arguments.rounds, device, warmup=0)
    table = Table(
        title=f"{count} x {num_candidates} x {dim}, float32", title_justify="left", box=None
    )
    for name in ("search", "ms", "x the product alone", "same rows"):
        table.add_column(name, justify="left" if name == "search" else "right")
    for name, ms in times.items():
        answer = answers[name]
        same = (
            ""
            if answer is None
            else f"{(answer.to(device) == answers['genlab nearest']).double().mean():.4%}"
        )
        table.add_row(name, f"{ms:.0f}", f"{ms / times['matrix product alone']:.2f}", same)
    print(f"{timing.machine(device)}, median of {arguments.rounds} interleaved rounds\n")
    Console(width=max(100, Console().width)).print(table)
    timing.save(arguments.json, {"nearest": {"baseline": "matrix product alone", "ms": times}})


if __name__ == "__main__":
    main()
