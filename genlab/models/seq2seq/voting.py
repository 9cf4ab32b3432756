"""One answer out of many passages: they vote on each next token, and may have to contain it.

Shapes:
    N: passages, or windows of them, each read with its question; some may drop out.
    Q: questions. K: texts that are followed for each question. V: vocabulary.
    L: tokens of the longest passage. t: tokens that each text has so far.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genlab.models.seq2seq.decoding import NEVER, Scorer, log_probs

__all__ = ["BoundedScorer", "CacheBudget", "Extractive", "Vote"]


@dataclass
class Voters:
    """Passages that one Scorer scores.

    Attributes:
        scorer: Of n passages.
        groups: (n,) the question of each.
        indices: (n,) the place of each among all N passages.
    """

    scorer: Scorer
    groups: Tensor
    indices: Tensor

    def keep(self, heard: Tensor) -> None:
        """Drops the passages where `heard` (n,), bool, is False."""
        if not heard.all():
            self.scorer.keep(heard.nonzero()[:, 0])
            self.groups = self.groups[heard]
            self.indices = self.indices[heard]


class Vote:
    """A Scorer over Q questions, made of Scorers over their N passages.

    The score of a token w is log(P(w) + 1e-12) with P(w) = sum_k p_k(w)^2 / (sum_k p_k(w) + 1) over
    the passages k of the question. A passage that begins with the end token has no answer and does
    not vote any more. A question without a voting passage gets the empty answer. Su 2019,
    https://kexue.fm/archives/7115.

    Args:
        scorer: Of the passages; or several, each of some of them, so that never all are in memory
            at once.
        groups: (N,) int64, the question 0 .. Q-1 of each passage; or one such tensor a scorer.
        end: The id of the end token.
        abstain: A passage has no answer where the end token has at least this probability at once,
            and only there. None, as in Su's code: where the end token is the most probable one; the
            other passages may then still vote for an empty answer.
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
        scorers: Any = scorer
        if isinstance(groups, Tensor):
            scorers, groups = [scorer], [groups]
        sizes = [len(part) for part in groups]
        indices = torch.arange(sum(sizes), device=groups[0].device).split(sizes)
        self.voters = [Voters(*part) for part in zip(scorers, groups, indices, strict=True)]
        self.end = end
        self.abstain = abstain
        self.num = max((int(part.max()) + 1 for part in groups if len(part)), default=0)  # Q

    @property
    def heard(self) -> Tensor:
        """The indices of the passages that still vote; after `start`, of those with an answer."""
        return torch.cat([part.indices for part in self.voters])

    def start(self) -> Tensor:
        """Scores (Q, V) of the first token."""
        answered = torch.zeros(self.num, dtype=torch.bool, device=self.heard.device)
        sums: Any = None
        for part in self.voters:
            p = log_probs(part.scorer.start()).exp()  # (n, V)
            if self.abstain is None:
                abstains = p.argmax(1) == self.end
            else:
                abstains = p[:, self.end] >= self.abstain
            part.keep(~abstains)
            answered[part.groups] = True
            sums = self._add(sums, p[:, None][~abstains], part.groups)
        votes = score_votes(*sums)[:, 0]
        if self.abstain is not None:
            votes[:, self.end] = NEVER
        votes[~answered] = NEVER
        votes[~answered, self.end] = 0.0
        self._drop_empty()
        return votes

    def step(self, tokens: Tensor) -> Tensor:
        """Scores (Q, K, V) after tokens (Q, K)."""
        sums: Any = None
        for part in self.voters:
            p = log_probs(part.scorer.step(tokens[part.groups])).exp()  # (n, K, V)
            sums = self._add(sums, p, part.groups)
        return score_votes(*sums)

    def _add(
        self, sums: tuple[Tensor, Tensor] | None, p: Tensor, groups: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Adds probabilities p (n, K, V), and their squares, to the sums (Q, K, V) of each."""
        if sums is None:
            shape = (self.num, *p.shape[1:])
            sums = (p.new_zeros(shape), p.new_zeros(shape))
        return sums[0].index_add_(0, groups, p), sums[1].index_add_(0, groups, p.square())

    def _drop_empty(self) -> None:
        # One part stays in any case: its scorer says how wide the scores are.
        self.voters = [part for part in self.voters if len(part.groups)] or self.voters[:1]

    def reorder(self, parents: Tensor) -> None:
        for part in self.voters:
            part.scorer.reorder(parents[part.groups])

    def keep(self, rows: Tensor) -> None:
        new_number = torch.full((self.num,), -1, device=rows.device)  # of each question
        new_number.index_copy_(0, rows, torch.arange(len(rows)).to(rows))
        for part in self.voters:
            part.keep(new_number[part.groups] >= 0)
            part.groups = new_number[part.groups]
        self._drop_empty()
        self.num = len(rows)


def score_votes(total: Tensor, squares: Tensor) -> Tensor:
    """log(P + 1e-12), (Q, K, V), of the sums of the probabilities and of their squares."""
    return (squares / (total + 1) + 1e-12).log()


@dataclass
class CacheBudget:
    """The tokens that the caches of several scorers may still hold."""

    tokens: int

    def take(self, tokens: int) -> bool:
        """Whether so many tokens fit; they are then taken."""
        fits = tokens <= self.tokens
        self.tokens -= tokens * fits
        return fits


class BoundedScorer:
    """A Scorer of some of many windows that bounds memory, at the cost of time.

    No cache is kept for the first token. The rows that are left then get one if the budget allows;
    otherwise the windows are read, and their texts written, again for each token.

    Args:
        make: Makes the Scorer of `rows`.
        rows: Its tensors, (n, ...) each.
        num: K.
        places: Tokens that the cache of a row holds.
        budget: Shared by all scorers of a call.
    """

    def __init__(
        self,
        make: Callable[..., Scorer],
        rows: Sequence[Tensor],
        num: int,
        places: int,
        budget: CacheBudget,
    ):
        self.make = make
        self.rows = rows
        self.places = places
        self.budget = budget
        self.written = rows[0].new_zeros(len(rows[0]), num, 0)  # (n, K, t)
        self.cached: Scorer | None = None  # the scorer whose cache is kept

    def start(self) -> Tensor:
        return self.make(*self.rows).start()

    def step(self, tokens: Tensor) -> Tensor:
        if self.cached is not None:
            return self.cached.step(tokens)
        is_first = not self.written.shape[2]
        self.written = torch.cat([self.written, tokens[..., None]], 2)
        scorer = self.make(*self.rows)
        scorer.start()
        for column in self.written.unbind(2):
            logits = scorer.step(column)
        if is_first and self.budget.take(len(tokens) * self.places):
            self.cached = scorer
        return logits

    def reorder(self, parents: Tensor) -> None:
        if self.cached is not None:
            self.cached.reorder(parents)
        index = parents[..., None].expand(-1, -1, self.written.shape[2])
        self.written = self.written.gather(1, index)

    def keep(self, rows: Tensor) -> None:
        if self.cached is not None:
            self.cached.keep(rows)
        self.rows = [part[rows] for part in self.rows]
        self.written = self.written[rows]


class Extractive:
    """A Scorer over Q questions whose texts must be pieces of a passage.

    Only tokens that continue such a piece, or the end, keep their scores.

    Args:
        scorer: Of the questions. Passages that a Vote no longer hears are not copied from either.
        passages: (N, L) int64, the tokens that may be copied, padded with -1.
        groups: (N,) the question of each passage.
        end: The id of the end token.
    """

    def __init__(self, scorer: Scorer, passages: Tensor, groups: Tensor, end: int):
        self.scorer = scorer
        self.passages = passages
        self.groups = groups
        self.end = end

    def start(self) -> Tensor:
        """Scores (Q, V) of the first token."""
        scores = self.scorer.start()
        if isinstance(self.scorer, Vote):
            heard = self.scorer.heard
            self.passages, self.groups = self.passages[heard], self.groups[heard]
        # (N, K, L): whether the text so far leads up to this place, whose token may come next
        self.reach = (self.passages >= 0)[:, None]
        return self._restrict(scores[:, None])[:, 0]

    def step(self, tokens: Tensor) -> Tensor:
        """Scores (Q, K, V) after tokens (Q, K)."""
        matches = self.reach & (self.passages[:, None] == tokens[self.groups][..., None])
        self.reach = matches.roll(1, 2) & (self.passages >= 0)[:, None]
        self.reach[..., 0] = False
        return self._restrict(self.scorer.step(tokens))

    def _restrict(self, scores: Tensor) -> Tensor:
        """scores (Q, K, V), -inf where the token continues no passage."""
        num, beams, vocab_size = scores.shape
        text = self.groups[:, None] * beams + torch.arange(beams, device=scores.device)  # (N, K)
        place = text[..., None] * vocab_size + self.passages[:, None].clamp(min=0)  # (N, K, L)
        allowed = torch.zeros(num * beams * vocab_size, dtype=torch.int8, device=scores.device)
        allowed.scatter_reduce_(0, place.flatten(), self.reach.to(torch.int8).flatten(), "amax")
        allowed = allowed.view_as(scores) > 0
        allowed[..., self.end] = True
        return scores.masked_fill(~allowed, NEVER)

    def reorder(self, parents: Tensor) -> None:
        self.scorer.reorder(parents)
        index = parents[self.groups][..., None].expand(-1, -1, self.reach.shape[2])
        self.reach = self.reach.gather(1, index)

    def keep(self, rows: Tensor) -> None:
        self.scorer.keep(rows)
        stays = torch.isin(self.groups, rows)
        self.passages = self.passages[stays]
        self.reach = self.reach[stays]
        self.groups = torch.searchsorted(rows, self.groups[stays])
