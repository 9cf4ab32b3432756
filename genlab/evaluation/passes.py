"""The passes over a system's samples and reconstructions, a batch at a time, that several metrics
take.

Shapes: B inputs of a batch, images (B, C, H, W) or points (B, D); codes (B, Z).
"""

import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from genlab.evaluation.base import Progress
from genlab.systems.base import HasStoredCodes, num_classes

__all__ = ["decode_in_batches", "reconstruct_split"]

MAX_SEARCHED = 256  # held-out inputs whose codes are searched for, where there is no encoder


def decode_in_batches(
    system: Any, codes: Tensor, batch_size: int, progress: Progress
) -> Iterator[tuple[Tensor, Tensor]]:
    """(codes, samples) of each batch; with labels, all classes in turn.

    Args:
        system: Decodes of genlab.systems.base.
        codes: (N, Z).
        batch_size: B.
        progress: Is called with (description, done, total).
    """
    labels = system.labels(len(codes)) if num_classes(system) else None
    for start in range(0, len(codes), batch_size):
        some = slice(start, start + batch_size)
        part = codes[some]
        yield part, system.decode(part, *(() if labels is None else (labels[some],)))
        progress("samples", start + len(part), len(codes))


def reconstruct_split(
    system: Any, data: Any, split: str, batch_size: int, progress: Progress
) -> Iterator[tuple[Tensor, Tensor]]:
    """(inputs, reconstructions) of each batch of a split, on the system's device.

    Args:
        system: Reconstructs of genlab.systems.base; where it searches for codes, the first 256
            inputs count.
        data: Its data, set up.
        split: train, val or test.
        batch_size: B.
        progress: Is called with (description, done, total).
    """
    limit = MAX_SEARCHED if isinstance(system, HasStoredCodes) else math.inf
    count = 0
    total = math.ceil(len(data.arrays(split)) / batch_size)
    for done, batch in enumerate(data.loader(split, batch_size), 1):
        inputs = batch[system.modality].to(system.device)
        inputs = inputs[: min(limit - count, len(inputs))]
        if not len(inputs):
            return
        labels = {"labels": batch["label"][: len(inputs)]} if num_classes(system) else {}
        yield inputs, system.reconstruct(inputs, **labels)
        count += len(inputs)
        progress(f"reconstructions of the {split} split", done, total)
