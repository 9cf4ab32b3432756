"""A small classifier of texts by their labels, trained once with a fixed seed: does a text show its
label?

Shapes: N texts; L tokens; F fields of labels; K values of a field.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from genlab.metrics.store import load_or_make

__all__ = [
    "TextClassifier",
    "accuracies",
    "load_text_classifier",
    "pad_texts",
    "train_text_classifier",
]

# In the file's name: change it with anything below that changes the trained weights.
RECIPE = (
    "1: embedding 96, conv 3 of 192, mean and max, dropout .3 and .1 of tokens, AdamW 2e-3 one "
    "cycle, batch 64"
)
BATCH_SIZE, SEED = 64, 0


class TextClassifier(nn.Module):
    """A convolution over token embeddings, pooled, and one linear layer a field.

    Args:
        vocab_size: Ids, padding included.
        sizes: K of each field.
        dim: Of an embedding.
        hidden: Channels of the convolution.
    """

    def __init__(self, vocab_size: int, sizes: Sequence[int], dim: int = 96, hidden: int = 192):
        super().__init__()
        self.word = nn.Embedding(vocab_size, dim, padding_idx=0)
        self.conv = nn.Conv1d(dim, hidden, 3, padding=1)
        self.dropout = nn.Dropout(0.3)
        self.heads = nn.ModuleList(nn.Linear(2 * hidden, size) for size in sizes)

    def forward(self, ids: Tensor) -> list[Tensor]:
        """Logits (N, K) of each field from ids (N, L), 0 for padding."""
        real = (ids != 0)[:, None]  # (N, 1, L)
        h = self.conv(self.word(ids).transpose(1, 2)).relu() * real  # (N, hidden, L)
        pooled = torch.cat([h.sum(2) / real.sum(2).clamp(min=1), h.amax(2)], 1)
        return [head(self.dropout(pooled)) for head in self.heads]


def pad_texts(texts: Sequence[str], tokenizer: Any, max_length: int) -> Tensor:
    """Ids (N, L) int64 of texts, each raised by one so that 0 is free for padding."""
    rows = []
    for ids in tokenizer.plain(list(texts)):
        rows.append(torch.tensor(ids[:max_length], dtype=torch.long) + 1)
    if not rows:
        return torch.zeros(0, 1, dtype=torch.long)
    return nn.utils.rnn.pad_sequence(rows, True, 0)


def load_text_classifier(data: Any, tokenizer: Any) -> TextClassifier:
    """The classifier of the training texts of `data` by data.label_values, in eval mode; trained
    and stored where there is no file of it.
    """
    values = data.label_values
    key = hashlib.sha256(f"{RECIPE} {data.fingerprint()} {values}".encode()).hexdigest()[:16]
    network = TextClassifier(len(tokenizer) + 1, [len(names) for names in values.values()])

    def make() -> dict[str, Any]:
        texts = [e.targets[0][0] for e in data.examples("train")]
        ids = pad_texts(texts, tokenizer, data.codec.max_target)
        train_text_classifier(network, ids, data.given("train")["labels"])
        return {"state_dict": network.state_dict()}

    def use(content: dict[str, Any]) -> None:
        network.load_state_dict(content["state_dict"])

    load_or_make(f"texts-{data.name}-{key}.pt", make, use)
    return network.eval()


def train_text_classifier(network: TextClassifier, ids: Tensor, labels: Tensor) -> TextClassifier:
    """Trains `network` from new weights, a function of these arguments alone; returns it.

    Args:
        network: Is initialised anew.
        ids: (N, L) of `pad_texts`.
        labels: (N, F), -1 where one is not known.
    """
    steps = 800 + min(len(ids), 50_000) // 25
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        for module in network.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        network.train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
        for _ in range(steps):
            rows = torch.randint(len(ids), (BATCH_SIZE,))
            some = ids[rows]
            some = some[:, : max(int((some != 0).sum(1).max()), 1)]
            some = some.masked_fill(torch.rand(some.shape) < 0.1, 0)
            losses = []
            for logits, y in zip(network(some), labels[rows].T, strict=True):
                total = cross_entropy(logits, y, ignore_index=-1, reduction="sum")
                losses.append(total / (y >= 0).sum().clamp(min=1))
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.no_grad()
def accuracies(network: TextClassifier, ids: Tensor, labels: Tensor) -> list[tuple[float, int]]:
    """For each field the fraction of the texts ids (N, L) with a known label in labels (N, F) that
    are read as it, and how many those are.
    """
    parts = [[logits.argmax(1) for logits in network(some)] for some in ids.split(500)]
    out = []
    for read, y in zip(map(torch.cat, zip(*parts, strict=True)), labels.T, strict=True):
        known = y >= 0
        value = (read[known] == y[known]).double().mean().item()
        out.append((value, int(known.sum())))
    return out
