"""A small classifier of a labelled data set: trained once with a fixed seed, then read from a
cache.
"""

import hashlib
import itertools

import torch
from rich.progress import BarColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, pad

from genlab.console import progress
from genlab.data.images.arrays import normalize
from genlab.metrics.store import cached

__all__ = ["Classifier", "train_classifier", "trained_classifier"]

# Part of the cache's key: change it with anything below that changes the trained weights.
RECIPE = "1: conv 32-32-64-64, dim 128, AdamW 3e-3 one cycle, batch 64, shifts of 2"
BATCH_SIZE, SEED, MAX_SIZE = 64, 0, 32


class Classifier(nn.Module):
    """Images (N, C, S, S) in [-1, 1] -> features (N, 128); `logits` -> (N, num_classes). Over 32
    pixels are shrunk.
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
        if images.shape[-1] > MAX_SIZE:
            images = interpolate(images, size=(MAX_SIZE, MAX_SIZE), mode="area")
        return self.hidden(self.convs(images))

    def logits(self, images: Tensor) -> Tensor:
        return self.head(self(images))


def trained_classifier(data) -> tuple[Classifier, float]:
    """The classifier of the set `data` in eval mode and its accuracy on the test split, from the
    cache or into it.
    """
    key = hashlib.sha256(f"{RECIPE} {data.fingerprint()}".encode()).hexdigest()[:16]
    network = Classifier(data.channels, data.num_classes)

    def make() -> dict:
        trained, accuracy = train_classifier(data)
        return {"state_dict": trained.state_dict(), "accuracy": accuracy}

    def use(content: dict) -> float:
        network.load_state_dict(content["state_dict"])
        return float(content["accuracy"])

    accuracy = cached(f"classifier-{data.name}-{key}.pt", make, use)
    return network.eval(), accuracy


def train_classifier(data) -> tuple[Classifier, float]:
    """A classifier trained on the train split, and its accuracy on the test split (val where that
    is empty).
    """
    train = data.arrays("train")
    steps = 1000 + min(len(train), 50_000) // 25
    columns = ["{task.description}", BarColumn(), TimeRemainingColumn()]
    with torch.random.fork_rng(devices=[]), progress(*columns) as bar:
        torch.manual_seed(SEED)
        network = Classifier(data.channels, data.num_classes)
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
        for _ in bar.track(
            range(steps), description=f"training the classifier of {data.name}, once"
        ):
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


def _shift(images: Tensor, by: int = 2) -> Tensor:
    """The batch moved by up to `by` pixels each way, its border repeated."""
    dy, dx = torch.randint(2 * by + 1, (2,)).tolist()
    height, width = images.shape[2:]
    return pad(images, (by, by, by, by), mode="replicate")[..., dy : dy + height, dx : dx + width]


@torch.no_grad()
def _accuracy(network: Classifier, data, split: str) -> float:
    right = [
        network.logits(b["image"]).argmax(1) == b["label"]
        for b in data.loader(split, batch_size=500)
    ]
    return torch.cat(right).double().mean().item() if right else float("nan")
