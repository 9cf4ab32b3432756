"""Text to ids and back: BERT's WordPiece over a vocab.txt."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, models
from tokenizers import Tokenizer as Backend

from genlab.data.text.vocabulary import SPECIALS, is_cjk, simplify, splitters
from genlab.errors import DataError
from genlab.weights.source import find
from genlab.weights.vocabulary import find_vocabulary, read_tokenizer

__all__ = ["Tokenizer", "tokenizer_of"]

MAX_WORD = 200  # characters; a longer word is one [UNK], as in Google's BERT; 100 in transformers
# Where decoded text has no spaces; other punctuation stands between spaces.
JOINING = set("-/_\\~^\u00b7\u2013\u2014")  # on neither side
CLOSING = set(",.!?;:)]}%+")  # before
OPENING = set("([{$#@")  # after
CURRENCIES = {"us", "usd", "nt", "hk"}
DOMAINS = {"com", "org", "net"}
CONTRACTIONS = {"s", "t", "re", "m", "ve", "d", "ll"}


class Tokenizer:
    """BERT's tokenizer: splits at spaces, punctuation and CJK characters, then into longest pieces.

    Args:
        vocab: The tokens in the order of their ids.
        lowercase: Texts are read in lower case.
        keep_tokens: The ids that these tokens have in the vocabulary from which `simplify` chose
            them; a checkpoint's word embeddings are sliced by them. They are stored (`state`) and
            never computed again: the choice depends on the interpreter's Unicode tables.
        strip_accents, chinese_chars, clean_text, compose: See
            genlab.data.text.vocabulary.splitters.
        max_word: Characters; a longer word is one [UNK].
        added: Tokens that are found in a text before it is split, as arguments of
            tokenizers.AddedToken.

    Raises:
        DataError: A token is repeated or a special token is missing.
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
                f"the vocabulary has {', '.join(map(repr, repeated[:5]))} more than once, "
                "which shifts the ids after it; make every line unique"
            )
        absent = [token for token in SPECIALS[:4] if token not in set(vocab)]
        if absent:
            raise DataError(
                f"the vocabulary lacks {', '.join(absent)}; "
                "expected a BERT vocab.txt, one token a line"
            )
        if keep_tokens is not None and len(keep_tokens) != len(vocab):
            raise DataError(f"keep_tokens has {len(keep_tokens)} ids for {len(vocab)} tokens")
        self.vocab = list(vocab)
        self.lowercase = lowercase
        self.strip_accents = strip_accents
        self.chinese_chars = chinese_chars
        self.clean_text = clean_text
        self.compose = compose
        self.max_word = max_word
        self.added = list(added)
        self.keep_tokens = None if keep_tokens is None else list(keep_tokens)
        self.ids = {token: i for i, token in enumerate(self.vocab)}
        self.pad_id = self.ids["[PAD]"]
        self.unk_id = self.ids["[UNK]"]
        self.cls_id = self.ids["[CLS]"]
        self.sep_id = self.ids["[SEP]"]
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
        """The tokenizer of a file or directory; it splits text as transformers does with it.

        Args:
            path: A vocab.txt or tokenizer.json, or the directory with one. A tokenizer_config.json
                beside it says how text is split; without it, as BERT's uncased models do: in lower
                case, without accents.
            lowercase: Overrides that file; it also sets strip_accents unless the file does.
            simplified: Leave out the tokens that `simplify` leaves out.
            startswith: The tokens that a simplified vocabulary starts with.

        Raises:
            WeightsError: A file cannot be read, or asks for a way to split text that is not
                supported.
        """
        path = Path(path)
        if path.is_dir():
            path = find_vocabulary(path) or path / "vocab.txt"
        vocab, options = read_tokenizer(path)
        own = options.pop("lowercase", True)
        lowercase = own if lowercase is None else lowercase
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
        """Plain containers for a checkpoint, from which `from_state` makes the same tokenizer.

        How text is split is in it only where it differs from `implied`.
        """
        state = {"vocab": self.vocab, "lowercase": self.lowercase, "keep_tokens": self.keep_tokens}
        default = implied(self.lowercase)
        options = {name: getattr(self, name) for name in default}
        return state | {name: value for name, value in options.items() if value != default[name]}

    @classmethod
    def from_state(cls, state: dict) -> "Tokenizer":
        """The tokenizer of a `state`; DataError where it is damaged."""
        try:
            options = implied(state["lowercase"]) | state
            vocab = options.pop("vocab")
            lowercase = options.pop("lowercase")
            return cls(vocab, lowercase, options.pop("keep_tokens"), **options)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"the stored vocabulary is damaged ({type(error).__name__}: {error})"
            ) from None

    def __len__(self) -> int:
        return len(self.vocab)

    def tokenize(self, text: str) -> list[str]:
        """The pieces of a text."""
        return self.backend.encode(text).tokens

    def plain(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without [CLS] and [SEP]."""
        return [encoding.ids for encoding in self.backend.encode_batch_fast(list(texts))]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, without special tokens, with spaces where people write them."""
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
        """A text as it would come back if the vocabulary had every word: its case, its spaces."""
        text = self.backend.normalizer.normalize_str(text)
        words = self.backend.pre_tokenizer.pre_tokenize_str(text)
        return unicodedata.normalize("NFC", _spaced([word for word, _ in words]))


def implied(lowercase: bool) -> dict:
    """How a tokenizer splits text whose state does not say so: as in older checkpoints."""
    return {
        "strip_accents": lowercase,
        "chinese_chars": True,
        "clean_text": True,
        "compose": False,
        "max_word": MAX_WORD,
        "added": [],
    }


def tokenizer_of(
    vocab: str,
    path: Path,
    lowercase: bool | None,
    simplified: bool,
    startswith: Sequence[str] = SPECIALS[:4],
) -> Tokenizer:
    """The tokenizer that data.vocab names.

    Args:
        vocab: data.vocab: a vocab.txt or tokenizer.json, the directory with one, a run, or the name
            of pretrained weights (genlab.weights.source.find).
        path: Where a file or directory of that name would be, below data.root too.
        lowercase, simplified, startswith: See Tokenizer.from_vocab.

    Raises:
        DataError: The weights have no vocabulary, or that of a run is to be simplified.
        WeightsError: A file cannot be found or read.
    """
    if not path.is_file() and find_vocabulary(path) is None:
        source = find(vocab)
        if source.tokenizer is not None:
            if simplified:
                raise DataError(
                    f"data.simplified=true: the vocabulary of the run {vocab} is used as it is; "
                    "set data.simplified=false"
                )
            return Tokenizer.from_state(source.tokenizer)
        if source.vocab is None:
            raise DataError(
                f"data.vocab={vocab}: these weights come with neither tokenizer.json nor vocab.txt"
            )
        path = source.vocab
    return Tokenizer.from_vocab(path, lowercase, simplified, startswith)


def _spaced(words: list[str]) -> str:
    """Words as one text, with spaces where people write them."""
    spaces = [i and not _touch(words, i) for i in range(len(words))]
    return "".join(" " * bool(space) + word for space, word in zip(spaces, words, strict=True))


def _wide(char: str) -> bool:
    """Whether a character is written without spaces: CJK, kana, and their punctuation.

    Full-width letters and digits are not: they make words.
    """
    if 0xFF00 <= ord(char) <= 0xFFEF:
        return not unicodedata.normalize("NFKC", char).isascii() or not char.isalnum()
    return is_cjk(char) or 0x3000 <= ord(char) <= 0x30FF


def _touch(words: list[str], i: int) -> bool:
    """Whether no space stands between words[i - 1] and words[i]."""
    left = words[i - 1]
    right = words[i]
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
        first, second = (before, right) if left == "&" else (left, after)
        return len(first) <= 2 and len(second) == 1
    if left == ".":  # u.s., example.com
        initials = len(before) == len(right) == 1 and before.isalpha() and right.isalpha()
        return right in DOMAINS or (initials and after in (".", ""))
    return right == "$" and left in CURRENCIES
