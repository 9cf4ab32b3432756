"""The densities that sweeps over the point sets have learned, a row a sweep, beside the data.

    python benchmarks/points.py outputs/multirun/<stamp> outputs/multirun/<stamp> \\
        --figure points.png
"""

import argparse
from pathlib import Path

import matplotlib
import torch

from genlab import config, runs
from genlab.report.points import window

matplotlib.use("agg")
import matplotlib.pyplot as plt

SETS = (
    "moons",
    "circles",
    "rings",
    "checkerboard",
    "eight_gaussians",
    "pinwheel",
    "swiss_roll",
    "two_spirals",
)
SIZE = 200  # of a picture, in cells


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "sweeps",
        nargs="+",
        type=Path,
        help="hydra.sweep.dir of each sweep with data= over the eight sets",
    )
    parser.add_argument("--figure", type=Path, default=Path("points.png"))
    chosen = parser.parse_args()
    found = [
        {config.read_frozen(run)["data"]["name"]: run for run in sweep.glob("data_*")}
        for sweep in chosen.sweeps
    ]
    figure, axes = plt.subplots(
        len(found) + 1, len(SETS), figsize=(1.5 * len(SETS), 1.55 * (len(found) + 1))
    )
    for column, name in zip(axes.T, SETS, strict=True):
        data = config.build(config.read_frozen(found[0][name])["data"])
        points = data.pick("test", 4000)["point"]
        left, right, bottom, top = view = window(points)
        column[0].plot(*points.T, ".", color="#fde725", markersize=0.6, markeredgewidth=0)
        column[0].set_title(name.replace("_", " "), fontsize="small")
        y, x = torch.meshgrid(
            torch.linspace(bottom, top, SIZE), torch.linspace(left, right, SIZE), indexing="ij"
        )
        for axis, sweep in zip(column[1:], found, strict=True):
            system = runs.load(sweep[name])
            grid = torch.stack([x, y], -1).view(-1, 2)
            density = system.log_prob(grid).exp().view(SIZE, SIZE)
            highest = density.flatten().quantile(0.995)
            axis.imshow(density, origin="lower", extent=view, vmin=0, vmax=highest)
        for axis in column:
            axis.set(
                xlim=view[:2],
                ylim=view[2:],
                aspect="equal",
                xticks=[],
                yticks=[],
                facecolor="#440154",
            )
    figure.tight_layout(pad=0.2)
    figure.savefig(chosen.figure, dpi=90)
    print(f"figure  {chosen.figure}")


if __name__ == "__main__":
    main()
