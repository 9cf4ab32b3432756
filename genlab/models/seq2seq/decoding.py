"""Greedy decoding, sampling and beam search for a whole batch, over any model of the next token.

Shapes:
    B: rows, each a source or a question; finished rows may leave, so later steps have fewer.
    K: texts of a row: beams, or samples.
    V: vocabulary.
    t: tokens that each text has so far; T: the most it may have, Rules.max_length.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from genlab.models.seq2seq.device_flag import DeviceFlag, drops_rows

__all__ = [
    "Decoded",
    "LogProbs",
    "Rules",
    "Scorer",
    "TokenRule",
    "beam_search",
    "greedy",
    "sample",
]

NEVER = float("-inf")


class Scorer(Protocol):
    """A model that scores the next token of each text. The next step may overwrite its scores."""

    def start(self) -> Tensor:
        """Scores (B, V) of the first token; called once."""
        ...

    def step(self, tokens: Tensor) -> Tensor:
        """Appends tokens (B, K) to the K texts of each row -> scores (B, K, V) of the next."""
        ...

    def reorder(self, parents: Tensor) -> None:
        """Makes text k of a row continue what was its text parents[:, k]; parents (B, K)."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Drops all rows but `rows`, int64 indices."""
        ...


class LogProbs:
    """A Scorer of logits as a Scorer of log-probabilities, in float32 or wider.

    Log-probabilities are what all decoders of this file expect.
    """

    def __init__(self, scorer: Scorer):
        self.scorer = scorer
        self.reorder = scorer.reorder
        self.keep = scorer.keep

    def start(self) -> Tensor:
        return log_probs(self.scorer.start())

    def step(self, tokens: Tensor) -> Tensor:
        return log_probs(self.scorer.step(tokens))


def log_probs(logits: Tensor) -> Tensor:
    """The log-softmax over the last axis, in float32 or wider."""
    return logits.log_softmax(-1, torch.float32 if logits.element_size() < 4 else None)


class Decoded(NamedTuple):
    """K texts for each row, best first.

    Attributes:
        tokens: (B, K, T) int64; the end token follows the last token of a text.
        lengths: (B, K) int64, without the end token.
        scores: (B, K) summed log-probabilities; of beam search, over length^length_penalty.
        finished: (B, K) bool, False for a text that was cut off at T.
    """

    tokens: Tensor
    lengths: Tensor
    scores: Tensor
    finished: Tensor


class TokenRule(Protocol):
    """Changes the scores of the next token, as a LogitsProcessor of Hugging Face does."""

    def __call__(self, scores: Tensor, tokens: Tensor) -> Tensor:
        """New scores.

        Args:
            scores: (B, K, V) log-probabilities of the next token of K texts for each of B rows.
            tokens: (B, K, t) what these texts consist of so far. Rows that are done are left out,
                so that B falls.

        Returns:
            (B, K, V), -inf for a token that may not come next.
        """
        ...


class Rules:
    """Tokens that may not come next, whatever the model's scores are.

    Where the rules leave no token, the text ends, and that end costs nothing.

    Args:
        end: The id of the end token.
        max_length: T, the most tokens of a text, its end included.
        min_length: The fewest tokens of a text, without its end.
        block_ngrams: No n-gram of this n occurs twice in a text; 0: no such rule.
        banned: Tokens that never occur.
        more: Rules that are applied before these.
    """

    def __init__(
        self,
        end: int,
        max_length: int,
        min_length: int = 0,
        block_ngrams: int = 0,
        banned: Iterable[int] = (),
        more: Sequence[TokenRule] = (),
    ):
        if max_length < 1 or not 0 <= min_length < max_length:
            raise ValueError(
                f"min_length={min_length}, max_length={max_length}: expected "
                "0 <= min_length < max_length"
            )
        if block_ngrams < 0:
            raise ValueError(
                f"block_ngrams={block_ngrams}: expected the n of the n-grams that may not repeat, "
                "or 0"
            )
        self.end = end
        self.max_length = max_length
        self.min_length = min_length
        self.block_ngrams = block_ngrams
        self.banned = sorted(set(banned) - {end})
        self.more = more
        self.masks: dict[tuple, Tensor] = {}

    def __call__(self, scores: Tensor, tokens: Tensor) -> Tensor:
        """scores (B, K, V) after tokens (B, K, t), with -inf for what the rules exclude."""
        for rule in self.more:
            scores = rule(scores, tokens)
        end_scores = scores[..., self.end]
        too_short = tokens.shape[2] < self.min_length
        scores = scores.masked_fill(self._excluded(scores, too_short), NEVER)
        stuck = scores.amax(-1) == NEVER
        # A text that can only end does so, however short it is.
        free_end = end_scores.masked_fill(end_scores == NEVER, 0.0)
        scores[..., self.end] = torch.where(stuck, free_end, scores[..., self.end])
        n = self.block_ngrams
        if n and tokens.shape[2] >= n:
            grams = tokens.unfold(2, n, 1)  # (B, K, t - n + 1, n)
            last = tokens[:, :, None, tokens.shape[2] - n + 1 :]  # (B, K, 1, n - 1)
            repeats = (grams[..., :-1] == last).all(-1)
            blocked = torch.zeros_like(scores, dtype=torch.int8)
            blocked.scatter_reduce_(2, grams[..., -1], repeats.to(torch.int8), "amax")
            blocked[..., self.end] = 0
            scores.masked_fill_(blocked > 0, NEVER)
            scores[..., self.end].masked_fill_(scores.amax(-1) == NEVER, 0.0)
        return scores

    def _excluded(self, scores: Tensor, too_short: bool) -> Tensor:
        """(V,) bool: the banned tokens and, while the text is too short, the end.

        It is made once for each device, so that later steps do not wait for a copy from the host.
        """
        key = (too_short, scores.shape[-1], scores.device)
        if key not in self.masks:
            mask = torch.zeros(scores.shape[-1], dtype=torch.bool)
            mask[self.banned + [self.end] * too_short] = True
            self.masks[key] = mask.to(scores.device)
        return self.masks[key]


# --- one token at a time --------------------------------------------------------------------------

# (scores (B, K, V), t, rows (B,)) -> the next tokens (B, K); rows: indices into the first batch
Pick = Callable[[Tensor, int, Tensor], Tensor]


def greedy(scorer: Scorer, rules: Rules) -> Decoded:
    """One text for each row: the most probable token at each step."""
    return _decode(scorer, rules, 1, lambda scores, t, rows: scores.argmax(-1))


def sample(
    scorer: Scorer,
    rules: Rules,
    uniforms: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Decoded:
    """K random texts for each row.

    Holtzman et al. 2019, "The Curious Case of Neural Text Degeneration", arXiv 1904.09751 (top_p).

    Args:
        scorer: Log-probabilities.
        rules: See Rules.
        uniforms: (B, K, T) in [0, 1): the random numbers that draw the tokens. So the texts of a
            row do not depend on the other rows.
        temperature: Probabilities are raised to 1 / temperature; above 0.
        top_k: Only the k most probable tokens are drawn; at least 1.
        top_p: Of those, only the most probable that together reach this probability; in (0, 1].
    """
    if (
        temperature <= 0
        or (top_k is not None and top_k < 1)
        or (top_p is not None and not 0 < top_p <= 1)
    ):
        raise ValueError(
            f"temperature={temperature}, top_k={top_k}, top_p={top_p}: expected temperature above "
            "0, top_k of 1 or more, top_p above 0 and at most 1"
        )

    def pick(scores: Tensor, t: int, rows: Tensor) -> Tensor:
        ranked, order = (scores / temperature).sort(-1, descending=True)
        if top_k is not None:
            ranked[..., top_k:] = NEVER
        p = ranked.softmax(-1)
        cumulative = p.cumsum(-1)
        if top_p is not None:
            p = p.masked_fill(cumulative - p >= top_p, 0.0)
            cumulative = p.cumsum(-1)
        drawn = uniforms[rows, :, t].to(cumulative)[..., None] * cumulative[..., -1:]
        last = (p > 0).sum(-1, keepdim=True) - 1  # rounding must not draw a token beyond it
        rank = (cumulative <= drawn).sum(-1, keepdim=True).clamp(max=last)
        return order.gather(-1, rank)[..., 0]

    return _decode(scorer, rules, uniforms.shape[1], pick)


def _decode(scorer: Scorer, rules: Rules, num: int, pick: Pick) -> Decoded:
    """`num` texts for each row, whose next tokens `pick` chooses."""
    scores = scorer.start()[:, None].expand(-1, num, -1)
    out = here = _empty(len(scores), num, rules, scores)  # here: the rows that are not dropped
    rows = torch.arange(len(scores), device=scores.device)  # their indices in `out`
    for t in range(rules.max_length):
        allowed = rules(scores, here.tokens[..., :t])
        token = pick(allowed, t, rows).masked_fill(here.finished, rules.end)
        gain = allowed.gather(2, token[..., None])[..., 0]
        here.scores.add_(gain.masked_fill_(here.finished, 0.0))
        here.tokens[..., t] = token
        here.finished.logical_or_(token == rules.end)
        if t + 1 == rules.max_length:
            break
        all_finished = DeviceFlag(here.finished.all())
        if drops_rows(here.finished) and (gone := here.finished.all(1)).any():
            _put_back(out, here, rows)
            stay = (~gone).nonzero()[:, 0]
            rows, token = rows[stay], token[stay]
            here = Decoded(*(part[stay] for part in here))
            if not len(stay):
                break
            scorer.keep(stay)
        scores = scorer.step(token)
        # Read only now, when the host need not wait for it; the last step was then in vain.
        if all_finished:
            break
    _put_back(out, here, rows)
    return out._replace(lengths=(out.tokens != rules.end).sum(-1))


def _put_back(out: Decoded, here: Decoded, rows: Tensor) -> None:
    """Writes the rows `here` to their places `rows` in `out`."""
    if here is not out:
        for old, part in zip(out, here, strict=True):
            old[rows] = part


def _empty(num_rows: int, num: int, rules: Rules, like: Tensor) -> Decoded:
    tokens = torch.full((num_rows, num, rules.max_length), rules.end, device=like.device)
    zeros = like.new_zeros(num_rows, num)
    return Decoded(tokens, zeros.long(), zeros, zeros.bool())


# --- beam search ----------------------------------------------------------------------------------


def beam_search(
    scorer: Scorer, rules: Rules, beams: int, num: int = 1, length_penalty: float = 0.0
) -> Decoded:
    """The best texts for each row by summed log-probability / length^length_penalty.

    At each step the end of every beam enters the row's list of finished texts, and the best `beams`
    tokens that are no end continue. A row is done when no beam can still enter its list. Texts that
    are cut off at T only fill places that no finished text takes.

    Args:
        scorer: Log-probabilities.
        rules: See Rules.
        beams: K, the texts that continue.
        num: How many texts are returned, at most `beams`.
        length_penalty: The exponent of the length, which counts the end token.
    """
    if beams < 1 or not 1 <= num <= beams:
        raise ValueError(f"beams={beams}, num={num}: expected 1 <= num <= beams")
    first = scorer.start()
    best = _empty(len(first), num, rules, first)
    best.scores.fill_(NEVER)
    rows = torch.arange(len(first), device=first.device)  # indices of the rows that are left
    scores = first[:, None]  # (B, K, V), with one beam at first
    tokens = best.tokens[:, :1, :0]  # (B, K, t)
    sums = torch.zeros_like(scores[..., 0])  # (B, K) log-probabilities
    for t in range(rules.max_length):
        total = sums[..., None] + rules(scores, tokens)
        end_scores = total[..., rules.end] / (t + 1) ** length_penalty
        _enter(best, rows, tokens, end_scores, True, rules.end)
        total[..., rules.end] = NEVER
        vocab_size = total.shape[2]
        sums, flat = _top(total.flatten(1), beams)
        parents, token = flat // vocab_size, flat % vocab_size
        history = tokens.gather(1, parents[..., None].expand(-1, -1, t))
        tokens = torch.cat([history, token[..., None]], 2)
        if t + 1 == rules.max_length:
            cut_scores = sums / rules.max_length**length_penalty
            _enter(best, rows, tokens, cut_scores, False, rules.end)
            break
        # Sums only fall, so a beam scores at best its present sum over the greatest length, or over
        # the least where the penalty is not positive.
        length = rules.max_length if length_penalty > 0 else t + 2
        reachable = sums[:, 0] / length**length_penalty
        worst = torch.where(best.finished[rows, -1], best.scores[rows, -1], NEVER)
        alive = (reachable > worst) & (sums[:, 0] > NEVER)
        any_alive = DeviceFlag(alive.any())
        if drops_rows(alive) and not alive.all():
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
        # Read only now, when the host need not wait for it; the last step was then in vain.
        if not any_alive:
            break
    return best


def _top(total: Tensor, beams: int) -> tuple[Tensor, Tensor]:
    """The `beams` greatest of total (B, N) and their places, (B, beams) each.

    Where N is smaller, places with a sum of -inf fill up the rest.
    """
    sums, places = total.topk(min(beams, total.shape[1]), 1)
    missing = beams - sums.shape[1]
    if not missing:
        return sums, places
    sums = torch.cat([sums, sums.new_full((len(sums), missing), NEVER)], 1)
    places = torch.cat([places, places[:, :1].expand(-1, missing)], 1)
    return sums, places


def _enter(
    best: Decoded, rows: Tensor, tokens: Tensor, scores: Tensor, finished: bool, end: int
) -> None:
    """Enters texts into the ranked lists of their rows, where finished ones precede those cut off.

    Args:
        best: The lists of all rows, changed in place.
        rows: (B,) indices into `best`.
        tokens: (B, K, t).
        scores: (B, K); -inf for a text that cannot be.
        finished: Whether these texts end here, rather than being cut off.
        end: The end token, which fills up `tokens`.
    """
    t, num = tokens.shape[2], best.scores.shape[1]
    padded = best.tokens.new_full((*scores.shape, best.tokens.shape[2]), end)
    padded[..., :t] = tokens
    lengths = torch.full_like(scores, t, dtype=torch.long)
    new = (padded, lengths, scores, (scores > NEVER) & finished)
    pool = Decoded(*(torch.cat([old[rows], part], 1) for old, part in zip(best, new, strict=True)))
    # Two stable sorts: by score, then finished first.
    by_score = pool.scores.argsort(dim=1, descending=True, stable=True)
    is_finished = pool.finished.gather(1, by_score).byte()
    order = by_score.gather(1, is_finished.argsort(dim=1, descending=True, stable=True))[:, :num]
    for old, part in zip(best, pool, strict=True):
        index = order if part.ndim == 2 else order[..., None].expand(-1, -1, part.shape[2])
        old[rows] = part.gather(1, index)
