"""What text models are given: sources, questions and passages, typed or in a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genlab.data.text.formats import check, json_rows, text_of
from genlab.data.text.records import Example, a_text
from genlab.errors import ConfigError

__all__ = ["read_examples", "read_lines", "read_records"]


def read_examples(settings: Mapping[str, Any]) -> list[Example]:
    """The examples of source=, of question= with passages=, or of the file input=.

    Raises:
        ConfigError: If not exactly one of them is given, or one is not valid text.
    """
    names = ("source", "question", "passages", "input")
    source, question, passages, file = (settings[name] for name in names)
    if sum(given is not None for given in (source, question, file)) != 1:
        raise ConfigError(
            'give one of source="a text", question="..." with passages=["...", "..."], and '
            "input=file.jsonl"
        )
    if (question is None) != (passages is None):
        raise ConfigError(
            "question=, passages=: a question needs passages, and passages a question"
        )
    if file is not None:
        return read_records(Path(file))
    given = source if question is None else passages
    texts = given if isinstance(given, list) else [given]
    try:
        texts = [check(str(text)) for text in texts]
        check(str(question))
    except ValueError as error:
        raise ConfigError(f"source=, question= or passages=: {error}") from None
    if question is not None:
        return [Example("0", tuple(texts), ((),) * len(texts), str(question))]
    return [Example(str(i), (text,), ((),)) for i, text in enumerate(texts)]


def read_records(path: Path) -> list[Example]:
    """The examples of a file of records; `json_rows` says which files it may be.

    A record is {"source"}, {"question", "passages"} or {"question", "context"}, and may have an
    "id"; without one, its line number is its id.

    Raises:
        ConfigError: If a record is none of these; names its line.
    """
    examples = []
    for number, (place, get) in enumerate(json_rows(path), 1):
        try:
            examples.append(_example(get(), place if place.isdigit() else str(number)))
        except ValueError as error:
            raise ConfigError(f"{path}:{place}: {error}") from None
    if not examples:
        raise ConfigError(f"input={path}: the file has no records")
    return examples


def _example(row: dict, number: str) -> Example:
    """The example of one record; ValueError where it is not of a known form."""
    if not {"source", "question"} & row.keys():
        raise ValueError('expected an object with "source", or with "question" and "passages"')
    question = a_text(row["question"], "question") if "question" in row else None
    texts = [row["source"]] if question is None else row.get("passages", [row.get("context")])
    if not isinstance(texts, list) or texts in ([], [None]):
        raise ValueError('"passages": expected a list of texts')
    key = "passages" if question else "source"
    sources = tuple(a_text(text, key) for text in texts)
    return Example(str(row.get("id", number)), sources, ((),) * len(sources), question)


def read_lines(path: Path) -> list[str]:
    """The texts of a file, one a line; ConfigError names a line that is not valid text."""
    lines = []
    for number, line in enumerate(text_of(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            lines.append(check(line))
        except ValueError as error:
            raise ConfigError(f"{path}:{number}: {error}") from None
    return lines
