"""One answer out of many passages: they vote on each next token, and it may have to be a piece of one of them."""

import torch
from torch import Tensor

from genlab.models.seq2seq.decoding import NEVER, Scorer, log_probs

__all__ = ["Extractive", "Vote"]


class Vote:
    """A Scorer over N passages, each read with its question, as a scorer over Q questions.

    The score of a token w is log(P(w) + 1e-12), P(w) = sum p_k(w)^2 / (sum p_k(w) + 1) over the question's passages k; a
    passage that begins with the end token says that it has no answer, and is heard no more. groups: int64 (N,), each
    passage's question 0 .. Q-1. abstain: a passage has no answer where it gives the end token at least this probability,
    and only there; null: where that is its most probable token, and the others may still vote for an empty answer (the
    source). A question that no passage answers gets the empty answer. Su 2019, https://kexue.fm/archives/7115.
    """

    def __init__(self, scorer: Scorer, groups: Tensor, end: int, abstain: float | None = None):
        if abstain is not None and not 0 <= abstain <= 1:
            raise ValueError(f"abstain={abstain}: expected a probability, or null")
        self.scorer, self.groups, self.end, self.abstain = scorer, groups, end, abstain
        self.num = int(groups.max()) + 1 if len(groups) else 0
        self.left = torch.arange(len(groups), device=groups.device)  # the passages still heard

    def start(self) -> Tensor:
        """(Q, V); after it, `left` are the passages that have an answer."""
        p = log_probs(self.scorer.start()).exp()
        none = p.argmax(1) == self.end if self.abstain is None else p[:, self.end] >= self.abstain
        self._drop(~none)
        votes = self._count(p[:, None][~none])[:, 0]
        answered = torch.zeros(self.num, dtype=torch.bool, device=p.device)
        answered[self.groups] = True
        if self.abstain is not None:
            votes[:, self.end] = NEVER
        votes[~answered] = NEVER
        votes[~answered, self.end] = 0.0
        return votes

    def step(self, tokens: Tensor) -> Tensor:
        return self._count(log_probs(self.scorer.step(tokens[self.groups])).exp())

    def _count(self, p: Tensor) -> Tensor:
        """P's logarithm (Q, K, V) of the passages' probabilities (N, K, V)."""
        total, squares = (p.new_zeros(self.num, *p.shape[1:]).index_add_(0, self.groups, part) for part in (p, p.square()))
        return (squares / (total + 1) + 1e-12).log()

    def reorder(self, parents: Tensor) -> None:
        self.scorer.reorder(parents[self.groups])

    def keep(self, rows: Tensor) -> None:
        place = torch.full((self.num,), -1, device=rows.device).index_copy_(0, rows, torch.arange(len(rows)).to(rows))
        self._drop(place[self.groups] >= 0)
        self.groups, self.num = place[self.groups], len(rows)

    def _drop(self, heard: Tensor) -> None:
        if not heard.all():
            self.scorer.keep(heard.nonzero()[:, 0])
            self.groups, self.left = self.groups[heard], self.left[heard]


class Extractive:
    """A scorer over Q questions whose texts must be pieces of a passage: only tokens that go on such a piece, or the end.

    passages: int64 (N, L), the tokens that may be copied, padded with -1. groups: (N,), as for Vote; a passage that a Vote
    hears no more is not copied from either.
    """

    def __init__(self, scorer: Scorer, passages: Tensor, groups: Tensor, end: int):
        self.scorer, self.passages, self.groups, self.end = scorer, passages, groups, end

    def start(self) -> Tensor:
        scores = self.scorer.start()
        left = getattr(self.scorer, "left", torch.arange(len(self.groups), device=scores.device))
        self.passages, self.groups = self.passages[left], self.groups[left]
        self.reach = (self.passages >= 0)[:, None]  # (N, K, L): whether the text so far leads up to this place
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
        self.reach = self.reach.gather(1, parents[self.groups][..., None].expand(-1, -1, self.reach.shape[2]))

    def keep(self, rows: Tensor) -> None:
        self.scorer.keep(rows)
        stays = torch.isin(self.groups, rows)
        self.passages, self.reach = self.passages[stays], self.reach[stays]
        self.groups = torch.searchsorted(rows, self.groups[stays])
