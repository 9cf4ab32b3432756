"""Feature networks: what image sets are compared by. Each has a name and a hash of its weights.

Shapes: N images; C, H, W of an image; D features.
"""

import hashlib
import itertools
import tempfile
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from genlab.errors import DataError
from genlab.metrics.classifier import load_classifier
from genlab.metrics.store import fetch_weights
from genlab.tensors import read_torch

__all__ = ["FeatureNetwork", "auto", "classifier", "inception", "random", "weights_hash"]

INCEPTION_URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
INCEPTION_SHA256 = "6726825d"  # the file's name carries the first eight digits


class FeatureNetwork(nn.Module):
    """A frozen network in eval mode, and what a report says of it.

    `hash` has 12 digits of the sha256 of its weights.

    Args:
        network: Images (N, C, H, W) in [-1, 1] -> features (N, D).
        name: What a report calls it.
        dim: D.
        comparable: Whether numbers over it can stand beside those of papers.
        accuracy: On the test split, where it is a classifier.
        head: Features -> class logits, where it is a classifier.
    """

    def __init__(
        self,
        network: nn.Module,
        name: str,
        dim: int,
        comparable: bool,
        accuracy: float | None = None,
        head: nn.Module | None = None,
    ):
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.head = None if head is None else head.eval().requires_grad_(False)
        self.name = name
        self.dim = dim
        self.comparable = comparable
        self.accuracy = accuracy
        self.hash = weights_hash(network)

    def train(self, mode: bool = True) -> "FeatureNetwork":
        """Stays in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Features (N, D) float32 of images (N, C, H, W) in [-1, 1]."""
        return self.network(images.float()).float()


def weights_hash(network: nn.Module) -> str:
    """12 hex digits of a sha256 over the names and values of `network`'s parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        values = value.detach().cpu().contiguous().numpy()
        digest.update(name.encode() + values.tobytes())
    return digest.hexdigest()[:12]


# --- random ---------------------------------------------------------------------------------------


def random(data: Any, seed: int = 0) -> FeatureNetwork:
    """Fixed random convolutions with leaky ReLUs, D = 192: needs no labels and no download.

    Good for differences between models on one data set; blind to much that a trained network sees.

    Args:
        data: Has `channels`.
        seed: Of the weights.
    """
    generator = torch.Generator().manual_seed(seed)
    widths, layers = (data.channels, 32, 48, 48), []
    for c_in, c_out in itertools.pairwise(widths):
        conv = nn.Conv2d(c_in, c_out, 3, stride=2, padding=1, bias=False)
        std = (2 / (9 * c_in)) ** 0.5
        conv.weight = nn.Parameter(std * torch.randn(conv.weight.shape, generator=generator))
        layers += [conv, nn.LeakyReLU(0.2)]
    network = nn.Sequential(_AtMost(64), *layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return FeatureNetwork(network, "random convolutions", 4 * widths[-1], comparable=False)


class _AtMost(nn.Module):
    """Images larger than `size` are shrunk to it by averaging."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] <= self.size:
            return x
        return interpolate(x, size=(self.size, self.size), mode="area")


# --- classifier -----------------------------------------------------------------------------------


def classifier(data: Any) -> FeatureNetwork:
    """The last hidden layer (D = 128) of a small classifier of the labelled set `data`, trained
    once and stored.

    `network.logits` gives its logits (N, num_classes).

    Raises:
        DataError: `data` has no labels.
    """
    data.setup()
    if data.arrays("train").labels is None:
        raise DataError(
            f"features=classifier needs labels, and {data.name} has none; use features=random or "
            "features=inception"
        )
    network, accuracy = load_classifier(data)
    return FeatureNetwork(
        network,
        name=f"classifier of {data.name}",
        dim=network.dim,
        comparable=False,
        accuracy=accuracy,
        head=network.head,
    )


def auto(data: Any) -> FeatureNetwork:
    """`classifier` where the data set is labelled, else `random`."""
    data.setup()
    return random(data) if data.arrays("train").labels is None else classifier(data)


# --- inception ------------------------------------------------------------------------------------


class _Inception(nn.Module):
    """torch-fidelity's extractor on images in [-1, 1]: they are rounded to uint8, grey is repeated
    to RGB, and the size is changed as TensorFlow 1.x did.
    """

    def __init__(self, extractor: nn.Module):
        super().__init__()
        self.extractor = extractor

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        return self.extractor(pixels.expand(-1, 3, -1, -1))[0]


def inception(data: Any = None, weights_path: str | None = None) -> FeatureNetwork:
    """The 2048 pool3 features of the Inception network of 2015-12-05, ported from TensorFlow by
    torch-fidelity: the network of the literature's FID.

    Args:
        data: Not used.
        weights_path: The file of the weights; None: $GENLAB_DATA/features, downloaded where it is
            not there.

    Raises:
        DataError: The extra `fid` is missing, or the file is missing or another one.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise DataError(
            "features=inception needs torch-fidelity: pip install 'genlab[fid]'"
        ) from None
    instead = "features=classifier or features=random"
    path = fetch_weights(
        "Inception", INCEPTION_URL, INCEPTION_SHA256, weights_path, "features.weights_path", instead
    )
    # torch-fidelity unpickles the file that it is given: so it gets one that has tensors alone.
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        torch.save(read_torch(path), file)
        file.flush()
        extractor = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], file.name)
    head = nn.Linear(2048, 1008, bias=False)  # the Inception Score's logits have no bias
    head.weight = extractor.fc.weight
    name = "Inception 2015-12-05 (torch-fidelity)"
    return FeatureNetwork(_Inception(extractor), name, 2048, comparable=True, head=head)
