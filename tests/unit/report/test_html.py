"""The reports of runs and sweeps, also in a browser where one is installed."""

import json

import torch
from rich.console import Console

from genlab import runs
from genlab.report.html import write_report
from genlab.report.images import save_grid, save_rows
from genlab.sweeps import summary

PHONE = {"viewport": {"width": 390, "height": 800}}
SPLITS = {
    split: {"count": 10, "source": "made up", "crop": "none"} for split in ("train", "val", "test")
}


MANIFEST = {
    "status": "finished",
    "model": "ogan",
    "seed": 1,
    "steps": 4,
    "images_seen": 64,
    "seconds": 2.0,
    "command": "genlab train",
    "overrides": ["model=ogan", "seed=1"],
    "hardware": "CPU",
    "started": "today",
    "git": None,
    "versions": {"python": "3.12"},
    "differences": {"model.lr": [0.1, "<b>"]},
    "data": {"name": "made-up", "fingerprint": "f", "splits": SPLITS},
}
CONFIG = """
data: {image_size: 8, channels: 1}
model: {_target_: genlab.systems.gan.ogan.OGAN}
"""
CERTIFICATE = {
    "blocks": [{"name": "block.0", "lipschitz": 0.8, "iterations": 30}],
    "layers": [{"name": "block.0.layer", "fft": 0.8, "exact": None}],
}


def a_run(run):
    """Writes a run directory and returns its report."""
    runs.write_text(run / "manifest.json", json.dumps(MANIFEST))
    runs.write_text(run / "config.yaml", CONFIG)
    lines = ["step,train/loss_d,train/loss_g,val/x"]
    lines += [f"{i},{1 / i},{i}.5,{'nan' if i == 2 else i}" for i in range(1, 40)]
    runs.write_text(run / "metrics.csv", "\n".join(lines) + "\n")
    for step in (1, 2, 4):
        save_grid(torch.zeros(4, 1, 8, 8), run / "samples" / f"fixed_{step:06d}.png")
        rows = torch.linspace(-1, 1, 5)[None, :, None, None, None].expand(2, 5, 1, 8, 8)
        save_rows(rows, run / "samples" / f"interpolation_{step:06d}.png")
    row = {
        "id": "1",
        "source": "<script>alert(1)</script>",
        "question": None,
        "text": "answer",
        "accepted": ["answer"],
    }
    runs.write_text(run / "samples" / "texts_000004.jsonl", json.dumps(row) + "\n")
    runs.write_text(run / "eval" / "certificate.json", json.dumps(CERTIFICATE))
    return write_report(run)


def a_sweep(folder):
    """Writes a sweep directory and returns its report."""
    for number in range(6):
        if number == 4:
            job = {"status": "failed", "error": "ValueError: <i>no</i>"}
        else:
            metrics = {"test/fid": float(9 - number), "test/recall": number / 10}
            job = {"status": "finished", "metrics": metrics}
        words = [f"model={'ab'[number % 2]}", f"seed={number}", "x=1"]
        status = {"number": number, "overrides": words, **job}
        runs.write_text(folder / f"job{number}" / "status.json", json.dumps(status))
    summary.summarise(folder, Console(quiet=True))
    return folder / "report.html"


def test_the_report_of_a_run_is_complete_and_loads_nothing(tmp_path):
    page = a_run(tmp_path).read_text()
    parts = ["genlab train model=ogan seed=1", "answer", "0.8000", "model.lr", "&lt;b&gt;"]
    for part in [*parts, "32 texts a second"]:
        assert part in page, part
    assert "<script>alert" not in page
    content = page.partition('id="data">')[2].partition("</script>")[0]
    assert "nan" not in content.lower()
    assert "://" not in page.replace("http://www.w3.org/2000/svg", "") and "src=" in page


def test_the_report_of_a_run_in_a_browser(opened, tmp_path):
    with opened(a_run(tmp_path), **PHONE, color_scheme="dark") as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 28)"
        assert page.locator("#charts svg").count() == 2 and page.locator("polyline").count() == 3
        slider = page.locator("input[data-kind=fixed]")
        assert page.locator("#fixed-2").is_visible() and not page.locator("#fixed-0").is_visible()
        slider.focus()
        page.keyboard.press("ArrowLeft")
        assert page.locator("#fixed-1").is_visible() and not page.locator("#fixed-2").is_visible()
        page.wait_for_selector("canvas[data-ready='4']")
        shade = "document.querySelector('canvas').getContext('2d').getImageData(5, 5, 1, 1).data[0]"
        assert page.evaluate(shade) == 0
        page.locator("input[data-player]").focus()
        page.keyboard.press("End")
        assert page.evaluate(shade) == 255


def test_the_report_of_a_sweep_in_a_browser(opened, tmp_path):
    with opened(a_sweep(tmp_path / "sweep"), **PHONE) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        jobs = "[...document.querySelectorAll('#jobs tbody tr')].map((line) => +line.dataset.job)"
        assert page.evaluate(jobs) == [5, 3, 2, 1, 0, 4]
        assert "job 5" in page.inner_text("#best")
        page.focus("[data-name=seed]")
        page.keyboard.press("Enter")
        assert page.evaluate(jobs) == [0, 1, 2, 3, 4, 5]
        page.keyboard.press("Enter")
        assert page.evaluate(jobs) == [5, 4, 3, 2, 1, 0]
        assert page.locator("#parallel polyline.job").count() == 5
        assert page.locator("#strips circle.job").count() == 10
        page.select_option("#metric", "test/recall")
        assert not page.is_checked("#lower") and "best: job 5 with 0.5" in page.inner_text("#best")
        assert "<i>no</i>" in page.inner_text("#jobs")
