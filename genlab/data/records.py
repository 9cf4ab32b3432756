"""Text records as they come: source/target pairs, SQuAD-like question files, and WebQA's question lists."""

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genlab.data.decode import DataError

__all__ = ["Example", "Records", "read_pairs", "read_squad", "read_webqa"]


@dataclass(frozen=True, slots=True)
class Example:
    """One source to write a target for, or one question with its passages.

    targets[i]: what may be answered out of sources[i], the first being what is trained; () where it has no answer.
    document: examples of one document never come into different splits.
    """

    id: str
    sources: tuple[str, ...]
    targets: tuple[tuple[str, ...], ...]
    question: str | None = None
    document: str = ""

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

    def parse(path: Path) -> Iterator[tuple[str, Callable[[], Example]]]:
        lines = text_of(path).split("\n")
        tsv = path.name.removesuffix(".gz").endswith(".tsv")
        keys, start = (source, target), 0
        if tsv and isinstance(source, str):
            names, start = lines[0].rstrip("\r").split("\t"), 1
            missing = [key for key in keys if key not in names]
            if missing:
                raise DataError(f"{path}:1: no column {', '.join(map(str, missing))} among {', '.join(names)}; set "
                                "data.source_field and data.target_field to names or, without a first line of names, "
                                "to numbers from 0")  # fmt: skip
            keys = tuple(map(names.index, keys))
        for number, line in enumerate(lines[start:], start + 1):
            if line.strip():
                yield str(number), lambda line=line, number=number: pair(path, number, line, keys, tsv)

    return read(paths, parse, on_error)


def pair(path: Path, number: int, line: str, keys: tuple, tsv: bool) -> Example:
    """The example on one line of a file."""
    if tsv:
        row: Any = line.rstrip("\r").split("\t")
        if len(row) <= max(keys):
            raise ValueError(f"{len(row)} columns, expected {max(keys) + 1} or more")
    else:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError(f"expected an object with {keys[0]} and {keys[1]}")
    source, targets = a_text(row[keys[0]], str(keys[0])), texts(row[keys[1]], str(keys[1]))
    return Example(f"{path.name}:{number}", (source,), (targets,), document=source)


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
