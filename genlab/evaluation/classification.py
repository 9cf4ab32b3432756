"""How well an invertible classifier classifies, and whether it is invertible."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy

from genlab.evaluation.density import inversion

__all__ = ["Classification", "evaluate_classifier"]

Progress = Callable[[str, int, int], None]


class Classification(NamedTuple):
    """results: {metric: {value, split, count, ...}}. certificate: of the network, None if nothing
    bounds its norms.
    """

    results: dict[str, dict[str, Any]]
    certificate: dict[str, Any] | None


def evaluate_classifier(
    system,
    data,
    *,
    split: str = "test",
    batch_size: int = 256,
    seed: int = 0,
    progress: Progress = lambda description, done, total: None,
) -> Classification:
    """Accuracy and cross-entropy (nats) on the held-out `split`; of a system that has no
    likelihood, whose evaluation says as much, also the errors of its inverse and its certificate.
    progress: called with (description, done, total).
    """
    system.eval()
    plain = dict.fromkeys(("reference", "features", "features_hash", "comparable")) | {"seed": seed}
    right, losses = [], []
    loader = data.loader(split, batch_size)
    for done, batch in enumerate(loader, 1):
        logits, y = system.classify(batch["image"]).cpu(), batch["label"].cpu()
        right.append((logits.argmax(1) == y).double())
        losses.append(cross_entropy(logits, y, reduction="none").double())
        progress(f"classes of the {split} split", done, len(loader))
    entry = {"split": split, "count": sum(map(len, right)), **plain}
    results = {
        name: {
            "value": values.mean().item(),
            "standard_error": values.std().item() / math.sqrt(len(values)),
        }
        | entry
        for name, values in (("accuracy", torch.cat(right)), ("cross_entropy", torch.cat(losses)))
    }
    if hasattr(system, "log_prob") or not system.net.bounded:
        return Classification(results, None)
    certificate = system.net.certificate()
    for name, value in certificate.items():
        if isinstance(value, int | float):
            results[f"certificate_{name}"] = {
                "value": value,
                "split": "the weights",
                "count": 1,
            } | plain
    return Classification(
        results | inversion(system, data, split, batch_size, entry, progress), certificate
    )
