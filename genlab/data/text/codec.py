"""Texts as the rows that a model reads and writes, and back; with the vocabulary, which travels in
the checkpoint.
"""

import json
import re
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from genlab.data.text.tokenizer import Tokenizer
from genlab.errors import DataError
from genlab.ranges import NonNegativeInt, PositiveInt

__all__ = ["Codec", "pad"]


class Codec(nn.Module):
    """[CLS] source [SEP] target [SEP], or [CLS] passage [SEP] question [SEP] answer [SEP], as ids.

    max_source counts [CLS] and the [SEP] after the source, and is 0 for a language model, whose
    rows are [CLS] text [SEP] and whose source is a beginning; max_question counts the [SEP] after
    the question, 0 where nothing is asked; max_target the last [SEP]. A source that is longer is
    read in windows, of which each begins `stride` tokens after the one before, or, with stride
    null, cut on the side `truncate`: right drops its end. commas: the Chinese comma-like marks and
    the space of a passage become "," first, as in the source of webqa. The vocabulary comes with
    `use`, or out of a checkpoint: its one buffer is the JSON of Tokenizer.state() as uint8, so that
    a checkpoint can be used without its data.
    """

    def __init__(
        self,
        max_source: NonNegativeInt = 256,
        max_target: PositiveInt = 32,
        max_question: NonNegativeInt = 64,
        stride: PositiveInt | None = None,
        truncate: Literal["right", "left"] = "right",
        commas: bool = False,
    ):
        super().__init__()
        if min(max_source or 3, max_target) < 3 or max_question < 0:
            lengths = f"data.max_source={max_source}, max_target={max_target}, max_question={max_question}"
            raise DataError(f"{lengths}: expected 3 (or 0: no source), 3 and 0 tokens or more")
        if stride is not None and not 1 <= stride <= max_source - 2:
            raise DataError(
                f"data.stride={stride}: expected 1 to data.max_source - 2 = {max_source - 2}, or null"
            )
        if truncate not in ("right", "left"):
            raise DataError(f"data.truncate={truncate}: expected right or left")
        self.max_source, self.max_target, self.max_question = max_source, max_target, max_question
        self.stride, self.truncate, self.commas = stride, truncate, commas
        self.register_buffer("content", torch.zeros(0, dtype=torch.uint8))
        self._tokenizer: Tokenizer | None = None

    # --- the vocabulary ---------------------------------------------------------------------------

    def use(self, tokenizer: Tokenizer) -> None:
        """Takes the vocabulary of `tokenizer` as its own."""
        self._tokenizer = tokenizer
        content = json.dumps(tokenizer.state(), ensure_ascii=False).encode()
        self.content = torch.frombuffer(bytearray(content), dtype=torch.uint8).to(
            self.content.device
        )

    @property
    def tokenizer(self) -> Tokenizer:
        """ValueError where there is no vocabulary yet."""
        if self._tokenizer is None:
            if not len(self.content):
                raise DataError(
                    "there is no vocabulary yet: it comes with the data, or out of a trained run"
                )
            self._tokenizer = Tokenizer.from_state(
                json.loads(self.content.cpu().numpy().tobytes().decode())
            )
        return self._tokenizer

    def _load_from_state_dict(self, state_dict, prefix, *args):
        if (stored := state_dict.get(f"{prefix}content")) is not None:
            self.content, self._tokenizer = (
                torch.zeros_like(stored, device=self.content.device),
                None,
            )
        super()._load_from_state_dict(state_dict, prefix, *args)

    # --- texts to ids -----------------------------------------------------------------------------

    def sources(self, texts: Sequence[str]) -> list[list[int]]:
        """The plain ids of sources or passages, of any length."""
        if self.commas:
            texts = [re.sub(r"[ 、；，]+", ",", text) for text in texts]
        return self.tokenizer.plain(texts)

    def targets(self, texts: Sequence[str], parts: bool = False) -> list[list[int]]:
        """The plain ids of targets; where commas are on, a space between two parts of an answer
        becomes one.
        """
        return self.tokenizer.plain(
            [text.replace(" ", ",") for text in texts] if self.commas else texts
        )

    def starts(self, length: int) -> list[int]:
        """Where the windows over a source of `length` plain ids start; the last one ends with it."""
        room = self.max_source - 2
        if not self.max_source or length <= room:
            return [0]
        if self.stride is None:
            return [0 if self.truncate == "right" else length - room]
        return [*range(0, length - room, self.stride), length - room]

    def windows(
        self, source: Sequence[int], question: Sequence[int] | None = None
    ) -> list[list[int]]:
        """The rows [CLS] part of the source [SEP] (question [SEP]) to read, one a window, without a
        target.
        """
        width = self.max_source - 2 if self.max_source else len(source)
        return [
            self.row(source[start : start + width], question) for start in self.starts(len(source))
        ]

    def row(self, part: Sequence[int], question: Sequence[int] | None = None) -> list[int]:
        """One row to read, of a part of a source that fits."""
        t = self.tokenizer
        if question is not None and not self.max_question:
            raise DataError(
                "a question was asked, but data.max_question=0: this model was trained without"
            )
        if not self.max_source:
            return [t.cls_id, *part]
        asked = [] if question is None else [*question[: self.max_question - 1], t.sep_id]
        return [t.cls_id, *part, t.sep_id, *asked]

    def ending(self, target: Sequence[int]) -> list[int]:
        """target [SEP], cut to max_target."""
        return [*target[: self.max_target - 1], self.tokenizer.sep_id]

    @property
    def max_length(self) -> int:
        """Of a row with its question and target."""
        return max(self.max_source, 1) + self.max_question + self.max_target

    # --- and back ---------------------------------------------------------------------------------

    def text(self, ids: Sequence[int]) -> str:
        """The text of generated ids."""
        return self.tokenizer.decode(ids)

    @property
    def banned(self) -> list[int]:
        """What a target never contains: every special token but [SEP], its end."""
        t = self.tokenizer
        return [
            i for token, i in t.ids.items() if re.fullmatch(r"\[\w+\]", token) and i != t.sep_id
        ]


def pad(rows: Sequence[Sequence[int]], value: int = 0, length: int = 0) -> Tensor:
    """int64 (len(rows), `length`, or the longest if that is more), padded on the right."""
    out = torch.full((len(rows), max(length, *map(len, rows))), value)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.as_tensor(row, dtype=torch.long)
    return out
