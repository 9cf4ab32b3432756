"""Feature networks: what a distance between image sets is measured over. Each names itself and
hashes its weights.
"""

import hashlib
import itertools
import tempfile

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from genlab.errors import DataError
from genlab.metrics.classifier import trained_classifier
from genlab.metrics.store import pretrained
from genlab.tensors import read_torch

__all__ = ["FeatureNetwork", "auto", "classifier", "inception", "random", "weights_hash"]

INCEPTION_URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
INCEPTION_SHA256 = "6726825d"  # the file's name carries the first eight digits


class FeatureNetwork(nn.Module):
    """Images (N, C, H, W) in [-1, 1] -> features float32 (N, dim), by a frozen network in eval
    mode.

    name: what a report calls it. hash: 12 digits of the sha256 of its weights. comparable: whether
    numbers over it can stand beside those of papers. accuracy: of its classifier on the test split,
    where it is one. head: features -> class logits, where it classifies.
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
        self.name, self.dim, self.comparable, self.accuracy = name, dim, comparable, accuracy
        self.hash = weights_hash(network)

    def train(self, mode: bool = True) -> "FeatureNetwork":
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.float()).float()


def weights_hash(network: nn.Module) -> str:
    """12 hex digits of a sha256 over the names and values of `network`'s parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


# --- random ---------------------------------------------------------------------------------------


def random(data, seed: int = 0) -> FeatureNetwork:
    """Fixed random convolutions with leaky ReLUs, dim 192: needs no labels and no download.

    Good for differences between models on one data set; blind to much that a trained network sees.
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
        return (
            interpolate(x, size=(self.size, self.size), mode="area")
            if x.shape[-1] > self.size
            else x
        )


# --- classifier -----------------------------------------------------------------------------------


def classifier(data) -> FeatureNetwork:
    """The last hidden layer (dim 128) of a small classifier of the labelled set `data`, trained
    once and cached.

    `network.logits` gives its (N, num_classes). Raises DataError where `data` has no labels.
    """
    data.setup()
    if data.arrays("train").labels is None:
        raise DataError(
            f"features=classifier needs labels, and {data.name} has none; use features=random or inception"
        )
    network, accuracy = trained_classifier(data)
    name = f"classifier of {data.name}"
    return FeatureNetwork(
        network, name, network.dim, comparable=False, accuracy=accuracy, head=network.head
    )


def auto(data) -> FeatureNetwork:
    """`classifier` where the data set is labelled, else `random`."""
    data.setup()
    return random(data) if data.arrays("train").labels is None else classifier(data)


# --- inception ------------------------------------------------------------------------------------


class _Inception(nn.Module):
    """torch-fidelity's extractor on images in [-1, 1]: rounded to uint8, grey repeated to RGB,
    resized as TF 1.x did.
    """

    def __init__(self, extractor: nn.Module):
        super().__init__()
        self.extractor = extractor

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        return self.extractor(pixels.expand(-1, 3, -1, -1))[0]


def inception(data=None, weights_path: str | None = None) -> FeatureNetwork:
    """The 2048 pool3 features of the Inception network of 2015-12-05, ported from TensorFlow by
    torch-fidelity.

    The network that the literature's FID means. weights_path: its file; where it is null it is
    looked for in, then downloaded to, $GENLAB_DATA/features. Raises DataError if the extra `fid` is
    missing, or the file is or is wrong.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise DataError(
            "features=inception needs torch-fidelity: pip install 'genlab[fid]'"
        ) from None
    instead = "features=classifier or features=random"
    path = pretrained(
        "Inception", INCEPTION_URL, INCEPTION_SHA256, weights_path, "features.weights_path", instead
    )
    # torch-fidelity unpickles the file it is given, so it is given one that holds tensors and
    # nothing else.
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        torch.save(read_torch(path), file)
        file.flush()
        extractor = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], file.name)
    head = nn.Linear(
        2048, 1008, bias=False
    )  # the Inception Score is taken of logits without their bias
    head.weight = extractor.fc.weight
    name = "Inception 2015-12-05 (torch-fidelity)"
    return FeatureNetwork(_Inception(extractor), name, 2048, comparable=True, head=head)
