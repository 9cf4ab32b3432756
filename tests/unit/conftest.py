"""Pages in a browser, where there is one; how texts are generated."""

import runpy
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None
)


@pytest.fixture
def opened():
    """with opened(path, ready=None, schemes=("file:", "data:"), **options) as page: the page in a
    browser, once the selector `ready` is there; an error of its script, or a request for anything
    of another scheme, fails the test.
    """
    return open_page


@contextmanager
def open_page(path, ready=None, schemes=("file:", "data:"), **options):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if BROWSER is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page, errors = browser.new_page(**options), []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "request",
            lambda asked: None if asked.url.startswith(schemes) else errors.append(asked.url),
        )
        page.goto(path.as_uri())
        if ready is not None:
            page.wait_for_selector(ready)
        yield page
        browser.close()
        assert not errors


@pytest.fixture(scope="session")
def recomputed():
    """A scorer without a cache: what cached decoding is compared with."""
    path = Path(__file__).parents[2] / "benchmarks" / "recomputed.py"
    return runpy.run_path(str(path))["RecomputedScorer"]


DECODINGS = [
    {"method": "greedy"},
    {"method": "beam", "beams": 1},
    {"method": "beam", "beams": 4, "num": 3},
    {"method": "beam", "beams": 3, "length_penalty": 1.0, "min_length": 2, "block_ngrams": 1},
    {"method": "sample", "num": 3, "temperature": 0.8, "top_k": 20, "top_p": 0.95},
]


@pytest.fixture(params=DECODINGS, ids=lambda options: "-".join(map(str, options.values())))
def decoding(request):
    """The options of one way to write, as a dict."""
    return request.param
