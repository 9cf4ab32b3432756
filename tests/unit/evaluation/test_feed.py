"""A metric of one's own, or of torchmetrics: what it is fed with, and what is beside its value."""

from types import SimpleNamespace

import pytest
import torch
import torchmetrics
from torchmetrics.image import PeakSignalNoiseRatio
from torchmetrics.text import ROUGEScore

from genlab.data.points import PointSet
from genlab.errors import ConfigError
from genlab.evaluation.base import Measured, Settings, evaluate
from genlab.evaluation.feed import Feed

SETTINGS = Settings(split="test", num=100, batch_size=64, seed=3)


class Shift(torchmetrics.Metric):
    """How far the mean of the samples is from that of the real points."""

    higher_is_better = False

    def __init__(self):
        super().__init__()
        for name in ("fake", "real"):
            self.add_state(name, torch.zeros(3), "sum")

    def update(self, points, real):
        state = self.real if real else self.fake
        state += torch.cat([points.sum(0), torch.tensor([float(len(points))])])

    def compute(self):
        fake, real = self.fake[:2] / self.fake[2], self.real[:2] / self.real[2]
        return (fake - real).norm()


class Points:
    """Draws, reconstructs, classifies and has a likelihood, all of its own making."""

    modality, latent_dim, device, measure = "point", 2, torch.device("cpu"), "nll"
    codec = SimpleNamespace(tokenizer=SimpleNamespace(comparable=str.lower))

    def eval(self):
        return self

    def prior(self, num, seed, temperature=1.0):
        return temperature * torch.ones(num, 2)

    def sample(self, num, seed=0, temperature=1.0):
        return self.decode(self.prior(num, seed, temperature))

    def decode(self, codes):
        return codes + 1

    def reconstruct(self, inputs, scale=None):
        return inputs + 0.5

    def classify(self, inputs):
        return torch.nn.functional.one_hot(torch.arange(len(inputs)) % 2, 2).float()

    def log_prob(self, inputs, seed=0):
        return torch.full((len(inputs),), -float(seed))

    def scaled(self, log_prob):
        return -log_prob

    def generate(self, examples, decoding=None, seed=0, progress=None):
        return [SimpleNamespace(texts=[example.accepted[0]]) for example in examples]


@pytest.fixture(scope="module")
def data():
    return PointSet("moons", num_train=200, num_test=150)


def measure(of, metric, data, system=None, **changed):
    settings = Settings(**{**vars(SETTINGS), **changed})
    return evaluate(system or Points(), data, {"mine": Feed(of, metric)}, settings).results


def test_samples_are_compared_with_the_train_split(data):
    (entry,) = measure("samples", Shift(), data).values()
    real = data.arrays("train").mean(0)
    assert entry["value"] == pytest.approx((2 - real).norm().item(), abs=1e-5)
    assert entry["count"] == 100 and entry["split"] is None and entry["reference"] == "train"
    assert entry["higher_is_better"] is False and entry["metric"].endswith("Shift")
    (colder,) = measure("samples", Shift(), data, temperature=0.5).values()
    assert colder["value"] == pytest.approx((1.5 - real).norm().item(), abs=1e-5)


def test_a_metric_without_real_gets_the_samples_alone(data):
    (entry,) = measure("samples", torchmetrics.MeanMetric(), data).values()
    assert entry["value"] == 2 and entry["reference"] is None


def test_reconstructions_come_with_their_originals(data):
    (entry,) = measure("reconstructions", PeakSignalNoiseRatio(data_range=2.0), data).values()
    assert entry["value"] == pytest.approx(10 * torch.tensor(4 / 0.25).log10().item(), abs=1e-4)
    assert entry["count"] == 150 and entry["split"] == "test" and entry["higher_is_better"] is True
    assert {"seed", "reference", "features"} <= entry.keys()


def test_log_probabilities_are_those_of_the_held_out_split(data):
    (entry,) = measure("log_probs", torchmetrics.MeanMetric(), data).values()
    counts = torch.tensor([64.0, 64.0, 22.0])
    assert entry["value"] == pytest.approx(-(counts * torch.arange(4, 7)).sum().item() / 150)


def test_logits_come_with_labels():
    labels = torch.zeros(10, dtype=torch.long)
    batch = {"image": torch.zeros(10, 1, 4, 4), "label": labels}
    data = SimpleNamespace(loader=lambda split, size: [batch, batch])
    metric = torchmetrics.classification.MulticlassAccuracy(2, average="micro")
    (entry,) = measure("logits", metric, data).values()
    assert entry["value"] == 0.5 and entry["count"] == 20


def test_texts_come_with_what_is_accepted_and_a_mapping_is_several_metrics():
    examples = [SimpleNamespace(accepted=(text,)) for text in ("one two", "three", "four")]
    data = SimpleNamespace(examples=lambda split: [*examples, SimpleNamespace(accepted=())])
    results = measure("texts", ROUGEScore(rouge_keys="rouge1"), data, num=3)
    assert results.keys() == {f"mine_rouge1_{part}" for part in ("fmeasure", "precision", "recall")}
    assert {entry["value"] for entry in results.values()} == {1.0}
    assert all(entry["count"] == 3 for entry in results.values())


def test_what_the_model_does_not_have_is_refused_before_anything_is_measured(data):
    class Sampler(Points):
        reconstruct = None

    def never(*args):
        raise AssertionError

    first = SimpleNamespace(fits=lambda system: True, measure=never)
    metrics = {"first": first, "psnr": Feed("reconstructions", PeakSignalNoiseRatio(2.0))}
    with pytest.raises(ConfigError, match=r"^metrics\.psnr: of=reconstructions"):
        evaluate(Sampler(), data, metrics, SETTINGS)


def test_what_is_no_metric_is_refused(data):
    with pytest.raises(ValueError, match=r"^metric: "):
        Feed("samples", torch.nn.ReLU())
    with pytest.raises(ConfigError, match=r"^metrics\.mine: .*Feed"):
        evaluate(Points(), data, {"mine": torchmetrics.MeanMetric()}, SETTINGS)
    with pytest.raises(ConfigError, match=r"^metrics: "):
        evaluate(Points(), data, {}, SETTINGS)
    with pytest.raises(ConfigError, match=r"^metrics\.fid: "):
        evaluate(Points(), data, {"fid": Feed("samples", Shift())}, SETTINGS)


def test_a_value_that_is_no_number_is_named(data):
    class Rows(torchmetrics.CatMetric):
        higher_is_better = True

    with pytest.raises(ConfigError, match=r"^metrics\.mine: "):
        measure("log_probs", Rows(), data)


def test_an_evaluator_of_ones_own_stands_beside_the_others(data):
    class Count:
        def fits(self, system):
            return system.modality == "point"

        def measure(self, name, system, data, settings):
            entry = {"value": 7.0, "split": settings.split, "count": 1}
            return Measured({name: entry}, {"count.txt": lambda path: path.write_text("7")})

    found = evaluate(Points(), data, {"count": Count()}, SETTINGS)
    assert found.results["count"]["value"] == 7 and list(found.files) == ["count.txt"]
    entry = found.results["count"]
    assert entry["higher_is_better"] is None and entry["features"] is None and entry["seed"] == 3
