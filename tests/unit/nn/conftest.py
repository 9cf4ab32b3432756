"""What the estimates of the log-determinant are compared with."""

import runpy
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def series_log_det():
    path = Path(__file__).parents[3] / "benchmarks" / "series_log_det.py"
    return runpy.run_path(str(path))["series_log_det"]
