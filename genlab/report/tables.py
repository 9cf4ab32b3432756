"""Tables for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

__all__ = ["certificate_table", "measured_on", "metrics_table"]


def metrics_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """A table of eval/metrics.json's entries {metric: {value, split, count, features, ...}}."""
    table = Table(title=None, box=None, pad_edge=False)
    for name in ("metric", "value", "measured on", "features"):
        table.add_column(name, justify="right" if name == "value" else "left")
    for name, entry in results.items():
        error = f" ± {entry['standard_error']:.1g}" if "standard_error" in entry else ""
        value = f"{entry['value']:.4g}{error}"
        table.add_row(name, value, measured_on(entry), entry["features"] or "")
    return table


def measured_on(entry: Mapping[str, Any]) -> str:
    """What was measured and against what, as in "10000 samples against train" or "500 of test"."""
    if entry["split"] is None:
        what = f"{entry['count']} samples"
    else:
        what = f"{entry['count']} of {entry['split']}"
    if entry.get("reference"):
        what += f" against {entry['reference']}"
    if entry.get("own_data", True) is False:
        what += "; not the data of the run"
    return what


def certificate_table(certificate: Mapping[str, Any], most: int = 24) -> Table:
    """A row for each residual block of a certificate.

    Args:
        certificate: As genlab.nn.certificate has it.
        most: Of more blocks, the so many with the largest bounds.
    """
    blocks, layers = certificate["blocks"], certificate["layers"]
    largest = sorted(blocks, key=lambda block: -block["lipschitz"])[:most]
    shown = sorted(largest, key=blocks.index)
    left = f"; the {len(shown)} largest of {len(blocks)}" if len(shown) < len(blocks) else ""
    title = f"certified: every block's bound is below 1{left}"
    table = Table(title=title, box=None, pad_edge=False)
    table.add_column("block")
    table.add_column("layers' norms by FFT")
    table.add_column("exact where known")
    table.add_column("block's bound")
    table.add_column("iterations of its inverse, at most")
    for block in shown:
        own = [layer for layer in layers if layer["name"].startswith(f"{block['name']}.")]
        exact = ["-" if layer["exact"] is None else f"{layer['exact']:.4f}" for layer in own]
        table.add_row(
            block["name"],
            " ".join(f"{layer['fft']:.4f}" for layer in own),
            " ".join(exact),
            f"{block['lipschitz']:.4f}",
            str(block["iterations"]),
        )
    return table
