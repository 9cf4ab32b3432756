"""Text to ids and back: BERT's WordPiece over a vocab.txt."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tokenizers import AddedToken, models
from tokenizers import Tokenizer as Backend

from genlab.data.text.vocabulary import SPECIALS, is_cjk, simplify, splitters
from genlab.errors import DataError
from genlab.weights.source import find
from genlab.weights.vocabulary import find_vocabulary, read_tokenizer

__all__ = ["Encoding", "Tokenizer", "tokenizer_of"]

MAX_WORD = 200  # characters; a longer word is one [UNK], as in Google's BERT; 100 in transformers
# Kept together on both sides; without a space before; without one after. Other punctuation stands
# between spaces.
JOINING, CLOSING, OPENING = set("-/_\\~^\u00b7\u2013\u2014"), set(",.!?;:)]}%+"), set("([{$#@")
CURRENCIES, DOMAINS = {"us", "usd", "nt", "hk"}, {"com", "org", "net"}
CONTRACTIONS = {"s", "t", "re", "m", "ve", "d", "ll"}


class Encoding(NamedTuple):
    """ids and segments of one row: 0 up to the first [SEP] with it, then 1."""

    ids: list[int]
    segments: list[int]


class Tokenizer:
    """BERT's tokenizer: clean, split at spaces, punctuation and CJK characters, then the longest
    pieces of a word.

    Args:
        vocab: the tokens in the order of their ids.
        lowercase: texts are read in lower case.
        keep_tokens: the ids that these tokens have in the vocabulary they were chosen from
            (`simplify`); a checkpoint's word embeddings are sliced by them. They are stored
            (`state`), never computed again: the choice depends on the interpreter's Unicode tables.
        strip_accents, chinese_chars, clean_text, compose: see `splitters`.
        max_word: characters; a longer word is one [UNK].
        added: tokens found in a text before it is split, as arguments of tokenizers.AddedToken.
    """

    def __init__(
        self,
        vocab: Sequence[str],
        lowercase: bool = True,
        keep_tokens: Sequence[int] | None = None,
        *,
        strip_accents: bool = False,
        chinese_chars: bool = True,
        clean_text: bool = True,
        compose: bool = True,
        max_word: int = MAX_WORD,
        added: Sequence[dict] = (),
    ):
        repeated = [token for token, count in Counter(vocab).items() if count > 1]
        if repeated:
            raise DataError(
                f"the vocabulary has {', '.join(map(repr, repeated[:5]))} more than once, which shifts the ids after it; "
                "make every line unique"
            )
        absent = [token for token in SPECIALS[:4] if token not in set(vocab)]
        if absent:
            raise DataError(
                f"the vocabulary lacks {', '.join(absent)}; expected a BERT vocab.txt, one token a line"
            )
        if keep_tokens is not None and len(keep_tokens) != len(vocab):
            raise DataError(f"keep_tokens has {len(keep_tokens)} ids for {len(vocab)} tokens")
        self.vocab, self.lowercase, self.strip_accents = list(vocab), lowercase, strip_accents
        self.chinese_chars, self.clean_text, self.compose = chinese_chars, clean_text, compose
        self.max_word, self.added = max_word, list(added)
        self.keep_tokens = None if keep_tokens is None else list(keep_tokens)
        self.ids = {token: i for i, token in enumerate(self.vocab)}
        self.pad_id, self.unk_id, self.cls_id, self.sep_id = (
            self.ids[token] for token in SPECIALS[:4]
        )
        self.mask_id = self.ids.get("[MASK]")  # a simplified vocabulary may lack it
        self.backend = Backend(
            models.WordPiece(self.ids, unk_token="[UNK]", max_input_chars_per_word=max_word)
        )
        self.backend.normalizer, self.backend.pre_tokenizer = splitters(
            lowercase, strip_accents, chinese_chars, clean_text, compose
        )
        self.backend.add_tokens([AddedToken(**token) for token in added])

    @classmethod
    def from_vocab(
        cls,
        path: str | Path,
        lowercase: bool | None = None,
        simplified: bool = False,
        startswith: Sequence[str] = SPECIALS[:4],
    ) -> "Tokenizer":
        """Of a vocab.txt or tokenizer.json, or of the directory that one is in; splits texts as
        transformers does with it.

        Args:
            path: the file or directory. A tokenizer_config.json beside it says how texts are split;
                where nothing does, BERT's uncased models are the model: lower case, without
                accents.
            lowercase: instead of what is said there; without accents, too, unless they are spoken
            of there.
            simplified: without the tokens that `simplify` leaves out.
            startswith: what a simplified vocabulary starts with.

        Raises:
            WeightsError: a file cannot be read, or asks for a way to split texts that there is not
            here.
        """
        path = Path(path)
        vocab, options = read_tokenizer(
            find_vocabulary(path) or path / "vocab.txt" if path.is_dir() else path
        )
        said = options.pop("lowercase", True)
        lowercase = said if lowercase is None else lowercase
        if options.get("strip_accents") is None:
            options["strip_accents"] = lowercase
        options = {"compose": False} | options
        if not simplified:
            return cls(vocab, lowercase, **options)
        keep = simplify(vocab, startswith)
        vocab = [vocab[i] for i in keep]
        options["added"] = [
            token for token in options.get("added", ()) if token["content"] in vocab
        ]
        return cls(vocab, lowercase, keep, **options)

    def state(self) -> dict:
        """Plain containers for a checkpoint; `from_state` makes the same tokenizer of them.

        What splits texts comes into it where it is not as it was before there was a choice
        (`before`).
        """
        state = {"vocab": self.vocab, "lowercase": self.lowercase, "keep_tokens": self.keep_tokens}
        return state | {
            k: getattr(self, k)
            for k, old in before(self.lowercase).items()
            if getattr(self, k) != old
        }

    @classmethod
    def from_state(cls, state: dict) -> "Tokenizer":
        """The tokenizer of a `state`; DataError where it is none."""
        try:
            options = before(state["lowercase"]) | state
            return cls(
                options.pop("vocab"),
                options.pop("lowercase"),
                options.pop("keep_tokens"),
                **options,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"the stored vocabulary is damaged ({type(error).__name__}: {error})"
            ) from None

    def __len__(self) -> int:
        return len(self.vocab)

    def tokenize(self, text: str) -> list[str]:
        return self.backend.encode(text).tokens

    def plain(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without [CLS] and [SEP]."""
        return [encoding.ids for encoding in self.backend.encode_batch_fast(list(texts))]

    def encode(
        self,
        text: str,
        pair: str | None = None,
        max_length: int | None = None,
        truncate: str = "right",
    ) -> Encoding:
        """[CLS] text [SEP] or [CLS] text [SEP] pair [SEP], cut to max_length tokens.

        Tokens go from the side that is longer at the time, from its end (truncate=right) or its
        start (left).
        """
        first, second = self.plain([text, pair or ""])
        return self.join(first, None if pair is None else second, max_length, truncate)

    def join(
        self,
        first: Sequence[int],
        second: Sequence[int] | None = None,
        max_length: int | None = None,
        truncate: str = "right",
    ) -> Encoding:
        """`encode` from plain ids."""
        if truncate not in ("left", "right"):
            raise ValueError(f"truncate={truncate}: expected left or right")
        specials = 2 if second is None else 3
        if max_length is not None and max_length < specials:
            raise ValueError(
                f"max_length={max_length}: expected at least {specials}, for [CLS] and [SEP]"
            )
        a, b = len(first), len(second or ())
        while max_length is not None and a + b + specials > max_length:
            # [CLS] counts for the first side; a tie goes to it.
            if a + 1 >= b and a:
                a -= 1
            else:
                b -= 1
        cut = (
            (lambda ids, n: ids[:n])
            if truncate == "right"
            else (lambda ids, n: ids[len(ids) - n :])
        )
        head = [self.cls_id, *cut(first, a), self.sep_id]
        tail = [] if second is None else [*cut(second, b), self.sep_id]
        return Encoding(head + tail, [0] * len(head) + [1] * len(tail))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`: special tokens dropped, pieces joined, spaces where people write them."""
        words: list[str] = []
        for token in (self.vocab[i] for i in ids):
            if re.fullmatch(r"\[\w+\]", token):
                continue
            if token.startswith("##") and len(token) > 2:
                words.append((words.pop() if words else "") + token[2:])
            else:
                words.append(token)
        text = _spaced(words)
        return unicodedata.normalize("NFC", text) if self.strip_accents else text  # jamo to Hangul

    def comparable(self, text: str) -> str:
        """A text as this vocabulary would write it, if it had every word: in its case and spacing,
        without what it drops.
        """
        words = self.backend.pre_tokenizer.pre_tokenize_str(
            self.backend.normalizer.normalize_str(text)
        )
        return unicodedata.normalize("NFC", _spaced([word for word, _ in words]))


def before(lowercase: bool) -> dict:
    """How a tokenizer splits texts whose state does not speak of it: those of older checkpoints."""
    return {"strip_accents": lowercase, "chinese_chars": True, "clean_text": True, "compose": False,
            "max_word": MAX_WORD, "added": []}  # fmt: skip


def tokenizer_of(
    vocab: str,
    path: Path,
    lowercase: bool | None,
    simplified: bool,
    startswith: Sequence[str] = SPECIALS[:4],
) -> Tokenizer:
    """What data.vocab means: the vocab.txt or tokenizer.json, or the directory with one, at `path`,
    where data.root may have led; else the vocabulary of the run or the pretrained weights of that
    name (`find`), a run's as it is. See Tokenizer.from_vocab.
    """
    if not path.is_file() and find_vocabulary(path) is None:
        source = find(vocab)
        if source.tokenizer is not None:
            if simplified:
                raise DataError(
                    f"data.simplified=true: the vocabulary of the run {vocab} is taken as it is"
                )
            return Tokenizer.from_state(source.tokenizer)
        if source.vocab is None:
            raise DataError(
                f"data.vocab={vocab}: there is neither tokenizer.json nor vocab.txt with these weights"
            )
        path = source.vocab
    return Tokenizer.from_vocab(path, lowercase, simplified, startswith)


def _spaced(words: list[str]) -> str:
    """Words in one text, with spaces where people write them."""
    spaces = [i and not _touch(words, i) for i in range(len(words))]
    return "".join(" " * bool(space) + word for space, word in zip(spaces, words, strict=True))


def _wide(char: str) -> bool:
    """Written without spaces around it: CJK, kana, and their punctuation; full-width letters and
    digits make words.
    """
    if 0xFF00 <= ord(char) <= 0xFFEF:
        return not unicodedata.normalize("NFKC", char).isascii() or not char.isalnum()
    return is_cjk(char) or 0x3000 <= ord(char) <= 0x30FF


def _touch(words: list[str], i: int) -> bool:
    """Whether no space stands between words[i - 1] and words[i]."""
    left, right = words[i - 1], words[i]
    before = words[i - 2] if i > 1 else ""
    after = words[i + 1] if i + 1 < len(words) else ""
    if _wide(left[-1]) or _wide(right[0]) or left in JOINING or right in JOINING:
        return True
    if right in CLOSING or left in OPENING:
        return True
    if '"' in (left, right):  # they open and close in turn
        opens = words[: words.index('"', i - 1) + 1].count('"') % 2 == 1
        return opens if left == '"' else not opens
    if right == "'" or unicodedata.category(right[0]) == "Pf":
        return True
    if left in "'\u2019":  # it's, o'clock; but the teachers' books
        return right in CONTRACTIONS or i == 1 or (len(before) == 1 and before.isalpha())
    if unicodedata.category(left[-1]) == "Pi":
        return True
    if before[-1:].isdigit() and right[0].isdigit():  # 3.5, 10:30, 1+1, 1,000,000
        thousands = re.fullmatch(r"\D?\d{1,3}", before) and re.match(r"\d{3}(?!\d)", right)
        return left in ".:+" or bool(left == "," and thousands)
    if "&" in (left, right):  # AT&T, but Simon & Schuster
        return (
            len(before if left == "&" else left) <= 2 and len(right if left == "&" else after) == 1
        )
    if left == ".":  # u.s., example.com
        initials = len(before) == len(right) == 1 and before.isalpha() and right.isalpha()
        return right in DOMAINS or (initials and after in (".", ""))
    return right == "$" and left in CURRENCIES
