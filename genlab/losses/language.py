"""Inputs, prediction positions and labels of the objectives on raw text: MLM, GPT and UniLM.

Shapes: B rows, L tokens a row.
    ids (B, L) int64: tokens.
    inside (B, L) bool: True at real tokens, False at padding.
    documents (B, L) int64: the number of each token's document in a packed row; None where a row is
        one document.
    keys (B,) int64: the seed of each row. Random numbers are a function of it alone, whatever the
        device and the other rows of the batch.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from genlab.seeds import uniforms

__all__ = [
    "IGNORED",
    "Task",
    "bound_masked",
    "mask_words",
    "predict_next",
    "select",
    "split_documents",
]

IGNORED = -100  # the label that F.cross_entropy leaves out


class Task(NamedTuple):
    """What a model reads and what it has to predict, each (B, L).

    Attributes:
        ids: The tokens it reads.
        segments: Their segments, 0 or 1.
        predicted: bool, True where the model predicts a token.
        labels: The token to predict; without meaning where `predicted` is False.
    """

    ids: Tensor
    segments: Tensor
    predicted: Tensor
    labels: Tensor


def select(predicted: Tensor, labels: Tensor, capacity: int | None = None) -> tuple[Tensor, Tensor]:
    """The places where a token is predicted, and their labels.

    Args:
        predicted: (B, L) bool.
        labels: (B, L) int64.
        capacity: M, the size of the result whatever is predicted, so that a captured step has one
            shape and the host does not wait for the device. Other places, labelled IGNORED, fill it
            up; of more predictions than M the last are dropped. None: as many as are predicted.

    Returns:
        (M,) places in the flattened rows, and (M,) labels.
    """
    predicted, labels = predicted.flatten(), labels.flatten()
    if capacity is None:
        places = predicted.nonzero()[:, 0]
        return places, labels[places]
    place = torch.arange(len(predicted), device=predicted.device)
    labels = labels.masked_fill(~predicted, IGNORED)
    if capacity >= len(predicted):
        return place, labels
    before = predicted.cumsum(0)
    # Predicted places come first, then all others, each once: of repeated places the additions of
    # the gradient would collide.
    order = torch.where(predicted, before - 1, before[-1] + place - before)
    places = torch.empty_like(place).scatter(0, order, place)[:capacity]
    return places, labels[places]


def bound_masked(count: int, rate: float) -> int:
    """How many of `count` tokens `mask_words` predicts at most, in all but one batch of 10^9.

    The bound is six standard deviations above the mean, for words of four pieces, rounded up to a
    multiple of 64.
    """
    spread = 6 * math.sqrt(4 * count * rate * (1 - rate))
    return min(count, 64 * math.ceil((count * rate + spread) / 64))


def mask_words(
    ids: Tensor,
    starts: Tensor,
    maskable: Tensor,
    keys: Tensor,
    rate: float,
    mask_id: int,
    vocab_size: int,
) -> Task:
    """Masked language modelling: random words are predicted, with all their pieces.

    80 % of the predicted pieces become mask_id, 10 % a token drawn from the whole vocabulary, and
    10 % stay. "BERT", Devlin et al. 2019, arXiv 1810.04805, with whole words as in
    bojone/bert4keras.

    Args:
        ids: (B, L).
        starts: (B, L) bool, True where a word starts.
        maskable: (B, L) bool, True at the tokens that may be masked.
        keys: (B,).
        rate: The probability with which a word is predicted, in (0, 1).
        mask_id: The id of [MASK].
        vocab_size: The number of tokens to draw from.
    """
    draws = uniforms(keys, 3, ids.shape[1])
    word = (starts.long().cumsum(1) - 1).clamp(min=0)
    predicted = (draws[:, 0].gather(1, word) < rate) & maskable
    drawn = (draws[:, 2] * vocab_size).long().clamp(max=vocab_size - 1)
    shown = torch.where(draws[:, 1] < 0.8, mask_id, torch.where(draws[:, 1] < 0.9, ids, drawn))
    return Task(torch.where(predicted, shown, ids), torch.zeros_like(ids), predicted, ids)


def predict_next(ids: Tensor, inside: Tensor, documents: Tensor | None, cls_id: int) -> Task:
    """Language modelling: every token is predicted from the ones before it in its document.

    The [CLS] that starts a document is not predicted.
    """
    predicted = torch.zeros_like(inside)
    predicted[:, :-1] = inside[:, 1:] & (ids[:, 1:] != cls_id)
    if documents is not None:
        predicted[:, :-1] &= documents[:, 1:] == documents[:, :-1]
    return Task(ids, torch.zeros_like(ids), predicted, ids.roll(-1, 1))


def split_documents(
    ids: Tensor, inside: Tensor, documents: Tensor | None, keys: Tensor, sep_id: int, pad_id: int
) -> tuple[Task, Tensor, Tensor | None]:
    """UniLM: each document is split at random into source [SEP] target, and the target predicted.

    The first of a document's n tokens that belongs to the target is uniform over 1 .. n - 1;
    segment 1 is the target. A document of one token stays as it is. "Unified Language Model
    Pre-training", Dong et al. 2019, arXiv 1905.03197, with the random split of bojone/bert4keras.
    There the [SEP] pushes the last token out of the row; here the row grows and keeps it.

    Returns:
        The task, and `inside` and `documents` of its longer rows: one token longer where a row is
        one document, else as much longer as the fullest row needs, which depends on the data.
    """
    numbers = torch.zeros_like(ids) if documents is None else documents
    count = 1 if documents is None else int(numbers.max()) + 1
    sizes = ids.new_zeros(len(ids), count).scatter_add_(1, numbers, inside.long())
    first = sizes.cumsum(1) - sizes  # where each document starts
    draws = uniforms(keys, 1, count)[:, 0]
    split = first + 1 + (draws * (sizes - 1)).long().clamp(min=0).minimum((sizes - 2).clamp(min=0))
    place = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    splittable = inside & (sizes.gather(1, numbers) > 1)
    split = split.gather(1, numbers)  # (B, L): of each token's document
    starts_target = splittable & (place == split)
    target = splittable & (place >= split)
    new_place = place + starts_target.cumsum(1)
    length = ids.shape[1] + 1 if documents is None else int(new_place.max()) + 1
    # A [SEP] goes before the first token of a target; elsewhere into a column that is dropped.
    sep_place = torch.where(starts_target, new_place - 1, length)

    def spread(values: Tensor, at_sep: Tensor, fill: int) -> Tensor:
        """`values` at their new places, `at_sep` at the new [SEP]s, `fill` behind the rows."""
        out = values.new_full((len(ids), length + 1), fill).scatter(1, new_place, values)
        return out.scatter(1, sep_place, at_sep)[:, :length]

    ids = spread(ids, torch.full_like(ids, sep_id), pad_id)
    segments = spread(target.long(), torch.zeros_like(numbers), 0)
    inside = spread(inside, torch.ones_like(inside), False)
    documents = None if documents is None else spread(documents, documents, count)
    predicted = torch.zeros_like(inside)
    predicted[:, :-1] = segments[:, 1:] == 1
    if documents is not None:  # the first token of a target follows its own document's [SEP]
        predicted[:, :-1] &= documents[:, 1:] == documents[:, :-1]
    return Task(ids, segments, predicted, ids.roll(-1, 1)), inside, documents
