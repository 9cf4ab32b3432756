"""One answer out of many passages: they vote on each next token, and it may have to be a piece of
one of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genlab.models.seq2seq.decoding import NEVER, Scorer, log_probs

__all__ = ["Extractive", "Room", "Sparing", "Vote"]


@dataclass
class Part:
    """Some of the passages: who scores them, the question of each, and its place among all."""

    scorer: Scorer
    groups: Tensor
    left: Tensor

    def keep(self, heard: Tensor) -> None:
        """Goes on with these (bool) alone."""
        if not heard.all():
            self.scorer.keep(heard.nonzero()[:, 0])
            self.groups, self.left = self.groups[heard], self.left[heard]


class Vote:
    """A Scorer over N passages, each read with its question, as a scorer over Q questions.

    The score of a token w is log(P(w) + 1e-12), P(w) = sum p_k(w)^2 / (sum p_k(w) + 1) over the
    question's passages k; a passage that begins with the end token says that it has no answer, and
    is heard no more. A question that no passage answers gets the empty answer. Su 2019,
    https://kexue.fm/archives/7115.

    Args:
        scorer: of the passages; or several, each of some of them, so that never are all in memory
        at once.
        groups: int64 (N,), each passage's question 0 .. Q-1; or such of each scorer.
        end: the token that ends a text.
        abstain: a passage has no answer where it gives the end token at least this probability, and
            only there; null: where that is its most probable token, and the others may still vote
            for an empty answer (the source).
    """

    def __init__(
        self,
        scorer: Scorer | Sequence[Scorer],
        groups: Tensor | Sequence[Tensor],
        end: int,
        abstain: float | None = None,
    ):
        if abstain is not None and not 0 <= abstain <= 1:
            raise ValueError(f"abstain={abstain}: expected a probability, or null")
        scorers, parts = ([scorer], [groups]) if isinstance(groups, Tensor) else (scorer, groups)
        places = torch.arange(sum(map(len, parts)), device=parts[0].device).split(
            [len(part) for part in parts]
        )
        self.parts = [Part(*part) for part in zip(scorers, parts, places, strict=True)]
        self.end, self.abstain = end, abstain
        self.num = max((int(part.max()) + 1 for part in parts if len(part)), default=0)

    @property
    def left(self) -> Tensor:
        """The passages still heard; after `start` those that have an answer."""
        return torch.cat([part.left for part in self.parts])

    def start(self) -> Tensor:
        """(Q, V)."""
        answered = torch.zeros(self.num, dtype=torch.bool, device=self.left.device)
        sums = None
        for part in self.parts:
            p = log_probs(part.scorer.start()).exp()
            none = (
                p.argmax(1) == self.end if self.abstain is None else p[:, self.end] >= self.abstain
            )
            part.keep(~none)
            answered[part.groups] = True
            sums = self._add(sums, p[:, None][~none], part.groups)
        votes = score(*sums)[:, 0]
        if self.abstain is not None:
            votes[:, self.end] = NEVER
        votes[~answered] = NEVER
        votes[~answered, self.end] = 0.0
        # One of them stays in any case, and says how wide the scores are.
        self.parts = [part for part in self.parts if len(part.groups)] or self.parts[:1]
        return votes

    def step(self, tokens: Tensor) -> Tensor:
        """(Q, K, V) after one more token of each text."""
        sums = None
        for part in self.parts:
            sums = self._add(
                sums, log_probs(part.scorer.step(tokens[part.groups])).exp(), part.groups
            )
        return score(*sums)

    def _add(
        self, sums: tuple[Tensor, Tensor] | None, p: Tensor, groups: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The sums (Q, K, V) of the probabilities (N, K, V) and of their squares, those of more
        passages added.
        """
        sums = sums or (p.new_zeros(self.num, *p.shape[1:]), p.new_zeros(self.num, *p.shape[1:]))
        return sums[0].index_add_(0, groups, p), sums[1].index_add_(0, groups, p.square())

    def reorder(self, parents: Tensor) -> None:
        for part in self.parts:
            part.scorer.reorder(parents[part.groups])

    def keep(self, rows: Tensor) -> None:
        place = torch.full((self.num,), -1, device=rows.device).index_copy_(
            0, rows, torch.arange(len(rows)).to(rows)
        )
        for part in self.parts:
            part.keep(place[part.groups] >= 0)
            part.groups = place[part.groups]
        self.parts = [part for part in self.parts if len(part.groups)] or self.parts[:1]
        self.num = len(rows)


def score(total: Tensor, squares: Tensor) -> Tensor:
    """P's logarithm (Q, K, V)."""
    return (squares / (total + 1) + 1e-12).log()


@dataclass
class Room:
    """What is left of the memory that some scorers share, in tokens."""

    tokens: int

    def take(self, tokens: int) -> bool:
        """Whether there is room for so many; it is theirs from then on."""
        fits = tokens <= self.tokens
        self.tokens -= tokens * fits
        return fits


class Sparing:
    """A Scorer for some of many windows: what it needs of memory is bounded, and the time longer
    where many answer.

    The first token is written without keeping a cache. The rows that are still there then keep one
    if there is `room`; else they are read, and written to, again for each token.
    """

    def __init__(
        self, make: Callable[..., Scorer], rows: Sequence[Tensor], num: int, places: int, room: Room
    ):
        self.make, self.rows, self.places, self.room = make, rows, places, room
        self.written, self.cached = rows[0].new_zeros(len(rows[0]), num, 0), None

    def start(self) -> Tensor:
        return self.make(*self.rows).start()

    def step(self, tokens: Tensor) -> Tensor:
        if self.cached is not None:
            return self.cached.step(tokens)
        first = not self.written.shape[2]
        self.written = torch.cat([self.written, tokens[..., None]], 2)
        one = self.make(*self.rows)
        one.start()
        for column in self.written.unbind(2):
            logits = one.step(column)
        if first and self.room.take(len(tokens) * self.places):
            self.cached = one
        return logits

    def reorder(self, parents: Tensor) -> None:
        if self.cached is not None:
            self.cached.reorder(parents)
        self.written = self.written.gather(
            1, parents[..., None].expand(-1, -1, self.written.shape[2])
        )

    def keep(self, rows: Tensor) -> None:
        if self.cached is not None:
            self.cached.keep(rows)
        self.rows, self.written = [part[rows] for part in self.rows], self.written[rows]


class Extractive:
    """A scorer over Q questions whose texts must be pieces of a passage: only tokens that go on
    such a piece, or the end.

    passages: int64 (N, L), the tokens that may be copied, padded with -1. groups: (N,), as for
    Vote; a passage that a Vote hears no more is not copied from either.
    """

    def __init__(self, scorer: Scorer, passages: Tensor, groups: Tensor, end: int):
        self.scorer, self.passages, self.groups, self.end = scorer, passages, groups, end

    def start(self) -> Tensor:
        scores = self.scorer.start()
        left = getattr(self.scorer, "left", torch.arange(len(self.groups), device=scores.device))
        self.passages, self.groups = self.passages[left], self.groups[left]
        self.reach = (self.passages >= 0)[
            :, None
        ]  # (N, K, L): whether the text so far leads up to this place
        return self._restrict(scores[:, None])[:, 0]

    def step(self, tokens: Tensor) -> Tensor:
        """Scores (Q, K, V) after one more token of each text."""
        goes_on = self.reach & (self.passages[:, None] == tokens[self.groups][..., None])
        self.reach = goes_on.roll(1, 2) & (self.passages >= 0)[:, None]
        self.reach[..., 0] = False
        return self._restrict(self.scorer.step(tokens))

    def _restrict(self, scores: Tensor) -> Tensor:
        num, beams, vocabulary = scores.shape
        text = self.groups[:, None] * beams + torch.arange(beams, device=scores.device)  # (N, K)
        place = text[..., None] * vocabulary + self.passages[:, None].clamp(min=0)
        allowed = torch.zeros(num * beams * vocabulary, dtype=torch.int8, device=scores.device)
        allowed.scatter_reduce_(0, place.flatten(), self.reach.to(torch.int8).flatten(), "amax")
        allowed = allowed.view_as(scores) > 0
        allowed[..., self.end] = True
        return scores.masked_fill(~allowed, NEVER)

    def reorder(self, parents: Tensor) -> None:
        self.scorer.reorder(parents)
        self.reach = self.reach.gather(
            1, parents[self.groups][..., None].expand(-1, -1, self.reach.shape[2])
        )

    def keep(self, rows: Tensor) -> None:
        self.scorer.keep(rows)
        stays = torch.isin(self.groups, rows)
        self.passages, self.reach = self.passages[stays], self.reach[stays]
        self.groups = torch.searchsorted(rows, self.groups[stays])
