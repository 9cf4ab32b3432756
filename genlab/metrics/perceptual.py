"""Feature networks as a distance to train with: VGG16 as the literature has it, or any network of
the metrics.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pad

from genlab.losses.reconstruction import FeatureDistance
from genlab.metrics.store import pretrained
from genlab.tensors import read_torch

__all__ = ["VGGMaps", "features", "vgg"]

VGG_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
VGG_SHA256 = "397923af"
TAPS = (3, 8, 13, 22, 30)  # after the ReLUs of conv1_2, conv2_2, conv3_2 and conv4_3, and pool5


class VGGMaps(nn.Module):
    """Images (B, C, S, S) in [-1, 1] -> the taps of VGG16's convolutions that suit their size.

    yedidh/glann: 2 taps up to 16 pixels, 3 up to 32, 4 up to 64, beyond that all 5 and the first 4
    again of the images averaged in 4x4 blocks. Grey is repeated, 28 pixels are padded to 32 with
    zeros (grey), ImageNet's mean and std are not applied, as there. Torchvision's ReLUs work in
    place there, so that the taps 2, 7, 12, 21 are what 3, 8, 13, 22 are here.
    """

    def __init__(self, layers: nn.Sequential):
        super().__init__()
        for layer in layers:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False
        self.layers = layers.eval().requires_grad_(False)

    def taps(self, x: Tensor, num: int) -> list[Tensor]:
        found = []
        for i, layer in enumerate(self.layers[: TAPS[num - 1] + 1]):
            x = layer(x)
            if i in TAPS:
                found.append(x)
        return found

    def forward(self, images: Tensor) -> list[Tensor]:
        size = images.shape[-1]
        images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        if size == 28:
            images = pad(images, (2, 2, 2, 2))
        if size > 64:
            return self.taps(images, 5) + self.taps(avg_pool2d(images, 4), 4)
        return self.taps(images, 2 if size <= 16 else 3 if size <= 32 else 4)


def vgg(weights_path: str | None = None) -> FeatureDistance:
    """The distance over VGG16's taps that GLANN's results are with (arXiv 1812.08985).

    weights_path: torchvision's file of the ImageNet weights; where it is null it is looked for in,
    then downloaded to, $GENLAB_DATA/features, once training or encoding starts. Raises DataError if
    it is missing or wrong.
    """
    return FeatureDistance(partial(_vgg_maps, weights_path))


def _vgg_maps(weights_path: str | None, data) -> VGGMaps:
    from torchvision.models.vgg import cfgs, make_layers

    path = pretrained(
        "VGG16", VGG_URL, VGG_SHA256, weights_path, "loss.weights_path", "loss=laplacian"
    )
    state = read_torch(path)
    layers = make_layers(cfgs["D"])
    layers.load_state_dict(
        {k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")}
    )
    return VGGMaps(layers)


def features(network: Callable) -> FeatureDistance:
    """The distance over a network of genlab.metrics.features, `network`, which is called with
    data=.
    """
    return FeatureDistance(partial(_one_map, network))


def _one_map(network: Callable, data) -> "OneMap":
    return OneMap(network(data=data).network)


class OneMap(nn.Module):
    """The output of a frozen network as the only map."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.network(images)]
