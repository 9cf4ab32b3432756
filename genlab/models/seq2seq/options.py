"""How a text is to be written: what a user says of it, with its defaults, checked."""

from dataclasses import dataclass, fields, replace
from typing import Literal

__all__ = ["Decoding"]

ONLY = {  # an option -> the methods that it means something to
    "beams": ("beam",),
    "length_penalty": ("beam",),
    "temperature": ("sample",),
    "top_k": ("sample",),
    "top_p": ("sample",),
}


LEAST = {  # an option -> the least number that means something, and whether it is a whole one
    "num": (1, True),
    "beams": (1, True),
    "length_penalty": (float("-inf"), False),
    "min_length": (0, True),
    "max_length": (1, True),
    "block_ngrams": (0, True),
    "temperature": (1e-6, False),
    "top_k": (1, True),
    "top_p": (1e-6, False),
    "abstain": (0, False),
    "guidance": (0, False),
}


@dataclass(frozen=True)
class Decoding:
    """How to write; null leaves an option to its default.

    Args:
        method: greedy, beam or sample; greedy for answers, as in the source, else beam.
        num: texts a source, 1.
        beams: 4, or num if that is more.
        length_penalty: 0, and 1 for answers, since each vote is below a half and an empty answer
        would win.
        min_length: tokens, 1, and 0 for answers.
        max_length: tokens with the end; as many as the model was trained to write, which is the
        most.
        block_ngrams: no n-gram of this n twice; 0: they may be.
        temperature, top_k, top_p: of method=sample.
        extractive: an answer is a piece of a passage; true.
        abstain: the probability of having no answer from which a passage drops out; null: where
        that is the likeliest start.
        guidance: of a conditional model, how far its logits are taken from those without a
            condition through those with it; 1.
    """

    method: Literal["greedy", "beam", "sample"] | None = None
    num: int = 1
    beams: int | None = None
    length_penalty: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    block_ngrams: int = 0
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    extractive: bool | None = None
    abstain: float | None = None
    guidance: float | None = None

    def __post_init__(self):
        if self.method not in (None, "greedy", "beam", "sample"):
            raise ValueError(
                f"decoding.method={self.method}: expected greedy, beam or sample, or null"
            )
        for name, (least, whole) in LEAST.items():
            value = getattr(self, name)
            if value is None and name not in ("num", "block_ngrams"):
                continue
            kind = int if whole else int | float
            if (
                isinstance(value, bool)
                or not isinstance(value, kind)
                or not least <= value < float("inf")
            ):
                what = "a whole number" if whole else "a number"
                bound = {1e-6: "above 0", float("-inf"): "that is finite"}.get(
                    least, f"of {least} or more"
                )
                raise ValueError(f"decoding.{name}={value!r}: expected {what} {bound}")
        for name in ("top_p", "abstain"):
            if getattr(self, name) is not None and getattr(self, name) > 1:
                raise ValueError(
                    f"decoding.{name}={getattr(self, name)}: expected a probability, at most 1"
                )
        if self.extractive not in (None, True, False):
            raise ValueError(
                f"decoding.extractive={self.extractive!r}: expected true, false or null"
            )
        if self.beams is not None and self.beams < self.num:
            raise ValueError(
                f"decoding.beams={self.beams}: expected decoding.num={self.num} or more, as so many texts are kept"
            )

    def settled(self, asked: bool) -> "Decoding":
        """The same with its defaults, for answers or other texts; ValueError for an option that
        means nothing there.
        """
        method = self.method or ("greedy" if asked else "beam")
        for name, methods in ONLY.items():
            if getattr(self, name) is not None and method not in methods:
                raise ValueError(
                    f"decoding.{name}={getattr(self, name)}: means nothing to method {method}, but to {methods[0]}"
                )
        for name in ("extractive", "abstain"):
            if not asked and getattr(self, name) is not None:
                raise ValueError(
                    f"decoding.{name}={getattr(self, name)}: means nothing without a question"
                )
        if self.num > 1 and method == "greedy":
            raise ValueError(
                f"decoding.num={self.num}: several texts need decoding.method=beam or sample"
            )
        return replace(
            self,
            method=method,
            beams=(max(4, self.num) if self.beams is None else self.beams)
            if method == "beam"
            else None,
            length_penalty=(float(asked) if self.length_penalty is None else self.length_penalty)
            if method == "beam"
            else None,
            min_length=int(not asked) if self.min_length is None else self.min_length,
            extractive=(self.extractive is not False) if asked else None,
        )

    def longest(self, most: int, why: str) -> int:
        """How many tokens a text has at most: max_length, or `most`, for the reason `why`;
        ValueError where it is more.
        """
        if self.max_length is not None and self.max_length > most:
            raise ValueError(
                f"decoding.max_length={self.max_length}: expected at most {most}, {why}"
            )
        return most if self.max_length is None else self.max_length

    @classmethod
    def names(cls) -> list[str]:
        return [field.name for field in fields(cls)]
