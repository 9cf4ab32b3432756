"""A metric of another package: in eval, in a sweep and beside genlab's own."""

import json

import pytest

CODE = '''
import torch
from torchmetrics import Metric


class Contrast(Metric):
    """The mean standard deviation of the pixels of an image."""

    higher_is_better = True

    def __init__(self):
        super().__init__()
        self.add_state("total", torch.zeros(()), "sum")
        self.add_state("count", torch.zeros(()), "sum")

    def update(self, images):
        self.total += images.flatten(1).std(1).sum()
        self.count += len(images)

    def compute(self):
        return self.total / self.count
'''
CONFIG = """
contrast:
  _target_: genlab.evaluation.feed.Feed
  of: samples
  metric: {_target_: contrast_metric.Contrast}
"""
OWN = ("--config-dir", "own", "allow=[contrast_metric]")


@pytest.fixture
def own(tmp_path):
    """Options of `genlab` in a folder with a metric of its own, which it can import."""
    (tmp_path / "own" / "metrics").mkdir(parents=True)
    (tmp_path / "own" / "metrics" / "contrast.yaml").write_text(CONFIG)
    (tmp_path / "contrast_metric.py").write_text(CODE)
    return {"cwd": tmp_path, "env": {"PYTHONPATH": str(tmp_path)}}


def test_a_metric_of_another_package_is_measured_beside_genlabs(genlab, trained, own):
    words = ("num=20", "features=random", "metrics=[contrast,psnr]")
    done = genlab("eval", f"run={trained}", *words, *OWN, **own)
    results = json.loads((trained / "eval" / "metrics.json").read_text())
    assert list(results) == ["contrast", "psnr"]
    assert "contrast" in done.stdout
    assert results["contrast"]["count"] == 20
    assert results["contrast"]["weights"] == "ema"
    assert results["psnr"]["split"] == "test"
    assert results["psnr"]["higher_is_better"] is True
    assert "contrast" in (trained / "report.html").read_text()
    refused = genlab("eval", f"run={trained}", *words, *OWN[:2], **own, check=False)
    assert refused.returncode == 2, refused.stderr
    assert "allow=[contrast_metric]" in refused.stderr


def test_a_sweep_ranks_by_a_metric_of_another_package(genlab, tiny, own):
    words = ("model=ogan", "data=digits", "seed=1,2", *tiny, "evaluate=true", "metrics=[contrast]")
    words += ("optimized_metric=test/contrast", "hydra.sweep.dir=sweep")
    done = genlab("train", "-m", *words, *OWN, **own)
    values = {}
    for path in (own["cwd"] / "sweep").glob("*/eval/metrics.json"):
        values[json.loads(path.read_text())["contrast"]["value"]] = path.parts[-3]
    assert f"best     sweep/{values[max(values)]}  test/contrast" in done.stderr


def test_a_feature_network_given_as_a_metric_is_refused(genlab, trained, tmp_path):
    for word in ("metrics=inception", "metrics=[standard,random]"):
        done = genlab("eval", f"run={trained}", word, cwd=tmp_path, check=False)
        assert done.returncode == 2, done.stderr
        assert "features=" in done.stderr
