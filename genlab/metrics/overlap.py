"""How good answers and texts are: exact match, F1, ROUGE-L and BLEU, for Chinese by character.

What no vocabulary writes is no difference: control and zero-width characters, and whether a letter
and its mark are one character or two.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec

__all__ = ["bleu", "cmrc_scores", "rouge_l", "segments", "sogou_scores", "squad_scores"]


def is_wide(char: str) -> bool:
    """Whether it is a CJK character or kana, which are counted one by one."""
    return (
        "\u3040" <= char <= "\u30ff"
        or "\u3400" <= char <= "\u9fff"
        or "\uf900" <= char <= "\ufaff"
        or char >= "\U00020000"
    )


def is_mark(char: str) -> bool:
    return char in string.punctuation or unicodedata.category(char)[0] in "PS"


def written(text: str) -> str:
    """The text in Unicode's composed form, without control and zero-width characters."""
    composed = text if text.isascii() else unicodedata.normalize("NFC", text)
    return "".join(c for c in composed if c in "\t\n\r" or unicodedata.category(c)[0] != "C")


def lowered(text: str) -> str:
    """The same in lower case, a character at a time as in a vocabulary: no sigma becomes a final
    one.
    """
    return "".join(map(str.lower, written(text)))


def segments(text: str, marks: bool = False) -> list[str]:
    """Lower-cased CJK characters one by one, other words whole; punctuation and symbols only if
    `marks`.
    """
    spaced = "".join(
        f" {c} " if is_wide(c) else (f" {c} " if marks else " ") if is_mark(c) else c
        for c in lowered(text)
    )
    return spaced.split()


def f1_of(common: int, predicted: int, right: int) -> float:
    return 2 * common / (predicted + right) if common else 0.0


def best(scores: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The greatest of each of (exact, f1), as all these metrics take them."""
    return max(exact for exact, _ in scores), max(f1 for _, f1 in scores)


def squad_scores(answer: str, accepted: Sequence[str]) -> tuple[float, float]:
    """(exact match, F1 over words) as SQuAD's script: lower case, no punctuation, no a/an/the.

    Rajpurkar et al. 2016, arXiv 1606.05250. An empty answer is right where nothing is accepted.
    """
    if not accepted:
        return (float(not answer),) * 2

    def normal(text: str) -> list[str]:
        text = "".join(c for c in lowered(text) if c not in string.punctuation)
        return re.sub(r"\b(a|an|the)\b", " ", text).split()

    given = normal(answer)

    def score(right: list[str]) -> tuple[float, float]:
        return float(given == right), f1_of(
            (Counter(given) & Counter(right)).total(), len(given), len(right)
        )

    return best([score(normal(right)) for right in accepted])


def cmrc_scores(answer: str, accepted: Sequence[str]) -> tuple[float, float]:
    """(exact match, F1) as CMRC 2018's script: without punctuation, F1 of the longest run of
    segments in common.

    Cui et al. 2019, arXiv 1810.07366. An empty answer is right where nothing is accepted.
    """
    if not accepted:
        return (float(not answer),) * 2
    given = segments(answer)

    def score(right: list[str]) -> tuple[float, float]:
        return float("".join(given) == "".join(right)), f1_of(
            longest_run(given, right), len(given), len(right)
        )

    return best([score(segments(right)) for right in accepted])


def sogou_scores(answer: str, accepted: Sequence[str]) -> tuple[float, float]:
    """(exact match, F1) of the SogouQA contest: F1 over characters; the parts of the first accepted
    answer in any order.

    After the description of bojone/dgcnn_for_reading_comprehension. An empty answer counts nothing,
    ever.
    """
    if not answer or not accepted:
        return 0.0, 0.0

    def spaced(text: str) -> str:
        return "".join(
            " " if is_mark(c) or c.isspace() else c
            for c in lowered(unicodedata.normalize("NFKC", text))
        )

    def normal(text: str) -> str:
        return "".join(spaced(text).split())

    forms = {*accepted, *map(normal, accepted)}
    exact = normal(answer) in forms or set(spaced(answer).split()) == set(
        spaced(accepted[0]).split()
    )
    given = Counter(normal(answer))
    f1 = max(
        f1_of((given & Counter(form)).total(), given.total(), len(form))
        for form in map(normal, accepted)
    )
    return float(exact), f1


def longest_run(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest piece that stands in both."""
    most, row = 0, [0] * (len(b) + 1)
    for x in a:
        row = [0] + [row[j] + 1 if x == y else 0 for j, y in enumerate(b)]
        most = max(most, *row)
    return most


def longest_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    row = [0] * (len(b) + 1)
    for x in a:
        new = [0]
        for j, y in enumerate(b):
            new.append(row[j] + 1 if x == y else max(row[j + 1], new[j]))
        row = new
    return row[-1]


def rouge_l(text: str, accepted: Sequence[str]) -> float:
    """The F1 of the longest common subsequence of segments (Lin 2004), with the reference that
    gives the most.
    """
    given = segments(text, marks=True)
    right = [segments(reference, marks=True) for reference in accepted]
    return max(
        f1_of(longest_subsequence(given, reference), len(given), len(reference))
        for reference in right
    )


def bleu(
    texts: Sequence[str], accepted: Sequence[Sequence[str]], chinese: bool, lowercase: bool = True
) -> tuple[float, str] | None:
    """Corpus BLEU by sacrebleu (Post 2018, arXiv 1804.08771).

    Args:
        texts: what was written.
        accepted: the references of each text.
        chinese: by character, as sacrebleu's zh; else by word, as its 13a.
        lowercase: without regard to case, as for a model whose vocabulary has lower case alone.

    Returns:
        (0 to 100, sacrebleu's signature), or None if it is not installed. Where no text has four
        words, the longest n-grams that there are count (eff:yes).
    """
    if find_spec("sacrebleu") is None:
        return None
    from sacrebleu.metrics import BLEU

    form = lowered if lowercase else written
    metric = BLEU(tokenize="zh" if chinese else "13a", lowercase=lowercase, effective_order=True)
    most = max(
        map(len, accepted)
    )  # sacrebleu wants as many references for each; a repeated one changes nothing
    references = [[form(right[min(i, len(right) - 1)]) for right in accepted] for i in range(most)]
    return metric.corpus_score([form(text) for text in texts], references).score, str(
        metric.get_signature()
    )
