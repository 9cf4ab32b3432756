"""Pictures of points in the plane and of densities over it."""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from genlab.files import writing

__all__ = ["Window", "save_histograms", "save_lines", "save_points", "window"]

Window = tuple[float, float, float, float]  # left, right, bottom, top
MAX_POINTS = 20_000  # in one panel
# The two ends of matplotlib's viridis
DARK = "#440154"
BRIGHT = "#fde725"


def window(points: Tensor, margin: float = 0.15) -> Window:
    """The square around points (N, 2), with a margin that is a fraction of its side."""
    low, high = points.amin(0), points.amax(0)
    centre = (low + high) / 2
    half = (0.5 + margin) * (high - low).max()
    left, bottom = (centre - half).tolist()
    right, top = (centre + half).tolist()
    return left, right, bottom, top


def save_points(panels: Mapping[str, Tensor], path: Path, view: Window) -> Path:
    """Writes a PNG with a panel for each tensor; returns `path`.

    Args:
        panels: {title: points (N, 2), drawn as dots, or a density (S, S) with rows of constant y,
            drawn as a heat map}.
        path: Of the PNG.
        view: What each panel shows of the plane.
    """
    figure, axes = _panels(panels)
    for axis, values in zip(axes, panels.values(), strict=True):
        values = values.detach().double().cpu()
        if values.shape[1] == 2:
            size = min(max(100 / len(values) ** 0.5, 0.8), 5)
            x, y = values[:MAX_POINTS].T.numpy()
            axis.plot(x, y, ".", color=BRIGHT, markersize=size, markeredgewidth=0)
            axis.set_facecolor(DARK)
        else:
            options = {"cmap": "viridis", "vmin": 0, "interpolation": "bilinear"}
            axis.imshow(values.numpy(), origin="lower", extent=view, **options)
        axis.set(xlim=view[:2], ylim=view[2:], aspect="equal")
    return _save(figure, path)


def save_lines(lines: Tensor, path: Path) -> Path:
    """Writes a PNG of R paths (R, K, 2) in the plane, with dots at their ends; returns `path`."""
    figure, (axis,) = _panels({f"{len(lines)} paths": lines})
    for line in lines.detach().cpu().numpy():
        axis.plot(*line.T, linewidth=0.8)
        axis.plot(*line[[0, -1]].T, ".", color="black", markersize=3)
    axis.set_aspect("equal")
    return _save(figure, path)


def save_histograms(series: Mapping[str, Tensor], path: Path, label: str) -> Path:
    """Writes a PNG of histograms that share an axis; returns `path`.

    Args:
        series: {name: numbers (N,)}.
        path: Of the PNG.
        label: Of the axis.
    """
    figure = Figure(figsize=(5, 3), layout="constrained")
    axis = figure.add_subplot()
    values = {name: numbers.detach().double().cpu().numpy() for name, numbers in series.items()}
    bins = np.histogram_bin_edges(np.concatenate(list(values.values())), 60)
    for name, numbers in values.items():
        axis.hist(numbers, bins, density=True, alpha=0.5, label=name)
    axis.set(xlabel=label, ylabel="frequency")
    axis.legend(frameon=False)
    return _save(figure, path)


def _panels(titles: Collection[str]) -> tuple[Figure, list]:
    count = len(titles)
    figure = Figure(figsize=(3.2 * count, 3.5), layout="constrained")
    axes = [figure.add_subplot(1, count, i, title=title) for i, title in enumerate(titles, 1)]
    for axis in axes:
        axis.tick_params(labelsize="small")
    return figure, axes


def _save(figure: Figure, path: Path) -> Path:
    with writing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return Path(path)
