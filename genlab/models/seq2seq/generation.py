"""Text generation by one BERT: targets for a batch of sources, or answers to a batch of questions.

Shapes:
    N: rows that are read: sources, or windows of passages, of L tokens.
    Q: texts to generate: N sources, or questions, each with some of the N windows.
    K: texts that are followed for each: beams, or samples. V: vocabulary. C: condition.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from genlab.models.seq2seq.captured_steps import borrow_step
from genlab.models.seq2seq.decoding import (
    Decoded,
    LogProbs,
    Rules,
    Scorer,
    beam_search,
    greedy,
    sample,
)
from genlab.models.seq2seq.options import Decoding
from genlab.models.seq2seq.voting import BoundedScorer, CacheBudget, Extractive, Vote
from genlab.nn.masks import CAUSAL, FULL

__all__ = ["CachedScorer", "Decoding", "GuidedScorer", "write"]

FEW = 64  # windows of questions that are read at once, however long they are
# Where there are more windows: tokens that are read at once, and tokens that caches hold
READ = 1 << 14


class CachedScorer:
    """A Scorer of logits by BERT's prefill and step, over one cache.

    Args:
        net: A BERT in eval mode.
        ids, segments: (B, L) the sources. A source in the target's segment is read causally, as the
            beginning of a text that a language model continues.
        lengths: (B,) tokens of each source.
        num: K, texts for each source.
        max_length: The most tokens of a text.
        target_segment: The segment of generated tokens.
        condition: (B, C), or None.
        graph: Whether each step is the replay of a CUDA graph; None: on CUDA.
    """

    def __init__(
        self,
        net: Any,
        ids: Tensor,
        segments: Tensor,
        lengths: Tensor,
        num: int,
        max_length: int,
        target_segment: int,
        condition: Tensor | None = None,
        graph: bool | None = None,
    ):
        self.net = net
        self.inputs = (ids, segments, lengths)
        self.condition = condition
        self.graph = ids.is_cuda if graph is None else graph
        self.sizes = {
            "num_beams": num,
            "max_new_tokens": max_length,
            "target_segment": target_segment,
        }
        self.mask = None
        if bool((segments == target_segment).any()):
            self.mask = CAUSAL
        elif bool((lengths == ids.shape[1]).all()):
            self.mask = FULL

    def start(self) -> Tensor:
        """Logits (B, V) of the first token."""
        ids, _, lengths = self.inputs
        options = self.sizes | {"mask": self.mask, "condition": self.condition}
        if self.graph:
            # What holds the cache: a captured step, or below the cache itself.
            self.state = borrow_step(self, self.net, ids, condition=self.condition, **self.sizes)
            hidden, _ = self.net.prefill(*self.inputs, **options, cache=self.state.cache)
        else:
            hidden, self.state = self.net.prefill(*self.inputs, **options)
        return self.net.logits(self.net.take_last(hidden, lengths), self.condition)

    def step(self, tokens: Tensor) -> Tensor:
        if self.graph:
            return self.state.step(self.net, tokens)
        return self.net.step(tokens, self.state)

    def reorder(self, parents: Tensor) -> None:
        self.state.reorder(parents)

    def keep(self, rows: Tensor) -> None:
        self.state.keep(rows)


class GuidedScorer:
    """Classifier-free guidance: logits_free + scale (logits_conditional - logits_free).

    "Classifier-Free Diffusion Guidance", Ho and Salimans 2022, arXiv 2207.12598; for texts Sanchez
    et al. 2023, arXiv 2306.17806.

    Args:
        scorer: Of 2B rows: B with their conditions, then the same B with the free condition.
        scale: 0 gives the free logits, 1 the conditional ones.
    """

    def __init__(self, scorer: Scorer, scale: float):
        self.scorer = scorer
        self.scale = scale

    def _guide(self, logits: Tensor) -> Tensor:
        conditional, free = logits.chunk(2)
        return free + self.scale * (conditional - free)

    def start(self) -> Tensor:
        logits = self.scorer.start()
        self.num_rows = len(logits) // 2
        return self._guide(logits)

    def step(self, tokens: Tensor) -> Tensor:
        return self._guide(self.scorer.step(torch.cat([tokens, tokens])))

    def reorder(self, parents: Tensor) -> None:
        self.scorer.reorder(torch.cat([parents, parents]))

    def keep(self, rows: Tensor) -> None:
        self.scorer.keep(torch.cat([rows, rows + self.num_rows]))
        self.num_rows = len(rows)


def score_windows(
    make: Callable[..., Scorer],
    inputs: Sequence[Tensor],
    groups: Tensor,
    num: int,
    max_length: int,
) -> tuple[list[Scorer], Sequence[Tensor]]:
    """Scorers of the windows of questions: one of all, or several, to bound the memory.

    Args:
        make: Makes a Scorer of some rows; graph=False keeps it from capturing a CUDA graph.
        inputs: ids and segments (N, L), lengths (N,), and the condition (N, C) where there is one.
        groups: (N,) the question of each window.
        num: K.
        max_length: The most tokens of a text.

    Returns:
        The scorers, and the groups of each.
    """
    places = inputs[0].shape[1] + num * max_length  # of a window and all its texts
    size = max(1, READ // places)
    if len(groups) <= max(size, FEW):
        return [make(*inputs)], [groups]
    make = partial(make, graph=False)
    budget = CacheBudget(READ)
    parts = zip(*(tensor.split(size) for tensor in inputs), strict=True)
    return [BoundedScorer(make, part, num, places, budget) for part in parts], groups.split(size)


@torch.no_grad()
def write(
    net: nn.Module,
    rows: tuple[Tensor, Tensor, Tensor],
    decoding: Decoding,
    *,
    end: int,
    max_length: int,
    banned: Sequence[int] = (),
    groups: Tensor | None = None,
    passages: Tensor | None = None,
    uniforms: Tensor | None = None,
    target_segment: int = 1,
    condition: Tensor | None = None,
    free: Tensor | None = None,
    scorer: Callable[..., Scorer] = CachedScorer,
) -> Decoded:
    """Generates texts by `net`, a BERT in eval mode.

    Args:
        net: The network.
        rows: ids (N, L), segments (N, L) and lengths (N,) of what is read.
        decoding: The options.
        end: The id of the end token.
        max_length: The most tokens of a text.
        banned: Tokens that are never generated.
        groups: (N,) the question 0 .. Q-1 of each row, whose rows vote; None: a text for each row.
        passages: (N, M) the tokens that extractive answers may copy, padded with -1.
        uniforms: (Q, num, max_length) in [0, 1), for method=sample.
        target_segment: The segment of generated tokens.
        condition: (N, C) the condition of each row.
        free: (N, C) the condition that stands for none, for guidance.
        scorer: Makes the Scorer of logits, with the arguments of CachedScorer.

    Returns:
        `num` texts for each row, or for each question.
    """
    decoding = decoding.resolve(groups is not None)
    num = decoding.beams or decoding.num
    shape = (decoding.min_length or 0, decoding.block_ngrams)
    rules = Rules(end, max_length, *shape, banned, decoding.rules)
    guided = decoding.guidance is not None and decoding.guidance != 1
    if guided and (free is None or groups is not None):
        raise ValueError(
            f"decoding.guidance={decoding.guidance}: only a conditional model can be guided"
        )

    def make(ids, segments, lengths, condition=None, **options) -> Scorer:
        return scorer(
            net, ids, segments, lengths, num, max_length, target_segment, condition, **options
        )

    scores: Any
    if groups is not None:
        inputs = rows if condition is None else (*rows, condition)
        parts = score_windows(make, inputs, groups, num, max_length)
        scores = Vote(*parts, end, decoding.abstain)
        if decoding.extractive:
            assert passages is not None
            scores = Extractive(scores, passages, groups, end)
    elif guided:
        assert condition is not None and free is not None and decoding.guidance is not None
        ids, segments, lengths = (torch.cat([part, part]) for part in rows)
        model = make(ids, segments, lengths, torch.cat([condition, free]))
        scores = LogProbs(GuidedScorer(model, decoding.guidance))
    else:
        scores = LogProbs(make(*rows, condition))

    if decoding.method == "greedy":
        return greedy(scores, rules)
    if decoding.method == "beam":
        assert decoding.beams is not None and decoding.length_penalty is not None
        return beam_search(scores, rules, decoding.beams, decoding.num, decoding.length_penalty)
    assert uniforms is not None
    temperature = 1.0 if decoding.temperature is None else decoding.temperature
    return sample(scores, rules, uniforms, temperature, decoding.top_k, decoding.top_p)
