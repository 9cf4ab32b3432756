"""From examples to the rows of a batch: which passage, which window, in which order."""

from collections.abc import Sequence
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


class TextDraw(NamedTuple):
    """The places of one batch in Encoded.rows, and the epoch they are drawn in; None: as they are
    validated on.
    """

    index: Tensor
    epoch: int | None = None


class LengthSampler(StepSampler):
    """A StepSampler of batches of like lengths: of the shuffled examples, each `pool` global
    batches are sorted by length and cut, and all batches shuffled, as a function of (seed, epoch).
    The examples left over differ from epoch to epoch.
    """

    computes = False

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
        self.lengths, self.pool = np.asarray(lengths), pool

    def _draws(self, position: int):
        for step, draw in zip(
            range(position, position + len(self)), super()._draws(position), strict=True
        ):
            yield TextDraw(draw.index, step // len(self))

    def _shuffle(self, epoch: int) -> tuple[Tensor, Tensor]:
        order, flips = super()._shuffle(epoch)
        order, size = order[: len(self) * self.global_batch].numpy(), self.pool * self.global_batch
        pools = [order[i : i + size] for i in range(0, len(order), size)]
        like = np.concatenate(
            [part[np.argsort(self.lengths[part], kind="stable")] for part in pools]
        )
        batches = like.reshape(len(self), self.global_batch)
        return torch.from_numpy(
            batches[random_state(self.seed, epoch, -1).permutation(len(self))].flatten()
        ), flips


class Encoded:
    """The examples of a split as plain ids, from which rows to train on are made.

    windows[i][j]: (start, target ids) of each window of source j of example i, the target being the
    first that may be answered there and whose every part is in the window; None: none is. rows: the
    examples to train on, which leaves out those whose answers occur in no window of their whole
    passage as tokens ("art" in "artist"), and so would be taught as no answer.
    """

    given: dict[str, Tensor] = {}  # noqa: RUF012 (never written to)

    def __init__(self, examples: Sequence[Example], codec: Codec):
        self.examples, self.codec = examples, codec
        passages = list(dict.fromkeys(source for e in examples for source in e.sources))
        ids = dict(
            zip(passages, (np.array(t, np.int32) for t in codec.sources(passages)), strict=True)
        )
        self.sources = [[ids[source] for source in e.sources] for e in examples]
        self.questions = codec.tokenizer.plain([e.question or "" for e in examples])
        texts = list(dict.fromkeys(answer for e in examples for answer in e.accepted))
        self.targets = dict(zip(texts, codec.targets(texts), strict=True))
        pieces = list(dict.fromkeys(piece for text in texts for piece in self._parts(text)))
        self.parts = dict(
            zip(
                pieces,
                (np.array(t, np.int32).tobytes() for t in codec.targets(pieces)),
                strict=True,
            )
        )
        self.windows = [
            [self._windows(e, j, ids[source]) for j, source in enumerate(e.sources)]
            for e in examples
        ]
        self.rows = [i for i in range(len(examples)) if self._usable(i)]

    def _parts(self, answer: str) -> list[str]:
        """An answer's parts, which may lie apart in a passage, where commas join them."""
        return answer.split(" ") if self.codec.commas else [answer]

    def _windows(
        self, example: Example, j: int, source: np.ndarray
    ) -> list[tuple[int, list[int] | None]]:
        answers, room = example.targets[j], self.codec.max_source - 2
        if example.question is None:
            return [(start, self.targets[answers[0]]) for start in self.codec.starts(len(source))]
        parts = {answer: [self.parts[piece] for piece in self._parts(answer)] for answer in answers}
        found = []
        for start in self.codec.starts(len(source)):
            window = source[start : start + room].tobytes()
            here = (a for a in answers if all(occurs(window, part) for part in parts[a]))
            answer = next(here, None)
            found.append((start, None if answer is None else self.targets[answer]))
        return found

    def _usable(self, i: int) -> bool:
        example, cut = self.examples[i], self.codec.stride is None
        if example.question is None or self.codec.commas:
            return True
        for source, targets, windows in zip(
            self.sources[i], example.targets, self.windows[i], strict=True
        ):
            whole = not cut or len(source) <= self.codec.max_source - 2
            if targets and whole and all(target is None for _, target in windows):
                return False
        return True

    def length(self, i: int) -> int:
        """About how long a row of example i is."""
        target = max((len(t) for windows in self.windows[i] for _, t in windows if t), default=0)
        return min(len(self.sources[i][0]), self.codec.max_source) + len(self.questions[i]) + target

    def row(
        self, i: int, random: np.random.RandomState | None, no_answer: float
    ) -> tuple[list[int], list[int]]:
        """What is read and what is written for example i: of one source, and one window of it.

        random: draws the source, then a window with an answer if there is one; None: the first of
        all. no_answer: the part of the draws for which a window without an answer is taken, of this
        passage or, half of the time and where it has none, of another document's.
        """
        if random is None:
            among = [
                (j, *window) for j, windows in enumerate(self.windows[i]) for window in windows
            ]
        else:
            j = random.randint(len(self.sources[i]))
            among = [(j, *window) for window in self.windows[i][j]]
        source = None
        holding, empty = ([w for w in among if (w[2] is not None) is has] for has in (True, False))
        if random is not None and no_answer and random.random_sample() < no_answer:
            holding = []
            if not empty or random.random_sample() < 0.5:
                source = self._foreign(i, random)
                empty = [(0, start, None) for start in self.codec.starts(len(source))]
        among = holding or empty
        j, start, target = among[0 if random is None else random.randint(len(among))]
        source = self.sources[i][j] if source is None else source
        part = source[start : start + self.codec.max_source - 2].tolist()
        question = None if self.examples[i].question is None else self.questions[i]
        return self.codec.row(part, question), self.codec.ending(target or [])

    def _foreign(self, i: int, random: np.random.RandomState) -> np.ndarray:
        """A passage of another document."""
        for _ in range(20):
            j = random.randint(len(self.examples))
            if self.examples[j].document != self.examples[i].document:
                return self.sources[j][random.randint(len(self.sources[j]))]
        raise DataError(
            "data.no_answer: the training split is of one document, so no passage is without the answer; set 0"
        )


def occurs(window: bytes, part: bytes) -> bool:
    """Whether the int32 ids `part` stand somewhere in `window`."""
    at = window.find(part) if part else -1
    while at % 4 and at >= 0:
        at = window.find(part, at + 1)
    return at >= 0


class Drawn:
    """As Encoded, for examples of one source, which may be none, and of equally good targets, of
    which one is drawn.

    given: what each example is written under, as in {"labels": (N, F)}, rows of which go into the
    batches.
    """

    def __init__(self, examples: Sequence[Example], codec: Codec, given: dict[str, Tensor]):
        self.examples, self.codec, self.given, self.rows = (
            examples,
            codec,
            given,
            range(len(examples)),
        )
        sources = dict.fromkeys(e.sources[0] for e in examples)
        sources = dict(zip(sources, codec.sources(list(sources)), strict=True))
        targets = dict.fromkeys(text for e in examples for text in e.targets[0])
        targets = dict(zip(targets, codec.targets(list(targets)), strict=True))
        self.sources = [codec.windows(sources[e.sources[0]])[0] for e in examples]
        self.targets = [[codec.ending(targets[text]) for text in e.targets[0]] for e in examples]

    def length(self, i: int) -> int:
        """Of a row of example i, at most."""
        return len(self.sources[i]) + max(map(len, self.targets[i]))

    def row(
        self, i: int, random: np.random.RandomState | None, no_answer: float
    ) -> tuple[list[int], list[int]]:
        """What is read and what is written for example i; without `random` its first target."""
        place = 0 if random is None else random.randint(len(self.targets[i]))
        return self.sources[i], self.targets[i][place]


class TextBatches:
    """`batches[draw]` -> {ids (B, L), segments (B, L): 1 from the first target token to the last
    [SEP], lengths (B,)}, and what the rows are written under (Drawn).

    int64, padded on the right with id 0 and segment 0; L is the longest, or the next multiple of
    `multiple`, at most the codec's. A row is a function of (seed, epoch, example).
    """

    def __init__(self, encoded: Encoded, seed: int, no_answer: float, multiple: int = 1):
        self.encoded, self.seed, self.no_answer, self.multiple = encoded, seed, no_answer, multiple

    def __getitem__(self, draw: TextDraw) -> dict[str, Tensor]:
        made, numbers = [], [self.encoded.rows[place] for place in draw.index.tolist()]
        for i in numbers:
            random = None if draw.epoch is None else random_state(self.seed, draw.epoch, i)
            made.append(self.encoded.row(i, random, self.no_answer))
        segments = [[0] * len(source) + [1] * len(target) for source, target in made]
        codec, longest = self.encoded.codec, max(map(len, segments))
        length = min(-(-longest // self.multiple) * self.multiple, codec.max_length)
        ids = pad([source + target for source, target in made], codec.tokenizer.pad_id, length)
        given = {name: values[torch.tensor(numbers)] for name, values in self.encoded.given.items()}
        lengths = torch.tensor([len(row) for row in segments])
        return {"ids": ids, "segments": pad(segments, 0, length), "lengths": lengths} | given
