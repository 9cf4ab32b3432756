"""VGG16's taps and where its weights come from; feature networks as a distance."""

import hashlib
from functools import partial

import pytest
import torch
from torchvision.models.vgg import cfgs, make_layers

from genlab.errors import DataError
from genlab.metrics import features, perceptual


class Data:
    channels, image_size = 1, 32


@pytest.fixture(scope="module")
def layers():
    torch.manual_seed(0)
    return make_layers(cfgs["D"])


def test_the_taps_are_those_that_the_released_code_overwrites_in_place(layers):
    maps, x = perceptual.VGGMaps(layers), torch.rand(2, 3, 32, 32)
    kept, h = [], x.clone()
    for i, layer in enumerate(make_layers(cfgs["D"]).eval()):
        layer.load_state_dict(layers[i].state_dict())
        h = layer(h)
        if i in (2, 7, 12, 21, 30):
            kept.append(h)
    found = maps.taps(x, 5)
    assert len(found) == 5
    # torchvision's ReLUs have written over the first four by now
    for a, b in zip(found, kept, strict=True):
        torch.testing.assert_close(a, b)
    assert all(not p.requires_grad for p in maps.parameters())


@pytest.mark.parametrize(("size", "num"), [(16, 2), (28, 3), (32, 3), (64, 4), (96, 9)])
def test_the_size_decides_how_deep(layers, size, num):
    found = perceptual.VGGMaps(layers)(torch.rand(1, 1, size, size))
    assert len(found) == num
    assert found[0].shape[-1] == (32 if size == 28 else size)


def test_grey_is_repeated_and_28_pixels_get_a_border_of_zeros(layers):
    maps, x = perceptual.VGGMaps(layers), torch.rand(1, 1, 28, 28)
    padded = torch.zeros(1, 3, 32, 32)
    padded[:, :, 2:30, 2:30] = x
    for a, b in zip(maps(x), maps(padded), strict=True):
        torch.testing.assert_close(a, b)


def test_weights_are_read_from_a_file_of_the_right_hash(layers, tmp_path, monkeypatch):
    file = tmp_path / "vgg.pth"
    state = {f"features.{name}": value for name, value in layers.state_dict().items()}
    torch.save(state | {"classifier.0.weight": torch.zeros(2)}, file)
    with pytest.raises(DataError, match=r"vgg\.pth: "):
        perceptual.vgg(str(file)).bind(Data())
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setattr(perceptual, "VGG_SHA256", sha256[:8])
    distance = perceptual.vgg(str(file))
    distance.bind(Data())
    x, y = torch.rand(2, 3, 1, 32, 32) * 2 - 1
    expected = (x - y).abs().mean((1, 2, 3))
    for a, b in zip(perceptual.VGGMaps(layers)(x), perceptual.VGGMaps(layers)(y), strict=True):
        expected = expected + (a - b).abs().mean((1, 2, 3))
    torch.testing.assert_close(distance(x, y), expected)


def test_missing_weights_say_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"^loss\.weights_path=.*none\.pth"):
        perceptual.vgg(str(tmp_path / "none.pth")).bind(Data())
    monkeypatch.setenv("GENLAB_DATA", str(tmp_path))
    monkeypatch.setattr(perceptual, "VGG_URL", "file:///nowhere/vgg.pth")
    with pytest.raises(DataError, match="loss=laplacian"):
        perceptual.vgg().bind(Data())


def test_random_features_are_a_distance_with_a_gradient():
    distance = perceptual.features(partial(features.random, seed=1))
    distance.bind(Data())
    x, y = torch.rand(2, 3, 1, 32, 32) * 2 - 1
    x.requires_grad_()
    of_x, of_y = (features.random(Data(), seed=1).network(images) for images in (x, y))
    expected = (x - y).abs().mean((1, 2, 3)) + (of_x - of_y).abs().mean(1)
    torch.testing.assert_close(distance(x, y), expected)
    (gradient,) = torch.autograd.grad(distance(x, y).sum(), x)
    assert gradient.abs().min() > 0
