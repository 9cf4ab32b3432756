"""What a language model is asked about a row: which tokens it sees, where it predicts, and what is
right there.

ids (B, L) int64; inside (B, L) is True at real tokens; documents (B, L) numbers the documents that
a packed row keeps apart,
None: a row is one. Random numbers are a function of keys (B,) int64 alone, whatever the device or
the company of a row.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "IGNORED",
    "Question",
    "continued",
    "masked",
    "most_masked",
    "next_tokens",
    "select",
    "uniforms",
]

IGNORED = -100  # the answer that F.cross_entropy leaves out

GOLDEN, FIRST, SECOND = (
    value - (1 << 64) for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


class Question(NamedTuple):
    """ids, segments (B, L): what is read. chosen (B, L) bool: where is predicted; right (B, L):
    what is right there.
    """

    ids: Tensor
    segments: Tensor
    chosen: Tensor
    right: Tensor

    @property
    def answers(self) -> Tensor:
        """(M,): what is right where is predicted."""
        return self.right[self.chosen]


def select(chosen: Tensor, right: Tensor, capacity: int | None = None) -> tuple[Tensor, Tensor]:
    """chosen (B, L) bool, right (B, L) -> (the M chosen places in the flattened rows, what is right
    there).

    capacity: M, whatever is chosen, so that nothing waits for the device or depends on the data:
    other places, whose answer is IGNORED, fill it up; of more chosen ones the last are left out.
    """
    chosen, right = chosen.flatten(), right.flatten()
    if capacity is None:
        places = chosen.nonzero()[:, 0]
        return places, right[places]
    place, right = (
        torch.arange(len(chosen), device=chosen.device),
        right.masked_fill(~chosen, IGNORED),
    )
    if capacity >= len(chosen):
        return place, right
    before = chosen.cumsum(0)
    # The chosen in front and the others behind, each once: repeated places would make the
    # gradient's additions collide.
    order = torch.where(chosen, before - 1, before[-1] + place - before)
    places = torch.empty_like(place).scatter(0, order, place)[:capacity]
    return places, right[places]


def most_masked(count: int, rate: float) -> int:
    """How many of `count` tokens are chosen by `masked` at most, but for one batch in 10^9.

    Six standard deviations above the mean, if words have four pieces; a multiple of 64.
    """
    spread = 6 * math.sqrt(4 * count * rate * (1 - rate))
    return min(count, 64 * math.ceil((count * rate + spread) / 64))


def uniforms(keys: Tensor, num: int, length: int) -> Tensor:
    """float32 (B, num, length) in [0, 1): SplitMix64 (Steele et al. 2014, doi
    10.1145/2660193.2660195) from each key on.
    """
    place = torch.arange(1, num * length + 1, device=keys.device)
    z = keys[:, None] * FIRST + place * GOLDEN  # wraps around
    z = (z ^ _shifted(z, 30)) * FIRST
    z = (z ^ _shifted(z, 27)) * SECOND
    z = z ^ _shifted(z, 31)
    return (_shifted(z, 40).float() / (1 << 24)).unflatten(1, (num, length))


def _shifted(z: Tensor, bits: int) -> Tensor:
    """z >> bits of 64 bits without a sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def masked(
    ids: Tensor,
    starts: Tensor,
    hideable: Tensor,
    keys: Tensor,
    rate: float,
    mask_id: int,
    vocab_size: int,
) -> Question:
    """Masked language modelling: each word is chosen with probability `rate`, and all its pieces
    are predicted.

    Of the chosen pieces 80 % become mask_id, 10 % a token drawn from the whole vocabulary, 10 %
    stay. "BERT", Devlin et al. 2019, arXiv 1810.04805, with whole words as in bojone/bert4keras.
    starts: where a word starts; hideable: which tokens may be chosen.
    """
    draws = uniforms(keys, 3, ids.shape[1])
    word = (starts.long().cumsum(1) - 1).clamp(min=0)
    chosen = (draws[:, 0].gather(1, word) < rate) & hideable
    drawn = (draws[:, 2] * vocab_size).long().clamp(max=vocab_size - 1)
    shown = torch.where(draws[:, 1] < 0.8, mask_id, torch.where(draws[:, 1] < 0.9, ids, drawn))
    return Question(torch.where(chosen, shown, ids), torch.zeros_like(ids), chosen, ids)


def next_tokens(ids: Tensor, inside: Tensor, documents: Tensor | None, cls_id: int) -> Question:
    """Language modelling: every token is predicted from those before it, but for the [CLS] that a
    document starts with.
    """
    chosen = torch.zeros_like(inside)
    chosen[:, :-1] = inside[:, 1:] & (ids[:, 1:] != cls_id)
    if documents is not None:
        chosen[:, :-1] &= documents[:, 1:] == documents[:, :-1]
    return Question(ids, torch.zeros_like(ids), chosen, ids.roll(-1, 1))


def continued(
    ids: Tensor, inside: Tensor, documents: Tensor | None, keys: Tensor, sep_id: int, pad_id: int
) -> tuple[Question, Tensor, Tensor | None]:
    """UNILM: each document is split at random into source [SEP] target -> (Question, inside,
    documents), wider by the [SEP].

    The first of n tokens of the target is uniform over 1 .. n - 1; segment 1 is the target.
    "Unified Language Model Pre-training", Dong et al. 2019, arXiv 1905.03197, with the random split
    of bojone/bert4keras, whose last token, pushed out of the row there, is kept here. Documents of
    one token are left as they are. How much wider rows with several documents become depends on the
    data.
    """
    numbers = torch.zeros_like(ids) if documents is None else documents
    count = 1 if documents is None else int(numbers.max()) + 1
    sizes = ids.new_zeros(len(ids), count).scatter_add_(1, numbers, inside.long())
    first = sizes.cumsum(1) - sizes  # where each document starts
    draws = uniforms(keys, 1, count)[:, 0]
    split = first + 1 + (draws * (sizes - 1)).long().clamp(min=0).minimum((sizes - 2).clamp(min=0))
    place = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    cut = (place == split.gather(1, numbers)) & inside & (sizes.gather(1, numbers) > 1)
    target = inside & (place >= split.gather(1, numbers)) & (sizes.gather(1, numbers) > 1)
    wide = place + cut.cumsum(1)
    length = ids.shape[1] + 1 if documents is None else int(wide.max()) + 1
    gap = torch.where(
        cut, wide - 1, length
    )  # where no [SEP] comes in, it goes into a column that is dropped

    def moved(values: Tensor, at_cut: Tensor, rest: int) -> Tensor:
        out = values.new_full((len(ids), length + 1), rest).scatter(1, wide, values)
        return out.scatter(1, gap, at_cut)[:, :length]

    new = moved(ids, torch.full_like(ids, sep_id), pad_id)
    segments = moved(target.long(), torch.zeros_like(ids), 0)
    real = moved(inside, torch.ones_like(inside), False)
    apart = None if documents is None else moved(documents, documents, count)
    chosen = torch.zeros_like(real)
    chosen[:, :-1] = segments[:, 1:] == 1
    if apart is not None:  # a target's first token follows its own [SEP]
        chosen[:, :-1] &= apart[:, 1:] == apart[:, :-1]
    return Question(new, segments, chosen, new.roll(-1, 1)), real, apart
