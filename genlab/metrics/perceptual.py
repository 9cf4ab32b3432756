"""Feature networks as a distance to train with: VGG16 as the literature has it, or any network of
genlab.metrics.features.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pad

from genlab.losses.reconstruction import FeatureDistance
from genlab.metrics.store import fetch_weights
from genlab.tensors import read_torch

__all__ = ["VGGMaps", "features", "vgg"]

VGG_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
VGG_SHA256 = "397923af"
TAPS = (3, 8, 13, 22, 30)  # after the ReLUs of conv1_2, conv2_2, conv3_2 and conv4_3, and pool5


class VGGMaps(nn.Module):
    """The activations of VGG16's convolutions that suit the size of the images.

    As in yedidh/glann: 2 taps up to 16 pixels, 3 up to 32, 4 up to 64; beyond that all 5, and 4 of
    the images averaged in 4x4 blocks. Grey is repeated, 28 pixels are padded to 32 with zeros
    (grey), and ImageNet's mean and standard deviation are not applied. There the ReLUs work in
    place, so that its taps 2, 7, 12 and 21 are 3, 8, 13 and 22 here.

    Args:
        layers: torchvision's vgg16().features.
    """

    def __init__(self, layers: nn.Sequential):
        super().__init__()
        for layer in layers:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False
        self.layers = layers.eval().requires_grad_(False)

    def taps(self, x: Tensor, num: int) -> list[Tensor]:
        """The first `num` taps of images x (B, 3, H, W)."""
        found = []
        for i, layer in enumerate(self.layers[: TAPS[num - 1] + 1]):
            x = layer(x)
            if i in TAPS:
                found.append(x)
        return found

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps (B, channels, H, W) of images (B, C, S, S) in [-1, 1]."""
        size = images.shape[-1]
        images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        if size == 28:
            images = pad(images, (2, 2, 2, 2))
        if size > 64:
            return self.taps(images, 5) + self.taps(avg_pool2d(images, 4), 4)
        return self.taps(images, 2 if size <= 16 else 3 if size <= 32 else 4)


def vgg(weights_path: str | None = None) -> FeatureDistance:
    """The distance over VGG16's taps, as in GLANN (arXiv 1812.08985).

    The weights are read once training or encoding starts; a DataError then says where they are
    missing or others.

    Args:
        weights_path: torchvision's file of the ImageNet weights; None: $GENLAB_DATA/features,
            downloaded where it is not there.
    """
    return FeatureDistance(partial(_vgg_maps, weights_path))


def _vgg_maps(weights_path: str | None, data: Any) -> VGGMaps:
    from torchvision.models.vgg import cfgs, make_layers

    path = fetch_weights(
        "VGG16", VGG_URL, VGG_SHA256, weights_path, "loss.weights_path", "loss=laplacian"
    )
    state = read_torch(path)
    layers = make_layers(cfgs["D"])
    prefix = "features."
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    layers.load_state_dict(own)
    return VGGMaps(layers)


def features(network: Callable) -> FeatureDistance:
    """The distance over the output of a network of genlab.metrics.features.

    Args:
        network: Is called with data=.
    """
    return FeatureDistance(partial(_one_map, network))


def _one_map(network: Callable, data: Any) -> "OneMap":
    return OneMap(network(data=data).network)


class OneMap(nn.Module):
    """The output of a frozen network as the only map."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """One map of images (B, C, H, W) in [-1, 1]."""
        return [self.network(images)]
