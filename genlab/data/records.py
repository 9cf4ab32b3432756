"""Text records as they come: source/target pairs, SQuAD-like question files, and WebQA's question lists."""

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genlab.data.decode import DataError

__all__ = ["Example", "Records", "read_labelled", "read_pairs", "read_squad", "read_webqa"]


@dataclass(frozen=True, slots=True)
class Example:
    """One source to write a target for, or one question with its passages.

    targets[i]: what may be answered out of sources[i], the first being what is trained; () where it has no answer.
    document: examples of one document never come into different splits. labels: what is to steer the text, a value of each
    field of data.fields, "" where it is not told.
    """

    id: str
    sources: tuple[str, ...]
    targets: tuple[tuple[str, ...], ...]
    question: str | None = None
    document: str = ""
    labels: tuple[str, ...] = ()

    @property
    def accepted(self) -> tuple[str, ...]:
        """Every answer that counts as right, each once."""
        return tuple(dict.fromkeys(target for targets in self.targets for target in targets))


@dataclass
class Records:
    """The examples of some files, and (where, why) of each record that was skipped."""

    examples: list[Example] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


Reader = Callable[[Path], Iterator[tuple[str, Callable[[], Example | None]]]]


def read(paths: list[Path], parse: Reader, on_error: str) -> Records:
    """What `parse` finds in `paths`; a bad record raises DataError with its place, or is skipped if on_error says so.

    parse gives (place, a function that makes the example, None to leave it out, or raises ValueError that says why not).
    """
    if on_error not in ("raise", "skip"):
        raise DataError(f"data.on_error={on_error}: expected raise or skip")
    records = Records()
    for path in paths:
        for place, make in parse(path):
            try:
                example = make()
            except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
                why = f"there is no {error}" if isinstance(error, KeyError) else str(error)
                if on_error == "raise":
                    raise DataError(f"{path}:{place}: {why}; data.on_error=skip leaves such records out") from None
                records.skipped.append((f"{path}:{place}", why))
            else:
                records.examples += [] if example is None else [example]
        if not records.examples:
            raise DataError(f"{path}: there is no usable record in it")
    return records


def text_of(path: Path) -> str:
    """The content of a UTF-8 file, gzipped or not, a byte order mark left out."""
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; set data.path (or put it below $GENLAB_DATA)") from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable as UTF-8 text ({error})") from None


def json_of(path: Path) -> Any:
    try:
        return json.loads(text_of(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON ({error.msg}); was it cut off?") from None


def a_text(value: Any, name: str, empty: bool = False) -> str:
    """`value` without the space around it; ValueError unless it is a text."""
    if not isinstance(value, str):
        raise ValueError(f"{name}: expected a text, got {type(value).__name__}")
    if not empty and not value.strip():
        raise ValueError(f"{name}: it is empty")
    return value.strip()


def texts(value: Any, name: str) -> tuple[str, ...]:
    return tuple(a_text(each, name) for each in (value if isinstance(value, list) else [value]))


# --- the formats ---------------------------------------------------------------------------------------------------


def read_pairs(paths: list[Path], on_error: str, source: str | int = "source", target: str | int = "target") -> Records:
    """A pair a line: JSON objects with fields `source` and `target` (a text or a list of them), or, in a file named .tsv,
    tab-separated columns with these numbers from 0 or, where they are names, a first line of names."""

    def pair(place: str, row: list) -> Example:
        given, targets = a_text(row[0], str(source)), texts(row[1], str(target))
        return Example(place, (given,), (targets,), document=given)

    return read_rows(paths, on_error, (source, target), pair, "data.source_field and data.target_field")


def read_labelled(
    paths: list[Path], on_error: str, text: str | int, fields: list[str | int], source: str | int | None = None
) -> Records:
    """A text with its labels a line, and a source that it is written to if there is one; files as in read_pairs.

    A label is a text, number or true or false; null, and in a table nothing, is one that is not told.
    """

    def labelled(place: str, row: list) -> Example:
        wrong = [str(field) for field, value in zip(fields, row[2:], strict=True) if isinstance(value, list | dict)]
        if wrong:
            raise ValueError(f"{wrong[0]}: expected a label, got a list or an object")
        labels = tuple("" if value is None else str(value).strip() for value in row[2:])
        targets = texts(row[0], str(text))
        given = "" if source is None else a_text(row[1], str(source))
        return Example(place, (given,), (targets,), document=given or targets[0], labels=labels)

    keys = (text, text if source is None else source, *fields)
    return read_rows(paths, on_error, keys, labelled, "data.text_field, data.source_field and data.fields")


def read_rows(
    paths: list[Path], on_error: str, keys: tuple[str | int, ...], make: Callable[[str, list], Example], settings: str
) -> Records:
    """make(place, [the values of `keys`]) for each line; settings: where the user says what the keys are."""

    def parse(path: Path) -> Iterator[tuple[str, Callable[[], Example]]]:
        lines = text_of(path).split("\n")
        tsv, wanted, start = path.name.removesuffix(".gz").endswith(".tsv"), keys, 0
        if tsv and isinstance(keys[0], str):
            names, start = lines[0].rstrip("\r").split("\t"), 1
            missing = [str(key) for key in keys if key not in names]
            if missing:
                raise DataError(f"{path}:1: no column {', '.join(missing)} among {', '.join(names)}; set {settings} to "
                                "names or, without a first line of names, to numbers from 0")  # fmt: skip
            wanted = tuple(map(names.index, keys))
        for number, line in enumerate(lines[start:], start + 1):
            if line.strip():
                place = f"{path.name}:{number}"
                yield str(number), lambda line=line, place=place: make(place, values(line, wanted, tsv))

    return read(paths, parse, on_error)


def values(line: str, keys: tuple, tsv: bool) -> list:
    """The values of `keys` on one line of a file."""
    if tsv:
        row: Any = line.rstrip("\r").split("\t")
        if len(row) <= max(keys):
            raise ValueError(f"{len(row)} columns, expected {max(keys) + 1} or more")
    else:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError(f"expected an object with {' and '.join(map(str, dict.fromkeys(keys)))}")
    return [row[key] for key in keys]


def read_squad(paths: list[Path], on_error: str) -> Records:
    """SQuAD 1.1 and 2.0, CMRC 2018 and DRCD files as they are."""

    def parse(path: Path) -> Iterator[tuple[str, Callable[[], Example]]]:
        content = json_of(path)
        if not isinstance(content, dict) or not isinstance(content.get("data"), list):
            raise DataError(f'{path}: expected an object with a list "data", as in SQuAD, CMRC 2018 and DRCD')
        for i, article in enumerate(content["data"]):
            paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
            if not isinstance(paragraphs, list):
                yield f"data[{i}]", lambda: refuse('expected a list "paragraphs"')
                continue
            for j, paragraph in enumerate(paragraphs):
                place = f"data[{i}].paragraphs[{j}]"
                questions = paragraph.get("qas") if isinstance(paragraph, dict) else None
                if not isinstance(questions, list):
                    yield place, lambda: refuse('expected a list "qas"')
                    continue
                for k, item in enumerate(questions):
                    document = f"{article.get('title') or article.get('id') or ''}/{path.name}[{i}]"
                    make = lambda item=item, p=paragraph, d=document, n=f"{i}-{j}-{k}": asked(item, p, d, n)  # noqa: E731
                    yield f"{place}.qas[{k}]", make

    return read(paths, parse, on_error)


def asked(item: dict, paragraph: dict, document: str, number: str) -> Example:
    """The example of one entry of "qas"."""
    context, question = a_text(paragraph["context"], "context"), a_text(item["question"], "question")
    answers = [] if item.get("is_impossible") else item["answers"]
    found = tuple(dict.fromkeys(a_text(answer["text"], "answers") for answer in answers))
    return Example(str(item.get("id", number)), (context,), (found,), question, document)


def read_webqa(paths: list[Path], on_error: str) -> Records:
    """A JSON list of questions, each with passages that have an answer or none ("")."""

    def parse(path: Path) -> Iterator[tuple[str, Callable[[], Example]]]:
        content = json_of(path)
        if not isinstance(content, list):
            raise DataError(f'{path}: expected a list of {{"id", "question", "passages"}}')
        for i, item in enumerate(content):
            yield f"[{i}]", lambda item=item, i=i: listed(item, i)

    return read(paths, parse, on_error)


def listed(item: dict, number: int) -> Example:
    question, passages = a_text(item["question"], "question"), item["passages"]
    if not isinstance(passages, list) or not passages:
        raise ValueError('"passages": expected a list with a passage at least')
    sources = tuple(a_text(each["passage"], "passage") for each in passages)
    answers = dict.fromkeys(a_text(each["answer"], "answer", empty=True) for each in passages)
    # The source lets a passage be answered by another passage's answer, if it stands there too.
    found = tuple(answer for answer in answers if answer)
    return Example(str(item.get("id", number)), sources, (found,) * len(sources), question, question)


def refuse(why: str) -> Example:
    raise ValueError(why)
