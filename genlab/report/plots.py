"""Plots of metrics, drawn without pyplot, which has global state."""

from pathlib import Path

from matplotlib.figure import Figure

from genlab.files import writing

__all__ = ["save_prd"]


def save_prd(precision, recall, path: Path) -> Path:
    """Writes a PNG of the curve of precision (P,) against recall (P,); returns `path`."""
    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(recall, precision)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal")
    axes.grid(alpha=0.3)
    with writing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return path
