"""Plots, drawn without pyplot: no global state and no display."""

import io
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

__all__ = ["curves", "save_prd"]

MAX_POINTS = 2000  # of one curve


def curves(series: Mapping[str, list[tuple[int, float]]]) -> bytes:
    """An SVG of named curves of (step, value) points on one pair of axes."""
    figure = Figure(figsize=(4.6, 2.6), layout="constrained")
    axes = figure.add_subplot()
    for name, points in series.items():
        points = points[:: max(1, len(points) // MAX_POINTS)]
        axes.plot(*zip(*points, strict=True), linewidth=1, label=name, marker="." if len(points) < 20 else None)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    if len(series) > 1:
        axes.legend(fontsize="small", frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    return buffer.getvalue()


def save_prd(precision, recall, path: Path) -> Path:
    """Writes the curve of precision (P,) against recall (P,) as a PNG; returns `path`."""
    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(recall, precision)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal")
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=110)
    return path
