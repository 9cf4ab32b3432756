"""Points of the plane and densities over it as pictures."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from genlab.files import writing

__all__ = ["Window", "save_histograms", "save_lines", "save_points", "window"]

Window = tuple[float, float, float, float]  # left, right, bottom, top
MAX_POINTS = 20_000  # of one panel


def window(points: Tensor, margin: float = 0.15) -> Window:
    """The square around points (N, 2), with a margin of that part of its side."""
    low, high = points.amin(0), points.amax(0)
    centre, half = (low + high) / 2, (0.5 + margin) * (high - low).max()
    (left, bottom), (right, top) = (centre - half).tolist(), (centre + half).tolist()
    return left, right, bottom, top


def save_points(panels: Mapping[str, Tensor], path: Path, view: Window) -> Path:
    """Writes a PNG of a panel for each: points (N, 2) as dots, a density (S, S) with rows of
    constant y as a heat map.
    """
    figure, axes = _panels(panels)
    for axis, values in zip(axes, panels.values(), strict=True):
        values = values.detach().double().cpu()
        if values.shape[1] == 2:
            size = min(max(100 / len(values) ** 0.5, 0.8), 5)
            axis.plot(
                *values[:MAX_POINTS].T.numpy(),
                ".",
                color="#fde725",
                markersize=size,
                markeredgewidth=0,
            )
            axis.set_facecolor("#440154")
        else:
            axis.imshow(
                values.numpy(),
                origin="lower",
                extent=view,
                cmap="viridis",
                vmin=0,
                interpolation="bilinear",
            )
        axis.set(xlim=view[:2], ylim=view[2:], aspect="equal")
    return _save(figure, path)


def save_lines(lines: Tensor, path: Path) -> Path:
    """Writes a PNG of paths (R, K, 2) in the plane, their ends as dots."""
    figure, (axis,) = _panels({f"{len(lines)} paths": lines})
    for line in lines.detach().cpu().numpy():
        axis.plot(*line.T, linewidth=0.8)
        axis.plot(*line[[0, -1]].T, ".", color="black", markersize=3)
    axis.set_aspect("equal")
    return _save(figure, path)


def save_histograms(series: Mapping[str, Tensor], path: Path, label: str) -> Path:
    """Writes a PNG of the histograms of several sets of numbers (N,) over one axis."""
    figure = Figure(figsize=(5, 3), layout="constrained")
    axis = figure.add_subplot()
    values = {name: numbers.detach().double().cpu().numpy() for name, numbers in series.items()}
    bins = np.histogram_bin_edges(np.concatenate(list(values.values())), 60)
    for name, numbers in values.items():
        axis.hist(numbers, bins, density=True, alpha=0.5, label=name)
    axis.set(xlabel=label, ylabel="frequency")
    axis.legend(frameon=False)
    return _save(figure, path)


def _panels(titles) -> tuple[Figure, list]:
    figure = Figure(figsize=(3.2 * len(titles), 3.5), layout="constrained")
    axes = [
        figure.add_subplot(1, len(titles), i + 1, title=title) for i, title in enumerate(titles)
    ]
    for axis in axes:
        axis.tick_params(labelsize="small")
    return figure, axes


def _save(figure: Figure, path: Path) -> Path:
    with writing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return Path(path)
