"""From examples to the rows of a batch: which passage, which window, in which order.

A row is what the codec lays out: a source (or a window of a passage and its question), then the
target. Shapes: B rows of a batch; L tokens of the longest row; N examples; F fields of labels.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from genlab.data.sampler import StepSampler
from genlab.data.text.codec import Codec, pad
from genlab.data.text.records import Example
from genlab.errors import DataError
from genlab.seeds import random_state

__all__ = ["Drawn", "Encoded", "LengthSampler", "TextBatches", "TextDraw"]

MAX_TRIES = 20  # draws of an example until one of another document is found


class TextDraw(NamedTuple):
    """The rows of one batch.

    index: int64 (B,), places in Encoded.rows. epoch: the epoch they are drawn in; None: as they are
    validated on, the same each time.
    """

    index: Tensor
    epoch: int | None = None


class LengthSampler(StepSampler):
    """A StepSampler of batches of like lengths, as a function of (seed, epoch).

    Of the shuffled examples, each `pool` global batches are sorted by length and cut into batches,
    and all batches are shuffled. The examples left over differ from epoch to epoch.

    Args:
        lengths: (N,), tokens of each example, about.
        batch_size, seed, rank, world_size: See StepSampler.
        pool: Global batches that are sorted together.
    """

    may_compute = False

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        pool: int = 32,
    ):
        super().__init__(len(lengths), batch_size, seed, False, rank, world_size)
        self.lengths = np.asarray(lengths)
        self.pool = pool

    def _draws(self, position: int) -> Iterator[TextDraw]:
        for step, draw in enumerate(super()._draws(position), position):
            yield TextDraw(draw.index, step // len(self))

    def _shuffle(self, epoch: int) -> tuple[Tensor, Tensor]:
        order, flips = super()._shuffle(epoch)
        order = order[: len(self) * self.global_batch].numpy()
        size = self.pool * self.global_batch
        pools = [order[i : i + size] for i in range(0, len(order), size)]
        pools = [pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools]
        batches = np.concatenate(pools).reshape(len(self), self.global_batch)
        places = random_state(self.seed, epoch, -1).permutation(len(self))
        return torch.from_numpy(batches[places].flatten()), flips


class Encoded:
    """The examples of a split as plain ids, from which rows to train on are made.

    Args:
        examples: N of them.
        codec: Lays out rows; has the vocabulary.

    Attributes:
        windows: windows[i][j] is (start, target ids) of each window of source j of example i. The
            target is the first reference of which every part is in the window; None: none is.
        rows: The examples to train on. It leaves out those whose references occur in no window of
            their whole passage as tokens ("art" in "artist"): they would teach that there is no
            answer.
        given: What the examples are written under, as in {"labels": (N, F)}; here nothing.
    """

    given: dict[str, Tensor] = {}  # noqa: RUF012 (never written to)

    def __init__(self, examples: Sequence[Example], codec: Codec):
        self.examples = examples
        self.codec = codec
        passages = list(dict.fromkeys(source for e in examples for source in e.sources))
        plain = (np.array(ids, np.int32) for ids in codec.sources(passages))
        ids = dict(zip(passages, plain, strict=True))
        self.sources = [[ids[source] for source in e.sources] for e in examples]
        self.questions = codec.tokenizer.plain([e.question or "" for e in examples])
        texts = list(dict.fromkeys(answer for e in examples for answer in e.accepted))
        self.targets = dict(zip(texts, codec.targets(texts), strict=True))
        pieces = list(dict.fromkeys(piece for text in texts for piece in self._parts(text)))
        stored = (np.array(ids, np.int32).tobytes() for ids in codec.targets(pieces))
        self.parts = dict(zip(pieces, stored, strict=True))
        self.windows = [
            [self._windows(e, j, ids[source]) for j, source in enumerate(e.sources)]
            for e in examples
        ]
        self.rows = [i for i in range(len(examples)) if self._usable(i)]

    def _parts(self, answer: str) -> list[str]:
        """The parts of an answer; where commas join them, they may lie apart in a passage."""
        return answer.split(" ") if self.codec.commas else [answer]

    def _windows(
        self, example: Example, j: int, source: np.ndarray
    ) -> list[tuple[int, list[int] | None]]:
        answers = example.targets[j]
        starts = self.codec.starts(len(source))
        if example.question is None:
            return [(start, self.targets[answers[0]]) for start in starts]
        parts = {answer: [self.parts[piece] for piece in self._parts(answer)] for answer in answers}
        found = []
        for start in starts:
            window = source[start : start + self.codec.max_source - 2].tobytes()
            here = (a for a in answers if all(occurs(window, part) for part in parts[a]))
            answer = next(here, None)
            found.append((start, None if answer is None else self.targets[answer]))
        return found

    def _usable(self, i: int) -> bool:
        """Whether example i teaches something true; see `rows`."""
        example = self.examples[i]
        if example.question is None or self.codec.commas:
            return True
        cut = self.codec.stride is None
        sources = zip(self.sources[i], example.targets, self.windows[i], strict=True)
        for source, targets, windows in sources:
            whole = not cut or len(source) <= self.codec.max_source - 2
            if targets and whole and all(target is None for _, target in windows):
                return False
        return True

    def length(self, i: int) -> int:
        """About how many tokens a row of example i has."""
        target = max((len(t) for windows in self.windows[i] for _, t in windows if t), default=0)
        return min(len(self.sources[i][0]), self.codec.max_source) + len(self.questions[i]) + target

    def row(
        self, i: int, random: np.random.RandomState | None, no_answer: float
    ) -> tuple[list[int], list[int]]:
        """A row of example i, from one window of one of its sources.

        Args:
            i: The example.
            random: Draws the source, then a window with an answer if there is one; None: the first
                of all.
            no_answer: The fraction of draws in which a window without an answer is taken: of this
                passage or, half of the time and where it has none, of another document's.

        Returns:
            (the ids that are read, the ids that are written).
        """
        if random is None:
            among = [
                (j, *window) for j, windows in enumerate(self.windows[i]) for window in windows
            ]
        else:
            j = random.randint(len(self.sources[i]))
            among = [(j, *window) for window in self.windows[i][j]]
        holding = [window for window in among if window[2] is not None]
        empty = [window for window in among if window[2] is None]
        foreign = None
        if random is not None and no_answer and random.random_sample() < no_answer:
            holding = []
            if not empty or random.random_sample() < 0.5:
                foreign = self._foreign(i, random)
                empty = [(0, start, None) for start in self.codec.starts(len(foreign))]
        among = holding or empty
        j, start, target = among[0 if random is None else random.randint(len(among))]
        source = self.sources[i][j] if foreign is None else foreign
        part = source[start : start + self.codec.max_source - 2].tolist()
        question = None if self.examples[i].question is None else self.questions[i]
        return self.codec.row(part, question), self.codec.ending(target or [])

    def _foreign(self, i: int, random: np.random.RandomState) -> np.ndarray:
        """A passage of another document."""
        for _ in range(MAX_TRIES):
            j = random.randint(len(self.examples))
            if self.examples[j].document != self.examples[i].document:
                return self.sources[j][random.randint(len(self.sources[j]))]
        raise DataError(
            "data.no_answer: the training split is one document, so there is no passage without "
            "the answer; set data.no_answer=0"
        )


def occurs(window: bytes, part: bytes) -> bool:
    """Whether the int32 ids `part` stand somewhere in `window`."""
    at = window.find(part) if part else -1
    while at % 4 and at >= 0:
        at = window.find(part, at + 1)
    return at >= 0


class Drawn:
    """As Encoded, for examples with at most one source and several references.

    A reference is drawn each time that an example is trained on.

    Args:
        examples: N of them.
        codec: Lays out rows; has the vocabulary.
        given: What the examples are written under, as in {"labels": (N, F)}; its rows go into the
            batches.
    """

    def __init__(self, examples: Sequence[Example], codec: Codec, given: dict[str, Tensor]):
        self.examples = examples
        self.codec = codec
        self.given = given
        self.rows = range(len(examples))
        sources = list(dict.fromkeys(e.sources[0] for e in examples))
        plain = dict(zip(sources, codec.sources(sources), strict=True))
        self.sources = [codec.windows(plain[e.sources[0]])[0] for e in examples]
        targets = list(dict.fromkeys(text for e in examples for text in e.targets[0]))
        plain = dict(zip(targets, codec.targets(targets), strict=True))
        self.targets = [[codec.ending(plain[text]) for text in e.targets[0]] for e in examples]

    def length(self, i: int) -> int:
        """How many tokens a row of example i has at most."""
        return len(self.sources[i]) + max(map(len, self.targets[i]))

    def row(
        self, i: int, random: np.random.RandomState | None, no_answer: float
    ) -> tuple[list[int], list[int]]:
        """(the ids that are read, those that are written) of example i.

        Args:
            i: The example.
            random: Draws the reference; None: the first.
            no_answer: Of no use here.
        """
        place = 0 if random is None else random.randint(len(self.targets[i]))
        return self.sources[i], self.targets[i][place]


class TextBatches:
    """`batches[draw]` is {ids, segments, lengths}, with what the rows are written under (`given`).

    ids int64 (B, L), padded on the right with the padding id; segments int64 (B, L), 1 from the
    first token of the target to its [SEP], else 0; lengths int64 (B,). A row is a function of
    (seed, epoch, example).

    Args:
        encoded: The examples.
        seed: Of what is drawn.
        no_answer: See Encoded.row.
        multiple: L is the longest row, rounded up to a multiple of it, and never beyond
            codec.max_length.
    """

    def __init__(
        self, encoded: Encoded | Drawn, seed: int, no_answer: float, multiple: int = 1
    ) -> None:
        self.encoded = encoded
        self.seed = seed
        self.no_answer = no_answer
        self.multiple = multiple

    def __getitem__(self, draw: TextDraw) -> dict[str, Tensor]:
        numbers = [self.encoded.rows[place] for place in draw.index.tolist()]
        rows = []
        for i in numbers:
            random = None if draw.epoch is None else random_state(self.seed, draw.epoch, i)
            rows.append(self.encoded.row(i, random, self.no_answer))
        segments = [[0] * len(source) + [1] * len(target) for source, target in rows]
        codec = self.encoded.codec
        longest = max(map(len, segments))
        width = min(-(-longest // self.multiple) * self.multiple, codec.max_length)
        given = {name: values[torch.tensor(numbers)] for name, values in self.encoded.given.items()}
        return {
            "ids": pad([source + target for source, target in rows], codec.tokenizer.pad_id, width),
            "segments": pad(segments, 0, width),  # (B, L)
            "lengths": torch.tensor([len(row) for row in segments]),  # (B,)
            **given,
        }
