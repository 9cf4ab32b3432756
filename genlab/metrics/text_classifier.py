"""A small classifier of texts by their labels, trained once with a fixed seed: does a text show its
label?
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from genlab.metrics.store import cached

__all__ = ["TextClassifier", "train_text_classifier", "trained_text_classifier"]

# Part of the cache's key: change it with anything below that changes the trained weights.
RECIPE = "1: embedding 96, conv 3 of 192, mean and max, dropout .3 and .1 of tokens, AdamW 2e-3 one cycle, batch 64"
BATCH_SIZE, SEED = 64, 0


class TextClassifier(nn.Module):
    """ids (N, L), 0 for padding -> a list of logits (N, number of values), one a field."""

    def __init__(self, vocab_size: int, sizes: Sequence[int], dim: int = 96, hidden: int = 192):
        super().__init__()
        self.word = nn.Embedding(vocab_size, dim, padding_idx=0)
        self.conv = nn.Conv1d(dim, hidden, 3, padding=1)
        self.dropout = nn.Dropout(0.3)
        self.heads = nn.ModuleList(nn.Linear(2 * hidden, size) for size in sizes)

    def forward(self, ids: Tensor) -> list[Tensor]:
        real = (ids != 0)[:, None]
        h = self.conv(self.word(ids).transpose(1, 2)).relu() * real
        pooled = torch.cat([h.sum(2) / real.sum(2).clamp(min=1), h.amax(2)], 1)
        return [head(self.dropout(pooled)) for head in self.heads]


def padded(texts: Sequence[str], tokenizer, max_length: int) -> Tensor:
    """int64 (N, L) of plain ids, each raised by one so that 0 is free for padding."""
    rows = [
        torch.tensor(ids[:max_length], dtype=torch.long) + 1 for ids in tokenizer.plain(list(texts))
    ]
    return nn.utils.rnn.pad_sequence(rows, True, 0) if rows else torch.zeros(0, 1, dtype=torch.long)


def trained_text_classifier(data, tokenizer) -> TextClassifier:
    """The classifier of the training texts of `data` by data.label_values, in eval mode, from the
    cache or into it.
    """
    values = data.label_values
    key = hashlib.sha256(f"{RECIPE} {data.fingerprint()} {values}".encode()).hexdigest()[:16]
    network = TextClassifier(len(tokenizer) + 1, [len(names) for names in values.values()])
    texts, labels = [e.targets[0][0] for e in data.examples("train")], data.given("train")["labels"]

    def make() -> dict:
        return {
            "state_dict": train_text_classifier(
                network, padded(texts, tokenizer, data.codec.max_target), labels
            ).state_dict()
        }

    cached(
        f"texts-{data.name}-{key}.pt",
        make,
        lambda content: network.load_state_dict(content["state_dict"]),
    )
    return network.eval()


def train_text_classifier(network: TextClassifier, ids: Tensor, labels: Tensor) -> TextClassifier:
    """Trained on ids (N, L) with labels (N, F), -1 where one is not known; its weights are a
    function of these alone.
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
            losses = [cross_entropy(logits, y, ignore_index=-1, reduction="sum") / (y >= 0).sum().clamp(min=1)
                      for logits, y in zip(network(some), labels[rows].T, strict=True)]  # fmt: skip
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.no_grad()
def accuracies(network: TextClassifier, ids: Tensor, labels: Tensor) -> list[tuple[float, int]]:
    """(the part of the texts read as what `labels` say, how many of them say something), a field
    each.
    """
    found = [
        torch.cat(parts)
        for parts in zip(
            *([p.argmax(1) for p in network(some)] for some in ids.split(500)), strict=True
        )
    ]
    out = []
    for read, y in zip(found, labels.T, strict=True):
        told = y >= 0
        out.append(((read[told] == y[told]).double().mean().item(), int(told.sum())))
    return out
