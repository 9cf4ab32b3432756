"""Tables for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

__all__ = ["measured_on", "metrics_table"]


def metrics_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """A table of eval/metrics.json's entries {metric: {value, split, count, features, ...}}."""
    table = Table(title=None, box=None, pad_edge=False)
    for name, justify in (("metric", "left"), ("value", "right"), ("measured on", "left"), ("features", "left")):
        table.add_column(name, justify=justify)
    for name, entry in results.items():
        error = f" ± {entry['standard_error']:.1g}" if "standard_error" in entry else ""
        table.add_row(name, f"{entry['value']:.4g}{error}", measured_on(entry), entry["features"] or "")
    return table


def measured_on(entry: Mapping[str, Any]) -> str:
    """What was measured and against what, as in "10000 samples against train" or "500 of test"."""
    if entry["split"] is None:
        what = f"{entry['count']} samples"
    else:
        what = f"{entry['count']} of {entry['split']}"
    return f"{what} against {entry['reference']}" if entry.get("reference") else what
