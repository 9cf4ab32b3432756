"""Reading the vocabulary of pretrained weights, and how texts are split for it.

The files are vocab.txt or tokenizer.json, with a tokenizer_config.json beside it.
"""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from genlab.weights.source import VOCABULARIES, WeightsError

__all__ = ["find_vocabulary", "read_tokenizer", "read_vocab"]

NAMES = {  # keys of special tokens -> their names in genlab
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
# Classes of transformers, without Fast behind the name, that split as BERT's
BERTS = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer")
# Classes that split as their tokenizer.json says
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
    """The keys of a tokenizer_config.json that are read."""

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
    type: str = "WordPiece"  # missing in old files
    continuing_subword_prefix: str = "##"
    max_input_chars_per_word: int = Field(100, ge=1)


class TokenizerFile(Schema):
    """The keys of a tokenizer.json that are read."""

    model: WordPiece
    normalizer: Part | None = None
    pre_tokenizer: Part | None = None
    added_tokens: list[Numbered] = []


Kind = TypeVar("Kind", bound=Schema)


def parse(path: Path, kind: type[Kind]) -> Kind:
    """The content of a JSON file; WeightsError names the key that is wrong."""
    try:
        return kind.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        raise WeightsError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: not readable as JSON ({error})") from None


def find_vocabulary(folder: Path) -> Path | None:
    """The file of a directory that holds the vocabulary, by the order of transformers, or None."""
    return next((folder / file for file in VOCABULARIES if (folder / file).is_file()), None)


def read_vocab(path: str | Path) -> list[str]:
    """The tokens of a vocab.txt or tokenizer.json by id; see read_tokenizer."""
    return read_tokenizer(path)[0]


def read_tokenizer(path: str | Path) -> tuple[list[str], dict[str, Any]]:
    """A vocabulary, and the options with which texts become the tokens of transformers.

    Args:
        path: A vocab.txt or a tokenizer.json, which may have a tokenizer_config.json beside it.

    Returns:
        The tokens by id, special ones under BERT's names; and arguments of Tokenizer, none for a
        vocab.txt alone.

    Raises:
        WeightsError: A file cannot be read, or splits texts in a way that genlab does not have.
    """
    path = Path(path)
    config_path = path.with_name("tokenizer_config.json")
    config = parse(config_path, TokenizerConfig) if config_path.is_file() else None
    if config is not None:
        refuse_others(config_path, config)
    added: dict[int, Added] = {}
    if path.suffix == ".json":
        file = parse(path, TokenizerFile)
        ids = {i: token for token, i in file.model.vocab.items()}
        options = read_options(path, file)
        for token in file.added_tokens:
            added[token.id] = Added.model_validate(token.model_dump(exclude={"id"}))
    else:
        ids = dict(enumerate(read_lines(path)))
        options = {}
    if config is not None:
        for i, token in config.added_tokens_decoder.items():
            if i.isdecimal():
                added[int(i)] = token
        if not options or (config.tokenizer_class or "").removesuffix("Fast") in BERTS:
            options |= options_of(config)
    ids |= {i: token.content for i, token in added.items()}
    if sorted(ids) != list(range(len(ids))):
        raise WeightsError(
            f"{path}: expected ids from 0 on without gaps, found {len(ids)} ids up to "
            f"{max(ids, default=0)}"
        )
    names = {} if config is None else special_names(config_path, config, set(ids.values()))
    vocab = [names.get(ids[i], ids[i]) for i in range(len(ids))]
    ordinary = [
        token.model_dump()
        for token in added.values()
        if names.get(token.content, token.content) not in NAMES.values()
    ]
    return vocab, options | ({"added": ordinary} if ordinary else {})


def read_lines(path: Path) -> list[str]:
    """The lines of a vocab.txt."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(
            f"{path}: not readable as a vocabulary ({error}); expected UTF-8, one token a line"
        ) from None
    # splitlines would split at U+2028, which is a token of the Chinese vocabulary.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def refuse_others(path: Path, config: TokenizerConfig) -> None:
    """WeightsError for a tokenizer that splits texts in a way that genlab does not have."""
    kind = (config.tokenizer_class or BERTS[0]).removesuffix("Fast")
    is_other = {
        "tokenizer_class": kind not in (*BERTS, *GENERAL),
        "do_basic_tokenize": config.do_basic_tokenize is False,
        "never_split": bool(set(config.never_split or ()) - set(NAMES.values())),
    }
    for key, other in is_other.items():
        if other:
            raise WeightsError(
                f"{path}: {key}={getattr(config, key)}: expected BERT's tokenizer, the only one "
                "that genlab has"
            )


def options_of(config: TokenizerConfig) -> dict[str, Any]:
    """The arguments of Tokenizer with which it does what transformers' BertTokenizer does."""
    lowercase = config.do_lower_case is not False
    return {
        "lowercase": lowercase,
        "strip_accents": config.strip_accents,
        "chinese_chars": config.tokenize_chinese_chars is not False,
        "clean_text": True,
        "compose": False,
        "max_word": 100,
    }


def read_options(path: Path, file: TokenizerFile) -> dict[str, Any]:
    """The arguments of Tokenizer out of a tokenizer.json."""
    normalizers: list[Part] = []
    if file.normalizer is not None:
        normalizers = file.normalizer.normalizers or [file.normalizer]
    found = {
        "model.type": file.model.type,
        "model.continuing_subword_prefix": file.model.continuing_subword_prefix,
        "normalizer": " + ".join(part.type for part in normalizers),
        "pre_tokenizer": "nothing" if file.pre_tokenizer is None else file.pre_tokenizer.type,
    }
    allowed = {
        "model.type": ("WordPiece",),
        "model.continuing_subword_prefix": ("##",),
        "normalizer": ("", "BertNormalizer", "NFC + BertNormalizer"),
        "pre_tokenizer": ("BertPreTokenizer",),
    }
    for key, value in found.items():
        if value not in allowed[key]:
            raise WeightsError(
                f"{path}: {key}: expected {' or '.join(filter(None, allowed[key]))}, as in BERT's "
                f"tokenizer, found {value}"
            )
    bert = normalizers[-1] if normalizers else Part(type="none", strip_accents=False)
    return {
        "lowercase": bert.lowercase,
        "strip_accents": bert.strip_accents,
        "chinese_chars": bert.handle_chinese_chars,
        "clean_text": bert.clean_text,
        "compose": len(normalizers) > 1,
        "max_word": file.model.max_input_chars_per_word,
    }


def special_names(path: Path, config: TokenizerConfig, known: set[str]) -> dict[str, str]:
    """The special tokens with another name than BERT's: that name -> BERT's."""
    names = {}
    for key, ours in NAMES.items():
        value = getattr(config, key)
        theirs = value.content if isinstance(value, Added) else value
        if theirs is None or theirs == ours:
            continue
        if theirs not in known or ours in known:
            raise WeightsError(
                f"{path}: {key}={theirs}: expected a token of the vocabulary, and no other token "
                f"{ours} in it"
            )
        names[theirs] = ours
    return names
