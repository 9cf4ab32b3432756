"""How varied texts are, among themselves and against those of training: distinct-n, self-BLEU,
copies.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from genlab.metrics.overlap import lowered, segments

__all__ = ["copied", "copied_ngrams", "distinct", "self_bleu"]


def ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def distinct(texts: Iterable[str], n: int) -> float:
    """Different n-grams over all n-grams of the texts together, which falls with their number.

    Li et al. 2016, arXiv 1510.03055.
    """
    grams = [gram for text in texts for gram in ngrams(segments(text, marks=True), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def bleu_of(counts: list[Counter], length: int, most: list[dict], lengths: Sequence[int]) -> float:
    """BLEU-4 in 0 to 1 of one text against references with the counts `most`; NIST's smoothing of
    empty precisions.
    """
    total, empty = 0.0, 1.0
    for own, best in zip(counts, most, strict=True):
        count = own.total()
        if not count:
            return 0.0
        right = sum(min(n, best.get(gram, 0)) for gram, n in own.items())
        if not right:
            empty *= 2
        total += math.log((right or 1 / empty) / count) / 4
    nearest = min(lengths, key=lambda n: (abs(n - length), n))
    return math.exp(total + min(0.0, 1 - nearest / length))


def self_bleu(texts: Sequence[str], most: int = 200) -> float:
    """The mean BLEU-4, 0 to 1, of each of the first `most` texts against the others: high where
    they are alike.

    "Texygen", Zhu et al. 2018, arXiv 1802.01886. Segments as in ROUGE-L; texts of less than four do
    not count.
    """
    rows = [row for row in (segments(text, marks=True) for text in texts[:most]) if len(row) >= 4]
    if len(rows) < 2:
        return float("nan")
    counts = [[Counter(ngrams(row, n)) for n in (1, 2, 3, 4)] for row in rows]
    # Of each n-gram the two greatest counts and who has the first: the greatest among the others,
    # for every text at once.
    tops: list[dict] = [{}, {}, {}, {}]
    for i, own in enumerate(counts):
        for top, grams in zip(tops, own, strict=True):
            for gram, n in grams.items():
                first, who, second = top.get(gram, (0, -1, 0))
                top[gram] = (n, i, first) if n > first else (first, who, max(second, n))
    scores = []
    for i, own in enumerate(counts):
        best = [
            {g: top[g][2] if top[g][1] == i else top[g][0] for g in grams}
            for top, grams in zip(tops, own, strict=True)
        ]
        lengths = [len(row) for j, row in enumerate(rows) if j != i]
        scores.append(bleu_of(own, len(rows[i]), best, lengths))
    return float(np.mean(scores))


def copied(texts: Sequence[str], training: Iterable[str]) -> float:
    """The part of the texts that are training texts, spaces and capitals apart."""
    known = {"".join(lowered(text).split()) for text in training}
    return float(np.mean(["".join(lowered(text).split()) in known for text in texts]))


def copied_ngrams(texts: Sequence[str], training: Iterable[str], n: int = 6) -> float:
    """The part of the texts' n-grams of segments, marks among them, that occur in training."""
    wanted = Counter(gram for text in texts for gram in ngrams(segments(text, marks=True), n))
    if not wanted:
        return float("nan")
    known = {
        gram
        for text in training
        for gram in ngrams(segments(text, marks=True), n)
        if gram in wanted
    }
    return sum(wanted[gram] for gram in known) / wanted.total()
