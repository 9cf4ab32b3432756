"""Tables of metrics and certificates, for the terminal and the report."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

__all__ = ["certificate_rows", "certificate_table", "measured_on", "metrics_table"]


def metrics_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """A table of eval/metrics.json: {metric: {value, split, count, features, ...}}."""
    table = Table(box=None, pad_edge=False)
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("measured on")
    table.add_column("features")
    for name, entry in results.items():
        error = f" ± {entry['standard_error']:.1g}" if "standard_error" in entry else ""
        value = f"{entry['value']:.4g}{error}"
        table.add_row(name, value, measured_on(entry), entry["features"] or "")
    return table


def measured_on(entry: Mapping[str, Any]) -> str:
    """What was measured: "10000 samples against train", "500 of test"."""
    if entry["split"] is None:
        what = f"{entry['count']} samples"
    else:
        what = f"{entry['count']} of {entry['split']}"
    what += f" against {entry['reference']}" if entry.get("reference") else ""
    return what if entry.get("own_data", True) is not False else f"{what}; not the data of the run"


def certificate_rows(certificate: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The residual blocks of a certificate (genlab.nn.certificate) with the norms of their layers.

    Returns:
        For each block its name, lipschitz and iterations, and as texts `fft` (bounds by FFT) and
        `exact` (exact norms, "-" where one is not known).
    """
    rows = []
    for block in certificate["blocks"]:
        prefix = f"{block['name']}."
        layers = [layer for layer in certificate["layers"] if layer["name"].startswith(prefix)]
        fft = " ".join(f"{layer['fft']:.4f}" for layer in layers)
        exact = " ".join(
            "-" if layer["exact"] is None else f"{layer['exact']:.4f}" for layer in layers
        )
        rows.append(block | {"fft": fft, "exact": exact})
    return rows


def certificate_table(certificate: Mapping[str, Any], most: int = 24) -> Table:
    """A row for each residual block of a certificate (genlab.nn.certificate).

    Args:
        certificate: Of a network.
        most: Of more blocks, this many are shown: those with the largest bounds.
    """
    rows = certificate_rows(certificate)
    largest = sorted(rows, key=lambda row: -row["lipschitz"])[:most]
    shown = sorted(largest, key=rows.index)
    left = f"; the {len(shown)} largest of {len(rows)}" if len(shown) < len(rows) else ""
    title = f"certified: the bound of every block is below 1{left}"
    table = Table(title=title, box=None, pad_edge=False)
    for name in ("block", "layer norms by FFT", "exact if known", "block bound", "max iterations"):
        table.add_column(name)
    for row in shown:
        bound = f"{row['lipschitz']:.4f}"
        table.add_row(row["name"], row["fft"], row["exact"], bound, str(row["iterations"]))
    return table
