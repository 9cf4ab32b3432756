"""Whether a regular poem has the form it should, and whether its lines rhyme."""

import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec

__all__ = ["EXTRA", "has_form", "is_form", "lines_of", "rhyme_agreement", "rhymes"]

EXTRA = "pip install 'genlab[poems]' for pypinyin"


def is_form(value: str) -> bool:
    """Whether a label is a form, characters x lines, as in 5x8."""
    return re.fullmatch(r"\d+x\d+", value) is not None


def lines_of(text: str) -> list[str]:
    """The lines of a poem that is one string, which are between its marks."""
    return [line for line in re.split(r"[，。？！；、\s]+", text) if line]


def has_form(text: str, form: str) -> bool:
    """Whether a poem has the lines of the form, each of its characters and followed by a mark."""
    length, count = map(int, form.split("x"))
    line = rf"[^，。？！；、\s]{{{length}}}[，。？！；、]"
    return re.fullmatch(rf"(?:{line}){{{count}}}", text) is not None


def rhymes() -> Callable[[str], frozenset[str]]:
    """A function from a character to its rhymes in modern Mandarin: those of all its readings,
    without tones.

    Rhymes have drifted since the Tang dynasty, so real poems do not reach an agreement of 1 either:
    compare with theirs.

    Raises:
        ModuleNotFoundError: pypinyin is missing.
    """
    if find_spec("pypinyin") is None:
        raise ModuleNotFoundError(f"rhymes need the package pypinyin: {EXTRA}")
    from pypinyin import Style, pinyin
    from pypinyin.contrib.tone_convert import to_finals

    @cache
    def rhymes_of(character: str) -> frozenset[str]:
        readings = pinyin(character, style=Style.NORMAL, heteronym=True, errors="ignore")
        found = readings[0] if readings else []
        return frozenset(rhyme(reading, to_finals(reading, v_to_u=False)) for reading in found)

    return rhymes_of


def rhyme(syllable: str, final: str) -> str:
    """The rhyme of a syllable with its final, without glides, and with near ones joined: guang ->
    ang, chun -> en, dong -> eng.
    """
    if re.fullmatch(r"(zh|ch|sh|r|z|c|s)i", syllable):
        return "-i"
    if final in ("ie", "ve", "ue"):
        return "ie"
    final = re.sub(r"^[iuv](?=[aeo])", "", final)
    return {"in": "en", "vn": "en", "un": "en", "ing": "eng", "ong": "eng"}.get(final, final)


def rhyme_agreement(texts: Sequence[str], rhymes_of: Callable[[str], frozenset[str]]) -> float:
    """The fraction of the pairs of even lines of a poem whose last characters share a rhyme, over
    all poems; NaN without pairs.
    """
    pairs = hits = 0
    for text in texts:
        ends = [rhymes_of(line[-1]) for line in lines_of(text)[1::2]]
        for i, one in enumerate(ends):
            for other in ends[i + 1 :]:
                pairs += 1
                hits += bool(one & other)
    return hits / pairs if pairs else float("nan")
