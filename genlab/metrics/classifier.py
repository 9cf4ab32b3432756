"""A small classifier of a labelled image set: trained once with a fixed seed, then stored."""

import hashlib
import itertools
from typing import Any

import torch
from rich.progress import BarColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, pad

from genlab.console import progress
from genlab.data.images.arrays import normalize
from genlab.metrics.store import load_or_make

__all__ = ["Classifier", "load_classifier", "train_classifier"]

# In the file's name: change it with anything below that changes the trained weights.
RECIPE = "1: conv 32-32-64-64, dim 128, AdamW 3e-3 one cycle, batch 64, shifts of 2"
BATCH_SIZE, SEED = 64, 0
MAX_SIZE = 32  # pixels; larger images are shrunk


class Classifier(nn.Module):
    """Four convolutions and a hidden layer, whose 128 outputs are the features.

    Args:
        channels: Of the images.
        num_classes: K.
    """

    dim = 128

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        widths, layers = (channels, 32, 32, 64, 64), []
        for i, (c_in, c_out) in enumerate(itertools.pairwise(widths)):
            layers += [
                nn.Conv2d(c_in, c_out, 3, 1 + i % 2, 1, bias=False),
                nn.BatchNorm2d(c_out),
                nn.ReLU(),
            ]
        self.convs = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.hidden = nn.Sequential(nn.Linear(16 * widths[-1], self.dim), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(self.dim, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, 128) of images (N, C, S, S) in [-1, 1]."""
        if images.shape[-1] > MAX_SIZE:
            images = interpolate(images, size=(MAX_SIZE, MAX_SIZE), mode="area")
        return self.hidden(self.convs(images))

    def logits(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, S, S) in [-1, 1]."""
        return self.head(self(images))


def load_classifier(data: Any) -> tuple[Classifier, float]:
    """The classifier of `data` in eval mode, and its accuracy on the test split; trained and stored
    where there is no file of it.
    """
    key = hashlib.sha256(f"{RECIPE} {data.fingerprint()}".encode()).hexdigest()[:16]
    network = Classifier(data.channels, data.num_classes)

    def make() -> dict[str, Any]:
        trained, accuracy = train_classifier(data)
        return {"state_dict": trained.state_dict(), "accuracy": accuracy}

    def use(content: dict[str, Any]) -> float:
        network.load_state_dict(content["state_dict"])
        return float(content["accuracy"])

    accuracy = load_or_make(f"classifier-{data.name}-{key}.pt", make, use)
    return network.eval(), accuracy


def train_classifier(data: Any) -> tuple[Classifier, float]:
    """A classifier trained on the train split, and its accuracy on the test split (val where that
    is empty).
    """
    train = data.arrays("train")
    steps = 1000 + min(len(train), 50_000) // 25
    columns = ["{task.description}", BarColumn(), TimeRemainingColumn()]
    description = f"training the classifier of {data.name}, once"
    with torch.random.fork_rng(devices=[]), progress(*columns) as bar:
        torch.manual_seed(SEED)
        network = Classifier(data.channels, data.num_classes)
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
        for _ in bar.track(range(steps), description=description):
            rows = torch.randint(len(train), (BATCH_SIZE,))
            images = _shift(normalize(train.images[rows]))
            loss = cross_entropy(network.logits(images), train.labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    held_out = "test" if len(data.arrays("test")) else "val"
    return network, _accuracy(network, data, held_out)


def _shift(images: Tensor, most: int = 2) -> Tensor:
    """The batch moved by up to `most` pixels each way, its border repeated."""
    dy, dx = torch.randint(2 * most + 1, (2,)).tolist()
    height, width = images.shape[2:]
    larger = pad(images, (most, most, most, most), mode="replicate")
    return larger[..., dy : dy + height, dx : dx + width]


@torch.no_grad()
def _accuracy(network: Classifier, data: Any, split: str) -> float:
    hits = [
        network.logits(batch["image"]).argmax(1) == batch["label"]
        for batch in data.loader(split, batch_size=500)
    ]
    return torch.cat(hits).double().mean().item() if hits else float("nan")
