"""Targets for a batch of sources, or answers for a batch of questions, by one prefix-masked BERT."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from genlab.models.seq2seq.decoding import Decoded, LogProbs, Rules, beam_search, greedy, sample
from genlab.models.seq2seq.key_value_cache import captured
from genlab.models.seq2seq.options import Decoding
from genlab.models.seq2seq.voting import Extractive, Room, Sparing, Vote
from genlab.nn.masks import CAUSAL, FULL, unilm

__all__ = ["Cached", "Decoding", "Guided", "Recomputed", "write"]

FEW = 64  # windows of questions that are read at once, however long
READ = (
    1 << 14
)  # tokens that are read at once where there are more windows, and tokens that caches hold of these


class Cached:
    """A Scorer by BERT's prefill and step: `num` texts to each source ids (B, L), of `lengths`
    (B,), share its cache.

    condition (B, C): what the rows are written under. A source of the target's own segment is read
    from left to right, as a language model reads a beginning. graph, the default on CUDA: each step
    is a CUDA graph's.
    """

    def __init__(
        self,
        net,
        ids: Tensor,
        segments: Tensor,
        lengths: Tensor,
        num: int,
        max_length: int,
        target_segment: int,
        condition: Tensor | None = None,
        graph: bool | None = None,
    ):
        self.net, self.inputs, self.mask = net, (ids, segments, lengths), None
        self.condition, self.graph = condition, ids.is_cuda if graph is None else graph
        self.options = {
            "num_beams": num,
            "max_new_tokens": max_length,
            "target_segment": target_segment,
        }
        if bool((segments == target_segment).any()):
            self.mask = CAUSAL
        elif bool((lengths == ids.shape[1]).all()):
            self.mask = FULL

    def start(self) -> Tensor:
        options = self.options | {"mask": self.mask, "condition": self.condition}
        if self.graph:
            self.written = captured(
                self, self.net, self.inputs[0], condition=self.condition, **self.options
            )
            hidden, _ = self.net.prefill(*self.inputs, **options, cache=self.written.cache)
        else:
            hidden, self.written = self.net.prefill(*self.inputs, **options)
        return self.net.logits(self.net.last(hidden, self.inputs[2]), self.condition)

    def step(self, tokens: Tensor) -> Tensor:
        return (
            self.written.step(self.net, tokens)
            if self.graph
            else self.net.step(tokens, self.written)
        )

    def reorder(self, parents: Tensor) -> None:
        self.written.reorder(parents)

    def keep(self, rows: Tensor) -> None:
        self.written.keep(rows)


class Recomputed:
    """The same Scorer without a cache, the whole row read again for each token: what Cached is
    measured against.
    """

    def __init__(
        self,
        net,
        ids: Tensor,
        segments: Tensor,
        lengths: Tensor,
        num: int,
        max_length: int,
        target_segment: int,
        condition: Tensor | None = None,
    ):
        self.net, self.ids, self.segments, self.lengths, self.condition = (
            net,
            ids,
            segments,
            lengths,
            condition,
        )
        self.num, self.target_segment, self.written = (
            num,
            target_segment,
            ids.new_zeros(len(ids), num, 0),
        )

    def start(self) -> Tensor:
        return self._last(self.written[:, :1])[:, 0]

    def step(self, tokens: Tensor) -> Tensor:
        self.written = torch.cat([self.written, tokens[..., None]], 2)
        return self._last(self.written)

    @torch.no_grad()
    def _last(self, written: Tensor) -> Tensor:
        """Logits (B, K, V) after the texts (B, K, t)."""
        num, t = written.shape[1:]
        ids, segments = (part.repeat_interleave(num, 0) for part in (self.ids, self.segments))
        lengths = self.lengths.repeat_interleave(num)
        condition = None if self.condition is None else self.condition.repeat_interleave(num, 0)
        ids, segments = (torch.nn.functional.pad(part, (0, t)) for part in (ids, segments))
        place = lengths[:, None] + torch.arange(t, device=ids.device)
        ids.scatter_(1, place, written.flatten(0, 1))
        segments.scatter_(1, place, self.target_segment)
        padding = torch.arange(ids.shape[1], device=ids.device) < (lengths + t)[:, None]
        mask = unilm(segments, padding, target_segment=self.target_segment)
        hidden = self.net(ids, segments, mask, condition=condition)
        return self.net.logits(self.net.last(hidden, lengths + t), condition).unflatten(
            0, (-1, num)
        )

    def reorder(self, parents: Tensor) -> None:
        self.written = self.written.gather(
            1, parents[..., None].expand(-1, -1, self.written.shape[2])
        )

    def keep(self, rows: Tensor) -> None:
        self.ids, self.segments, self.lengths = (
            self.ids[rows],
            self.segments[rows],
            self.lengths[rows],
        )
        self.written = self.written[rows]
        self.condition = None if self.condition is None else self.condition[rows]


class Guided:
    """A Scorer of the logits without + scale (with - without): rows of a scorer of 2B, B with a
    condition, B without.

    "Classifier-Free Diffusion Guidance", Ho and Salimans 2022, arXiv 2207.12598; for texts Sanchez
    et al. 2023, arXiv 2306.17806.
    """

    def __init__(self, scorer, scale: float):
        self.scorer, self.scale = scorer, scale

    def _mixed(self, logits: Tensor) -> Tensor:
        under, free = logits.chunk(2)
        return free + self.scale * (under - free)

    def start(self) -> Tensor:
        logits = self.scorer.start()
        self.rows = len(logits) // 2
        return self._mixed(logits)

    def step(self, tokens: Tensor) -> Tensor:
        return self._mixed(self.scorer.step(torch.cat([tokens, tokens])))

    def reorder(self, parents: Tensor) -> None:
        self.scorer.reorder(torch.cat([parents, parents]))

    def keep(self, rows: Tensor) -> None:
        self.scorer.keep(torch.cat([rows, rows + self.rows]))
        self.rows = len(rows)


def voters(
    scorer: type,
    net,
    inputs: Sequence[Tensor],
    groups: Tensor,
    num: int,
    max_length: int,
    target_segment: int,
) -> tuple[list, Sequence[Tensor]]:
    """(scorers, the groups of each): one of all rows, or of many rows several that never have all
    in memory at once.

    inputs: ids, segments, lengths and perhaps condition, (N, ...) each; else as in `write`.
    """
    places = inputs[0].shape[1] + num * max_length
    size = max(1, READ // places)
    several = len(groups) > max(size, FEW)
    kind = partial(scorer, graph=False) if several and scorer is Cached else scorer

    def make(ids: Tensor, segments: Tensor, lengths: Tensor, condition: Tensor | None = None):
        return kind(net, ids, segments, lengths, num, max_length, target_segment, condition)

    if not several:
        return [make(*inputs)], [groups]
    room = Room(READ)
    parts = zip(*(tensor.split(size) for tensor in inputs), strict=True)
    return [Sparing(make, part, num, places, room) for part in parts], groups.split(size)


@torch.no_grad()
def write(
    net,
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
    scorer: type = Cached,
) -> Decoded:
    """What `net` writes to rows = (ids (N, L), segments (N, L), lengths (N,)), of at most
    max_length tokens.

    groups (N,): the question 0 .. Q-1 of each row, whose rows vote; None: a target for each row.
    passages (N, M): the tokens that extractive answers may copy, padded with -1. uniforms (Q, num,
    max_length): for method=sample. condition (N, C): what each row is written under; free (N, C):
    no condition, to be guided away from.
    """
    decoding = decoding.settled(groups is not None)
    num = decoding.beams or decoding.num
    guided = decoding.guidance is not None and decoding.guidance != 1
    if guided:
        if free is None or groups is not None:
            raise ValueError(
                f"decoding.guidance={decoding.guidance}: is for texts under a condition"
            )
        rows, condition = (
            tuple(torch.cat([part, part]) for part in rows),
            torch.cat([condition, free]),
        )
    rules = Rules(end, max_length, decoding.min_length, decoding.block_ngrams, banned)
    if groups is None:
        model = scorer(net, *rows, num, max_length, target_segment, condition)
        scores = LogProbs(Guided(model, decoding.guidance) if guided else model)
    else:
        inputs = rows if condition is None else (*rows, condition)
        scores = Vote(
            *voters(scorer, net, inputs, groups, num, max_length, target_segment),
            end,
            decoding.abstain,
        )
        if decoding.extractive:
            scores = Extractive(scores, passages, groups, end)
    if decoding.method == "greedy":
        return greedy(scores, rules)
    if decoding.method == "beam":
        return beam_search(scores, rules, decoding.beams, decoding.num, decoding.length_penalty)
    temperature = 1.0 if decoding.temperature is None else decoding.temperature
    return sample(scores, rules, uniforms, temperature, decoding.top_k, decoding.top_p)
