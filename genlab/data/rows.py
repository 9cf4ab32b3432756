"""From examples to the rows of a batch: which passage, which window, in which order."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from genlab.data.codec import Codec, pad
from genlab.data.decode import DataError
from genlab.data.records import Example
from genlab.data.sampler import StepSampler

__all__ = ["Encoded", "LengthSampler", "TextBatches", "TextDraw"]


class TextDraw(NamedTuple):
    """The examples of one batch, and the epoch they are drawn in; None: as they are validated on."""

    index: Tensor
    epoch: int | None = None


def random_state(*words: int) -> np.random.RandomState:
    """A generator for these numbers; RandomState, because NumPy has frozen its streams."""
    digest = hashlib.blake2b(" ".join(map(str, words)).encode(), digest_size=32).digest()
    return np.random.RandomState(np.frombuffer(digest, dtype="<u4").astype(np.uint32))


class LengthSampler(StepSampler):
    """A StepSampler of batches of like lengths: of the shuffled examples, each `pool` global batches are sorted by length
    and cut, and all batches shuffled, as a function of (seed, epoch). The examples left over differ from epoch to epoch."""

    def __init__(
        self, lengths: Sequence[int], batch_size: int, seed: int, rank: int = 0, world_size: int = 1, pool: int = 32
    ):
        super().__init__(len(lengths), batch_size, seed, False, rank, world_size)
        self.lengths, self.pool = np.asarray(lengths), pool

    def _draws(self, position: int):
        for step, draw in zip(range(position, position + len(self)), super()._draws(position), strict=True):
            yield TextDraw(draw.index, step // len(self))

    def _shuffle(self, epoch: int) -> tuple[Tensor, Tensor]:
        order, flips = super()._shuffle(epoch)
        order, size = order[: len(self) * self.global_batch].numpy(), self.pool * self.global_batch
        pools = [order[i : i + size] for i in range(0, len(order), size)]
        like = np.concatenate([part[np.argsort(self.lengths[part], kind="stable")] for part in pools])
        batches = like.reshape(len(self), self.global_batch)
        return torch.from_numpy(batches[random_state(self.seed, epoch, -1).permutation(len(self))].flatten()), flips


class Encoded:
    """The examples of a split as plain ids, from which rows to train on are made."""

    def __init__(self, examples: Sequence[Example], codec: Codec):
        self.examples, self.codec = examples, codec
        passages = list(dict.fromkeys(source for e in examples for source in e.sources))
        ids = dict(zip(passages, codec.sources(passages), strict=True))
        self.sources = [[np.array(ids[source]) for source in e.sources] for e in examples]
        self.questions = codec.tokenizer.plain([e.question or "" for e in examples])
        answers = list(dict.fromkeys(answer for e in examples for answer in e.accepted))
        ids = dict(zip(answers, codec.targets(answers), strict=True))
        # An answer of webqa may have parts that lie apart in a passage.
        split = codec.targets([part for a in answers for part in a.split(" ")]) if codec.commas else []
        parts, at = {}, 0
        for answer in answers:
            count = answer.count(" ") + 1
            parts[answer] = split[at : at + count] if codec.commas else [ids[answer]]
            at += count
        self.targets = [[(ids[a], parts[a]) for a in e.accepted] for e in examples]

    def length(self, i: int) -> int:
        source = min(len(self.sources[i][0]), self.codec.max_source)
        return source + len(self.questions[i]) + max((len(ids) for ids, _ in self.targets[i]), default=0)

    def row(self, i: int, random: np.random.RandomState | None, no_answer: float) -> tuple[list[int], list[int]]:
        """What is read and what is written for example i: of one source, and one window of it.

        random: chooses both; None for the first that has an answer. no_answer: the part of the examples for which a window
        without the answer is taken, of the same passage or, half of the time and where it has none, of another document's.
        """
        codec, question = self.codec, self.questions[i]
        if self.examples[i].question is None:
            (source,), (target, _) = self.sources[i], self.targets[i][0]
            starts = codec.starts(len(source))
            start = starts[0 if random is None else random.randint(len(starts))]
            return codec.row(source[start : start + codec.max_source - 2].tolist()), codec.ending(target)
        windows = [(source, start) for source in self.sources[i] for start in codec.starts(len(source))]
        if random is not None:
            source = self.sources[i][random.randint(len(self.sources[i]))]
            windows = [(source, start) for start in codec.starts(len(source))]
        found = [self._answer(i, source[start : start + codec.max_source - 2]) for source, start in windows]
        holding, empty = ([k for k, target in enumerate(found) if bool(target) is has] for has in (True, False))
        if random is not None and random.random_sample() < no_answer:
            if not empty or random.random_sample() < 0.5:
                source = self._foreign(i, random)
                starts = codec.starts(len(source))
                windows, found, empty = [(source, starts[random.randint(len(starts))])], [[]], [0]
            holding = []
        among = holding or empty
        k = among[0 if random is None else random.randint(len(among))]
        source, start = windows[k]
        part = source[start : start + codec.max_source - 2].tolist()
        return codec.row(part, question), codec.ending(found[k] or [])

    def _answer(self, i: int, window: np.ndarray) -> list[int] | None:
        """The first accepted answer whose every part is in the window."""
        return next((ids for ids, parts in self.targets[i] if all(occurs(window, part) for part in parts)), None)

    def _foreign(self, i: int, random: np.random.RandomState) -> np.ndarray:
        """A passage of another document; that of the example itself where all are of one document."""
        for _ in range(20):
            j = random.randint(len(self.examples))
            if self.examples[j].document != self.examples[i].document:
                return self.sources[j][random.randint(len(self.sources[j]))]
        raise DataError("data.no_answer: the training split is of one document, so no passage is without the answer; set 0")


def occurs(window: np.ndarray, part: Sequence[int]) -> bool:
    """Whether `part` stands somewhere in `window`."""
    room = len(window) - len(part) + 1
    if not part or room < 1:
        return False
    starts = np.flatnonzero(window[:room] == part[0])
    return any(window[start : start + len(part)].tolist() == list(part) for start in starts)


class TextBatches:
    """`batches[draw]` -> {ids (B, L), segments (B, L): 1 from the first target token to the last [SEP], lengths (B,)}.

    int64, padded on the right with id 0 and segment 0. A row is a function of (seed, epoch, example).
    """

    def __init__(self, encoded: Encoded, seed: int, no_answer: float):
        self.encoded, self.seed, self.no_answer = encoded, seed, no_answer

    def __getitem__(self, draw: TextDraw) -> dict[str, Tensor]:
        states = [None if draw.epoch is None else random_state(self.seed, draw.epoch, i) for i in draw.index.tolist()]
        made = [self.encoded.row(i, s, self.no_answer) for i, s in zip(draw.index.tolist(), states, strict=True)]
        segments = [[0] * len(source) + [1] * len(target) for source, target in made]
        ids = pad([source + target for source, target in made], self.encoded.codec.tokenizer.pad_id)
        return {"ids": ids, "segments": pad(segments), "lengths": torch.tensor([len(row) for row in segments])}
