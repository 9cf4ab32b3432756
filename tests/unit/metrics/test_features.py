"""Feature networks are frozen, named, hashed and stored; and the numbers of a model whose results
are known.
"""

import hashlib

import pytest
import torch

import genlab.metrics.classifier as recipe
from genlab.data.images.sets import Digits
from genlab.errors import DataError
from genlab.evaluation.images import evaluate_images
from genlab.losses.code import standardise
from genlab.metrics import features


@pytest.fixture(scope="module")
def shared_root(tmp_path_factory):
    """Where the tests that train a classifier to its end share it."""
    return tmp_path_factory.mktemp("genlab_data")


@pytest.fixture
def data(shared_root, monkeypatch):
    monkeypatch.setenv("GENLAB_DATA", str(shared_root))
    data = Digits()
    data.setup()
    return data


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """A classifier whose training stops after 60 steps, kept apart from the others."""
    monkeypatch.setenv("GENLAB_DATA", str(tmp_path))
    schedule = torch.optim.lr_scheduler.OneCycleLR
    monkeypatch.setattr(recipe, "range", lambda steps: range(60), raising=False)
    return schedule


def test_random_features_are_fixed_and_frozen(data):
    one, other = features.random(data), features.random(data)
    images = next(iter(data.loader("val", 20)))["image"]
    assert torch.equal(one(images), other(images)) and one(images).shape == (20, one.dim)
    assert one.hash == other.hash != features.random(data, seed=1).hash
    assert not one.comparable and not any(p.requires_grad for p in one.parameters())
    assert not one.train().network.training


def test_random_features_take_any_size():
    for size, channels in ((16, 1), (64, 3), (200, 3)):
        network = features.random(type("Data", (), {"channels": channels}))
        assert network(torch.zeros(2, channels, size, size)).shape == (2, network.dim)


def test_the_classifier_is_trained_once_and_reads_digits(data, monkeypatch):
    network = features.classifier(data)
    assert network.name == "classifier of digits"
    assert network.accuracy > 0.9 and not network.comparable
    batch = next(iter(data.loader("test", 180)))
    hits = network.network.logits(batch["image"]).argmax(1) == batch["label"]
    assert hits.double().mean().item() == network.accuracy
    monkeypatch.setattr(recipe, "train_classifier", lambda data: pytest.fail("trained twice"))
    again = features.auto(data)
    assert again.hash == network.hash and again.accuracy == network.accuracy


def test_a_damaged_cache_is_made_anew(data, quick, tmp_path, capsys):
    first = features.classifier(data)
    (path,) = (tmp_path / "features").glob("classifier-digits-*.pt")
    path.write_bytes(path.read_bytes()[:500])
    again = features.classifier(data)
    assert again.hash == first.hash  # a fixed seed
    assert path.name in capsys.readouterr().err


def test_training_leaves_the_users_random_numbers_alone(data, quick):
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    recipe.train_classifier(data)
    assert torch.equal(torch.randn(3), expected)


def test_no_labels_no_classifier(data):
    data.arrays("train").labels = None
    with pytest.raises(DataError, match=r"^features=classifier .*features=random"):
        features.classifier(data)
    assert features.auto(data).name == "random convolutions"


def test_inception_says_what_is_missing_or_wrong(tmp_path, monkeypatch):
    pytest.importorskip("torch_fidelity")
    with pytest.raises(DataError, match=r"^features\.weights_path=.*none\.pth"):
        features.inception(weights_path=str(tmp_path / "none.pth"))
    wrong = tmp_path / "wrong.pth"
    wrong.write_bytes(b"wrong")
    with pytest.raises(DataError, match=r"wrong\.pth: "):
        features.inception(weights_path=str(wrong))
    monkeypatch.setenv("GENLAB_DATA", str(tmp_path))
    monkeypatch.setattr(features, "INCEPTION_URL", "file:///nowhere/weights.pth")
    with pytest.raises(DataError, match=r"file:///nowhere/weights\.pth"):
        features.inception()


@pytest.mark.slow
def test_inception_with_weights_of_the_right_shape(tmp_path, monkeypatch):
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    extractor = module.FeatureExtractorInceptionV3

    def fail(*arguments, **options):
        pytest.fail("downloaded")

    monkeypatch.setattr(module, "load_state_dict_from_url", fail)
    monkeypatch.setattr(extractor, "load_state_dict", lambda self, state: None)
    path = tmp_path / "weights.pth"
    torch.save({}, path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(features, "INCEPTION_SHA256", sha256[:8])
    network = features.inception(weights_path=str(path))
    assert network.comparable and network(torch.zeros(2, 1, 32, 32)).shape == (2, 2048)


class Memory(torch.nn.Module):
    """A system that knows its images by heart: a code is an image, a sample one of the training
    images.
    """

    modality = "image"

    def __init__(self, data, spoil=0.0):
        super().__init__()
        self.images = torch.cat([b["image"] for b in data.loader("train", 500)])
        self.device, self.spoil = torch.device("cpu"), spoil

    def prior(self, num, seed):
        rows = torch.arange(num) % len(self.images)
        return self.images[rows].flatten(1)

    def decode(self, z):
        return z.unflatten(1, self.images.shape[1:])

    def outputs(self, images, labels=None):
        return images.flatten(1)

    def score(self, outputs):
        return outputs.sum(1)

    def encode(self, images):
        return standardise(images.flatten(1))

    def reconstruct(self, images):
        return images + self.spoil


def test_a_model_that_knows_the_images_by_heart(data):
    train = len(data.arrays("train"))
    network = features.random(data)
    found = evaluate_images(Memory(data), data, network, num_samples=train, batch_size=300)
    results = found.results
    values = {name: entry["value"] for name, entry in results.items()}
    assert abs(values["fid"]) < 1e-6 and abs(values["kid"]) < 1e-3
    assert values["precision"] == values["recall"] == values["coverage"] == 1.0
    # its own ball and those of its five nearest: 6 of 5
    assert values["density"] == pytest.approx(1.2, abs=0.02)
    assert values["prd_precision"] == pytest.approx(1) and values["prd_recall"] == pytest.approx(1)
    assert "class_score" not in values  # random convolutions know no classes
    assert found.neighbours.shape == (10, 6, 1, 16, 16)
    assert torch.equal(found.neighbours[:, 0], found.neighbours[:, 1])
    assert values["diversity"] == pytest.approx(1.0)
    assert values["code_correlation"] == pytest.approx(1.0)
    assert values["reconstruction_mse"] == 0 and values["reconstruction_ssim"] == pytest.approx(1)
    assert values["class_agreement"] == 1.0 and values["fid_floor"] > 0
    images = torch.cat([b["image"] for b in data.loader("test", 60)]).flatten(1).double()
    assert values["code_mean"] == pytest.approx(images.mean(1).mean().item())
    assert values["code_std"] == pytest.approx(images.std(1, correction=0).mean().item())
    assert results["class_agreement"]["features"].startswith("classifier of digits")
    for name in ("fid", "kid", "precision", "recall", "fid_floor"):
        assert results[name]["features"] == "random convolutions"
        assert results[name]["comparable"] is False
        assert len(results[name]["features_hash"]) == 12 and results[name]["reference"] == "train"
    assert results["fid"]["count"] == train and results["reconstruction_mse"]["count"] == 180


def test_a_spoilt_reconstruction_costs_what_it_should(data):
    system = Memory(data, spoil=0.5)
    network = features.random(data)
    results = evaluate_images(system, data, network, num_samples=100, split="val").results
    assert results["reconstruction_mse"]["value"] == pytest.approx(0.25)
    assert results["reconstruction_ssim"]["value"] < 0.95
    assert results["reconstruction_mse"]["split"] == "val"


def test_samples_are_measured_at_the_chosen_temperature(data):
    class Scaled(Memory):
        def prior(self, num, seed, temperature=1.0):
            return temperature * super().prior(num, seed)

    def measure(**given):
        network, num = features.random(data), len(data.arrays("train"))
        return evaluate_images(Scaled(data), data, network, num_samples=num, **given).results

    whole, scaled = measure(), measure(temperature=0.5)
    assert whole["recall"]["value"] == 1.0 and scaled["recall"]["value"] < 0.5
    assert scaled["fid"]["value"] > whole["fid"]["value"] + 1
    # of held-out images, which are not drawn
    assert scaled["reconstruction_mse"] == whole["reconstruction_mse"]


def test_features_of_the_real_images_are_taken_once(data, tmp_path, monkeypatch):
    monkeypatch.setenv("GENLAB_DATA", str(tmp_path))
    monkeypatch.delattr(Memory, "encode")  # samples alone
    seen = []

    class Counting(features.FeatureNetwork):
        def forward(self, images):
            seen.append(len(images))
            return super().forward(images)

    def measure(**options):
        network = features.random(data, seed=options.pop("network_seed", 0))
        seen.clear()
        counting = Counting(network.network, network.name, network.dim, comparable=False)
        return evaluate_images(Memory(data), data, counting, num_samples=200, **options)

    num_real = len(data.arrays("train")) + len(data.arrays("test"))
    first = measure()
    assert sum(seen) == num_real + 200
    again = measure()
    assert sum(seen) == 200
    assert again.results == first.results and torch.equal(again.neighbours, first.neighbours)
    measure(network_seed=1)
    assert sum(seen) == num_real + 200  # another network, so another file
    measure(seed=1, split="val")
    assert sum(seen) == len(data.arrays("train")) + len(data.arrays("val")) + 200
