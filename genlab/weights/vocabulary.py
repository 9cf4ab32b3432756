"""The vocabulary beside pretrained weights, and how texts are split for it: vocab.txt,
tokenizer.json and their configs.
"""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from genlab.weights.source import VOCABULARIES, WeightsError

__all__ = ["read_tokenizer", "read_vocab", "vocabulary_in"]

NAMES = {  # the keys of special tokens -> what they are called here
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
# Classes of transformers, with and without Fast behind the name, that split as BERT's; then those
# that obey tokenizer.json.
BERTS = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer")
GENERAL = ("PreTrainedTokenizer", "TokenizersBackend")


class Schema(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class Added(Schema):
    """A token that is found in a text before it is split."""

    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = True
    special: bool = False


class Numbered(Added):
    id: int = Field(ge=0)


Special = str | Added | None


class TokenizerConfig(Schema):
    """What is read of a tokenizer_config.json."""

    tokenizer_class: str | None = None
    do_lower_case: bool | None = None
    strip_accents: bool | None = None
    tokenize_chinese_chars: bool | None = None
    do_basic_tokenize: bool | None = None
    never_split: list[str] | None = None
    pad_token: Special = None
    unk_token: Special = None
    cls_token: Special = None
    sep_token: Special = None
    mask_token: Special = None
    added_tokens_decoder: dict[str, Added] = {}


class Part(Schema):
    """A normalizer or pre-tokenizer; the flags are BertNormalizer's."""

    type: str
    lowercase: bool = False
    strip_accents: bool | None = None
    handle_chinese_chars: bool = False
    clean_text: bool = False
    normalizers: list["Part"] = []


class WordPiece(Schema):
    vocab: dict[str, int]
    type: str = "WordPiece"  # old files do not say it
    continuing_subword_prefix: str = "##"
    max_input_chars_per_word: int = Field(100, ge=1)


class TokenizerFile(Schema):
    """What is read of a tokenizer.json."""

    model: WordPiece
    normalizer: Part | None = None
    pre_tokenizer: Part | None = None
    added_tokens: list[Numbered] = []


Kind = TypeVar("Kind", bound=Schema)


def parsed(path: Path, kind: type[Kind]) -> Kind:
    """The JSON file as `kind`; WeightsError naming the key that is wrong."""
    try:
        return kind.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        raise WeightsError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: not readable as JSON ({error})") from None


def vocabulary_in(folder: Path) -> Path | None:
    """The file of a directory that has the vocabulary: the one that transformers reads, too; None
    if there is none.
    """
    return next((folder / file for file in VOCABULARIES if (folder / file).is_file()), None)


def read_vocab(path: str | Path) -> list[str]:
    """The tokens of a vocab.txt or tokenizer.json in the order of their ids; WeightsError if it
    cannot be read.
    """
    return read_tokenizer(path)[0]


def read_tokenizer(path: str | Path) -> tuple[list[str], dict[str, Any]]:
    """The vocabulary of a file and the options for it, so that texts become the tokens that
    transformers makes of them.

    Args:
        path: a vocab.txt or a tokenizer.json, beside which there may be a tokenizer_config.json.

    Returns:
        (the tokens in the order of their ids, special ones under BERT's names; arguments of
        Tokenizer, of which there are none for a bare vocab.txt).

    Raises:
        WeightsError: a file cannot be read, or texts would be split in a way that there is not
        here.
    """
    path = Path(path)
    beside = path.with_name("tokenizer_config.json")
    config = parsed(beside, TokenizerConfig) if beside.is_file() else None
    if config is not None:
        refuse_others(beside, config)
    if path.suffix == ".json":
        file = parsed(path, TokenizerFile)
        ids, options = of_file(path, file)
        numbered = {
            token.id: Added.model_validate(token.model_dump(exclude={"id"}))
            for token in file.added_tokens
        }
    else:
        ids, options, numbered = dict(enumerate(lines_of(path))), {}, {}
    if config is not None:
        numbered |= {
            int(i): token for i, token in config.added_tokens_decoder.items() if i.isdecimal()
        }
        if not options or (config.tokenizer_class or "").removesuffix("Fast") in BERTS:
            options |= of_config(config)
    ids |= {i: token.content for i, token in numbered.items()}
    if sorted(ids) != list(range(len(ids))):
        raise WeightsError(
            f"{path}: expected ids from 0 on without gaps, found {len(ids)} up to {max(ids, default=0)}"
        )
    names = {} if config is None else special_names(beside, config, set(ids.values()))
    vocab = [names.get(ids[i], ids[i]) for i in range(len(ids))]
    added = [
        token
        for token in numbered.values()
        if names.get(token.content, token.content) not in NAMES.values()
    ]
    return vocab, options | ({"added": [token.model_dump() for token in added]} if added else {})


def lines_of(path: Path) -> list[str]:
    """The lines of a vocab.txt."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(
            f"{path}: not readable as a vocabulary ({error}); expected UTF-8, one token a line"
        ) from None
    # Not splitlines: U+2028 is a token of the Chinese vocabulary.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def refuse_others(path: Path, config: TokenizerConfig) -> None:
    """WeightsError for a tokenizer that does what there is not here."""
    kind = (config.tokenizer_class or BERTS[0]).removesuffix("Fast")
    wrong = {
        "tokenizer_class": kind not in (*BERTS, *GENERAL),
        "do_basic_tokenize": config.do_basic_tokenize is False,
        "never_split": bool(set(config.never_split or ()) - set(NAMES.values())),
    }
    for key in (key for key, is_wrong in wrong.items() if is_wrong):
        raise WeightsError(f"{path}: {key}={getattr(config, key)}: these weights read texts in another way than BERT's "
                           f"tokenizer, which is the one there is; expected {key} of a BERT")  # fmt: skip


def of_config(config: TokenizerConfig) -> dict[str, Any]:
    """The options that transformers' BertTokenizer takes from a tokenizer_config.json."""
    lowercase = config.do_lower_case is not False
    return {
        "lowercase": lowercase,
        "strip_accents": config.strip_accents,
        "chinese_chars": config.tokenize_chinese_chars is not False,
        "clean_text": True,
        "compose": False,
        "max_word": 100,
    }


def of_file(path: Path, file: TokenizerFile) -> tuple[dict[int, str], dict[str, Any]]:
    """(id -> token, options) of a tokenizer.json."""
    parts = [] if file.normalizer is None else file.normalizer.normalizers or [file.normalizer]
    kinds = [part.type for part in parts]
    splitter = "nothing" if file.pre_tokenizer is None else file.pre_tokenizer.type
    expected = {
        "model.type": (file.model.type, ("WordPiece",)),
        "model.continuing_subword_prefix": (file.model.continuing_subword_prefix, ("##",)),
        "normalizer": (" + ".join(kinds), ("", "BertNormalizer", "NFC + BertNormalizer")),
        "pre_tokenizer": (splitter, ("BertPreTokenizer",)),
    }
    for key, (found, allowed) in expected.items():
        if found not in allowed:
            raise WeightsError(f"{path}: {key}: {found}: expected {allowed[-1]}, as BERT's")
    bert = parts[-1] if parts else Part(type="none", strip_accents=False)
    return {i: token for token, i in file.model.vocab.items()}, {
        "lowercase": bert.lowercase,
        "strip_accents": bert.strip_accents,
        "chinese_chars": bert.handle_chinese_chars,
        "clean_text": bert.clean_text,
        "compose": len(parts) > 1,
        "max_word": file.model.max_input_chars_per_word,
    }


def special_names(path: Path, config: TokenizerConfig, known: set[str]) -> dict[str, str]:
    """Other names of special tokens -> BERT's."""
    names = {}
    for key, ours in NAMES.items():
        value = getattr(config, key)
        theirs = value.content if isinstance(value, Added) else value
        if theirs is None or theirs == ours:
            continue
        if theirs not in known or ours in known:
            raise WeightsError(
                f"{path}: {key}={theirs}: expected a token of the vocabulary, in which {ours} is no other"
            )
        names[theirs] = ours
    return names
