"""How much texts have in common with reference texts: exact match, F1, ROUGE-L and BLEU, of Chinese
by character.

Control and zero-width characters do not count, nor whether a letter and its mark are one character
or two: no vocabulary writes these differences.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec

__all__ = [
    "bleu",
    "cmrc_scores",
    "is_wide",
    "lowercase",
    "rouge_l",
    "segments",
    "sogou_scores",
    "squad_scores",
]


# --- characters and segments ----------------------------------------------------------------------


def is_wide(char: str) -> bool:
    """Whether it is a CJK character or kana, which are counted one by one."""
    return (
        "\u3040" <= char <= "\u30ff"
        or "\u3400" <= char <= "\u9fff"
        or "\uf900" <= char <= "\ufaff"
        or char >= "\U00020000"
    )


def is_mark(char: str) -> bool:
    """Whether it is punctuation or a symbol."""
    return char in string.punctuation or unicodedata.category(char)[0] in "PS"


def normalize(text: str) -> str:
    """The text in Unicode's composed form, without control and zero-width characters."""
    composed = text if text.isascii() else unicodedata.normalize("NFC", text)
    return "".join(c for c in composed if c in "\t\n\r" or unicodedata.category(c)[0] != "C")


def lowercase(text: str) -> str:
    """The normalised text in lower case, a character at a time as in a vocabulary: str.lower makes
    a sigma at the end of a word a final one.
    """
    return "".join(map(str.lower, normalize(text)))


def segments(text: str, marks: bool = False) -> list[str]:
    """Lower-cased CJK characters one by one, other words whole; punctuation and symbols only with
    `marks`.
    """
    parts = []
    for char in lowercase(text):
        if is_wide(char) or (marks and is_mark(char)):
            parts.append(f" {char} ")
        else:
            parts.append(" " if is_mark(char) else char)
    return "".join(parts).split()


# --- answers --------------------------------------------------------------------------------------


def f1_of(common: int, predicted: int, reference: int) -> float:
    """F1 of `common` tokens among so many predicted and so many of the reference."""
    return 2 * common / (predicted + reference) if common else 0.0


def best(scores: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The greatest exact match and the greatest F1 of (exact match, F1) with each reference: each
    for itself, as the original scripts have it.
    """
    return max(exact for exact, _ in scores), max(f1 for _, f1 in scores)


def squad_scores(answer: str, accepted: Sequence[str]) -> tuple[float, float]:
    """(exact match, F1 over words) as SQuAD's script: lower case, no punctuation, no a/an/the.

    Rajpurkar et al. 2016, arXiv 1606.05250. An empty answer is right where nothing is accepted.
    """
    if not accepted:
        return (float(not answer),) * 2

    def words(text: str) -> list[str]:
        text = "".join(c for c in lowercase(text) if c not in string.punctuation)
        return re.sub(r"\b(a|an|the)\b", " ", text).split()

    given = words(answer)

    def score(reference: list[str]) -> tuple[float, float]:
        common = (Counter(given) & Counter(reference)).total()
        return float(given == reference), f1_of(common, len(given), len(reference))

    return best([score(words(text)) for text in accepted])


def cmrc_scores(answer: str, accepted: Sequence[str]) -> tuple[float, float]:
    """(exact match, F1) as CMRC 2018's script: without punctuation, F1 of the longest run of
    segments in common.

    Cui et al. 2019, arXiv 1810.07366. An empty answer is right where nothing is accepted.
    """
    if not accepted:
        return (float(not answer),) * 2
    given = segments(answer)

    def score(reference: list[str]) -> tuple[float, float]:
        common = longest_run(given, reference)
        exact = "".join(given) == "".join(reference)
        return float(exact), f1_of(common, len(given), len(reference))

    return best([score(segments(text)) for text in accepted])


def sogou_scores(answer: str, accepted: Sequence[str]) -> tuple[float, float]:
    """(exact match, F1) of the SogouQA contest: F1 over characters; the parts of the first accepted
    answer may come in any order.

    After the description in bojone/dgcnn_for_reading_comprehension. An empty answer never scores.
    """
    if not answer or not accepted:
        return 0.0, 0.0

    def spaced(text: str) -> str:
        composed = lowercase(unicodedata.normalize("NFKC", text))
        return "".join(" " if is_mark(c) or c.isspace() else c for c in composed)

    def joined(text: str) -> str:
        return "".join(spaced(text).split())

    forms = {*accepted, *map(joined, accepted)}
    parts, wanted = (set(spaced(text).split()) for text in (answer, accepted[0]))
    exact = joined(answer) in forms or parts == wanted
    given = Counter(joined(answer))
    f1 = max(
        f1_of((given & Counter(form)).total(), given.total(), len(form))
        for form in map(joined, accepted)
    )
    return float(exact), f1


def longest_run(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest run of neighbours that is in both."""
    most, row = 0, [0] * (len(b) + 1)
    for x in a:
        row = [0] + [row[j] + 1 if x == y else 0 for j, y in enumerate(b)]
        most = max(most, *row)
    return most


# --- texts ----------------------------------------------------------------------------------------


def longest_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest sequence that is in both, with gaps."""
    row = [0] * (len(b) + 1)
    for x in a:
        new = [0]
        for j, y in enumerate(b):
            new.append(row[j] + 1 if x == y else max(row[j + 1], new[j]))
        row = new
    return row[-1]


def rouge_l(text: str, accepted: Sequence[str]) -> float:
    """F1 of the longest common subsequence of segments (Lin 2004), with the reference that gives
    the most.

    Not the package rouge-score: its words are runs of [a-z0-9], so that every Chinese text is
    empty. With these segments as its tokenizer it would save ten lines and bring nltk.
    """
    given = segments(text, marks=True)
    scores = []
    for reference in (segments(one, marks=True) for one in accepted):
        common = longest_subsequence(given, reference)
        scores.append(f1_of(common, len(given), len(reference)))
    return max(scores)


def bleu(
    texts: Sequence[str], accepted: Sequence[Sequence[str]], chinese: bool, lowercased: bool = True
) -> tuple[float, str] | None:
    """Corpus BLEU by sacrebleu (Post 2018, arXiv 1804.08771).

    Args:
        texts: What was written.
        accepted: The references of each text.
        chinese: By character, as sacrebleu's zh; else by word, as its 13a.
        lowercased: Without regard to case, as for a model whose vocabulary has lower case alone.

    Returns:
        (0 to 100, sacrebleu's signature), or None if it is not installed. Where no text has four
        words, the longest n-grams that there are count (eff:yes).
    """
    if find_spec("sacrebleu") is None:
        return None
    from sacrebleu.metrics import BLEU

    form = lowercase if lowercased else normalize
    metric = BLEU(tokenize="zh" if chinese else "13a", lowercase=lowercased, effective_order=True)
    # sacrebleu wants as many references for each text; a repeated one changes nothing.
    most = max(map(len, accepted))
    references = [[form(some[min(i, len(some) - 1)]) for some in accepted] for i in range(most)]
    score = metric.corpus_score([form(text) for text in texts], references).score
    return score, str(metric.get_signature())
