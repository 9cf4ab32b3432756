"""Text as the rows that a model reads and writes, and back.

The codec holds the vocabulary, which travels in the checkpoint of a model.
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
    """Lays out rows of ids, with the vocabulary.

    A row is [CLS] source [SEP] target [SEP], or [CLS] passage [SEP] question [SEP] answer [SEP].
    The rows of a language model are [CLS] text [SEP]; its source is a beginning of the text. The
    vocabulary comes with `use` or out of a checkpoint: the one buffer is the JSON of
    Tokenizer.state() as uint8, so that a checkpoint can be used without its data.

    Args:
        max_source: Tokens of a source, with [CLS] and the [SEP] after it; 0: a language model.
        max_target: Tokens of a target, with the last [SEP].
        max_question: Tokens of a question, with the [SEP] after it; 0: there are no questions.
        stride: A source that is too long is read in windows, each of which starts so many tokens
            after the one before; None: it is cut.
        truncate: The side that is cut: right drops the end.
        commas: Turn the Chinese comma-like marks and the spaces of a passage into ",", as Su's code
            for WebQA does.

    Raises:
        DataError: A length or the stride is out of range.
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
            raise DataError(
                f"data.max_source={max_source}, max_target={max_target}, "
                f"max_question={max_question}: expected 3 tokens or more, "
                "0 or more for a question, and max_source=0 for none"
            )
        if stride is not None and not 1 <= stride <= max_source - 2:
            raise DataError(
                f"data.stride={stride}: expected 1 to data.max_source - 2 = {max_source - 2}, "
                "or null"
            )
        if truncate not in ("right", "left"):
            raise DataError(f"data.truncate={truncate}: expected right or left")
        self.max_source = max_source
        self.max_target = max_target
        self.max_question = max_question
        self.stride = stride
        self.truncate = truncate
        self.commas = commas
        self.register_buffer("content", torch.zeros(0, dtype=torch.uint8))
        self._tokenizer: Tokenizer | None = None

    # --- the vocabulary ---------------------------------------------------------------------------

    def use(self, tokenizer: Tokenizer) -> None:
        """Takes the vocabulary of `tokenizer` as its own."""
        self._tokenizer = tokenizer
        content = json.dumps(tokenizer.state(), ensure_ascii=False).encode()
        stored = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        self.content = stored.to(self.content.device)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; DataError where there is no vocabulary yet."""
        if self._tokenizer is None:
            if not len(self.content):
                raise DataError(
                    "there is no vocabulary yet: it comes with the data, or out of a trained run"
                )
            content = self.content.cpu().numpy().tobytes().decode()
            self._tokenizer = Tokenizer.from_state(json.loads(content))
        return self._tokenizer

    def _load_from_state_dict(self, state_dict, prefix, *args):
        stored = state_dict.get(f"{prefix}content")
        if stored is not None:
            self.content = torch.zeros_like(stored, device=self.content.device)
            self._tokenizer = None
        super()._load_from_state_dict(state_dict, prefix, *args)

    # --- text to ids ------------------------------------------------------------------------------

    def sources(self, texts: Sequence[str]) -> list[list[int]]:
        """The plain ids of sources or passages, of any length."""
        if self.commas:
            texts = [re.sub(r"[ 、；，]+", ",", text) for text in texts]
        return self.tokenizer.plain(texts)

    def targets(self, texts: Sequence[str]) -> list[list[int]]:
        """The plain ids of targets; with `commas`, the parts of an answer are joined by commas."""
        if self.commas:
            texts = [text.replace(" ", ",") for text in texts]
        return self.tokenizer.plain(texts)

    def starts(self, length: int) -> list[int]:
        """Where the windows over a source of `length` ids start; the last one ends with it."""
        room = self.max_source - 2
        if not self.max_source or length <= room:
            return [0]
        if self.stride is None:
            return [0 if self.truncate == "right" else length - room]
        return [*range(0, length - room, self.stride), length - room]

    def windows(
        self, source: Sequence[int], question: Sequence[int] | None = None
    ) -> list[list[int]]:
        """The rows to read, one a window of the source, without a target."""
        width = self.max_source - 2 if self.max_source else len(source)
        return [
            self.row(source[start : start + width], question) for start in self.starts(len(source))
        ]

    def row(self, part: Sequence[int], question: Sequence[int] | None = None) -> list[int]:
        """One row to read, without a target.

        Args:
            part: Ids of a part of a source that fits.
            question: Ids of a question, which is cut to max_question; None: there is none.
        """
        t = self.tokenizer
        if question is not None and not self.max_question:
            raise DataError(
                "a question was given, but data.max_question=0: this model was trained without"
            )
        if not self.max_source:
            return [t.cls_id, *part]
        end = [] if question is None else [*question[: self.max_question - 1], t.sep_id]
        return [t.cls_id, *part, t.sep_id, *end]

    def ending(self, target: Sequence[int]) -> list[int]:
        """target [SEP], cut to max_target."""
        return [*target[: self.max_target - 1], self.tokenizer.sep_id]

    @property
    def max_length(self) -> int:
        """The most tokens of a row with its question and target."""
        return max(self.max_source, 1) + self.max_question + self.max_target

    # --- and back ---------------------------------------------------------------------------------

    def text(self, ids: Sequence[int]) -> str:
        """The text of generated ids."""
        return self.tokenizer.decode(ids)

    @property
    def banned(self) -> list[int]:
        """The ids that a target never contains: all special tokens but [SEP], its end."""
        t = self.tokenizer
        special = [i for token, i in t.ids.items() if re.fullmatch(r"\[\w+\]", token)]
        return [i for i in special if i != t.sep_id]


def pad(rows: Sequence[Sequence[int]], value: int = 0, length: int = 0) -> Tensor:
    """Rows as int64 (len(rows), L), padded on the right.

    Args:
        rows: Ids.
        value: What they are padded with.
        length: L is it, or the longest row if that is more.
    """
    out = torch.full((len(rows), max(length, *map(len, rows))), value)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.as_tensor(row, dtype=torch.long)
    return out
