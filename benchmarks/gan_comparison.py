"""The table and the figure of docs/gan_comparison.md, from the runs of a sweep.

    genlab train -m experiment=gan_comparison data=fashion_mnist,cifar10 \\
        model=dcgan,sngan,sagan,selfmod,stylegan,ogan
    python benchmarks/gan_step.py --recipes --json speed.json
    python benchmarks/gan_comparison.py outputs/multirun/<stamp> --speed speed.json \\
        --figure docs/images/gan_comparison.png

Several sweeps may be given: runs of one model and data set with different seeds share a row. Speed
is images a second of the step alone, and memory what a step adds at its peak, both at 32x32 in one
channel.
"""

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure

METRICS = ("fid", "precision", "recall", "diversity")


def read(folders: list[Path]) -> dict[tuple[str, str], list[Path]]:
    """Finished and measured runs by (data set, model), in the order of their seeds."""
    found = defaultdict(list)
    for metrics in sorted(
        path for folder in folders for path in folder.glob("*/eval/metrics.json")
    ):
        run = metrics.parents[1]
        manifest = json.loads((run / "manifest.json").read_text())
        found[manifest["data"]["name"], manifest["model"]].append((manifest["seed"], run))
    return {key: [run for _, run in sorted(runs)] for key, runs in found.items()}


def row(data: str, model: str, runs: list[Path], speed: dict, case: str) -> str:
    """The row of a model on a data set, as Markdown."""
    values = [json.loads((run / "eval" / "metrics.json").read_text()) for run in runs]
    cells = [", ".join(f"{v[name]['value']:.3g}" for v in values) for name in METRICS]
    measured = next(
        (found for key, found in speed.items() if f"model={model} " in key and case in found["ms"]),
        None,
    )
    if measured:
        rate = 1e3 * measured["batch_size"] / measured["ms"][case]
        cells += [f"{rate:.0f}", f"{measured['mib'][case]:.0f}"]
    else:
        cells += ["", ""]
    return " | ".join((f"| {data}", f"`{model}`", *cells)) + " |"


def curve(run: Path) -> tuple[list[float], list[float]]:
    """(thousands of images seen, FID over random features) at each validation."""
    with open(run / "metrics.csv", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r.get("val/fid_random")]
    manifest = json.loads((run / "manifest.json").read_text())
    per_step = manifest["images_seen"] / manifest["steps"] / 1000
    return [int(r["step"]) * per_step for r in rows], [float(r["val/fid_random"]) for r in rows]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, help="folders of sweeps")
    parser.add_argument("--speed", type=Path, help="what gan_step.py --recipes --json wrote")
    parser.add_argument("--case", default="shared", help="which of its cases: shared; shared, bf16")
    parser.add_argument("--figure", type=Path, default=Path("gan_comparison.png"))
    arguments = parser.parse_args()
    found = read(arguments.folders)
    speed = json.loads(arguments.speed.read_text()) if arguments.speed else {}
    print("| data | model | FID | precision | recall | diversity | images/s | peak MiB |")
    print("|---" * 8 + "|")
    for (data, model), runs in found.items():
        print(row(data, model, runs, speed, arguments.case))
    sets = list(dict.fromkeys(data for data, _ in found))
    figure = Figure(figsize=(5 * len(sets), 4), layout="constrained")
    for axis, data in zip(figure.subplots(1, len(sets), squeeze=False)[0], sets, strict=True):
        for color, model in enumerate(sorted(model for name, model in found if name == data)):
            for i, run in enumerate(found[data, model]):
                axis.semilogy(*curve(run), f"C{color}", marker=".", label=None if i else model)
        axis.set(title=data, xlabel="thousands of images seen", ylabel="FID over random features")
        axis.legend(fontsize="small")
    figure.savefig(arguments.figure, dpi=100)
    print(f"figure  {arguments.figure}")


if __name__ == "__main__":
    main()
