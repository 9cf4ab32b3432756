"""The options of text generation that a user sets, with their defaults and checks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from genlab.ranges import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFraction,
    PositiveInt,
    Range,
)

__all__ = ["Decoding"]

METHOD_OF = {  # an option -> the one method that uses it
    "beams": "beam",
    "length_penalty": "beam",
    "temperature": "sample",
    "top_k": "sample",
    "top_p": "sample",
}
Temperature = Annotated[float, Range(ge=1e-6)]  # logits over less would overflow


@dataclass(frozen=True)
class Decoding:
    """How texts are generated; None leaves an option to its default.

    Args:
        method: greedy, beam or sample. Default: greedy for answers, as in Su's code, else beam.
        num: Texts for each source.
        beams: Beams of the search, at least num. Default: 4, or num if that is more.
        length_penalty: A beam's score is its log-probability over length^length_penalty. Default:
            0, and 1 for answers, where each token's vote is below one half, so that the empty
            answer would win.
        min_length: The fewest tokens of a text. Default: 1, and 0 for answers.
        max_length: The most tokens of a text, its end included. Default, and upper limit: the
            length that the model was trained to write.
        block_ngrams: No n-gram of this n occurs twice in a text; 0: no such rule.
        temperature: Of method=sample: the logits are divided by it.
        top_k: Of method=sample: only the k most probable tokens are drawn.
        top_p: Of method=sample: only the most probable tokens that together reach this probability
            are drawn.
        extractive: Whether an answer must be a piece of a passage. Default: true.
        abstain: A passage has no answer if the probability of an immediate end is at least this.
            Default: if an immediate end is the most probable token.
        guidance: Of a conditional model, the factor that extrapolates its logits from the
            unconditional to the conditional ones; 1 leaves the conditional ones.
        rules: Rules of your own for the next token; see genlab.models.seq2seq.decoding.TokenRule.
    """

    method: Literal["greedy", "beam", "sample"] | None = None
    num: PositiveInt = 1
    beams: PositiveInt | None = None
    length_penalty: float | None = None
    min_length: NonNegativeInt | None = None
    max_length: PositiveInt | None = None
    block_ngrams: NonNegativeInt = 0
    temperature: Temperature | None = None
    top_k: PositiveInt | None = None
    top_p: PositiveFraction | None = None
    extractive: bool | None = None
    abstain: Fraction | None = None
    guidance: NonNegativeFloat | None = None
    rules: Sequence[Any] = ()

    def __post_init__(self):
        if self.beams is not None and self.beams < self.num:
            raise ValueError(
                f"decoding.beams={self.beams}: expected at least decoding.num={self.num}, the "
                "number of texts to return"
            )

    def resolve(self, answers: bool) -> "Decoding":
        """The same options with their defaults filled in.

        Args:
            answers: Whether questions are answered.

        Raises:
            ValueError: An option has no effect there.
        """
        method = self.method or ("greedy" if answers else "beam")
        for name, user in METHOD_OF.items():
            value = getattr(self, name)
            if value is not None and method != user:
                raise ValueError(
                    f"decoding.{name}={value}: has no effect with decoding.method={method}; "
                    f"set decoding.method={user} or leave it out"
                )
        for name in ("extractive", "abstain"):
            value = getattr(self, name)
            if value is not None and not answers:
                raise ValueError(f"decoding.{name}={value}: has an effect on answers only")
        if self.num > 1 and method == "greedy":
            raise ValueError(
                f"decoding.num={self.num}: decoding.method=greedy gives one text; "
                "set decoding.method=beam or sample"
            )
        beams, length_penalty = self.beams, self.length_penalty
        if method == "beam" and beams is None:
            beams = max(4, self.num)
        if method == "beam" and length_penalty is None:
            length_penalty = float(answers)
        return replace(
            self,
            method=method,
            beams=beams,
            length_penalty=length_penalty,
            min_length=int(not answers) if self.min_length is None else self.min_length,
            extractive=(self.extractive is not False) if answers else None,
        )

    def limit_length(self, limit: int, reason: str) -> int:
        """The most tokens of a text: max_length, or `limit` where it is not set.

        Raises:
            ValueError: max_length is above `limit`; the message gives the `reason` for it.
        """
        if self.max_length is not None and self.max_length > limit:
            raise ValueError(
                f"decoding.max_length={self.max_length}: expected at most {limit}, {reason}"
            )
        return limit if self.max_length is None else self.max_length
