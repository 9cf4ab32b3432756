"""How varied texts are, among themselves and against those of training: distinct-n, self-BLEU,
copies.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from genlab.metrics.overlap import lowercase, segments

__all__ = ["copy_rate", "distinct", "ngram_copy_rate", "self_bleu"]


def ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of `n` tokens."""
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def distinct(texts: Iterable[str], n: int) -> float:
    """Different n-grams over all n-grams of the texts together, in [0, 1]; falls with their number.

    Li et al. 2016, arXiv 1510.03055.
    """
    grams = [gram for text in texts for gram in ngrams(segments(text, marks=True), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def bleu_of(
    counts: list[Counter], length: int, references: list[dict], lengths: Sequence[int]
) -> float:
    """BLEU-4 of one text, in [0, 1], with NIST's smoothing of empty precisions.

    Args:
        counts: Of the text's n-grams, for n from 1 to 4.
        length: Of the text.
        references: The greatest count of each n-gram in a reference, for n from 1 to 4.
        lengths: Of the references.
    """
    total, empty = 0.0, 1.0
    for own, best in zip(counts, references, strict=True):
        count = own.total()
        if not count:
            return 0.0
        common = sum(min(n, best.get(gram, 0)) for gram, n in own.items())
        if not common:
            empty *= 2
        total += math.log((common or 1 / empty) / count) / 4
    nearest = min(lengths, key=lambda n: (abs(n - length), n))
    return math.exp(total + min(0.0, 1 - nearest / length))


def self_bleu(texts: Sequence[str], most: int = 200) -> float:
    """The mean BLEU-4, in [0, 1], of each text against the others: high where they are alike.

    Of the first `most` texts; segments as in ROUGE-L. Texts of fewer than four do not count; NaN
    where fewer than two are left.
    "Texygen", Zhu et al. 2018, arXiv 1802.01886.
    """
    rows = [row for row in (segments(text, marks=True) for text in texts[:most]) if len(row) >= 4]
    if len(rows) < 2:
        return float("nan")
    counts = [[Counter(ngrams(row, n)) for n in (1, 2, 3, 4)] for row in rows]
    # Of each n-gram its two greatest counts, and which text has the first: so the greatest count
    # among the others is known for every text at once.
    tops: list[dict] = [{}, {}, {}, {}]
    for i, own in enumerate(counts):
        for top, grams in zip(tops, own, strict=True):
            for gram, n in grams.items():
                first, who, second = top.get(gram, (0, -1, 0))
                top[gram] = (n, i, first) if n > first else (first, who, max(second, n))
    scores = []
    for i, own in enumerate(counts):
        best = []
        for top, grams in zip(tops, own, strict=True):
            best.append({g: top[g][2] if top[g][1] == i else top[g][0] for g in grams})
        lengths = [len(row) for j, row in enumerate(rows) if j != i]
        scores.append(bleu_of(own, len(rows[i]), best, lengths))
    return float(np.mean(scores))


def copy_rate(texts: Sequence[str], training: Iterable[str]) -> float:
    """The fraction of the texts that are training texts, apart from spaces and capitals."""
    known = {"".join(lowercase(text).split()) for text in training}
    return float(np.mean(["".join(lowercase(text).split()) in known for text in texts]))


def ngram_copy_rate(texts: Sequence[str], training: Iterable[str], n: int = 6) -> float:
    """The fraction of the texts' n-grams of segments, marks included, that occur in training; NaN
    without n-grams.
    """
    wanted = Counter(gram for text in texts for gram in ngrams(segments(text, marks=True), n))
    if not wanted:
        return float("nan")
    known: set[tuple[str, ...]] = set()
    for text in training:
        known.update(gram for gram in ngrams(segments(text, marks=True), n) if gram in wanted)
    return sum(wanted[gram] for gram in known) / wanted.total()
