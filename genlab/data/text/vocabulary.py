"""Vocabularies of BERT's tokenizer: simplified, or built from texts."""

import heapq
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

from tokenizers import normalizers, pre_tokenizers

from genlab.errors import DataError

__all__ = ["SPECIALS", "build_vocab", "is_cjk", "is_punctuation", "simplify", "splitters"]

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

# Blocks of ideographs: (first, last) code point
CJK = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


def is_cjk(char: str) -> bool:
    """Whether a character is an ideograph, which BERT takes for a word."""
    return any(first <= ord(char) <= last for first, last in CJK)


def is_punctuation(char: str) -> bool:
    """Whether a character is punctuation in Unicode or an ASCII symbol."""
    ascii_symbol = char.isascii() and not char.isalnum() and 32 < ord(char) < 127
    return ascii_symbol or unicodedata.category(char).startswith("P")


def splitters(
    lowercase: bool,
    strip_accents: bool = False,
    chinese_chars: bool = True,
    clean_text: bool = True,
    compose: bool = True,
) -> tuple[normalizers.Normalizer, pre_tokenizers.PreTokenizer]:
    """What is done to a text before it is split into pieces, in BERT's way.

    Args:
        lowercase: Lower case.
        strip_accents: Drop all marks, as BERT's uncased vocabularies do: é becomes e, Cyrillic and
            kana letters lose theirs, Hangul falls into jamo.
        chinese_chars: Each CJK character is a word.
        clean_text: Drop control characters, and turn every white space into a blank.
        compose: Unicode's NFC first, so that a letter and its mark are one character however they
            were typed.

    Returns:
        (the normalizer, the pre-tokenizer).
    """
    bert = normalizers.BertNormalizer(
        clean_text=clean_text,
        handle_chinese_chars=chinese_chars,
        strip_accents=strip_accents,
        lowercase=lowercase,
    )
    normalizer = normalizers.Sequence([normalizers.NFC(), bert]) if compose else bert
    return normalizer, pre_tokenizers.BertPreTokenizer()


def simplify(vocab: Sequence[str], startswith: Sequence[str] = SPECIALS[:4]) -> list[int]:
    """The ids of the tokens that BERT's splitting can produce; the rule of bojone/bert4keras.

    A token of several characters (after any ##) is left out if one of them is CJK or punctuation,
    since text is split there: ##汉, [unused1], and [MASK] unless it is in `startswith`.

    Args:
        vocab: The tokens in the order of their ids.
        startswith: These come first, whatever they are.

    Returns:
        keep_tokens: ids in `vocab`, those of `startswith` and then the others in their order.

    Raises:
        DataError: A token of `startswith` is missing.
    """
    ids = {token: i for i, token in enumerate(vocab)}
    missing = [token for token in startswith if token not in ids]
    if missing:
        raise DataError(
            f"the vocabulary lacks {', '.join(missing)}, which a simplified one must start with"
        )
    body = [token.removeprefix("##") if len(token) > 2 else token for token in vocab]
    apart = [
        len(token) > 1 and any(is_cjk(c) or is_punctuation(c) for c in b)
        for token, b in zip(vocab, body, strict=True)
    ]
    first = [ids[token] for token in startswith]
    others = (i for i, token in enumerate(vocab) if not apart[i] and token not in startswith)
    return [*first, *others]


def build_vocab(
    texts: Iterable[str],
    size: int = 8000,
    kind: str = "wordpiece",
    lowercase: bool = True,
    min_count: int = 2,
) -> list[str]:
    """A vocabulary for a model that is trained from scratch; a function of the texts alone.

    Marks stay with their letters (é, й, が), with lowercase too. `wordpiece` starts from characters
    and joins the most frequent pair of neighbours, again and again ("Neural Machine Translation of
    Rare Words with Subword Units", Sennrich et al. 2016, arXiv 1508.07909), with ## inside a word;
    CJK characters stand alone in any case. The trainer of `tokenizers` does this too, but its
    order, and its choice among equals, differ from process to process.

    Args:
        texts: What it is built from.
        size: The most tokens.
        kind: `wordpiece`, or `characters`: characters alone, those of alphabets also as ##c.
        lowercase: Texts are read in lower case.
        min_count: What occurs less often is left out.

    Returns:
        The tokens in the order of their ids, the special ones first.
    """
    if kind not in ("wordpiece", "characters"):
        raise ValueError(f"kind={kind}: expected wordpiece or characters")
    normalizer, splitter = splitters(lowercase)
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    spelt = [[word[0], *(f"##{c}" for c in word[1:])] for word in words]
    counts = list(words.values())
    letters: Counter[str] = Counter()
    for pieces, count in zip(spelt, counts, strict=True):
        for piece in pieces:
            letters[piece] += count
    frequent = sorted((-count, piece) for piece, count in letters.items() if count >= min_count)
    vocab = dict.fromkeys(
        [*SPECIALS, *(piece for _, piece in frequent)][: max(size, len(SPECIALS))]
    )
    if kind == "wordpiece":
        for piece in _joined(spelt, counts, min_count):
            if len(vocab) >= size:
                break
            vocab[piece] = None
    return list(vocab)


def _joined(words: list[list[str]], counts: list[int], min_count: int) -> Iterable[str]:
    """The pieces made by joining, the most frequent pair first, in alphabetical order among equals.

    It changes `words`, the pieces of each word; `counts` says how often each word occurs.
    """
    pairs: Counter[tuple[str, str]] = Counter()
    where: dict[tuple[str, str], set[int]] = defaultdict(set)
    for i, pieces in enumerate(words):
        for pair in pairwise(pieces):
            pairs[pair] += counts[i]
            where[pair].add(i)
    heap = [(-count, pair) for pair, count in pairs.items()]
    heapq.heapify(heap)
    while heap:
        count, pair = heapq.heappop(heap)
        if -count != pairs[pair]:  # an outdated entry; the current one is in the heap too
            continue
        if -count < min_count:
            return
        new = pair[0] + pair[1].removeprefix("##")
        yield new
        changed = set()
        for i in where.pop(pair):
            old, pieces = words[i], []
            for piece in old:
                if pieces and (pieces[-1], piece) == pair:
                    pieces[-1] = new
                else:
                    pieces.append(piece)
            for gone in pairwise(old):
                pairs[gone] -= counts[i]
                changed.add(gone)
            for there in pairwise(pieces):
                pairs[there] += counts[i]
                where[there].add(i)
                changed.add(there)
            words[i] = pieces
        pairs.pop(pair, None)
        changed.discard(pair)
        for pair in changed:
            heapq.heappush(heap, (-pairs[pair], pair))
