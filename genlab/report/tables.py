"""Tables for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

__all__ = ["certificate_table", "measured_on", "metrics_table"]


def metrics_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """A table of eval/metrics.json's entries {metric: {value, split, count, features, ...}}."""
    table = Table(title=None, box=None, pad_edge=False)
    for name, justify in (
        ("metric", "left"),
        ("value", "right"),
        ("measured on", "left"),
        ("features", "left"),
    ):
        table.add_column(name, justify=justify)
    for name, entry in results.items():
        error = f" ± {entry['standard_error']:.1g}" if "standard_error" in entry else ""
        table.add_row(
            name, f"{entry['value']:.4g}{error}", measured_on(entry), entry["features"] or ""
        )
    return table


def measured_on(entry: Mapping[str, Any]) -> str:
    """What was measured and against what, as in "10000 samples against train" or "500 of test"."""
    if entry["split"] is None:
        what = f"{entry['count']} samples"
    else:
        what = f"{entry['count']} of {entry['split']}"
    what += f" against {entry['reference']}" if entry.get("reference") else ""
    return what if entry.get("own_data", True) is not False else f"{what}; not the data of the run"


def certificate_table(certificate: Mapping[str, Any], most: int = 24) -> Table:
    """A row a residual block of genlab.nn.certificate, those with the largest bounds where there
    are more than `most`.
    """
    blocks, layers = certificate["blocks"], certificate["layers"]
    shown = sorted(sorted(blocks, key=lambda block: -block["lipschitz"])[:most], key=blocks.index)
    left = f"; the {len(shown)} largest of {len(blocks)}" if len(shown) < len(blocks) else ""
    table = Table(
        title=f"certified: every block's bound is below 1{left}", box=None, pad_edge=False
    )
    for name in (
        "block",
        "layers' norms by FFT",
        "exact where known",
        "block's bound",
        "iterations of its inverse, at most",
    ):
        table.add_column(name)
    for block in shown:
        own = [layer for layer in layers if layer["name"].startswith(f"{block['name']}.")]
        exact = ["-" if layer["exact"] is None else f"{layer['exact']:.4f}" for layer in own]
        norms = " ".join(f"{layer['fft']:.4f}" for layer in own)
        table.add_row(
            block["name"],
            norms,
            " ".join(exact),
            f"{block['lipschitz']:.4f}",
            str(block["iterations"]),
        )
    return table
