"""From a model that scores the next token to texts: greedy, sampled and beam search, for a whole
batch at once.
"""

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from genlab.models.seq2seq.known import Told, leaves

__all__ = ["Decoded", "LogProbs", "Rules", "Scorer", "beam_search", "greedy", "sample"]

NEVER = float("-inf")


class Scorer(Protocol):
    """What a decoder asks of a model: scores over the next token, (B, V) at first and (B, K, V)
    after K tokens a row.

    start() is called once; then step(tokens (B, K)) appends a token to each of the K texts of a
    row. reorder(parents (B, K)) makes text k of a row go on from what was its text parents[:, k];
    keep(rows) drops all rows but these, int64. Scores may be overwritten by the next step.
    """

    def start(self) -> Tensor: ...

    def step(self, tokens: Tensor) -> Tensor: ...

    def reorder(self, parents: Tensor) -> None: ...

    def keep(self, rows: Tensor) -> None: ...


class LogProbs:
    """A Scorer of logits as one of log-probabilities in float32 or wider, which is what the
    decoders expect.
    """

    def __init__(self, scorer: Scorer):
        self.scorer, self.reorder, self.keep = scorer, scorer.reorder, scorer.keep

    def start(self) -> Tensor:
        return log_probs(self.scorer.start())

    def step(self, tokens: Tensor) -> Tensor:
        return log_probs(self.scorer.step(tokens))


def log_probs(logits: Tensor) -> Tensor:
    return logits.log_softmax(-1, torch.float32 if logits.element_size() < 4 else None)


class Decoded(NamedTuple):
    """K texts a row, best first: tokens int64 (B, K, T) without the end token, the end token after
    their lengths (B, K); scores (B, K), their summed log-probabilities (beam search: over
    length^length_penalty); finished (B, K), false for a text cut off at max_length.
    """

    tokens: Tensor
    lengths: Tensor
    scores: Tensor
    finished: Tensor


class Rules:
    """What may not come next, whatever the model thinks: banned tokens, an end before min_length, a
    repeated n-gram.

    Where nothing may, the text ends: an end that costs nothing.
    """

    def __init__(
        self,
        end: int,
        max_length: int,
        min_length: int = 0,
        block_ngrams: int = 0,
        banned: Iterable[int] = (),
    ):
        if max_length < 1 or not 0 <= min_length < max_length:
            raise ValueError(
                f"min_length={min_length}, max_length={max_length}: expected 0 <= min_length < max_length"
            )
        if block_ngrams < 0:
            raise ValueError(
                f"block_ngrams={block_ngrams}: expected the n of the n-grams not to repeat, or 0"
            )
        self.end, self.max_length, self.min_length, self.block_ngrams = (
            end,
            max_length,
            min_length,
            block_ngrams,
        )
        self.banned = sorted(set(banned) - {end})
        self.never: dict[tuple, Tensor] = {}

    def __call__(self, scores: Tensor, tokens: Tensor) -> Tensor:
        """scores (B, K, V) after tokens (B, K, t), with -inf for what the rules exclude."""
        ends = scores[..., self.end]
        scores = scores.masked_fill(self._never(scores, tokens.shape[2] < self.min_length), NEVER)
        stuck = scores.amax(-1) == NEVER  # a text that can but end does so, however short
        scores[..., self.end] = torch.where(
            stuck, ends.masked_fill(ends == NEVER, 0.0), scores[..., self.end]
        )
        n = self.block_ngrams
        if n and tokens.shape[2] >= n:
            grams = tokens.unfold(2, n, 1)  # (B, K, t - n + 1, n)
            repeats = (grams[..., :-1] == tokens[:, :, None, tokens.shape[2] - n + 1 :]).all(-1)
            blocked = torch.zeros_like(scores, dtype=torch.int8)
            blocked.scatter_reduce_(2, grams[..., -1], repeats.to(torch.int8), "amax")
            blocked[..., self.end] = 0
            scores.masked_fill_(blocked > 0, NEVER)
            scores[..., self.end].masked_fill_(scores.amax(-1) == NEVER, 0.0)
        return scores

    def _never(self, scores: Tensor, short: bool) -> Tensor:
        """What may not come next (V,), bool: banned tokens and, while the text is too short, the
        end.
        """
        key = (short, scores.shape[-1], scores.device)
        if key not in self.never:  # made once: the host need not wait for the device again
            never = torch.zeros(scores.shape[-1], dtype=torch.bool)
            never[self.banned + [self.end] * short] = True
            self.never[key] = never.to(scores.device)
        return self.never[key]


# --- one token at a time --------------------------------------------------------------------------


def greedy(scorer: Scorer, rules: Rules) -> Decoded:
    """The most probable token each time: one text a row. `scorer` gives log-probabilities, as all
    scorers below.
    """
    return _one_by_one(scorer, rules, 1, lambda scores, t, rows: scores.argmax(-1))


def sample(
    scorer: Scorer,
    rules: Rules,
    uniforms: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Decoded:
    """K random texts a row: p^(1/temperature), of its top_k tokens those that together first reach
    top_p, renormalised.

    uniforms: (B, K, max_length) in [0, 1), by which the tokens are drawn, so that a row's texts do
    not depend on its company. Holtzman et al. 2019, arXiv 1904.09751 (top_p).
    """
    if (
        temperature <= 0
        or (top_k is not None and top_k < 1)
        or (top_p is not None and not 0 < top_p <= 1)
    ):
        raise ValueError(
            f"temperature={temperature}, top_k={top_k}, top_p={top_p}: expected more than 0, at least 1, in (0, 1]"
        )

    def pick(scores: Tensor, t: int, rows: Tensor) -> Tensor:
        ranked, order = (scores / temperature).sort(-1, descending=True)
        if top_k is not None:
            ranked[..., top_k:] = NEVER
        p = ranked.softmax(-1)
        mass = p.cumsum(-1)
        if top_p is not None:
            p = p.masked_fill(mass - p >= top_p, 0.0)
            mass = p.cumsum(-1)
        drawn = uniforms[rows, :, t].to(mass)[..., None] * mass[..., -1:]
        rank = (mass <= drawn).sum(-1, keepdim=True).clamp(max=(p > 0).sum(-1, keepdim=True) - 1)
        return order.gather(-1, rank)[..., 0]

    return _one_by_one(scorer, rules, uniforms.shape[1], pick)


def _one_by_one(scorer: Scorer, rules: Rules, num: int, pick) -> Decoded:
    """`num` texts a row, the next tokens chosen by pick(scores (B', num, V), t, rows (B',)) of the
    rows still here.
    """
    scores = scorer.start()[:, None].expand(-1, num, -1)
    out = here = _blank(len(scores), num, rules, scores)
    rows = torch.arange(len(scores), device=scores.device)
    for t in range(rules.max_length):
        allowed = rules(scores, here.tokens[..., :t])
        token = pick(allowed, t, rows).masked_fill(here.finished, rules.end)
        gain = allowed.gather(2, token[..., None])[..., 0]
        here.scores.add_(gain.masked_fill_(here.finished, 0.0))
        here.tokens[..., t] = token
        here.finished.logical_or_(token == rules.end)
        if t + 1 == rules.max_length:
            break
        done = Told(here.finished.all())
        if leaves(here.finished) and (gone := here.finished.all(1)).any():
            _put_back(out, here, rows)
            stay = (~gone).nonzero()[:, 0]
            rows, token, here = rows[stay], token[stay], Decoded(*(part[stay] for part in here))
            if not len(stay):
                break
            scorer.keep(stay)
        scores = scorer.step(token)
        if done:  # by now it knows, and this step was in vain
            break
    _put_back(out, here, rows)
    return out._replace(lengths=(out.tokens != rules.end).sum(-1))


def _put_back(out: Decoded, here: Decoded, rows: Tensor) -> None:
    """The rows still here into their places."""
    if here is not out:
        for old, part in zip(out, here, strict=True):
            old[rows] = part


def _blank(num_rows: int, num: int, rules: Rules, like: Tensor) -> Decoded:
    tokens = torch.full((num_rows, num, rules.max_length), rules.end, device=like.device)
    zeros = like.new_zeros(num_rows, num)
    return Decoded(tokens, zeros.long(), zeros, zeros.bool())


# --- beam search ----------------------------------------------------------------------------------


def beam_search(
    scorer: Scorer, rules: Rules, beams: int, num: int = 1, length_penalty: float = 0.0
) -> Decoded:
    """The `num` best texts a row of all that `beams` ever came upon, by summed log-probability /
    length^length_penalty.

    The length counts the end token. At each step every beam's end enters the list of finished
    texts, and the best `beams` tokens that are no end go on; a row is done when nothing that goes
    on could enter its list any more. Texts cut off at max_length only fill places that no finished
    one takes.
    """
    if beams < 1 or not 1 <= num <= beams:
        raise ValueError(f"beams={beams}, num={num}: expected 1 <= num <= beams")
    first = scorer.start()
    best = _blank(len(first), num, rules, first)
    best.scores.fill_(NEVER)
    rows = torch.arange(len(first), device=first.device)
    scores, tokens = first[:, None], best.tokens[:, :1, :0]
    sums = torch.zeros_like(scores[..., 0])
    for t in range(rules.max_length):
        total = sums[..., None] + rules(scores, tokens)
        ends = total[..., rules.end] / (t + 1) ** length_penalty
        _enter(best, rows, tokens, ends, True, rules.end)
        total[..., rules.end] = NEVER
        vocabulary = total.shape[2]
        sums, flat = _top(total.flatten(1), beams)
        parents, token = flat // vocabulary, flat % vocabulary
        tokens = torch.cat(
            [tokens.gather(1, parents[..., None].expand(-1, -1, t)), token[..., None]], 2
        )
        last = t + 1 == rules.max_length
        if last:
            _enter(best, rows, tokens, sums / rules.max_length**length_penalty, False, rules.end)
            break
        # Sums only fall, so the best that a beam can come to is its sum over the greatest length,
        # or the least one.
        reach = sums[:, 0] / (rules.max_length if length_penalty > 0 else t + 2) ** length_penalty
        worst = torch.where(best.finished[rows, -1], best.scores[rows, -1], NEVER)
        alive = (reach > worst) & (sums[:, 0] > NEVER)  # of a row that is done, nothing more enters
        some = Told(alive.any())
        if leaves(alive) and not alive.all():
            stay = alive.nonzero()[:, 0]
            if not len(stay):
                break
            rows, sums, tokens, parents, token = (
                part[stay] for part in (rows, sums, tokens, parents, token)
            )
            scorer.keep(stay)
        if t:
            scorer.reorder(parents)
        scores = scorer.step(token)
        if not some:  # by now it knows, and this step was in vain
            break
    return best


def _top(total: Tensor, beams: int) -> tuple[Tensor, Tensor]:
    """The `beams` greatest of (B, N) and their places; where N is less, impossible ones fill up."""
    sums, places = total.topk(min(beams, total.shape[1]), 1)
    short = beams - sums.shape[1]
    return (sums, places) if not short else (
        torch.cat([sums, sums.new_full((len(sums), short), NEVER)], 1),
        torch.cat([places, places[:, :1].expand(-1, short)], 1),
    )  # fmt: skip


def _enter(
    best: Decoded, rows: Tensor, tokens: Tensor, scores: Tensor, finished: bool, end: int
) -> None:
    """Texts (B', K, t) with scores (B', K) into the ranked lists of their rows, finished ones
    before those cut off.
    """
    t, num = tokens.shape[2], best.scores.shape[1]
    padded = best.tokens.new_full((*scores.shape, best.tokens.shape[2]), end)
    padded[..., :t] = tokens
    new = (
        padded,
        torch.full_like(scores, t, dtype=torch.long),
        scores,
        (scores > NEVER) & finished,
    )
    pool = Decoded(*(torch.cat([old[rows], part], 1) for old, part in zip(best, new, strict=True)))
    order = pool.scores.argsort(dim=1, descending=True, stable=True)
    order = order.gather(
        1, pool.finished.gather(1, order).byte().argsort(dim=1, descending=True, stable=True)
    )[:, :num]
    for old, part in zip(best, pool, strict=True):
        index = order if part.ndim == 2 else order[..., None].expand(-1, -1, part.shape[2])
        old[rows] = part.gather(1, index)
